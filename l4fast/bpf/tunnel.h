/* tunnel: the client's packet travels whole inside another one to the real (IP in IP, RFC 2003).
 *
 * The outer header is always "don't fragment", with identification 0 (RFC 6864, section 4.1): the inner packet may
 * then be of any size up to the interface's MTU less 20, and the way to the reals has to carry that MTU. The inner TTL
 * drops by one; the traffic class is copied, its ECN bits too (RFC 6040, normal mode).
 */
#define TUNNEL_TTL 64 /* the default of RFC 1700 */

/* The inner header: one less in TTL, whose word changes by minus 0x0100 in one's complement. */
static __always_inline void age(struct iphdr *ip)
{
    ip->ttl--;
    ip->check = adjusted(ip->check, bpf_htons(0xfeff));
}

static __always_inline enum reason encapsulate(struct packet *p, const struct session *s,
                                               const struct settings *settings, enum reason reason)
{
    struct iphdr outer = {.version = 4, .ihl = 5, .ttl = TUNNEL_TTL, .protocol = IPPROTO_IPIP};
    struct ethhdr *eth;
    struct iphdr *ip;
    void *data;

    if (!settings->address)
        return DROP_NO_ADDRESS;
    if (p->ip->ttl <= 1)
        return DROP_TTL;
    if (p->length + sizeof(outer) > settings->mtu)
        return may_answer(p->ip) ? answer_too_big(p, settings->mtu - sizeof(outer)) : DROP_TOO_BIG;
    age(p->ip);
    outer.tos = p->ip->tos;
    outer.tot_len = bpf_htons(p->length + sizeof(outer));
    outer.frag_off = bpf_htons(IP_DONT_FRAGMENT);
    outer.saddr = settings->address;
    outer.daddr = s->real;
    outer.check = ~sum_of(&outer, sizeof(outer));

    /* From here on the packet's pointers are void; all that is needed of it is in `outer`. */
    if (bpf_xdp_adjust_head(p->ctx, -(int)sizeof(outer)))
        return DROP_INTERNAL;
    data = (void *)(long)p->ctx->data;
    eth = data;
    ip = (void *)(eth + 1);
    if ((void *)(ip + 1) > (void *)(long)p->ctx->data_end)
        return DROP_INTERNAL;
    __builtin_memcpy(eth->h_source, settings->mac, ETH_ALEN);
    __builtin_memcpy(eth->h_dest, s->mac, ETH_ALEN);
    eth->h_proto = bpf_htons(ETH_P_IP);
    *ip = outer;
    count_in(s->listener, p->length);
    return reason;
}
