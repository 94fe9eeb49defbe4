/* Fragments. The first one has the ports: it goes the way of any packet of its flow, and what became of it is remembered
 * by what all fragments of a packet have in common. The later ones follow, with the addresses that it got; their L4 part
 * is left alone, since the checksum stands in the first.
 *
 * A later fragment that comes before the first is dropped (docs/decisions/0015). Senders put identifications into use
 * again, after 65,536 packets to one address at the earliest: hence the short memory.
 */
#define FRAGMENT_TIMEOUT_S 3 /* fragments of one packet are sent in one go: this is for queues on the way */

/* What has just been forwarded was a first fragment. */
static __always_inline void remember(const struct packet *p, const struct settings *settings, enum reason reason)
{
    struct fragment_key key = {.source = p->key.client, .destination = p->key.vip, .id = p->first,
                               .protocol = p->key.protocol};
    struct listener_key of = {.vip = p->key.vip, .port = p->key.vip_port, .protocol = p->key.protocol};
    struct fragment entry = {.first_s = settings->now_s, .answer = reason == TX_REPLY};
    struct ethhdr *eth = (void *)(long)p->ctx->data;
    struct iphdr *ip = (void *)(eth + 1);
    __be16 *ports = (void *)(ip + 1);
    struct listener *listener;

    if ((void *)(ports + 2) > (void *)(long)p->ctx->data_end)
        return;
    entry.source = ip->saddr;
    entry.destination = ip->daddr;
    entry.tunnel = ip->protocol == IPPROTO_IPIP;
    __builtin_memcpy(entry.mac, eth->h_dest, ETH_ALEN);
    if (entry.answer) {
        of.vip = ip->saddr;
        of.port = ports[0];
    }
    listener = listeners.lookup(&of);
    if (!listener)
        return;
    entry.listener = listener->index;
    fragments.update(&key, &entry);
}

static __always_inline enum reason later_fragment(struct packet *p, const struct settings *settings)
{
    struct fragment_key key = {.source = p->ip->saddr, .destination = p->ip->daddr, .id = p->ip->id,
                               .protocol = p->ip->protocol};
    struct fragment *first = fragments.lookup(&key);
    __u16 delta;

    if (!first || settings->now_s - first->first_s > FRAGMENT_TIMEOUT_S)
        return irregular(p, DROP_FRAGMENT);
    if (first->tunnel) {
        struct session s = {.real = first->destination, .listener = first->listener};

        __builtin_memcpy(s.mac, first->mac, ETH_ALEN);
        return encapsulate(p, &s, settings, TX_FRAGMENT);
    }
    delta = fold((__u32)address_delta(key.source, first->source) + address_delta(key.destination, first->destination));
    if (key.source != first->source || key.destination != first->destination) {
        if (p->ip->ttl <= 1)
            return DROP_TTL;
        p->ip->ttl--;
        p->ip->check = adjusted(p->ip->check, fold((__u32)delta + bpf_htons(0xfeff)));
        p->ip->saddr = first->source;
        p->ip->daddr = first->destination;
    }
    send_to(p, first->mac);
    if (first->answer)
        count_out(first->listener, p->length);
    else
        count_in(first->listener, p->length);
    return TX_FRAGMENT;
}
