/* What became of each packet. Python reads the names here. */
enum outcome {
    PASS_OPENED,        /* taken out of its tunnel packet */
    PASS_OTHER,         /* not a tunnel packet for one of our VIPs: the kernel's */

    DROP_FIRST,
    DROP_NOT_FROM_NODE = DROP_FIRST, /* a tunnel packet for a VIP, from a stranger */
    DROP_MALFORMED,     /* what is inside is no whole packet, or has IPv4 options */
    DROP_CONGESTION,    /* met congestion, which its sender cannot be told (RFC 6040) */

    OUTCOME_COUNT,
};
