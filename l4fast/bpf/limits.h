/* What a listener may take at most.
 *
 * A rate is kept by a token bucket that holds time: one word says until which tick it has been spent. Whoever finds that
 * tick in the past may spend, and moves it on by the price; with the clock the bucket fills by itself, up to its depth.
 * It may go into debt by one price, which is waited for. One bucket serves all CPUs, since a single flow arrives on one of
 * them and may have all there is; it moves by compare-and-swap, so that nothing is spent twice or lost.
 */
#define TICKS 16ULL                       /* in a nanosecond; 64 bits of them are 36 years of uptime */
#define FLOWS_DEPTH (1000000000ULL * TICKS) /* a second's flows may begin at once, after a pause as long */
#define SPEND_TRIES 4                     /* while other CPUs spend from the same bucket */

/* Whether it could be paid for. The clock is coarse, a few milliseconds at most. */
static __always_inline int spend(__u64 *spent, __u64 price, __u64 depth)
{
    __u64 now = bpf_ktime_get_coarse_ns() * TICKS;
    __u64 until = *(volatile __u64 *)spent, was;
    int i;

#pragma unroll
    for (i = 0; i < SPEND_TRIES; i++) {
        if (until > now)
            return 0;
        was = __sync_val_compare_and_swap(spent, until, (until + depth < now ? now - depth : until) + price);
        if (was == until)
            return 1;
        until = was;
    }
    /* The bucket is no fuller than its depth: others have just spent. */
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

/* What the limits say to a packet of no session. `begins`: of a flow that nobody knew before it. */
static __always_inline enum reason within_limits(const struct listener *listener, int begins)
{
    int index = listener->index;
    struct limit *limit = limits.lookup(&index);
    struct spending *spending = spendings.lookup(&index);

    if (!limit || !spending)
        return LB_NEXT;
    if (begins && !may_have(listener, spending->connections + 1))
        return over(listener->index, DROP_CONNECTIONS);
    /* The depth is less by the flow that goes into debt. */
    if (begins && limit->flow_price && !spend(&spending->flows, limit->flow_price, FLOWS_DEPTH - limit->flow_price))
        return over(listener->index, DROP_CONNECTION_RATE);
    return LB_NEXT;
}
