"""Limits of http and https listeners: what passes in which time, who is turned away, and that nothing is lost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.model import Model, Node, Role
from proxy.buckets import Bucket
from proxy.ledger import Ledger
from proxy.throttle import READ_BYTES, Throttle, Throttling
from proxy.tls import TlsServer
from proxy.tls_stream import Buffers, TlsStream
from tests.proxy.processes import keep, running
from tests.proxy.support import Backend, Client, Proxy, Request, free_port, model, proxy
from tests.proxy.test_gate import ends
from tests.proxy.test_https import KEY, connect, https
from tests.proxy.test_quick import Transport
from tests.proxy.tls_support import LocalKeys, certificate
from tests.waiting import until

RATE_MBIT_S = 5
SIZE_BYTES = 400_000
# A bucket is a quarter of a second deep; a read or a write more may be under way.
SHORTEST_S = (SIZE_BYTES - 65_536) / (RATE_MBIT_S * 125_000) - 0.25


def limited(base: Model, *, instance: dict[str, int] | None = None, **limits: Any) -> Model:
    listener = replace(base.listeners["web"], **limits)
    changed = replace(base.instances[listener.instance], **(instance or {}))
    return replace(base, listeners={"web": listener}, instances={changed.name: changed})


async def echo_size(request: Request) -> None:
    """What came, and as much as was asked for."""
    body = await request.body()
    size = int(request.path[1:] or 0)
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Got: %d\r\n\r\n" % (size, len(body)))
    request.writer.write(bytes(size))


async def took(client: Client, sent: int, received: int) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    client.writer.write(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (received, sent) + bytes(sent))
    async with asyncio.timeout(30):
        head = await client.reader.readuntil(b"\r\n\r\n")
        body = await client.reader.readexactly(received)
    assert b"\r\nX-Got: %d\r\n" % sent in head
    assert body == bytes(received)
    return loop.time() - began


@pytest.mark.parametrize("of", ["listener", "instance"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_bandwidth_is_kept_in_each_direction(scheme: str, of: str) -> None:
    bandwidth = {"bandwidth_in_mbit_s": RATE_MBIT_S, "bandwidth_out_mbit_s": RATE_MBIT_S}
    given = {"instance": bandwidth} if of == "instance" else bandwidth
    async with Backend(echo_size).running() as backend:
        if scheme == "http":
            async with proxy(limited(model(free_port(), [backend.port]), **given)) as l7:
                await in_both_directions(await l7.connect())
        else:
            tls = TlsServer(LocalKeys([KEY]))
            base = https(free_port(), backend.port, certificate(KEY, ["web.test"]))
            async with proxy(limited(base, **given), tls) as l7:
                await in_both_directions(await connect(l7))
            await tls.close()


async def in_both_directions(client: Client) -> None:
    assert await took(client, SIZE_BYTES, 0) >= SHORTEST_S
    assert await took(client, 0, SIZE_BYTES) >= SHORTEST_S
    await client.close()


async def test_listeners_share_their_instances_bandwidth() -> None:
    async with Backend(echo_size).running() as backend:
        base = limited(model(free_port(), [backend.port]), instance={"bandwidth_out_mbit_s": RATE_MBIT_S})
        other = replace(base.listeners["web"], name="other", port=free_port())
        async with proxy(replace(base, listeners={**base.listeners, "other": other})) as l7:
            clients = [await l7.connect(), await l7.connect(other.port)]
            times = await asyncio.gather(*(took(client, 0, SIZE_BYTES // 2) for client in clients))
            assert max(times) >= SHORTEST_S
            for client in clients:
                await client.close()


async def test_a_limit_comes_changes_and_goes() -> None:
    """Connections without one come again to get it; those that have one get the new rate at once."""
    async with Backend(echo_size).running() as backend:
        base = model(free_port(), [backend.port])
        async with proxy(base) as l7:
            before = await l7.connect()
            await took(before, 0, 10)
            await l7.worker.apply(limited(base, bandwidth_out_mbit_s=RATE_MBIT_S))
            assert await ends_after_one_more(before)
            client = await l7.connect()
            assert await took(client, 0, SIZE_BYTES) >= SHORTEST_S
            going = asyncio.create_task(took(client, 0, 20 * SIZE_BYTES))  # 12 s at this rate
            await asyncio.sleep(0)
            await l7.worker.apply(base)
            assert await going < 10
            await client.close()


async def ends_after_one_more(client: Client) -> bool:
    client.writer.write(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = await client.rest()
    await client.close()
    return b"\r\nConnection: close\r\n" in answer


async def test_who_waits_for_bandwidth_is_not_timed_out() -> None:
    """Longer than a body may pause, and than an answer may be left unread, but through no fault of the client."""
    async with Backend(echo_size).running() as backend:
        base = limited(
            model(free_port(), [backend.port]), bandwidth_in_mbit_s=1, bandwidth_out_mbit_s=1, body_timeout_s=1,
            send_timeout_s=1, min_body_rate_bytes_s=1_000_000,
        )  # fmt: skip
        async with proxy(base) as l7:
            client = await l7.connect()
            assert await took(client, 200_000, 200_000) >= 2
            await client.close()


async def test_a_connection_that_is_to_close_sends_everything_first() -> None:
    async with Backend(echo_size).running() as backend:
        base = limited(model(free_port(), [backend.port]), bandwidth_out_mbit_s=5)
        async with proxy(base) as l7:
            client = await l7.connect()
            client.writer.write(b"GET /400000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = await asyncio.wait_for(client.reader.read(), 20)
            assert len(answer.partition(b"\r\n\r\n")[2]) == 400_000
            await client.close()


async def test_over_tls_too_however_long_it_takes() -> None:
    """Longer than a client has to take what is left."""
    async with Backend(echo_size).running() as backend:
        tls = TlsServer(LocalKeys([KEY]), close_timeout_s=0.05)
        base = limited(https(free_port(), backend.port, certificate(KEY, ["web.test"])), bandwidth_out_mbit_s=1)
        async with proxy(base, tls) as l7:
            client = await connect(l7)
            client.writer.write(b"GET /200000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = await asyncio.wait_for(client.reader.read(), 30)
            assert len(answer.partition(b"\r\n\r\n")[2]) == 200_000
            await client.close()
        await tls.close()


class Time:
    """A clock whose timers ring when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        self.timers.append((self.now + delay, callback))
        return asyncio.TimerHandle(self.now + delay, callback, (), asyncio.get_running_loop())

    def ring(self) -> None:
        (self.now, callback), *self.timers = sorted(self.timers, key=lambda each: each[0])
        callback()


