"""One node's part in session sync, as a state machine: datagrams in, records and datagrams out. Pure; see `sync.md`.

What holds, whatever arrives:
  - a datagram yields records at most once, and only if a node with the cluster key sealed it within `CLOCK_SKEW_S`, in
    the newest life of that node that we know of, under the layout that this node uses;
  - what is refused adds to exactly one counter of `COUNTERS` and has no other effect. `replayed` also counts datagrams
    that came twice because another peer had asked for them again;
  - memory is bounded: `max_peers` peers, one window each, and `history` datagrams of our own.

A missing sequence number is asked for again (`RESEND_TRIES` times); what never comes is *lost*. Sessions lost on the
way are sent again by their owner within `refresh_s` while they live, so a peer counts as in sync once `refresh_s` has
gone by without a loss. The same holds for a node that has just started.

Whether a record or the entry that this node has is the newer one is decided where both are at hand (bpf/merge.h).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from l4fast.sync_codec import (
    ClusterKey,
    DatagramError,
    Fault,
    Header,
    Hello,
    Resend,
    Sealer,
    Type,
    key_by_id,
    node_id,
    open_body,
    pack_hello,
    pack_resend,
    parse_header,
    parse_hello,
    parse_resend,
    split_records,
)

HELLO_S: Final = 1.0
SILENT_S: Final = 3.5  # three hellos may be lost before a peer is called silent
CLOCK_SKEW_S: Final = 30.0  # replays older than this are refused even by a node that has just started
RESEND_DELAY_S: Final = 0.02  # datagrams that overtake one another on the way are not yet missing
RESEND_RETRY_S: Final = 0.1
RESEND_TRIES: Final = 3
RESEND_RANGES: Final = 8
RESENDS_PER_HELLO: Final = 256  # datagrams sent again between two hellos: peers cannot make us flood the network
WINDOW: Final = 1024  # sequence numbers; IPsec's default is 64 (RFC 4303, 3.4.3), but our bursts are longer

COUNTERS: Final = (
    "sent_datagrams", "sent_records", "sent_hellos", "resent", "send_queue_full", "send_error",
    "received_datagrams", "received_records", "received_hellos", "received_resends", "received_late", "received_older",
    "missing", "lost", "resend_asked", "own", *(fault.value for fault in Fault), "replayed", "old_boot", "clock",
    "layout", "unknown_type", "too_many_peers", "write_failed",
)  # fmt: skip


class PeerState(StrEnum):
    """`unsynced`: this node may lack sessions of the peer. `silent`: nothing heard for `SILENT_S`."""

    SYNCED = "synced"
    UNSYNCED = "unsynced"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Records:
    """Session records of one IP version to write as one batch: `count` keys and as many values, each a block."""

    ip: int
    keys: bytes
    values: bytes
    count: int
    delay_us: int


class Window:
    """Which of the last `WINDOW` sequence numbers have been seen. Bit i stands for `highest - i`."""

    __slots__ = ("highest", "lost", "seen")
    _MASK: Final = (1 << WINDOW) - 1

    def __init__(self, first: int) -> None:
        self.highest = first
        self.seen = self._MASK  # what came before the first is not ours to miss, nor to accept
        self.lost = 0

    def fresh(self, sequence: int) -> bool:
        """Whether this number has not been seen and is not too old to tell."""
        age = self.highest - sequence
        return age < 0 or (age < WINDOW and not self.seen >> age & 1)

    def mark(self, sequence: int) -> int:
        """Takes a fresh number; returns how many are newly missing (0 for one that fills a gap)."""
        ahead = sequence - self.highest
        if ahead < 0:
            self.seen |= 1 << -ahead
            return 0
        if ahead < WINDOW:
            self.lost += ahead - (self.seen >> (WINDOW - ahead)).bit_count()
            self.seen = ((self.seen << ahead) | 1) & self._MASK
        else:
            self.lost += WINDOW - self.seen.bit_count() + ahead - WINDOW
            self.seen = 1
        self.highest = sequence
        return ahead - 1

    def missing(self) -> Iterator[tuple[int, int]]:
        """The gaps as inclusive ranges, the oldest first."""
        first = 0
        unseen = ~self.seen & self._MASK
        for age in range(unseen.bit_length() - 1, -1, -1):
            if unseen >> age & 1:
                first = first or self.highest - age
            elif first:
                yield first, self.highest - age - 1
                first = 0

    def give_up(self) -> None:
        """What is missing now is lost."""
        self.lost += WINDOW - self.seen.bit_count()
        self.seen = self._MASK


@dataclass(slots=True)
class Peer:
    """One life (`boot`) of another node."""

    node: int
    boot: int
    cluster: int
    cipher: AESGCM
    window: Window
    heard: float
    unsynced_until: float
    name: str = ""
    sessions: int = 0
    dropped: int = 0
    records: int = 0
    delay_us: int = 0
    resend_at: float | None = None
    resend_tries: int = 0

    def state(self, now: float) -> PeerState:
        if now - self.heard > SILENT_S:
            return PeerState.SILENT
        return PeerState.UNSYNCED if now < self.unsynced_until else PeerState.SYNCED


@dataclass(frozen=True, slots=True)
class Layout:
    """What both ends must agree on to exchange records of one IP version: the sizes, and a checksum over names and
    offsets of both versions' fields."""

    key_size: int
    value_size: int
    checksum: int


