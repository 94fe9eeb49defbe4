/* What the node itself says by ICMP, under the VIP, which is the only address that the other side has to know: answers to
 * echo requests, and "too big". The packet becomes the answer in place and leaves by the way it came.
 */
#define ICMP_TTL 64      /* the default of RFC 1700 */
#define ICMP_CLASS 0xc0  /* RFC 1812, section 4.3.2.5: precedence 6, internetwork control */
#define IP_DONT_FRAGMENT 0x4000

#if IP_VERSION == 4
#define ICMP_QUOTED 28   /* RFC 792: the header and eight bytes; a packet with options is never answered */
#define ECHO_REQUEST ICMP_ECHO
#define ECHO_REPLY ICMP_ECHOREPLY
#define TOO_BIG_TYPE ICMP_DEST_UNREACH
#define TOO_BIG_CODE ICMP_FRAG_NEEDED
#else
#define ICMP_QUOTED 56   /* the header, a Fragment header, and eight bytes */
#define ECHO_REQUEST 128 /* RFC 4443 */
#define ECHO_REPLY 129
#define TOO_BIG_TYPE 2
#define TOO_BIG_CODE 0
#endif

struct icmp {
    __u8 type;
    __u8 code;
    __u16 check;
    __be32 rest;         /* the MTU in "too big": in IPv4, where it has 16 bits, these are the last */
};

struct icmp_answer {
    struct ethhdr eth;
    struct ip ip;
    struct icmp icmp;
    __u8 quoted[ICMP_QUOTED];
} __attribute__((packed));

/* The one's complement sum of an even number of bytes, 65,537 words at most. */
static __always_inline __u16 sum_of(const void *data, __u32 size)
{
    const __u16 *word = data;
    __u32 sum = 0, i;

#pragma unroll
    for (i = 0; i < size / 2; i++)
        sum += word[i];
    return fold(sum);
}

/* RFC 1122, section 3.2.2; RFC 4443, section 2.4: no errors about errors or later fragments. IPv4: without DF the sender
 * counts on fragments. */
static __always_inline int may_answer(const struct packet *p)
{
    int plain_data = p->ip->protocol != PROTOCOL_ICMP && !p->later;

#if IP_VERSION == 4
    return plain_data && p->ip->fragment & bpf_htons(IP_DONT_FRAGMENT);
#else
    return plain_data;
#endif
}

/* "Too big" with the largest packet that would have passed (RFC 1191, section 4; RFC 4443, section 3.2), about what the
 * frame already quotes. The MAC addresses stand in it as well. */
static __always_inline enum reason send_too_big(struct xdp_md *ctx, struct icmp_answer *answer, struct address vip,
                                                struct address client, __u32 mtu)
{
    answer->icmp = (struct icmp){.type = TOO_BIG_TYPE, .code = TOO_BIG_CODE, .rest = bpf_htonl(mtu)};
#if IP_VERSION == 4
    answer->ip = (struct ip){
        .version_words = IP_PLAIN, .tos = ICMP_CLASS, .length = bpf_htons(sizeof(*answer) - sizeof(answer->eth)),
        .fragment = bpf_htons(IP_DONT_FRAGMENT), .ttl = ICMP_TTL, .protocol = IPPROTO_ICMP,
        .source = vip, .destination = client,
    };
    answer->ip.check = ~sum_of(&answer->ip, sizeof(answer->ip));
    answer->icmp.check = ~sum_of(&answer->icmp, sizeof(answer->icmp) + ICMP_QUOTED);
#else
    answer->ip = (struct ip){
        .version_class = 0x60 | ICMP_CLASS >> 4, .length = bpf_htons(sizeof(answer->icmp) + ICMP_QUOTED),
        .protocol = IPPROTO_ICMPV6, .ttl = ICMP_TTL, .source = vip, .destination = client,
    };
    answer->icmp.check = ~fold((__u32)sum_of(&answer->ip.source, 2 * sizeof(vip)) + answer->ip.length +
                               bpf_htons(IPPROTO_ICMPV6) + sum_of(&answer->icmp, sizeof(answer->icmp) + ICMP_QUOTED));
#endif
    if (bpf_xdp_adjust_tail(ctx, (int)sizeof(*answer) - (int)(ctx->data_end - ctx->data)))
        return DROP_INTERNAL;
    return TX_TOO_BIG;
}

static __always_inline void turn_back(struct ethhdr *eth)
{
    __u8 sender[ETH_ALEN];

    __builtin_memcpy(sender, eth->h_source, ETH_ALEN);
    __builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
    __builtin_memcpy(eth->h_dest, sender, ETH_ALEN);
}

/* The packet's first bytes move to where they are quoted, which may overlap; `up`: to a higher address. Word by word, since
 * the stack has no room for them. */
static __always_inline void quote(struct icmp_answer *answer, const void *packet, int up)
{
    volatile __u32 *to = (void *)answer->quoted;
    const volatile __u32 *from = packet;
    __u32 i, last = ICMP_QUOTED / 4 - 1;

#pragma unroll
    for (i = 0; i <= last; i++)
        to[up ? last - i : i] = from[up ? last - i : i];
}

static __always_inline enum reason answer_too_big(struct packet *p, __u32 mtu)
{
    struct icmp_answer *answer = (void *)(long)p->ctx->data;

    if ((void *)(answer + 1) > (void *)(long)p->ctx->data_end)
        return DROP_TOO_BIG;
    quote(answer, &answer->ip, 1);
    turn_back(&answer->eth);
    return send_too_big(p->ctx, answer, p->key.vip, p->key.client, mtu);
}

/* RFC 792, RFC 4443: the addresses change places, the type becomes the reply's, the data stay; with a TTL of its own. */
static __always_inline enum reason answer_echo(struct packet *p)
{
    struct icmp *icmp = (void *)(p->ip + 1);
    __be16 before = *(__be16 *)icmp;
    struct address client = p->ip->source;

    p->ip->source = p->ip->destination;
    p->ip->destination = client;
#if IP_VERSION == 4
    p->ip->check = adjusted(p->ip->check, fold((__u16)~bpf_htons(p->ip->ttl << 8) + bpf_htons(ICMP_TTL << 8)));
#endif
    p->ip->ttl = ICMP_TTL;
    icmp->type = ECHO_REPLY;
    /* 0 and 0xffff are the same, but in an answer of zeros alone 0 would not sum up. */
    icmp->check = adjusted(icmp->check, fold((__u16)~before + *(__be16 *)icmp)) ?: 0xffff;
    turn_back(p->eth);
    return TX_ECHO;
}