async def test_the_end_of_a_client_is_waited_for_once_everything_is_sent() -> None:
    """To what it sends to a socket that has closed already the kernel answers with RST, which destroys what is left."""
    clock, raw, throttle = Time(), Transport(), SimpleNamespace(waits_to_write=True)
    raw._extra["throttle"] = throttle  # type: ignore[attr-defined]
    tls, inner = SimpleNamespace(unwrap=lambda: None), asyncio.Protocol()
    stream = TlsStream(
        raw, tls, ssl.MemoryBIO(), ssl.MemoryBIO(), inner, loop=clock,  # type: ignore[arg-type]
        buffers=Buffers(), sni="", raw_paused=False, close_timeout_s=1.0,
    )  # fmt: skip
    stream.close()
    clock.ring()
    assert raw.done == ["eof"]
    throttle.waits_to_write = False
    clock.ring()
    assert raw.done == ["eof", "close"]


async def test_those_that_are_gone_hold_up_nobody() -> None:
    """Connections that are dropped while they wait leave the line, which costs anybody nothing to fill."""
    clock = Time()
    throttling = Throttling("web", clock, lambda: None)
    for shaper in (throttling.received, throttling.sent):
        shaper.buckets = (Bucket(Ledger(), 0, 100_000, 0.25, 0.0),)
        shaper.take(50_000)
    throttles = [Throttle(throttling, asyncio.Protocol()) for _ in range(500)]
    for throttle in throttles:
        throttle.connection_made(Transport())
        throttle.buffer_updated(1)
        throttle.write(b"x")
    last = throttles.pop()
    for throttle in throttles:
        throttle.connection_lost(None)
    assert last.waits
    while clock.timers:
        clock.ring()
    assert not last.waits
    assert clock.now < 1
    last.connection_lost(None)


async def test_a_handshake_that_waits_for_bandwidth_is_not_given_up() -> None:
    async with Backend(echo_size).running() as backend:
        tls = TlsServer(LocalKeys([KEY]))
        base = https(free_port(), backend.port, certificate(KEY, ["web.test"]))
        async with proxy(limited(base, bandwidth_in_mbit_s=1, handshake_timeout_s=1), tls) as l7:
            throttling = l7.worker._throttles.of("web")
            assert throttling is not None
            throttling.received.take(250_000)
            client = await asyncio.wait_for(connect(l7), 20)
            assert (await client.ask("/0"))[0] == 200
            await client.close()
        await tls.close()


