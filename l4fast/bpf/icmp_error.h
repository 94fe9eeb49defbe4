/* ICMP errors of others, about packets that passed here. Each quotes the packet that it is about, from its IP header on:
 * the ports there tell the flow, and the quoted addresses have to be those that the error's receiver knows.
 *
 *     to a VIP       about an answer, which left under the VIP: for the real that sent it
 *     to a pool      fullnat, about a client's packet: the other direction of the same
 *     to a client    nat: about the client's packet, which arrived under the real's address: goes on as if from the VIP
 *     to the node    tunnel: about an outer packet; only "too big" concerns the client
 *
 * Checksums are kept as in rewrite.h: the outer header's, ICMP's, the quoted header's, and the quoted TCP or UDP one where
 * the error quotes as much.
 */
#define TCP_CHECK 16            /* offset of the checksum */

/* An error, up to the ports of the packet that it quotes. */
struct icmp_error {
    struct icmp icmp;
    struct ip ip;
    __be16 source_port;
    __be16 port;
    __be16 udp_length;
    __u16 udp_check;
} __attribute__((packed));

static __always_inline struct icmp_error *error_of(const struct packet *p)
{
    return (void *)(p->ip + 1);
}

static __always_inline int is_error(__u8 type)
{
#if IP_VERSION == 4
    return type == ICMP_DEST_UNREACH || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
#else
    return type >= 1 && type <= 4;
#endif
}

/* A quoted packet, or one in a tunnel, that is whole in its headers and no later fragment. */
static __always_inline int quotable(const struct ip *ip)
{
#if IP_VERSION == 4
    return plain(ip) && !(ip->fragment & bpf_htons(IP_OFFSET));
#else
    return plain(ip);
#endif
}

static __always_inline int bad_sender(const struct ip *ip)
{
    struct session_key key = {.client = ip->source, .vip = ip->destination};

    return bad_source(&key);
}

/* The flow of the quoted packet becomes `p->key`, and its TCP or UDP checksum, if it is there, `p->check`. */
static __always_inline enum reason parse_error(struct packet *p, int to_vip)
{
    struct icmp_error *error = error_of(p);
    void *end = (void *)(long)p->ctx->data_end, *l4 = &error->source_port;
    __u32 quoted = p->length - sizeof(struct ip) - sizeof(struct icmp); /* bytes */

    if (p->length < sizeof(struct ip) + sizeof(*error) || (void *)(error + 1) > end)
        return DROP_BAD_ICMP;
    if (!quotable(&error->ip) || !same_address(error->ip.source, p->ip->destination))
        return DROP_BAD_ICMP;
    p->key.protocol = error->ip.protocol;
    p->key.client = to_vip ? error->ip.destination : error->ip.source;
    p->key.vip = to_vip ? error->ip.source : error->ip.destination;
    p->key.client_port = to_vip ? error->port : error->source_port;
    p->key.vip_port = to_vip ? error->source_port : error->port;
    p->check = NULL;
    if (p->key.protocol == IPPROTO_UDP)
        p->check = &error->udp_check;
    else if (p->key.protocol != IPPROTO_TCP)
        return p->key.protocol == PROTOCOL_TUNNEL ? LB_NEXT : PASS_ICMP;
    else if (quoted >= sizeof(struct ip) + TCP_CHECK + 2 && l4 + TCP_CHECK + 2 <= end)
        p->check = l4 + TCP_CHECK;
    return LB_NEXT;
}

/* TX_ECHO: an echo request. LB_NEXT: an error, parsed. */
static __always_inline enum reason parse_icmp(struct packet *p, int to_vip)
{
    struct icmp *icmp = (void *)(p->ip + 1);

    if (p->length < sizeof(struct ip) + sizeof(*icmp) || (void *)(icmp + 1) > (void *)(long)p->ctx->data_end)
        return DROP_BAD_ICMP;
    if (icmp->type == ECHO_REQUEST)
        return TX_ECHO;
    return is_error(icmp->type) ? parse_error(p, to_vip) : PASS_ICMP;
}

/* Gives one end of the quoted packet another address and port. In IPv4 the quoted header sums up to the same as before,
 * since its checksum makes up for the address; so ICMP's own checksum follows from the words behind it, and in IPv6 from
 * the address as well. */
static __always_inline void rename_end(struct packet *p, struct address *address, __be16 *port, struct address to,
                                       __be16 to_port)
{
    struct icmp_error *error = error_of(p);
    __u16 addresses = address_delta(*address, to);
    __u32 delta = (__u16)~*port + to_port;

    if (p->check) {
        delta += (__u16)~*p->check;
        rewrite_l4(p, port_delta(addresses, *port, to_port));
        delta += *p->check;
    }
#if IP_VERSION == 4
    error->ip.check = adjusted(error->ip.check, addresses);
#else
    delta += addresses;
#endif
    error->icmp.check = adjusted(error->icmp.check, fold(delta));
    *address = to;
    *port = to_port;
}

