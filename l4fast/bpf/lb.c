/* The data plane of an L4 node, read from top to bottom: parse, a known session, a new flow, a reply, ICMP.
 *
 * A listener that keeps no session has a stage of its own before these.
 *
 * What is forwarded leaves by the interface it came in, or by another if the node has several. TCP and UDP; nat, fullnat,
 * dr and tunnel.
 * Everything else, and whatever is for no VIP, goes to the kernel. docs/l4.md says more.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/if_ether.h>
#include <linux/icmp.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "ip.h"
#include "types.h"
#include "stats.h"
#include "maps.h"
#include "acl.h"
#include "limits.h"
#include "parse.h"
#include "rewrite.h"
#include "icmp.h"
#include "tunnel.h"
#include "forward.h"
#include "fullnat.h"
#include "sync.h"
#include "listener.h"
#include "select.h"
#include "half_open.h"
#include "least.h"
#include "persist.h"
#include "ports.h"
#include "owner.h"
#include "icmp_error.h"
#include "fragment.h"
#include "vlan.h"

/* TCP events, and the next state for each. A nibble is a state; RESTART: a SYN opens a new connection on the same ports.
 *
 *              ACK          SYN          FIN          RST
 * ESTABLISHED  ESTABLISHED  ESTABLISHED  FIN_WAIT     CLOSED
 * UNPROVEN     ESTABLISHED  UNPROVEN     FIN_WAIT     CLOSED
 * FIN_WAIT     FIN_WAIT     RESTART      FIN_WAIT     CLOSED
 * CLOSED       UNPROVEN     RESTART      CLOSED       CLOSED
 */
enum event { EVENT_ACK, EVENT_SYN, EVENT_FIN, EVENT_RST };
#define RESTART 0xf
#define ON(state, event, next) ((__u64)(next) << ((state) * 16 + (event) * 4))
#define TRANSITIONS                                                                                                    \
    (ON(STATE_ESTABLISHED, EVENT_ACK, STATE_ESTABLISHED) | ON(STATE_ESTABLISHED, EVENT_SYN, STATE_ESTABLISHED) |       \
     ON(STATE_ESTABLISHED, EVENT_FIN, STATE_FIN_WAIT) | ON(STATE_ESTABLISHED, EVENT_RST, STATE_CLOSED) |               \
     ON(STATE_UNPROVEN, EVENT_ACK, STATE_ESTABLISHED) | ON(STATE_UNPROVEN, EVENT_SYN, STATE_UNPROVEN) |                \
     ON(STATE_UNPROVEN, EVENT_FIN, STATE_FIN_WAIT) | ON(STATE_UNPROVEN, EVENT_RST, STATE_CLOSED) |                     \
     ON(STATE_FIN_WAIT, EVENT_ACK, STATE_FIN_WAIT) | ON(STATE_FIN_WAIT, EVENT_SYN, RESTART) |                          \
     ON(STATE_FIN_WAIT, EVENT_FIN, STATE_FIN_WAIT) | ON(STATE_FIN_WAIT, EVENT_RST, STATE_CLOSED) |                     \
     ON(STATE_CLOSED, EVENT_ACK, STATE_UNPROVEN) | ON(STATE_CLOSED, EVENT_SYN, RESTART) |                              \
     ON(STATE_CLOSED, EVENT_FIN, STATE_CLOSED) | ON(STATE_CLOSED, EVENT_RST, STATE_CLOSED))

static __always_inline __u8 next_state(__u8 state, __u8 tcp_flags)
{
    __u32 event = tcp_flags & TCP_RST   ? EVENT_RST
                  : tcp_flags & TCP_SYN ? EVENT_SYN
                  : tcp_flags & TCP_FIN ? EVENT_FIN
                                        : EVENT_ACK;

    return TRANSITIONS >> ((state * 16 + event * 4) & 63) & 0xf;
}

/* Moves a TCP session's state. Says RESTART, or whether the state has changed. */
static __always_inline __u8 advance(struct session *s, __u8 tcp_flags)
{
    __u8 next = next_state(s->state & STATE_UNSTEADY, tcp_flags);

    if (next == RESTART || next == s->state)
        return next == RESTART ? RESTART : 0;
    s->state = next;
    if (!counts(next))
        uncount(s);
    return 1;
}

