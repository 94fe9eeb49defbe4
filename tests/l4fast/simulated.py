"""L4 nodes on a network that loses, delays, doubles and parts, all in one thread and by a clock of its own: the state
machines of session sync as they are, tables in memory, snapshots as their frames. The same seed is the same story.

Packets of clients come to a node by `packet`; what the XDP program would tell the peers of them is told: at the third
packet, when a state changes, and every REFRESH_S.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from l4fast.snapshot import Block, SnapshotError, Taking, pack_begin, pack_block, pack_end, pack_ended
from l4fast.sync_ends import Ended
from l4fast.sync_keys import ClusterKey
from l4fast.sync_peer import Sync
from l4fast.sync_peers import PeerState, Source
from l4fast.sync_records import Records
from tests.l4fast.memory_table import LAYOUTS, MemoryTable, key_of, page_of
from tests.l4fast.merging import ESTABLISHED, Entry

WALL_S = 1_700_000_000
REFRESH_S = 20
FLUSH_S = 0.015
PAGE = 20
PEER_REFRESH_S = 25.0
BLOCK = 256
BLOCK_S = 0.001
KEY = ClusterKey(bytes(32))


@dataclass
class Wire:
    """What happens to a datagram from one node to another."""

    loss: float = 0.0
    delay_s: tuple[float, float] = (0.0001, 0.0003)
    doubled: float = 0.0


class Node:
    """`buffer`: datagrams that its socket holds; `per_s`: how many it takes out of it, at most."""

    def __init__(
        self, network: Network, name: str, key: ClusterKey, buffer: int, per_s: float, ahead_s: float
    ) -> None:  # fmt: skip
        self.network = network
        self.name = name
        self.table = MemoryTable()
        self.boot = 0
        self.buffer, self.per_s = buffer, per_s
        self.waiting = 0
        self.busy_until = 0.0
        self.key = key
        self.ahead_s = ahead_s
        self.start()

    @property
    def wall_us(self) -> int:
        return self.network.wall_us + int(self.ahead_s * 1e6)

    @property
    def wall_s(self) -> int:
        return self.wall_us // 1_000_000

    def start(self) -> None:
        """A life that begins with an empty table."""
        self.boot += 1
        self.table.entries = {4: {}, 6: {}}
        self.due_s: dict[bytes, int] = {}
        self.staged: list[bytes] = []
        now = self.network.now
        self.sync = Sync(
            name=self.name, keys=(self.key,), boot=self.boot, salt=self.boot, layouts=LAYOUTS, now=now,
            refresh_s=PEER_REFRESH_S,
        )  # fmt: skip
        self.sync.port = 1
        self.alive = True
        self._tick_at = float("inf")
        self.act()

    def act(self) -> None:
        """Sends what there is to send, and has the clock called when it is due."""
        for datagram in self.sync.data_to_send():
            self.network.multicast(self, datagram)
        due = max(self.sync.next_timer(), self.network.now)
        if due < self._tick_at:
            self._tick_at = due
            self.network.at(due, self._tick, self.boot)

    def _tick(self, boot: int) -> None:
        if not self.alive or boot != self.boot:
            return
        now = self.network.now
        self._tick_at = float("inf")
        self.sync.tick(now, self.wall_us)
        for ended in self.sync.ended_again(now):
            self.table.end_keys(ended.ip, ended.keys, ended.until_s)
        self.sync.sessions = len(self.table.entries[4])
        self.act()

    def arrive(self, datagram: bytes, sender: str) -> None:
        """At its socket."""
        if not self.alive or self.waiting >= self.buffer:
            return
        self.waiting += 1
        self.busy_until = max(self.busy_until, self.network.now) + 1 / self.per_s
        self.network.at(self.busy_until, self._take, datagram, sender)

    def _take(self, datagram: bytes, sender: str) -> None:
        self.waiting -= 1
        if not self.alive:
            return
        told = self.sync.receive_data(datagram, self.network.now, self.wall_us, sender)
        if isinstance(told, Records):
            self.table.hear_sessions(told.ip, told.body, told.count, told.ends, told.shift_s)
        elif isinstance(told, Ended):
            self.table.end_keys(told.ip, told.keys, told.until_s)
        self.act()

    # Clients

    def packet(self, flow: int, way: int, state: int = ESTABLISHED) -> int:
        """A client's packet: to `way` if this node does not know the flow. Says where it went."""
        key, now_s = key_of(flow), self.wall_s
        before = self.table.entries[4].get(key)
        entry = before or Entry(way, now_s, state, 0)
        entry = replace(entry, last_s=now_s, packets=entry.packets + 1, state=max(state, entry.state))
        self.table.entries[4][key] = entry
        changed = before is not None and before.state != entry.state
        if entry.packets >= 3 and (
            changed or entry.packets == 3 or now_s >= self.due_s.setdefault(key, now_s + REFRESH_S)
        ):
            self.due_s[key] = now_s + REFRESH_S
            self._stage(key)
        return entry.way

    def opened(self, flow: int, way: int) -> None:
        """A new connection on the flow's ports: its SYN ends what was there before."""
        self.table.entries[4].pop(key_of(flow), None)
        for _ in range(3):
            self.packet(flow, way)

    def _stage(self, key: bytes) -> None:
        self.staged.append(key)
        if len(self.staged) >= PAGE:
            self.flush()
        elif len(self.staged) == 1:
            self.network.at(self.network.now + FLUSH_S, self.flush)

    def flush(self) -> None:
        there = [(key, self.table.entries[4][key]) for key in self.staged if key in self.table.entries[4]]
        self.staged = []
        if there and self.alive:
            self.sync.send_sessions(4, *page_of(there), self.wall_us)
            self.act()

    def kill(self, *flows: int) -> None:
        keys = b"".join(map(key_of, flows))
        self.table.end_keys(4, keys, 0xFFFFFFFF)
        self.sync.send_ended(4, keys, self.network.now, self.wall_us)
        self.act()

    # Snapshots

    def look(self, boot: int) -> None:
        if not self.alive or boot != self.boot:
            return
        if (source := self.sync.catching_up.source(self.network.now)) is not None:
            giver = self.network.by_id(source.node)
            taking = Taking(source.node, LAYOUTS)
            self.network.at(self.network.now + 0.005, self._read, giver, giver.boot, giver.frames(), taking, source)
        self.network.at(self.network.now + 0.05, self.look, boot)

    def frames(self) -> Iterator[bytes]:
        yield pack_begin(self.sync.node, self.boot, self.sync.sessions, self.sync.in_step(self.network.now))
        records = 0
        for version, keys, values, count in self.table.session_blocks(BLOCK):
            records += count
            yield pack_block(version, keys, values, count)
        for ended in self.sync.ends.kept(self.wall_s):
            yield from pack_ended(ended)
        yield pack_end(records)

    def _read(self, giver: Node, boot: int, frames: Iterator[bytes], taking: Taking, source: Source) -> None:
        now, catching_up = self.network.now, self.sync.catching_up
        if giver.boot != boot or not giver.alive or self.network.parted(self, giver):
            catching_up.failed(source, "it broke off", now)
            return
        try:
            parts = taking.receive_data(next(frames))
        except SnapshotError as error:
            catching_up.failed(source, str(error), now)
            return
        for part in parts:
            if isinstance(part, Block):
                self.table.merge_sessions(part.ip, part.body, part.count, source.shift_s)
            else:
                part = replace(part, until_s=part.until_s + source.shift_s)
                self.table.end_keys(part.ip, part.keys, part.until_s)
                self.sync.ends.add(part, now, self.wall_s)
        if not taking.whole:
            self.network.at(now + BLOCK_S, self._read, giver, boot, frames, taking, source)
            return
        for ended in self.sync.ends.kept(self.wall_s):
            self.table.end_keys(ended.ip, ended.keys, ended.until_s)
        assert taking.begin is not None
        self.network.snapshots += 1
        catching_up.taken(source, taking.begin.in_step, now)

    def complete(self) -> bool:
        return self.sync.complete(self.network.now)

    def knows(self, flow: int) -> bool:
        return key_of(flow) in self.table.entries[4]


