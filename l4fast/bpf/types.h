/* The contract between the XDP program and Python, which takes every layout below from BCC and mirrors none by hand.
 *
 * Keys are zeroed whole before they are filled (the kernel hashes their padding), padding is explicit, sizes are
 * asserted. __be fields are in wire order; the others in this machine's order: the nodes of a cluster that synchronise
 * sessions share one byte order.
 */

/* A number that is set when the program is loaded. */
#define TEXT_OF(name) #name
#define LOADED(name) __extension__({ __u64 value; asm("%0 = " TEXT_OF(name) " ll" : "=r"(value)); value; })

#define ASSERT_SIZE(type, size4, size6) _Static_assert(sizeof(type) == (IP_VERSION == 4 ? (size4) : (size6)), #type)

/* A session is known to its peers after this many packets: most flows of a scan or a flood never get there. */
#define SYNC_PACKETS 3
/* session.sync_due_s: the peers have not been told. */
#define SYNC_NOT_YET 0xffffffff
/* Ring slots travel in chunks of one cache line: an array map spends at least eight bytes on each element. */
#define RING_CHUNK 32
/* How many listeners may share one real server's address, port and protocol in nat mode. */
#define REVERSE_CANDIDATES 8
/* Addresses of this node whose traffic is never taken for a reply to a client. */
#define LOCAL_ADDRESSES 8
/* Interfaces that a node may have. A power of two. */
#define INTERFACES 4
/* Source addresses of fullnat on one node, each with 64,512 ports towards each real. A power of two. */
#define POOL_ADDRESSES 16
/* Of a listener: connections that begin in a second; connections; bandwidth in either direction. */
#define LIMITS 4
/* listener.limited: there are limits of flows; of bandwidth, which all its packets are asked about. */
#define LIMITED_FLOWS 1
#define LIMITED_BANDWIDTH 2
/* Two bits each: with 20 VIPs one address in a hundred is taken for a VIP at first. */
#define VIP_FILTER_SLOTS 2048
/* What a datagram of an MTU of 1,500 has room for, after headers and an AEAD tag (l4fast/sync.md). */
#define PAGE_BODY 1380
/* Ends in one datagram; a power of two. */
#define PAGE_ENDS 64
/* So many records fit with two ends, which is the least. */
#if IP_VERSION == 4
#define PAGE_RECORDS 68
#else
#define PAGE_RECORDS 41
#endif
/* Where ends may be found again. A power of two. */
#define PAGE_HINTS_BITS 10

enum mode { MODE_NAT, MODE_DR, MODE_TUNNEL, MODE_FULLNAT };

/* In the filter of VIPs: an address that may be a VIP, one that may be a VIP with listeners that keep no session. */
#define VIP_ANY 1
#define VIP_STATELESS 2

enum scheduler { SCHEDULER_HASH, SCHEDULER_RING, SCHEDULER_LEAST };
/* Whom a listener admits: everybody, those in its access list only, or everybody else. */
enum acl { ACL_OFF, ACL_WHITE, ACL_BLACK };

/* STATE_ESTABLISHED and STATE_UDP are steady: their two low bits are zero, which the hot path tests.
 *   UNPROVEN     made by one ACK of an unknown flow: a flood of those must not live long
 *   ESTABLISHED  a handshake was seen here, or the client went on sending
 *   FIN_WAIT     a FIN was seen from one side; the other may still send
 *   CLOSED       an RST was seen, which the server may have found out of window: packets that follow revive it
 *   ANSWER       fullnat: no session, but the other direction of one
 */
enum state { STATE_ESTABLISHED, STATE_UNPROVEN, STATE_FIN_WAIT, STATE_CLOSED, STATE_UDP, STATE_ANSWER };
#define STATE_UNSTEADY 3 /* mask */

/* map `sessions`, key: the client's direction of a flow. */
struct session_key {
    struct address client;
    struct address vip;
    __be16 client_port;
    __be16 vip_port;
    __u8 protocol; /* IPPROTO_TCP, IPPROTO_UDP */
    __u8 zero[3];
};
ASSERT_SIZE(struct session_key, 16, 40);

/* map `sessions`, value: all that forwarding needs. The fields marked (node) are true on one node only. They are valid
 * while `generation` equals settings.generation, and are found again (the session is "cold") when it does not.
 */
