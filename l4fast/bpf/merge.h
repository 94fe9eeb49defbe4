/* Sessions that peers tell of, written by programs that the daemon runs over a frame of them: `hear` over a datagram's body as
 * it came, `merge` over a piece of a snapshot. Of two entries of one flow holds (Python has the same rule: tests/l4fast/merging.py)
 *
 *   1. the one whose last packet is later, in seconds of this node's clock: who saw it has the flow;
 *   2. in the same second and with the same server: what only one of them knows, a state further on in a connection's life
 *      or more packets;
 *   3. in the same second and with another server: the one that goes on, if the other has ended; else the one that is here.
 *
 * So a record that comes late, twice or out of a snapshot changes nothing that is newer, and no flow whose packets pass here
 * is sent to another server. An entry that keeps its server keeps what it knows of this node as well.
 */

/* At most in one frame. A test run's has room for 3,520 bytes (a page less head and tail room). */
#if IP_VERSION == 4
#define MERGE_RECORDS 54
#else
#define MERGE_RECORDS 31
#endif
/* Either program takes so many and calls itself for the others, up to 33 times: up to four the verifier (6.18) has to do in
 * proportion, 7,000 to 16,000 instructions in all; with five it is half as much again, with eight more than it does. */
#define RECORDS_A_CALL 4
_Static_assert(MERGE_RECORDS <= 33 * RECORDS_A_CALL && PAGE_RECORDS <= 33 * RECORDS_A_CALL, "tail calls");

/* MERGE_ENTER: sessions as a peer has them, or tells of them. MERGE_COUNT: keys; those of lc, wlc and limited listeners count as connections
 * from now on. MERGE_END: keys; their sessions end. */
enum merging { MERGE_ENTER, MERGE_COUNT, MERGE_END };

/* How a frame for `merge` begins. The keys follow, then the values. */
struct merge {
    __u32 operation;    /* enum merging */
    __u32 count;
    __u32 until_s;      /* MERGE_END: sessions with a later packet stay */
    __s32 shift_s;      /* MERGE_ENTER: this node's clock less the peer's */
    __u32 at;           /* the next record; zero at first */
    __u32 done;         /* the answer so far; zero at first */
};
_Static_assert(MERGE_RECORDS < 64 && sizeof(struct merge) + MERGE_RECORDS * (sizeof(struct session_key) + sizeof(struct session)) <= 3520, "merge");

/* What became of how many records, each in eight bits of the program's answer. The others were no newer than what is here,
 * or not to be entered. */
enum merged { MERGED_NEW, MERGED_NEWER, MERGED_FULL, MERGED_ENDED };
#define ONE(outcome) (1 << 8 * (outcome))

/* How far on in its life: UNPROVEN; ESTABLISHED, UDP and ANSWER; FIN_WAIT; CLOSED. */
#define HAS_ENDED 2
static __always_inline __u32 life(__u8 state)
{
    return 0x113201 >> (state * 4 & 31) & 0xf;
}
_Static_assert(STATE_UNPROVEN == 1 && STATE_FIN_WAIT == 2 && STATE_CLOSED == 3 && STATE_ANSWER == 5, "life");

static __always_inline int same_way(const struct session *a, const struct session *b)
{
    return same_address(a->real, b->real) && a->real_port == b->real_port && a->mode == b->mode &&
           same_address(a->source, b->source) && a->source_port == b->source_port;
}

/* Without what is true on the sender alone. */
static __always_inline void make_cold(struct session *s)
{
    s->member = 0;
    s->generation = 0;
    s->counted = 0;
    s->sync_due_s = SYNC_NOT_YET;
    s->hop = 0;
    s->refresh_s = 0;
    s->learnt = 1;
    s->limited = 0;
}

/* What one ACK has made is known to nobody else before its next packet. */
static __always_inline int worth_telling(const struct session *told)
{
    return told->state <= STATE_ANSWER && (told->state != STATE_UNPROVEN || told->packets >= SYNC_PACKETS);
}

/* The entry keeps its server. */
static __always_inline __u32 learn(struct session *s, const struct session *told)
{
    int newer = told->last_s > s->last_s || (__s32)(told->packets - s->packets) > 0;

    if (!newer && life(told->state) <= life(s->state))
        return 0;
    if (newer) {
        s->packets = told->packets;
        s->bytes = told->bytes;
    }
    s->last_s = told->last_s;
    s->state = told->state;
    if (!counts(s->state))
        uncount(s);
    return ONE(MERGED_NEWER);
}

static __always_inline __u32 enter_told(struct session_key *key, struct session *told)
{
    struct session *s = sessions.lookup(key);
    int error;

    if (!s) {
        make_cold(told);
        error = sessions.insert(key, told);
        return error == -EEXIST ? 0 : error ? ONE(MERGED_FULL) : ONE(MERGED_NEW);
    }
    if (told->last_s < s->last_s)
        return 0;
    if (same_way(s, told))
        return learn(s, told);
    if (told->last_s == s->last_s && (life(told->state) >= HAS_ENDED || life(s->state) < HAS_ENDED))
        return 0;
    uncount(s);
    make_cold(told);
    return sessions.update(key, told) ? ONE(MERGED_FULL) : ONE(MERGED_NEWER);
}

/* How a frame for `hear` begins. */
struct hear {
    __u32 operation;    /* MERGE_ENTER or MERGE_COUNT */
    __u32 ends;
    __u32 count;        /* of records */
    __s32 shift_s;      /* this node's clock less the peer's */
    __u32 at;           /* the next record; zero at first */
    __u32 done;         /* the answer so far; zero at first */
    __be32 last_s;      /* here a datagram's body begins (struct page) */
};
_Static_assert(sizeof(struct hear) % 4 == 0 && PAGE_RECORDS < 256, "hear");

/* What was told. Says whether there is such an end. */
static __always_inline int heard_end(const struct hear *request, void *frame_end, __u8 place, struct end *end)
{
    struct end *there = (void *)(request + 1) + place * sizeof(*there);

    if (place >= request->ends || (void *)(there + 1) > frame_end)
        return 0;
    *end = *there;
    return 1;
}

/* The session as it is here, cold. Says whether the record makes sense. */
static __always_inline int understand(const struct hear *request, void *frame_end, const struct told *told,
                                      struct heard *heard)
{
    struct session_key *key = &heard->key;
    struct session *s = &heard->session;
    struct end vip, real, source;

    if (!heard_end(request, frame_end, told->vip, &vip) || !heard_end(request, frame_end, told->real, &real) ||
        !heard_end(request, frame_end, told->source, &source))
        return 0;
    *key = (struct session_key){.client = told->client, .vip = vip.address, .client_port = told->client_port,
                                .vip_port = vip.port, .protocol = vip.protocol};
    *s = (struct session){
        .bytes = bpf_ntohl(told->bytes_low) | (__u64)bpf_ntohs(told->bytes_high) << 32,
        .packets = bpf_ntohl(told->packets), .last_s = bpf_ntohl(request->last_s) + request->shift_s,
        .real = real.address, .real_port = real.port, .mode = vip.mode, .state = told->state,
    };
    make_cold(s);
    if (vip.mode == MODE_FULLNAT) {
        s->source = source.address;
        s->source_port = source.port;
    }
    if (told->state == STATE_ANSWER) {
        struct session_key session = *key;

        if (vip.mode != MODE_FULLNAT)
            return 0;
        *key = answer_key(s, session.protocol);
        make_answer(s, &session);
    }
    prepare(s, key);
    return 1;
}
