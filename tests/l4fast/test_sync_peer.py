from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4fast.sync_codec import Header, Resend, Type, pack_resend, parse_header, parse_resend, seal
from l4fast.sync_ends import AGAIN_S, Ended
from l4fast.sync_keys import ClusterKey, seed_digest
from l4fast.sync_peer import (
    ASKED_ON_RETURN,
    CLOCK_SKEW_S,
    HELLO_S,
    HELLO_SOON_S,
    RESENDS_PER_HELLO,
    SEEK_MOST_S,
    SEEK_S,
    Sync,
)
from l4fast.sync_peers import LISTEN_S, RETURN_S, SILENT_S
from l4fast.sync_records import Layout, Records
from l4fast.sync_status import COUNTERS
from l4fast.sync_window import RESEND_DELAY_S, RESEND_RETRY_S, RESEND_TRIES, WINDOW

KEY = ClusterKey(bytes(32))
OTHER_KEY = ClusterKey(b"\1" * 32)
LAYOUTS = {4: Layout(4, 8, 5, 12, 0x1234), 6: Layout(6, 9, 7, 15, 0x1234)}
WALL = 1_700_000_000_000_000
REFRESH_S = 60.0


def node(
    name: str, *, keys: tuple[ClusterKey, ...] = (KEY,), boot: int = 10, max_peers: int = 4, seed: int = 0
) -> Sync:
    return Sync(
        name=name, keys=keys, boot=boot, salt=boot + 1, layouts=LAYOUTS, now=0.0, refresh_s=REFRESH_S,
        max_peers=max_peers, seed=seed,
    )  # fmt: skip


def page(sync: Sync, number: int = 1, wall_us: int = WALL) -> bytes:
    """Sends one record; returns its datagram."""
    sync.send_sessions(4, number.to_bytes(4, "big") + bytes(2 * 5 + 12), 1, 2, wall_us)
    (datagram,) = sync.data_to_send()
    return datagram


def tick(sync: Sync, now: float) -> list[bytes]:
    sync.tick(now, WALL)
    return sync.data_to_send()


def counted(sync: Sync) -> dict[str, int]:
    return {name: value for name, value in sync.counters.items() if value}


def test_records_arrive_as_they_were_sent() -> None:
    a, b = node("a"), node("b")
    body = b"last" + b"e" * 5 * 3 + b"t" * 12 * 20
    a.send_sessions(4, body, 20, 3, WALL)
    (datagram,) = a.data_to_send()
    assert a.data_to_send() == []
    assert b.receive_data(datagram, 1.0, WALL + 700) == Records(4, body, 20, 3, 700)
    assert counted(a) == {"sent_datagrams": 1, "sent_records": 20}
    assert counted(b) == {"received_datagrams": 1, "received_records": 20}


def test_records_of_both_versions_share_the_stream() -> None:
    a, b = node("a"), node("b")
    of_4, of_6 = bytes(4 + 5 + 12), bytes(4 + 2 * 7 + 2 * 15)
    a.send_sessions(6, of_6, 2, 2, WALL)
    a.send_sessions(4, of_4, 1, 1, WALL)
    first, second = a.data_to_send()
    assert b.receive_data(second, 1.0, WALL) == Records(4, of_4, 1, 1, 0)
    assert b.receive_data(first, 1.0, WALL) is None  # from before we were there
    a.send_sessions(6, of_6, 2, 2, WALL)
    (third,) = a.data_to_send()
    assert b.receive_data(third, 1.0, WALL) == Records(6, of_6, 2, 2, 0)
    assert counted(a) == {"sent_datagrams": 3, "sent_records": 5}
    for page in ((of_4, 1, 1), (bytes(4 + 7 + 92 * 15), 92, 1), (of_6, 1, 2)):
        with pytest.raises(AssertionError, match="page"):
            a.send_sessions(6, *page, WALL)


