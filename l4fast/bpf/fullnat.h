/* fullnat: the client's address and port are exchanged too, for ones of this node's pool, so that the answer comes back
 * from any network. A flow has two entries: its session, and under the key of the answer (from the real to the pool) a
 * second one that says how to undo it. A port belongs to a flow towards one real while the answer's entry exists, which
 * is what makes allocation free of clashes: an entry is made by one flow only (BPF_NOEXIST). Pools differ between nodes.
 *
 * UDP enters both at the first packet. TCP keeps both half open until the handshake's last ACK: a flood of SYNs evicts,
 * and in want of ports takes from, half-open flows only. So a flow may find its port gone; it is dropped then, never
 * mixed up with another's.
 */
/* The key of the answers: where they come from and the pool's address and port that they go to. */
static __always_inline struct session_key answer_key(const struct session *s, __u8 protocol)
{
    return (struct session_key){.client = s->real, .vip = s->source, .client_port = s->real_port,
                                .vip_port = s->source_port, .protocol = protocol};
}

static __always_inline struct session *scratch(void)
{
    int zero = 0;

    return answer_scratch.lookup(&zero);
}

/* Turns a session into its other direction: its real is the client, its source the VIP. */
static __always_inline void make_answer(struct session *s, const struct session_key *key)
{
    s->bytes = 0;
    s->packets = 0;
    s->source = key->vip;
    s->source_port = key->vip_port;
    s->real = key->client;
    s->real_port = key->client_port;
    s->state = STATE_ANSWER;
}

static __always_inline void answer_entry(struct session *answer, const struct session_key *key, const struct session *s)
{
    struct session_key answers;

    *answer = *s;
    make_answer(answer, key);
    answer->counted = 0;
    answer->hop = HOP_CLIENTS;
    answer->sync_due_s = SYNC_NOT_YET; /* it is told with its session */
    answers = answer_key(s, key->protocol);
    prepare(answer, &answers);
}

/* Whether two flows are the same. */
static __always_inline int same_key(const struct session_key *a, const struct session_key *b)
{
    return same_address(a->client, b->client) && same_address(a->vip, b->vip) &&
           *(__u32 *)&a->client_port == *(__u32 *)&b->client_port && a->protocol == b->protocol;
}
