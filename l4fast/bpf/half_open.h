/* What a SYN chose, until its flow becomes a session: for schedulers that a hash cannot repeat. (fullnat has more to
 * remember, and tables of its own: ports.h.)
 *
 * A flood of SYNs writes here with every packet, so that the kernel's LRU table will not do: it costs 400 ns when full, this
 * one costs 20. `half_open` is an array of buckets, each a cache line with SYN_WAYS flows, the newest first; one more pushes the
 * oldest out. A flow is known by a 64-bit hash of all that it is, under a seed of this process. Nothing is locked: an entry's first word is stored as
 * hash ^ second word, so that two words which two CPUs wrote belong to no flow (as chess programs do, Hyatt and Mann 2002).
 * What may be lost by it is an entry, and with that its flow goes by hash, as after an eviction.
 */
#define SYN_SEQUENCE 32 /* shift: host order, of the SYN */
#define SYN_MEMBER 16   /* shift: index into `members` */
#define SYN_SECOND 8    /* shift: the low eight bits of the second in which it came */
#define SYN_HERE 1      /* never zero */

static __always_inline __u64 flow_id(const struct session_key *key)
{
    __u64 h = LOADED(SYN_SEED) ^ ((__u64)key->client.word[0] << 32 | *(__u32 *)&key->client_port);

    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdULL;
#if IP_VERSION == 6
    h ^= h >> 33 ^ ((__u64)key->client.word[2] << 32 | key->client.word[1]);
    h *= 0x9e3779b97f4a7c15ULL;
    h ^= h >> 33 ^ ((__u64)key->vip.word[3] << 32 | key->client.word[3]);
    h *= 0x9e3779b97f4a7c15ULL;
    h ^= (__u64)key->vip.word[2] << 32 | key->vip.word[1];
    h *= 0x9e3779b97f4a7c15ULL;
#endif
    h ^= h >> 33 ^ ((__u64)key->vip.word[0] << 8 | key->protocol);
    h *= 0xc4ceb9fe1a85ec53ULL;
    return h ^ h >> 33;
}

static __always_inline struct syn_bucket *syns_of(__u64 id)
{
    int index = (id >> 32) * LOADED(SYN_BUCKETS) >> 32;

    return half_open.lookup(&index);
}

/* The flow's entry; 0: there is none. */
static __always_inline __u64 find_syn(const struct session_key *key)
{
    __u64 id = flow_id(key), found = 0;
    const struct syn_bucket *bucket = syns_of(id);
    int way;

    if (!bucket)
        return 0;
#pragma unroll
    for (way = SYN_WAYS - 1; way >= 0; way--) {
        __u64 entry = bucket->entry[way];

        if (entry && (bucket->id[way] ^ entry) == id)
            found = entry;
    }
    return found;
}

static __always_inline void put_syn(const struct session_key *key, __u64 entry)
{
    __u64 id = flow_id(key);
    struct syn_bucket *bucket = syns_of(id);
    int way;

    if (!bucket)
        return;
#pragma unroll
    for (way = SYN_WAYS - 1; way > 0; way--) {
        bucket->id[way] = bucket->id[way - 1];
        bucket->entry[way] = bucket->entry[way - 1];
    }
    bucket->id[0] = id ^ entry;
    bucket->entry[0] = entry;
}

/* The flow has become a session: what all its SYNs left goes. */
static __always_inline void drop_syn(const struct session_key *key)
{
    __u64 id = flow_id(key);
    struct syn_bucket *bucket = syns_of(id);
    int way;

    if (!bucket)
        return;
#pragma unroll
    for (way = 0; way < SYN_WAYS; way++)
        if ((bucket->id[way] ^ bucket->entry[way]) == id)
            bucket->entry[way] = 0;
}

static __always_inline __u64 syn_entry(const struct packet *p, __u16 member, const struct settings *settings)
{
    return (__u64)bpf_ntohl(p->sequence) << SYN_SEQUENCE | (__u64)member << SYN_MEMBER |
           (settings->now_s & 0xff) << SYN_SECOND | SYN_HERE;
}

static __always_inline __u16 syn_member(__u64 syn)
{
    return syn >> SYN_MEMBER;
}

static __always_inline __u32 syn_sequence(__u64 syn)
{
    return syn >> SYN_SEQUENCE;
}

/* Came in this second, or in another of its number. */
static __always_inline int syn_of_now(__u64 syn, const struct settings *settings)
{
    return (__u8)(syn >> SYN_SECOND) == (__u8)settings->now_s;
}
