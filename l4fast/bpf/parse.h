/* What the program has to know of a packet. The pointers lead into the frame and were checked against its end. `check`
 * is found while parsing since the verifier (6.18) does not remember later that a TCP packet is longer than a UDP one. */
struct packet {
    struct xdp_md *ctx;
    struct ethhdr *eth;
    struct ip *ip;
    void *l4;
    __u16 *check;           /* of TCP or UDP */
    struct session_key key; /* as from a client: source is the client, destination the VIP */
    __u32 length;           /* of the IP packet: header and data */
    __u32 fragment_id;      /* of a fragment */
    __be32 sequence;        /* TCP */
    __u16 member;           /* where it was counted when it left, and … */
    __u16 hop;              /* … by which next hop; 0: by the way it came */
    __u32 way;              /* that hop's */
    __u8 tcp_flags;         /* byte 13 of the TCP header; 0 for UDP */
    __u8 first;             /* a first fragment, which has ports */
    __u8 later;             /* a later one */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_CONTROL (TCP_FIN | TCP_SYN | TCP_RST) /* mask: packets that may change a session's state */
#define TCP_FLAGS 13       /* offset of the flags' byte */
#define TCP_DATA_OFFSET 12 /* offset of the byte whose high four bits are the header's length in words */
#define IP_FRAGMENT 0x3fff /* IPv4, mask: more-fragments bit and offset */
#define IP_OFFSET 0x1fff   /* IPv4, mask: the offset, in units of eight bytes */

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
    return *(__u32 *)a == *(__u32 *)b && *(__u16 *)(a + 4) == *(__u16 *)(b + 4);
}

/* Any interface's address will do: a switch delivers frames to the right one. */
static __always_inline int to_this_node(const struct settings *settings, const __u8 *mac)
{
    int i;

#pragma unroll
    for (i = 0; i < INTERFACES; i++)
        if (same_mac(mac, settings->interfaces[i].mac))
            return 1;
    return 0;
}

static __always_inline int is_vip(struct address address)
{
    return vips.lookup(&address) != NULL;
}

/* A packet that no flow can have: a VIP's is dropped under its own name, any other is the kernel's business. */
static __always_inline enum reason irregular(struct packet *p, enum reason reason)
{
    return is_vip(p->ip->destination) ? reason : PASS_NOT_FOR_VIP;
}

static __always_inline enum reason parse_tcp(struct packet *p, void *end, __u32 l4_length)
{
    __u8 *tcp = p->l4;
    __u32 header;

    if (p->l4 + sizeof(struct tcphdr) > end || l4_length < sizeof(struct tcphdr))
        return irregular(p, DROP_BAD_L4);
    header = (tcp[TCP_DATA_OFFSET] >> 4) * 4;
    if (header < sizeof(struct tcphdr) || header > l4_length)
        return irregular(p, DROP_BAD_L4);
    p->tcp_flags = tcp[TCP_FLAGS];
    p->check = &((struct tcphdr *)p->l4)->check;
    p->sequence = ((struct tcphdr *)p->l4)->seq;
    return LB_NEXT;
}

static __always_inline enum reason parse_udp(struct packet *p, void *end, __u32 l4_length)
{
    struct udphdr *udp = p->l4;
    __u32 length;

    if (p->l4 + sizeof(*udp) > end || l4_length < sizeof(*udp))
        return irregular(p, DROP_BAD_L4);
    length = bpf_ntohs(udp->len);
    p->check = &udp->check;
    if (length < sizeof(*udp) || (length > l4_length && !p->first))
        return irregular(p, DROP_BAD_L4);
    return LB_NEXT;
}

/* `size`: of what stands behind the IP headers, where `p->l4` points. */
static __always_inline enum reason parse_l4(struct packet *p, void *end, __u8 protocol, __u32 size)
{
    enum reason reason;

    if (protocol == IPPROTO_TCP)
        reason = parse_tcp(p, end, size);
    else if (protocol == IPPROTO_UDP)
        reason = parse_udp(p, end, size);
    else
        return protocol == PROTOCOL_ICMP ? LB_ICMP : irregular(p, PASS_OTHER_PROTOCOL);
    if (reason != LB_NEXT)
        return reason;
    p->key.client = p->ip->source;
    p->key.vip = p->ip->destination;
    *(__u32 *)&p->key.client_port = *(__u32 *)p->l4; /* both ports at once: TCP and UDP begin with them */
    p->key.protocol = protocol;
    return LB_NEXT;
}

