/* What a listener may take at most.
 *
 * A rate is kept by a token bucket that holds time: one word says until which tick it has been spent. Whoever finds that
 * tick in the past may spend, and moves it on by the price; with the clock the bucket fills by itself, up to its depth.
 * Packets of any size pass, since it may go into debt by one price, which is waited for.
 *
 * One bucket serves all CPUs, since a single flow arrives on one of them and may have all there is. CPUs that look at the
 * same time may all find something, at most one packet each beyond the limit: all pay, so that the bucket owes it, and
 * nothing that was paid is lost.
 */
#define TICKS 16ULL /* in a nanosecond; 64 bits of them are 36 years of uptime */
#define FLOWS_DEPTH (1000000000ULL * TICKS) /* a second's flows may begin at once, after a pause as long */
#define BANDWIDTH_DEPTH (250000000ULL * TICKS) /* TCP that has lost a whole window begins again after 200 ms */

/* Whether it could be paid for. The clock is coarse, a few milliseconds at most. */
static __always_inline int spend(__u64 *spent, __u64 price, __u64 depth)
{
    __u64 now = bpf_ktime_get_coarse_ns() * TICKS;
    __u64 until = *(volatile __u64 *)spent, from = until;

    if (until > now)
        return 0;
    if (from < now - depth)
        from = now - depth;
    /* When another CPU was faster, the bucket is no fuller than its depth, and this is owed. */
    if (__sync_val_compare_and_swap(spent, until, from + price) != until)
        __sync_fetch_and_add(spent, price);
    return 1;
}

static __always_inline enum reason over(__u16 listener, enum reason reason)
{
    int index = listener;
    struct listener_stats *stats = listener_stats.lookup(&index);

    if (stats)
        stats->over[reason - DROP_CONNECTION_RATE]++;
    return reason;
}

/* Whether a listener may have so many connections. */
static __always_inline int may_have(const struct listener *listener, __s64 connections)
{
    int index = listener->index;
    struct limit *limit = limits.lookup(&index);

    return !limit || !limit->connections || connections <= (__s64)limit->connections;
}

enum direction { INWARDS, OUTWARDS };

/* Whether an instance has the bandwidth for a packet of a listener of its. */
static __always_inline int instance_has(const struct limit *limit, enum direction direction, __u32 length)
{
    __u64 price = limit->shared_price[direction & 1];
    int index = limit->shared;
    struct spending *spending = spendings.lookup(&index);

    return !price || !spending || spend(&spending->bandwidth[direction & 1], price * length >> 16, BANDWIDTH_DEPTH);
}

/* What the bandwidth of a listener, and then of its instance, says to a packet of `length` bytes. What the instance has
 * refused the listener has paid: it is the packets beyond its own limit that must cost the other listeners nothing. */
static __always_inline enum reason within_bandwidth(__u16 listener, enum direction direction, __u32 length)
{
    int index = listener;
    struct limit *limit = limits.lookup(&index);
    struct spending *spending = spendings.lookup(&index);
    __u64 price = limit ? limit->byte_price[direction & 1] : 0;

    if ((!price || !spending || spend(&spending->bandwidth[direction & 1], price * length >> 16, BANDWIDTH_DEPTH)) &&
        (!limit || instance_has(limit, direction, length)))
        return LB_NEXT;
    return over(listener, direction == INWARDS ? DROP_BANDWIDTH_IN : DROP_BANDWIDTH_OUT);
}

/* Asks the program `toll` whether the packet has its listener's bandwidth: either drops it, or calls `lb` again, which goes
 * the same way and is told so once. As a part of `lb` it would be more than the verifier (6.18) goes through. `member`: 0, or
 * of the listener, which is then found by it. */
static __always_inline enum reason ask_toll(struct xdp_md *ctx, __u32 length, __u16 listener, __u16 member,
                                            enum direction direction)
{
    int zero = 0;
    struct toll *toll = tolls.lookup(&zero);

    if (!toll)
        return DROP_INTERNAL;
    if (toll->paid) {
        toll->paid = 0;
        return LB_NEXT;
    }
    toll->length = length;
    toll->listener = listener;
    toll->member = member;
    toll->direction = direction;
    stages.call(ctx, STAGE_TOLL);
    return DROP_INTERNAL;
}

/* What the limits say to a packet with which a flow begins. */
static __always_inline enum reason may_begin(const struct listener *listener)
{
    int index = listener->index;
    struct limit *limit = limits.lookup(&index);
    struct spending *spending = spendings.lookup(&index);

    if (!limit || !spending)
        return LB_NEXT;
    if (!may_have(listener, spending->connections + 1))
        return over(listener->index, DROP_CONNECTIONS);
    /* The depth is less by the flow that goes into debt. */
    if (limit->flow_price && !spend(&spending->flows, limit->flow_price, FLOWS_DEPTH - limit->flow_price))
        return over(listener->index, DROP_CONNECTION_RATE);
    return LB_NEXT;
}
