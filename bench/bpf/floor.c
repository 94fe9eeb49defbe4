/* The least that a balancer with sessions does: parse, one LRU look-up, rewrite the MAC addresses (with NAT the
 * destination and its checksums; with TUNNEL an outer header goes in front), count in the session. No listeners, states,
 * ageing, sync or counters. An entry takes as much memory as a session does, within a tenth. IP_VERSION is 4 or 6.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#if IP_VERSION == 4
#define ETHERTYPE ETH_P_IP
#define ADDRESS_WORDS 1
typedef struct iphdr ip_header;
#else
#define ETHERTYPE ETH_P_IPV6
#define ADDRESS_WORDS 4
typedef struct ipv6hdr ip_header;
#endif

struct address {
    __be32 word[ADDRESS_WORDS];
};

struct flow_key {
    struct address source;
    struct address destination;
    __u32 ports;
    __u32 protocol;
};

struct flow {
    __u64 packets;
    __u64 bytes;
    struct address real;
    struct address unused;
    __u32 delta;
    __u8 mac[6];
    __u8 zero[6];
};

BPF_TABLE("lru_hash", struct flow_key, struct flow, flows, MAX_FLOWS);

static __always_inline __u16 adjusted(__u16 check, __u32 delta)
{
    __u32 sum = (__u16)~check + delta;

    sum = (sum & 0xffff) + (sum >> 16);
    return ~((sum & 0xffff) + (sum >> 16));
}

#if IP_VERSION == 4
static __always_inline int plain(const ip_header *ip)
{
    return ip->ihl == 5 && !(ip->frag_off & bpf_htons(0x3fff));
}

static __always_inline __u8 protocol_of(const ip_header *ip)
{
    return ip->protocol;
}

static __always_inline void rewrite(ip_header *ip, const struct flow *flow)
{
    ip->check = adjusted(ip->check, flow->delta);
    ip->ttl--;
}

static __always_inline ip_header outer_header(const ip_header *inner, const struct flow *flow)
{
    ip_header outer = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_IPIP, .saddr = 0x0a0a0a0b};

    outer.tot_len = bpf_htons(bpf_ntohs(inner->tot_len) + sizeof(outer));
    outer.daddr = flow->real.word[0];
    outer.check = adjusted(0xffff, (flow->delta + outer.tot_len) & 0xffff);
    return outer;
}
#else
static __always_inline int plain(const ip_header *ip)
{
    return 1;
}

static __always_inline __u8 protocol_of(const ip_header *ip)
{
    return ip->nexthdr;
}

static __always_inline void rewrite(ip_header *ip, const struct flow *flow)
{
    ip->hop_limit--;
}

static __always_inline ip_header outer_header(const ip_header *inner, const struct flow *flow)
{
    ip_header outer = {.version = 6, .hop_limit = 64, .nexthdr = IPPROTO_IPV6};

    outer.payload_len = bpf_htons(bpf_ntohs(inner->payload_len) + sizeof(outer));
    outer.saddr.s6_addr32[3] = 0x0a0a0a0b;
    *(struct address *)&outer.daddr = flow->real;
    return outer;
}
#endif

int floor_xdp(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;
    struct ethhdr *eth = data;
    ip_header *ip = (void *)(eth + 1);
    struct tcphdr *tcp = (void *)(ip + 1);
    struct flow_key key = {};
    struct flow *flow;
    __u16 *check;

    if ((void *)(tcp + 1) > end)
        return XDP_PASS;
    if (eth->h_proto != bpf_htons(ETHERTYPE) || !plain(ip))
        return XDP_PASS;
    if (protocol_of(ip) == IPPROTO_TCP)
        check = &tcp->check;
    else if (protocol_of(ip) == IPPROTO_UDP)
        check = &((struct udphdr *)tcp)->check;
    else
        return XDP_PASS;
    key.source = *(struct address *)&ip->saddr;
    key.destination = *(struct address *)&ip->daddr;
    key.ports = *(__u32 *)tcp;
    key.protocol = protocol_of(ip);
    flow = flows.lookup(&key);
    if (!flow) {
        struct flow new = {.real.word[0] = 0x0a0a0a0a, .delta = 0x1234, .mac = {2, 0, 0, 0, 0, 9}};

        flows.update(&key, &new);
        return XDP_DROP;
    }
    __builtin_memcpy(eth->h_source, eth->h_dest, ETH_ALEN);
    __builtin_memcpy(eth->h_dest, flow->mac, ETH_ALEN);
#if NAT
    *(struct address *)&ip->daddr = flow->real;
    rewrite(ip, flow);
    *check = adjusted(*check, flow->delta);
#endif
    flow->packets++;
    flow->bytes += end - data;
#if TUNNEL
    ip_header outer = outer_header(ip, flow);
    struct ethhdr moved = *eth;

    if (bpf_xdp_adjust_head(ctx, -(int)sizeof(outer)))
        return XDP_DROP;
    data = (void *)(long)ctx->data;
    end = (void *)(long)ctx->data_end;
    if (data + sizeof(moved) + sizeof(outer) > end)
        return XDP_DROP;
    *(struct ethhdr *)data = moved;
    *(ip_header *)(data + sizeof(moved)) = outer;
#endif
    return XDP_TX;
}