def test_a_lost_page_of_ipv6_is_asked_for_and_comes() -> None:
    a, b = node("a"), node("b")
    b.receive_data(page(a), 1.0, WALL)
    body = bytes(4 + 7 + 15)
    a.send_sessions(6, body, 1, 1, WALL)
    (lost,) = a.data_to_send()
    b.receive_data(page(a), 1.0, WALL)
    (asked,) = [each for each in tick(b, 1.0 + RESEND_DELAY_S) if parse_header(each).type == Type.RESEND]
    a.receive_data(asked, 1.1, WALL)
    (again,) = a.data_to_send()
    assert again == lost
    assert b.receive_data(again, 1.1, WALL) == Records(6, body, 1, 1, 0)


def test_an_empty_page_sends_nothing() -> None:
    a = node("a")
    a.send_sessions(4, bytes(4), 0, 0, WALL)
    assert a.data_to_send() == []


def resealed(datagram: bytes, key: ClusterKey, **changes: int) -> bytes:
    header = parse_header(datagram)._replace(**changes)
    body = bytes((4 + header.ends * 5) * (header.type == Type.SESSIONS) + header.count * header.size)
    return seal(key.cipher(header.node, header.boot, header.salt), header, body)


def forged(datagram: bytes) -> bytes:
    return datagram[:-1] + bytes([datagram[-1] ^ 1])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda a: page(a)[:40], "malformed"),
        (lambda a: page(a)[:-1], "malformed"),
        (lambda a: b"", "malformed"),
        (lambda a: page(a)[:2] + b"\1" + page(a)[3:], "version"),
        (lambda a: page(a)[:2] + b"\3" + page(a)[3:], "version"),
        (lambda a: forged(page(a)), "forged"),
        (lambda a: page(node("a", keys=(OTHER_KEY,))), "foreign_cluster"),
        (lambda a: resealed(page(a), OTHER_KEY), "forged"),  # our cluster's id, another key
        (lambda a: page(node("b")), "own"),
        (lambda a: page(a, wall_us=WALL - int(CLOCK_SKEW_S * 1e6) - 1), "clock"),
        (lambda a: page(a, wall_us=WALL + int(CLOCK_SKEW_S * 1e6) + 1), "clock"),
        (lambda a: resealed(page(a), KEY, layout=9), "layout"),
        (lambda a: resealed(page(a), KEY, size=11), "layout"),
        (lambda a: resealed(page(a), KEY, size=15, ip=6), "layout"),  # ends of the other version
        (lambda a: resealed(page(a), KEY, ip=6), "layout"),  # sizes of the other version
        (lambda a: resealed(page(a), KEY, ip=5), "layout"),
        (lambda a: resealed(page(a), KEY, type=77, ip=0, count=0, size=0, ends=0), "unknown_type"),
    ],
)
def test_refused_with_its_reason(make, reason: str) -> None:  # type: ignore[no-untyped-def]
    b = node("b")
    assert b.receive_data(make(node("a")), 1.0, WALL) is None
    assert counted(b) == {reason: 1}
    assert b.data_to_send() == []


def test_a_refused_datagram_leaves_no_trace() -> None:
    """A forger can neither take a peer's place nor move its window, nor use up the room for peers."""
    a, b = node("a"), node("b")
    good = page(a)
    for sequence in (1, 500, 10**9):
        b.receive_data(forged(resealed(good, KEY, sequence=sequence)), 1.0, WALL)
    b.receive_data(forged(resealed(good, KEY, boot=10**15)), 1.0, WALL)
    assert b.peers == {}
    assert b.receive_data(good, 1.0, WALL) is not None


def test_replays_are_refused() -> None:
    a, b = node("a"), node("b")
    datagrams = [page(a, i) for i in range(5)]
    assert all(b.receive_data(d, 1.0, WALL) for d in datagrams)
    assert not any(b.receive_data(d, 1.0, WALL) for d in datagrams)
    assert counted(b)["replayed"] == 5


