"""Snapshots over real TLS on this machine's loopback, with tables in memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from certs.authority import Authority
from control.node.identity import Identity
from control.node.tasks import Tasks
from l4fast import snapshot_io
from l4fast.snapshot import Ask, Kind, checksum, pack_ask, pack_begin, pack_block, pack_refused
from l4fast.snapshot_io import Snapshots, listener
from l4fast.sync_ends import Ended
from l4fast.sync_keys import ClusterKey
from l4fast.sync_peer import Sync
from l4fast.sync_records import Layout
from tests.l4fast.memory_table import LAYOUTS, MemoryTable, key_of, value_of
from tests.l4fast.merging import CLOSED, Entry
from tests.waiting import until

pytestmark = pytest.mark.root  # a socket bound to an interface
KEY, OTHER_KEY = ClusterKey(bytes(32)), ClusterKey(b"\1" * 32)
NOW_S = int(time.time())


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    directory = tmp_path_factory.mktemp("ca")
    authority, other = Authority.init(directory / "ca"), Authority.init(directory / "other")
    made: dict[str, Identity] = {}
    for name, role, of in (("a", "l4", authority), ("b", "l4", authority), ("c", "l4", authority),
                           ("l7-1", "l7", authority), ("stranger", "l4", other)):  # fmt: skip
        of.issue_node(role, name).write(directory / name)
        made[name] = Identity.load(directory / name)
    return made


class Node:
    """Hellos go from node to node by `greet`, since there is no multicast here."""

    def __init__(
        self, name: str, identity: Identity, key: ClusterKey = KEY, layouts: dict[int, Layout] = LAYOUTS,
        **options: float,
    ) -> None:  # fmt: skip
        self.table = MemoryTable()
        self.listening: socket.socket | None = None
        self.tasks = Tasks()
        self.sync = Sync(
            name=name, keys=(key,), boot=1, salt=2, layouts=layouts, now=asyncio.get_running_loop().time(), refresh_s=60
        )
        self.snapshots = Snapshots(self.sync, self.table, identity, self.tasks, **options)  # type: ignore[arg-type]

    def start(self, ip: int = 4) -> None:
        self.listening = listener("lo", ip, 0)
        self.snapshots.start(self.listening)

    def greet(self, *others: Node, address: str = "127.0.0.1") -> None:
        now, wall_us = asyncio.get_running_loop().time(), time.time_ns() // 1000
        self.sync._hello_at = now
        self.sync.tick(now, wall_us)
        for datagram in self.sync.data_to_send():
            for other in others:
                other.sync.receive_data(datagram, now, wall_us, address)

    async def close(self) -> None:
        await self.tasks.close()
        if self.listening is not None:
            self.listening.close()

    def complete(self) -> bool:
        return self.sync.complete(asyncio.get_running_loop().time())


@pytest.fixture
async def nodes(identities: dict[str, Identity]) -> AsyncIterator[Callable[..., Node]]:
    made: list[Node] = []

    def node(name: str, **options: object) -> Node:
        made.append(Node(name, identities[name], **options))  # type: ignore[arg-type]
        return made[-1]

    yield node
    for each in made:
        await each.close()


def fill(node: Node, count: int, ip: int = 4) -> None:
    for number in range(count):
        node.table.enter(number, Entry(number % 7, NOW_S - number % 600, number % 4 if number % 4 != 1 else 0), ip)
    node.sync.sessions = count


def same(a: Node, b: Node) -> bool:
    def entries(node: Node) -> dict[tuple[int, bytes], bytes]:
        return {(ip, key): value_of(entry) for ip, of in node.table.entries.items() for key, entry in of.items()}

    return entries(a) == entries(b)


@pytest.mark.parametrize(("ip", "address"), [(4, "127.0.0.1"), (6, "::1")])
async def test_a_node_that_joins_gets_everything_and_is_complete_at_once(
    nodes: Callable[..., Node], ip: int, address: str
) -> None:
    a, b = nodes("a"), nodes("b")
    fill(a, 10_000)
    fill(a, 9_000, ip=6)
    a.start(ip)
    b.start(ip)
    a.greet(b, address=address)
    assert not b.complete()
    async with asyncio.timeout(3):  # a peer's sessions would have come anew after 60 s
        await b.snapshots.complete.wait()
    assert same(a, b)
    assert b.complete()
    assert b.sync.counters["snapshot_records"] == 19_000
    assert b.sync.status(0)["snapshot"]["from"] == "a"  # type: ignore[index]
    await until(lambda: a.sync.counters["snapshots_given"])
    assert a.sync.counters["snapshots_broken"] == 0


async def test_an_empty_table_is_a_snapshot_too(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a"), nodes("b")
    a.start()
    b.start()
    a.greet(b)
    b.greet(a)
    await until(lambda: a.complete() and b.complete(), limit_s=3)


async def test_what_multicast_brings_meanwhile_stays_the_newer(nodes: Callable[..., Node]) -> None:
    """And what is ended meanwhile stays ended, though a block that was read before brings it again."""
    a, b = nodes("a"), nodes("b")
    fill(a, 30_000)
    a.start()
    b.start()
    newer, killed = Entry(9, NOW_S + 5, CLOSED, 50), key_of(29_999)
    b.table.enter(0, newer)
    merging = b.table.merge_sessions

    def merge(version: int, body: bytes, count: int, shift_s: int) -> object:
        if b.sync.counters["snapshot_records"] > 20_000 and not a.sync.counters["sent_ends"]:
            wall_us = (NOW_S + 1) * 1_000_000
            a.table.end_keys(4, killed, NOW_S)
            a.sync.send_ended(4, killed, 0.0, wall_us)
            for datagram in a.sync.data_to_send():
                told = b.sync.receive_data(datagram, asyncio.get_running_loop().time(), wall_us)
                assert isinstance(told, Ended)
                b.table.end_keys(told.ip, told.keys, told.until_s)
        return merging(version, body, count, shift_s)

    b.table.merge_sessions = merge  # type: ignore[method-assign,assignment]
    a.greet(b)
    await until(b.complete)
    assert b.table.entries[4][key_of(0)] == newer
    assert killed not in b.table.entries[4]
    assert len(b.table.entries[4]) == 29_999


async def test_a_node_that_was_away_does_not_bring_back_what_was_ended(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a"), nodes("b")
    for node in (a, b):
        fill(node, 1000)
        node.table.enter(7, Entry(1, NOW_S))
        node.start()
    wall_us = time.time_ns() // 1000
    killed = b"".join(map(key_of, (7, 8, 9)))
    a.table.end_keys(4, killed, NOW_S)
    a.sync.send_ended(4, killed, 0.0, wall_us)
    a.sync.data_to_send()  # b does not hear
    b.table.enter(9, Entry(1, wall_us // 1_000_000 + 100))  # but this flow began anew there
    a.greet(b)
    b.greet(a)
    await until(lambda: a.complete() and b.complete())
    for node in (a, b):
        assert [key_of(number) in node.table.entries[4] for number in (7, 8, 9)] == [False, False, True]


async def test_others_wait_for_their_turn_and_are_refused_when_it_does_not_come(
    nodes: Callable[..., Node], identities: dict[str, Identity]
) -> None:
    a = nodes("a", given_at_once=1, turn_s=0.3, stalled_s=1.0)
    fill(a, 100_000)
    a.start()
    async with request(a, identities["b"]) as (slow, _):  # which does not read on
        assert await slow.read(100)
        async with request(a, identities["c"]) as (reader, _):
            assert await reader.read() == pack_refused("busy with others")
        async with request(a, identities["c"]) as (reader, _):
            await asyncio.sleep(0.1)
            slow._transport.abort()  # type: ignore[attr-defined]
            assert (await reader.readexactly(5))[4] == Kind.BEGIN
    await until(lambda: a.sync.counters["snapshots_refused"] == 1)


async def test_more_connections_than_there_may_be_are_closed_unheard(
    nodes: Callable[..., Node], identities: dict[str, Identity]
) -> None:
    """Strangers who only connect hold their places for as long as a handshake may take."""
    a = nodes("a")
    fill(a, 10)
    a.start()
    strangers = [
        await asyncio.open_connection("127.0.0.1", a.sync.port) for _ in range(snapshot_io.CONNECTIONS_MOST + 3)
    ]
    await until(lambda: a.sync.counters["snapshots_refused"] == 3)
    assert a.snapshots._connections == snapshot_io.CONNECTIONS_MOST
    for _, writer in strangers:
        writer.transport.abort()
    await until(lambda: not a.snapshots._connections)
    async with request(a, identities["b"]) as (reader, _):
        assert (await reader.readexactly(5))[4] == Kind.BEGIN


@contextlib.asynccontextmanager
async def request(
    node: Node, identity: Identity, data: bytes | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which a snapshot is asked for."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", node.sync.port, ssl=identity.client_context("l4"), limit=1000
    )
    writer.write(pack_ask(Ask(checksum(LAYOUTS), (KEY.id,))) if data is None else data)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_one_that_does_not_read_ends_after_a_while(
    nodes: Callable[..., Node], identities: dict[str, Identity]
) -> None:
    a = nodes("a", stalled_s=0.3)
    fill(a, 200_000)
    a.start()
    async with request(a, identities["b"]) as (reader, _):
        await reader.read(10)
        await until(lambda: a.sync.counters["snapshots_broken"] == 1)
    assert a.snapshots._connections == 0
    assert not a.snapshots._turns.locked()


@pytest.mark.parametrize(
    ("data", "counter"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "snapshots_refused"),
        (pack_ask(Ask(checksum(LAYOUTS), (KEY.id,)))[:-1], "snapshots_broken"),
        (b"", "snapshots_broken"),
        (pack_ask(Ask(checksum(LAYOUTS), (KEY.id,))) * 2, "snapshots_refused"),
        (pack_ask(Ask(checksum(LAYOUTS), (OTHER_KEY.id,))), "snapshots_refused"),
        (pack_ask(Ask(9, (KEY.id,))), "snapshots_refused"),
        (pack_begin(1, 2, 3, []), "snapshots_refused"),
    ],
)
async def test_requests_that_are_none(
    nodes: Callable[..., Node], identities: dict[str, Identity], data: bytes, counter: str
) -> None:
    a = nodes("a", stalled_s=0.2)
    fill(a, 10)
    a.start()
    async with request(a, identities["b"], data) as (reader, _):
        answer = await reader.read()
        assert key_of(3) not in answer
        await until(lambda: a.sync.counters[counter] == 1)


@pytest.mark.parametrize("who", ["l7-1", "stranger"])
async def test_only_l4_nodes_of_this_cluster_get_one(
    nodes: Callable[..., Node], identities: dict[str, Identity], who: str
) -> None:
    a = nodes("a", stalled_s=0.3)
    fill(a, 10)
    a.start()
    context = identities[who].client_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it does not care whom it talks to
    reader, writer = await asyncio.open_connection("127.0.0.1", a.sync.port, ssl=context)
    writer.write(pack_ask(Ask(checksum(LAYOUTS), (KEY.id,))))
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.transport.abort()
    assert a.sync.counters["snapshots_given"] == 0


async def test_when_one_dies_midway_another_is_asked(
    nodes: Callable[..., Node], identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = nodes("a"), nodes("b"), nodes("c")
    fill(a, 50_000)
    fill(b, 40_000)
    for node in (a, b, c):
        node.start()
    blocks = a.table.session_blocks

    def dies(size: int) -> object:
        for n, block in enumerate(blocks(size)):
            if n == 5:
                raise ConnectionResetError("killed")
            yield block

    a.table.session_blocks = dies  # type: ignore[method-assign,assignment]
    b.sync.catching_up._not_before = float("inf")
    a.greet(b, c)
    b.greet(a, c)
    now = asyncio.get_running_loop().time()
    b.sync.peers[a.sync.node].behind_until = now  # they have known each other
    await until(lambda: c.complete() and c.sync.counters["snapshots_taken"])
    assert c.sync.counters["snapshots_failed"] == 1
    assert c.sync.status(now)["snapshot"]["from"] == "b"  # type: ignore[index]
    assert set(b.table.entries[4]) <= set(c.table.entries[4])
    assert len(c.table.entries[4]) == 40_000, "5 blocks of the first, and all of the second"


async def test_nobody_there_is_said(nodes: Callable[..., Node]) -> None:
    a, b = nodes("a"), nodes("b")
    a.sync.port = 1
    b.start()
    a.greet(b)
    await until(lambda: b.sync.counters["snapshots_failed"])
    now = asyncio.get_running_loop().time()
    (problem,) = b.sync.problems(now)
    assert problem.startswith("no snapshot of the sessions from a: ")
    assert "111" in problem or "refused" in problem
    assert not b.complete()


async def test_one_that_is_somebody_else_is_not_believed(
    nodes: Callable[..., Node], identities: dict[str, Identity]
) -> None:
    """Whoever sends a node's datagrams on from an address of his own is found out by his certificate."""
    a, b, c = nodes("a"), nodes("b"), nodes("c")
    for node in (b, c):
        node.start()
    a.sync.port = c.sync.port
    fill(c, 10)
    a.greet(b)
    await until(lambda: b.sync.counters["snapshots_failed"])
    assert b.table.entries[4] == {}
    assert "is c" in b.sync.problems(asyncio.get_running_loop().time())[0]


