/* What the program has to know of a packet. The pointers lead into the frame and were checked against its end. `check`
 * is found while parsing since the verifier (6.18) does not remember later that a TCP packet is longer than a UDP one. */
struct packet {
    struct xdp_md *ctx;
    struct ethhdr *eth;
    struct iphdr *ip;
    void *l4;
    __u16 *check;           /* of TCP or UDP */
    struct session_key key; /* as from a client: source is the client, destination the VIP */
    __u32 length;           /* IP total length */
    __u32 first;            /* a first fragment: identification, and FIRST_FRAGMENT */
    __be32 sequence;        /* TCP */
    __u8 tcp_flags;         /* byte 13 of the TCP header; 0 for UDP */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_CONTROL (TCP_FIN | TCP_SYN | TCP_RST) /* mask: packets that may change a session's state */
#define TCP_FLAGS 13       /* offset of the flags' byte */
#define TCP_DATA_OFFSET 12 /* offset of the byte whose high four bits are the header's length in words */
#define IP_FRAGMENT 0x3fff /* mask: more-fragments bit and offset */
#define IP_OFFSET 0x1fff   /* mask: the offset, in units of eight bytes */
#define FIRST_FRAGMENT 0x10000
#define IP_PLAIN 0x45      /* version 4, header of five words */

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
    return *(__u32 *)a == *(__u32 *)b && *(__u16 *)(a + 4) == *(__u16 *)(b + 4);
}

static __always_inline int is_vip(__be32 address)
{
    return vips.lookup(&address) != NULL;
}

/* A packet that no flow can have: a VIP's is dropped under its own name, any other is the kernel's business. */
static __always_inline enum reason irregular(struct packet *p, enum reason reason)
{
    return is_vip(p->ip->daddr) ? reason : PASS_NOT_FOR_VIP;
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

static __always_inline enum reason parse_l4(struct packet *p, void *end)
{
    __u32 l4_length = p->length - sizeof(struct iphdr);
    enum reason reason;

    p->l4 = p->ip + 1;
    if (p->ip->protocol == IPPROTO_TCP)
        reason = parse_tcp(p, end, l4_length);
    else if (p->ip->protocol == IPPROTO_UDP)
        reason = parse_udp(p, end, l4_length);
    else
        return p->ip->protocol == IPPROTO_ICMP ? LB_ICMP : irregular(p, PASS_OTHER_PROTOCOL);
    if (reason != LB_NEXT)
        return reason;
    p->key.client = p->ip->saddr;
    p->key.vip = p->ip->daddr;
    *(__u32 *)&p->key.client_port = *(__u32 *)p->l4; /* both ports at once: TCP and UDP begin with them */
    p->key.protocol = p->ip->protocol;
    return LB_NEXT;
}

/* LB_NEXT: a first fragment, which has ports. RFC 3128: a TCP fragment at offset 1 could hide flags from whoever looks at
 * the first one. */
static __always_inline enum reason parse_fragment(struct packet *p)
{
    __u32 offset = bpf_ntohs(p->ip->frag_off) & IP_OFFSET, size = p->length - sizeof(struct iphdr);
    int more = bpf_ntohs(p->ip->frag_off) & IP_FRAGMENT & ~IP_OFFSET;

    if (p->ip->protocol != IPPROTO_TCP && p->ip->protocol != IPPROTO_UDP)
        return irregular(p, DROP_FRAGMENT);
    if (!size || (more && size % 8) || offset * 8 + p->length > 0xffff || (offset == 1 && p->ip->protocol == IPPROTO_TCP))
        return irregular(p, DROP_BAD_FRAGMENT);
    if (offset)
        return LB_FRAGMENT;
    p->first = FIRST_FRAGMENT | p->ip->id;
    return LB_NEXT;
}

/* Lengths are checked against the frame, which Ethernet may have padded: bytes after the total length do not count. */
static __always_inline enum reason parse(struct xdp_md *ctx, const struct settings *settings, struct packet *p)
{
    void *data = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;

    p->ctx = ctx;
    p->eth = data;
    p->ip = data + sizeof(struct ethhdr);
    if (data + sizeof(struct ethhdr) > end)
        return PASS_TRUNCATED;
    if (p->eth->h_proto != bpf_htons(ETH_P_IP))
        return PASS_NOT_IPV4;
    if ((void *)(p->ip + 1) > end)
        return PASS_TRUNCATED;
    if (!same_mac(p->eth->h_dest, settings->mac))
        return PASS_OTHER_HOST;
    p->length = bpf_ntohs(p->ip->tot_len);
    if (*(__u8 *)p->ip != IP_PLAIN) {
        __u32 header = p->ip->ihl * 4;
        int sound = p->ip->version == 4 && header > sizeof(struct iphdr) && header <= p->length;

        return irregular(p, sound ? DROP_IP_OPTIONS : DROP_BAD_IP);
    }
    if (p->length < sizeof(struct iphdr) || (void *)p->ip + p->length > end)
        return irregular(p, DROP_BAD_IP);
    if (p->ip->frag_off & bpf_htons(IP_FRAGMENT)) {
        enum reason reason = parse_fragment(p);

        if (reason != LB_NEXT)
            return reason;
    }
    return parse_l4(p, end);
}
