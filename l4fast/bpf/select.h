/* Which real a flow goes to, and when it becomes a session.
 *
 * maglev     the flow's hash picks the slot: every packet of a flow finds the same real, on every node, without state
 * sh, tch    the same with a hash of less: the client's address alone; addresses and ports without the protocol
 * lc, wlc    see least.h; otherwise as rr and wrr
 * rr, wrr    the listener's cursor walks the ring; the choice of a SYN is kept in `half_open`, and a packet that finds
 *            neither session nor half-open entry is forwarded by hash over the ring, as good a guess as any
 *
 * TCP sessions. A SYN makes none. A non-SYN packet that follows a half-open SYN in sequence makes an ESTABLISHED one. In
 * maglev there is no such entry, and in dr and tunnel no answer to see: a bare ACK makes an UNPROVEN session, of which there are
 * so many a second and which live for seconds; the client's next packet establishes it. Two forged packets can do that,
 * here as in any balancer that does not see the answers; what they cannot do is evict a session: when the table is full,
 * flows are forwarded by hash. UDP sessions are made by the first packet.
 */
#define SEQUENCE_WINDOW 0x10000 /* how far from its SYN a flow's next packet may be: a first, unscaled window */

/* Knuth's multiplicative hash (2^32 / golden ratio); the high eleven bits are the best. Python takes the same slot. */
static __always_inline __u32 vip_slot(__be32 address)
{
    return address * 0x9e3779b1u >> 21;
}

/* Answers and the node's own traffic, whose destination is no VIP, are spared two look-ups: rarely is it not 0 for them.
 * Otherwise VIP_ANY, and VIP_STATELESS for the VIP of a listener that keeps no session (and rarely for another). */
static __always_inline __u32 may_be_vip(const struct settings *settings, __be32 address)
{
    __u32 slot = vip_slot(address);

    return settings->vip_filter[slot / 16] >> slot % 16 * 2 & (VIP_ANY | VIP_STATELESS);
}

/* A 64-bit mix of murmur3's finaliser (fmix64); the table's size is reached by multiplication and not by modulo. */
static __always_inline __u32 flow_slot(const struct session_key *key, const struct listener *listener)
{
    __u64 flow = (__u64)key->client << 32 | *(__u32 *)&key->client_port;
    __u64 service = (__u64)key->vip << 8 | key->protocol;
    __u64 h = (flow & listener->hash_flow) ^ (service & listener->hash_service);

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

/* The real in a slot of the listener's ring, as an index; negative: there is none. */
static __always_inline int ring_real(const struct listener *listener, __u32 slot)
{
    struct ring_chunk *chunk = chunk_of(listener, slot);
    struct member *member;
    int entry;

    if (!chunk)
        return -1;
    entry = chunk->real[slot % RING_CHUNK];
    if (listener->scheduler != SCHEDULER_LEAST)
        return entry;
    member = members.lookup(&entry);
    return member ? member->real : -1;
}

/* Whether the MAC address on the way to it is known. */
static __always_inline int resolved(const struct real *real)
{
    return known_mac(real->mac);
}

static __always_inline void new_session(struct session *s, const struct packet *p, const struct listener *listener,
                                        const struct real *real, const struct settings *settings)
{
    s->bytes = p->length;
    s->packets = 1;
    s->last_s = settings->now_s;
    s->real = real->address;
    s->real_port = real->port;
    s->l3_delta = l3_delta(p->key.vip, real->address);
    s->l4_delta = l4_delta(p->key.vip, real->address, p->key.vip_port, real->port);
    s->listener = listener->index;
    s->generation = settings->generation;
    s->load = 0;
    s->sync_due_s = SYNC_NOT_YET;
    __builtin_memcpy(s->mac, real->mac, ETH_ALEN);
    s->refresh_s = listener->refresh_s;
    s->mode = listener->mode;
    s->state = 0;
    s->learnt = 0;
    s->source_port = 0;
}

/* The session of a flow that goes to this real, not yet entered anywhere. */
static __always_inline enum reason session_to(int index, struct session *s, const struct packet *p,
                                              const struct listener *listener, const struct settings *settings)
{
    struct real *real;

    if (index < 0)
        return DROP_NO_REAL;
    real = reals.lookup(&index);
    if (!real)
        return DROP_INTERNAL;
    if (!resolved(real))
        return DROP_NO_NEIGHBOUR;
    new_session(s, p, listener, real, settings);
    return LB_NEXT;
}

#define EEXIST 17 /* <asm-generic/errno-base.h> */

/* Enters the session. Says whether it did: there was room, and no other CPU was faster. */
static __always_inline int enter(struct packet *p, struct session *s, enum state state, struct stats *stats)
{
    int index = s->listener, error;
    struct listener_stats *of_listener;

    s->state = state;
    error = sessions.insert(&p->key, s);
    if (error) {
        stats->count[EVENT_TABLE_FULL] += error != -EEXIST;
        return 0;
    }
    of_listener = listener_stats.lookup(&index);
    if (of_listener)
        of_listener->sessions_made++;
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

/* 0/8, 127/8, 224/4 and above, and the VIP itself (a "land" packet) are no client's address. */
static __always_inline int bad_source(const struct session_key *key)
{
    __u8 first = *(__u8 *)&key->client;

    return first == 0 || first == 127 || first >= 224 || key->client == key->vip;
}

/* In sequence after the SYN: what follows it at most a first window later. */
static __always_inline int follows(const struct half_open *syn, const struct packet *p)
{
    __u32 distance = bpf_ntohl(p->sequence) - syn->sequence;

    return distance >= 1 && distance <= SEQUENCE_WINDOW;
}