@dataclass(slots=True)
class _History:
    """Our last datagrams by sequence number, for peers that missed one, and when each may be sent again."""

    limit: int
    datagrams: OrderedDict[int, tuple[bytes, float]] = field(default_factory=OrderedDict)

    def add(self, sequence: int, datagram: bytes) -> None:
        self.datagrams[sequence] = (datagram, 0.0)
        if len(self.datagrams) > self.limit:
            self.datagrams.popitem(last=False)

    def again(self, sequence: int, now: float) -> bytes | None:
        """The datagram, unless it is too old or has just been sent again for another peer."""
        datagram, not_before = self.datagrams.get(sequence, (None, 0.0))
        if datagram is None or now < not_before:
            return None
        self.datagrams[sequence] = (datagram, now + RESEND_RETRY_S / 2)
        return datagram


class Sync:
    """This node among its peers.

    The caller sends what `data_to_send` gives after each call, calls `tick` when `next_timer` is due, writes the
    records that `receive_data` returns, and reports datagrams that it could not send with `dropped`.
    """

    def __init__(
        self, *, name: str, keys: Sequence[ClusterKey], boot: int, salt: int, layouts: Mapping[int, Layout], now: float,
        refresh_s: float, max_peers: int = 64, history: int = WINDOW,
    ) -> None:  # fmt: skip
        self.name = name
        self.node = node_id(name)
        self.layouts = layouts
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.peers: dict[int, Peer] = {}
        self.sessions = 0
        self._keys = tuple(keys)
        self._sealer = Sealer(keys[0], node=self.node, boot=boot, salt=salt)
        self._refresh_s = refresh_s
        self._max_peers = max_peers
        self._history = _History(history)
        self._resends_left = RESENDS_PER_HELLO
        self._out: deque[bytes] = deque()
        self._hello_at = now
        self._complete_at = now + refresh_s
        self._dropped_until = 0.0

    # Sending

    def send_sessions(self, ip: int, keys: bytes, values: bytes, count: int, wall_us: int) -> None:
        """Queues a page of records. The blocks hold exactly `count` keys and values of this IP version's layout."""
        layout = self.layouts[ip]
        assert len(keys) == count * layout.key_size, "the caller's page"
        assert len(values) == count * layout.value_size, "the caller's page"
        if not count:
            return
        datagrams = self._sealer.sessions(ip, keys, values, count, layout.checksum, wall_us)
        first = self._sealer.sequence - len(datagrams) + 1
        for sequence, datagram in enumerate(datagrams, first):
            self._history.add(sequence, datagram)
        self._out.extend(datagrams)
        self.counters["sent_datagrams"] += len(datagrams)
        self.counters["sent_records"] += count

    def data_to_send(self) -> list[bytes]:
        """The datagrams to multicast now, in order; each is given once."""
        out = list(self._out)
        self._out.clear()
        return out

    def dropped(self, count: int, reason: str, now: float) -> None:
        """The caller could not send `count` datagrams: peers may ask for them, and we say so in the next hello."""
        self.counters[reason] += count
        self._dropped_until = now + self._refresh_s

    def rekey(self, keys: Sequence[ClusterKey]) -> None:
        """Takes a changed key file. Peers under keys that are gone are forgotten."""
        self._keys = tuple(keys)
        self._sealer.rekey(keys[0])
        known = {key.id for key in keys}
        self.peers = {node: peer for node, peer in self.peers.items() if peer.cluster in known}

    # Timers

    def next_timer(self) -> float:
        """When `tick` is due: the next hello or the next request for something missing."""
        return min([self._hello_at, *(peer.resend_at for peer in self.peers.values() if peer.resend_at is not None)])

    def tick(self, now: float, wall_us: int) -> None:
        if now >= self._hello_at:
            self._hello_at = now + HELLO_S
            self._resends_left = RESENDS_PER_HELLO
            dropped = self.counters["send_queue_full"] + self.counters["send_error"]
            self._send(Type.HELLO, pack_hello(Hello(self.name, self.sessions, dropped)), wall_us)
            self.counters["sent_hellos"] += 1
        for peer in self.peers.values():
            if peer.resend_at is not None and now >= peer.resend_at:
                self._ask_again(peer, now, wall_us)

    def _ask_again(self, peer: Peer, now: float, wall_us: int) -> None:
        ranges = list(peer.window.missing())
        if not ranges:
            peer.resend_at = None
        elif peer.resend_tries >= RESEND_TRIES:
            peer.window.give_up()
            peer.resend_at = None
            self._note_losses(peer, now)
        else:
            peer.resend_tries += 1
            peer.resend_at = now + RESEND_RETRY_S
            for first, last in ranges[:RESEND_RANGES]:
                self._send(Type.RESEND, pack_resend(Resend(peer.node, peer.boot, first, last)), wall_us)
                self.counters["resend_asked"] += 1

    def _send(self, type_: Type, body: bytes, wall_us: int) -> None:
        datagram = self._sealer.seal(type_, body, wall_us)
        self._history.add(self._sealer.sequence, datagram)
        self._out.append(datagram)

    # Receiving

    def receive_data(self, datagram: bytes, now: float, wall_us: int) -> Records | None:
        """Takes one datagram from the network, whatever it is. Returns the records to write, if it held any."""
        try:
            header = parse_header(datagram)
            if header.node == self.node:
                self.counters["own"] += 1
                return None
            key = key_by_id(self._keys, header.cluster)
            peer = self.peers.get(header.node)
            if peer is not None and header.boot < peer.boot:
                self.counters["old_boot"] += 1
                return None
            if peer is not None and header.boot == peer.boot and not peer.window.fresh(header.sequence):
                self.counters["replayed"] += 1
                return None
            same = peer is not None and (peer.boot, peer.cluster) == (header.boot, header.cluster)
            cipher = peer.cipher if peer is not None and same else key.cipher(header.node, header.boot, header.salt)
            body = open_body(cipher, header, datagram)
            if abs(wall_us - header.sent_us) > CLOCK_SKEW_S * 1e6:
                self.counters["clock"] += 1
                return None
            peer = self._heard(peer, header, cipher, now)
            return self._take(peer, header, body, now, wall_us) if peer is not None else None
        except DatagramError as error:
            self.counters[error.fault] += 1
            return None

    def _heard(self, peer: Peer | None, header: Header, cipher: AESGCM, now: float) -> Peer | None:
        """The peer's state after an authentic datagram; None if there is no room for another peer."""
        if peer is None or header.boot > peer.boot:
            if peer is None and len(self.peers) >= self._max_peers and not self._forget_silent(now):
                self.counters["too_many_peers"] += 1
                return None
            # We were not there for its earlier numbers: unsynced until it has sent every living session anew.
            peer = Peer(
                header.node, header.boot, header.cluster, cipher, Window(header.sequence), now, now + self._refresh_s
            )
            self.peers[header.node] = peer
            return peer
        peer.heard = now
        peer.cluster, peer.cipher = header.cluster, cipher
        late = header.sequence < peer.window.highest
        missing = peer.window.mark(header.sequence)
        self.counters["received_late"] += late
        if missing:
            self.counters["missing"] += missing
            peer.resend_tries = 0
            peer.resend_at = now + RESEND_DELAY_S
        self._note_losses(peer, now)
        return peer

    def _note_losses(self, peer: Peer, now: float) -> None:
        if peer.window.lost:
            self.counters["lost"] += peer.window.lost
            peer.window.lost = 0
            peer.unsynced_until = now + self._refresh_s

    def _forget_silent(self, now: float) -> bool:
        silent = [peer for peer in self.peers.values() if peer.state(now) is PeerState.SILENT]
        if silent:
            del self.peers[min(silent, key=lambda peer: peer.heard).node]
        return bool(silent)

    def _take(self, peer: Peer, header: Header, body: bytes, now: float, wall_us: int) -> Records | None:
        match header.type:
            case Type.SESSIONS:
                return self._take_sessions(peer, header, body, wall_us)
            case Type.HELLO:
                hello = parse_hello(body)
                peer.name, peer.sessions, peer.dropped = hello.name, hello.sessions, hello.dropped
                self.counters["received_hellos"] += 1
            case Type.RESEND:
                self._resend(parse_resend(body), now)
                self.counters["received_resends"] += 1
            case _:
                self.counters["unknown_type"] += 1
        return None

    def _take_sessions(self, peer: Peer, header: Header, body: bytes, wall_us: int) -> Records | None:
        if Layout(header.key_size, header.value_size, header.layout) != self.layouts.get(header.ip):
            self.counters["layout"] += 1
            return None
        peer.records += header.count
        peer.delay_us = max(0, wall_us - header.sent_us)
        self.counters["received_datagrams"] += 1
        self.counters["received_records"] += header.count
        return Records(header.ip, *split_records(header, body), header.count, peer.delay_us)

    def _resend(self, resend: Resend, now: float) -> None:
        if (resend.node, resend.boot) != (self.node, self._sealer.boot):
            return
        last = min(resend.last, self._sealer.sequence)
        for sequence in range(max(resend.first, last - WINDOW), last + 1):
            if self._resends_left and (datagram := self._history.again(sequence, now)):
                self._resends_left -= 1
                self._out.append(datagram)
                self.counters["resent"] += 1

    # Status

    def status(self, now: float) -> dict[str, object]:
        """For people and the control plane: whether this node knows every session, and each peer."""
        states = {peer.state(now) for peer in self.peers.values()}
        return {
            "complete": now >= self._complete_at and PeerState.UNSYNCED not in states,
            "overflowed": now < self._dropped_until,
            "peers": [
                {
                    "name": peer.name or f"{peer.node:016x}",
                    "state": peer.state(now).value,
                    "heard_s": round(now - peer.heard, 1),
                    "sessions": peer.sessions,
                    "records": peer.records,
                    "delay_ms": round(peer.delay_us / 1000, 1),
                    "dropped": peer.dropped,
                }
                for peer in self.peers.values()
            ],
        }