/* The session goes, with the other direction of one in fullnat. Says how many entries that were. */
static __always_inline int forget(const struct session_key *key, struct session *s)
{
    struct session_key session = *key;
    int entries = 0;

    uncount(s);
    if (s->mode == MODE_FULLNAT && s->state != STATE_ANSWER) {
        struct session_key answers = answer_key(s, key->protocol);

        entries += !sessions.delete(&answers);
    }
    return entries + !sessions.delete(&session);
}

/* Finds again what a session has to know of this node: it came from a peer, or the configuration has changed. */
static __always_inline enum reason warm(struct session_key *key, struct session *s,
                                        const struct settings *settings, struct stats *stats)
{
    struct listener_key listener_key = {.vip = key->vip, .port = key->vip_port, .protocol = key->protocol};
    int answer = s->state == STATE_ANSWER;
    struct listener *listener;
    struct hop *to;
    __u32 *hop;

    if (answer) {
        listener_key.vip = s->source;
        listener_key.port = s->source_port;
    }
    listener = listeners.lookup(&listener_key);
    if (!listener)
        return PASS_NO_LISTENER;
    if (!answer && denied(listener, key->client)) {
        forget(key, s);
        return deny(listener);
    }
    if (answer) {
        s->hop = HOP_CLIENTS;
        s->member = member_of(listener, key->client, key->client_port);
    } else {
        hop = hop_numbers.lookup(&s->real);
        if (!hop)
            return DROP_NO_NEIGHBOUR;
        s->hop = *hop;
        s->member = member_of(listener, s->real, s->real_port);
    }
    to = next_hop(s->hop);
    if (!to || (to->way & WAY_HERE && s->mode != MODE_DR))
        return answer ? DROP_NO_GATEWAY : DROP_NO_NEIGHBOUR;
    s->refresh_s = listener->refresh_s;
    s->limited = !!(listener->limited & LIMITED_BANDWIDTH);
    if (s->sync_due_s == SYNC_NOT_YET && !answer)
        s->sync_due_s = settings->now_s + listener->refresh_s;
    s->generation = settings->generation;
    adopt(s, listener);
    stats->count[EVENT_WARMED]++;
    return LB_NEXT;
}

/* What the listener's bandwidth says to a client's packet of no session. */
static __always_inline enum reason has_bandwidth(const struct packet *p, const struct listener *listener)
{
    return listener->limited & LIMITED_BANDWIDTH ? ask_toll(p->ctx, p->length, listener->index, 0, INWARDS) : LB_NEXT;
}

/* A packet to a listener that keeps no session: its hash says where it goes, whatever came before it. */
static __always_inline enum reason stateless(struct packet *p, const struct settings *settings)
{
    struct listener_key key = {.vip = p->key.vip, .port = p->key.vip_port, .protocol = p->key.protocol};
    struct listener *listener = find_listener(&key, settings);
    enum reason reason;
    struct session s;

    if (!listener || !listener->stateless)
        return LB_NEXT;
    if (bad_source(&p->key))
        return DROP_BAD_SOURCE;
    if (p->key.protocol == IPPROTO_TCP && bad_flags(p->tcp_flags))
        return DROP_BAD_FLAGS;
    if (denied(listener, p->key.client))
        return deny(listener);
    reason = has_bandwidth(p, listener);
    if (reason == LB_NEXT)
        reason = session_to(ring_member(listener, flow_slot(&p->key, listener)), &s, p, listener, settings);
    if (reason == LB_NEXT && listener->limited && p->tcp_flags & TCP_SYN)
        reason = may_begin(listener);
    if (reason != LB_NEXT)
        return reason;
    return to_real(p, &s, settings, TX_STATELESS);
}