class Broken(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        raise RuntimeError("a fault")


async def test_one_that_breaks_in_its_turn_is_cut_and_stops_nobody() -> None:
    clock = Time()
    throttling = Throttling("web", clock, lambda: None)
    throttling.received.buckets = (Bucket(Ledger(), 0, 100_000, 0.25, 0.0),)
    throttling.received.take(50_000)
    broken, sound = Transport(), Reader()
    for raw, inner in ((broken, Broken()), (Transport(), sound)):
        throttle = Throttle(throttling, inner)
        throttle.connection_made(raw)
        throttle.buffer_updated(READ_BYTES)
    for _ in range(20):
        if clock.timers:
            with suppress(RuntimeError):  # which the loop logs
                clock.ring()
    assert broken.done[-1] == "abort"
    assert len(sound.received) == READ_BYTES


async def test_connections_that_come_and_go_run_up_no_debt() -> None:
    """Each may send at once: what it does not wait for, everybody else would have to wait for afterwards."""
    throttling = Throttling("web", Time(), lambda: None)
    throttling.received.buckets = (Bucket(Ledger(), 0, 100_000, 0.25, 0.0),)
    for _ in range(100):
        throttle = Throttle(throttling, asyncio.Protocol())
        throttle.connection_made(Transport())
        throttle.buffer_updated(READ_BYTES)
        throttle.connection_lost(None)
    assert throttling.received.wait_s() < 1


class Reader(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data


async def test_small_requests_use_all_of_the_bandwidth() -> None:
    """Though whose turn it is might read more: 200 new clients that send 500 bytes each, at 100 kB/s."""
    clock = Time()
    throttling = Throttling("web", clock, lambda: None)
    throttling.received.buckets = (Bucket(Ledger(), 0, 100_000, 0.25, 0.0),)
    throttling.received.take(50_000)
    readers = [Reader() for _ in range(200)]
    for reader in readers:
        raw, throttle = Transport(), Throttle(throttling, reader)
        throttle.connection_made(raw)
        throttle.buffer_updated(500)
        assert raw.done == ["pause"]
        assert reader.received == b""
    while clock.timers:
        clock.ring()
    assert [len(reader.received) for reader in readers] == [500] * 200
    assert 0.9 < clock.now < 2


async def held(l7: Proxy, count: int) -> list[Client]:
    clients = [await l7.connect() for _ in range(count)]
    for client in clients:
        assert (await client.ask("/0"))[0] == 200
    return clients


async def test_so_many_connections_and_no_more() -> None:
    async with Backend(echo_size).running() as backend:
        base = limited(model(free_port(), [backend.port]), max_connections=2)
        async with proxy(base) as l7:
            one, two = await held(l7, 2)
            assert await ends(await l7.connect())
            assert l7.hub.counters["connections_over_limit"] == 1
            await one.close()
            await until(lambda: len(l7.worker._sites["web", "http"].connections) == 1)
            (three,) = await held(l7, 1)
            await two.close()
            await three.close()


async def test_so_many_new_connections_in_a_second() -> None:
    """Of ten that come at once with one a second allowed, the bucket lets two pass."""
    async with Backend(echo_size).running() as backend:
        base = limited(model(free_port(), [backend.port]), max_new_connections_per_s=1)
        async with proxy(base) as l7:
            clients = [await l7.connect() for _ in range(10)]
            loop = asyncio.get_running_loop()
            began = loop.time()
            refused = sum(await asyncio.gather(*(turned_away(client) for client in clients)))
            assert refused >= 10 - 2 - (loop.time() - began + 1)
            assert l7.hub.counters["connections_over_limit"] == refused
            for client in clients:
                await client.close()


async def turned_away(client: Client) -> bool:
    try:
        return (await client.ask("/0"))[0] != 200
    except (ConnectionError, asyncio.IncompleteReadError):
        return True


async def test_a_node_keeps_its_part_of_the_clusters() -> None:
    nodes = {name: Node(name, Role.L7, f"10.0.0.{number}") for number, name in enumerate(("l7-1", "l7-2"), 1)}
    async with Backend(echo_size).running() as backend:
        base = replace(limited(model(free_port(), [backend.port]), max_connections=3), nodes=nodes)
        async with proxy(base) as l7:
            clients = await held(l7, 2)
            assert await ends(await l7.connect())
            for client in clients:
                await client.close()


async def test_workers_keep_a_limit_together(identity: Path) -> None:
    async with Backend(echo_size).running() as backend:
        port = free_port()
        keep(identity, limited(model(port, [backend.port]), max_connections=3))
        async with running(identity, port, "--workers", "2"):
            clients, refused = [], []
            for _ in range(12):
                clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
                refused.append(await turned_away(clients[-1]))
            assert refused == [False] * 3 + [True] * 9
            for client in clients:
                await client.close()