def test_a_new_life_replaces_the_old_one() -> None:
    b = node("b")
    old, new = node("a", boot=10), node("a", boot=11)
    before, after = page(old), page(new)
    assert b.receive_data(before, 1.0, WALL)
    assert b.receive_data(after, 1.0, WALL)
    assert b.receive_data(page(old), 1.0, WALL) is None
    assert b.receive_data(before, 1.0, WALL) is None
    assert counted(b)["old_boot"] == 2
    assert len(b.peers) == 1


def test_the_last_of_a_burst_is_missed_and_comes_again() -> None:
    a, b = node("a"), node("b")
    assert b.receive_data(page(a, 1), 1.0, WALL)
    lost = page(a, 2)
    (hello,) = tick(a, 1.0)
    assert b.receive_data(hello, 1.0, WALL) is None
    assert b.counters["missing"] == 1
    b.tick(1.0, WALL)  # b's own hello
    b.data_to_send()
    assert b.next_timer() == 1.0 + RESEND_DELAY_S
    (ask,) = tick(b, b.next_timer())
    assert parse_header(ask).type == Type.RESEND
    assert a.receive_data(ask, 1.1, WALL) is None
    assert a.data_to_send() == [lost]
    records = b.receive_data(lost, 1.1, WALL)
    assert records is not None
    assert records.body[:4] == b"\0\0\0\2"
    assert tick(b, 1.5) == []
    assert (b.counters["received_late"], b.counters["lost"]) == (1, 0)


def test_what_never_comes_is_lost_and_the_peer_unsynced() -> None:
    a, b = node("a"), node("b")
    now = 1.0
    while now < REFRESH_S + 2:
        b.receive_data(tick(a, now)[0], now, WALL)
        now += HELLO_S
    tick(b, now)
    asked = 0
    assert state(b, now) == "synced"
    page(a), page(a)
    b.receive_data(page(a), now, WALL)
    while b.counters["lost"] == 0:
        now += RESEND_RETRY_S
        asked += sum(parse_header(d).type == Type.RESEND for d in tick(b, now))
    assert (asked, b.counters["lost"], b.counters["missing"]) == (RESEND_TRIES, 2, 2)
    assert state(b, now) == "unsynced"
    assert b.status(now)["complete"] is False
    for second in range(1, int(REFRESH_S) + 1):
        b.receive_data(page(a), now + second, WALL)
    assert state(b, now + REFRESH_S) == "synced"
    assert b.status(now + REFRESH_S)["complete"] is True
    assert state(b, now + REFRESH_S + SILENT_S + 0.1) == "silent"


def state(sync: Sync, now: float) -> object:
    (peer,) = sync.status(now)["peers"]  # type: ignore[misc, has-type]
    return peer["state"]  # type: ignore[has-type]


def test_reordering_asks_for_nothing() -> None:
    a, b = node("a"), node("b")
    tick(b, 0.0)
    b.receive_data(page(a), 0.1, WALL)
    tick(b, 0.1 + HELLO_SOON_S)
    datagrams = [page(a, i) for i in range(20)]
    first, rest = datagrams[0], datagrams[1:]
    random.Random(1).shuffle(rest)
    assert all(b.receive_data(d, 0.5, WALL) for d in [first, *rest])
    assert tick(b, 0.5 + RESEND_DELAY_S) == []
    assert b.counters["missing"] > 5
    assert b.counters["lost"] == 0 == b.counters["resend_asked"]


def test_one_datagram_in_twenty_lost_and_every_session_there_a_second_later() -> None:
    """Requests and repeats are lost as well, here on a wire that is drawn anew for each of three peers."""
    lossy = random.Random(7)
    a, peers = node("a"), [node("b"), node("c"), node("d")]
    learnt: list[set[int]] = [set() for _ in peers]
    (hello,) = tick(a, 0.0)
    assert not any(peer.receive_data(hello, 0.0, WALL) for peer in peers)
    for millisecond in range(1500):
        now = millisecond / 1000
        if millisecond < 500:
            a.send_sessions(4, millisecond.to_bytes(4, "big") + bytes(12), 1, 0, WALL)
        for sync in (a, *peers):
            if now >= sync.next_timer():
                sync.tick(now, WALL)
            for datagram in sync.data_to_send():
                for other in (a, *peers):
                    if other is sync or lossy.random() < 0.05:
                        continue
                    records = other.receive_data(datagram, now, WALL)
                    if records is not None:
                        learnt[peers.index(other)].add(int.from_bytes(records.body[:4], "big"))
    for numbers, peer in zip(learnt, peers, strict=True):
        assert numbers == set(range(500))
        assert peer.counters["lost"] == 0
        assert peer.counters["received_late"] > 5


