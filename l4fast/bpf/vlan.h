/* VLANs (IEEE 802.1Q, one tag), and by which interface a packet leaves.
 *
 * The stages see untagged frames only. `untag` takes a frame's tag off, remembers it in `stats` and calls `lb`; what goes up
 * to the kernel or back to its sender gets it again, and what goes to a next hop gets that hop's, with the priority that
 * it came with. So frames that come and go untagged, which are most, pay for one comparison.
 */
struct tagged {
    __u8 macs[2 * ETH_ALEN];
    __be32 tag;             /* TPID and TCI */
    __be16 protocol;
} __attribute__((packed));
#define TPID (ETH_P_8021Q << 16)
#define TAG_PRIORITY 0xf000 /* mask: priority and drop eligibility */

struct macs {
    __u32 word[3];
};

/* Moves the MAC addresses as the frame grows by a tag, or shrinks by one; `by`: bytes, as for bpf_xdp_adjust_head. Says
 * whether it could. */
static __always_inline int shift(struct xdp_md *ctx, int by)
{
    struct macs *macs = (void *)(long)ctx->data, both;

    if ((void *)(macs + 1) > (void *)(long)ctx->data_end)
        return 0;
    both = *macs;
    if (bpf_xdp_adjust_head(ctx, by))
        return 0;
    macs = (void *)(long)ctx->data;
    if ((void *)macs + sizeof(struct tagged) > (void *)(long)ctx->data_end)
        return 0;
    *macs = both;
    return 1;
}

static __always_inline int push(struct xdp_md *ctx, __be32 tag)
{
    struct tagged *frame;

    if (!shift(ctx, -(int)sizeof(tag)))
        return 0;
    frame = (void *)(long)ctx->data;
    if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
        return 0;
    frame->tag = tag;
    return 1;
}

/* The tag of a packet that goes on to a next hop. */
static __always_inline __be32 hop_tag(__u32 way, __be32 came)
{
    return WAY_VLAN(way) ? bpf_htonl(TPID | (bpf_ntohl(came) & TAG_PRIORITY) | WAY_VLAN(way)) : 0;
}

/* What is sent: back into the interface that it came from, or over to another. */
static __always_inline int send_on(const struct packet *p, const struct settings *settings)
{
    __u32 number = ((p->way & WAY_INTERFACE) - 1) & (INTERFACES - 1);

    if (!(p->way & WAY_INTERFACE) || settings->interfaces[number].index == p->ctx->ingress_ifindex)
        return XDP_TX;
    return devices.redirect_map(number, 0);
}

/* Neither out by the only interface nor without any tag. */
static __always_inline int leave_by(struct packet *p, const struct settings *settings, struct stats *stats,
                                    enum reason reason)
{
    __be32 tag = stats->tag;
    int action;

    if (reason < PASS_FIRST && p->hop)
        tag = hop_tag(p->way, tag);
    stats->tag = 0;
    if (tag && (reason < DROP_FIRST || reason >= REASON_COUNT) && !push(p->ctx, tag))
        reason = DROP_INTERNAL;
    action = leave(stats, reason);
    return action == XDP_TX ? send_on(p, settings) : action;
}

/* LB_NEXT: the tag is off, and kept. */
static __always_inline enum reason take_tag(struct xdp_md *ctx, const struct settings *settings, struct stats *stats)
{
    struct tagged *frame = (void *)(long)ctx->data;
    __be32 tag;

    if ((void *)(frame + 1) > (void *)(long)ctx->data_end)
        return PASS_TRUNCATED;
    if (frame->protocol != bpf_htons(ETH_P_OURS))
        return PASS_NOT_IP;
    if (!to_this_node(settings, frame->macs))
        return PASS_OTHER_HOST;
    tag = frame->tag;
    if (!shift(ctx, sizeof(tag)))
        return PASS_TRUNCATED;
    stats->tag = tag;
    return LB_NEXT;
}