@pytest.mark.parametrize("what", ["layout", "key"])
async def test_another_layout_or_key_is_refused_with_its_reason(nodes: Callable[..., Node], what: str) -> None:
    a = nodes("a")
    others = {ip: Layout(8, 16, 1, 1, 1) for ip in (4, 6)}
    b = nodes("b", layouts=others) if what == "layout" else nodes("b")
    fill(a, 10)
    a.start()
    b.start()
    a.greet(b)
    if what == "key":
        a.sync.rekey((OTHER_KEY,))
    await until(lambda: b.sync.counters["snapshots_failed"])
    (problem,) = b.sync.problems(asyncio.get_running_loop().time())
    assert {"layout": "another release", "key": "another cluster key"}[what] in problem
    assert b.table.entries[4] == {}


async def test_a_giver_that_says_nothing_more_is_left(
    nodes: Callable[..., Node], identities: dict[str, Identity]
) -> None:
    b = nodes("b", stalled_s=0.2)
    b.start()

    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(pack_begin(b_knows.sync.node, 1, 2, []) + pack_block(4, key_of(1), value_of(Entry(1, NOW_S)), 1))
        with contextlib.suppress(OSError):
            await reader.read()
        writer.transport.abort()

    b_knows = nodes("a")
    sock = listener("lo", 4, 0)
    server = await asyncio.start_server(stalls, sock=sock, ssl=identities["a"].server_context({"l4"}))
    async with server:
        b_knows.sync.port = sock.getsockname()[1]
        b_knows.greet(b)
        await until(lambda: b.sync.counters["snapshots_failed"])
    assert "too long" in b.sync.problems(asyncio.get_running_loop().time())[0]
    assert list(b.table.entries[4]) == [key_of(1)], "what came is as good as a datagram"
    assert not b.complete()


async def test_the_loop_goes_on_meanwhile(nodes: Callable[..., Node]) -> None:
    """Between any two blocks that are read."""
    a, b = nodes("a"), nodes("b")
    fill(a, 40_000)
    a.start()
    b.start()
    turns: list[int] = []

    async def watch() -> None:
        while True:
            turns.append(b.sync.counters["snapshot_records"])
            await asyncio.sleep(0)

    task = asyncio.get_running_loop().create_task(watch())
    a.greet(b)
    await until(b.complete)
    task.cancel()
    assert len(set(turns)) >= 40_000 // snapshot_io.BLOCK


def test_the_listener_is_of_one_interface(tmp_path: Path) -> None:
    with listener("lo", 6, 0) as sock:
        assert sock.getsockopt(1, 25, 16).rstrip(b"\0") == b"lo"  # SOL_SOCKET, SO_BINDTODEVICE
        with pytest.raises(OSError, match="in use"):
            listener("lo", 6, sock.getsockname()[1])
    with pytest.raises(OSError, match="No such device"):
        listener("pftnone", 4, 0)