def test_resends_are_bounded_and_only_ours() -> None:
    a, b = node("a"), node("b")
    for i in range(WINDOW + 100):
        page(a, i)
    ask = Resend(a.node, 10, ((1, 10**12),))
    assert resend(a, b, ask, 0.5) == WINDOW  # as many as were new, but it keeps no more
    assert resend(a, b, ask, 0.9) == 0
    tick(a, 1.0)
    assert resend(a, b, ask, 1.0) == RESENDS_PER_HELLO
    assert resend(a, b, ask, 1.9) == 0
    page(a)
    assert resend(a, b, ask, 1.9) == 1
    tick(a, 2.0)
    assert resend(a, b, ask, 2.0) == RESENDS_PER_HELLO
    tick(a, 3.0)
    assert resend(a, b, Resend(a.node, 9, ((WINDOW, WINDOW),)), 3.0) == 0
    assert resend(a, b, Resend(a.node + 1, 10, ((WINDOW, WINDOW),)), 3.0) == 0
    assert resend(a, b, Resend(a.node, 10, ((1, 5),)), 3.0) == 0  # older than the history
    assert resend(a, b, Resend(a.node, 10, ((WINDOW, WINDOW), (WINDOW + 9, WINDOW + 9))), 3.0) == 2
    assert resend(a, b, Resend(a.node, 10, ((WINDOW, WINDOW),)), 3.0) == 0  # another peer asked just before


def resend(a: Sync, b: Sync, ask: Resend, now: float) -> int:
    before = b._sealer.seal(Type.RESEND, pack_resend(ask), WALL)
    a.receive_data(before, now, WALL)
    return len(a.data_to_send())


def test_hello_tells_name_sessions_and_drops() -> None:
    a, b = node("l4-1"), node("l4-2")
    a.sessions = 42
    a.dropped(3, "send_queue_full", 1.0)
    assert a.status(1.0)["overflowed"] is True
    assert a.status(1.0 + REFRESH_S)["overflowed"] is False
    (hello,) = tick(a, 1.0)
    b.receive_data(hello, 5.0, WALL + 2500)
    assert b.status(5.5)["peers"] == [
        {
            "name": "l4-1",
            "state": "unsynced",
            "heard_s": 0.5,
            "sessions": 42,
            "records": 0,
            "delay_ms": 0.0,
            "dropped": 3,
        }
    ]
    assert a.next_timer() == 1.0 + HELLO_S


def test_a_node_alone_is_complete_once_it_has_listened() -> None:
    a = node("a")
    assert a.status(LISTEN_S - 0.1)["complete"] is False
    assert a.status(LISTEN_S)["complete"] is True


def test_a_newcomer_is_answered_soon_and_not_by_each_datagram() -> None:
    a, b = node("a"), node("b")
    tick(b, 0.0)
    b.receive_data(page(a), 0.1, WALL)
    assert b.next_timer() == 0.1 + HELLO_SOON_S
    b.receive_data(page(a), 0.12, WALL)
    (hello,) = tick(b, 0.1 + HELLO_SOON_S)
    assert parse_header(hello).type == Type.HELLO
    b.receive_data(page(a), 0.2, WALL)
    assert b.next_timer() == 0.1 + HELLO_SOON_S + HELLO_S


