/* tunnel: the client's packet travels whole inside another one to the real (IP in IP, RFC 2003; IPv6 in IPv6, RFC 2473).
 *
 * The outer header of IPv4 is always "don't fragment", with identification 0 (RFC 6864, section 4.1): the inner packet may
 * then be of any size up to the interface's MTU less the outer header, and the way to the reals has to carry that MTU. The
 * inner TTL drops by one; the traffic class is copied, its ECN bits too (RFC 6040, normal mode), in IPv6 the flow label
 * as well, by which routers spread the flows (RFC 6438).
 */
#define TUNNEL_TTL 64 /* the default of RFC 1700 */

static __always_inline struct ip outer_header(const struct packet *p, struct address source, struct address destination)
{
    struct ip outer = {.ttl = TUNNEL_TTL, .protocol = PROTOCOL_TUNNEL, .source = source, .destination = destination};

#if IP_VERSION == 4
    outer.version_words = IP_PLAIN;
    outer.tos = p->ip->tos;
    outer.length = bpf_htons(p->length + sizeof(outer));
    outer.fragment = bpf_htons(IP_DONT_FRAGMENT);
    outer.check = ~sum_of(&outer, sizeof(outer));
#else
    *(__u32 *)&outer = *(__u32 *)p->ip;
    outer.length = bpf_htons(p->length);
#endif
    return outer;
}

static __always_inline enum reason encapsulate(struct packet *p, const struct session *s,
                                               const struct settings *settings, enum reason reason)
{
    struct hop *to = next_hop(s->hop);
    const struct interface *by;
    struct ethhdr *eth;
    struct ip outer, *ip;
    void *data;

    if (!to)
        return unresolved(s->hop);
    by = &settings->interfaces[interface_of(to)];
    if (no_address(by->address))
        return DROP_NO_ADDRESS;
    if (p->ip->ttl <= 1)
        return DROP_TTL;
    if (p->length + sizeof(outer) > by->mtu)
        return may_answer(p) ? answer_too_big(p, by->mtu - sizeof(outer)) : DROP_TOO_BIG;
    age(p->ip, older(0));
    outer = outer_header(p, by->address, s->real);

    /* From here on the packet's pointers are void; all that is needed of it is in `outer`. */
    if (bpf_xdp_adjust_head(p->ctx, -(int)sizeof(outer)))
        return DROP_INTERNAL;
    data = (void *)(long)p->ctx->data;
    eth = data;
    ip = (void *)(eth + 1);
    if ((void *)(ip + 1) > (void *)(long)p->ctx->data_end)
        return DROP_INTERNAL;
    send_by(p, eth, s->hop, to);
    eth->h_proto = bpf_htons(ETH_P_OURS);
    *ip = outer;
    count_in(p, s->member);
    return reason;
}
