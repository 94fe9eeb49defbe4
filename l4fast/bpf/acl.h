/* Access lists: whom a listener admits. Asked of new flows, and of each session once after a change of configuration
 * (lb.c: warm), so that a client that has just been denied loses its sessions with its next packet, and an established
 * flow pays nothing.
 */

/* map inner to `access_lists`, key. The networks of a list do not overlap. */
struct network {
    __u32 length;       /* of the prefix, in bits: the kernel reads it first */
    struct address address;
};

/* Access list index → its networks (network → 1). Written by Python: a list never changes; a change is a new list and
 * then a new `listener`. Inner tries differ in size, as the kernel lets them. */
BPF_F_TABLE("lpm_trie", struct network, __u32, access_list_template, 1, 1 /* BPF_F_NO_PREALLOC, which tries need */);
BPF_ARRAY_OF_MAPS(access_lists, "access_list_template", SIZED);

static __always_inline int denied(const struct listener *listener, struct address client)
{
    struct network of_client = {.length = ADDRESS_BITS, .address = client};
    int index = listener->access_list;
    void *list;

    if (listener->acl == ACL_OFF)
        return 0;
    list = access_lists.lookup(&index);
    if (!list)
        return 1; /* Python writes the list first: not to be had */
    return !bpf_map_lookup_elem(list, &of_client) == (listener->acl == ACL_WHITE);
}

static __always_inline enum reason deny(const struct listener *listener)
{
    int index = listener->index;
    struct listener_stats *stats = listener_stats.lookup(&index);

    if (stats)
        stats->denied++;
    return DROP_DENIED;
}
