"""What clients may take: the arithmetic, and what a worker does by it."""

from __future__ import annotations

import asyncio
import math
import socket
from dataclasses import replace
from ipaddress import ip_network

import pytest

from proxy.commands import Command
from proxy.conn import HEADS_A_TURN, ClientConnection
from proxy.crowd import FAIR_BYTES, HELD_BYTES, SPARE_DESCRIPTORS, Allowance, Crowd
from proxy.exchange import Exchange
from proxy.http1 import CHUNKS_A_TURN
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


def lasts(pieces: list[tuple[float, int]], allowance: Allowance) -> float:
    """When a body is given up of which so many bytes come so many seconds after the ones before; inf: never."""
    now, deadline = 0.0, allowance.body_timeout_s
    for after_s, received in pieces:
        now += after_s
        if now > deadline:
            return deadline
        deadline = allowance.body_until(deadline, received, now)
    return math.inf


@pytest.mark.parametrize(
    ("pieces", "rate", "end"),
    [
        ([(15, 1), (15, 1)], 0, math.inf),  # pauses only
        ([(15.1, 1)], 0, 15),
        ([(14, 1), (14, 1)], 500, 15.002),  # single bytes buy nothing
        ([(1, 499)] * 8000, 500, 7001),  # a little too slow, for a long time
        ([(1, 500)] * 8000, 500, math.inf),
        ([(14, 1 << 16)] * 8000, 500, math.inf),  # in bursts
        ([(0, 1 << 30), (14, 1), (14, 1)], 500, 15.002),  # a fast gigabyte buys no more than a pause
        ([(0.001, 1)] * 8000, 500, math.inf),  # byte by byte, and quick enough
    ],
)
def test_how_long_a_body_may_take(pieces: list[tuple[float, int]], rate: int, end: float) -> None:
    assert lasts(pieces, Allowance(min_body_rate_bytes_s=rate)) == pytest.approx(end, abs=0.01)


def test_connections_of_a_client() -> None:
    crowd = Crowd(20_000)
    allowance = Allowance(per_client=2, exempt=(ip_network("10.0.0.0/8"),))
    assert [crowd.enter(each, allowance) for each in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2")] == [
        "192.0.2.1", "192.0.2.1", None, "192.0.2.2",
    ]  # fmt: skip
    crowd.leave("192.0.2.1")
    assert crowd.enter("192.0.2.1", allowance) == "192.0.2.1"
    # of IPv6 a client has a whole /64
    assert [crowd.enter(f"2001:db8::{each}", allowance) for each in (1, 2, 3)][2] is None
    assert crowd.enter("2001:db8:0:1::1", allowance) is not None
    assert [crowd.enter("10.1.1.1", allowance) for _ in range(9)] == [""] * 9
    assert [crowd.enter("192.0.2.1", Allowance()) for _ in range(9)] == [""] * 9
    assert crowd.connections == 3 + 2 + 1 + 9 + 9


def test_places() -> None:
    crowd = Crowd(SPARE_DESCRIPTORS + 16)
    for _ in range(8):
        crowd.enter("", Allowance())
    assert (crowd.full, crowd.surplus) == (False, 2)
    crowd.enter("", Allowance())
    assert crowd.full
    for _ in range(3):
        crowd.leave("")
    assert crowd.surplus == 0


def test_bytes_that_wait() -> None:
    crowd = Crowd(1000)
    assert not crowd.hold(0, HELD_BYTES)
    assert not crowd.hold(0, FAIR_BYTES)
    assert crowd.hold(FAIR_BYTES, FAIR_BYTES + 1)
    crowd.hold(HELD_BYTES, 0)
    assert not crowd.hold(FAIR_BYTES + 1, 1 << 20)
    crowd.hold(1 << 20, 0)
    assert crowd.held_bytes == 0


# -- a worker


async def gone(client: Client) -> bool:
    """Whether the proxy has ended this connection."""
    try:
        return await asyncio.wait_for(client.reader.read(), 10) == b""
    except ConnectionError:
        return True


async def test_a_body_that_trickles_is_408_however_steadily() -> None:
    options = {"body_timeout_s": 1, "min_body_rate_bytes_s": 1000}
    async with Backend().running() as backend, proxy(with_options(model(free_port(), [backend.port]), **options)) as l7:
        slow, quick = await l7.connect(), await l7.connect()
        for client in (slow, quick):
            client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        answer = asyncio.create_task(slow.answer())
        sent = 0
        while not answer.done():
            slow.writer.write(b"x")
            quick.writer.write(b"x" * 400)
            sent += 400
            await asyncio.sleep(0.05)
        assert (await answer)[0] == 408
        assert (await l7.record()).error_code == "body_timeout"
        quick.writer.write(b"x" * (100_000 - sent))
        assert await quick.answer() == (200, b"ok")
        await slow.close()
        await quick.close()


