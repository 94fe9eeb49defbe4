/* fullnat: a new flow gets its port, and keeps it while it is half open; fullnat.h has the theory. */
#define PORT_FIRST 1024   /* up to 65,535; the lower ones are for servers */
#define PORT_COUNT 64512
/* With 80 % of a real's ports in use one allocation in a thousand fails, with 90 % one in thirty. */
#define PORT_TRIES 32
#define PORT_THEFTS 8     /* so many of them, the last, take a port from a half-open flow, but from no session */

/* Finds a port for the flow towards the session's real and enters the answer: UDP among the sessions, TCP half open. `key`
 * becomes the answer's. */
static __always_inline int find_port(struct packet *p, struct session *s, struct session_key *key,
                                     const struct settings *settings, struct stats *stats)
{
    int i;

    for (i = 0; i < PORT_TRIES; i++) {
        __u32 dice = bpf_get_prandom_u32();

        s->source = settings->pool[dice % POOL_ADDRESSES];
        s->source_port = bpf_htons(PORT_FIRST + ((dice >> 16) * PORT_COUNT >> 16));
        *key = answer_key(s, p->key.protocol);
        if (p->key.protocol == IPPROTO_UDP) {
            int error = sessions.insert(key, s);

            if (!error)
                return 0;
            if (error == -EEXIST)
                continue;
            stats->count[EVENT_TABLE_FULL]++;
            return -1;
        }
        /* Entered first and looked for afterwards: a flow that is being established goes the other way round. */
        if (i < PORT_TRIES - PORT_THEFTS ? half_open_answers.insert(key, &p->key)
                                         : half_open_answers.update(key, &p->key))
            continue;
        if (!sessions.lookup(key))
            return 0;
        half_open_answers.delete(key);
    }
    stats->count[EVENT_NO_PORT]++;
    return -1;
}

static __always_inline int take_port(struct packet *p, struct session *s, const struct settings *settings,
                                     struct stats *stats)
{
    struct session *answer = scratch();
    struct session_key key;

    if (!answer || no_address(settings->pool[0]) || find_port(p, s, &key, settings, stats))
        return -1;
    prepare(s, &p->key);
    if (p->key.protocol == IPPROTO_UDP) { /* the loop has reserved the entry */
        answer_entry(answer, &p->key, s);
        sessions.update(&key, answer);
    }
    return 0;
}

/* Whether the half-open flow still has its port. */
static __always_inline int keeps_port(const struct packet *p, struct session_key *answer)
{
    struct session_key *owner = half_open_answers.lookup(answer);

    return owner && same_key(owner, &p->key);
}

/* Both entries; the answer's first, since packets must not find a session without it. Says what `enter_counted` does. */
static __always_inline int establish(struct packet *p, struct session *s, struct session_key *answer,
                                     const struct listener *listener, const struct settings *settings, struct stats *stats)
{
    struct session *entry = scratch();
    int error, entered;

    if (!entry)
        return 0;
    answer_entry(entry, &p->key, s);
    error = sessions.insert(answer, entry);
    if (error) {
        stats->count[EVENT_TABLE_FULL] += error != -EEXIST;
        return 0;
    }
    entered = enter_counted(p, s, STATE_ESTABLISHED, listener, stats);
    if (entered != 1) {
        sessions.delete(answer);
        return entered;
    }
    half_open_fullnat.delete(&p->key);
    half_open_answers.delete(answer);
    return 1;
}

/* A SYN gets a real and a port, or finds those that it got before. */
static __always_inline enum reason fullnat_syn(struct packet *p, struct session *s, const struct listener *listener,
                                               const struct settings *settings, struct stats *stats)
{
    struct half_open_fullnat *syn = half_open_fullnat.lookup(&p->key);
    struct half_open_fullnat entry = {.sequence = bpf_ntohl(p->sequence)};
    struct session_key answer;
    enum reason reason;
    int index;

    if (syn) {
        reason = session_to(syn->member, s, p, listener, settings);
        if (reason != LB_NEXT)
            return reason;
        set_source(s, &p->key, syn->source, syn->source_port);
        answer = answer_key(s, p->key.protocol);
        if (keeps_port(p, &answer)) {
            if (syn->sequence == entry.sequence)
                return translate(p, s, TX_SYN);
            half_open_answers.delete(&answer);
        }
    }
    index = choose(p, listener, settings, &entry.counted);
    reason = session_to(index, s, p, listener, settings);
    if (reason == LB_NEXT && listener->limited)
        reason = may_begin(listener);
    if (reason != LB_NEXT)
        return reason;
    if (take_port(p, s, settings, stats))
        return DROP_NO_PORT;
    if (listener->persist_s)
        keep_real(p, listener, s, settings);
    entry.member = index;
    entry.begun_s = settings->now_s;
    if (entry.counted)
        begun(entry.counted, settings, 1);
    entry.source = s->source;
    entry.source_port = s->source_port;
    half_open_fullnat.update(&p->key, &entry);
    return translate(p, s, TX_SYN);
}