@pytest.mark.parametrize(("missed", "lost"), [(1, 0), (ASKED_ON_RETURN, 0), (ASKED_ON_RETURN + 1, ASKED_ON_RETURN + 1)])
def test_one_that_was_silent_for_long_is_behind_again(missed: int, lost: int) -> None:
    """What it said meanwhile is asked for, unless it is much."""
    a, b = node("a"), node("b")
    heard(a, b, 0, REFRESH_S)
    assert state(b, REFRESH_S + 1) == "synced"
    at = REFRESH_S + RETURN_S - 1
    b.receive_data(page(a), at, WALL)
    assert state(b, at) == "synced"
    for _ in range(missed):
        page(a)
    b.receive_data(page(a), at + RETURN_S + 1, WALL)
    assert state(b, at + RETURN_S + 1) == "unsynced"
    assert b.status(at + RETURN_S + 1)["complete"] is False
    assert b.counters["lost"] == lost
    said = [parse_header(datagram).type for datagram in tick(b, at + RETURN_S + 1 + RESEND_DELAY_S)]
    assert (Type.RESEND in said) == (not lost)


def test_a_node_lacks_sessions_until_it_has_heard_all() -> None:
    a, b = node("a"), node("b")
    assert b.lacking(LISTEN_S - 0.1), "it has not listened yet"
    assert not b.lacking(LISTEN_S)
    b.receive_data(page(a), LISTEN_S, WALL)
    assert b.lacking(LISTEN_S), "of a peer that it has just met"
    now = LISTEN_S + REFRESH_S
    heard(a, b, LISTEN_S, now)
    assert not b.lacking(now)
    missed = page(a)
    b.receive_data(page(a), now, WALL)
    assert b.lacking(now), "a datagram is missing"
    b.receive_data(missed, now + 0.1, WALL)
    assert not b.lacking(now + 0.1)


def test_a_node_that_a_peer_has_left_lacks_what_that_may_know_for_a_while() -> None:
    a, b = node("a"), node("b")
    heard(a, b, 0, REFRESH_S)
    page(a)
    b.receive_data(page(a), REFRESH_S, WALL)
    assert b.lacking(REFRESH_S)
    tick(b, REFRESH_S + RETURN_S)
    assert b.lacking(REFRESH_S + SEEK_MOST_S - 0.1)
    assert not b.lacking(REFRESH_S + SEEK_MOST_S), "it is gone, and what was missing with it"


def test_a_silent_peer_is_called_often_and_answered_at_once() -> None:
    a, b = node("a"), node("b")
    b.receive_data(page(a), 0.0, WALL)
    tick(b, SILENT_S - 0.1)
    assert b.next_timer() == SILENT_S - 0.1 + HELLO_S
    tick(b, SILENT_S + 1)
    assert b.next_timer() == SILENT_S + 1 + SEEK_S
    tick(b, SEEK_MOST_S)
    assert b.next_timer() == SEEK_MOST_S + HELLO_S, "it is not called for ever"
    b.receive_data(page(a), SEEK_MOST_S + 0.1, WALL)
    assert b.next_timer() == SEEK_MOST_S + 0.1
    tick(b, SEEK_MOST_S + 0.1)
    assert b.next_timer() == SEEK_MOST_S + 0.1 + HELLO_S


def test_calling_often_does_not_raise_what_is_sent_again() -> None:
    a, b = node("a"), node("b")
    a.receive_data(page(b), 0.0, WALL)
    tick(a, SILENT_S + 1)
    a._resends_left = 0
    for n in range(9):
        tick(a, SILENT_S + 1 + (n + 1) * SEEK_S)
    assert a._resends_left == 0
    tick(a, SILENT_S + 2.1)
    assert a._resends_left > 0


def heard(a: Sync, b: Sync, since: float, until: float) -> None:
    while since <= until:
        b.receive_data(page(a), since, WALL)
        since += HELLO_S


