/* Telling the peers: records are staged in this CPU's page, and a full page becomes one ring-buffer record, which the
 * daemon seals and sends as one datagram. Nothing waits: what the ring does not take is counted and told again later.
 *
 * Many sessions have the same VIP and one of few reals: a page has each of these ends once, and records have their places.
 * Where an end is, a hint remembers, by its hash. Hints are never cleared: the place they lead to is compared, and an end
 * that is not found is entered, at worst a second time.
 *
 * XDP programs are not interrupted by other XDP programs on their CPU, so that a page needs no lock. Should `flush` be
 * interrupted between its output and its reset (kernels before 6.11), the records appended then are lost until their
 * refresh.
 */

static __always_inline void emit(struct page *page, struct stats *stats)
{
    if (sync_ring.ringbuf_output(page, __builtin_offsetof(struct page, hint), 0))
        stats->count[EVENT_SYNC_LOST] += page->count;
    page->count = 0;
    page->ends = 0;
}

/* Port, protocol and mode of an end, as they stand there. */
static __always_inline __u32 with_port(__be16 port, __u8 protocol, __u8 mode)
{
    struct end end = {.port = port, .protocol = protocol, .mode = mode};

    return *(__u32 *)&end.port;
}

static __always_inline __u8 *hint_of(struct page *page, const struct address *address, __u32 rest)
{
    __u32 word = rest, i;

#pragma unroll
    for (i = 0; i < ADDRESS_WORDS; i++)
        word ^= address->word[i];
    return &page->hint[word * 0x9E3779B1 >> (32 - PAGE_HINTS_BITS)]; /* Fibonacci hashing */
}

/* 1: `a` is less than `b`, neither of which is large; else 0. These are sums without branches, each of which doubles what
 * the verifier has to look at. */
static __always_inline __u32 less(__u32 a, __u32 b)
{
    return (a - b) >> 31;
}

/* 1: the end is not in the page, or where its hint does not lead; else 0. */
static __always_inline __u32 missing(struct page *page, const struct address *address, __u32 rest)
{
    __u32 place = *hint_of(page, address, rest) & (PAGE_ENDS - 1), i;
    const struct end *end = &page->end[place];
    __u32 difference = *(__u32 *)&end->port ^ rest;

#pragma unroll
    for (i = 0; i < ADDRESS_WORDS; i++)
        difference |= end->address.word[i] ^ address->word[i];
    return (difference | -difference) >> 31 | (less(place, page->ends) ^ 1);
}

/* The end's place, where it is from now on. There is room for it. */
static __always_inline __u32 enter_end(struct page *page, const struct address *address, __u32 rest)
{
    __u8 *hint = hint_of(page, address, rest);
    __u32 place = *hint, lacks = missing(page, address, rest);

    place = (place ^ ((place ^ page->ends) & -lacks)) & (PAGE_ENDS - 1);
    page->end[place].address = *address;
    *(__u32 *)&page->end[place].port = rest;
    *hint = place;
    page->ends += lacks;
    return place;
}

/* 0: so many more ends and records fit. */
static __always_inline __u32 too_many(const struct page *page, __u32 ends, __u32 records)
{
    ends += page->ends;
    records += page->count;
    return less(PAGE_ENDS, ends) |
           less(PAGE_BODY, sizeof(page->last_s) + ends * sizeof(struct end) + records * sizeof(struct told));
}

/* The next record's place; the last one, should there be no more. */
static __always_inline struct told *add_record(struct page *page)
{
    __u32 i = page->count;

    if (i >= PAGE_RECORDS)
        i = PAGE_RECORDS - 1;
    page->count = i + 1;
    return &page->told[i];
}

/* A record of this session; in fullnat one of each direction. All of a page are of one second. */
static __always_inline void stage(const struct session_key *key, const struct session *s, struct stats *stats)
{
    int zero = 0, fullnat = s->mode == MODE_FULLNAT;
    struct page *page = cpu_page.lookup(&zero);
    const struct address *source = fullnat ? &s->source : &s->real;
    __u32 vip_rest = with_port(key->vip_port, key->protocol, s->mode), real_rest = with_port(s->real_port, 0, 0);
    __u32 source_rest = fullnat ? with_port(s->source_port, 0, 0) : real_rest;
    __be32 last_s = bpf_htonl(s->last_s);
    struct told *told;

    if (!page)
        return;
    if (page->count &&
        (page->last_s ^ last_s |
         too_many(page, missing(page, &key->vip, vip_rest) + missing(page, &s->real, real_rest) +
                  missing(page, source, source_rest), 1 + fullnat)))
        emit(page, stats);
    page->last_s = last_s;
    told = add_record(page);
    told->client = key->client;
    told->packets = bpf_htonl(s->packets);
    told->bytes_low = bpf_htonl((__u32)s->bytes);
    told->bytes_high = bpf_htons((__u16)(s->bytes >> 32));
    told->client_port = key->client_port;
    told->vip = enter_end(page, &key->vip, vip_rest);
    told->real = enter_end(page, &s->real, real_rest);
    told->source = enter_end(page, source, source_rest);
    told->state = s->state;
    if (fullnat) {
        struct told *answer = add_record(page);

        *answer = *told;
        answer->state = STATE_ANSWER;
    }
    stats->count[EVENT_SYNC_STAGED] += 1 + fullnat;
    if (too_many(page, 0, 1))
        emit(page, stats);
}

/* A session's packets have reached the threshold, its state has changed or its refresh is due: when this packet's fate is
 * known, `tell` will say so. */
static __always_inline void to_tell(const struct session_key *key, struct session *s, struct stats *stats, __u32 now_s)
{
    int zero = 0;
    struct telling *telling;

    if (s->packets < SYNC_PACKETS)
        return;
    if (s->state == STATE_ANSWER)
        return;
    s->sync_due_s = now_s + s->refresh_s;
    telling = tellings.lookup(&zero);
    if (!telling)
        return;
    telling->key = *key;
    stats->tell = 1;
}
