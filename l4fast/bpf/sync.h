/* Telling the peers: records are staged in this CPU's page, and a full page becomes one ring-buffer record, which the
 * daemon seals and sends as one datagram. Nothing waits: what the ring does not take is counted and told again later.
 *
 * XDP programs are not interrupted by other XDP programs on their CPU, so that a page needs no lock. Should `flush` be
 * interrupted between its output and its reset (kernels before 6.11), the records appended then are lost until their
 * refresh.
 */

static __always_inline void emit(struct page *page, struct stats *stats)
{
    if (sync_ring.ringbuf_output(page, sizeof(*page), 0))
        stats->count[EVENT_SYNC_LOST] += page->count;
    page->count = 0;
}

static __always_inline void stage(const struct session_key *key, const struct session *s, struct stats *stats)
{
    int zero = 0;
    struct page *page = cpu_page.lookup(&zero);
    struct session *record;
    __u32 i;

    if (!page)
        return;
    i = page->count;
    if (i >= PAGE_RECORDS)
        return;
    page->keys[i] = *key;
    record = &page->values[i];
    *record = *s;
    record->member = 0;
    record->generation = 0;
    record->counted = 0;
    record->sync_due_s = SYNC_NOT_YET;
    record->hop = 0;
    record->refresh_s = 0;
    record->learnt = 1;
    record->limited = 0;
    stats->count[EVENT_SYNC_STAGED]++;
    page->count = i + 1;
    if (page->count == PAGE_RECORDS)
        emit(page, stats);
}

/* A session's packets have reached the threshold, its state has changed or its refresh is due. */
static __always_inline void tell(const struct session_key *key, struct session *s, struct stats *stats, __u32 now_s)
{
    if (s->packets < SYNC_PACKETS)
        return;
    if (s->state == STATE_ANSWER)
        return;
    s->sync_due_s = now_s + s->refresh_s;
    stage(key, s, stats);
    if (s->mode == MODE_FULLNAT) {
        struct session_key answers = answer_key(s, key->protocol);
        struct session *answer = scratch();

        if (!answer)
            return;
        answer_entry(answer, key, s);
        stage(&answers, answer, stats);
    }
}
