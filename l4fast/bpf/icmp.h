/* What the node itself says by ICMP, under the VIP, which is the only address that the other side has to know: answers to
 * echo requests, and "too big". The packet becomes the answer in place and leaves by the way it came.
 */
#define ICMP_QUOTED 28   /* RFC 792: the header and eight bytes; a packet with options is never answered */
#define ICMP_TTL 64      /* the default of RFC 1700 */
#define ICMP_TOS 0xc0    /* RFC 1812, section 4.3.2.5: precedence 6, internetwork control */
#define IP_DONT_FRAGMENT 0x4000

struct icmp_answer {
    struct ethhdr eth;
    struct iphdr ip;
    struct icmphdr icmp;
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

/* RFC 1122, section 3.2.2: no errors about errors or later fragments. Without DF the sender counts on fragments. */
static __always_inline int may_answer(const struct iphdr *ip)
{
    return (ip->frag_off & bpf_htons(IP_DONT_FRAGMENT | IP_OFFSET)) == bpf_htons(IP_DONT_FRAGMENT) &&
           ip->protocol != IPPROTO_ICMP;
}

/* "Fragmentation needed" with the largest packet that would have passed (RFC 1191, section 4), about what the frame
 * already quotes. The sender's MAC address stands in it as well. */
static __always_inline enum reason send_too_big(struct xdp_md *ctx, struct icmp_answer *answer, __be32 vip,
                                                __be32 client, __u32 mtu)
{
    answer->ip = (struct iphdr){
        .version = 4, .ihl = 5, .tos = ICMP_TOS, .tot_len = bpf_htons(sizeof(*answer) - sizeof(answer->eth)),
        .frag_off = bpf_htons(IP_DONT_FRAGMENT), .ttl = ICMP_TTL, .protocol = IPPROTO_ICMP,
        .saddr = vip, .daddr = client,
    };
    answer->ip.check = ~sum_of(&answer->ip, sizeof(answer->ip));
    answer->icmp = (struct icmphdr){.type = ICMP_DEST_UNREACH, .code = ICMP_FRAG_NEEDED};
    answer->icmp.un.frag.mtu = bpf_htons(mtu);
    answer->icmp.checksum = ~sum_of(&answer->icmp, sizeof(answer->icmp) + ICMP_QUOTED);
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

static __always_inline enum reason answer_too_big(struct packet *p, __u32 mtu)
{
    struct icmp_answer *answer = (void *)(long)p->ctx->data;

    if ((void *)(answer + 1) > (void *)(long)p->ctx->data_end)
        return DROP_TOO_BIG;
    /* Where the headers are and where they go do not overlap: Ethernet and 28 bytes, then 28 more. */
    __builtin_memcpy(answer->quoted, &answer->ip, ICMP_QUOTED);
    turn_back(&answer->eth);
    return send_too_big(p->ctx, answer, p->key.vip, p->key.client, mtu);
}

/* RFC 792: the addresses change places, the type becomes 0, the data stay; with a TTL of its own. */
static __always_inline enum reason answer_echo(struct packet *p)
{
    struct icmphdr *icmp = (void *)(p->ip + 1);
    __be16 before = *(__be16 *)icmp;
    __be32 client = p->ip->saddr;

    p->ip->saddr = p->ip->daddr;
    p->ip->daddr = client;
    p->ip->check = adjusted(p->ip->check, fold((__u16)~bpf_htons(p->ip->ttl << 8) + bpf_htons(ICMP_TTL << 8)));
    p->ip->ttl = ICMP_TTL;
    icmp->type = ICMP_ECHOREPLY;
    /* 0 and 0xffff are the same, but in an answer of zeros alone 0 would not sum up. */
    icmp->checksum = adjusted(icmp->checksum, fold((__u16)~before + *(__be16 *)icmp)) ?: 0xffff;
    turn_back(p->eth);
    return TX_ECHO;
}