/* What an answer tells of its session: FIN and RST move its state, a datagram renews it. */
static __always_inline void answered(const struct packet *p, const struct session *answer,
                                     const struct settings *settings, struct stats *stats)
{
    struct session_key key = answer_key(answer, p->key.protocol);
    struct session *s;

    if (p->key.protocol == IPPROTO_TCP && !(p->tcp_flags & (TCP_FIN | TCP_RST)))
        return;
    s = sessions.lookup(&key);
    if (!s)
        return;
    s->last_s = settings->now_s;
    if (p->key.protocol == IPPROTO_TCP && advance(s, p->tcp_flags) == 1)
        to_tell(&key, s, stats, settings->now_s);
}

/* A session that an RST had closed is in use again, and counts. */
static __always_inline void revive(const struct session_key *key, struct session *s)
{
    struct listener_key listener_key = {.vip = key->vip, .port = key->vip_port, .protocol = key->protocol};
    struct listener *listener = listeners.lookup(&listener_key);

    if (listener)
        adopt(s, listener);
}

/* An entry of fullnat's answers is asked about the other direction. */
static __always_inline enum direction direction_of(const struct session *s)
{
    return s->state == STATE_ANSWER ? OUTWARDS : INWARDS;
}

static __always_inline enum reason known_session(struct packet *p, const struct settings *settings, struct stats *stats)
{
    struct session *s = sessions.lookup(&p->key);
    __u8 changed = 0;

    if (!s)
        return LB_NEXT;
    if (s->generation != settings->generation) {
        enum reason reason = warm(&p->key, s, settings, stats);

        if (reason != LB_NEXT)
            return reason;
    }
    if ((p->tcp_flags & TCP_CONTROL) | (s->state & STATE_UNSTEADY) | s->limited) {
        if (s->limited) {
            enum reason reason = ask_toll(p->ctx, p->length, 0, s->member, direction_of(s));

            if (reason != LB_NEXT)
                return reason;
        }
        if (s->state == STATE_ANSWER)
            answered(p, s, settings, stats);
        else if (p->key.protocol == IPPROTO_TCP)
            changed = advance(s, p->tcp_flags);
        if (changed == RESTART) {
            forget(&p->key, s);
            return LB_NEXT;
        }
        if (changed && s->state == STATE_UNPROVEN)
            revive(&p->key, s);
    }
    s->packets++;
    s->bytes += p->length;
    s->last_s = settings->now_s;
    if (changed | (s->packets == SYNC_PACKETS) | (settings->now_s >= s->sync_due_s))
        to_tell(&p->key, s, stats, settings->now_s);
    return to_real(p, s, settings, TX_SESSION);
}

static __always_inline void remember_syn(struct packet *p, int member, __u16 counted, const struct settings *settings)
{
    if (counted)
        begun(counted, settings, 1);
    put_syn(&p->key, syn_entry(p, member, settings));
}

#define CHOOSE (-2)   /* none yet: the scheduler has to choose one */
#define UNSYNCED (-3) /* a guess would most likely be wrong, and a peer may tell soon */

/* A packet of a TCP flow that has no session: its member, negative for none, CHOOSE or UNSYNCED. `state`: the session's that
 * it makes, or -1 for none. */
static __always_inline int new_tcp_flow(struct packet *p, const struct listener *listener,
                                        const struct settings *settings, struct stats *stats, int *state)
{
    __u64 syn = listener->track ? find_syn(&p->key) : 0;

    *state = -1;
    if (p->tcp_flags & TCP_SYN)
        return syn && syn_sequence(syn) == bpf_ntohl(p->sequence) ? syn_member(syn) : CHOOSE;
    if (syn) {
        if (!(p->tcp_flags & TCP_CONTROL) && follows(syn_sequence(syn), p)) {
            *state = STATE_ESTABLISHED;
            if (listener->scheduler == SCHEDULER_LEAST && syn_of_now(syn, settings))
                begun(syn_member(syn), settings, -1);
        }
        return syn_member(syn);
    }
    if (listener->persist_s) {
        int member = kept_member(p, listener, settings);

        if (member >= 0)
            return member;
    } else if (listener->scheduler == SCHEDULER_HASH && !(p->tcp_flags & TCP_CONTROL) &&
               unproven_allowed(stats, settings)) {
        *state = STATE_UNPROVEN;
    }
    if (settings->lacking && listener->scheduler != SCHEDULER_HASH)
        return UNSYNCED;
    return ring_member(listener, flow_slot(&p->key, listener));
}

