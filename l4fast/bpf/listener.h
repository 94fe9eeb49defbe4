/* The listener of a flow. Each CPU keeps copies of those it met last: a hash look-up costs as much as all the rest of
 * forwarding a SYN, a flood is for one listener, and listeners change seldom. A copy is good while `configuration` is what
 * it was when it was taken; user space raises that after it has written listeners.
 */
static __always_inline int same_listener(const struct listener_key *a, const struct listener_key *b)
{
    return same_address(a->vip, b->vip) && *(__u32 *)&a->port == *(__u32 *)&b->port;
}

static __always_inline struct listener *find_listener(struct listener_key *key, const struct settings *settings)
{
    int slot = (key->vip.word[ADDRESS_WORDS - 1] * 0x9e3779b1u ^ *(__u32 *)&key->port * 0x85ebca6bu) >>
               (32 - LISTENER_COPIES_BITS);
    struct listener_copy *copy = listener_copies.lookup(&slot);
    /* Read before the listener: one that changes in between is read again. */
    __u32 configuration = *(volatile __u32 *)&settings->configuration;
    struct listener *listener;

    if (!copy)
        return NULL;
    if (copy->configuration == configuration && same_listener(&copy->key, key))
        return &copy->listener;
    listener = listeners.lookup(key);
    if (!listener)
        return NULL;
    copy->key = *key;
    copy->configuration = configuration;
    copy->listener = *listener;
    return &copy->listener;
}
