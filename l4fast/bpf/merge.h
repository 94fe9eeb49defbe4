/* Sessions that peers tell of, written by `merge`, which the daemon runs over a frame of them: a datagram's body as it came,
 * or a piece of a snapshot. Of two entries of one flow holds (Python has the same rule: tests/l4fast/merging.py)
 *
 *   1. the one whose last packet is later, in seconds of this node's clock: who saw it has the flow;
 *   2. in the same second and with the same server: what only one of them knows, a state further on in a connection's life
 *      or more packets;
 *   3. in the same second and with another server: the one that goes on, if the other has ended; else the one that is here.
 *
 * So a record that comes late, twice or out of a snapshot changes nothing that is newer, and no flow whose packets pass here
 * is sent to another server. An entry that keeps its server keeps what it knows of this node as well.
 */

/* At most in one frame. A test run's has room for 3,520 bytes (a page less head and tail room); what the verifier (6.18) has
 * to do grows with the square of this, to 120,000 instructions each. */
#if IP_VERSION == 4
#define MERGE_RECORDS 42
#else
#define MERGE_RECORDS 16
#endif

/* MERGE_ENTER: sessions as a peer has them. MERGE_COUNT: keys; those of lc, wlc and limited listeners count as connections
 * from now on. MERGE_END: keys; their sessions end. */
enum merging { MERGE_ENTER, MERGE_COUNT, MERGE_END };

/* How a frame for `merge` begins. The keys follow, then the values. */
struct merge {
    __u32 operation;    /* enum merging */
    __u32 count;
    __u32 until_s;      /* MERGE_END: sessions with a later packet stay */
    __s32 shift_s;      /* MERGE_ENTER: this node's clock less the peer's */
};
_Static_assert(sizeof(struct merge) + MERGE_RECORDS * (sizeof(struct session_key) + sizeof(struct session)) <= 3520, "merge");

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
