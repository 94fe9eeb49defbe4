"""Servers that are spoken to in HTTP/2, through the proxy: clients of HTTP/1.1 in front, the h2 library behind."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from core.model import BackendProtocol, CaCertificate, Model
from proxy.exchange import REPLAY_BYTES
from proxy.h2_frames import SETTINGS, frame
from proxy.hpack import encode
from proxy.trunk import IDLE_S, PING_S, PING_WAIT_S
from tests.proxy.h2_backend import Call, H2Backend, answer_ok
from tests.proxy.support import Backend, free_port, model, proxy, with_service
from tests.proxy.test_upstream_tls import Site
from tests.waiting import until

SETTINGS_ALONE = frame(SETTINGS)


def h2c(*servers: H2Backend, request_timeout_s: int = 5, **changes: object) -> Model:
    made = model(free_port(), [server.port for server in servers], request_timeout_s=request_timeout_s)
    return with_service(made, protocol=BackendProtocol.H2C, **changes)


async def test_a_request_and_its_answer() -> None:
    async with H2Backend().running() as server, proxy(h2c(server)) as node:
        client = await node.connect()
        assert await client.ask("/a?b", b"X-Case: Kept\r\n") == (200, b"ok")
        assert await client.ask("/b", method="POST", body=b"x" * 100_000) == (200, b"ok")
        await client.close()
        first, second = server.calls
        assert first.pairs[:4] == [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":path", b"/a?b"),
            (b":authority", b"a"),
        ]
        assert first.fields[b"x-case"] == b"Kept"
        assert first.fields[b"via"] == b"1.1 l7-1"
        assert not {b"host", b"connection"} & first.fields.keys()
        assert second.fields[b"content-length"] == b"100000"
        assert bytes(second.body) == b"x" * 100_000
        assert len(server.links) == 1


async def test_heads_keep_what_they_say() -> None:
    """Interim answers, an unknown length, trailers, no body."""

    async def answer(call: Call) -> None:
        if call.path == "/early":
            call.head(("link", "</a>"), status=103)
        if call.path == "/none":
            call.head(status=204, end=True)
            return
        if call.path == "/empty":
            call.head(("x-a", "1"), end=True)
            return
        call.head(("x-a", "1"), ("x-a", "2"))
        await call.data(b"hello")
        call.end(("x-sum", "5"), ("content-length", "9"))

    async with H2Backend(answer).running() as server, proxy(h2c(server)) as node:
        client = await node.connect()
        assert await client.ask("/empty") == (200, b"")
        assert (await client.ask("/none"))[0] == 204
        client.writer.write(b"GET /early HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
        early = await client.reader.readuntil(b"\r\n\r\n")
        assert early == b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nx-a: 1\r\nx-a: 2\r\n")
        assert b"Via: 2.0 l7-1\r\n" in head
        assert await client.reader.readuntil(b"\r\n0\r\n") == b"5\r\nhello\r\n0\r\n"
        assert await client.reader.readuntil(b"\r\n\r\n") == b"x-sum: 5\r\n\r\n"
        await client.close()
        assert server.calls[2].fields[b"te"] == b"trailers"


async def test_requests_share_a_connection_and_answers_come_in_any_order() -> None:
    gate = asyncio.Event()

    async def answer(call: Call) -> None:
        if call.path == "/slow":
            await gate.wait()
        await answer_ok(call)

    async with H2Backend(answer).running() as server, proxy(h2c(server)) as node:
        slow = asyncio.create_task(node.get("/slow"))
        await until(lambda: len(server.calls) == 1)
        for _ in range(3):
            assert await node.get("/fast") == (200, b"ok")
        assert not slow.done()
        gate.set()
        assert await slow == (200, b"ok")
        assert len(server.links) == 1


async def test_those_who_come_together_wait_for_one_connection() -> None:
    async with H2Backend().running() as server, proxy(h2c(server)) as node:
        assert await asyncio.gather(*(node.get() for _ in range(20))) == [(200, b"ok")] * 20
        assert len(server.links) == 1


async def test_a_full_connection_gets_a_second_one_beside_it() -> None:
    gate = asyncio.Event()

    async def answer(call: Call) -> None:
        await gate.wait()
        await answer_ok(call)

    limit = {SettingCodes.MAX_CONCURRENT_STREAMS: 2}
    async with H2Backend(answer, limit).running() as server, proxy(h2c(server)) as node:
        asked = [asyncio.create_task(node.get()) for _ in range(5)]
        await until(lambda: len(server.calls) == 5)
        gate.set()
        assert await asyncio.gather(*asked) == [(200, b"ok")] * 5
        assert len(server.links) == 3


async def test_connections_limit_counts_requests() -> None:
    gate = asyncio.Event()

    async def answer(call: Call) -> None:
        await gate.wait()
        await answer_ok(call)

    async with H2Backend(answer).running() as server, proxy(h2c(server, server_max_connections=2)) as node:
        asked = [asyncio.create_task(node.get()) for _ in range(3)]
        await until(lambda: node.hub.counters["queued_requests"] == 1 and len(server.calls) == 2)
        gate.set()
        assert await asyncio.gather(*asked) == [(200, b"ok")] * 3


@pytest.mark.parametrize("with_body", [False, True])
async def test_what_a_leaving_server_has_not_touched_goes_elsewhere(with_body: bool) -> None:
    async def answer(call: Call) -> None:
        if len(server.calls) == 1:
            await call.ended.wait()
            call.link.goaway(0)
        else:
            await answer_ok(call)

    async with H2Backend(answer).running() as server, proxy(h2c(server)) as node:
        client = await node.connect()
        body = b"x" * 1000 if with_body else b""
        assert await client.ask("/", body=body, method="POST") == (200, b"ok")
        await client.close()
        assert [bytes(call.body) for call in server.calls] == [body, body]
        assert len(server.links) == 2
        assert node.hub.counters["retries"] == 1


async def test_what_a_leaving_server_has_goes_on() -> None:
    gate = asyncio.Event()

    async def answer(call: Call) -> None:
        if len(server.calls) == 1:
            call.link.goaway(call.stream)
            await gate.wait()
        await answer_ok(call)

    async with H2Backend(answer).running() as server, proxy(h2c(server)) as node:
        first = asyncio.create_task(node.get())
        await until(lambda: len(server.calls) == 1)
        await until(lambda: not len(node.hub.services["app"].trunks))
        assert await node.get() == (200, b"ok")
        gate.set()
        assert await first == (200, b"ok")
        assert len(server.links) == 2
        await until(server.links[0].reader.at_eof)


@pytest.mark.parametrize(("refusals", "status"), [(1, 200), (2, 200), (3, 502)])
async def test_refused_streams_are_sent_again(refusals: int, status: int) -> None:
    async def answer(call: Call) -> None:
        if len(server.calls) <= refusals:
            call.reset(ErrorCodes.REFUSED_STREAM)
        else:
            await answer_ok(call)

    async with H2Backend(answer).running() as server, proxy(h2c(server)) as node:
        client = await node.connect()
        assert (await client.ask("/", method="POST", body=b"once"))[0] == status
        await client.close()
        assert len(server.calls) == min(refusals + 1, 3)


async def test_refused_streams_are_not_sent_again_beyond_the_budget_or_the_copy() -> None:
    async def answer(call: Call) -> None:
        await call.ended.wait()
        call.reset(ErrorCodes.REFUSED_STREAM)

    made = h2c  # each service its own budget
    async with H2Backend(answer).running() as server:
        async with proxy(made(server, retry_percent=0, retry_min_per_s=0)) as node:
            assert (await node.get())[0] == 502
        assert len(server.calls) == 1
        async with proxy(made(server)) as node:
            client = await node.connect()
            assert (await client.ask("/", method="POST", body=b"x" * (REPLAY_BYTES + 1)))[0] == 502
            await client.close()
        assert len(server.calls) == 2


@pytest.mark.parametrize(
    ("code", "method", "calls"), [(ErrorCodes.INTERNAL_ERROR, "GET", 2), (ErrorCodes.CANCEL, "POST", 1)]
)
async def test_a_reset_that_says_nothing_of_the_request(code: ErrorCodes, method: str, calls: int) -> None:
    """On a connection that served before it is as one that closes: who may be asked again is."""

    async def answer(call: Call) -> None:
        if call.path == "/bad":
            call.reset(code)
        else:
            await answer_ok(call)

    async with H2Backend(answer).running() as server, proxy(h2c(server)) as node:
        assert await node.get("/good") == (200, b"ok")
        client = await node.connect()
        status, _ = await client.ask("/bad", method=method)
        assert status == 502
        await client.close()
        assert node.records[-1].error_code == "upstream_closed"


async def test_an_answer_cut_off_is_seen_to_be() -> None:
    async def answer(call: Call) -> None:
        call.head(("content-length", "10"))
        await call.data(b"12345")
        call.reset(ErrorCodes.INTERNAL_ERROR)

    async with H2Backend(answer).running() as server, proxy(h2c(server)) as node:
        client = await node.connect()
        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.rest()).endswith(b"12345")
        await client.close()
        assert (await node.record()).error_code == "upstream_cut"


async def test_a_client_that_goes_cancels_its_stream_alone() -> None:
    async def answer(call: Call) -> None:
        if call.path == "/wait":
            await call.cancelled
        else:
            await answer_ok(call)

    async with H2Backend(answer).running() as server, proxy(h2c(server)) as node:
        client = await node.connect()
        client.writer.write(b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        await until(lambda: len(server.calls) == 1)
        await client.close()
        assert await asyncio.wait_for(server.calls[0].cancelled, 20) == ErrorCodes.CANCEL
        assert await node.get() == (200, b"ok")
        assert len(server.links) == 1


async def test_a_slow_client_holds_up_nobody_else_and_little_memory() -> None:
    size = 4_000_000

    async def answer(call: Call) -> None:
        if call.path == "/long":
            call.head(("content-length", str(size)))
            await call.data(b"x" * size, end=True)
        else:
            await answer_ok(call)

    async with H2Backend(answer).running() as server, proxy(h2c(server)) as node:
        slow = [await node.connect() for _ in range(12)]  # together more than the connection's window
        for client in slow:
            client.reader._limit = 1  # type: ignore[attr-defined]  # nothing is read ahead
            client.writer.write(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(server.calls) == 12)
        for _ in range(5):
            assert await node.get("/short") == (200, b"ok")
        assert len(server.links) == 1
        for client in slow:
            client.reader._limit = 1 << 16  # type: ignore[attr-defined]
        for client in slow:
            status, body = await client.answer()
            assert (status, len(body)) == (200, size)
            await client.close()


async def test_a_server_that_reads_nothing_holds_up_its_client_alone() -> None:
    """The window of a stream is full; another stream goes on."""

    async def answer(call: Call) -> None:
        if call.path == "/short":
            await answer_ok(call)

    big = {SettingCodes.INITIAL_WINDOW_SIZE: 10_000}
    async with H2Backend(answer, big, reads=False).running() as server, proxy(h2c(server, request_timeout_s=1)) as node:
        client = await node.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 5_000_000)
        await until(lambda: bool(server.calls) and len(server.calls[0].body) == 10_000)
        assert await node.get("/short") == (200, b"ok")
        await client.close()
        assert await asyncio.wait_for(server.calls[0].cancelled, 20) == ErrorCodes.CANCEL


NOT_HTTP2 = {
    "http1": (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "it answers in HTTP/1"),
    "other frame": (bytes((0, 0, 8, 6, 0, 0, 0, 0, 0)) + b"x" * 8, "the first frame is not SETTINGS"),
    "too long": (b"SSH-2.0-OpenSSH_9.2\r\n", "frame"),
}


@pytest.mark.parametrize("case", NOT_HTTP2)
async def test_a_server_that_speaks_no_http2(case: str, caplog: pytest.LogCaptureFixture) -> None:
    raw, why = NOT_HTTP2[case]
    async with H2Backend(raw=raw).running() as server, proxy(h2c(server)) as node:
        status, _ = await node.get()
        assert status == 502
        assert node.records[-1].error_code == "connect_failed"
        assert "no HTTP/2 with it" in caplog.text
        assert why in caplog.text


async def test_a_server_that_takes_no_requests() -> None:
    none = {SettingCodes.MAX_CONCURRENT_STREAMS: 0}
    async with H2Backend(settings=none).running() as server, proxy(h2c(server)) as node:
        assert (await node.get())[0] == 502


MALFORMED: dict[str, tuple[list[tuple[bytes, bytes]], str]] = {
    "no status": ([(b"x-a", b"1")], "bad_pseudo_header"),
    "switching": ([(b":status", b"101")], "unasked_upgrade"),
    "two statuses": ([(b":status", b"200"), (b":status", b"200")], "bad_pseudo_header"),
    "connection": ([(b":status", b"200"), (b"connection", b"close")], "connection_field"),
    "upper case": ([(b":status", b"200"), (b"X-A", b"1")], "upper_case_field"),
    "line end": ([(b":status", b"200"), (b"x-a", b"1\r\nx-b: 2")], "control_character"),
    "length": ([(b":status", b"200"), (b"content-length", b"+1")], "bad_content_length"),
    "many": ([(b":status", b"200"), *[(b"x-a", b"1")] * 200], "too_many_fields"),
    "large": ([(b":status", b"200"), *[(b"x-a", b"1" * 8000)] * 9], "head_too_large"),
    "too short": ([(b":status", b"200"), (b"content-length", b"3")], "length_not_kept"),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_answer_is_a_502_and_costs_its_stream_alone(case: str) -> None:
    fields, code = MALFORMED[case]

    async def answer(call: Call) -> None:
        if call.path == "/good":
            await answer_ok(call)
            return
        block = encode(fields)
        stream = call.stream.to_bytes(4)
        parts = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
        for index, part in enumerate(parts):
            flags = (4 if index == len(parts) - 1 else 0) | (0 if index else 1)
            call.link.writer.write(len(part).to_bytes(3) + bytes((9 if index else 1, flags)) + stream + part)

    async with H2Backend(answer).running() as server, proxy(h2c(server)) as node:
        assert await node.get("/good") == (200, b"ok")
        status, body = await node.get("/bad")
        assert (status, node.records[-1].error_code) == (502, code), body
        assert await node.get("/good") == (200, b"ok")
        assert len(server.links) == 1


async def test_a_websocket_is_not_for_http2() -> None:
    async with H2Backend().running() as server, proxy(h2c(server)) as node:
        client = await node.connect()
        opening = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        status, body = await client.ask("/", opening + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n")
        assert (status, b'"no_websocket"' in body) == (501, True)
        await client.close()
        assert node.hub.services["app"].pool.active == {}


async def test_servers_that_are_gone_get_no_more_requests() -> None:
    gate = asyncio.Event()

    async def answer(call: Call) -> None:
        await gate.wait()
        await answer_ok(call)

    async with H2Backend(answer).running() as old, H2Backend().running() as new, proxy(h2c(old)) as node:
        first = asyncio.create_task(node.get())
        await until(lambda: len(old.calls) == 1)
        changed = h2c(new)
        await node.worker.apply(replace(changed, listeners=node.worker.model.listeners))
        assert await node.get() == (200, b"ok")
        gate.set()
        assert await first == (200, b"ok")
        await until(old.links[0].reader.at_eof)
        assert (len(old.calls), len(new.calls)) == (1, 1)


async def test_a_service_that_becomes_one_of_http1() -> None:
    async with H2Backend().running() as server, Backend().running() as other, proxy(h2c(server)) as node:
        assert await node.get() == (200, b"ok")
        changed = model(node.port, [other.port])
        await node.worker.apply(changed)
        assert await node.get() == (200, b"ok")
        await node.worker.apply(with_service(model(node.port, [server.port]), protocol=BackendProtocol.H2C))
        assert await node.get() == (200, b"ok")
        assert (len(server.calls), len(other.heads)) == (2, 1)


@pytest.mark.parametrize(("alpn", "status"), [("h2", 200), ("http/1.1", 502), ("", 502)])
async def test_tls_and_its_agreement(alpn: str, status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site.make(tmp_path / "pki")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(site.directory / "leaf.pem")
    if alpn:
        context.set_alpn_protocols([alpn])
    async with H2Backend(tls=context).running() as server:
        made = with_service(h2c(server), protocol=BackendProtocol.H2, tls_ca_certificate="ca")
        made = replace(made, ca_certificates={"ca": CaCertificate("ca", bundle=site.bundle)})
        async with proxy(made) as node:
            assert (await node.get())[0] == status
            assert status == 200 or "it does not agree to h2 by ALPN" in caplog.text or "no TLS" in caplog.text
        if status == 200:
            assert server.calls[0].fields[b":scheme"] == b"https"


async def test_a_ping_that_is_not_answered_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with H2Backend(raw=SETTINGS_ALONE).running() as server, proxy(h2c(server)) as node:
        asked = asyncio.create_task(node.get())
        trunks = node.hub.services["app"].trunks
        await until(lambda: len(trunks) == 1)
        (trunk,) = trunks.all
        await until(lambda: trunk.streams == 1)
        now = asyncio.get_running_loop().time()
        trunk.tick(now + PING_S - 1)
        trunk.tick(now + PING_S + 1)
        assert not asked.done()
        trunk.tick(now + PING_S + PING_WAIT_S + 2)
        assert (await asked)[0] == 502
        assert "it answers no ping" in caplog.text


async def test_a_connection_without_requests_is_closed() -> None:
    async with H2Backend().running() as server, proxy(h2c(server)) as node:
        assert await node.get() == (200, b"ok")
        trunks = node.hub.services["app"].trunks
        now = asyncio.get_running_loop().time()
        trunks.tick(now + IDLE_S - 5)
        assert len(trunks) == 1
        trunks.tick(now + IDLE_S + 1)
        assert len(trunks) == 0
        await until(server.links[0].reader.at_eof)
