/* The ends of a veth pair: `generate` is run by the benchmark and sends frames in turn into the pair, `count` counts what
 * comes back to the sender. `echo` and `drop`, at the other end, are the least that a program there can do.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>

struct frame {
    __u8 bytes[FRAME];
};

BPF_TABLE("array", int, struct frame, frames, FRAMES);
BPF_TABLE("percpu_array", int, __u32, next, 1);
BPF_TABLE("percpu_array", int, __u64, counted, 1);

int generate(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    void *end = (void *)(long)ctx->data_end;
    int zero = 0, index;
    __u32 *turn = next.lookup(&zero);
    struct frame *frame;

    if (!turn || data + FRAME > end)
        return XDP_DROP;
    index = (*turn)++ % FRAMES;
    frame = frames.lookup(&index);
    if (!frame)
        return XDP_DROP;
    __builtin_memcpy(data, frame->bytes, FRAME);
    return XDP_TX;
}

int count(struct xdp_md *ctx)
{
    int zero = 0;
    __u64 *packets = counted.lookup(&zero);

    if (packets)
        (*packets)++;
    return XDP_DROP;
}

int echo(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    struct ethhdr *eth = data;
    __u8 mac[ETH_ALEN];

    if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
        return XDP_DROP;
    __builtin_memcpy(mac, eth->h_dest, ETH_ALEN);
    __builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
    __builtin_memcpy(eth->h_source, mac, ETH_ALEN);
    return XDP_TX;
}

int drop(struct xdp_md *ctx)
{
    int zero = 0;
    __u64 *packets = counted.lookup(&zero);

    if (packets)
        (*packets)++;
    return XDP_DROP;
}
