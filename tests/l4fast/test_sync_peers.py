"""Who is asked for a snapshot, and when a node is complete."""

from __future__ import annotations

import pytest

from l4fast.sync_keys import ClusterKey
from l4fast.sync_peers import CLOCK_SECONDS, GATHER_S, LISTEN_S, PAUSE_S, SILENT_S, CatchingUp, Peer, PeerState, Source
from l4fast.sync_window import Window

REFRESH_S = 25.0
CIPHER = ClusterKey(bytes(32)).cipher(1, 2, 3)


class Cluster:
    """A node that starts at 0, and peers whom it hears all the time."""

    def __init__(self, *names: str) -> None:
        self.peers: dict[int, Peer] = {}
        self.catching_up = CatchingUp(self.peers, 0.0)
        for number, name in enumerate(names, 1):
            self.peers[number] = Peer(
                number, 1, 1, CIPHER, Window(1), 0.0, name=name, address=f"10.0.0.{number}", port=9
            )
            self.peers[number].fell_behind(0.1, REFRESH_S)

    def source(self, now: float) -> Source | None:
        for peer in self.peers.values():
            peer.heard = now
        return self.catching_up.source(now)

    def asked(self, now: float) -> str:
        source = self.source(now)
        assert source is not None
        return source.name

    def taken(self, now: float, *in_step: int) -> None:
        assert self.catching_up._asking is not None
        self.catching_up.taken(self.catching_up._asking, in_step, now)

    def failed(self, now: float, why: str = "no") -> None:
        assert self.catching_up._asking is not None
        self.catching_up.failed(self.catching_up._asking, why, now)

    def complete(self, now: float) -> bool:
        return self.catching_up.complete(now)


def test_a_newcomer_asks_the_one_with_most_sessions_and_one_is_enough() -> None:
    cluster = Cluster("a", "b", "c")
    cluster.peers[2].sessions = 7
    assert cluster.source(GATHER_S - 0.01) is None
    assert cluster.source(GATHER_S) == Source(2, "b", "10.0.0.2", 9, GATHER_S)
    assert cluster.source(GATHER_S + 0.1) is None, "one at a time"
    assert not cluster.complete(GATHER_S + 0.5)
    cluster.taken(GATHER_S + 0.5, 1, 3)
    assert cluster.complete(GATHER_S + 0.5), "at once, not after a time"
    assert cluster.source(99) is None


def test_one_that_does_not_know_the_others_is_not_enough() -> None:
    cluster = Cluster("a", "b", "c")
    assert cluster.asked(1.0) == "a"
    cluster.taken(1.1, 2)
    assert not cluster.complete(1.1)
    assert cluster.asked(1.1) == "c"
    cluster.taken(1.2)
    assert cluster.complete(1.2)


def test_what_was_lost_after_the_request_is_not_in_the_snapshot() -> None:
    cluster = Cluster("a", "b")
    assert cluster.asked(1.0) == "a"
    cluster.peers[2].fell_behind(1.05, REFRESH_S)
    cluster.taken(1.1, 2)
    assert cluster.peers[1].state(1.1) is PeerState.SYNCED
    assert cluster.peers[2].state(1.1) is PeerState.UNSYNCED
    assert cluster.asked(1.1) == "b"


def test_one_that_fails_rests_while_others_are_asked() -> None:
    cluster = Cluster("a", "b")
    assert cluster.asked(1.0) == "a"
    cluster.failed(1.1, "it broke off")
    assert cluster.catching_up.problems(1.1) == ["no snapshot of the sessions from a: it broke off"]
    assert cluster.asked(1.1) == "b"
    cluster.failed(1.2)
    assert cluster.source(1.2) is None
    assert cluster.source(1.09 + PAUSE_S[0]) is None
    assert cluster.asked(1.1 + PAUSE_S[0]) == "a"
    cluster.taken(6.2, 2)
    assert cluster.catching_up.problems(6.2) == []


