/* Connections, and lc and wlc: the real with the fewest, for its weight in wlc.
 *
 * A real's connections are the sessions with it in this node's table, a peer's among them, that are established, unproven
 * or of UDP: those that have ended count no more, though they are remembered a while. The count is exact: a session knows
 * where it is counted (session.counted) and gives that up once, by an atomic operation, whoever ends it. A listener's
 * are those of its reals. They are counted where the scheduler needs to know or the listener has a limit of them.
 *
 * To a real's connections lc and wlc add the SYNs sent to the real in this second of the node's clock that have not yet become sessions: the connections of one
 * round trip must not all go to the real that was the least busy at its beginning. A flood of SYNs weighs for a second.
 *
 * Up to RING_CHUNK reals are all compared, equals having their turns; of more, the better of two random ones is taken,
 * which comes close to the best (Mitzenmacher, 2001) and does not send everybody there at once.
 */

/* The eight bytes of a session that `counted` is part of, for what must be one operation: other CPUs see the session too. */
union counted_word {
    __u64 all;
    struct {
        __u8 others[6];
        __u16 counted;
    };
};
#define COUNTED_OFFSET (16 + 2 * sizeof(struct address))
#define BUSIEST (1ULL << 40) /* no real has as many; times a weight it stays below 2^63 */
_Static_assert(__builtin_offsetof(struct session, counted) == COUNTED_OFFSET + 6, "counted_word");

static __always_inline int counts(__u8 state)
{
    return state == STATE_ESTABLISHED || state == STATE_UNPROVEN || state == STATE_UDP;
}

/* Returns how many its listener then has. */
static __always_inline __s64 count_connection(__u16 member, __s64 by)
{
    int index = member;
    struct load *load = loads.lookup(&index);
    struct member *of = members.lookup(&index);
    struct spending *listeners_own;

    if (!load || !of)
        return 0;
    __sync_fetch_and_add(&load->sessions, (__u64)by);
    index = of->listener;
    listeners_own = spendings.lookup(&index);
    return listeners_own ? (__s64)__sync_fetch_and_add(&listeners_own->connections, (__u64)by) + by : 0;
}

/* The session ends, or is about to be written anew: it counts no more. */
static __always_inline void uncount(struct session *s)
{
    union counted_word only = {.counted = 0xffff}, was;

    if (!s->counted)
        return;
    was.all = __sync_fetch_and_and((__u64 *)((void *)s + COUNTED_OFFSET), ~only.all);
    if (was.counted)
        count_connection(was.counted, -1);
}

/* A session that is in the table and not counted: a peer's, or one made before its listener counted. */
static __always_inline void adopt(struct session *s, const struct listener *listener)
{
    union counted_word word = {}, was;

    if (!listener->counts || s->counted || !counts(s->state))
        return;
    word.counted = member_of(listener, s->real, s->real_port);
    if (!word.counted)
        return;
    was.all = __sync_fetch_and_or((__u64 *)((void *)s + COUNTED_OFFSET), word.all);
    if (!was.counted)
        count_connection(word.counted, 1);
    if (!counts(s->state)) /* it ended meanwhile */
        uncount(s);
}

static __always_inline void begun(__u16 member, const struct settings *settings, int by)
{
    int index = member;
    struct load *load = loads.lookup(&index);

    if (!load)
        return;
    if (load->begun_s != settings->now_s) {
        load->begun_s = settings->now_s;
        load->begun = 0;
    }
    if (by > 0 || load->begun)
        __sync_fetch_and_add(&load->begun, (__u64)(__s64)by);
}

/* The verifier (6.18) follows both ways of every branch through every turn of a loop, with the range of each number, which
 * are soon too many. So a turn has no branch but for look-ups: conditions are numbers, 1 or 0, kept from the compiler's
 * eyes lest it makes branches of them again. */
static __always_inline __u64 opaque(__u64 number)
{
    asm volatile("" : "+r"(number));
    return number;
}

/* 1 if a < b, else 0; both below 2^63. */
static __always_inline __u64 below(__u64 a, __u64 b)
{
    return opaque((a - b) >> 63);
}

static __always_inline __u64 either(__u64 condition, __u64 yes, __u64 no)
{
    return no ^ ((no ^ yes) & opaque(-condition));
}

struct choice {
    __u64 load;   /* connections */
    __u64 weight;
    __u64 slot;
    __u64 member; /* index into `members` and `loads` */
};