static __always_inline enum reason fullnat_tcp(struct packet *p, struct session *s, const struct listener *listener,
                                               const struct settings *settings, struct stats *stats)
{
    struct half_open_fullnat *syn;
    struct session_key answer;
    enum reason reason;

    if (p->tcp_flags & TCP_SYN)
        return fullnat_syn(p, s, listener, settings, stats);
    syn = half_open_fullnat.lookup(&p->key);
    if (!syn)
        return DROP_NO_SESSION;
    reason = session_to(syn->member, s, p, listener, settings);
    if (reason != LB_NEXT)
        return reason;
    set_source(s, &p->key, syn->source, syn->source_port);
    answer = answer_key(s, p->key.protocol);
    if (!keeps_port(p, &answer))
        return DROP_NO_SESSION;
    reason = TX_UNTRACKED;
    if (!(p->tcp_flags & TCP_CONTROL) && follows(syn->sequence, p)) {
        __u16 counted = syn->begun_s == settings->now_s ? syn->counted : 0;
        int entered = establish(p, s, &answer, listener, settings, stats);

        if (entered == OVER)
            return over(listener->index, DROP_CONNECTIONS);
        if (entered) {
            reason = TX_NEW_SESSION;
            if (counted)
                begun(counted, settings, -1);
        }
    }
    return translate(p, s, reason);
}

static __always_inline enum reason fullnat_udp(struct packet *p, struct session *s, const struct listener *listener,
                                               const struct settings *settings, struct stats *stats)
{
    __u16 counted;
    int index = choose(p, listener, settings, &counted);
    enum reason reason = session_to(index, s, p, listener, settings);
    struct session_key answer;
    int entered;

    if (reason == LB_NEXT && listener->limited)
        reason = may_begin(listener);
    if (reason != LB_NEXT)
        return reason;
    if (take_port(p, s, settings, stats))
        return DROP_NO_PORT;
    entered = enter_counted(p, s, STATE_UDP, listener, stats);
    if (entered != 1) {
        answer = answer_key(s, p->key.protocol);
        sessions.delete(&answer);
        return entered == OVER ? over(listener->index, DROP_CONNECTIONS) : DROP_NO_PORT;
    }
    if (listener->persist_s)
        keep_real(p, listener, s, settings);
    return translate(p, s, TX_NEW_SESSION);
}

/* To a pool's address, and no session: the answer to a half-open flow, or nobody's. */
static __always_inline enum reason half_open_answer(struct packet *p)
{
    struct session_key *owner = half_open_answers.lookup(&p->key);
    struct session s = {.mode = MODE_FULLNAT, .state = STATE_ANSWER, .hop = HOP_CLIENTS};
    struct session_key flow;
    struct half_open_fullnat *syn;
    enum reason reason = LB_NEXT;
    struct member *member;
    int index;

    if (!owner)
        return DROP_NO_SESSION;
    flow = *owner;
    syn = half_open_fullnat.lookup(&flow);
    if (!syn)
        return DROP_NO_SESSION;
    if (!next_hop(HOP_CLIENTS))
        return DROP_NO_GATEWAY;
    index = syn->member;
    member = members.lookup(&index);
    if (member && member->limited)
        reason = ask_toll(p->ctx, p->length, 0, index, OUTWARDS);
    if (reason != LB_NEXT)
        return reason;
    s.real = flow.client;
    s.real_port = flow.client_port;
    s.member = syn->member;
    set_source(&s, &p->key, flow.vip, flow.vip_port);
    return translate(p, &s, TX_REPLY);
}
