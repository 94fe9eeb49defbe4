/* Persistence, and with it every choice of a real: a client, which is an address or a prefix, keeps its real from one flow to the next.
 *
 * The time counts from the client's last new flow. A real that has gone, is down or has weight 0 is kept by nobody: its
 * clients are scheduled anew, and keep what they then get. What a node keeps is its own, and the peers are not told. So a
 * hash does not find a flow again on another node, and its SYN is remembered as with the schedulers that take turns.
 */
static __always_inline struct client_key client_of(const struct packet *p, const struct listener *listener)
{
    return (struct client_key){.client = p->key.client & listener->persist_mask, .listener = listener->index};
}

/* The client's real, as an index; negative: it has none. */
static __always_inline int kept_real(const struct packet *p, const struct listener *listener,
                                     const struct settings *settings, __u16 *load)
{
    struct client_key key = client_of(p, listener);
    struct client *client = clients.lookup(&key);
    struct member_key taker = {.listener = listener->index};
    __u32 *real;

    if (!client || settings->now_s - client->last_s >= listener->persist_s)
        return -1;
    taker.real = client->real;
    taker.port = client->port;
    real = takers.lookup(&taker);
    if (!real)
        return -1;
    if (listener->scheduler == SCHEDULER_LEAST)
        *load = load_of(taker.listener, taker.real, taker.port);
    return *real;
}

static __always_inline void keep_real(const struct packet *p, const struct listener *listener, const struct session *s,
                                      const struct settings *settings)
{
    struct client_key key = client_of(p, listener);
    struct client client = {.real = s->real, .port = s->real_port, .last_s = settings->now_s};

    clients.update(&key, &client);
}

/* The real for a new flow, and in lc and wlc where its connections are counted. */
static __always_inline int choose(const struct packet *p, const struct listener *listener,
                                  const struct settings *settings, __u16 *load)
{
    struct member *member;
    int number;

    if (listener->persist_s) {
        number = kept_real(p, listener, settings, load);
        if (number >= 0)
            return number;
    }
    if (listener->scheduler != SCHEDULER_LEAST)
        return ring_real(listener, new_flow_slot(&p->key, listener));
    number = least_found();
    if (!number) {
        ask_least(p->ctx, listener);
        return -1; /* not reached: `lb` begins anew, unless its stages are not there */
    }
    member = number > 0 ? members.lookup(&number) : NULL;
    if (!member)
        return -1;
    *load = number;
    return member->real;
}