struct session {
    __u64 bytes;        /* from the client: IP total lengths */
    __u32 packets;      /* from the client; wraps */
    __u32 last_s;       /* wall clock of the last packet */
    struct address real;
    struct address source; /* fullnat: what the client's address becomes */
    __be16 real_port;
    __u16 member;       /* (node) index into `members` */
    __u16 generation;   /* (node) */
    __u16 counted;      /* (node) index into `loads`, where it is counted: `member`; 0: it is not */
    __u32 sync_due_s;   /* (node) when to tell the peers again; all ones: not yet told */
    __u16 hop;          /* (node) index into `hops` */
    __u8 refresh_s;     /* (node) how often to tell the peers */
    __u8 mode;          /* enum mode */
    __u8 state;         /* enum state */
    __u8 learnt : 1;    /* from a peer */
    __u8 limited : 1;   /* (node) its listener's bandwidth */
    __be16 source_port; /* fullnat: what the client's port becomes */
    __u16 l3_delta;     /* nat, fullnat: one's complement, wire order: what rewriting adds to the sum of the IP header … */
    __u16 l4_delta;     /* … and of the TCP or UDP checksum's words */
};
ASSERT_SIZE(struct session, 48, 72);

/* map `fragments`, key: what the fragments of one packet have in common (RFC 791; RFC 8200, section 4.5) */
struct fragment_key {
    struct address source;
    struct address destination;
    __u32 id;
    __u8 protocol;
    __u8 zero[3];
};
ASSERT_SIZE(struct fragment_key, 16, 40);

/* map `fragments`, value: what became of the first fragment */
struct fragment {
    struct address source; /* the addresses under which it left: in dr the same, in tunnel the outer header's */
    struct address destination;
    __u32 first_s;      /* wall clock */
    __u16 member;       /* index into `members` */
    __u16 hop;          /* index into `hops` */
    __u8 answer;        /* from a real */
    __u8 tunnel;
    __u8 here;          /* it went up to a server on this node */
    __u8 limited;       /* its listener's bandwidth */
};
ASSERT_SIZE(struct fragment, 20, 44);

/* map `held_frame` (per CPU), and a record of `early_fragments` */
#define HELD_BYTES 2048
struct held {
    __u64 length;       /* bytes of the frame */
    __u64 frame[HELD_BYTES / 8 + 1];
};

/* map `half_open` (array): half_open.h. A cache line. */
#define SYN_WAYS 4
struct syn_bucket {
    __u64 id[SYN_WAYS];    /* of the flow, ^ entry */
    __u64 entry[SYN_WAYS]; /* SYN_*; 0: none */
};
ASSERT_SIZE(struct syn_bucket, 64, 64);

/* map `half_open_fullnat`: key struct session_key. What a SYN of fullnat got. */
struct half_open_fullnat {
    __u16 member;       /* index into `members` */
    __be16 source_port;
    __u16 counted;      /* where the SYN was counted as begun; 0: it was not … */
    __u16 zero;
    __u32 begun_s;      /* … in this second */
    __u32 sequence;     /* host order: the SYN's */
    struct address source;
};

/* map `listeners`, key */
struct listener_key {
    struct address vip;
    __be16 port;
    __u8 protocol;
    __u8 zero;
};
ASSERT_SIZE(struct listener_key, 8, 20);

/* map `listeners`, value */
struct listener {
    __u32 ring;         /* index into `rings` */
    __u32 ring_size;    /* slots; 0: no real takes new flows */
    __u16 index;        /* into `listener_stats` and others, from 1; kept while the listener lives */
    __u8 mode;
    __u8 scheduler;
    __u8 refresh_s;     /* of the sessions made here */
    __u8 track;         /* a SYN leaves an entry in `half_open`: its choice cannot be repeated, or its reply is ambiguous */
    __u8 stateless;     /* keeps no session */
    __u8 acl;           /* enum acl */
    __u64 hash_service; /* mask: which of VIP (<< 8) and protocol the flow's hash is of … */
    __u32 hash_ports;   /* … and which of the ports; the client's address always */
    __u32 persist_s;    /* a client keeps its real for so long after its last new flow; 0: it does not */
    __u64 seed;         /* of the flow's hash; the same on every node */
    struct address persist_mask; /* what of an address is the client */
    __u16 access_list;  /* index into `access_lists` */
    __u8 limited;       /* LIMITED_*; 0: there is nothing in `limits` */
    __u8 counts;        /* its sessions count as connections: lc, wlc, or there is a limit to them */
    __u32 here;         /* index into `members`: the real on this node itself; 0: none */
};
ASSERT_SIZE(struct listener, 56, 64);

/* map `limits` (array), by index of the listener: what it may take at most. Prices are in ticks (limits.h); 0: no limit. */
struct limit {
    __u64 flow_price;   /* of a flow that begins */
    __u64 connections;  /* sessions that count */
    __u64 byte_price[2]; /* of an IP packet's bytes, << 16; by enum direction */
    __u64 shared_price[2]; /* the same of its instance, … */
    __u32 shared;       /* … which has spent what stands under this index */
    __u32 zero;
};

