/* Why each packet went where it went. A stage returns one of these, or LB_NEXT for "the next stage decides"; the one
 * exit counts it. The order gives the action: what stands before PASS_FIRST is sent, before DROP_FIRST passed to the
 * kernel, before EVENT_FIRST dropped. Events are counted beside a packet's own reason. Python reads the names here.
 */
enum reason {
    TX_SESSION,             /* a known session */
    TX_SYN,                 /* a new TCP flow's SYN: no session */
    TX_NEW_SESSION,         /* the packet that made a session */
    TX_UNTRACKED,           /* no session and none made: forwarded by hash */
    TX_STATELESS,           /* of a listener that keeps no session: forwarded by hash */
    TX_REPLY,               /* nat, fullnat: from a real to a client */
    TX_TOO_BIG,             /* tunnel: the sender was told the largest packet that passes (ICMP) */
    TX_FRAGMENT,            /* a later fragment, after its first */
    TX_ECHO,                /* an echo request to a VIP, answered */
    TX_ERROR,               /* an ICMP error about an answer, to the real that sent it */
    TX_REPLY_ERROR,         /* nat, fullnat: an ICMP error about a client's packet, to the client */

    PASS_FIRST,
    PASS_NOT_IP = PASS_FIRST, /* ARP; a VLAN in a VLAN */
    PASS_TRUNCATED,         /* ends within its Ethernet or IP header */
    PASS_OTHER_HOST,        /* not sent to the MAC address of one of the node's interfaces */
    PASS_NOT_FOR_VIP,       /* neither to a listener nor from a real */
    PASS_LOCAL,             /* from a real to this node itself: a health check's reply */
    PASS_ICMP,              /* to a VIP: neither an echo request nor an error about a listener's packets */
    PASS_OTHER_PROTOCOL,    /* to a VIP, neither TCP, UDP nor ICMP */
    PASS_NO_LISTENER,       /* a session whose listener is not known here */
    PASS_SERVED_HERE,       /* dr: to a server on this node itself */

    DROP_FIRST,
    DROP_BAD_IP = DROP_FIRST, /* to a VIP: version, header length or total length is wrong */
    DROP_IP_OPTIONS,        /* to a VIP: IPv4 options; IPv6 extension headers other than Fragment */
    DROP_FRAGMENT,          /* to a VIP: its first was not forwarded, and it could not be held; or neither TCP nor UDP */
    DROP_HELD_FRAGMENT,     /* came before its first: waits in the daemon, and counts again (tx_fragment) when sent */
    DROP_BAD_FRAGMENT,      /* to a VIP: empty, too far in, of a wrong length, or meant to hide a TCP header */
    DROP_BAD_L4,            /* to a VIP: TCP or UDP header truncated, or its lengths are wrong */
    DROP_BAD_ICMP,          /* to a VIP: truncated, or an error that quotes no packet of that VIP with its ports */
    DROP_ECHO_LIMIT,        /* more echo requests than settings.echo_per_cpu_s */
    DROP_BAD_FLAGS,         /* of a flow without session: a combination that no TCP sends to a server */
    DROP_BAD_SOURCE,        /* of a flow without session: no client may have this address */
    DROP_DENIED,            /* of a flow without session, or that lost it: the access list keeps this client out */
    DROP_CONNECTION_RATE,   /* a SYN or a first datagram: as many as the listener may take have begun in this second */
    DROP_CONNECTIONS,       /* a SYN, or what would have made a session: the listener has as many as it may */
    DROP_BANDWIDTH_IN,      /* from a client: as much as the listener may take has passed */
    DROP_BANDWIDTH_OUT,     /* nat, fullnat: from a real, likewise */
    DROP_TTL,               /* nat, tunnel, fullnat: it would reach zero */
    DROP_TOO_BIG,           /* tunnel: it would exceed the MTU, and its sender counts on fragments */
    DROP_NO_ADDRESS,        /* tunnel: the interface has no address for the outer header */
    DROP_NO_PORT,           /* fullnat: no source port was found free, or no room for a UDP session */
    DROP_NO_SESSION,        /* fullnat: of a flow that nobody here knows */
    DROP_UNSYNCED,          /* TCP, rr, wrr, lc, wlc: of a flow that is not known here, but may be to a peer: settings.lacking */
    DROP_NO_LISTENER,       /* VRRP: to a VIP, which is the node's own while it has it, and to no listener */
    DROP_NO_REAL,           /* the listener has no real that takes new flows */
    DROP_NO_NEIGHBOUR,      /* the real's MAC address is not known */
    DROP_NO_GATEWAY,        /* the MAC address towards clients is not known */
    DROP_REPLY_AMBIGUOUS,   /* several listeners use this real's port, and none of them knows this client */
    DROP_INTERNAL,          /* a map entry that must exist does not */

    EVENT_FIRST,
    EVENT_TABLE_FULL = EVENT_FIRST, /* no room for a session; its flow is forwarded by hash */
    EVENT_UNPROVEN_LIMIT,   /* a session was not made: see settings.unproven_per_cpu_s */
    EVENT_NO_PORT,          /* fullnat: so many tries, and every port was a session's */
    EVENT_WARMED,           /* a cold session met its first packet here */
    EVENT_SYNC_STAGED,      /* a record for the peers */
    EVENT_SYNC_LOST,        /* records that the full ring did not take */

    REASON_COUNT,
    LB_NEXT = REASON_COUNT,
    LB_ICMP,                /* for the stages of these names */
    LB_FRAGMENT,
    LB_FRAGMENTED, /* of IPv6, not looked at */
    LB_FULLNAT,
};

/* What a CPU may do so many times a second. Of which clock: what the daemon has to undo (sessions that it ages, fragments
 * that it sends on) has that of the daemon, settings.now_s, and is not allowed anew while none runs; the rest the kernel's. */
struct budget {
    __u64 second;           /* in which `used` were */
    __u64 used;
};

/* map `cpu_stats`, element 0 */
struct stats {
    __u64 count[REASON_COUNT];
    struct budget unproven; /* sessions made */
    struct budget echo;     /* requests answered */
    struct budget held;     /* fragments given to the daemon */
    __be32 tag;             /* of the frame that is being looked at, taken off by `untag`: TPID and TCI; 0: it had none */
    __u32 tell;             /* a session of this packet, which `tellings` names, is to be told to the peers */
};
_Static_assert(__builtin_offsetof(struct stats, tag) % 8 == 0, "lb looks at tag and tell at once");

static __always_inline __u64 kernel_s(void)
{
    return bpf_ktime_get_coarse_ns() / 1000000000;
}

static __always_inline int within(struct budget *budget, __u32 limit, __u64 second)
{
    if (budget->second != second) {
        budget->second = second;
        budget->used = 0;
    }
    if (budget->used >= limit)
        return 0;
    budget->used++;
    return 1;
}

static __always_inline int leave(struct stats *stats, enum reason reason)
{
    if (reason >= REASON_COUNT)
        reason = PASS_NOT_FOR_VIP;
    stats->count[reason]++;
    return reason < PASS_FIRST ? XDP_TX : reason < DROP_FIRST ? XDP_PASS : XDP_DROP;
}
