/* What leaves, in each mode: towards the real, and back to the client. */

/* nat and fullnat: what exchanging addresses and ports adds to the checksums. `key` is what arrives. */
static __always_inline void prepare(struct session *s, const struct session_key *key)
{
    __u16 addresses = address_delta(key->vip, s->real);
    __u16 l4 = port_delta(addresses, key->vip_port, s->real_port);

    if (s->mode == MODE_FULLNAT) {
        __u16 sources = address_delta(key->client, s->source);

        addresses = fold((__u32)addresses + sources);
        l4 = fold((__u32)port_delta(sources, key->client_port, s->source_port) + l4);
    }
    s->l3_delta = older(addresses);
    s->l4_delta = l4;
}

/* fullnat: whom the real sees. `key` is the session's. */
static __always_inline void set_source(struct session *s, const struct session_key *key, struct address source, __be16 port)
{
    s->source = source;
    s->source_port = port;
    prepare(s, key);
}

/* The end of the way to a real, in nat and dr. */
static __always_inline enum reason hand_on(struct packet *p, const struct session *s, const struct hop *to,
                                           enum reason reason)
{
    count_in(p, s->member);
    if (s->mode == MODE_DR && stays(p, s->hop, to))
        return PASS_SERVED_HERE;
    send_by(p, p->eth, s->hop, to);
    return reason;
}

/* The same in fullnat, in either direction. */
static __always_inline enum reason hand_on_translated(struct packet *p, const struct session *s, const struct hop *to,
                                                      enum reason reason, enum reason reply)
{
    send_by(p, p->eth, s->hop, to);
    if (s->state == STATE_ANSWER) {
        count_out(p, s->member);
        return reply;
    }
    count_in(p, s->member);
    return reason;
}

/* fullnat: both addresses and ports, in either direction. */
static __always_inline enum reason translate(struct packet *p, const struct session *s, enum reason reason)
{
    struct hop *to = next_hop(s->hop);
    __be16 *ports = p->l4;

    if (!to)
        return unresolved(s->hop);
    if (p->ip->ttl <= 1)
        return DROP_TTL;
    rewrite_l4(p, s->l4_delta);
    age(p->ip, s->l3_delta);
    p->ip->source = s->source;
    p->ip->destination = s->real;
    ports[0] = s->source_port;
    ports[1] = s->real_port;
    return hand_on_translated(p, s, to, reason, TX_REPLY);
}

/* From the client to the session's real. `reason` says why, if it can be. */
static __always_inline enum reason to_real(struct packet *p, const struct session *s, const struct settings *settings,
                                           enum reason reason)
{
    struct hop *to;

    if (s->mode == MODE_TUNNEL)
        return encapsulate(p, s, settings, reason);
    if (s->mode == MODE_FULLNAT)
        return translate(p, s, reason);
    to = next_hop(s->hop);
    if (!to)
        return unresolved(s->hop);
    if (s->mode == MODE_NAT) {
        if (p->ip->ttl <= 1)
            return DROP_TTL;
        age(p->ip, s->l3_delta);
        p->ip->destination = s->real;
        rewrite_l4(p, s->l4_delta);
        ((__be16 *)p->l4)[1] = s->real_port;
    }
    return hand_on(p, s, to, reason);
}

/* From a real to its client, under the listener's address. */
static __always_inline enum reason to_client(struct packet *p, const struct candidate *as)
{
    __be16 *ports = p->l4;
    __u16 addresses = address_delta(p->ip->source, as->vip);
    struct hop *clients = next_hop(HOP_CLIENTS);

    if (!clients)
        return DROP_NO_GATEWAY;
    if (p->ip->ttl <= 1)
        return DROP_TTL;
    age(p->ip, older(addresses));
    rewrite_l4(p, port_delta(addresses, ports[0], as->port));
    p->ip->source = as->vip;
    ports[0] = as->port;
    count_out(p, as->member);
    send_by(p, p->eth, HOP_CLIENTS, clients);
    return TX_REPLY;
}
