"""The other nodes, as session sync knows them: who may have told of sessions that this node has not heard of
(*behind*), and who can give it a snapshot (pure).

This node is behind a peer that it has just met, that comes back after `RETURN_S` of silence, datagrams of which are
lost for good, or that has lost records itself. It is so until a snapshot was taken from a node that is in step with
that peer, the peer itself for one, and was asked for after the moment in which this node fell behind: what came later
came by multicast. Where nobody can give a snapshot, it is so for one refresh period: by then the peer has told anew of
every session that carries packets.

A node is *complete* while it is behind no peer that it hears, and has listened for `LISTEN_S` or taken a snapshot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from l4fast.sync_window import Window

SILENT_S: Final = 3.5  # three hellos may be lost before a peer is called silent
RETURN_S: Final = 10.0  # a gap as long as this is not asked for number by number
LISTEN_S: Final = SILENT_S  # by when a node that starts has heard the others
GATHER_S: Final = 0.3  # before the first snapshot: all answer a newcomer's hello at once, and the best is asked
CLOCKS_AGREE_US: Final = 1_000_000  # what sessions are ordered by has no more than seconds
CLOCK_SECONDS: Final = 8  # of a peer's datagrams: not all of them have been lost and sent again
# Between snapshots: ten times as long as the last took, within these bounds. A peer that failed rests for as long.
PAUSE_S: Final = (5.0, 60.0)


class PeerState(StrEnum):
    """`unsynced`: this node may lack sessions of the peer. `silent`: nothing heard for `SILENT_S`."""

    SYNCED = "synced"
    UNSYNCED = "unsynced"
    SILENT = "silent"


@dataclass(slots=True)
class Peer:
    """One life (`boot`) of another node. `address`: where its datagrams come from."""

    node: int
    boot: int
    cluster: int
    cipher: AESGCM
    window: Window
    heard: float
    behind_since: float = 0.0
    behind_until: float = 0.0
    name: str = ""
    address: str = ""
    port: int = 0
    sessions: int = 0
    dropped: int = 0
    lost: int | None = None
    seed: int = 0
    records: int = 0
    delay_us: int = 0
    resend_at: float | None = None
    rests_until: float = 0.0
    shift_s: int = 0  # of this node's clock, ahead of the peer's; 0 within a second
    least_us: int | None = None  # of this second …
    second_at: float = 0.0  # … which ends then
    seconds: deque[int] = field(default_factory=lambda: deque(maxlen=CLOCK_SECONDS))  # … and of those before
    failure: str = ""

    def state(self, now: float) -> PeerState:
        if now - self.heard > SILENT_S:
            return PeerState.SILENT
        return PeerState.UNSYNCED if now < self.behind_until else PeerState.SYNCED

    def compare_clocks(self, apart_us: int) -> None:
        """A datagram's time on the way and the difference of the clocks, together: the least of some seconds comes
        nearest to the latter alone. One second's will not do: all that came may have been sent again."""
        if self.least_us is None or apart_us < self.least_us:
            self.least_us = apart_us
            self._set_shift(min(apart_us, *self.seconds) if self.seconds else apart_us)

    def next_second(self) -> None:
        """With a hello, but once a second."""
        if self.least_us is not None:
            self.seconds.append(self.least_us)
            self.least_us = None
            self._set_shift(min(self.seconds))

    def _set_shift(self, apart_us: int) -> None:
        self.shift_s = round(apart_us / 1e6) if abs(apart_us) >= CLOCKS_AGREE_US else 0

    def fell_behind(self, now: float, refresh_s: float) -> None:
        self.behind_since, self.behind_until = now, now + refresh_s


@dataclass(frozen=True, slots=True)
class Source:
    """A peer that is asked for a snapshot, since `asked`."""

    node: int
    name: str
    address: str
    port: int
    asked: float
    shift_s: int = 0  # of this node's clock, ahead of its


class CatchingUp:
    """Which snapshot this node takes next. One at a time: `source`, then `taken` or `failed` with what it gave."""

    def __init__(self, peers: Mapping[int, Peer], now: float) -> None:
        self._peers = peers  # the caller's, who changes it
        self._complete_at = now + LISTEN_S
        self._not_before = now + GATHER_S
        self._asking: Source | None = None
        self.last_taken: tuple[str, float] | None = None  # from whom, in seconds

    def complete(self, now: float) -> bool:
        return now >= self._complete_at and not self._behind(now)

    def _behind(self, now: float) -> list[Peer]:
        return [peer for peer in self._peers.values() if peer.state(now) is PeerState.UNSYNCED]

    def source(self, now: float) -> Source | None:
        """Whom to ask now. The caller then connects, and says how it ended."""
        if self._asking is not None or now < self._not_before:
            return None
        behind = self._behind(now)
        able = [peer for peer in self._able(now) if behind and now >= peer.rests_until]
        if not able:
            return None
        first = self.last_taken is None
        best = min(able, key=lambda peer: (not first and peer not in behind, -peer.sessions, peer.node))
        self._asking = Source(best.node, best.name, best.address, best.port, now, best.shift_s)
        return self._asking

    def _able(self, now: float) -> Iterable[Peer]:
        return (peer for peer in self._peers.values() if peer.port and peer.state(now) is not PeerState.SILENT)

    def taken(self, source: Source, in_step: Collection[int], now: float) -> None:
        """The snapshot is in; `in_step`: the nodes whose sessions its giver knew."""
        self._asking = None
        took_s = now - source.asked
        pause_s = min(max(10 * took_s, PAUSE_S[0]), PAUSE_S[1])
        for peer in self._peers.values():
            if peer.node in {source.node, *in_step} and peer.behind_since <= source.asked:
                peer.behind_until = min(peer.behind_until, now)
            if peer.node == source.node:
                peer.failure, peer.rests_until = "", now + pause_s
        self.last_taken = source.name, took_s
        if not self._behind(now):  # otherwise the other side of a network that was parted is next
            self._complete_at = min(self._complete_at, now)
            self._not_before = now + pause_s

    def failed(self, source: Source, why: str, now: float) -> None:
        """The next one is asked at once, this one not for a while."""
        self._asking = None
        if (peer := self._peers.get(source.node)) is not None:
            peer.failure = why
            peer.rests_until = now + PAUSE_S[0]

    def problems(self, now: float) -> list[str]:
        """Of peers that this node is behind and that gave no snapshot."""
        return [
            f"no snapshot of the sessions from {peer.name or f'{peer.node:016x}'}: {peer.failure}"
            for peer in self._behind(now)
            if peer.failure
        ]
