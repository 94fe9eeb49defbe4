"""Two nodes with their programs and maps: what a snapshot carries over, and who has which flow when two that were
parted meet again."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from certs.authority import Authority
from control.node.identity import Identity
from control.node.tasks import Tasks
from core.model import Mode, Scheduler
from l4fast.node import layouts_of
from l4fast.sessions import Wanted
from l4fast.snapshot import Block, Taking, pack_begin, pack_block, pack_end
from l4fast.snapshot_io import Snapshots, listener
from l4fast.sync_io import SyncIO
from l4fast.sync_keys import ClusterKey
from l4fast.sync_peer import Sync
from l4fast.sync_records import Layout
from tests.packets import (
    ACK,
    CLIENT,
    FIN,
    NOW_S,
    SYN,
    UDP,
    End,
    Harness,
    Packet,
    addresses_of,
    as_version,
    ends,
    service,
)

pytestmark = pytest.mark.root
versions = pytest.mark.parametrize("version", [4, 6])
POOLS = {"a": ("10.0.9.1",), "b": ("10.0.9.129",)}
SCHEDULERS = {80 + n: scheduler for n, scheduler in enumerate(Scheduler)}
FULLNAT, DNS_FULLNAT, DNS = 100, 101, 53
KEY = ClusterKey(bytes(32))


def services(version: int) -> list[Any]:
    """In another order on the other node, so that no number means the same on both."""
    return [
        *(
            service(port, scheduler=scheduler, real_port=8000 + port, version=version)
            for port, scheduler in SCHEDULERS.items()
        ),
        service(FULLNAT, Mode.FULLNAT, Scheduler.LC, version=version),
        service(DNS_FULLNAT, Mode.FULLNAT, Scheduler.WLC, protocol="udp", version=version),
        service(DNS, scheduler=Scheduler.RR, protocol="udp", version=version),
    ]


@pytest.fixture(scope="module")
def second() -> Iterator[Harness]:
    harness = Harness(sessions=1 << 17, half_open=4096, fragments=1024, access_lists=2)
    yield harness
    harness.close()


@pytest.fixture
def nodes(roomy: Harness, second: Harness) -> Iterator[tuple[Harness, Harness]]:
    yield roomy, second
    for harness in (roomy, second):
        harness.reset()


def start(nodes: tuple[Harness, Harness], version: int) -> tuple[Harness, Harness]:
    a, b = nodes
    pools = {name: as_version(version, *pool) for name, pool in POOLS.items()}
    a.reset(services(version), pools["a"], pools["b"])
    b.reset(services(version)[::-1], pools["b"], pools["a"])
    return a, b


def layouts(harness: Harness) -> dict[int, Layout]:
    return layouts_of(harness.tables.layouts)


def snapshot(giver: Harness, taker: Harness) -> int:
    """A whole one through its frames; returns how many records it had."""
    taking, records = Taking(1, layouts(taker)), 0
    stream = [pack_begin(1, 1, 0, [1])]
    for version, keys, values, count in giver.tables.session_blocks(100):
        stream.append(pack_block(version, keys, values, count))
        records += count
    for part in taking.receive_data(b"".join([*stream, pack_end(records)])):
        assert isinstance(part, Block)
        assert taker.tables.merge_sessions(part.ip, part.body, part.count).full == 0
    assert taking.whole
    return records


def at(*harnesses: Harness, second: int) -> None:
    for harness in harnesses:
        harness.tables.set_epoch(NOW_S + second)


def to(version: int, port: int, number: int, **fields: Any) -> Packet:
    protocol = {"protocol": UDP} if port in (DNS, DNS_FULLNAT) else {"flags": ACK, "sequence": 1001}
    return Packet(port=port, source_port=number, **{**protocol, **fields}).as_version(version)


def opened(harness: Harness, version: int, port: int, number: int) -> tuple[End, End]:
    """A connection with three packets: the two ends of what left the node."""
    packet = to(version, port, number)
    if packet.protocol != UDP:
        harness.run(replace(packet, flags=SYN, sequence=1000))
    for _ in range(3):
        reason, frame = harness.run(packet)
        assert reason in ("tx_session", "tx_new_session"), reason
    return ends(frame)


def goes(harness: Harness, version: int, port: int, number: int) -> tuple[End, End]:
    reason, frame = harness.run(to(version, port, number))
    assert reason == "tx_session", reason
    return ends(frame)


def views(harness: Harness) -> dict[tuple[str, str], dict[str, object]]:
    result = {}
    for view in harness.tables.sessions():
        fields = asdict(view)
        del fields["synced"]
        result[view.client, view.vip] = fields
    return result


def counts_are_exact(harness: Harness) -> bool:
    held = [view for view in harness.tables.sessions() if view.state in ("established", "unproven", "udp")]
    udp = (DNS, DNS_FULLNAT)
    names = {f"{'udp' if port in udp else 'tcp'}-{port}": port for port in (*SCHEDULERS, FULLNAT, DNS_FULLNAT)}
    return all(
        count == sum(view.real == real and view.vip.endswith(f":{names[listener]}") for view in held)
        for listener, counts in harness.tables.connections().items()
        for real, count in counts.items()
    )


@versions
def test_idle_sessions_of_all_kinds_go_on_elsewhere(nodes: tuple[Harness, Harness], version: int) -> None:
    """With age, state and counters, in fullnat with the way of the answers; and they count there."""
    a, b = start(nodes, version)
    went: dict[tuple[int, int], tuple[End, End]] = {}
    for number, port in itertools.product(range(5), (*SCHEDULERS, FULLNAT, DNS_FULLNAT, DNS)):
        at(a, second=number)
        went[port, 3000 + number] = opened(a, version, port, 3000 + number)
    at(a, second=30)
    a.run(to(version, 80, 3000, flags=FIN | ACK))
    at(a, b, second=60)
    told = views(a)
    records = snapshot(a, b)
    assert records == len(went) + 10, "two entries each of fullnat"
    assert views(b) == told
    assert {view.idle_s for view in b.tables.sessions()} == {60, 59, 58, 57, 56, 30}
    assert counts_are_exact(a)
    assert counts_are_exact(b)
    assert sum(sum(of.values()) for of in b.tables.connections().values()) > 10
    for (port, number), way in went.items():
        assert goes(b, version, port, number) == way, (port, number)
        if port in (FULLNAT, DNS_FULLNAT):
            source, real = way
            answer = Packet(
                source=real[0], source_port=real[1], destination=source[0], port=source[1], flags=ACK,
                protocol=UDP if port == DNS_FULLNAT else 6,
            )  # fmt: skip
            reason, frame = b.run(answer)
            assert reason == "tx_reply"
            assert ends(frame)[1] == (as_version(version, CLIENT)[0], number)
    assert counts_are_exact(b)
    assert snapshot(a, b) == records
    assert all(goes(b, version, *flow) == way for flow, way in went.items()), "and once more changes nothing"


@versions
def test_two_that_were_parted_agree_on_the_last_server(nodes: tuple[Harness, Harness], version: int) -> None:
    """Both had traffic of the same client ports. No flow that goes on at a node is moved, and what each learns of the
    other is what the last packet says."""
    a, b = start(nodes, version)
    chance = random.Random(version)
    flows = [(port, number) for port in (81, 82, FULLNAT, DNS) for number in range(4000, 4012)]
    last: dict[tuple[int, int], tuple[Harness, tuple[End, End]]] = {}
    for second in range(1, 40):
        at(a, b, second=second)
        for flow in chance.sample(flows, 6):
            node = chance.choice((a, b))
            if flow not in last or last[flow][0] is not node:
                # A connection of the client's that begins anew, on this side of the network.
                node.tables.end_keys(version, key_of(node, version, *flow), 0xFFFFFFFF)
                last[flow] = node, opened(node, version, *flow)
            else:
                assert goes(node, version, *flow) == last[flow][1]
    at(a, b, second=41)
    for giver, taker in ((a, b), (b, a), (a, b)):
        snapshot(giver, taker)
        for flow, (node, way) in last.items():
            if flow[1] % 2:  # some go on meanwhile, with whom they have been
                assert goes(node, version, *flow) == way
    at(a, b, second=42)
    for flow, (_, way) in last.items():
        for node in (a, b):
            assert goes(node, version, *flow) == way, flow
    for node in (a, b):
        assert counts_are_exact(node)


def key_of(harness: Harness, version: int, port: int, number: int) -> bytes:
    """Of the flow's session, if it has one."""
    vip, client = (address for address in (to(version, port, number).destination, to(version, port, number).source))
    bracket = "[{}]:{}" if version == 6 else "{}:{}"
    wanted = Wanted(client=bracket.format(client, number), vip=bracket.format(vip, port))
    return b"".join(bytes(key) for key, _ in harness.tables._find(harness.tables.versions[version], wanted))


