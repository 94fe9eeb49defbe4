/* Which listener a nat real's answer belongs to: the one that uses this real's port, session or not; where several do, the
 * one that has this client's flow.
 */

/* What a real sends to this node itself is no client's. */
static __always_inline int is_local(const struct settings *settings, struct address address)
{
    int i;

#pragma unroll
    for (i = 0; i < LOCAL_ADDRESSES; i++)
        if (same_address(address, settings->local[i]))
            return 1;
    return 0;
}

/* Whether the client's flow through this candidate goes to the real that has answered. */
static __always_inline int answers(struct session_key *key, const struct reverse_key *from)
{
    struct session *s = sessions.lookup(key);
    struct member *member;
    __u64 syn;
    int index;

    if (s)
        return same_address(s->real, from->real) && s->real_port == from->port;
    syn = find_syn(key);
    if (!syn)
        return 0;
    index = syn_member(syn);
    member = members.lookup(&index);
    return member && same_address(member->real, from->real) && member->port == from->port;
}

/* `key` is complete but for the VIP and its port, which are filled in. NULL: nobody knows this client. */
static __always_inline struct candidate *owner(struct reverse *owners, const struct reverse_key *from,
                                               struct session_key *key)
{
    struct candidate *as = NULL;
    int i;

    if (owners->count == 1) {
        as = &owners->candidates[0];
    } else {
#pragma unroll
        for (i = 0; i < REVERSE_CANDIDATES; i++) {
            if (as || i >= owners->count)
                continue;
            key->vip = owners->candidates[i].vip;
            key->vip_port = owners->candidates[i].port;
            if (answers(key, from))
                as = &owners->candidates[i];
        }
    }
    if (as) {
        key->vip = as->vip;
        key->vip_port = as->port;
    }
    return as;
}