static __always_inline enum reason new_flow(struct packet *p, const struct settings *settings, struct stats *stats)
{
    struct listener_key key = {.vip = p->key.vip, .port = p->key.vip_port, .protocol = p->key.protocol};
    struct listener *listener = find_listener(&key, settings);
    enum reason reason = TX_UNTRACKED;
    enum reason why;
    struct session s;
    int index, state, chosen = 0, entered = 0;
    __u16 counted = 0;

    if (!listener)
        return LB_NEXT;
    if (bad_source(&p->key))
        return DROP_BAD_SOURCE;
    if (denied(listener, p->key.client))
        return deny(listener);
    why = has_bandwidth(p, listener);
    if (why != LB_NEXT)
        return why;
    if (p->key.protocol == IPPROTO_TCP) {
        if (bad_flags(p->tcp_flags))
            return DROP_BAD_FLAGS;
        if (p->tcp_flags & TCP_SYN)
            reason = TX_SYN;
        if (listener->mode == MODE_FULLNAT)
            return LB_FULLNAT;
        index = new_tcp_flow(p, listener, settings, stats, &state);
    } else {
        if (listener->mode == MODE_FULLNAT)
            return LB_FULLNAT;
        index = CHOOSE;
        state = STATE_UDP;
    }
    if (index == CHOOSE) {
        chosen = 1;
        index = choose(p, listener, settings, &counted);
    }
    if (index == UNSYNCED)
        return DROP_UNSYNCED;
    why = session_to(index, &s, p, listener, settings);
    if (why == LB_NEXT && chosen && listener->limited)
        why = may_begin(listener);
    if (why != LB_NEXT)
        return why;
    if (chosen && state < 0 && listener->track)
        remember_syn(p, index, counted, settings);
    if (state >= 0) {
        entered = enter_counted(p, &s, state, listener, stats);
        if (entered == OVER)
            return over(listener->index, DROP_CONNECTIONS);
    }
    if (entered) {
        reason = TX_NEW_SESSION;
        if (listener->track)
            drop_syn(&p->key);
    }
    if (chosen && listener->persist_s)
        keep_real(p, listener, &s, settings);
    return to_real(p, &s, settings, reason);
}

/* A flow without session, of a listener that admits it. */
static __always_inline enum reason fullnat(struct packet *p, const struct settings *settings, struct stats *stats)
{
    struct listener_key key = {.vip = p->key.vip, .port = p->key.vip_port, .protocol = p->key.protocol};
    struct listener *listener = find_listener(&key, settings);
    struct session s;

    if (!listener)
        return DROP_INTERNAL;
    return p->key.protocol == IPPROTO_TCP ? fullnat_tcp(p, &s, listener, settings, stats)
                                          : fullnat_udp(p, &s, listener, settings, stats);
}

/* fullnat: to a pool's address, and no session's. */
static __always_inline enum reason to_pool(struct packet *p)
{
    __u32 *listening = vips.lookup(&p->key.vip);

    return listening && !*listening ? half_open_answer(p) : LB_NEXT;
}

/* nat: a real's answer. */
static __always_inline enum reason reply(struct packet *p, const struct settings *settings, struct stats *stats)
{
    struct reverse_key from = {.real = p->key.client, .port = p->key.client_port, .protocol = p->key.protocol};
    struct reverse *owners = reverse.lookup(&from);
    struct session_key key = {.client = p->key.vip, .client_port = p->key.vip_port, .protocol = p->key.protocol};
    enum reason reason = LB_NEXT;
    struct candidate *as;
    struct session *s;

    if (!owners)
        return LB_NEXT;
    if (is_local(settings, p->key.vip))
        return PASS_LOCAL;
    as = owner(owners, &from, &key);
    if (!as)
        return DROP_REPLY_AMBIGUOUS;
    if (owners->limited)
        reason = ask_toll(p->ctx, p->length, 0, as->member, OUTWARDS);
    if (reason != LB_NEXT)
        return reason;
    if (!owners->stateless && (p->key.protocol == IPPROTO_UDP || p->tcp_flags & (TCP_FIN | TCP_RST))) {
        s = sessions.lookup(&key);
        if (s) {
            s->last_s = settings->now_s;
            if (p->key.protocol == IPPROTO_TCP && advance(s, p->tcp_flags) == 1)
                to_tell(&key, s, stats, settings->now_s);
        }
    }
    return to_client(p, as);
}

