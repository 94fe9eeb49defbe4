/* ICMP errors that the node itself answers with. The packet becomes the answer in place: what is quoted moves behind new
 * headers and the rest is cut off. It leaves by the way the packet came, from the VIP, which is the only address that the
 * sender has to know.
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

/* "Fragmentation needed" with the largest packet that would have passed (RFC 1191, section 4). */
static __always_inline enum reason answer_too_big(struct packet *p, __u32 mtu)
{
    void *data = (void *)(long)p->ctx->data;
    void *end = (void *)(long)p->ctx->data_end;
    struct icmp_answer *answer = data;
    __u8 sender[ETH_ALEN];

    if ((void *)(answer + 1) > end)
        return DROP_TOO_BIG;
    /* Where the headers are and where they go do not overlap: Ethernet and 28 bytes, then 28 more. */
    __builtin_memcpy(answer->quoted, &answer->ip, ICMP_QUOTED);
    __builtin_memcpy(sender, answer->eth.h_source, ETH_ALEN);
    __builtin_memcpy(answer->eth.h_source, answer->eth.h_dest, ETH_ALEN);
    __builtin_memcpy(answer->eth.h_dest, sender, ETH_ALEN);
    answer->ip = (struct iphdr){
        .version = 4, .ihl = 5, .tos = ICMP_TOS, .tot_len = bpf_htons(sizeof(*answer) - sizeof(answer->eth)),
        .frag_off = bpf_htons(IP_DONT_FRAGMENT), .ttl = ICMP_TTL, .protocol = IPPROTO_ICMP,
        .saddr = p->key.vip, .daddr = p->key.client,
    };
    answer->ip.check = ~sum_of(&answer->ip, sizeof(answer->ip));
    answer->icmp = (struct icmphdr){.type = ICMP_DEST_UNREACH, .code = ICMP_FRAG_NEEDED};
    answer->icmp.un.frag.mtu = bpf_htons(mtu);
    answer->icmp.checksum = ~sum_of(&answer->icmp, sizeof(answer->icmp) + ICMP_QUOTED);
    if (bpf_xdp_adjust_tail(p->ctx, (int)sizeof(*answer) - (int)(end - data)))
        return DROP_INTERNAL;
    return TX_TOO_BIG;
}
