/* Maps of SIZED elements get their sizes when they are loaded (loader.py), and so do the rings. */

/* session_key → session. Written by the program, by expiry (deletes) and from peers' datagrams. A plain hash: nothing
 * is ever evicted. Full: EVENT_TABLE_FULL, the flow goes on by hash. */
BPF_TABLE("hash", struct session_key, struct session, sessions, SIZED);

/* Hash of a flow → what its SYN chose. Written by the program. Full: the oldest of a bucket goes, which is all that a SYN
 * flood can evict. */
BPF_TABLE("array", int, struct syn_bucket, half_open, SIZED);

/* fullnat, session_key → half_open_fullnat. Written by the program. Full: the kernel evicts old ones. */
BPF_TABLE("lru_hash", struct session_key, struct half_open_fullnat, half_open_fullnat, SIZED);

/* fullnat, key of the answer → key of the half-open flow that has this port. Written by the program. Full: as above. */
BPF_TABLE("lru_hash", struct session_key, struct session_key, half_open_answers, SIZED);

/* fragment_key → fragment. Written by the program. Full: the kernel evicts old ones, whose later fragments wait in vain. */
BPF_TABLE("lru_hash", struct fragment_key, struct fragment, fragments, SIZED);

/* Fragments that came before their first, on their way to the daemon. Full: they are dropped, counted. */
BPF_TABLE("percpu_array", int, struct held, held_frame, 1);
BPF_RINGBUF_OUTPUT(early_fragments, 1);

/* listener_key → listener. Written by Python, read here. Full: Python refuses the configuration. */
BPF_TABLE("hash", struct listener_key, struct listener, listeners, SIZED);

/* Copies of listeners, by a hash of their keys. Written by the program. */
BPF_TABLE("percpu_array", int, struct listener_copy, listener_copies, 1 << LISTENER_COPIES_BITS);

/* VIP → number of its listeners; 0 for an address of any node's pool. Written by Python; asked about irregular packets
 * and those of no session. */
BPF_TABLE("hash", struct address, __u32, vips, SIZED);

/* Index → a real of a listener; (listener, real) → index. Written by Python; an index is not reused before the rings that
 * held it are gone. */
BPF_TABLE("array", int, struct member, members, SIZED);
BPF_TABLE("hash", struct member_key, struct member_number, member_numbers, SIZED);

/* Index → next hop; address of a real → index. Written by Python, in place when a MAC address changes. */
BPF_TABLE("array", int, struct hop, hops, SIZED);
BPF_TABLE("hash", struct address, __u32, hop_numbers, SIZED);

/* MAC address of a WAY_NODE hop → 1. Written by Python. */
BPF_TABLE("hash", struct mac, __u32, node_macs, SIZED);

/* Number of an interface, from 0 → where packets for other interfaces than their own are redirected. Written by Python. */
BPF_DEVMAP(devices, INTERFACES);

/* ring index → array of chunks. Written by Python: a ring never changes; a change is a new ring and then a new
 * `listener`. Inner arrays differ in length (BPF_F_INNER_MAP, Linux 5.10). */
BPF_F_TABLE("array", int, struct ring_chunk, ring_template, 1, 0x1000 /* BPF_F_INNER_MAP */);
BPF_ARRAY_OF_MAPS(rings, "ring_template", SIZED);

/* client_key → client, for listeners that keep clients' reals. Written by the program. Full: the kernel evicts old ones,
 * whose clients are scheduled like new ones. */
BPF_TABLE("lru_hash", struct client_key, struct client, clients, SIZED);

/* Member → its connections, for listeners that count them. Written by the programs alone. */
BPF_TABLE("array", int, struct load, loads, SIZED);
BPF_TABLE("array", int, struct account, accounting, 1);
BPF_TABLE("percpu_array", int, struct least, least_choice, 1);

/* Of a packet whose listener has limited bandwidth. Written by the programs alone. */
BPF_TABLE("percpu_array", int, struct toll, tolls, 1);

/* Stage → program. Written by Python when the programs are loaded; those of IPv6 in the map of IPv4's programs. */
BPF_PROG_ARRAY(stages, STAGE_COUNT);

/* reverse_key → reverse. Written by Python for the reals of nat listeners. */
BPF_TABLE("hash", struct reverse_key, struct reverse, reverse, SIZED);

BPF_TABLE("array", int, struct settings, node_settings, 1);
BPF_TABLE("percpu_array", int, struct stats, cpu_stats, 1);
BPF_TABLE("percpu_array", int, struct listener_stats, listener_stats, SIZED);
BPF_TABLE("percpu_array", int, struct member_stats, member_stats, SIZED);

/* Index of a listener → what it may take; what it has taken. Written by Python; by the program. */
BPF_TABLE("array", int, struct limit, limits, SIZED);
BPF_TABLE("array", int, struct spending, spendings, SIZED);

/* Room for an answer's entry, of which the stack (512 bytes) has none left. */
BPF_TABLE("percpu_array", int, struct session, answer_scratch, 1);

/* The session that this packet makes known to the peers. Written by the programs alone. */
BPF_TABLE("percpu_array", int, struct telling, tellings, 1);

/* A record of a peer. Written by the program `hear` alone, and in memory since the verifier (6.18) forgets what it knows of that:
 * with the same on the stack it has to follow every kind of record to the end. */
BPF_TABLE("percpu_array", int, struct heard, hearing, 1);

/* Session records on their way to the peers. A full page goes to the ring at once, a partial one when the daemon runs
 * `flush`. Ring full: EVENT_SYNC_LOST, and the sessions are told again after their refresh time. */
BPF_TABLE("percpu_array", int, struct page, cpu_page, 1);
BPF_RINGBUF_OUTPUT(sync_ring, 1);
