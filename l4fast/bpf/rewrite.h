/* Packets are rewritten in place, checksums by what changes (RFC 1624, equation 3): a sum that was wrong stays wrong, for
 * the receiver to find. A "delta" is the one's complement sum of the inverted old words and the new ones, in wire order.
 */

static __always_inline __u32 words(__be32 address)
{
    return (address & 0xffff) + (address >> 16);
}

/* Folds a sum of at most 65,537 words to 16 bits; the second time for the carry of the first. */
static __always_inline __u16 fold(__u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u16 address_delta(__be32 old, __be32 new)
{
    return fold(words(~old) + words(new));
}

/* One less in TTL, the high byte of its word, is the same delta whatever the word: minus 0x0100 in one's complement. */
static __always_inline __u16 l3_delta(__be32 old, __be32 new)
{
    return fold((__u32)address_delta(old, new) + bpf_htons(0xfeff));
}

static __always_inline __u16 l4_delta(__be32 old, __be32 new, __be16 old_port, __be16 new_port)
{
    return fold((__u32)address_delta(old, new) + (__u16)~old_port + new_port);
}

static __always_inline __u16 adjusted(__u16 check, __u16 delta)
{
    __u32 sum = (__u32)(__u16)~check + delta;

    return ~((sum & 0xffff) + (sum >> 16)); /* at most 0x1fffe: one fold */
}

static __always_inline void rewrite_l4(struct packet *p, __u16 delta)
{
    __u16 check = *p->check;

    if (p->key.protocol == IPPROTO_TCP)
        *p->check = adjusted(check, delta);
    else if (check) /* zero: the sender made none (RFC 768) */
        *p->check = adjusted(check, delta) ?: 0xffff;
}

static __always_inline void count_in(__u16 listener, __u32 length)
{
    int index = listener;
    struct listener_stats *stats = listener_stats.lookup(&index);

    if (stats) {
        stats->packets_in++;
        stats->bytes_in += length;
    }
}

static __always_inline void count_out(__u16 listener, __u32 length)
{
    int index = listener;
    struct listener_stats *stats = listener_stats.lookup(&index);

    if (stats) {
        stats->packets_out++;
        stats->bytes_out += length;
    }
}

static __always_inline void send_to(struct packet *p, const __u8 *mac)
{
    __builtin_memcpy(p->eth->h_source, p->eth->h_dest, ETH_ALEN);
    __builtin_memcpy(p->eth->h_dest, mac, ETH_ALEN);
}

/* From the client to the session's real. `reason` says why, if it can be. */
static __always_inline enum reason to_real(struct packet *p, const struct session *s, enum reason reason)
{
    if (s->mode == MODE_NAT) {
        if (p->ip->ttl <= 1)
            return DROP_TTL;
        p->ip->ttl--;
        p->ip->daddr = s->real;
        p->ip->check = adjusted(p->ip->check, s->l3_delta);
        rewrite_l4(p, s->l4_delta);
        ((__be16 *)p->l4)[1] = s->real_port;
    }
    send_to(p, s->mac);
    count_in(s->listener, p->length);
    return reason;
}

/* From a real to its client, under the listener's address. */
static __always_inline enum reason to_client(struct packet *p, const struct candidate *as, const struct settings *settings)
{
    __be16 real_port = ((__be16 *)p->l4)[0];

    if (!(*(__u32 *)settings->gateway_mac | *(__u16 *)(settings->gateway_mac + 4)))
        return DROP_NO_GATEWAY;
    if (p->ip->ttl <= 1)
        return DROP_TTL;
    p->ip->ttl--;
    p->ip->check = adjusted(p->ip->check, l3_delta(p->ip->saddr, as->vip));
    rewrite_l4(p, l4_delta(p->ip->saddr, as->vip, real_port, as->port));
    p->ip->saddr = as->vip;
    ((__be16 *)p->l4)[0] = as->port;
    send_to(p, settings->gateway_mac);
    count_out(as->listener, p->length);
    return TX_REPLY;
}
