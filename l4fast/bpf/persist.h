/* Persistence, and with it every choice of a real: a client, which is an address or a prefix, keeps its real from one flow to the next.
 *
 * The time counts from the client's last new flow. A real that has gone, is down or has weight 0 is kept by nobody: its
 * clients are scheduled anew, and keep what they then get. What a node keeps is its own, and the peers are not told. So a
 * hash does not find a flow again on another node, and its SYN is remembered as with the schedulers that take turns.
 */
static __always_inline struct client_key client_of(const struct packet *p, const struct listener *listener)
{
    return (struct client_key){.client = masked(p->key.client, listener->persist_mask), .listener = listener->index};
}

/* The client's real, as a member's index; negative: it has none. */
static __always_inline int kept_member(const struct packet *p, const struct listener *listener,
                                       const struct settings *settings)
{
    struct client_key key = client_of(p, listener);
    struct client *client = clients.lookup(&key);
    struct member_key member = {.listener = listener->index};
    struct member_number *number;

    if (!client || settings->now_s - client->last_s >= listener->persist_s)
        return -1;
    member.real = client->real;
    member.port = client->port;
    number = member_numbers.lookup(&member);
    return number && number->takes ? number->member : -1;
}

static __always_inline void keep_real(const struct packet *p, const struct listener *listener, const struct session *s,
                                      const struct settings *settings)
{
    struct client_key key = client_of(p, listener);
    struct client client = {.real = s->real, .port = s->real_port, .last_s = settings->now_s};

    clients.update(&key, &client);
}

/* The member for a new flow. `counted`: where its SYN is counted as begun, in lc and wlc. */
static __always_inline int choose(const struct packet *p, const struct listener *listener,
                                  const struct settings *settings, __u16 *counted)
{
    int member = listener->persist_s ? kept_member(p, listener, settings) : -1;

    if (listener->scheduler != SCHEDULER_LEAST)
        return member >= 0 ? member : ring_member(listener, new_flow_slot(&p->key, listener));
    if (member < 0)
        member = least_found();
    if (!member) {
        ask_least(p->ctx, listener);
        return -1; /* not reached: `lb` begins anew, unless its stages are not there */
    }
    if (member > 0)
        *counted = member;
    return member;
}