/* Where a flow without session goes: as its SYN did, or by hash. */
static __always_inline int half_open_member(const struct packet *p, const struct listener *listener)
{
    __u64 syn = listener->track ? find_syn(&p->key) : 0;

    return syn ? syn_member(syn) : ring_member(listener, flow_slot(&p->key, listener));
}

/* An ICMP error about an answer, or in fullnat to the pool, goes the way of its flow: `p->key` is the flow's. It changes no
 * session: whoever sees one packet of a flow, or guesses its ports, can forge an error. */
static __always_inline enum reason error_in(struct packet *p, const struct settings *settings, struct stats *stats)
{
    struct listener_key key = {.vip = p->key.vip, .port = p->key.vip_port, .protocol = p->key.protocol};
    struct session *known = sessions.lookup(&p->key), s;
    struct half_open_fullnat *syn = NULL;
    struct listener *listener;
    enum reason reason = LB_NEXT;
    int member;

    if (known) {
        if (known->generation != settings->generation)
            reason = warm(&p->key, known, settings, stats);
        if (reason == LB_NEXT && known->limited)
            reason = ask_toll(p->ctx, p->length, 0, known->member, direction_of(known));
        if (reason != LB_NEXT)
            return reason;
        s = *known;
        return error_to_real(p, &s, settings);
    }
    listener = listeners.lookup(&key);
    if (!listener)
        return PASS_ICMP;
    if (listener->mode == MODE_FULLNAT) {
        syn = half_open_fullnat.lookup(&p->key);
        if (!syn)
            return DROP_NO_SESSION;
        member = syn->member;
    } else {
        member = half_open_member(p, listener);
    }
    reason = has_bandwidth(p, listener);
    if (reason == LB_NEXT)
        reason = session_to(member, &s, p, listener, settings);
    if (reason != LB_NEXT)
        return reason;
    if (syn)
        set_source(&s, &p->key, syn->source, syn->source_port);
    return error_to_real(p, &s, settings);
}

/* nat: an error about what a client has sent, from its real or from a router on the way to it. */
static __always_inline enum reason error_out(struct packet *p, const struct settings *settings)
{
    struct reverse_key from = {.real = p->key.vip, .port = p->key.vip_port, .protocol = p->key.protocol};
    struct reverse *owners = reverse.lookup(&from);
    struct session_key key = p->key;
    enum reason reason = LB_NEXT;
    struct candidate *as;

    if (!owners)
        return LB_NEXT;
    if (is_local(settings, p->key.client))
        return PASS_LOCAL;
    as = owner(owners, &from, &key);
    if (!as)
        return DROP_REPLY_AMBIGUOUS;
    if (owners->limited)
        reason = ask_toll(p->ctx, p->length, 0, as->member, OUTWARDS);
    return reason == LB_NEXT ? error_to_client(p, as) : reason;
}

static __always_inline enum reason icmp(struct packet *p, const struct settings *settings, struct stats *stats)
{
    int to_vip = is_vip(p->ip->destination);
    enum reason reason = parse_icmp(p, to_vip);

    if (reason == LB_NEXT && !to_vip)
        return p->key.protocol == PROTOCOL_TUNNEL ? relay_too_big(p, settings) : error_out(p, settings);
    if (!to_vip)
        return LB_NEXT;
    if (bad_sender(p->ip))
        return DROP_BAD_SOURCE;
    if (reason == TX_ECHO)
        return within(&stats->echo, settings->echo_per_cpu_s, kernel_s()) ? answer_echo(p) : DROP_ECHO_LIMIT;
    return reason == LB_NEXT ? error_in(p, settings, stats) : reason;
}