async def test_time_in_which_the_server_does_not_read_is_not_the_clients() -> None:
    """A body is held up by back-pressure for longer than it may pause, and has its whole time again afterwards."""

    async def answer(request: Request) -> None:
        assert await request.reader.readexactly(3) == b"abc"
        request.writer.write(ANSWER)

    async with (
        Backend(answer).running() as backend,
        proxy(with_options(model(free_port(), [backend.port], request_timeout_s=60), body_timeout_s=10)) as l7,
    ):
        client = await l7.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
        await until(lambda: bool(backend.heads))
        (connection,) = connections(l7)
        upstream, clock = connection._upstream, l7.hub.now
        assert upstream is not None
        upstream.pause_writing()
        l7.hub.now = lambda: clock() + 30
        for _ in range(2):  # sweeps
            await asyncio.sleep(0.3)
        upstream.resume_writing()
        assert connection.deadline - l7.hub.now() == pytest.approx(10, abs=1)
        l7.hub.now = lambda: clock() + 39
        before = connection._account.bytes_in
        client.writer.write(b"b")
        await until(lambda: connection._account.bytes_in > before)
        client.writer.write(b"c")
        assert await client.answer() == (200, b"ok")
        await client.close()


def connections(l7: Proxy) -> list[ClientConnection]:
    return [each for site in l7.worker._all_sites() for each in site.connections if isinstance(each, ClientConnection)]


async def test_a_client_with_too_many_connections_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        Backend().running() as backend,
        proxy(with_options(model(free_port(), [backend.port]), max_connections_per_client=2)) as l7,
    ):
        one, two = await l7.connect(), await l7.connect()
        assert [(await each.ask())[0] for each in (one, two)] == [200, 200]
        for _ in range(3):
            three = await l7.connect()
            assert await gone(three)
            await three.close()
        assert l7.hub.counters["connections_refused"] == 3
        assert [m for m in caplog.messages if "too many" in m] == [
            "web: 127.0.0.1 has too many connections; those that come are cut off"
        ]
        await one.close()
        await until(lambda: l7.hub.crowd.connections == 1)
        three = await l7.connect()
        assert (await three.ask())[0] == 200
        await l7.worker.apply(with_options(model(l7.port, [backend.port]), max_connections_per_client=3))
        four = await l7.connect()
        assert (await four.ask())[0] == 200
        for each in (two, three, four):
            await each.close()
    assert l7.hub.crowd.connections == 0


async def test_those_that_wait_give_way_and_those_at_work_do_not() -> None:
    release = asyncio.Event()

    async def answer(request: Request) -> None:
        if request.path == "/long":
            await release.wait()
        await answer_ok(request)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        l7.hub.crowd.most = 8
        busy = [await l7.connect() for _ in range(3)]
        asked = [asyncio.create_task(each.ask("/long")) for each in busy]
        await until(lambda: len(backend.heads) == 3)
        slow = [await l7.connect() for _ in range(5)]
        for each in slow:
            each.writer.write(b"GET / HT")
        ended = await asyncio.gather(gone(slow[0]), gone(slow[1]))  # the first to come are the first to go
        assert ended == [True, True]
        await until(lambda: l7.hub.counters["connections_gave_way"] == 2)
        fresh = await l7.connect()
        assert await fresh.ask() == (200, b"ok")
        release.set()
        assert [await each for each in asked] == [(200, b"ok")] * 3
        for each in (*busy, *slow, fresh):
            each.writer.transport.abort()
        await until(lambda: not l7.worker.connections)


async def test_beyond_the_last_place_nobody_is_let_in() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        l7.hub.crowd.most = 1
        one = await l7.connect()
        await until(lambda: l7.hub.crowd.connections == 1)
        two = await l7.connect()
        assert await gone(two)
        assert l7.hub.counters["connections_refused"] == 1
        assert l7.hub.crowd.connections == 1
        await one.close()
        await two.close()


async def test_heads_of_many_clients_have_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it, large ones are refused, and small ones are served."""
    monkeypatch.setattr("proxy.crowd.HELD_BYTES", 200_000)
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        clients = [await l7.connect() for _ in range(6)]
        for each in clients[:4]:
            each.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 45_000)
        await until(lambda: l7.hub.crowd.held_bytes > 180_000)
        clients[4].writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 45_000)
        status, body = await clients[4].answer()
        assert (status, b'"error": "overloaded"' in body) == (503, True)
        assert (await l7.record()).error_source == "proxy"
        clients[5].writer.write(b"GET / HTTP/1.1\r\nA: " + b"a" * 7000)
        await asyncio.sleep(0.05)
        clients[5].writer.write(b"\r\nHost: a\r\n\r\n")
        assert await clients[5].answer() == (200, b"ok")
        clients[0].writer.write(b"\r\n\r\n")  # who was there before is served, too
        assert await clients[0].answer() == (200, b"ok")
        for each in clients:
            await each.close()
        await until(lambda: l7.hub.crowd.held_bytes == 0)


async def test_what_is_sent_ahead_has_the_same_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped unread; the request before it gets its answer, and the connection closes."""
    monkeypatch.setattr("proxy.crowd.HELD_BYTES", 50_000)
    release = asyncio.Event()

    async def answer(request: Request) -> None:
        await release.wait()
        await answer_ok(request)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000)
        await until(lambda: l7.hub.counters["overloads"] > 0)
        assert l7.hub.crowd.held_bytes < 300_000
        release.set()
        status, head, _ = await client.whole_answer()
        assert status == 200
        assert b"\r\nConnection: close\r\n" in head
        assert len(backend.heads) == 1
        client.writer.transport.abort()


