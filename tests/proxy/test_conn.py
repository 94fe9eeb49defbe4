"""Connections with real sockets: keep-alive, back-pressure, deadlines, half-closes."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from contextlib import suppress

import pytest

from core.model import Scheduler
from proxy.conn import PIPELINE_BYTES, ClientConnection
from proxy.deadlines import OPEN_SLACK_S
from proxy.upstream import CLOSE_S
from tests.proxy.support import (
    ANSWER,
    Backend,
    Client,
    Proxy,
    Request,
    answer_ok,
    free_port,
    model,
    proxy,
    with_options,
)
from tests.waiting import until

SO_ATTACH_FILTER = 26  # asm-generic/socket.h


def reset(client: Client) -> None:
    """A FIN alone would be a client that has said everything and waits for its answer."""
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


async def test_a_request_and_its_log() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        assert await client.ask("/a?b", b"X-Request-Id: my-id\r\n", b"body", "POST") == (200, b"ok")
        record = await l7.record()
        await client.close()
    assert (record.listener, record.client, record.method, record.host, record.path) == (
        "web", "127.0.0.1", "POST", "a", "/a?b",
    )  # fmt: skip
    assert (record.status, record.request_id, record.error_code) == (200, "my-id", "")
    assert record.upstream == f"127.0.0.1:{backend.port}"
    assert record.bytes_in == len(
        b"POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nX-Request-Id: my-id\r\n\r\nbody"
    )
    assert record.duration_ms >= record.upstream_ms > 0
    assert b"\r\nVia: 1.1 l7-1\r\n" in backend.heads[0]


async def test_connections_are_kept_alive_on_both_sides() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        one, two = await l7.connect(), await l7.connect()
        for client in (one, two, one):
            assert await client.ask() == (200, b"ok")
        await one.close()
        await two.close()
    assert backend.connections == 1
    assert l7.hub.counters["connections"] == 2


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def answer(request: Request) -> None:
        await asyncio.sleep(0.05 if request.path == "/slow" else 0)
        text = request.path.encode()
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        paths = ["/slow", "/quick", "/..", "/slow", "/last"]
        client.writer.write(b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in paths))
        answers = [await client.answer() for _ in paths]
        await client.close()
    assert [status for status, _ in answers] == [200, 200, 400, 200, 200]
    assert [body for status, body in answers if status == 200] == [b"/slow", b"/quick", b"/slow", b"/last"]


async def test_a_thousand_pipelined_replies_of_our_own() -> None:
    """They are not answered by recursion."""
    async with proxy(model(free_port(), [])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
        assert [await client.answer() for _ in range(1000)][-1][0] == 503
        await client.close()


@pytest.mark.parametrize("size", [1, 7])
async def test_byte_by_byte(size: int) -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nabGET / HTTP/1.1\r\nHost: a\r\n\r\n"
        for start in range(0, len(data), size):
            client.writer.write(data[start : start + size])
            await asyncio.sleep(0)
        assert [await client.answer() for _ in range(2)] == [(200, b"ok")] * 2
        await client.close()


async def test_a_malformed_request_is_answered_counted_and_lets_others_go_on() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        other = await l7.connect()
        assert (await other.ask())[0] == 200
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n")
        status, head, body = await client.whole_answer()
        assert status == 400
        assert b"\r\nConnection: close\r\n" in head
        assert b'"error": "space_before_colon"' in body
        assert await client.rest() == b""
        record = await l7.record(2)
        assert (record.error_source, record.error_code) == ("client", "space_before_colon")
        assert record.error_detail == "white space before the colon (RFC 9112 §5.1), byte 25"
        assert record.request_id in body.decode()
        assert l7.hub.counters["error_space_before_colon"] == 1
        assert (await other.ask())[0] == 200
        await client.close()
        await other.close()


async def test_a_slow_head_is_408_and_an_idle_connection_just_closes() -> None:
    async with (
        Backend().running() as backend,
        proxy(with_options(model(free_port(), [backend.port], idle_timeout_s=1), head_timeout_s=1)) as l7,
    ):
        slow, idle = await l7.connect(), await l7.connect()
        for _ in range(3):  # single bytes do not help
            slow.writer.write(b"G")
            await asyncio.sleep(0.3)
        assert (await slow.answer())[0] == 408
        assert await idle.rest() == b""
        assert (await l7.record()).error_code == "head_timeout"
        await slow.close()
        await idle.close()


async def test_a_body_that_stops_is_408() -> None:
    async with (
        Backend().running() as backend,
        proxy(with_options(model(free_port(), [backend.port]), body_timeout_s=1)) as l7,
    ):
        client = await l7.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        assert (await client.answer())[0] == 408
        assert (await l7.record()).error_code == "body_timeout"
        await client.close()


async def test_a_server_that_does_not_answer_is_504() -> None:
    async def answer(request: Request) -> None:
        await asyncio.sleep(30)

    async with (
        Backend(answer).running() as backend,
        proxy(model(free_port(), [backend.port], request_timeout_s=1)) as l7,
    ):
        client = await l7.connect()
        assert (await client.ask())[0] == 504
        record = await l7.record()
        assert (record.error_source, record.error_code) == ("upstream", "upstream_timeout")
        await client.close()


async def test_what_is_sent_ahead_buys_no_time() -> None:
    async def answer(request: Request) -> None:
        await asyncio.sleep(30)

    async with (
        Backend(answer).running() as backend,
        proxy(model(free_port(), [backend.port], request_timeout_s=1)) as l7,
    ):
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(6):
            await asyncio.sleep(0.3)
            client.writer.write(b"G")
        assert len(l7.records) == 1
        assert (await client.answer())[0] == 504
        await client.close()


async def test_nobody_listens() -> None:
    async with proxy(model(free_port(), [free_port(), free_port()])) as l7:
        assert (await l7.get())[0] == 502
        record = await l7.record()
        assert (record.error_source, record.error_code) == ("upstream", "connect_failed")
        assert l7.hub.counters["connect_failures"] == 2


async def test_a_server_that_is_gone_is_passed_over() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [free_port(), backend.port])) as l7:
        assert [(await l7.get())[0] for _ in range(4)] == [200] * 4


async def test_all_servers_down_is_503_at_once_and_heals() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        l7.worker.set_down({"app": [("127.0.0.1", backend.port)]})
        assert (await l7.get())[0] == 503
        assert (await l7.record()).error_code == "no_healthy_server"
        l7.worker.set_down({})
        assert (await l7.get())[0] == 200


async def test_an_unhealthy_server_is_avoided() -> None:
    async with (
        Backend().running() as good,
        Backend().running() as bad,
        proxy(model(free_port(), [good.port, bad.port])) as l7,
    ):
        l7.worker.set_down({"app": [("127.0.0.1", bad.port)]})
        for _ in range(6):
            assert (await l7.get())[0] == 200
    assert (len(good.heads), len(bad.heads)) == (6, 0)


async def test_a_stale_connection_is_not_seen_by_the_client() -> None:
    """The server closes an idle connection as the next request arrives: the request is sent again."""

    async def answer(request: Request) -> None:
        if request.path == "/stale" and request.connection == 1:
            request.writer.transport.abort()
        else:
            await answer_ok(request)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        assert (await client.ask())[0] == 200
        assert (await client.ask("/stale"))[0] == 200
        assert (await client.ask("/stale", b"X: y\r\n", b"body", "POST"))[0] == 200
        await client.close()
    assert backend.connections == 2


async def test_an_answer_that_nobody_asked_for_closes_the_connection() -> None:
    async def answer(request: Request) -> None:
        await answer_ok(request)
        await request.writer.drain()
        await asyncio.sleep(0.05)
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        assert await l7.get() == (200, b"ok")
        await asyncio.sleep(0.1)
        assert await l7.get() == (200, b"ok")
    assert backend.connections == 2


async def test_a_cut_answer_is_cut_towards_the_client() -> None:
    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await request.writer.drain()
        request.writer.close()

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with suppress(ConnectionError):
            assert (await client.rest()).endswith(b"half")
        assert (await l7.record()).error_code == "upstream_cut"
        await client.close()


async def test_a_client_that_goes_away_frees_the_server() -> None:
    gone = asyncio.Event()

    async def answer(request: Request) -> None:
        assert await request.reader.read() == b""
        gone.set()

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(backend.heads))
        reset(client)
        await asyncio.wait_for(gone.wait(), 5)
        record = await l7.record()
        assert (record.status, record.error_code) == (499, "client_closed")
        assert l7.hub.services["app"].pool.active == {}


async def test_a_client_may_close_its_half_and_get_its_answer() -> None:
    async def answer(request: Request) -> None:
        await asyncio.sleep(0.1)
        await answer_ok(request)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.writer.write_eof()
        assert (await client.rest()).endswith(b"ok")
        await client.close()


async def test_an_early_answer_survives_the_body_that_follows() -> None:
    """RFC 9112 §9.6: lingering close."""

    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await request.writer.drain()
        request.writer.close()

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 100_000)
        await asyncio.sleep(0.2)
        client.writer.write(b"x" * 1_000_000)
        status, head, _ = await client.whole_answer()
        assert status == 413
        assert b"\r\nConnection: close\r\n" in head
        await client.close()


async def test_expect_100_continue() -> None:
    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await request.body() == b"hello"
        request.writer.write(ANSWER)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert (await client.answer())[0] == 100
        client.writer.write(b"hello")
        assert await client.answer() == (200, b"ok")
        await client.close()


async def test_a_websocket_tunnel() -> None:
    async def answer(request: Request) -> None:
        request.writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: x\r\n\r\nhi"
        )
        while data := await request.reader.read(1000):
            request.writer.write(data.upper())
        request.writer.close()

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(
            b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nahead"
        )
        status, _, _ = await client.whole_answer()
        assert status == 101
        assert await client.reader.readexactly(7) == b"hiAHEAD"
        client.writer.write(b"more")
        assert await client.reader.readexactly(4) == b"MORE"
        await client.close()
        assert (await l7.record()).status == 101


BIG = 50 << 20


async def test_a_slow_reader_of_a_big_answer_costs_little_memory() -> None:
    """The server is not read while the client does not read: what it could write stays far below the body."""
    written = 0

    async def answer(request: Request) -> None:
        nonlocal written
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        block = bytes(1 << 18)
        for _ in range(BIG >> 18):
            request.writer.write(block)
            await request.writer.drain()
            written += len(block)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        seen = -1
        while seen != written:
            seen = written
            await asyncio.sleep(0.2)
        assert 0 < written < 24 << 20  # socket buffers of three sockets, and no more
        (connection,) = l7.worker._all_sites()[0].connections
        assert connection._transport.get_write_buffer_size() < 1 << 20
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        got = 0
        while got < BIG:
            got += len(await client.reader.read(1 << 20))
        assert got == BIG
        await client.close()


async def test_a_big_upload_to_a_slow_server_costs_little_memory() -> None:
    reading = asyncio.Event()

    async def answer(request: Request) -> None:
        await reading.wait()
        left = BIG
        while left:
            left -= len(await request.reader.read(min(left, 1 << 20)))
        request.writer.write(ANSWER)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % BIG)
        sent, block = 0, bytes(1 << 18)
        with suppress(TimeoutError):
            while sent < BIG:
                client.writer.write(block)
                sent += len(block)
                await asyncio.wait_for(client.writer.drain(), 0.3)
        assert sent < BIG  # the kernel's buffers hold what net.ipv4.tcp_rmem allows, 33 MB a socket here; ours little:
        (connection,) = l7.worker._all_sites()[0].connections
        assert connection._upstream._transport.get_write_buffer_size() < 1 << 20
        reading.set()
        while sent < BIG:
            client.writer.write(block)
            sent += len(block)
            await client.writer.drain()
        assert await client.answer() == (200, b"ok")
        await client.close()


async def test_what_is_sent_ahead_is_bounded() -> None:
    async def answer(request: Request) -> None:
        await asyncio.sleep(30)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 500_000)
        await until(lambda: bool(backend.heads))
        await asyncio.sleep(0.2)
        (connection,) = l7.worker._all_sites()[0].connections
        assert PIPELINE_BYTES < len(connection._exchange.rest) < PIPELINE_BYTES + (1 << 18)
        client.writer.transport.abort()


async def test_least_connections_goes_where_less_is_open() -> None:
    release = asyncio.Event()

    async def slow(request: Request) -> None:
        await release.wait()
        request.writer.write(ANSWER)

    async with (
        Backend(slow).running() as busy,
        Backend().running() as idle,
        proxy(model(free_port(), [busy.port, idle.port], scheduler=Scheduler.LC)) as l7,
    ):
        stuck = await l7.connect()
        stuck.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(busy.heads) or bool(idle.heads))
        if not busy.heads:  # the tie went the other way: the next one sticks
            assert (await stuck.answer())[0] == 200
            stuck.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: bool(busy.heads))
        for _ in range(5):
            assert (await l7.get())[0] == 200
        assert len(busy.heads) == 1
        release.set()
        assert (await stuck.answer())[0] == 200
        await stuck.close()


# -- servers that end or speak at the wrong moment


class LateLoop:
    """A loop whose `create_connection` returns only when the connection has ended: the worst moment to be adopted.

    Nor does it return before `go`.
    """

    def __init__(self, go: asyncio.Event | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._go = go

    async def create_connection(self, *arguments: object) -> object:
        transport, upstream = await self._loop.create_connection(*arguments)  # type: ignore[call-overload]
        await until(transport.is_closing)
        await asyncio.sleep(0.01)  # connection_lost has been called, too
        if self._go is not None:
            await self._go.wait()
        return transport, upstream


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("speaks", [False, True])
async def test_a_connection_that_has_ended_before_its_use_goes_elsewhere(method: str, speaks: bool) -> None:
    """Nothing was sent on it, so that even a POST may go to the next server."""

    async def gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if speaks:
            writer.write(ANSWER)
            await reader.read()
        writer.transport.abort()

    bad = await asyncio.start_server(gone, "127.0.0.1", 0)
    port = bad.sockets[0].getsockname()[1]
    async with proxy(model(free_port(), [port, port + 1])) as l7:
        l7.hub.loop = LateLoop()  # type: ignore[assignment]
        client = await l7.connect()
        assert (await client.ask("/", b"", b"body" if method == "POST" else b"", method))[0] == 502
        record = await l7.record()
        assert (record.error_code, record.upstream) == ("connect_failed", f"127.0.0.1:{port + 1}")
        assert l7.hub.services["app"].pool.active == {}
        await client.close()
    bad.close()
    await bad.wait_closed()


async def test_a_client_gone_while_connecting_leaves_no_dead_connection_behind() -> None:
    """The next request would be given it."""

    async def gone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    bad = await asyncio.start_server(gone, "127.0.0.1", 0)
    async with proxy(model(free_port(), [bad.sockets[0].getsockname()[1]])) as l7:
        go = asyncio.Event()
        l7.hub.loop = LateLoop(go)  # type: ignore[assignment]
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        pool = l7.hub.services["app"].pool
        await until(lambda: bool(pool.active))
        reset(client)
        assert (await l7.record()).error_code == "client_closed"
        go.set()
        await until(lambda: not pool.active)
        assert pool.drop() == []
    bad.close()
    await bad.wait_closed()


async def test_an_idle_connection_that_dies_as_the_request_comes_is_not_used() -> None:
    """Even where the request may not be sent twice: it has not been sent once."""
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        assert (await client.ask())[0] == 200
        (idle,) = l7.hub.services["app"].pool._members[0].idle
        idle.abort()  # its connection_lost comes in the next turn of the loop, the request in this one
        the_connection(l7).data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        assert await client.answer() == (200, b"ok")
        await client.close()
    assert backend.connections == 2


async def test_the_end_of_an_answer_is_seen_while_the_request_is_on_its_way() -> None:
    """A server that answers early, closes its half and reads no more: its answer ends when it says so."""
    stuck, done = asyncio.Event(), asyncio.Event()

    async def answer(request: Request) -> None:
        await stuck.wait()
        request.writer.write(b"HTTP/1.1 200 OK\r\n\r\nenough")
        request.writer.write_eof()
        await done.wait()

    async with (
        Backend(answer).running() as backend,
        proxy(model(free_port(), [backend.port], request_timeout_s=60)) as l7,
    ):
        client = await l7.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % BIG + bytes(BIG))
        await until(lambda: bool(backend.heads) and the_connection(l7)._paused)
        stuck.set()
        async with asyncio.timeout(5):
            assert await client.answer() == (200, b"enough")
        done.set()
        client.writer.transport.abort()


# -- machines that lose their power


def blackhole(writer: asyncio.StreamWriter) -> None:
    """Nothing that comes for this connection reaches TCP any more: a socket filter takes 0 bytes of each packet."""
    take_nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K
    program = struct.pack("HL", 1, ctypes.addressof(take_nothing))
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 502)])
async def test_a_request_on_its_way_to_a_dead_machine_does_not_wait_for_it(method: str, status: int) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def answer(request: Request) -> None:
        writers.append(request.writer)
        await answer_ok(request)

    async with (
        Backend(answer).running() as dying,
        Backend().running() as other,
        proxy(model(free_port(), [dying.port, other.port], request_timeout_s=60)) as l7,
    ):
        l7.worker.set_down({"app": [("127.0.0.1", other.port)]})
        client = await l7.connect()
        assert (await client.ask())[0] == 200
        blackhole(writers[0])
        asking = asyncio.create_task(client.ask("/", b"", b"x" if method == "POST" else b"", method))
        await until(lambda: the_connection(l7)._upstream is not None)
        l7.worker.set_down({"app": [("127.0.0.1", dying.port)]})
        async with asyncio.timeout(5):
            assert (await asking)[0] == status
        await client.close()
    assert len(dying.heads) == 1


async def test_an_unhealthy_server_that_is_alive_may_answer() -> None:
    async def answer(request: Request) -> None:
        await asyncio.sleep(1)
        await answer_ok(request)

    async with Backend(answer).running() as slow, proxy(model(free_port(), [slow.port])) as l7:
        client = await l7.connect()
        asking = asyncio.create_task(client.ask())
        await until(lambda: bool(slow.heads))
        l7.worker.set_down({"app": [("127.0.0.1", slow.port)]})
        assert (await asking)[0] == 200
        await client.close()


async def test_an_attempt_to_connect_ends_when_its_server_is_found_unhealthy() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as waiting:
        waiting.connect(full.getsockname())  # fills the queue: Linux drops further SYNs
        async with (
            Backend().running() as other,
            proxy(model(free_port(), [full.getsockname()[1], other.port], connect_timeout_s=60)) as l7,
        ):
            l7.worker.set_down({"app": [("127.0.0.1", other.port)]})
            client = await l7.connect()
            asking = asyncio.create_task(client.ask("/", b"", b"body", "POST"))
            await until(lambda: the_connection(l7)._attempt is not None)
            await asyncio.sleep(0.05)
            l7.worker.set_down({"app": [full.getsockname()]})
            async with asyncio.timeout(5):
                assert (await asking)[0] == 200
            assert the_connection(l7)._attempt is None
            await client.close()


# -- every state has a deadline


class Transport(asyncio.Transport):
    """A client that takes nothing: what happened to its connection is in `done`."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.done: list[str] = []
        self.sent = b""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return bool(self.done)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.done.append("eof")

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


