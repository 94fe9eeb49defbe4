"""One node's part in session sync, as a state machine: datagrams in, records and datagrams out. Pure; see `sync.md`.

What holds, whatever arrives:
  - a datagram yields records at most once, and only if a node with the cluster key sealed it within `CLOCK_SKEW_S`, in
    the newest life of that node that we know of, under the layout that this node uses;
  - what is refused adds to exactly one counter of `COUNTERS` and has no other effect. `replayed` also counts datagrams
    that came twice because another peer had asked for them again;
  - memory is bounded: `max_peers` peers, one window each, and `history` datagrams of our own.

Gaps are repaired (`sync_window`), and what cannot be makes this node take a snapshot (`sync_peers`). Whether a record
or the entry that this node has is the newer one is decided where both are at hand (bpf/merge.h).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from l4fast import sync_status
from l4fast.sync_codec import (
    MAX_BODY,
    MAX_RANGES,
    DatagramError,
    Fault,
    Header,
    Hello,
    Resend,
    Sealer,
    Type,
    keys_per_datagram,
    open_body,
    pack_hello,
    pack_resend,
    parse_header,
    parse_hello,
    parse_resend,
)
from l4fast.sync_ends import Ended, Ends
from l4fast.sync_keys import ClusterKey, key_by_id, node_id
from l4fast.sync_peers import RETURN_S, SILENT_S, CatchingUp, Peer, PeerState
from l4fast.sync_records import Layout, Records
from l4fast.sync_status import COUNTERS
from l4fast.sync_window import WINDOW, History, Window

HELLO_S: Final = 1.0
# While a peer is silent it is called more often: when the network is whole again, both sides hear of it within this
# time, which is about what VRRP needs to move the VIPs. Not for ever: it may be gone.
SEEK_S: Final = 0.1
SEEK_MOST_S: Final = 600.0
ASKED_ON_RETURN: Final = 512  # missing datagrams; of more, a snapshot alone is quicker
HELLO_SOON_S: Final = 0.05  # to a newcomer, who may be one of many
CLOCK_SKEW_S: Final = 30.0  # replays older than this are refused even by a node that has just started
ASK_S: Final = 0.01  # between two requests to one peer
# Datagrams sent again: as many as were new, saved up to a history's worth, and these between two hellos in any case.
# Peers cannot make us flood the network.
RESENDS_PER_HELLO: Final = 256
RESENDS_MOST: Final = WINDOW


class Sync:
    """This node among its peers.

    The caller sends what `data_to_send` gives after each call, calls `tick` when `next_timer` is due, writes the
    records that `receive_data` returns, and reports datagrams that it could not send with `dropped`. It carries out
    what `ended_again` gives at each tick, and takes snapshots as `catching_up` wants them.
    """

    def __init__(
        self, *, name: str, keys: Sequence[ClusterKey], boot: int, salt: int, layouts: Mapping[int, Layout], now: float,
        refresh_s: float, max_peers: int = 64, history: int = WINDOW, seed: int = 0,
    ) -> None:  # fmt: skip
        self.name = name
        self.node = node_id(name)
        self.boot = boot
        self.layouts = layouts
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.peers: dict[int, Peer] = {}
        self.ends = Ends()
        self.catching_up = CatchingUp(self.peers, now)
        # What hellos tell: sessions held, records that the data plane has lost, the seed's digest, the snapshots' port
        self.sessions, self.lost, self.seed, self.port = 0, 0, seed, 0
        self._keys = tuple(keys)
        self._sealer = Sealer(keys[0], node=self.node, boot=boot, salt=salt)
        self._refresh_s = refresh_s
        self._max_peers = max_peers
        self._history = History(history)
        self._resends_left = RESENDS_PER_HELLO
        self._refill_at = now
        self._out: deque[bytes] = deque()
        self._hello_at = now
        self._dropped_until = 0.0

    # Sending

    def send_sessions(self, ip: int, body: bytes, count: int, ends: int, wall_us: int) -> None:
        """Queues a page of records: the second of their last packets, so many ends, so many records of this IP
        version's layout. It fits one datagram."""
        layout = self.layouts[ip]
        assert len(body) == layout.body_size(count, ends) <= MAX_BODY, "the caller's page"
        if not count:
            return
        self._queue([
            self._sealer.seal(
                Type.SESSIONS, body, wall_us, ip=ip, count=count, size=layout.told_size, ends=ends,
                layout=layout.checksum,
            )
        ])  # fmt: skip
        self.counters["sent_records"] += count

    def send_ended(self, ip: int, keys: bytes, now: float, wall_us: int) -> None:
        """Queues that these sessions were ended here and now, and remembers it. The block holds whole keys."""
        layout = self.layouts[ip]
        count, rest = divmod(len(keys), layout.key_size)
        assert not rest, "the caller's keys"
        if not count:
            return
        self._queue(self._sealer.ended(ip, keys, count, layout.checksum, wall_us))
        wall_s = wall_us // 1_000_000
        step = keys_per_datagram(layout.key_size) * layout.key_size  # the blocks that the peers remember, too
        for at in range(0, len(keys), step):
            some = keys[at : at + step]
            self.ends.add(Ended(ip, some, len(some) // layout.key_size, wall_s), now, wall_s)
        self.counters["sent_ends"] += count

    def _queue(self, datagrams: Sequence[bytes]) -> None:
        for sequence, datagram in enumerate(datagrams, self._sealer.sequence - len(datagrams) + 1):
            self._history.add(sequence, datagram)
        self._out.extend(datagrams)
        self._resends_left = min(self._resends_left + len(datagrams), RESENDS_MOST)
        self.counters["sent_datagrams"] += len(datagrams)

    @property
    def datagrams_to_send(self) -> int:
        return len(self._out)

    def data_to_send(self) -> list[bytes]:
        """The datagrams to multicast now, in order; each is given once."""
        out = list(self._out)
        self._out.clear()
        return out

    def dropped(self, count: int, reason: str, now: float) -> None:
        """The caller could not send `count` datagrams: peers may ask for them, and we say so in the next hello."""
        self.counters[reason] += count
        self._dropped_until = now + self._refresh_s

    def rekey(self, keys: Sequence[ClusterKey], seed: int = 0) -> None:
        """Takes a changed key file. Peers under keys that are gone are forgotten."""
        self._keys = tuple(keys)
        self.seed = seed
        self._sealer.rekey(keys[0])
        known = self.clusters()
        for node in [node for node, peer in self.peers.items() if peer.cluster not in known]:
            del self.peers[node]

    def clusters(self) -> Collection[int]:
        """The ids of the cluster keys that this node has."""
        return {key.id for key in self._keys}

    # Timers

    def next_timer(self) -> float:
        """When `tick` is due: the next hello, request for something missing, or end to be carried out again."""
        times = [self._hello_at, self.ends.next_timer(), *(peer.resend_at for peer in self.peers.values())]
        return min(time for time in times if time is not None)

    def tick(self, now: float, wall_us: int) -> None:
        if now >= self._hello_at:
            self._hello(now, wall_us)
        for peer in self.peers.values():
            if peer.resend_at is not None and now >= peer.resend_at:
                self._ask_again(peer, now, wall_us)

    def _hello(self, now: float, wall_us: int) -> None:
        self._hello_at = now + (SEEK_S if self._seeks(now) else HELLO_S)
        if now >= self._refill_at:
            self._refill_at = now + HELLO_S
            self._resends_left = max(self._resends_left, RESENDS_PER_HELLO)
        dropped = self.counters["send_queue_full"] + self.counters["send_error"]
        hello = Hello(self.name, self.sessions, dropped, self.lost, self.seed, self.port)
        self._send(Type.HELLO, pack_hello(hello), wall_us)
        self.counters["sent_hellos"] += 1

    def _seeks(self, now: float) -> bool:
        return any(self._is_sought(peer, now) for peer in self.peers.values())

    @staticmethod
    def _is_sought(peer: Peer, now: float) -> bool:
        return SILENT_S < now - peer.heard < SEEK_MOST_S

    def ended_again(self, now: float) -> list[Ended]:
        """Sessions that were ended lately, of which records may have come since."""
        return self.ends.due(now)

    def _ask_again(self, peer: Peer, now: float, wall_us: int) -> None:
        if ranges := peer.window.ask(now, MAX_RANGES):
            self._send(Type.RESEND, pack_resend(Resend(peer.node, peer.boot, tuple(ranges))), wall_us)
            self.counters["resend_asked"] += 1
        self._note_losses(peer, now)
        due = peer.window.next_ask()
        peer.resend_at = due and max(due, now + ASK_S)

    def _send(self, type_: Type, body: bytes, wall_us: int) -> None:
        datagram = self._sealer.seal(type_, body, wall_us)
        self._history.add(self._sealer.sequence, datagram)
        self._out.append(datagram)

    # Receiving

    def receive_data(self, datagram: bytes, now: float, wall_us: int, address: str = "") -> Records | Ended | None:
        """Takes one datagram from the network, whatever it is. Returns the records to write or the sessions that have
        ended, if it held any."""
        try:
            header = parse_header(datagram)
            if header.node == self.node:
                self.counters["own"] += 1
                return None
            key = key_by_id(self._keys, header.cluster)
            if key is None:
                raise DatagramError(Fault.FOREIGN_CLUSTER, f"cluster {header.cluster:08x}")
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
            again = peer is not None and same and header.sequence < peer.window.highest
            peer = self._heard(peer, header, cipher, now)
            if peer is None:
                return None
            peer.address = address
            if not again:
                peer.compare_clocks(wall_us - header.sent_us)
            return self._take(peer, header, body, now, wall_us)
        except DatagramError as error:
            self.counters[error.fault] += 1
            return None

    def _heard(self, peer: Peer | None, header: Header, cipher: AESGCM, now: float) -> Peer | None:
        """The peer's state after an authentic datagram; None if there is no room for another peer."""
        if peer is None or header.boot > peer.boot:
            if peer is None and len(self.peers) >= self._max_peers and not self._forget_silent(now):
                self.counters["too_many_peers"] += 1
                return None
            # We were not there for its earlier numbers.
            peer = Peer(header.node, header.boot, header.cluster, cipher, Window(header.sequence), now)
            peer.fell_behind(now, self._refresh_s)
            self.peers[header.node] = peer
            self._hello_at = min(self._hello_at, now + HELLO_SOON_S)
            return peer
        silence_s, peer.heard = now - peer.heard, now
        if silence_s > SILENT_S:
            self._hello_at = now
        peer.cluster, peer.cipher = header.cluster, cipher
        self.counters["received_late"] += header.sequence < peer.window.highest
        if missing := peer.window.mark(header.sequence, now):
            self.counters["missing"] += missing
            peer.resend_at = peer.window.next_ask() if peer.resend_at is None else peer.resend_at
        if silence_s > RETURN_S:
            if peer.window.missing() > ASKED_ON_RETURN:
                peer.window.give_up()
            peer.fell_behind(now, self._refresh_s)
        self._note_losses(peer, now)
        return peer

    def _note_losses(self, peer: Peer, now: float) -> None:
        if peer.window.lost:
            self.counters["lost"] += peer.window.lost
            peer.window.lost = 0
            peer.fell_behind(now, self._refresh_s)

    def _forget_silent(self, now: float) -> bool:
        silent = [peer for peer in self.peers.values() if peer.state(now) is PeerState.SILENT]
        if silent:
            del self.peers[min(silent, key=lambda peer: peer.heard).node]
        return bool(silent)

    def _take(self, peer: Peer, header: Header, body: bytes, now: float, wall_us: int) -> Records | Ended | None:
        match header.type:
            case Type.SESSIONS:
                return self._take_sessions(peer, header, body, wall_us)
            case Type.HELLO:
                self._take_hello(peer, parse_hello(body), now)
            case Type.RESEND:
                self._resend(parse_resend(body), now)
                self.counters["received_resends"] += 1
            case Type.ENDED:
                return self._take_ended(peer, header, body, now, wall_us)
            case _:
                self.counters["unknown_type"] += 1
        return None

    def _take_sessions(self, peer: Peer, header: Header, body: bytes, wall_us: int) -> Records | None:
        layout = self.layouts.get(header.ip)
        if (
            layout is None
            or header.layout != layout.checksum
            or header.size != layout.told_size
            or len(body) != layout.body_size(header.count, header.ends)
        ):
            self.counters["layout"] += 1
            return None
        peer.records += header.count
        peer.delay_us = max(0, wall_us - header.sent_us)
        self.counters["received_datagrams"] += 1
        self.counters["received_records"] += header.count
        return Records(header.ip, body, header.count, header.ends, peer.delay_us, peer.shift_s)

    def _take_ended(self, peer: Peer, header: Header, body: bytes, now: float, wall_us: int) -> Ended | None:
        layout = self.layouts.get(header.ip)
        if layout is None or (header.size, header.layout) != (layout.key_size, layout.checksum):
            self.counters["layout"] += 1
            return None
        self.counters["received_ends"] += header.count
        ended = Ended(header.ip, body, header.count, header.sent_us // 1_000_000 + peer.shift_s)
        self.ends.add(ended, now, wall_us // 1_000_000)
        return ended

    def _take_hello(self, peer: Peer, hello: Hello, now: float) -> None:
        self.counters["received_hellos"] += 1
        if now >= peer.second_at:
            peer.second_at = now + HELLO_S
            peer.next_second()
        if peer.lost is not None and hello.lost != peer.lost:
            peer.fell_behind(now, self._refresh_s)
        peer.name, peer.sessions, peer.dropped = hello.name, hello.sessions, hello.dropped
        peer.lost, peer.seed, peer.port = hello.lost, hello.seed, hello.port

    def _resend(self, resend: Resend, now: float) -> None:
        if (resend.node, resend.boot) != (self.node, self._sealer.boot):
            return
        for first, last in resend.ranges:
            last = min(last, self._sealer.sequence)
            for sequence in range(max(first, last - WINDOW), last + 1):
                if self._resends_left and (datagram := self._history.again(sequence, now)):
                    self._resends_left -= 1
                    self._out.append(datagram)
                    self.counters["resent"] += 1

    # Status

    def complete(self, now: float) -> bool:
        """Whether this node knows every session that its peers have told of."""
        return self.catching_up.complete(now)

    def lacking(self, now: float) -> bool:
        """Whether peers may know sessions that this node does not: some have not told all, or cannot be heard."""
        return not self.complete(now) or any(
            self._is_sought(peer, now) or (peer.state(now) is not PeerState.SILENT and peer.window.missing())
            for peer in self.peers.values()
        )

    def in_step(self, now: float) -> list[int]:
        """The nodes whose sessions this one knows, its own among them: what a snapshot of its table stands for."""
        synced = (peer for peer in self.peers.values() if peer.state(now) is PeerState.SYNCED)
        return [self.node, *(peer.node for peer in synced if not peer.window.missing())]

    def problems(self, now: float) -> list[str]:
        """What an operator has to do something about."""
        return [*sync_status.problems(self.peers.values(), self.seed, now), *self.catching_up.problems(now)]

    def status(self, now: float) -> dict[str, object]:
        """For people and the control plane: whether this node knows every session, and each peer."""
        taken = self.catching_up.last_taken
        return {
            "complete": self.complete(now),
            "overflowed": now < self._dropped_until,
            "snapshot": {"from": taken[0], "took_s": round(taken[1], 2)} if taken else None,
            "peers": sync_status.rows(self.peers.values(), now),
        }
