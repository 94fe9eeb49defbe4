/* Packets are rewritten in place, checksums by what changes (RFC 1624, equation 3): a sum that was wrong stays wrong, for
 * the receiver to find. A "delta" is the one's complement sum of the inverted old words and the new ones, in wire order.
 * IPv6's header has no checksum; TCP's, UDP's and ICMPv6's depend on its addresses like those of IPv4.
 */

static __always_inline __u32 words(struct address a)
{
    __u32 sum = 0, i;

#pragma unroll
    for (i = 0; i < ADDRESS_WORDS; i++)
        sum += (a.word[i] & 0xffff) + (a.word[i] >> 16);
    return sum;
}

/* Folds a sum of at most 65,537 words to 16 bits; the second time for the carry of the first. */
static __always_inline __u16 fold(__u32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u16 address_delta(struct address old, struct address new)
{
    __u32 i;

#pragma unroll
    for (i = 0; i < ADDRESS_WORDS; i++)
        old.word[i] = ~old.word[i];
    return fold(words(old) + words(new));
}

/* Of the IP header: the addresses' delta and one less in TTL, the high byte of its word, which is the same delta whatever
 * the word: minus 0x0100 in one's complement. */
static __always_inline __u16 older(__u16 addresses)
{
    return fold((__u32)addresses + bpf_htons(0xfeff));
}

static __always_inline __u16 port_delta(__u16 addresses, __be16 old, __be16 new)
{
    return fold((__u32)addresses + (__u16)~old + new);
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

/* The header of a packet that goes on: one less in TTL, and what its addresses have become. */
static __always_inline void age(struct ip *ip, __u16 l3_delta)
{
    ip->ttl--;
#if IP_VERSION == 4
    ip->check = adjusted(ip->check, l3_delta);
#endif
}

static __always_inline void count_in(struct packet *p, __u16 member)
{
    int index = member;
    struct member_stats *stats = member_stats.lookup(&index);

    p->member = member;
    if (stats) {
        stats->packets_in++;
        stats->bytes_in += p->length;
    }
}

static __always_inline void count_out(struct packet *p, __u16 member)
{
    int index = member;
    struct member_stats *stats = member_stats.lookup(&index);

    p->member = member;
    if (stats) {
        stats->packets_out++;
        stats->bytes_out += p->length;
    }
}

/* The next hop, if its MAC address is known. */
static __always_inline struct hop *next_hop(__u16 hop)
{
    int index = hop;
    struct hop *to = hops.lookup(&index);

    return to && (*(__u32 *)to->destination | *(__u16 *)(to->destination + 4)) ? to : NULL;
}

static __always_inline enum reason unresolved(__u16 hop)
{
    return hop == HOP_CLIENTS ? DROP_NO_GATEWAY : DROP_NO_NEIGHBOUR;
}

/* From another server of a listener that has one here. */
static __always_inline int from_node(const struct packet *p)
{
    struct mac mac = {};

    __builtin_memcpy(mac.octets, p->eth->h_source, ETH_ALEN);
    return node_macs.lookup(&mac) != NULL;
}

/* dr: whether a packet goes up to the kernel, unchanged: for a server on this node itself. So does what another node has
 * sent here, whichever server this one would choose: two nodes would hand it to and fro for ever. */
static __always_inline int stays(struct packet *p, __u16 hop, const struct hop *to)
{
    if (!(to->way & (WAY_HERE | WAY_NODE)) || !(to->way & WAY_HERE || from_node(p)))
        return 0;
    p->hop = hop;
    p->way = WAY_HERE;
    return 1;
}

/* By which interface a packet leaves, as an index into settings.interfaces. */
static __always_inline __u32 interface_of(const struct hop *to)
{
    __u32 number = to->way & WAY_INTERFACE;

    return (number ? number - 1 : 0) & (INTERFACES - 1);
}

static __always_inline void send_by(struct packet *p, struct ethhdr *eth, __u16 hop, const struct hop *to)
{
    __builtin_memcpy(eth->h_dest, to->destination, ETH_ALEN);
    __builtin_memcpy(eth->h_source, to->source, ETH_ALEN);
    p->hop = hop;
    p->way = to->way;
}