# The whole way: programs, agents' loops, TLS


class Node:
    def __init__(self, name: str, harness: Harness, identity: Identity) -> None:
        self.harness = harness
        self.tasks = Tasks()
        self.sync = Sync(
            name=name, keys=(KEY,), boot=time.time_ns(), salt=1, layouts=layouts(harness),
            now=asyncio.get_running_loop().time(), refresh_s=60,
        )  # fmt: skip
        self.snapshots = Snapshots(self.sync, harness.tables, identity, self.tasks)
        self.listening = listener("lo", 4, 0)


class Wire:
    """Loses, and turns the order of, what is sent."""

    def __init__(self, sock: Any, loss: float) -> None:
        self._sock, self._loss, self._chance = sock, loss, random.Random(1)
        self._kept: list[bytes] = []

    def sendto(self, data: bytes, address: tuple[str, int]) -> int:
        if self._chance.random() < self._loss:
            return len(data)
        self._kept.append(data)
        if len(self._kept) > 3 or self._chance.random() < 0.5:
            self._chance.shuffle(self._kept)
            while self._kept:
                self._sock.sendto(self._kept.pop(), address)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.fixture
async def connected(
    nodes: tuple[Harness, Harness], tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Node, Node]]:
    start(nodes, 4)
    authority = Authority.init(tmp_path / "ca")
    made = []
    for name, harness in zip(("a", "b"), nodes, strict=True):
        authority.issue_node("l4", name).write(tmp_path / name)
        made.append(Node(name, harness, Identity.load(tmp_path / name)))
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in made]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
    ios = []
    for node, mine, other in zip(made, socks, reversed(socks), strict=True):
        wire: Any = Wire(mine, getattr(request, "param", 0.0))
        ios.append(SyncIO(node.sync, node.harness.tables, wire, other.getsockname()))
        ios[-1].start()
        node.snapshots.start(node.listening)
    yield made[0], made[1]
    for io, node in zip(ios, made, strict=True):
        io.close()
        await node.tasks.close()
        node.listening.close()
    await asyncio.sleep(0.01)  # in which transports that were cut close their sockets