/* LB_NEXT: a first fragment. `offset`: in bytes; `size`: of this fragment's data; `whole`: what a packet that ends here has
 * in IP's length field. RFC 3128: a TCP fragment at offset 8 could hide flags from whoever looks at the first one. */
static __always_inline enum reason parse_fragment(struct packet *p, __u8 protocol, __u32 offset, __u32 size, int more,
                                                  __u32 whole)
{
    if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
        return irregular(p, DROP_FRAGMENT);
    if (!size || (more && size % 8) || whole > 0xffff || (offset == 8 && protocol == IPPROTO_TCP))
        return irregular(p, DROP_BAD_FRAGMENT);
    p->key.protocol = protocol;
    p->first = !offset;
    p->later = !!offset;
    return offset ? LB_FRAGMENT : LB_NEXT;
}

/* IPv6: which packets a program takes. The ports of fragments stand eight bytes further back, and all that is behind is
 * gone through twice by the verifier where both may come. */
enum shape { WHOLE, FRAGMENTED, EITHER };

#if IP_VERSION == 4
static __always_inline enum reason parse_ip(struct packet *p, void *end, enum shape shape)
{
    struct ip *ip = p->ip;
    __u32 size = p->length - sizeof(*ip);

    if (!plain(ip)) {
        __u32 header = (ip->version_words & 0xf) * 4;
        int sound = ip->version_words >> 4 == 4 && header > sizeof(*ip) && header <= p->length;

        return irregular(p, sound ? DROP_IP_OPTIONS : DROP_BAD_IP);
    }
    if (p->length < sizeof(*ip) || (void *)ip + p->length > end)
        return irregular(p, DROP_BAD_IP);
    p->l4 = ip + 1;
    if (ip->fragment & bpf_htons(IP_FRAGMENT)) {
        __u32 fragment = bpf_ntohs(ip->fragment), offset = (fragment & IP_OFFSET) * 8;
        enum reason reason;

        p->fragment_id = ip->id;
        reason = parse_fragment(p, ip->protocol, offset, size, fragment & IP_FRAGMENT & ~IP_OFFSET, offset + p->length);
        if (reason != LB_NEXT)
            return reason;
    }
    return parse_l4(p, end, ip->protocol, size);
}
#else
static __always_inline enum reason parse_ip(struct packet *p, void *end, enum shape shape)
{
    struct ip *ip = p->ip;
    struct ip_fragment *header = (void *)(ip + 1);
    __u32 size = p->length - sizeof(*ip);

    if (!plain(ip) || (void *)ip + p->length > end)
        return irregular(p, DROP_BAD_IP);
    p->l4 = header;
    if (ip->protocol == IPPROTO_FRAGMENT) {
        __u32 offset;
        enum reason reason;

        if (shape == WHOLE)
            return LB_FRAGMENTED;
        if (size < sizeof(*header) || (void *)(header + 1) > end)
            return irregular(p, DROP_BAD_FRAGMENT);
        offset = bpf_ntohs(header->fragment) & ~7;
        size -= sizeof(*header);
        p->fragment_id = header->id;
        p->l4 = header + 1;
        reason = parse_fragment(p, header->protocol, offset, size, header->fragment & bpf_htons(1), offset + size);
        return reason == LB_NEXT ? parse_l4(p, end, header->protocol, size) : reason;
    }
    if (shape == FRAGMENTED)
        return DROP_INTERNAL;
    if (ip->protocol == IPPROTO_HOPOPTS || ip->protocol == IPPROTO_ROUTING || ip->protocol == IPPROTO_DSTOPTS ||
        ip->protocol == IPPROTO_AH)
        return irregular(p, DROP_IP_OPTIONS);
    return parse_l4(p, end, ip->protocol, size);
}
#endif

/* Lengths are checked against the frame, which Ethernet may have padded: bytes after the IP packet do not count. */
static __always_inline enum reason parse(struct xdp_md *ctx, const struct settings *settings, struct packet *p,
                                         enum shape shape)
{
    void *data = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;

    p->ctx = ctx;
    p->eth = data;
    p->ip = data + sizeof(struct ethhdr);
    if (data + sizeof(struct ethhdr) > end)
        return PASS_TRUNCATED;
    if (p->eth->h_proto != bpf_htons(ETH_P_OURS))
        return PASS_NOT_IP;
    if ((void *)(p->ip + 1) > end)
        return PASS_TRUNCATED;
    if (!to_this_node(settings, p->eth->h_dest))
        return PASS_OTHER_HOST;
    p->length = ip_length(p->ip);
    return parse_ip(p, end, shape);
}
