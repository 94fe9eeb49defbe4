/* Which real a flow goes to, and when it becomes a session.
 *
 * maglev     the flow's hash picks the slot: every packet of a flow finds the same real, on every node, without state
 * sh, tch    the same with a hash of less: the client's address alone; addresses and ports without the protocol
 * lc, wlc    see least.h; otherwise as rr and wrr
 * rr, wrr    the listener's cursor walks the ring; the choice of a SYN is kept in `half_open`, and a packet that finds
 *            neither session nor half-open entry is forwarded by hash over the ring, as good a guess as any; while
 *            peers may know better (settings.lacking), it is dropped
 *
 * TCP sessions. A SYN makes none. A non-SYN packet that follows a half-open SYN in sequence makes an ESTABLISHED one. In
 * maglev there is no such entry, and in dr and tunnel no answer to see: a bare ACK makes an UNPROVEN session, of which there are
 * so many a second and which live for seconds; the client's next packet establishes it. Two forged packets can do that,
 * here as in any balancer that does not see the answers; what they cannot do is evict a session: when the table is full,
 * flows are forwarded by hash. UDP sessions are made by the first packet.
 */
#define SEQUENCE_WINDOW 0x10000 /* how far from its SYN a flow's next packet may be: a first, unscaled window */

/* Knuth's multiplicative hash (2^32 / golden ratio); the high eleven bits are the best. Python takes the same slot. */
static __always_inline __u32 vip_slot(struct address a)
{
    __u32 word = a.word[0];

#if IP_VERSION == 6
    word ^= a.word[1] ^ a.word[2] ^ a.word[3];
#endif
    return word * 0x9e3779b1u >> 21;
}

/* Answers and the node's own traffic, whose destination is no VIP, are spared two look-ups: rarely is it not 0 for them.
 * Otherwise VIP_ANY, and VIP_STATELESS for the VIP of a listener that keeps no session (and rarely for another). */
static __always_inline __u32 may_be_vip(const struct settings *settings, struct address address)
{
    __u32 slot = vip_slot(address);

    return settings->vip_filter[slot / 16] >> slot % 16 * 2 & (VIP_ANY | VIP_STATELESS);
}

/* A client's address (its high half and its low one are mixed in turn), ports, VIP and protocol, under the cluster's seed,
 * lest a stranger choose flows that all go to one server. */
static __always_inline __u64 flow_words(const struct session_key *key, const struct listener *listener)
{
    __u32 ports = *(__u32 *)&key->client_port & listener->hash_ports;
    __u64 service, h;

#if IP_VERSION == 4
    service = (__u64)key->vip.word[0] << 8 | key->protocol;
    h = ((__u64)key->client.word[0] << 32 | ports) ^ listener->seed;
#else
    service = (key->vip.word[0] * 0x9e3779b97f4a7c15ULL + ((__u64)key->vip.word[1] << 32 | key->vip.word[2])) ^
              key->vip.word[3];
    service = service << 8 | key->protocol;
    h = ((__u64)key->client.word[1] << 32 | key->client.word[0]) ^ listener->seed;
    h *= 0x9e3779b97f4a7c15ULL;
    h ^= h >> 32;
    h ^= (__u64)key->client.word[3] << 32 | key->client.word[2];
    h *= 0x9e3779b97f4a7c15ULL;
    h ^= h >> 32 ^ ports;
#endif
    return h ^ (service & listener->hash_service);
}

/* A 64-bit mix, murmur3's finaliser (fmix64); the table's size is reached by multiplication and not by modulo. */
static __always_inline __u32 flow_slot(const struct session_key *key, const struct listener *listener)
{
    __u64 h = flow_words(key, listener);

    h ^= h >> 33;
    h *= 0xff51afd7ed558ccdULL;
    h ^= h >> 33;
    h *= 0xc4ceb9fe1a85ec53ULL;
    h ^= h >> 33;
    return (h & 0xffffffff) * listener->ring_size >> 32;
}

static __always_inline __u32 next_slot(const struct listener *listener)
{
    int index = listener->index;
    struct listener_stats *stats = listener_stats.lookup(&index);
    __u32 slot;

    if (!stats)
        return 0;
    slot = stats->cursor;
    if (slot >= listener->ring_size)
        slot = 0;
    stats->cursor = slot + 1;
    return slot;
}

