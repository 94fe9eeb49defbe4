/* Takes tunnel packets apart on a real whose kernel has no ipip or ip6_tunnel: what is inside goes on to the kernel as if
 * it had come by itself. IPv4 in IPv4 and IPv6 in IPv6. Only packets for our VIPs are touched, from our nodes if those
 * were named; every other is the kernel's.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "decap.h"

#define IP_FRAGMENT 0x3fff /* mask: more-fragments bit and offset */
#define IP_PLAIN 0x45      /* version 4, header of five words */
#define IP6_VERSION 6
#define ECN 3              /* mask of the traffic class: 0 not capable, 1 and 2 capable, 3 congestion experienced */

/* Of IPv4 as ::ffff:a.b.c.d, which no packet carries (RFC 4291, section 2.5.5.2). */
struct address {
    __be32 word[4];
};

/* address → 1. Written by Python. */
BPF_TABLE("hash", struct address, __u32, vips, MAX_VIPS);
BPF_TABLE("hash", struct address, __u32, nodes, MAX_NODES);
/* element 0: 1 if `nodes` is the list of whom packets are taken from. Written by Python. */
BPF_TABLE("array", int, __u32, only_nodes, 1);
/* enum outcome → packets */
BPF_TABLE("percpu_array", int, __u64, outcomes, OUTCOME_COUNT);

static __always_inline int is_vip(struct address vip)
{
    return vips.lookup(&vip) != 0;
}

static __always_inline int from_node(struct address source)
{
    int zero = 0;
    __u32 *restricted = only_nodes.lookup(&zero);

    return restricted && (!*restricted || nodes.lookup(&source));
}

/* RFC 6040, section 4.2: congestion met on the way is told to the inner packet, if it can bear it. Says how much the inner
 * field has to grow; -1: it cannot bear it.
 */
static __always_inline int congestion(__u8 outer, __u8 inner)
{
    if ((outer & ECN) != ECN || (inner & ECN) == ECN)
        return 0;
    return inner & ECN ? ECN - (inner & ECN) : -1;
}

/* Takes the outer header off; the Ethernet header stays. */
static __always_inline enum outcome shorten(struct xdp_md *ctx, int size)
{
    struct ethhdr eth, *moved = (void *)(long)ctx->data;

    if ((void *)(moved + 1) > (void *)(long)ctx->data_end)
        return DROP_MALFORMED;
    eth = *moved;
    if (bpf_xdp_adjust_head(ctx, size))
        return DROP_MALFORMED;
    moved = (void *)(long)ctx->data;
    if ((void *)(moved + 1) > (void *)(long)ctx->data_end)
        return DROP_MALFORMED;
    *moved = eth;
    return PASS_OPENED;
}

static __always_inline struct address of_v4(__be32 address)
{
    return (struct address){{0, 0, bpf_htonl(0xffff), address}};
}

static __always_inline enum outcome open_v4(struct xdp_md *ctx, struct iphdr *outer, void *end)
{
    struct iphdr *inner = outer + 1;
    __u32 length, sum;
    int grows;

    if ((void *)(inner + 1) > end)
        return PASS_OTHER;
    if (*(__u8 *)outer != IP_PLAIN || outer->protocol != IPPROTO_IPIP || outer->frag_off & bpf_htons(IP_FRAGMENT) ||
        !is_vip(of_v4(inner->daddr)))
        return PASS_OTHER;
    if (!from_node(of_v4(outer->saddr)))
        return DROP_NOT_FROM_NODE;
    length = bpf_ntohs(inner->tot_len);
    if (*(__u8 *)inner != IP_PLAIN || length < sizeof(*inner) ||
        length + sizeof(*outer) != bpf_ntohs(outer->tot_len) || (void *)inner + length > end)
        return DROP_MALFORMED;
    grows = congestion(outer->tos, inner->tos);
    if (grows < 0)
        return DROP_CONGESTION;
    /* The traffic class is the low byte of its word: the sum grows by what the byte grows. */
    sum = (__u16)~inner->check + bpf_htons(grows);
    inner->check = ~((sum & 0xffff) + (sum >> 16));
    inner->tos += grows;
    return shorten(ctx, sizeof(*outer));
}

static __always_inline struct address of_v6(const struct in6_addr *address)
{
    const __be32 *word = (const __be32 *)address;

    return (struct address){{word[0], word[1], word[2], word[3]}};
}

/* Its low four bits are the high half of the second byte. */
static __always_inline __u8 traffic_class(const struct ipv6hdr *ip)
{
    return ip->priority << 4 | ip->flow_lbl[0] >> 4;
}

static __always_inline enum outcome open_v6(struct xdp_md *ctx, struct ipv6hdr *outer, void *end)
{
    struct ipv6hdr *inner = outer + 1;
    __u32 length;
    int grows;

    if ((void *)(inner + 1) > end)
        return PASS_OTHER;
    if (outer->version != IP6_VERSION || outer->nexthdr != IPPROTO_IPV6 || !is_vip(of_v6(&inner->daddr)))
        return PASS_OTHER;
    if (!from_node(of_v6(&outer->saddr)))
        return DROP_NOT_FROM_NODE;
    length = sizeof(*inner) + bpf_ntohs(inner->payload_len);
    if (inner->version != IP6_VERSION || length != bpf_ntohs(outer->payload_len) || (void *)inner + length > end)
        return DROP_MALFORMED;
    grows = congestion(traffic_class(outer), traffic_class(inner));
    if (grows < 0)
        return DROP_CONGESTION;
    inner->flow_lbl[0] += grows << 4;
    return shorten(ctx, sizeof(*outer));
}

static __always_inline enum outcome open_packet(struct xdp_md *ctx)
{
    void *end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = (void *)(long)ctx->data;

    if ((void *)(eth + 1) > end)
        return PASS_OTHER;
    if (eth->h_proto == bpf_htons(ETH_P_IP))
        return open_v4(ctx, (void *)(eth + 1), end);
    if (eth->h_proto == bpf_htons(ETH_P_IPV6))
        return open_v6(ctx, (void *)(eth + 1), end);
    return PASS_OTHER;
}

int decap(struct xdp_md *ctx)
{
    int outcome = open_packet(ctx);
    __u64 *count = outcomes.lookup(&outcome);

    if (count)
        (*count)++;
    return outcome < DROP_FIRST ? XDP_PASS : XDP_DROP;
}