/* map `spendings` (array), by index of the listener, or of an instance with limits. In words of eight bytes, for atomic operations. */
struct spending {
    __u64 flows;        /* the tick until which what may begin has begun */
    __u64 connections;  /* exact: the sum of its members' `loads` */
    __u64 bandwidth[2]; /* by enum direction: until when it has been spent */
};

/* map `listener_copies` (per CPU): listener.h */
#define LISTENER_COPIES_BITS 6
struct listener_copy {
    struct listener_key key;
    __u32 configuration; /* settings.configuration; 0: there is no copy here */
    struct listener listener;
};

/* map `clients`, key: whose real is kept */
struct client_key {
    struct address client; /* masked */
    __u32 listener;     /* index into `listener_stats` */
};
ASSERT_SIZE(struct client_key, 8, 20);

/* map `clients`, value */
struct client {
    struct address real;
    __be16 port;
    __u16 zero;
    __u32 last_s;       /* wall clock of the last new flow */
};

/* map `members` (array), from 1: a real of a listener */
struct member {
    struct address real;
    __be16 port;
    __u16 hop;          /* index into `hops` */
    __u16 listener;     /* its index */
    __u8 weight;        /* wlc; otherwise 1 */
    __u8 limited;       /* its listener's bandwidth */
};
ASSERT_SIZE(struct member, 12, 24);

/* map `member_numbers`, key */
struct member_key {
    struct address real;
    __be16 port;
    __u16 listener;     /* index into `listener_stats` */
};
ASSERT_SIZE(struct member_key, 8, 20);

/* map `member_numbers`, value */
struct member_number {
    __u16 member;       /* index into `members` */
    __u8 takes;         /* new flows */
    __u8 zero;
};

/* map `hops` (array): how to hand a packet on. 0: nobody's. HOP_CLIENTS: towards clients. */
#define HOP_CLIENTS 1
struct hop {
    __u8 destination[6]; /* MAC addresses; zero: not resolved */
    __u8 source[6];
    __u32 way;           /* WAY_* */
};
#define WAY_INTERFACE 0x0f /* mask: the number of an interface, from 1; 0: the one that the packet came in by */
#define WAY_HERE 0x10      /* no hop, but a server on this node itself */
#define WAY_NODE 0x20      /* another server of a listener that has one here, which may be an L4 node as well */
#define WAY_VLAN(way) ((way) >> 8 & 0xfff) /* the VLAN's number; 0: untagged */
ASSERT_SIZE(struct hop, 16, 16);

/* map `node_macs`, key */
struct mac {
    __u8 octets[6];
    __u16 zero;
};
ASSERT_SIZE(struct mac, 8, 8);

/* inner maps of `rings` (arrays): indexes into `members` */
struct ring_chunk {
    __u16 member[RING_CHUNK];
};
ASSERT_SIZE(struct ring_chunk, 64, 64);

/* map `loads` (array): by index of the member, where its listener counts connections. In words of eight bytes, for atomic
 * operations. */
struct load {
    __u64 sessions;     /* exact */
    __u64 begun;        /* SYNs that have not become sessions, of the second … */
    __u32 begun_s;      /* … of this clock */
    __u32 zero;
};

/* map `least_choice` (per CPU): what `lb` asks the program `least`, and its answer */
struct least {
    struct listener listener;
    __s32 member;       /* index into `members`; 0: no answer, -1: there is none */
    __u32 zero;
};
enum stage {
    STAGE_LB,
    STAGE_LEAST,
    STAGE_TOLL,
    STAGE_UNTAG,
    STAGE_OTHER,
    STAGE_FRAGMENTED,
    STAGE_IPV6,
    STAGE_UNTAG_IPV6,
    STAGE_TELL,
    STAGE_MERGE,
    STAGE_HEAR,
    STAGE_COUNT,
};

/* map `tolls` (per CPU): what `lb` asks the program `toll`, and its answer */
struct toll {
    __u32 length;       /* of the IP packet */
    __u16 listener;     /* its index, or … */
    __u16 member;       /* … that of a member; 0: of none */
    __u8 direction;     /* enum direction */
    __u8 paid;          /* the answer; read once */
    __u8 zero[2];
};

/* map `accounting`, element 0: what the program `account` is to do with the sessions of these keys */
#define ACCOUNT_KEYS 32
enum operation { ACCOUNT_ADOPT, ACCOUNT_END };
struct account {
    __u32 operation;
    __u32 count;
    __u32 ended;        /* ACCOUNT_END: the answer, how many entries were deleted … */
    __u32 zero;
    struct session_key keys[ACCOUNT_KEYS];
    __u32 last_s[ACCOUNT_KEYS]; /* … of the sessions that still are as these two say */
    __u8 state[ACCOUNT_KEYS];
};