static __always_inline enum reason fragment(struct packet *p, const struct settings *settings, struct stats *stats)
{
    enum reason reason = later_fragment(p, settings);

    return reason == LB_NEXT ? early_fragment(p, settings, stats) : reason;
}

/* The stages are not there. */
static __always_inline enum reason without_other(struct packet *p, enum reason reason)
{
    if (reason == LB_ICMP)
        return PASS_ICMP;
    return reason == LB_FRAGMENT || reason == LB_FRAGMENTED ? irregular(p, DROP_FRAGMENT) : DROP_INTERNAL;
}

/* The end of a packet whose session the peers are told of. */
static __always_inline int told_of(struct xdp_md *ctx, int action)
{
    int zero = 0;
    struct telling *telling = tellings.lookup(&zero);

    if (telling) {
        telling->action = action;
        stages.call(ctx, STAGE_TELL);
    }
    return action;
}

static __always_inline int balance(struct xdp_md *ctx, enum shape shape)
{
    int zero = 0;
    struct settings *settings = node_settings.lookup(&zero);
    struct stats *stats = cpu_stats.lookup(&zero);
    struct packet p = {};
    enum reason reason;
    __u32 vip;
    int action;

    if (!settings || !stats)
        return XDP_PASS;
    reason = parse(ctx, settings, &p, shape);
#if IP_VERSION == 4
    if (reason == PASS_NOT_IP && p.eth->h_proto == bpf_htons(ETH_P_IPV6))
        stages.call(ctx, STAGE_IPV6);
    if (reason == PASS_NOT_IP && p.eth->h_proto == bpf_htons(ETH_P_8021Q))
        stages.call(ctx, STAGE_UNTAG);
#endif
    vip = reason == LB_NEXT ? may_be_vip(settings, p.key.vip) : 0;
    if (vip & VIP_STATELESS)
        reason = stateless(&p, settings);
    if (reason == LB_NEXT && vip) {
        reason = known_session(&p, settings, stats);
        if (reason == LB_NEXT)
            reason = new_flow(&p, settings, stats);
        if (reason == LB_NEXT)
            reason = to_pool(&p);
    }
    if (reason == LB_NEXT)
        reason = reply(&p, settings, stats);
    if (vip && settings->vips_here && (reason == LB_NEXT || reason == PASS_NO_LISTENER) && is_vip(p.key.vip))
        reason = DROP_NO_LISTENER;
    if (reason > LB_NEXT) {
        stages.call(ctx, reason == LB_FRAGMENTED ? STAGE_FRAGMENTED : STAGE_OTHER);
        reason = without_other(&p, reason);
    }
    if (p.first && ((reason < PASS_FIRST && reason != TX_TOO_BIG) || reason == PASS_SERVED_HERE))
        remember(&p, settings, reason);
    if (!(p.way | *(__u64 *)&stats->tag)) /* and no stats->tell either */
        return leave(stats, reason);
    action = leave_by(&p, settings, stats, reason);
    return stats->tell ? told_of(ctx, action) : action;
}

int lb(struct xdp_md *ctx)
{
    return balance(ctx, IP_VERSION == 4 ? EITHER : WHOLE);
}

#if IP_VERSION == 6
int fragmented(struct xdp_md *ctx)
{
    return balance(ctx, FRAGMENTED);
}
#endif

/* What there is little of, and more than `lb` has room for (the verifier's limit): ICMP, later fragments, and new flows of
 * fullnat, which `lb` has admitted. */
int other(struct xdp_md *ctx)
{
    int zero = 0;
    struct settings *settings = node_settings.lookup(&zero);
    struct stats *stats = cpu_stats.lookup(&zero);
    struct packet p = {};
    enum reason reason;

    if (!settings || !stats)
        return XDP_PASS;
    reason = parse(ctx, settings, &p, EITHER);
    if (reason == LB_ICMP)
        reason = icmp(&p, settings, stats);
    else if (reason == LB_FRAGMENT)
        reason = fragment(&p, settings, stats);
    else if (reason == LB_NEXT)
        reason = fullnat(&p, settings, stats);
    if (p.first && reason < PASS_FIRST)
        remember(&p, settings, reason);
    return p.way | stats->tag ? leave_by(&p, settings, stats, reason) : leave(stats, reason);
}

