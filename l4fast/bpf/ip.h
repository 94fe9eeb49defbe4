/* What differs between IPv4 and IPv6: addresses, headers, and which sums depend on them. Every other header is compiled
 * twice, with IP_VERSION 4 and 6, into two programs with maps of the same names. `lb` of IPv4 is attached, and hands IPv6
 * packets to that of IPv6.
 */

struct address {
#if IP_VERSION == 4
    __be32 word[1];
#else
    __be32 word[4];
#endif
};
#define ADDRESS_WORDS (sizeof(struct address) / 4)
#define ADDRESS_BITS (8 * sizeof(struct address))

static __always_inline int same_address(struct address a, struct address b)
{
#if IP_VERSION == 4
    return a.word[0] == b.word[0];
#else
    return !((a.word[0] ^ b.word[0]) | (a.word[1] ^ b.word[1]) | (a.word[2] ^ b.word[2]) | (a.word[3] ^ b.word[3]));
#endif
}

static __always_inline int no_address(struct address a)
{
    return same_address(a, (struct address){});
}

static __always_inline struct address masked(struct address a, struct address mask)
{
    __u32 i;

#pragma unroll
    for (i = 0; i < ADDRESS_WORDS; i++)
        a.word[i] &= mask.word[i];
    return a;
}

/* The header. `ttl` is IPv6's hop limit, `protocol` its next header. */
#if IP_VERSION == 4
#define ETH_P_OURS ETH_P_IP
#define PROTOCOL_ICMP IPPROTO_ICMP
#define PROTOCOL_TUNNEL IPPROTO_IPIP
#define IP_PLAIN 0x45      /* version 4, header of five words */
#define SMALLEST_MTU 68    /* RFC 791: every link carries as much */

struct ip {
    __u8 version_words;
    __u8 tos;
    __be16 length;         /* total */
    __be16 id;
    __be16 fragment;
    __u8 ttl;
    __u8 protocol;
    __u16 check;
    struct address source;
    struct address destination;
};
_Static_assert(sizeof(struct ip) == 20, "RFC 791");
#else
#define ETH_P_OURS ETH_P_IPV6
#define PROTOCOL_ICMP IPPROTO_ICMPV6
#define PROTOCOL_TUNNEL IPPROTO_IPV6
#define SMALLEST_MTU 1280  /* RFC 8200, section 5 */

struct ip {
    __u8 version_class;    /* and four bits of the traffic class */
    __u8 class_flow[3];
    __be16 length;         /* of what follows the header */
    __u8 protocol;
    __u8 ttl;
    struct address source;
    struct address destination;
};
_Static_assert(sizeof(struct ip) == 40, "RFC 8200");

/* The only extension header that is understood. */
struct ip_fragment {
    __u8 protocol;
    __u8 reserved;
    __be16 fragment;       /* offset, in units of eight bytes, << 3; more-fragments bit */
    __be32 id;
};
#endif

/* Header and data; `ip` was checked to be within the frame. */
static __always_inline __u32 ip_length(const struct ip *ip)
{
#if IP_VERSION == 4
    return bpf_ntohs(ip->length);
#else
    return sizeof(*ip) + bpf_ntohs(ip->length);
#endif
}

/* A header of the usual shape: no options in IPv4. */
static __always_inline int plain(const struct ip *ip)
{
#if IP_VERSION == 4
    return ip->version_words == IP_PLAIN;
#else
    return ip->version_class >> 4 == 6;
#endif
}

/* 0/8, 127/8, 224/4 and above; in IPv6 unspecified, loopback, IPv4-mapped, link-local, multicast. */
static __always_inline int never_a_client(struct address a)
{
    __u8 first = *(__u8 *)&a;

#if IP_VERSION == 4
    return first == 0 || first == 127 || first >= 224;
#else
    return first == 0xff || (a.word[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000) ||
           (!(a.word[0] | a.word[1]) && (a.word[2] == bpf_htonl(0xffff) || !(a.word[2] | (a.word[3] & bpf_htonl(~1)))));
#endif
}
