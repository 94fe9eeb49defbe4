/* The least that a balancer with sessions does: parse, one LRU look-up, rewrite the MAC addresses (with NAT the
 * destination and its checksums; with TUNNEL an outer header goes in front), count in the session. No listeners, states, ageing, sync or counters.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>

struct flow_key {
    __be32 source;
    __be32 destination;
    __u32 ports;
    __u32 protocol;
};

struct flow {
    __u64 packets;
    __u64 bytes;
    __be32 real;
    __u32 delta;
    __u8 mac[6];
    __u8 zero[2];
};

BPF_TABLE("lru_hash", struct flow_key, struct flow, flows, MAX_FLOWS);

static __always_inline __u16 adjusted(__u16 check, __u32 delta)
{
    __u32 sum = (__u16)~check + delta;

    sum = (sum & 0xffff) + (sum >> 16);
    return ~((sum & 0xffff) + (sum >> 16));
}

int floor_xdp(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = data;
    struct iphdr *ip = (void *)(eth + 1);
    struct tcphdr *tcp = (void *)(ip + 1);
    struct flow_key key = {};
    struct flow *flow;
    __u16 *check;

    if ((void *)(tcp + 1) > end)
        return XDP_PASS;
    if (eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5 || ip->frag_off & bpf_htons(0x3fff))
        return XDP_PASS;
    if (ip->protocol == IPPROTO_TCP)
        check = &tcp->check;
    else if (ip->protocol == IPPROTO_UDP)
        check = &((struct udphdr *)tcp)->check;
    else
        return XDP_PASS;
    key.source = ip->saddr;
    key.destination = ip->daddr;
    key.ports = *(__u32 *)tcp;
    key.protocol = ip->protocol;
    flow = flows.lookup(&key);
    if (!flow) {
        struct flow new = {.real = 0x0a0a0a0a, .delta = 0x1234, .mac = {2, 0, 0, 0, 0, 9}};

        flows.update(&key, &new);
        return XDP_DROP;
    }
    __builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
    __builtin_memcpy(eth->h_dest, flow->mac, ETH_ALEN);
#if NAT
    ip->daddr = flow->real;
    ip->check = adjusted(ip->check, flow->delta);
    *check = adjusted(*check, flow->delta);
    ip->ttl--;
#endif
    flow->packets++;
    flow->bytes += end - data;
#if TUNNEL
    struct iphdr outer = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_IPIP, .saddr = 0x0a0a0a0b};
    struct ethhdr moved = *eth;

    outer.tot_len = bpf_htons(bpf_ntohs(ip->tot_len) + sizeof(outer));
    outer.daddr = flow->real;
    outer.check = adjusted(0xffff, (flow->delta + outer.tot_len) & 0xffff);
    if (bpf_xdp_adjust_head(ctx, -(int)sizeof(outer)))
        return XDP_DROP;
    data = (void *)(long)ctx->data;
    end = (void *)(long)ctx->data_end;
    if (data + sizeof(moved) + sizeof(outer) > end)
        return XDP_DROP;
    *(struct ethhdr *)data = moved;
    *(struct iphdr *)(data + sizeof(moved)) = outer;
#endif
    return XDP_TX;
}
