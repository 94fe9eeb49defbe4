/* Fragments. The first one has the ports: it goes the way of any packet of its flow, and what became of it is remembered
 * by what all fragments of a packet have in common. The later ones follow, with the addresses that it got; their L4 part
 * is left alone, since the checksum stands in the first.
 *
 * A later fragment that comes before its first waits in the daemon, which asks `release` about it a few times in a quarter
 * of a second (early.py). Senders put identifications into use again, after 65,536 packets to one address at the earliest:
 * hence the short memory.
 */
#define FRAGMENT_TIMEOUT_S 3 /* fragments of one packet are sent in one go: this is for queues on the way */

/* What has just been forwarded, or passed to a server here, was a first fragment. */
static __always_inline void remember(const struct packet *p, const struct settings *settings, enum reason reason)
{
    struct fragment_key key = {.source = p->key.client, .destination = p->key.vip, .id = p->fragment_id,
                               .protocol = p->key.protocol};
    struct fragment entry = {.first_s = settings->now_s, .member = p->member, .hop = p->hop,
                             .answer = reason == TX_REPLY, .here = reason == PASS_SERVED_HERE};
    struct ethhdr *eth = (void *)(long)p->ctx->data;
    struct ip *ip = (void *)(eth + 1);
    int index = p->member;
    struct member *of = members.lookup(&index);

    if ((void *)(ip + 1) > (void *)(long)p->ctx->data_end)
        return;
    entry.limited = of && of->limited;
    entry.source = ip->source;
    entry.destination = ip->destination;
    entry.tunnel = ip->protocol == PROTOCOL_TUNNEL;
    fragments.update(&key, &entry);
}

/* Hands a copy to the daemon. Says whether it has it. */
static __always_inline int hold(struct packet *p, const struct settings *settings, struct stats *stats)
{
    int zero = 0;
    struct held *held = held_frame.lookup(&zero);
    void *data = (void *)(long)p->ctx->data, *end = (void *)(long)p->ctx->data_end;
    __u32 i, rest;

    if (!held || end - data > HELD_BYTES || !within(&stats->held, settings->held_per_cpu_s, settings->now_s))
        return 0;
    held->length = end - data;
    for (i = 0; i < HELD_BYTES / 8; i++) {
        if (data + 8 * i + 8 > end)
            break;
        held->frame[i] = ((__u64 *)data)[i];
    }
    for (rest = 0; rest < 7 && i < HELD_BYTES / 8; rest++) {
        if (data + 8 * i + rest + 1 > end)
            break;
        ((__u8 *)&held->frame[i])[rest] = *(__u8 *)(data + 8 * i + rest);
    }
    return !early_fragments.ringbuf_output(held, sizeof(*held), 0);
}

/* What went before the first: for a VIP, or from a real, whose listener only the first will tell. */
static __always_inline enum reason early_fragment(struct packet *p, const struct settings *settings, struct stats *stats)
{
    struct address real = p->ip->source;

    if (is_vip(p->ip->destination))
        return hold(p, settings, stats) ? DROP_HELD_FRAGMENT : DROP_FRAGMENT;
    if (!hop_numbers.lookup(&real) || is_local(settings, p->ip->destination))
        return PASS_NOT_FOR_VIP;
    return hold(p, settings, stats) ? DROP_HELD_FRAGMENT : PASS_NOT_FOR_VIP;
}

/* LB_NEXT: its first is not known. */
static __always_inline enum reason later_fragment(struct packet *p, const struct settings *settings)
{
    struct fragment_key key = {.source = p->ip->source, .destination = p->ip->destination, .id = p->fragment_id,
                               .protocol = p->key.protocol};
    struct fragment *first = fragments.lookup(&key);
    enum reason reason = LB_NEXT;
    struct hop *to;
    __u16 delta;

    if (!first || settings->now_s - first->first_s > FRAGMENT_TIMEOUT_S)
        return LB_NEXT;
    if (first->limited)
        reason = ask_toll(p->ctx, p->length, 0, first->member, first->answer ? OUTWARDS : INWARDS);
    if (reason != LB_NEXT)
        return reason;
    if (first->tunnel) {
        struct session s = {.real = first->destination, .member = first->member, .hop = first->hop};

        return encapsulate(p, &s, settings, TX_FRAGMENT);
    }
    to = next_hop(first->hop);
    if (!to)
        return unresolved(first->hop);
    if (first->here) {
        count_in(p, first->member);
        p->way = WAY_HERE;
        return PASS_SERVED_HERE;
    }
    delta = fold((__u32)address_delta(key.source, first->source) + address_delta(key.destination, first->destination));
    if (!same_address(key.source, first->source) || !same_address(key.destination, first->destination)) {
        if (p->ip->ttl <= 1)
            return DROP_TTL;
        age(p->ip, older(delta));
        p->ip->source = first->source;
        p->ip->destination = first->destination;
    }
    if (first->answer)
        count_out(p, first->member);
    else
        count_in(p, first->member);
    send_by(p, p->eth, first->hop, to);
    return TX_FRAGMENT;
}