def the_connection(l7: Proxy) -> ClientConnection:
    (site,) = l7.worker._all_sites()
    (connection,) = site.connections
    assert isinstance(connection, ClientConnection)
    return connection


def made(l7: Proxy) -> tuple[ClientConnection, Transport]:
    connection, transport = ClientConnection(l7.hub, l7.worker._all_sites()[0]), Transport()
    connection.connection_made(transport)
    return connection, transport


@pytest.mark.parametrize("how", ["answered", "idle", "drained"])
async def test_a_client_that_does_not_take_the_last_bytes_is_cut(how: str) -> None:
    async with proxy(model(free_port(), [])) as l7:
        connection, transport = made(l7)
        if how == "answered":
            connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert transport.sent.startswith(b"HTTP/1.1 503 ")
        elif how == "idle":
            connection.expire()
        else:
            connection.cut()
        assert transport.done == ["close"]
        assert connection.deadline <= l7.hub.now() + CLOSE_S
        connection.expire()
        assert transport.done == ["close", "abort"]
        connection.connection_lost(None)


async def test_an_attempt_to_connect_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy(model(free_port(), [1], connect_timeout_s=2)) as l7:
        attempts: list[object] = []
        monkeypatch.setattr(l7.hub.tasks, "spawn", lambda attempt, name: attempts.append(attempt))
        connection, transport = made(l7)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        (attempt,) = attempts
        attempt.close()  # type: ignore[attr-defined]
        assert l7.hub.now() + 2 < connection.deadline <= l7.hub.now() + 2 + OPEN_SLACK_S
        connection.expire()
        assert transport.sent.startswith(b"HTTP/1.1 504 ")
        assert (await l7.record()).error_code == "connect_timeout"
        connection.connection_lost(None)
