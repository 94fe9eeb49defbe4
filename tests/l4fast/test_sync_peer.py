from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4fast.sync_codec import ClusterKey, Header, Resend, Type, pack_resend, parse_header, seal
from l4fast.sync_peer import (
    CLOCK_SKEW_S,
    COUNTERS,
    HELLO_S,
    RESEND_DELAY_S,
    RESEND_RETRY_S,
    RESEND_TRIES,
    RESENDS_PER_HELLO,
    SILENT_S,
    WINDOW,
    Layout,
    Records,
    Sync,
    Window,
)

KEY = ClusterKey(bytes(32))
OTHER_KEY = ClusterKey(b"\1" * 32)
LAYOUTS = {4: Layout(4, 8, 0x1234), 6: Layout(6, 9, 0x1234)}
WALL = 1_700_000_000_000_000
REFRESH_S = 60.0


def node(name: str, *, keys: tuple[ClusterKey, ...] = (KEY,), boot: int = 10, max_peers: int = 4) -> Sync:
    return Sync(
        name=name, keys=keys, boot=boot, salt=boot + 1, layouts=LAYOUTS, now=0.0, refresh_s=REFRESH_S,
        max_peers=max_peers,
    )  # fmt: skip


def page(sync: Sync, number: int = 1, wall_us: int = WALL) -> bytes:
    """Sends one record; returns its datagram."""
    sync.send_sessions(4, number.to_bytes(4, "big"), bytes(8), 1, wall_us)
    (datagram,) = sync.data_to_send()
    return datagram


def tick(sync: Sync, now: float) -> list[bytes]:
    sync.tick(now, WALL)
    return sync.data_to_send()


def counted(sync: Sync) -> dict[str, int]:
    return {name: value for name, value in sync.counters.items() if value}


def test_records_arrive_as_they_were_sent() -> None:
    a, b = node("a"), node("b")
    a.send_sessions(4, b"k" * 80, b"v" * 160, 20, WALL)
    (datagram,) = a.data_to_send()
    assert a.data_to_send() == []
    assert b.receive_data(datagram, 1.0, WALL + 700) == Records(4, b"k" * 80, b"v" * 160, 20, 700)
    assert counted(a) == {"sent_datagrams": 1, "sent_records": 20}
    assert counted(b) == {"received_datagrams": 1, "received_records": 20}


def test_records_of_both_versions_share_the_stream() -> None:
    a, b = node("a"), node("b")
    a.send_sessions(6, b"k" * 12, b"v" * 18, 2, WALL)
    a.send_sessions(4, b"k" * 4, b"v" * 8, 1, WALL)
    first, second = a.data_to_send()
    assert b.receive_data(second, 1.0, WALL) == Records(4, b"k" * 4, b"v" * 8, 1, 0)
    assert b.receive_data(first, 1.0, WALL) is None  # from before we were there
    a.send_sessions(6, b"K" * 12, b"V" * 18, 2, WALL)
    (third,) = a.data_to_send()
    assert b.receive_data(third, 1.0, WALL) == Records(6, b"K" * 12, b"V" * 18, 2, 0)
    assert counted(a) == {"sent_datagrams": 3, "sent_records": 5}
    with pytest.raises(AssertionError, match="page"):
        a.send_sessions(6, b"k" * 4, b"v" * 8, 1, WALL)


def test_a_lost_page_of_ipv6_is_asked_for_and_comes() -> None:
    a, b = node("a"), node("b")
    b.receive_data(page(a), 1.0, WALL)
    a.send_sessions(6, b"k" * 6, b"v" * 9, 1, WALL)
    (lost,) = a.data_to_send()
    b.receive_data(page(a), 1.0, WALL)
    (asked,) = [each for each in tick(b, 1.0 + RESEND_DELAY_S) if parse_header(each).type == Type.RESEND]
    a.receive_data(asked, 1.1, WALL)
    (again,) = a.data_to_send()
    assert again == lost
    assert b.receive_data(again, 1.1, WALL) == Records(6, b"k" * 6, b"v" * 9, 1, 0)


def test_an_empty_page_sends_nothing() -> None:
    a = node("a")
    a.send_sessions(4, b"", b"", 0, WALL)
    assert a.data_to_send() == []


def resealed(datagram: bytes, key: ClusterKey, **changes: int) -> bytes:
    header = replace(parse_header(datagram), **changes)
    body = bytes(header.count * (header.key_size + header.value_size))
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
        (lambda a: forged(page(a)), "forged"),
        (lambda a: page(node("a", keys=(OTHER_KEY,))), "foreign_cluster"),
        (lambda a: resealed(page(a), OTHER_KEY), "forged"),  # our cluster's id, another key
        (lambda a: page(node("b")), "own"),
        (lambda a: page(a, wall_us=WALL - int(CLOCK_SKEW_S * 1e6) - 1), "clock"),
        (lambda a: page(a, wall_us=WALL + int(CLOCK_SKEW_S * 1e6) + 1), "clock"),
        (lambda a: resealed(page(a), KEY, layout=9), "layout"),
        (lambda a: resealed(page(a), KEY, key_size=3, value_size=9), "layout"),
        (lambda a: resealed(page(a), KEY, ip=6), "layout"),  # sizes of the other version
        (lambda a: resealed(page(a), KEY, ip=5), "layout"),
        (lambda a: resealed(page(a), KEY, type=77, ip=0, count=0, key_size=0, value_size=0), "unknown_type"),
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
    assert records.keys == b"\0\0\0\2"
    assert tick(b, 1.5) == []
    assert (b.counters["received_late"], b.counters["lost"]) == (1, 0)