/* map `reverse`, key: whom a reply comes from, in nat mode */
struct reverse_key {
    struct address real;
    __be16 port;
    __u8 protocol;
    __u8 zero;
};

/* map `reverse`, value: the listeners whose replies these may be */
struct reverse {
    __u16 count;
    __u8 stateless;     /* the listener keeps no session; it is the only one then */
    __u8 limited;       /* the bandwidth of one of them at least */
    struct candidate {
        struct address vip;
        __be16 port;
        __u16 member;
    } candidates[REVERSE_CANDIDATES];
};
ASSERT_SIZE(struct reverse, 4 + 8 * REVERSE_CANDIDATES, 4 + 20 * REVERSE_CANDIDATES);

/* One that the program is attached to. */
struct interface {
    __u32 index;
    __u32 mtu;
    struct address address;   /* the outer source in tunnel mode; zero: it has none */
    __u8 mac[6];
    __u16 zero;
};

/* map `node_settings`, element 0 */
struct settings {
    __u32 now_s;              /* wall clock, written by the daemon */
    __u32 generation;         /* from 1 to 65,535; raised when what sessions remember of this node may have changed */
    __u32 unproven_per_cpu_s; /* STATE_UNPROVEN sessions that one CPU may make in a second */
    __u32 configuration;      /* from 1 on; raised when a listener may have changed */
    __u32 echo_per_cpu_s;     /* echo requests that one CPU may answer in a second */
    __u32 held_per_cpu_s;     /* fragments that one CPU may give to the daemon in a second */
    __u32 lacking;            /* peers may know sessions that this node has not been told of (yet) */
    __u32 vips_here;          /* VIPs are addresses of the node, whose kernel would answer what is passed to it */
    struct interface interfaces[INTERFACES]; /* repeated to fill it */
    struct address pool[POOL_ADDRESSES]; /* this node's source addresses of fullnat, repeated to fill it; zero: none */
    struct address local[LOCAL_ADDRESSES];
    __u32 vip_filter[VIP_FILTER_SLOTS / 16]; /* a Bloom filter of one hash, vip_slot(): VIP_* of every VIP */
};

/* map `member_stats` (per CPU), by index of the member; 0: of none that is known */
struct member_stats {
    __u64 packets_in;         /* from clients */
    __u64 bytes_in;
    __u64 packets_out;        /* to clients; nat and fullnat only, dr and tunnel answers do not pass here */
    __u64 bytes_out;
    __u64 sessions_made;
};

/* map `listener_stats` (per CPU) */
struct listener_stats {
    __u64 denied;             /* packets of clients that the access list keeps out */
    __u64 over[LIMITS];       /* packets beyond a limit, in the order of DROP_CONNECTION_RATE and what follows it */
    __u32 cursor;             /* of rr and wrr */
    __u32 zero;
};

/* map `tellings` (per CPU): what `lb` leaves to the program `tell` */
struct telling {
    struct session_key key;
    __u32 action;       /* what is to be done with the packet */
};

/* What records have in common, as it stands in a datagram: an address with its port. */
struct end {
    struct address address;
    __be16 port;
    __u8 protocol;      /* of a VIP; else 0 */
    __u8 mode;          /* of a VIP: enum mode; else 0 */
};
ASSERT_SIZE(struct end, 8, 20);

/* What peers are told of a session, as it stands in a datagram, all of it in wire order: what only this node knows is left
 * out, and so is what follows from the rest. The second of its last packet is that of the page. */
struct told {
    struct address client;
    __be32 packets;
    __be32 bytes_low;
    __be16 bytes_high;  /* 48 bits of them: 281 TB */
    __be16 client_port;
    __u8 vip;           /* these are places of ends in the same datagram */
    __u8 real;
    __u8 source;        /* fullnat: what the client becomes; else 0 */
    __u8 state;         /* enum state. ANSWER: the other direction of the session that the other fields describe */
};
ASSERT_SIZE(struct told, 20, 32);

/* map `hearing` (per CPU): a record, as it is read */
struct heard {
    struct session_key key;
    struct session session;
};

/* map `cpu_page` (per CPU), element 0, and without its hints a record of `sync_ring` */
struct page {
    __u32 count;
    __u32 ends;
    __be32 last_s;      /* of all records; with what follows, the body of a datagram */
    struct end end[PAGE_ENDS];
    struct told told[PAGE_RECORDS];
    __u8 hint[1 << PAGE_HINTS_BITS]; /* by a hash of an end: its place, if it is in the page */
};
_Static_assert(PAGE_RECORDS == (PAGE_BODY - sizeof(__be32) - 2 * sizeof(struct end)) / sizeof(struct told), "page");