def test_records_that_a_peer_has_lost_itself_are_missed() -> None:
    a, b = node("a"), node("b")
    a.lost = 5  # before we knew it
    heard(a, b, 0, REFRESH_S)
    b.receive_data(tick(a, REFRESH_S)[0], REFRESH_S, WALL)
    assert state(b, REFRESH_S) == "synced"
    a.lost = 6
    b.receive_data(tick(a, REFRESH_S + 1)[0], REFRESH_S + 1, WALL)
    assert state(b, REFRESH_S + 1) == "unsynced"


def test_another_seed_is_a_problem_and_ours_is_none() -> None:
    a, b = node("a", seed=seed_digest(7)), node("b", seed=seed_digest(8))
    b.receive_data(page(a), 0.9, WALL)
    assert b.problems(1.0) == [], "nothing is known of its seed before its hello"
    b.receive_data(tick(a, 1.0)[0], 1.0, WALL)
    (problem,) = b.problems(1.0)
    assert problem.startswith("a has another seed in its cluster key file")
    assert b.problems(1.0 + SILENT_S + 1) == []
    a.rekey((KEY,), seed_digest(8))
    b.receive_data(tick(a, 2.0)[0], 2.0, WALL)
    assert b.problems(2.0) == []


def test_clocks_that_differ_are_made_up_for_and_said() -> None:
    a, b = node("a"), node("b")
    records = b.receive_data(page(a), 1.0, WALL + 7_200_000)
    assert isinstance(records, Records)
    assert records.shift_s == 7
    assert b.problems(1.0) == [f"the clock of {a.node:016x} is 7 s behind this node's; check NTP on both"]
    a.send_ended(4, b"k" * 4, 1.0, WALL)
    ended = b.receive_data(a.data_to_send()[0], 1.0, WALL + 7_200_000)
    assert ended == Ended(4, b"k" * 4, 1, WALL // 1_000_000 + 7)
    a.receive_data(page(b, wall_us=WALL + 7_200_000), 1.0, WALL)
    assert a.problems(1.0) == [f"the clock of {b.node:016x} is 7 s ahead of this node's; check NTP on both"]
    assert a.problems(1.0 + SILENT_S + 1) == []


def test_ends_travel_and_are_carried_out_again() -> None:
    a, b = node("a"), node("b")
    a.send_ended(6, b"k" * 12, 1.0, WALL)
    (datagram,) = a.data_to_send()
    expected = Ended(6, b"k" * 12, 2, WALL // 1_000_000)
    assert b.receive_data(datagram, 2.0, WALL) == expected
    for sync, now in ((a, 1.0), (b, 2.0)):
        assert sync.ended_again(now + AGAIN_S - 0.01) == []
        tick(sync, now)
        sync._hello_at = now + 99
        assert sync.next_timer() == now + AGAIN_S
        assert sync.ended_again(now + AGAIN_S) == [expected]
        assert sync.ended_again(now + 2 * AGAIN_S) == []
        assert sync.ends.kept(WALL // 1_000_000) == [expected]
    assert (a.counters["sent_ends"], b.counters["received_ends"]) == (2, 2)
    a.send_ended(4, b"", 1.0, WALL)
    assert a.data_to_send() == []
    with pytest.raises(AssertionError, match="keys"):
        a.send_ended(4, b"12345", 1.0, WALL)


def test_many_ends_are_remembered_alike_everywhere() -> None:
    """In the same blocks: a snapshot must not tell of them as if they were others."""
    a, b = node("a"), node("b")
    a.send_ended(4, b"".join(n.to_bytes(4, "big") for n in range(2000)), 1.0, WALL)
    for datagram in a.data_to_send():
        b.receive_data(datagram, 1.0, WALL)
    wall_s = WALL // 1_000_000
    assert a.ends.kept(wall_s) == b.ends.kept(wall_s)
    assert sum(each.count for each in a.ends.kept(wall_s)) == 2000


def test_ends_of_another_layout_are_refused() -> None:
    a, b = node("a"), node("b")
    a.send_ended(4, b"k" * 4, 1.0, WALL)
    (datagram,) = a.data_to_send()
    header = parse_header(datagram)
    for changes in ({"layout": 9}, {"ip": 6}, {"ip": 5}):
        wrong = header._replace(**changes)
        body = bytes(header.count * header.size)
        assert b.receive_data(seal(KEY.cipher(a.node, 10, 11), wrong, body), 1.0, WALL) is None
        a.send_ended(4, b"k" * 4, 1.0, WALL)
        header = parse_header(a.data_to_send()[0])
    assert b.counters["layout"] == 3
    assert b.counters["received_ends"] == 0


def test_a_gap_is_asked_for_while_others_open() -> None:
    """Each missing number has its own time: a loss every few milliseconds must not put off the asking."""
    a, b = node("a"), node("b")
    b.receive_data(page(a), 0.0, WALL)
    tick(b, 0.1)
    asked: list[tuple[int, int]] = []
    for millisecond in range(0, 200, 5):
        now = 0.1 + millisecond / 1000
        page(a)
        b.receive_data(page(a), now, WALL)
        while b.next_timer() <= now:
            for datagram in tick(b, now):
                header = parse_header(datagram)
                body = KEY.cipher(b.node, 10, 11).decrypt(
                    b"\0" * 4 + header.sequence.to_bytes(8, "big"), datagram[56:], datagram[:56]
                )
                if header.type == Type.RESEND:
                    asked += parse_resend(body).ranges
    assert len({first for first, _ in asked}) >= 30


def test_room_for_peers_is_bounded_and_silent_ones_make_room() -> None:
    b = node("b", max_peers=2)
    for name, now in (("a", 1.0), ("c", 2.0), ("d", 3.0)):
        b.receive_data(page(node(name)), now, WALL)
    assert (len(b.peers), b.counters["too_many_peers"]) == (2, 1)
    assert b.receive_data(page(node("d")), 1.0 + SILENT_S + 0.1, WALL)
    assert len(b.peers) == 2
    assert b.counters["too_many_peers"] == 1


def test_keys_change_without_a_gap() -> None:
    """Append the new key everywhere, move it up everywhere, remove the old one: every datagram is understood."""
    a, b = node("a"), node("b")
    for for_a, for_b in [
        ((KEY,), (KEY, OTHER_KEY)),
        ((KEY, OTHER_KEY), (KEY, OTHER_KEY)),
        ((OTHER_KEY, KEY), (KEY, OTHER_KEY)),
        ((OTHER_KEY, KEY), (OTHER_KEY, KEY)),
        ((OTHER_KEY,), (OTHER_KEY, KEY)),
        ((OTHER_KEY,), (OTHER_KEY,)),
    ]:
        a.rekey(for_a)
        b.rekey(for_b)
        assert b.receive_data(page(a), 1.0, WALL)
        assert a.receive_data(page(b), 1.0, WALL)
    assert b.counters["missing"] == 0
    b.rekey((KEY,))
    assert b.peers == {}
    assert b.receive_data(page(a), 1.0, WALL) is None
    assert b.counters["foreign_cluster"] == 1


@given(st.lists(st.binary(max_size=200), max_size=5))
@settings(max_examples=100, deadline=None)
def test_noise_is_counted_and_nothing_else(noise: list[bytes]) -> None:
    b = node("b")
    for data in noise:
        assert b.receive_data(data, 1.0, WALL) is None
    assert sum(b.counters.values()) == len(noise)
    assert b.peers == {}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_authentic_noise_escapes_nowhere(data: st.DataObject) -> None:
    """Whatever a node with the key sends, nothing but counters and bounded memory follows."""
    b = node("b")
    body = data.draw(st.binary(max_size=64))
    header = Header(data.draw(st.integers(2, 255)), KEY.id, 5, 6, 7, data.draw(st.integers(0, 2**64 - 1)), WALL)
    datagram = seal(KEY.cipher(5, 6, 7), header, body)
    assert b.receive_data(datagram, 1.0, WALL) is None
    assert sum(b.counters.values()) == 1


def test_counters_are_named_once() -> None:
    assert len(set(COUNTERS)) == len(COUNTERS)