@pytest.mark.parametrize("connected", [0.2], indirect=True)
async def test_what_is_lost_on_the_way_is_there_in_the_end(connected: tuple[Node, Node]) -> None:
    a, b = connected
    for number in range(2000, 5000):
        packet = to(4, DNS, number).frame()
        for _ in range(3):
            a.harness.plane.run(packet)
        if number % 50 == 0:
            await asyncio.sleep(0.001)
    async with asyncio.timeout(20):
        while len(b.harness.tables.sessions(limit=10_000)) < 3000:
            await asyncio.sleep(0.1)
    assert a.sync.counters["resent"] > 0
    assert {addresses_of(b.harness.run(to(4, DNS, number))[1])[1] for number in range(2000, 2010)} == {
        addresses_of(a.harness.run(to(4, DNS, number))[1])[1] for number in range(2000, 2010)
    }


async def test_a_node_whose_table_is_empty_fills_it_by_itself(connected: tuple[Node, Node]) -> None:
    a, b = connected
    for number in range(2000, 2500):
        opened(a.harness, 4, FULLNAT, number)
    async with asyncio.timeout(10):
        while not (a.snapshots.complete.is_set() and b.snapshots.complete.is_set()):
            await asyncio.sleep(0.02)
        while len(b.harness.tables.sessions(limit=1000)) < 500:
            await asyncio.sleep(0.02)
    b.harness.tables.kill(Wanted(client=CLIENT))  # as if it had not been there
    b.sync.peers[a.sync.node].fell_behind(asyncio.get_running_loop().time(), 60)
    b.sync.catching_up._not_before = 0.0
    b.sync.peers[a.sync.node].rests_until = 0.0
    b.snapshots.complete.clear()
    async with asyncio.timeout(10):
        await b.snapshots.complete.wait()
    assert len(b.harness.tables.sessions(limit=1000)) == 500
    assert counts_are_exact(b.harness)