static __always_inline __u32 new_flow_slot(const struct session_key *key, const struct listener *listener)
{
    return listener->scheduler == SCHEDULER_HASH ? flow_slot(key, listener) : next_slot(listener);
}

/* The part of the listener's ring that holds a slot. */
static __always_inline struct ring_chunk *chunk_of(const struct listener *listener, __u32 slot)
{
    int index = listener->ring;
    int chunk_index = slot / RING_CHUNK;
    void *ring;

    if (!listener->ring_size)
        return NULL;
    ring = rings.lookup(&index);
    return ring ? bpf_map_lookup_elem(ring, &chunk_index) : NULL;
}

/* The member in a slot of the listener's ring; negative: there is none. */
static __always_inline int ring_member(const struct listener *listener, __u32 slot)
{
    struct ring_chunk *chunk = chunk_of(listener, slot);

    return chunk ? chunk->member[slot % RING_CHUNK] : -1;
}

/* The index of a real among the listener's members; 0: it is none of them. */
static __always_inline __u16 member_of(const struct listener *listener, struct address real, __be16 port)
{
    struct member_key key = {.real = real, .port = port, .listener = listener->index};
    struct member_number *number = member_numbers.lookup(&key);

    return number ? number->member : 0;
}

static __always_inline void new_session(struct session *s, const struct packet *p, const struct listener *listener,
                                        const struct member *member, int index, const struct settings *settings)
{
    s->bytes = p->length;
    s->packets = 1;
    s->last_s = settings->now_s;
    s->real = member->real;
    s->source = (struct address){};
    s->real_port = member->port;
    s->member = index;
    s->generation = settings->generation;
    s->counted = 0;
    s->sync_due_s = SYNC_NOT_YET;
    s->hop = member->hop;
    s->refresh_s = listener->refresh_s;
    s->mode = listener->mode;
    s->state = 0;
    s->learnt = 0;
    s->limited = !!(listener->limited & LIMITED_BANDWIDTH);
    s->source_port = 0;
    prepare(s, &p->key);
}

/* The session of a flow that goes to this member, not yet entered anywhere. */
static __always_inline enum reason session_to(int index, struct session *s, const struct packet *p,
                                              const struct listener *listener, const struct settings *settings)
{
    struct member *member;

    if (listener->here && from_node(p))
        index = listener->here;
    if (index < 0)
        return DROP_NO_REAL;
    member = members.lookup(&index);
    if (!member)
        return DROP_INTERNAL;
    if (!next_hop(member->hop))
        return DROP_NO_NEIGHBOUR;
    new_session(s, p, listener, member, index, settings);
    return LB_NEXT;
}

#define EEXIST 17 /* <asm-generic/errno-base.h> */

/* Enters the session. Says whether it did: there was room, and no other CPU was faster. */
static __always_inline int enter(struct packet *p, struct session *s, enum state state, struct stats *stats)
{
    int index = s->member, error;
    struct member_stats *of_member;

    s->state = state;
    error = sessions.insert(&p->key, s);
    if (error) {
        stats->count[EVENT_TABLE_FULL] += error != -EEXIST;
        return 0;
    }
    of_member = member_stats.lookup(&index);
    if (of_member)
        of_member->sessions_made++;
    return 1;
}

/* Whether this CPU may make another UNPROVEN session in this second. */
static __always_inline int unproven_allowed(struct stats *stats, const struct settings *settings)
{
    if (within(&stats->unproven, settings->unproven_per_cpu_s, settings->now_s))
        return 1;
    stats->count[EVENT_UNPROVEN_LIMIT]++;
    return 0;
}

/* Combinations that no TCP sends to a server. */
static __always_inline int bad_flags(__u8 flags)
{
    if (flags & TCP_SYN)
        return flags & (TCP_FIN | TCP_RST | TCP_ACK);
    return !(flags & (TCP_ACK | TCP_RST));
}

/* Among others the VIP itself (a "land" packet). */
static __always_inline int bad_source(const struct session_key *key)
{
    return never_a_client(key->client) || same_address(key->client, key->vip);
}

/* In sequence after the SYN: what follows it at most a first window later. */
static __always_inline int follows(__u32 syn_sequence, const struct packet *p)
{
    __u32 distance = bpf_ntohl(p->sequence) - syn_sequence;

    return distance >= 1 && distance <= SEQUENCE_WINDOW;
}