/* Takes the tag of a frame's VLAN off, for `lb`. */
int untag(struct xdp_md *ctx)
{
    int zero = 0;
    struct settings *settings = node_settings.lookup(&zero);
    struct stats *stats = cpu_stats.lookup(&zero);
#if IP_VERSION == 4
    struct tagged *frame = (void *)(long)ctx->data;
#endif
    enum reason reason;

    if (!settings || !stats)
        return XDP_PASS;
#if IP_VERSION == 4
    if ((void *)(frame + 1) <= (void *)(long)ctx->data_end && frame->protocol == bpf_htons(ETH_P_IPV6))
        stages.call(ctx, STAGE_UNTAG_IPV6);
#endif
    reason = take_tag(ctx, settings, stats);
    if (reason != LB_NEXT)
        return leave(stats, reason);
    stages.call(ctx, STAGE_LB);
    stats->tag = 0; /* not reached, unless the stages are not there */
    return leave(stats, DROP_INTERNAL);
}

/* Lets a packet of limited bandwidth pay for `lb`, and hands it back. */
int toll(struct xdp_md *ctx)
{
    int zero = 0, index;
    struct stats *stats = cpu_stats.lookup(&zero);
    struct toll *toll = tolls.lookup(&zero);
    enum reason reason;
    __u16 listener;

    if (!stats || !toll)
        return XDP_DROP;
    index = toll->member;
    listener = toll->listener;
    if (index) {
        struct member *member = members.lookup(&index);

        listener = member ? member->listener : 0;
    }
    reason = within_bandwidth(listener, toll->direction, toll->length);
    if (reason == LB_NEXT) {
        toll->paid = 1;
        stages.call(ctx, STAGE_LB);
        toll->paid = 0;
        reason = DROP_INTERNAL;
    }
    stats->tag = 0;
    return leave(stats, reason);
}

/* Finds the least busy real for `lb`, and hands the packet back to it. */
int least(struct xdp_md *ctx)
{
    int zero = 0;
    struct settings *settings = node_settings.lookup(&zero);
    struct least *least = least_choice.lookup(&zero);

    if (settings && least) {
        struct listener *listener = &least->listener;

        least->member = listener->ring_size <= RING_CHUNK ? least_of_all(listener, settings->now_s)
                                                          : better_of_two(listener, settings->now_s);
        stages.call(ctx, STAGE_LB);
    }
    return XDP_DROP;
}

/* Tells the peers of the session that `lb` has named, and lets the packet go where it has sent it. */
int tell(struct xdp_md *ctx)
{
    int zero = 0;
    struct stats *stats = cpu_stats.lookup(&zero);
    struct telling *telling = tellings.lookup(&zero);
    struct session *s;

    if (!stats || !telling)
        return XDP_DROP;
    stats->tell = 0;
    s = sessions.lookup(&telling->key);
    if (s)
        stage(&telling->key, s, stats);
    return telling->action;
}

/* Run by the daemon over sessions that it has read: those that are to count as connections (ACCOUNT_ADOPT), and those that
 * go if nothing has happened to them since (ACCOUNT_END). */
int account(struct xdp_md *ctx)
{
    int zero = 0;
    struct account *request = accounting.lookup(&zero);
    struct session_key key;
    struct session *s;
    __u32 i;

    if (!request)
        return XDP_PASS;
    for (i = 0; i < ACCOUNT_KEYS; i++) {
        if (i >= request->count)
            break;
        key = request->keys[i];
        s = sessions.lookup(&key);
        if (!s)
            continue;
        if (request->operation == ACCOUNT_ADOPT)
            revive(&key, s);
        else if (s->last_s == request->last_s[i] && s->state == request->state[i])
            request->ended += forget(&key, s);
    }
    return XDP_PASS;
}

#include "merge.h"

