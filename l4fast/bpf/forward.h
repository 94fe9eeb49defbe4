/* What leaves, in each mode: towards the real, and back to the client. */

/* From the client to the session's real. `reason` says why, if it can be. */
static __always_inline enum reason to_real(struct packet *p, const struct session *s, const struct settings *settings,
                                           enum reason reason)
{
    if (s->mode == MODE_TUNNEL)
        return encapsulate(p, s, settings, reason);
    if (s->mode == MODE_FULLNAT)
        return translate(p, s, reason);
    if (s->mode == MODE_NAT) {
        if (p->ip->ttl <= 1)
            return DROP_TTL;
        p->ip->ttl--;
        p->ip->daddr = s->real;
        p->ip->check = adjusted(p->ip->check, s->l3_delta);
        rewrite_l4(p, s->l4_delta);
        ((__be16 *)p->l4)[1] = s->real_port;
    }
    send_to(p, s->mac);
    count_in(s->listener, p->length);
    return reason;
}

/* From a real to its client, under the listener's address. */
static __always_inline enum reason to_client(struct packet *p, const struct candidate *as, const struct settings *settings)
{
    __be16 real_port = ((__be16 *)p->l4)[0];

    if (!(*(__u32 *)settings->gateway_mac | *(__u16 *)(settings->gateway_mac + 4)))
        return DROP_NO_GATEWAY;
    if (p->ip->ttl <= 1)
        return DROP_TTL;
    p->ip->ttl--;
    p->ip->check = adjusted(p->ip->check, l3_delta(p->ip->saddr, as->vip));
    rewrite_l4(p, l4_delta(p->ip->saddr, as->vip, real_port, as->port));
    p->ip->saddr = as->vip;
    ((__be16 *)p->l4)[0] = as->port;
    send_to(p, settings->gateway_mac);
    count_out(as->listener, p->length);
    return TX_REPLY;
}