async def test_bodies_without_a_server_have_the_same_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their server's queue is full: Linux drops further SYNs, and the body waits meanwhile."""
    monkeypatch.setattr("proxy.crowd.HELD_BYTES", 50_000)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as waiting:
        waiting.connect(full.getsockname())
        async with proxy(model(free_port(), [full.getsockname()[1]])) as l7:
            client = await l7.connect()
            client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(60_000))
            assert (await client.answer())[0] == 503
            assert (await l7.record()).error_code == "overloaded"
            await until(lambda: l7.hub.crowd.held_bytes == 0)
            await client.close()


async def test_requests_sent_ahead_take_turns_with_others() -> None:
    """Refusals by the thousand in one read: another client's request is answered in between, not after them."""
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        flood, other = await l7.connect(), await l7.connect()
        flood.writer.write(b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n" * 1500)
        await until(lambda: len(l7.records) >= HEADS_A_TURN)
        other.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await other.answer() == (200, b"ok")
        mine = [record.status for record in l7.records].index(200)
        assert mine < 1400
        assert [(await flood.answer())[0] for _ in range(1500)] == [400] * 1500
        await other.close()
        await flood.close()


async def test_turns_keep_the_order_of_requests() -> None:
    """What comes while heads wait for their turn waits behind them, by the fast lane too."""

    async def answer(request: Request) -> None:
        text = request.path.encode()
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        assert (await client.ask("/0"))[1] == b"/0"
        (connection,) = connections(l7)
        refused = b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n"
        connection.data_received(refused * (HEADS_A_TURN + 1))
        connection.data_received(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.data_received(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        got = [await client.answer() for _ in range(HEADS_A_TURN + 3)]
        assert [status for status, _ in got] == [400] * (HEADS_A_TURN + 1) + [200, 200]
        assert [body for _, body in got[-2:]] == [b"/1", b"/2"]
        await client.close()


async def in_chunks(request: Request) -> bytes:
    """The body of a request whose chunks are all of less than 64 KiB."""
    body = b""
    while size := int(await request.reader.readuntil(b"\r\n"), 16):
        body += (await request.reader.readexactly(size + 2))[:-2]
    assert await request.reader.readexactly(2) == b"\r\n"
    return body


@pytest.mark.parametrize("ends", ["whole", "closes its half", "malformed"])
async def test_a_body_of_tiny_chunks_takes_turns_with_others(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tens of thousands of them come in one read; a read's worth of work is never done at once."""
    number, turns = 12_000, 0
    go_on = Exchange.go_on

    def counted(exchange: Exchange) -> list[Command]:
        nonlocal turns
        turns += 1
        return go_on(exchange)

    monkeypatch.setattr(Exchange, "go_on", counted)

    async def answer(request: Request) -> None:
        body = await in_chunks(request) if b"chunked" in request.head else b""
        text = b"%d" % len(body)
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await until(lambda: bool(backend.heads))
        (connection,) = connections(l7)
        connection.data_received(b"1\r\nx\r\n" * number)
        assert turns == 0
        assert connection._exchange is not None
        assert connection._exchange.more  # others have their turn before it
        if ends == "malformed":
            connection.data_received(b"x\r\n")
            status, _ = await client.answer()
            assert status == 400
            assert (await l7.record()).error_detail.endswith(f"byte {number * 6}")
        elif ends == "closes its half":
            connection.data_received(b"0\r\n\r\n")
            client.writer.write_eof()
            assert await client.answer() == (200, b"%d" % number)
        else:
            connection.data_received(b"0\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await client.answer() == (200, b"%d" % number)
            assert await client.answer() == (200, b"0")
        assert turns >= number // CHUNKS_A_TURN
        await client.close()


def test_an_allowance_is_the_listeners() -> None:
    listener = model(80, [1]).listeners["web"]
    assert Allowance.of(listener, ()) == Allowance()
    changed = replace(listener, head_timeout_s=1, body_timeout_s=2, min_body_rate_bytes_s=3, send_timeout_s=4)
    changed = replace(changed, max_connections_per_client=5)
    assert Allowance.of(changed, ()) == Allowance(1, 2, 3, 4, 5)