/* Run by the daemon over a frame of a peer's sessions, or of keys: merge.h. */
int merge(struct xdp_md *ctx)
{
    void *end = (void *)(long)ctx->data_end;
    struct merge *request = (void *)(long)ctx->data;
    __u32 i, at, count, done;

    if ((void *)(request + 1) > end)
        return 0;
    at = request->at & 63; /* masks: the verifier (6.18) wants to see what bounds each of them */
    count = request->count & 63;
    done = request->done;
    for (i = 0; i < RECORDS_A_CALL; i++) {
        struct session_key *key = (void *)(request + 1) + (at + i) * sizeof(*key);
        struct session *told = (void *)(request + 1) + count * sizeof(*key) + (at + i) * sizeof(*told);

        asm volatile("" : "+r"(key)); /* one pointer, checked and used, not computed anew for either */
        if (at + i >= count || (void *)(key + 1) > end)
            break;
        if (request->operation != MERGE_ENTER) {
            struct session *s = sessions.lookup(key);

            if (s && request->operation == MERGE_COUNT)
                revive(key, s);
            else if (s && s->last_s <= request->until_s && forget(key, s))
                done += ONE(MERGED_ENDED);
            continue;
        }
        asm volatile("" : "+r"(told));
        if ((void *)(told + 1) > end)
            break;
        told->last_s += request->shift_s;
        if (worth_telling(told))
            done += enter_told(key, told);
    }
    request->done = done;
    request->at = at + RECORDS_A_CALL;
    if (at + RECORDS_A_CALL < count)
        stages.call(ctx, STAGE_MERGE);
    return done;
}

/* Run by the daemon over what a peer's datagram tells: merge.h. */
int hear(struct xdp_md *ctx)
{
    void *end = (void *)(long)ctx->data_end;
    struct hear *request = (void *)(long)ctx->data;
    __u32 i, at, count, ends, done;
    int zero = 0;
    struct heard *heard = hearing.lookup(&zero);

    if ((void *)(request + 1) > end || !heard)
        return 0;
    at = request->at & 0xff;
    ends = request->ends & (2 * PAGE_ENDS - 1);
    count = request->count;
    done = request->done;
    for (i = 0; i < RECORDS_A_CALL; i++) {
        struct told *told = (void *)(request + 1) + ends * sizeof(struct end) + (at + i) * sizeof(*told);

        asm volatile("" : "+r"(told));
        if (at + i >= count || (void *)(told + 1) > end)
            break;
        if (!understand(request, end, told, heard))
            continue;
        if (request->operation == MERGE_COUNT) {
            struct session *s = sessions.lookup(&heard->key);

            if (s)
                revive(&heard->key, s);
        } else if (worth_telling(&heard->session)) {
            done += enter_told(&heard->key, &heard->session);
        }
    }
    request->done = done;
    request->at = at + RECORDS_A_CALL;
    if (at + RECORDS_A_CALL < count)
        stages.call(ctx, STAGE_HEAR);
    return done;
}

/* Run by the daemon on a fragment that came before its first: XDP_PASS while that is so. Otherwise what is to be done with
 * it, and above the action's eight bits the way of the next hop. */
int release(struct xdp_md *ctx)
{
    int zero = 0;
    struct settings *settings = node_settings.lookup(&zero);
    struct stats *stats = cpu_stats.lookup(&zero);
    struct packet p = {};
    enum reason reason;
    int action;

    if (!settings || !stats || parse(ctx, settings, &p, EITHER) != LB_FRAGMENT)
        return XDP_DROP;
    reason = later_fragment(&p, settings);
    if (reason == LB_NEXT)
        return XDP_PASS;
    action = leave(stats, reason);
    return (reason == PASS_SERVED_HERE ? XDP_TX : action) | p.way << 8;
}

/* Run by the daemon on each CPU in turn: sends what its page holds. */
int flush(struct xdp_md *ctx)
{
    int zero = 0;
    struct page *page = cpu_page.lookup(&zero);
    struct stats *stats = cpu_stats.lookup(&zero);

    if (page && stats && page->count)
        emit(page, stats);
    return XDP_PASS;
}
