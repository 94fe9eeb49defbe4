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

static __always_inline int known_mac(const __u8 *mac)
{
    return *(__u32 *)mac | *(__u16 *)(mac + 4);
}

static __always_inline void send_to(struct packet *p, const __u8 *mac)
{
    __builtin_memcpy(p->eth->h_source, p->eth->h_dest, ETH_ALEN);
    __builtin_memcpy(p->eth->h_dest, mac, ETH_ALEN);
}
