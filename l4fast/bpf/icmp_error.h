/* ICMP errors of others, about packets that passed here. Each quotes the packet that it is about, from its IP header on:
 * the ports there tell the flow, and the quoted addresses have to be those that the error's receiver knows.
 *
 *     to a VIP       about an answer, which left under the VIP: for the real that sent it
 *     to a pool      fullnat, about a client's packet: the other direction of the same
 *     to a client    nat: about the client's packet, which arrived under the real's address: goes on as if from the VIP
 *     to the node    tunnel: about an outer packet; only "fragmentation needed" concerns the client
 *
 * Checksums are kept as in rewrite.h: the outer header's, ICMP's, the quoted header's, and the quoted TCP or UDP one where
 * the error quotes as much.
 */
#define TCP_CHECK 16            /* offset of the checksum */
#define SMALLEST_MTU 68         /* RFC 791: every link carries as much */

/* An error, up to the ports of the packet that it quotes. */
struct icmp_error {
    struct icmphdr icmp;
    struct iphdr ip;
    __be16 source_port;
    __be16 port;
    __be16 udp_length;
    __u16 udp_check;
} __attribute__((packed));

static __always_inline struct icmp_error *error_of(const struct packet *p)
{
    return (void *)(p->ip + 1);
}

static __always_inline int bad_sender(const struct iphdr *ip)
{
    struct session_key key = {.client = ip->saddr, .vip = ip->daddr};

    return bad_source(&key);
}

/* The flow of the quoted packet becomes `p->key`, and its TCP or UDP checksum, if it is there, `p->check`. */
static __always_inline enum reason parse_error(struct packet *p, int to_vip)
{
    struct icmp_error *error = error_of(p);
    void *end = (void *)(long)p->ctx->data_end, *l4 = &error->source_port;
    __u32 quoted = p->length - sizeof(struct iphdr) - sizeof(struct icmphdr); /* bytes */

    if (p->length < sizeof(struct iphdr) + sizeof(*error) || (void *)(error + 1) > end)
        return DROP_BAD_ICMP;
    if (*(__u8 *)&error->ip != IP_PLAIN || error->ip.frag_off & bpf_htons(IP_OFFSET) || error->ip.saddr != p->ip->daddr)
        return DROP_BAD_ICMP;
    p->key.protocol = error->ip.protocol;
    p->key.client = to_vip ? error->ip.daddr : error->ip.saddr;
    p->key.vip = to_vip ? error->ip.saddr : error->ip.daddr;
    p->key.client_port = to_vip ? error->port : error->source_port;
    p->key.vip_port = to_vip ? error->source_port : error->port;
    p->check = NULL;
    if (p->key.protocol == IPPROTO_UDP)
        p->check = &error->udp_check;
    else if (p->key.protocol != IPPROTO_TCP)
        return p->key.protocol == IPPROTO_IPIP ? LB_NEXT : PASS_ICMP;
    else if (quoted >= sizeof(struct iphdr) + TCP_CHECK + 2 && l4 + TCP_CHECK + 2 <= end)
        p->check = l4 + TCP_CHECK;
    return LB_NEXT;
}

/* TX_ECHO: an echo request. LB_NEXT: an error, parsed. */
static __always_inline enum reason parse_icmp(struct packet *p, int to_vip)
{
    struct icmphdr *icmp = (void *)(p->ip + 1);

    if (p->length < sizeof(struct iphdr) + sizeof(*icmp) || (void *)(icmp + 1) > (void *)(long)p->ctx->data_end)
        return DROP_BAD_ICMP;
    if (icmp->type == ICMP_ECHO)
        return TX_ECHO;
    if (icmp->type != ICMP_DEST_UNREACH && icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETERPROB)
        return PASS_ICMP;
    return parse_error(p, to_vip);
}

/* Gives one end of the quoted packet another address and port. The quoted header sums up to the same as before, since its
 * checksum makes up for the address; so ICMP's own checksum follows from the words behind it. */
static __always_inline void rename_end(struct packet *p, __be32 *address, __be16 *port, __be32 to, __be16 to_port)
{
    struct icmp_error *error = error_of(p);
    __u32 delta = (__u16)~*port + to_port;

    if (p->check) {
        delta += (__u16)~*p->check;
        rewrite_l4(p, l4_delta(*address, to, *port, to_port));
        delta += *p->check;
    }
    error->ip.check = adjusted(error->ip.check, address_delta(*address, to));
    error->icmp.checksum = adjusted(error->icmp.checksum, fold(delta));
    *address = to;
    *port = to_port;
}

