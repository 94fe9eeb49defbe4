"""Clients and servers that mean harm, against a real worker process: what the others notice, and what it costs.

Latencies are compared with those of the same moment before the attack, the best of several rounds of each, since the
machine is shared; memory is the worker's resident set, as the kernel counts it.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from control.node.tasks import Tasks
from core.model import BackendProtocol, BackendService, Model, Rule, Server, ServerGroup
from proxy.crowd import HELD_BYTES
from proxy.server import Settings, Supervisor
from tests.proxy.support import ANSWER, Backend, Client, Request, answer_ok, free_port, model, with_options
from tests.waiting import until

KIB, MIB = 1 << 10, 1 << 20
ROUNDS, ASKED = 4, 100
NOISE_S = 0.010  # two cores, and others at work on them
GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
EVIL = b"GET /evil HTTP/1.1\r\nHost: a\r\n"


def some(kinds: Iterable[str], *always: str) -> list[ParameterSet]:
    """All kinds; but for a few they are of the soak set."""
    return [pytest.param(kind, id=kind, marks=() if kind in always else pytest.mark.soak) for kind in kinds]


@dataclass
class Node:
    """One worker process and a client that means well."""

    supervisor: Supervisor
    port: int
    honest: Client

    @property
    def resident_bytes(self) -> int:
        (pid,) = self.supervisor.pids
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def counter(self, name: str) -> int:
        counters = self.supervisor.report()["counters"]
        assert isinstance(counters, dict)
        return int(counters.get(name, 0))

    async def p99_s(self) -> float:
        """Of the honest client's requests: the best of several rounds."""
        rounds = []
        for _ in range(ROUNDS):
            took = []
            for _ in range(ASKED):
                began = time.monotonic()
                assert await self.honest.ask() == (200, b"ok")
                took.append(time.monotonic() - began)
            rounds.append(sorted(took)[ASKED * 99 // 100 - 1])
        return min(rounds)

    async def settled(self) -> int:
        """The resident bytes once they have stopped to change."""
        before = -1
        while before != (before := self.resident_bytes):
            await asyncio.sleep(0.15)
        return before


def two_services(good: int, evil: int, **options: object) -> Model:
    """`/evil` goes to a service of its own."""
    base = with_options(model(free_port(), [good], idle_timeout_s=60, request_timeout_s=60), **options)
    return replace(
        base,
        server_groups={**base.server_groups, "evil": ServerGroup("evil", (Server("127.0.0.1", evil),))},
        backend_services={
            **base.backend_services,
            "evil": BackendService(
                "evil", BackendProtocol.HTTP, "evil", health_check=None, ejection=None, connect_timeout_s=2
            ),
        },
        rules={"evil": Rule("evil", "web", "evil", url="/evil")},
    )


@asynccontextmanager
async def node(configuration: Model) -> AsyncIterator[Node]:
    failures: list[str] = []
    tasks = Tasks(lambda name, error: failures.append(f"{name}: {error!r}"))
    supervisor = Supervisor(Settings("l7-1", 1, drain_s=0), tasks, failures.append)
    supervisor.start()
    try:
        await supervisor.apply(configuration, 1)
        port = configuration.listeners["web"].port
        honest = Client(*await asyncio.open_connection("127.0.0.1", port))
        for _ in range(ASKED):  # caches and arenas are what they will be
            assert await honest.ask() == (200, b"ok")
        yield Node(supervisor, port, honest)
        await honest.close()
    finally:
        supervisor.kill()
        await supervisor.drain()
        await tasks.close()
    assert not failures


@contextmanager
def attackers(port: int, number: int, says: bytes) -> Iterator[list[socket.socket]]:
    """Connections that have said something, and read nothing; their own buffers are small."""
    crowd: list[socket.socket] = []
    try:
        for _ in range(number):
            sock = socket.socket()
            crowd.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.send(says)
        yield crowd
    finally:
        for sock in crowd:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


async def drip(crowd: list[socket.socket], what: bytes, every_s: float) -> None:
    """A little from each, for ever."""
    while True:
        for sock in crowd:
            with suppress(OSError):
                sock.send(what)
        await asyncio.sleep(every_s)


async def sip(crowd: list[socket.socket], every_s: float) -> None:
    while True:
        for sock in crowd:
            with suppress(OSError):
                sock.recv(64)
        await asyncio.sleep(every_s)


@asynccontextmanager
async def meanwhile(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def big(request: Request) -> None:
    """10 MB, or what the client takes of it."""
    if request.path == "/":
        return await answer_ok(request)
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
    for _ in range(0 if request.head.startswith(b"HEAD ") else 100):  # slowhttptest asks for ranges by HEAD
        request.writer.write(bytes(100_000))
        await request.writer.drain()
    return None


async def takes_bodies(request: Request) -> None:
    if request.path == "/":
        return await answer_ok(request)
    while await request.reader.read(MIB):
        pass
    return None


POST = b"POST /evil HTTP/1.1\r\nHost: a\r\n"
RANGES = b"Range: bytes=0-" + b"".join(b",%d-%d" % (each, each + 1) for each in range(1300)) + b"\r\n"
# What each attacker says, what he goes on with, and how many bytes of the worker's he may cost. Measured (200 of them):
# slow head 2 KiB (a connection), large head 60 KiB (its bytes), slow body 5 KiB (two connections), slow read 140 to 170
# KiB (a read from the server, and what the client's socket does not take).
SLOW = {
    "slow head": (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X", 24 * KIB),
    "slow large head": (GET + b"Cookie: " + b"c" * 60_000, b"c", 128 * KIB),
    "slow body": (POST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1000, b"x", 48 * KIB),
    "slow chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 48 * KIB),
    "slow read": (EVIL + b"\r\n", b"", 400 * KIB),
    "ranges": (EVIL + RANGES + b"\r\n", b"", 400 * KIB),
}


@pytest.mark.parametrize("kind", some(SLOW, "slow head", "slow body", "slow read", "ranges"))
async def test_slow_clients(kind: str) -> None:
    """Others do not notice 200 of them, and each costs what is said above; when they are gone, nothing is left."""
    says, more, most_bytes = SLOW[kind]
    number = 200
    answer = takes_bodies if "body" in kind or "chunks" in kind else big
    async with Backend(answer).running() as backend, node(two_services(backend.port, backend.port)) as l7:
        before, quiet_s = await l7.settled(), await l7.p99_s()
        with attackers(l7.port, number, says) as crowd:
            await until(lambda: l7.counter("connections_open") == number + 1)
            async with meanwhile(drip(crowd, more, 0.2) if more else sip(crowd, 0.2)):
                busy_s = await l7.p99_s()
                cost_bytes = (await l7.settled() - before) / number
            assert l7.counter("connections_open") == number + 1
        await until(lambda: l7.counter("connections_open") == 1)
    print(f"{kind}: p99 {quiet_s * 1000:.1f} → {busy_s * 1000:.1f} ms; {cost_bytes / KIB:.0f} KiB an attacker")
    assert busy_s <= 2 * quiet_s + NOISE_S
    assert cost_bytes <= most_bytes


async def test_large_heads_have_a_budget() -> None:
    """1,500 heads of 60 KB would be 90 MB."""
    says = GET + b"Cookie: " + b"c" * 60_000
    async with Backend().running() as backend, node(two_services(backend.port, backend.port)) as l7:
        before = await l7.settled()
        with attackers(l7.port, 1500, says):
            await until(lambda: l7.counter("overloads") > 100, limit_s=30)
            cost_bytes = await l7.settled() - before
            assert await l7.honest.ask() == (200, b"ok")
    print(f"{cost_bytes / MIB:.0f} MiB")
    assert cost_bytes < HELD_BYTES + 1500 * 24 * KIB


@pytest.mark.parametrize("shape", some(("many fields", "cookies", "targets"), "many fields"))
async def test_heads_that_are_never_the_same_do_not_fill_the_memory(shape: str) -> None:
    """What is remembered of heads is bounded, whatever is sent. 3,000 heads of 2 KB."""
    draw = random.Random(0)

    def head() -> bytes:
        if shape == "many fields":
            return GET + b"".join(b"%06x: %02x\r\n" % (draw.getrandbits(24), draw.getrandbits(8)) for _ in range(120))
        if shape == "cookies":
            return GET + b"Cookie: " + b"%x" % draw.getrandbits(7000) + b"\r\n"
        return b"GET /?%x HTTP/1.1\r\nHost: a\r\n" % draw.getrandbits(7000)

    async with Backend().running() as backend, node(two_services(backend.port, backend.port)) as l7:
        before = await l7.settled()
        for _ in range(30):
            l7.honest.writer.write(b"".join(head() + b"\r\n" for _ in range(100)))
            for _ in range(100):
                assert (await l7.honest.answer())[0] == 200
        grown = await l7.settled() - before
    print(f"{shape}: {grown / MIB:.1f} MiB")
    assert grown < 44 * MIB


# -- servers


async def hangs(request: Request) -> None:
    await request.reader.read()


async def resets(request: Request) -> None:
    request.writer.transport.abort()


async def cuts(request: Request) -> None:
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await request.writer.drain()
    request.writer.transport.abort()


async def says_too_much(request: Request) -> None:
    request.writer.write(ANSWER + b"and more")


async def never_ends(request: Request) -> None:
    request.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with suppress(ConnectionError):
        while True:
            request.writer.write(b"10000\r\n" + bytes(65_536) + b"\r\n")
            await request.writer.drain()


async def never_ends_its_head(request: Request) -> None:
    request.writer.write(b"HTTP/1.1 200 OK\r\n")
    with suppress(ConnectionError):
        while True:
            request.writer.write(b"X: " + b"y" * 1000 + b"\r\n")
            await request.writer.drain()


async def only_hints(request: Request) -> None:
    with suppress(ConnectionError):
        while True:
            request.writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
            await request.writer.drain()


EVIL_SERVERS: dict[str, tuple[Callable[[Request], Awaitable[None]], set[bytes]]] = {
    "hangs": (hangs, {b""}),
    "resets": (resets, {b"502"}),
    "cuts": (cuts, {b"200"}),
    "says too much": (says_too_much, {b"200"}),
    "never ends": (never_ends, {b"200"}),
    "never ends its head": (never_ends_its_head, {b"502"}),
    "only hints": (only_hints, {b"103", b"502"}),
}


@pytest.mark.parametrize("kind", some(EVIL_SERVERS, "hangs", "never ends", "only hints"))
async def test_servers_that_misbehave(kind: str) -> None:
    """100 clients that ask for them at once get what there is, others their answers as ever; and nothing is left."""
    answer, first = EVIL_SERVERS[kind]
    number = 100
    async with (
        Backend().running() as good,
        Backend(answer).running() as evil,
        node(two_services(good.port, evil.port)) as l7,
    ):
        before, quiet_s = await l7.settled(), await l7.p99_s()
        with attackers(l7.port, number, EVIL + b"\r\n") as crowd:
            await until(lambda: len(evil.heads) >= number)
            # What never ends is not read here: the servers are idle again, and it is the proxy that is measured.
            busy_s = await l7.p99_s()
            cost_bytes = (await l7.settled() - before) / number
            got = set()
            for sock in crowd:
                with suppress(BlockingIOError, ConnectionError):
                    got.add(sock.recv(4096)[9:12])
            assert got - {b""} <= first
        await until(lambda: l7.counter("connections_open") == 1 and l7.counter("requests_open") == 0)
        assert await l7.honest.ask() == (200, b"ok")
    print(f"{kind}: p99 {quiet_s * 1000:.1f} → {busy_s * 1000:.1f} ms; {cost_bytes / KIB:.0f} KiB an exchange")
    assert busy_s <= 2 * quiet_s + NOISE_S
    assert cost_bytes <= 400 * KIB


async def test_servers_that_speak_before_they_are_asked() -> None:
    """Each connection brings an answer with it: no client gets one that was not for him."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        with suppress(ConnectionError):
            await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with Backend().running() as good, node(two_services(good.port, server.sockets[0].getsockname()[1])) as l7:
        client = Client(*await asyncio.open_connection("127.0.0.1", l7.port))
        for _ in range(30):
            assert (await client.ask("/evil"))[0] in (200, 502)  # it cannot be told from a quick one
            assert await client.ask() == (200, b"ok")
        await client.close()
        await until(lambda: l7.counter("requests_open") == 0)
    server.close()
    await server.wait_closed()


async def test_connections_to_servers_that_never_come_about() -> None:
    """Thousands of half-open ones: a server whose queue is full drops further SYNs. All get 504, and others theirs."""
    number = 1000
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as waiting:
        waiting.connect(full.getsockname())
        async with Backend().running() as good, node(two_services(good.port, full.getsockname()[1])) as l7:
            before, quiet_s = await l7.settled(), await l7.p99_s()
            with attackers(l7.port, number, EVIL + b"\r\n") as crowd:
                await until(lambda: l7.counter("requests_open") >= number // 2)
                cost_bytes = (l7.resident_bytes - before) / number
                busy_s = await l7.p99_s()
                await until(lambda: l7.counter("error_connect_timeout") + l7.counter("error_connect_failed") >= number)
                answers = {sock.recv(100)[9:12] for sock in crowd}
            await until(lambda: l7.counter("requests_open") == 0)
    print(f"p99 {quiet_s * 1000:.1f} → {busy_s * 1000:.1f} ms; {cost_bytes / KIB:.0f} KiB a request")
    assert answers <= {b"504", b"502"}
    assert busy_s <= 2 * quiet_s + NOISE_S
    assert cost_bytes <= 64 * KIB


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("slow head", ["-H", "-i", "2", "-t", "GET"]),
        ("slow body", ["-B", "-i", "2", "-s", "100000", "-t", "POST"]),
        ("ranges", ["-R", "-a", "1", "-b", "1300"]),
        ("slow read", ["-X", "-w", "256", "-y", "1024", "-n", "2", "-z", "32", "-k", "3"]),
    ],
)
async def test_slowhttptest(kind: str, options: list[str]) -> None:
    """The four kinds of Debian's slowhttptest, 1,000 connections each for 20 s, against the default limits."""
    url = "/evil/big" if kind in ("slow read", "ranges") else "/evil"
    async with Backend(big).running() as backend, node(two_services(backend.port, backend.port)) as l7:
        before, quiet_s = await l7.settled(), await l7.p99_s()
        command = ["slowhttptest", *options, "-c", "1000", "-r", "200", "-l", "20", "-p", "3"]
        attack = await asyncio.create_subprocess_exec(
            *command, "-u", f"http://127.0.0.1:{l7.port}{url}", stdout=asyncio.subprocess.DEVNULL
        )
        most_bytes, busy_s = 0, []
        while attack.returncode is None and len(busy_s) < 100:
            busy_s.append(await l7.p99_s())
            most_bytes = max(most_bytes, l7.resident_bytes)
            await asyncio.sleep(0.1)
        if attack.returncode is None:
            attack.terminate()
        await attack.wait()
    cost_bytes = (most_bytes - before) / 1000
    usual_s = sorted(busy_s)[len(busy_s) // 2]
    print(f"{kind}: p99 {quiet_s * 1000:.1f} → {usual_s * 1000:.1f} ms; {cost_bytes / KIB:.0f} KiB a connection")
    assert usual_s <= 2 * quiet_s + NOISE_S
    assert cost_bytes <= 400 * KIB
