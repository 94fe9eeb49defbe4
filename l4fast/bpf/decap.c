/* Takes tunnel packets apart on a real whose kernel has no ipip: what is inside goes on to the kernel as if it had come
 * by itself. Only packets for our VIPs are touched, from our nodes if those were named; every other is the kernel's.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#include "decap.h"

#define IP_FRAGMENT 0x3fff /* mask: more-fragments bit and offset */
#define IP_PLAIN 0x45      /* version 4, header of five words */
#define ECN 3              /* mask of the traffic class: 0 not capable, 1 and 2 capable, 3 congestion experienced */

/* address → 1. Written by Python. */
BPF_TABLE("hash", __be32, __u32, vips, MAX_VIPS);
BPF_TABLE("hash", __be32, __u32, nodes, MAX_NODES);
/* element 0: 1 if `nodes` is the list of whom packets are taken from. Written by Python. */
BPF_TABLE("array", int, __u32, only_nodes, 1);
/* enum outcome → packets */
BPF_TABLE("percpu_array", int, __u64, outcomes, OUTCOME_COUNT);

/* RFC 6040, section 4.2: congestion met on the way is told to the inner packet, if it can bear it. */
static __always_inline int mark_congestion(struct iphdr *inner, __u8 outer_tos)
{
    __u32 sum;
    __u8 ecn = inner->tos & ECN;

    if ((outer_tos & ECN) != ECN || ecn == ECN)
        return 0;
    if (!ecn)
        return -1;
    /* The traffic class is the low byte of its word: the sum grows by what the byte grows. */
    sum = (__u16)~inner->check + bpf_htons(ECN - ecn);
    inner->check = ~((sum & 0xffff) + (sum >> 16));
    inner->tos |= ECN;
    return 0;
}

static __always_inline enum outcome open_packet(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;
    struct ethhdr eth, *moved;
    struct iphdr *outer = data + sizeof(eth), *inner = outer + 1;
    __u32 *restricted, length;
    __be32 node, vip;
    int zero = 0;

    if ((void *)(outer + 1) > end)
        return PASS_OTHER;
    __builtin_memcpy(&eth, data, sizeof(eth));
    if (eth.h_proto != bpf_htons(ETH_P_IP) || *(__u8 *)outer != IP_PLAIN || outer->protocol != IPPROTO_IPIP ||
        outer->frag_off & bpf_htons(IP_FRAGMENT))
        return PASS_OTHER;
    if ((void *)(inner + 1) > end)
        return PASS_OTHER;
    vip = inner->daddr;
    if (!vips.lookup(&vip))
        return PASS_OTHER;
    restricted = only_nodes.lookup(&zero);
    node = outer->saddr;
    if (!restricted || (*restricted && !nodes.lookup(&node)))
        return DROP_NOT_FROM_NODE;
    length = bpf_ntohs(inner->tot_len);
    if (*(__u8 *)inner != IP_PLAIN || length < sizeof(*inner) ||
        length + sizeof(*outer) != bpf_ntohs(outer->tot_len) || (void *)inner + length > end)
        return DROP_MALFORMED;
    if (mark_congestion(inner, outer->tos))
        return DROP_CONGESTION;
    if (bpf_xdp_adjust_head(ctx, sizeof(*outer)))
        return DROP_MALFORMED;
    moved = (void *)(long)ctx->data;
    if ((void *)(moved + 1) > (void *)(long)ctx->data_end)
        return DROP_MALFORMED;
    *moved = eth;
    return PASS_OPENED;
}

int decap(struct xdp_md *ctx)
{
    int outcome = open_packet(ctx);
    __u64 *count = outcomes.lookup(&outcome);

    if (count)
        (*count)++;
    return outcome < DROP_FIRST ? XDP_PASS : XDP_DROP;
}