/* fullnat: both ends, outside and inside; in either direction, as `translate` does. */
static __always_inline enum reason translate_error(struct packet *p, const struct session *s)
{
    struct icmp_error *error = error_of(p);
    __u16 addresses = fold((__u32)address_delta(p->ip->saddr, s->source) + address_delta(p->ip->daddr, s->real));

    if (p->ip->ttl <= 1)
        return DROP_TTL;
    rename_end(p, &error->ip.saddr, &error->source_port, s->real, s->real_port);
    rename_end(p, &error->ip.daddr, &error->port, s->source, s->source_port);
    p->ip->check = adjusted(p->ip->check, fold((__u32)addresses + bpf_htons(0xfeff)));
    p->ip->ttl--;
    p->ip->saddr = s->source;
    p->ip->daddr = s->real;
    send_to(p, s->mac);
    if (s->state == STATE_ANSWER) {
        count_out(s->listener, p->length);
        return TX_REPLY_ERROR;
    }
    count_in(s->listener, p->length);
    return TX_ERROR;
}

static __always_inline enum reason error_to_real(struct packet *p, const struct session *s,
                                                 const struct settings *settings)
{
    struct icmp_error *error = error_of(p);

    if (s->mode == MODE_TUNNEL)
        return encapsulate(p, s, settings, TX_ERROR);
    if (s->mode == MODE_FULLNAT)
        return translate_error(p, s);
    if (s->mode == MODE_NAT) {
        if (p->ip->ttl <= 1)
            return DROP_TTL;
        rename_end(p, &error->ip.saddr, &error->source_port, s->real, s->real_port);
        p->ip->ttl--;
        p->ip->daddr = s->real;
        p->ip->check = adjusted(p->ip->check, s->l3_delta);
    }
    send_to(p, s->mac);
    count_in(s->listener, p->length);
    return TX_ERROR;
}

static __always_inline enum reason error_to_client(struct packet *p, const struct candidate *as,
                                                   const struct settings *settings)
{
    struct icmp_error *error = error_of(p);

    if (!known_mac(settings->gateway_mac))
        return DROP_NO_GATEWAY;
    if (p->ip->ttl <= 1)
        return DROP_TTL;
    rename_end(p, &error->ip.daddr, &error->port, as->vip, as->port);
    p->ip->ttl--;
    p->ip->check = adjusted(p->ip->check, l3_delta(p->ip->saddr, as->vip));
    p->ip->saddr = as->vip;
    send_to(p, settings->gateway_mac);
    count_out(as->listener, p->length);
    return TX_REPLY_ERROR;
}

/* RFC 2003, section 4.1: a router on the way to a real has found the outer packet too big. The client is told what is left
 * for its own, quoting that. A router that quotes less than both headers is no help: the kernel's. */
static __always_inline enum reason relay_too_big(struct packet *p, const struct settings *settings)
{
    struct icmp_answer *answer = (void *)(long)p->ctx->data;
    struct icmp_error *error = error_of(p);
    struct iphdr *inner = (void *)(&error->ip + 1);
    void *end = (void *)(long)p->ctx->data_end;
    struct listener_key key = {};
    struct listener *listener;
    __u8 quoted[ICMP_QUOTED];
    __u32 mtu;

    if ((void *)inner + ICMP_QUOTED > end || (void *)(answer + 1) > end || (void *)(error + 1) > end)
        return LB_NEXT;
    if (error->icmp.type != ICMP_DEST_UNREACH || error->icmp.code != ICMP_FRAG_NEEDED ||
        p->length < sizeof(struct iphdr) + sizeof(struct icmphdr) + sizeof(struct iphdr) + ICMP_QUOTED ||
        p->ip->daddr != settings->address || *(__u8 *)inner != IP_PLAIN || inner->frag_off & bpf_htons(IP_OFFSET))
        return LB_NEXT;
    mtu = bpf_ntohs(error->icmp.un.frag.mtu);
    key.vip = inner->daddr;
    key.port = ((__be16 *)(inner + 1))[1];
    key.protocol = inner->protocol;
    listener = listeners.lookup(&key);
    if (!listener || listener->mode != MODE_TUNNEL || mtu < SMALLEST_MTU + sizeof(struct iphdr))
        return LB_NEXT;
    if (!may_answer(inner))
        return DROP_TOO_BIG;
    if (!known_mac(settings->gateway_mac))
        return DROP_NO_GATEWAY;
    p->key.client = inner->saddr;
    __builtin_memcpy(quoted, inner, ICMP_QUOTED);
    __builtin_memcpy(answer->quoted, quoted, ICMP_QUOTED);
    send_to(p, settings->gateway_mac);
    return send_too_big(p->ctx, answer, key.vip, p->key.client, mtu - sizeof(struct iphdr));
}