def test_without_any_snapshot_it_is_complete_after_a_refresh() -> None:
    cluster = Cluster("a")
    cluster.peers[1].port = 0
    assert cluster.source(1.0) is None
    assert cluster.source(REFRESH_S) is None
    assert not cluster.complete(REFRESH_S)
    assert cluster.complete(0.1 + REFRESH_S)


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.1, PAUSE_S[0]), (2.0, 20.0), (30.0, PAUSE_S[1])])
def test_a_node_that_falls_behind_again_and_again_does_not_only_take_snapshots(took_s: float, pause_s: float) -> None:
    cluster = Cluster("a")
    assert cluster.asked(1.0) == "a"
    cluster.taken(1.0 + took_s)
    cluster.peers[1].fell_behind(1.0 + took_s, 1000)
    assert cluster.source(0.9 + took_s + pause_s) is None
    assert cluster.asked(1.0 + took_s + pause_s) == "a"


def test_the_one_that_was_missed_is_asked_first_later_on() -> None:
    cluster = Cluster("a", "b")
    assert cluster.asked(1.0) == "a"
    cluster.taken(1.1, 2)
    cluster.peers[1].sessions = 1000
    cluster.peers[2].fell_behind(50.0, REFRESH_S)
    assert cluster.asked(50.0) == "b"
    cluster.failed(50.1)
    assert cluster.asked(50.1) == "a", "who knows its sessions too"
    cluster.taken(50.2, 2)
    assert cluster.complete(50.2)


def test_a_helper_that_cannot_help_is_not_asked_over_and_over() -> None:
    cluster = Cluster("a", "b")
    assert cluster.asked(1.0) == "a"
    cluster.taken(1.1, 2)
    cluster.peers[2].fell_behind(50.0, REFRESH_S)
    assert cluster.asked(50.0) == "b"
    cluster.failed(50.1)
    assert cluster.asked(50.1) == "a"
    cluster.taken(50.2)
    assert cluster.source(50.3) is None


def test_the_silent_are_not_asked_and_not_waited_for() -> None:
    cluster = Cluster("a")
    cluster.peers[1].heard = 1.0
    assert cluster.catching_up.source(1.0 + SILENT_S + 0.1) is None
    assert not cluster.complete(LISTEN_S)
    assert cluster.complete(1.0 + SILENT_S + 0.1)


@pytest.mark.parametrize(
    ("apart_us", "shift_s"),
    [
        ([200, 900_000], 0),
        ([999_999], 0),
        ([1_000_300], 1),
        ([-1_600_000], -2),
        ([9_400_000, 9_000_400, 12_000_000], 9),
    ],
)
def test_clocks_are_compared_by_the_quickest_datagram(apart_us: list[int], shift_s: int) -> None:
    peer = Cluster("a").peers[1]
    for apart in apart_us:
        peer.compare_clocks(apart)
    for _ in range(3):
        assert peer.shift_s == shift_s
        peer.next_second()


def test_seconds_in_which_all_was_late_do_not_count() -> None:
    """And a quick one counts at once."""
    peer = Cluster("a").peers[1]
    peer.compare_clocks(3_000)
    for _ in range(CLOCK_SECONDS - 1):
        peer.next_second()
        peer.compare_clocks(1_200_000)
        assert peer.shift_s == 0
    peer.next_second()
    peer.compare_clocks(-4_000_000)
    assert peer.shift_s == -4


def test_a_clock_that_was_set_is_noticed() -> None:
    peer = Cluster("a").peers[1]
    peer.compare_clocks(3_000)
    for _ in range(CLOCK_SECONDS + 1):
        peer.next_second()
        peer.compare_clocks(5_003_000)
    assert peer.shift_s == 5


def test_the_first_datagram_counts_at_once() -> None:
    peer = Cluster("a").peers[1]
    peer.compare_clocks(-7_000_000)
    assert peer.shift_s == -7


def test_a_peer_that_has_gone_while_it_was_asked() -> None:
    cluster = Cluster("a", "b")
    assert cluster.asked(1.0) == "a"
    del cluster.peers[1]
    cluster.failed(1.1)
    assert cluster.asked(1.1) == "b"