/* The error goes on under other addresses of its own. */
static __always_inline void readdress(struct packet *p, struct address source, struct address destination)
{
    __u16 addresses = fold((__u32)address_delta(p->ip->source, source) + address_delta(p->ip->destination, destination));

    age(p->ip, older(addresses));
#if IP_VERSION == 6
    error_of(p)->icmp.check = adjusted(error_of(p)->icmp.check, addresses);
#endif
    p->ip->source = source;
    p->ip->destination = destination;
}

/* fullnat: both ends, outside and inside; in either direction, as `translate` does. */
static __always_inline enum reason translate_error(struct packet *p, const struct session *s)
{
    struct icmp_error *error = error_of(p);
    struct hop *to = next_hop(s->hop);

    if (!to)
        return unresolved(s->hop);
    if (p->ip->ttl <= 1)
        return DROP_TTL;
    rename_end(p, &error->ip.source, &error->source_port, s->real, s->real_port);
    rename_end(p, &error->ip.destination, &error->port, s->source, s->source_port);
    readdress(p, s->source, s->real);
    return hand_on_translated(p, s, to, TX_ERROR, TX_REPLY_ERROR);
}

static __always_inline enum reason error_to_real(struct packet *p, const struct session *s,
                                                 const struct settings *settings)
{
    struct icmp_error *error = error_of(p);
    struct hop *to;

    if (s->mode == MODE_TUNNEL)
        return encapsulate(p, s, settings, TX_ERROR);
    if (s->mode == MODE_FULLNAT)
        return translate_error(p, s);
    to = next_hop(s->hop);
    if (!to)
        return unresolved(s->hop);
    if (s->mode == MODE_NAT) {
        if (p->ip->ttl <= 1)
            return DROP_TTL;
        rename_end(p, &error->ip.source, &error->source_port, s->real, s->real_port);
        readdress(p, p->ip->source, s->real);
    }
    return hand_on(p, s, to, TX_ERROR);
}

static __always_inline enum reason error_to_client(struct packet *p, const struct candidate *as)
{
    struct icmp_error *error = error_of(p);
    struct hop *clients = next_hop(HOP_CLIENTS);

    if (!clients)
        return DROP_NO_GATEWAY;
    if (p->ip->ttl <= 1)
        return DROP_TTL;
    rename_end(p, &error->ip.destination, &error->port, as->vip, as->port);
    readdress(p, as->vip, p->ip->destination);
    count_out(p, as->member);
    send_by(p, p->eth, HOP_CLIENTS, clients);
    return TX_REPLY_ERROR;
}

/* RFC 2003, section 4.1; RFC 2473, section 8.1: a router on the way to a real has found the outer packet too big. The
 * client is told what is left for its own, quoting that. A router that quotes less than both headers is no help: the
 * kernel's. */
static __always_inline enum reason relay_too_big(struct packet *p, const struct settings *settings)
{
    struct icmp_answer *answer = (void *)(long)p->ctx->data;
    struct icmp_error *error = error_of(p);
    struct ip *inner = (void *)(&error->ip + 1);
    void *end = (void *)(long)p->ctx->data_end;
    struct hop *clients = next_hop(HOP_CLIENTS);
    struct listener_key key = {};
    struct listener *listener;
    __u32 mtu;

    if ((void *)inner + ICMP_QUOTED > end || (void *)(answer + 1) > end || (void *)(error + 1) > end)
        return LB_NEXT;
    if (error->icmp.type != TOO_BIG_TYPE || error->icmp.code != TOO_BIG_CODE ||
        p->length < sizeof(struct ip) + sizeof(struct icmp) + sizeof(struct ip) + ICMP_QUOTED ||
        !is_local(settings, p->ip->destination) || !quotable(inner))
        return LB_NEXT;
    mtu = bpf_ntohl(error->icmp.rest);
#if IP_VERSION == 4
    mtu &= 0xffff;
#endif
    key.vip = inner->destination;
    key.port = ((__be16 *)(inner + 1))[1];
    key.protocol = inner->protocol;
    listener = listeners.lookup(&key);
    if (!listener || listener->mode != MODE_TUNNEL || mtu < SMALLEST_MTU + sizeof(struct ip))
        return LB_NEXT;
#if IP_VERSION == 4
    if (!(inner->fragment & bpf_htons(IP_DONT_FRAGMENT)))
        return DROP_TOO_BIG;
#endif
    if (!clients)
        return DROP_NO_GATEWAY;
    p->key.client = inner->source;
    quote(answer, inner, 0);
    send_by(p, p->eth, HOP_CLIENTS, clients);
    return send_too_big(p->ctx, answer, key.vip, p->key.client, mtu - sizeof(struct ip));
}