/* Reads one slot of the listener's ring. Says whether it could. */
static __always_inline int weigh(struct choice *c, const struct ring_chunk *chunk, __u32 slot, __u32 now_s)
{
    int index = chunk->member[slot % RING_CHUNK];
    struct member *member = members.lookup(&index);
    struct load *load = loads.lookup(&index);
    __u64 total;

    if (!member || !load)
        return 0;
    total = load->sessions + either(below(load->begun_s ^ now_s, 1), load->begun, 0);
    c->load = either(total >> 63, 0, total); /* negative for a moment where one CPU is faster than another */
    c->weight = member->weight;
    c->slot = slot;
    c->member = index;
    return 1;
}

/* Less busy for its weight: load/weight, cross-multiplied. */
static __always_inline __u64 less_busy(const struct choice *a, const struct choice *b)
{
    return below(a->load * b->weight, b->load * a->weight);
}

/* All of them: the least busy, and of several the first from the cursor on, after which the next turn begins. */
static __always_inline int least_of_all(const struct listener *listener, __u32 now_s)
{
    int index = listener->index;
    struct listener_stats *stats = listener_stats.lookup(&index);
    struct ring_chunk *chunk = chunk_of(listener, 0);
    struct choice best = {.load = BUSIEST, .weight = 1}, c;
    __u64 cursor, distance, nearest = 0, less, same, take, equals = 0, size = listener->ring_size;
    __u32 step;

    if (!stats || !chunk)
        return -1;
    cursor = either(below(stats->cursor, size), stats->cursor, 0);
#pragma unroll
    for (step = 0; step < RING_CHUNK; step++) {
        if (step >= size)
            break;
        if (!weigh(&c, chunk, step, now_s))
            return -1;
        distance = step + either(below(step, cursor), size, 0) - cursor;
        less = less_busy(&c, &best);
        same = 1 ^ (less | less_busy(&best, &c));
        take = less | (same & below(distance, nearest));
        equals = either(less, 0, equals | same);
        best.load = either(take, c.load, best.load);
        best.weight = either(take, c.weight, best.weight);
        best.slot = either(take, c.slot, best.slot);
        best.member = either(take, c.member, best.member);
        nearest = either(take, distance, nearest);
    }
    if (equals)
        stats->cursor = best.slot + 1;
    return best.member;
}

static __always_inline int better_of_two(const struct listener *listener, __u32 now_s)
{
    __u32 size = listener->ring_size;
    __u32 one = (__u64)bpf_get_prandom_u32() * size >> 32;
    __u32 other = (__u64)bpf_get_prandom_u32() * (size - 1) >> 32;
    struct choice a, b;
    struct ring_chunk *chunk;

    other += other >= one;
    chunk = chunk_of(listener, one);
    if (!chunk || !weigh(&a, chunk, one, now_s))
        return -1;
    chunk = chunk_of(listener, other);
    if (!chunk || !weigh(&b, chunk, other, now_s))
        return -1;
    return either(less_busy(&b, &a), b.member, a.member);
}

/* The program `least` looks for a real, and `lb` begins anew with what it has found. For the verifier (6.18) goes through
 * all that follows the loop for each of the loop's ends, which is more than it allows unless little follows. */
static __always_inline void ask_least(struct xdp_md *ctx, const struct listener *listener)
{
    int zero = 0;
    struct least *least = least_choice.lookup(&zero);
    struct toll *toll = tolls.lookup(&zero);

    if (!least)
        return;
    least->listener = *listener;
    if (toll && listener->limited & LIMITED_BANDWIDTH)
        toll->paid = 1; /* `lb` begins anew with a packet that has paid */
    stages.call(ctx, STAGE_LEAST);
}

/* What `least` has found for this packet, once: an index into `members`; 0: it was not asked, -1: there is none. */
static __always_inline int least_found(void)
{
    int zero = 0;
    struct least *least = least_choice.lookup(&zero);
    int member;

    if (!least)
        return -1;
    member = least->member;
    least->member = 0;
    return member;
}

/* Enters a session and counts it. Says whether it did; OVER: it would be one connection too many. Counted first: whoever
 * ends it at once finds it counted. */
#define OVER (-1)
static __always_inline int enter_counted(struct packet *p, struct session *s, enum state state,
                                         const struct listener *listener, struct stats *stats)
{
    int entered = OVER;

    if (!listener->counts)
        return enter(p, s, state, stats);
    s->counted = s->member;
    if (may_have(listener, count_connection(s->member, 1)))
        entered = enter(p, s, state, stats);
    if (entered != 1)
        count_connection(s->member, -1);
    return entered;
}
