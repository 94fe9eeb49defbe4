/* Restores a packet and hands it to the program under test: a rewritten packet would not match on the next repeat of
 * BPF_PROG_TEST_RUN. An outer header is taken off again, which counts for the program that has put it there. Run with
 * `run` 0 it measures its own cost. FRAME is the length of a frame.
 */
#include <linux/bpf.h>

struct frame {
    __u8 bytes[FRAME];
};

struct state {
    __u32 next;
    __u32 mask; /* frames are used in turn: a power of two of them */
    __u32 run;
    __u32 zero;
};

BPF_TABLE("array", int, struct frame, frames, MAX_FRAMES);
BPF_TABLE("array", int, struct state, state, 1);
BPF_TABLE("prog", int, int, target, 1);

int root(struct xdp_md *ctx)
{
    int zero = 0, index;
    struct state *turn = state.lookup(&zero);
    struct frame *frame;
    void *data, *end;

    if (!turn)
        return XDP_ABORTED;
    index = turn->next++ & turn->mask;
    frame = frames.lookup(&index);
    if (!frame)
        return XDP_ABORTED;
    data = (void *)(long)ctx->data;
    end = (void *)(long)ctx->data_end;
    if (end - data > FRAME) {
        if (bpf_xdp_adjust_head(ctx, end - data - FRAME))
            return XDP_ABORTED;
        data = (void *)(long)ctx->data;
        end = (void *)(long)ctx->data_end;
    }
    if (data + FRAME > end)
        return XDP_ABORTED;
    __builtin_memcpy(data, frame->bytes, FRAME);
    if (turn->run)
        target.call(ctx, 0);
    return XDP_PASS;
}