@dataclass
class Network:
    seed: int
    wire: Wire = field(default_factory=Wire)
    nodes: list[Node] = field(default_factory=list)
    now: float = 0.0
    snapshots: int = 0
    tap: Callable[[bytes], None] | None = None
    sides: tuple[frozenset[str], ...] = ()

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = itertools.count()

    def node(
        self, name: str, key: ClusterKey = KEY, buffer: int = 1 << 20, per_s: float = 1e6, ahead_s: float = 0.0
    ) -> Node:  # fmt: skip
        node = Node(self, name, key, buffer, per_s, ahead_s)
        self.nodes.append(node)
        self.at(self.now, node.look, node.boot)
        return node

    def restart(self, node: Node) -> None:
        node.start()
        self.at(self.now, node.look, node.boot)

    def by_id(self, node: int) -> Node:
        return next(each for each in self.nodes if each.sync.node == node)

    @property
    def wall_s(self) -> int:
        return WALL_S + int(self.now)

    @property
    def wall_us(self) -> int:
        return WALL_S * 1_000_000 + int(self.now * 1e6)

    def at(self, time: float, call: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (time, next(self._order), call, arguments))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, call, arguments = heapq.heappop(self._events)
            call(*arguments)
        self.now = until

    def part(self, *sides: set[str]) -> None:
        """Nothing goes from one side to another; nothing given: it is whole again."""
        self.sides = tuple(map(frozenset, sides))

    def parted(self, a: Node, b: Node) -> bool:
        return any((a.name in side) != (b.name in side) for side in self.sides)

    def multicast(self, sender: Node, datagram: bytes) -> None:
        if self.tap is not None:
            self.tap(datagram)
        for node in self.nodes:
            if node is not sender and not self.parted(sender, node):
                self.deliver(node, datagram, sender.name)

    def deliver(self, node: Node, datagram: bytes, sender: str) -> None:
        for _ in range(1 + (self.chance.random() < self.wire.doubled)):
            if self.chance.random() >= self.wire.loss:
                self.at(self.now + self.chance.uniform(*self.wire.delay_s), node.arrive, datagram, sender)

    def settled(self) -> bool:
        """Nobody knows of anything that is missing."""
        return all(
            node.complete() and {peer.state(self.now) for peer in node.sync.peers.values()} == {PeerState.SYNCED}
            for node in self.nodes
        )