def test_what_never_comes_is_lost_and_the_peer_unsynced() -> None:
    a, b = node("a"), node("b")
    b.receive_data(page(a), 1.0, WALL)
    asked = 0
    now = REFRESH_S + 2
    assert b.receive_data(tick(a, now)[0], now, WALL) is None
    assert state(b, now) == "synced"
    page(a), page(a)
    b.receive_data(page(a), now, WALL)
    while b.counters["lost"] == 0:
        now += RESEND_RETRY_S
        asked += sum(parse_header(d).type == Type.RESEND for d in tick(b, now))
    assert (asked, b.counters["lost"], b.counters["missing"]) == (RESEND_TRIES, 2, 2)
    assert state(b, now) == "unsynced"
    assert b.status(now)["complete"] is False
    b.receive_data(page(a), now + REFRESH_S, WALL)
    assert state(b, now + REFRESH_S) == "synced"
    assert b.status(now + REFRESH_S)["complete"] is True
    assert state(b, now + REFRESH_S + SILENT_S + 0.1) == "silent"


def state(sync: Sync, now: float) -> object:
    (peer,) = sync.status(now)["peers"]  # type: ignore[misc, has-type]
    return peer["state"]  # type: ignore[has-type]


def test_reordering_asks_for_nothing() -> None:
    a, b = node("a"), node("b")
    tick(b, 0.0)
    datagrams = [page(a, i) for i in range(20)]
    first, rest = datagrams[0], datagrams[1:]
    random.Random(1).shuffle(rest)
    assert all(b.receive_data(d, 0.5, WALL) for d in [first, *rest])
    assert tick(b, 0.5 + RESEND_DELAY_S) == []
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
            a.send_sessions(4, millisecond.to_bytes(4, "big"), bytes(8), 1, WALL)
        for sync in (a, *peers):
            if now >= sync.next_timer():
                sync.tick(now, WALL)
            for datagram in sync.data_to_send():
                for other in (a, *peers):
                    if other is sync or lossy.random() < 0.05:
                        continue
                    records = other.receive_data(datagram, now, WALL)
                    if records is not None:
                        learnt[peers.index(other)].add(int.from_bytes(records.keys, "big"))
    for numbers, peer in zip(learnt, peers, strict=True):
        assert numbers == set(range(500))
        assert peer.counters["lost"] == 0
        assert peer.counters["received_late"] > 5


def test_resends_are_bounded_and_only_ours() -> None:
    a, b = node("a"), node("b")
    for i in range(WINDOW + 100):
        page(a, i)
    ask = Resend(a.node, 10, 1, 10**12)
    assert resend(a, b, ask, 0.5) == RESENDS_PER_HELLO
    assert resend(a, b, ask, 0.9) == 0
    tick(a, 1.0)
    assert resend(a, b, ask, 1.0) == RESENDS_PER_HELLO
    tick(a, 2.0)
    assert resend(a, b, Resend(a.node, 9, 1, 5), 2.0) == 0
    assert resend(a, b, Resend(a.node + 1, 10, 1, 5), 2.0) == 0
    assert resend(a, b, Resend(a.node, 10, 1, 5), 2.0) == 0  # older than the history
    assert resend(a, b, Resend(a.node, 10, 1000, 1000), 2.0) == 1
    assert resend(a, b, Resend(a.node, 10, 1000, 1000), 2.0) == 0  # another peer asked just before


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


def test_a_node_that_starts_is_not_complete_for_a_refresh_period() -> None:
    a = node("a")
    assert a.status(REFRESH_S - 1)["complete"] is False
    assert a.status(REFRESH_S)["complete"] is True


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


def test_window_edges() -> None:
    window = Window(1)
    assert window.mark(WINDOW + 1) == WINDOW - 1
    assert not window.fresh(1), "seen, and too old to tell"
    assert window.fresh(2)
    assert window.mark(WINDOW + 2) == 0
    assert not window.fresh(2), "never seen, but too old to tell"
    assert window.lost == 1


def test_window_missing_ranges() -> None:
    window = Window(10)
    assert [window.mark(n) for n in (11, 14, 17)] == [0, 2, 2]
    assert list(window.missing()) == [(12, 13), (15, 16)]
    assert window.fresh(12)
    assert not window.fresh(11)
    assert not window.fresh(9)
    assert window.mark(12) == 0
    assert list(window.missing()) == [(13, 13), (15, 16)]
    window.give_up()
    assert (window.lost, list(window.missing()), window.fresh(13)) == (3, [], False)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_window_against_a_set(numbers: list[int]) -> None:
    """The bitmap says what a set of all numbers would; seen, missing and lost add up to all numbers."""
    window, seen = Window(numbers[0]), {numbers[0]}
    for number in numbers[1:]:
        expected = number > numbers[0] and number not in seen and number > max(seen) - WINDOW
        if number < numbers[0]:
            expected = False
        assert window.fresh(number) is expected
        if expected:
            window.mark(number)
            seen.add(number)
    missing = [n for first, last in window.missing() for n in range(first, last + 1)]
    everything = set(range(numbers[0], max(seen) + 1))
    assert set(missing) == {n for n in everything - seen if n > max(seen) - WINDOW}
    assert len(seen) + len(missing) + window.lost == len(everything)


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
