"""Clients of HTTP/2: requests, answers, limits and ends; a worker, servers of HTTP/1.1, and frames by hand."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any

import pytest

from core.model import FixedReply, Rule
from proxy import hpack
from proxy.h2_conn import HELD_BYTES, Http2Connection
from proxy.h2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)
from proxy.h2_session import Limits
from proxy.h2_stream import priority_of
from proxy.hub import Activity
from tests.proxy.h2_support import PLAIN, WEBSOCKET, Pair, Raw, h2, with_fields
from tests.proxy.support import ANSWER, Backend, Proxy, Request, answer_ok, free_port, model, proxy, with_options
from tests.proxy.support import WEBSOCKET as SWITCH
from tests.waiting import until

CALM = 11  # ENHANCE_YOUR_CALM


@asynccontextmanager
async def serving(
    answer: Callable[[Request], Awaitable[None]] = answer_ok, *, rules: tuple[Rule, ...] = (), **options: Any
) -> AsyncIterator[tuple[Proxy, Backend]]:
    """A worker with one server behind it, whose clients may know beforehand that it speaks HTTP/2."""
    async with Backend(answer).running() as backend:
        made = model(free_port(), [backend.port], rules=rules)
        async with proxy(with_options(made, http2_prior_knowledge=True, **options)) as l7:
            yield l7, backend


async def connection_of(l7: Proxy) -> Http2Connection:
    """The only one, once it has begun."""
    (site,) = l7.worker._sites.values()
    await until(lambda: any(isinstance(each, Http2Connection) for each in site.connections))
    (connection,) = site.connections
    assert isinstance(connection, Http2Connection)
    return connection


async def chunked_body(request: Request) -> bytes:
    body = b""
    while size := int(await request.reader.readuntil(b"\r\n"), 16):
        body += await request.reader.readexactly(size)
        await request.reader.readline()
    await request.reader.readline()
    return body


async def echo(request: Request) -> None:
    """Answers with the body, which is chunked or has a length."""
    chunked = b"transfer-encoding: chunked" in request.head.lower()
    body = await chunked_body(request) if chunked else await length_body(request)
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def length_body(request: Request) -> bytes:
    lines = [line for line in request.head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return await request.reader.readexactly(int(lines[0][15:])) if lines else b""


def big(size: int) -> Callable[[Request], Awaitable[None]]:
    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for at in range(0, size, 65536):
            request.writer.write(b"x" * min(65536, size - at))
            await request.writer.drain()

    return answer


async def test_a_request_and_its_answer() -> None:
    async with serving() as (l7, backend), h2(l7) as client:
        answer = await client.get((b"user-agent", b"u"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"te", b"trailers"))
        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.fields[b"via"] == b"1.1 l7-1"
        lines = backend.heads[0].split(b"\r\n")
        assert lines[:2] == [b"GET / HTTP/1.1", b"Host: a"]
        assert {b"user-agent: u", b"cookie: a=1; b=2", b"Via: 2.0 l7-1", b"TE: trailers", b"Connection: TE"} < {*lines}
        assert lines.count(b"cookie: a=1; b=2") == 1
        record = await l7.record()
        assert (record.version, record.status, record.method, record.path) == ("HTTP/2.0", 200, "GET", "/")
        assert (record.bytes_in > 50, record.bytes_out > len(b"ok"), record.upstream != "") == (True, True, True)
        assert (client.settings[3], client.settings[8], client.settings[9]) == (128, 1, 1)


async def test_a_hundred_streams_at_a_time() -> None:
    async with serving(echo) as (l7, _), h2(l7) as client:
        bodies = [b"%d" % number * 1000 for number in range(100)]
        streams = [client.ask(with_fields((b":method", b"POST")), body) for body in bodies]
        answers = [await client.answer(stream) for stream in streams]
        assert [answer.body for answer in answers] == bodies
        await until(
            lambda: l7.hub.counters["http2_streams"] == 100 and not next(iter(l7.worker._sites.values())).streams
        )
        assert [l7.hub.crowd.connections, l7.hub.crowd.held_bytes] == [1, 0]


async def test_big_bodies_both_ways() -> None:
    """More than all windows, of a length that is said and of one that is not."""
    body = bytes(range(256)) * 8192
    async with serving(echo) as (l7, backend), h2(l7) as client:
        for fields in ((b"content-length", b"%d" % len(body)), (b"x", b"y")):
            stream = client.ask(with_fields((b":method", b"POST"), fields), ended=False)
            for at in range(0, len(body), 65536):
                await client.room(stream, at)
                client.data(stream, body[at : at + 65536], ended=at + 65536 == len(body))
            assert (await client.answer(stream)).body == body
        assert b"Content-Length: 2097152" in backend.heads[0]
        assert b"Transfer-Encoding: chunked" in backend.heads[1]


@pytest.mark.parametrize(
    ("answer", "status", "body", "fields"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", {}),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 304, b"", {b"content-length": b"5"}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"", {b"content-length": b"0"}),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", 200, b"ab", {}),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nKeep-Alive: x\r\n\r\nto the end", 200, b"to the end", {}),
        (
            b"HTTP/1.1 299 Own\r\nX-Mixed-Case: V\r\nContent-Length: 0\r\n\r\n",
            299,
            b"",
            {b"x-mixed-case": b"V", b"content-length": b"0"},
        ),
    ],
)
async def test_answers(answer: bytes, status: int, body: bytes, fields: dict[bytes, bytes]) -> None:
    async def say(request: Request) -> None:
        request.writer.write(answer)
        if b"close" in answer:
            request.writer.close()

    async with serving(say) as (l7, _), h2(l7) as client:
        got = await client.get()
        assert (got.status, got.body, got.ended) == (status, body, True)
        assert fields.items() <= got.fields.items()
        gone = {b"connection", b"keep-alive", b"transfer-encoding"} | ({b"content-length"} - fields.keys())
        assert not gone & got.fields.keys()


async def test_head_has_a_length_and_no_body() -> None:
    async def say(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")

    async with serving(say) as (l7, _), h2(l7) as client:
        got = await client.get((b":method", b"HEAD"))
        assert (got.status, got.body, got.fields[b"content-length"], got.ended) == (200, b"", b"5", True)


async def test_interim_answers_and_expectations() -> None:
    async def say(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        await echo(request)

    async with serving(say) as (l7, backend), h2(l7) as client:
        fields = with_fields((b":method", b"POST"), (b"expect", b"100-continue"), (b"content-length", b"2"))
        stream = client.ask(fields, ended=False)
        await until(lambda: client.answers[stream].interim == [b"103", b"100"])
        client.data(stream, b"hi", ended=True)
        assert (await client.answer(stream)).body == b"hi"
        assert b"expect: 100-continue" in backend.heads[0]


@pytest.mark.parametrize(("asks", "got"), [(b"trailers", [(b"x-sum", b"1")]), (None, [])], ids=["te", "no te"])
async def test_trailers_of_an_answer(asks: bytes | None, got: list[Pair]) -> None:
    async def say(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n")

    async with serving(say) as (l7, _), h2(l7) as client:
        answer = await client.get(*([(b"te", asks)] if asks else []))
        assert (answer.body, answer.trailers, answer.ended) == (b"ab", got, True)


async def test_trailers_of_a_request_end_it() -> None:
    """A server of HTTP/1.1 has no way to say that it reads them."""
    async with serving(echo) as (l7, _), h2(l7) as client:
        stream = client.ask(with_fields((b":method", b"POST")), b"abc", ended=False)
        client.trailers(stream, [(b"x-sum", b"1")])
        assert (await client.answer(stream)).body == b"abc"


async def test_rules_go_by_authority() -> None:
    rules = (Rule("r", "web", domain="b.example", url="/", fixed_reply=FixedReply(418, body="tea")),)
    async with serving(rules=rules) as (l7, _), h2(l7) as client:
        got = [await client.get((b":authority", authority)) for authority in (b"a", b"b.example:80")]
        assert [(answer.status, answer.body) for answer in got] == [(200, b"ok"), (418, b"tea")]
        assert [record.host for record in l7.records] == ["a", "b.example:80"]
        assert l7.records[1].way.rule == "r"


# -- what is refused

LONG = b"x" * 70_000
REFUSED: dict[str, tuple[list[Pair], int, str]] = {
    "upper case": ([*PLAIN, (b"X-A", b"1")], 400, "upper_case_field"),
    "empty name": ([*PLAIN, (b"", b"1")], 400, "bad_field_name"),
    "space in a name": ([*PLAIN, (b"a b", b"1")], 400, "bad_field_name"),
    "colon in a name": ([*PLAIN, (b"a:b", b"1")], 400, "bad_field_name"),
    "cr in a value": ([*PLAIN, (b"a", b"1\r2")], 400, "control_character"),
    "lf in a value": ([*PLAIN, (b"a", b"1\n2")], 400, "control_character"),
    "crlf in a value": ([*PLAIN, (b"a", b"1\r\nb: 2")], 400, "control_character"),
    "nul in a value": ([*PLAIN, (b"a", b"1\0")], 400, "control_character"),
    "space before a value": ([*PLAIN, (b"a", b" 1")], 400, "space_around_value"),
    "space behind a value": ([*PLAIN, (b"a", b"1\t")], 400, "space_around_value"),
    "connection": ([*PLAIN, (b"connection", b"close")], 400, "connection_field"),
    "keep-alive": ([*PLAIN, (b"keep-alive", b"1")], 400, "connection_field"),
    "proxy-connection": ([*PLAIN, (b"proxy-connection", b"close")], 400, "connection_field"),
    "transfer-encoding": ([*PLAIN, (b"transfer-encoding", b"chunked")], 400, "connection_field"),
    "upgrade": ([*PLAIN, (b"upgrade", b"websocket")], 400, "connection_field"),
    "te": ([*PLAIN, (b"te", b"gzip")], 400, "connection_field"),
    "te, with more": ([*PLAIN, (b"te", b"trailers, gzip")], 400, "connection_field"),
    "host differs": ([*PLAIN, (b"host", b"b")], 400, "authority_not_host"),
    "host twice": ([*PLAIN, (b"host", b"a"), (b"host", b"a")], 400, "host_repeated"),
    "no authority": ([pair for pair in PLAIN if pair[0] != b":authority"], 400, "host_missing"),
    "user in the authority": (with_fields((b":authority", b"u@a")), 400, "host_invalid"),
    "path in the authority": (with_fields((b":authority", b"a/b")), 400, "host_invalid"),
    "no method": (PLAIN[1:], 400, "bad_pseudo_header"),
    "no scheme": ([PLAIN[0], *PLAIN[2:]], 400, "bad_pseudo_header"),
    "no path": (PLAIN[:3], 400, "bad_pseudo_header"),
    "method twice": ([PLAIN[0], *PLAIN], 400, "bad_pseudo_header"),
    "path twice": ([*PLAIN, PLAIN[3]], 400, "bad_pseudo_header"),
    "unknown": ([(b":x", b"y"), *PLAIN], 400, "bad_pseudo_header"),
    "status": ([(b":status", b"200"), *PLAIN], 400, "bad_pseudo_header"),
    "behind a field": ([*PLAIN[:3], (b"a", b"1"), PLAIN[3]], 400, "bad_pseudo_header"),
    "protocol without connect": ([*PLAIN, (b":protocol", b"websocket")], 400, "bad_pseudo_header"),
    "empty path": (with_fields((b":path", b"")), 400, "bad_target"),
    "relative path": (with_fields((b":path", b"x")), 400, "bad_target"),
    "absolute path": (with_fields((b":path", b"http://a/")), 400, "bad_target"),
    "star": (with_fields((b":path", b"*")), 400, "bad_target"),
    "fragment": (with_fields((b":path", b"/#x")), 400, "bad_target"),
    "space in the path": (with_fields((b":path", b"/ HTTP/1.1")), 400, "bad_target"),
    "crlf in the path": (with_fields((b":path", b"/ HTTP/1.1\r\nx: y")), 400, "bad_target"),
    "scheme": (with_fields((b":scheme", b"ftp")), 400, "bad_target"),
    "method no token": (with_fields((b":method", b"G T")), 400, "bad_pseudo_header"),
    "crlf in the method": (with_fields((b":method", b"GET / HTTP/1.1\r\nx:")), 400, "bad_pseudo_header"),
    "up the path": (with_fields((b":path", b"/../..")), 400, "ambiguous_path"),
    "trace": (with_fields((b":method", b"TRACE")), 405, "method_not_allowed"),
    "connect": ([(b":method", b"CONNECT"), (b":authority", b"a:80")], 405, "method_not_allowed"),
    "another protocol": ([*WEBSOCKET[:1], (b":protocol", b"connect-udp"), *WEBSOCKET[2:]], 501, "unknown_protocol"),
    "websocket of no version": (WEBSOCKET[:-1], 400, "bad_upgrade"),
    "length": ([*PLAIN, (b"content-length", b"+1")], 400, "bad_content_length"),
    "lengths differ": ([*PLAIN, (b"content-length", b"0"), (b"content-length", b"1")], 400, "content_lengths_differ"),
    "length without a body": ([*PLAIN, (b"content-length", b"1")], 400, "length_not_kept"),
    "expectation": ([*PLAIN, (b"expect", b"200-ok")], 417, "unknown_expectation"),
    "loop": ([*PLAIN, (b"via", b"2.0 l7-1")], 508, "loop"),
    "path too long": (with_fields((b":path", b"/" + b"x" * 17_000)), 414, "request_line_too_long"),
    "too many fields": ([*PLAIN, *((b"a", b"%d" % number) for number in range(129))], 431, "too_many_fields"),
}  # fmt: skip


async def test_what_is_refused_is_refused_alone() -> None:
    """Each with its reason, on a connection that goes on; and none reaches the server."""
    async with serving() as (l7, backend), h2(l7) as client:
        for number, (name, (fields, status, code)) in enumerate(REFUSED.items(), 1):
            answer = await client.answer(client.ask(fields))
            assert answer.status == status, name
            assert f'"error": "{code}"'.encode() in answer.body, (name, answer.body)
            assert answer.fields[b"proxy-status"].startswith(b'"l7-1"')
            record = await l7.record(number)
            assert (record.error_code, record.status, record.version) == (code, status, "HTTP/2.0")
        assert backend.heads == []
        assert (await client.get()).status == 200


async def test_a_request_with_a_body_that_is_refused_is_reset_behind_the_answer() -> None:
    async with serving() as (l7, _), h2(l7) as client:
        stream = client.ask([*with_fields((b":method", b"POST")), (b"connection", b"close")], ended=False)
        await until(lambda: client.answers[stream].reset is not None)
        answer = client.answers[stream]
        assert (answer.status, answer.ended, answer.reset) == (400, True, 0)


async def test_too_large_a_head_is_refused_alone() -> None:
    async with serving() as (l7, _), h2(l7) as client:
        client.head(1, hpack.encode([*PLAIN, *[(b"a%d" % number, b"") for number in range(1800)]]), ended=True)
        client._next = 3
        answer = await client.answer(1)
        assert (answer.status, b"head_too_large" in answer.body) == (431, True)
        assert (await client.get()).status == 200


@pytest.mark.parametrize(
    ("length", "parts"),
    [(b"5", [b"abcdef"]), (b"5", [b"abc", b"def"]), (b"5", [b"abc"]), (b"0", [b"a"])],
    ids=["too much", "too much at last", "too little", "none"],
)
async def test_bodies_are_as_long_as_they_say(length: bytes, parts: list[bytes]) -> None:
    """RFC 9113 §8.1.1. The server gets no whole request."""
    whole: list[bytes] = []

    async def say(request: Request) -> None:
        whole.append(await length_body(request))
        request.writer.write(ANSWER)

    async with serving(say) as (l7, _), h2(l7) as client:
        stream = client.ask(with_fields((b":method", b"POST"), (b"content-length", length)), ended=False)
        for number, part in enumerate(parts, 1):
            client.data(stream, part, ended=number == len(parts))
        answer = await client.answer(stream)
        assert (answer.status, b"length_not_kept" in answer.body) == (400, True)
        assert (await l7.record()).error_code == "length_not_kept"
        assert whole == ([] if length != b"0" else [b""][: len(whole)])


async def test_trailers_may_not_be_anything() -> None:
    async with serving(echo) as (l7, _), h2(l7) as client:
        for fields in ([(b":path", b"/")], [(b"X", b"1")], [(b"a", b"1\r\n")]):
            stream = client.ask(with_fields((b":method", b"POST")), b"abc", ended=False)
            client.trailers(stream, fields)
            assert (await client.answer(stream)).status == 400


# -- floods and broken connections

# Far more than may be at once: budgets fill while a busy machine reads.
FLOODS: dict[str, Callable[[Raw], bytes]] = {
    "resets": lambda client: b"".join(
        frame(HEADERS, END_HEADERS | 1, n, hpack.encode(PLAIN)) + frame(RST_STREAM, 0, n, b"\0\0\0\x08")
        for n in range(1, 4001, 2)
    ),
    "pings": lambda client: frame(PING, 0, 0, b"12345678") * 5000,
    "settings": lambda client: frame(SETTINGS) * 5000,
    "empty data": lambda client: frame(HEADERS, END_HEADERS, 1, hpack.encode(PLAIN)) + frame(DATA, 0, 1) * 5000,
    "small windows": lambda client: frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\x01") * 50_000,
    "continuations": lambda client: frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 1, b"\x82" * 16) * 3000,
    "hpack bomb": lambda client: (
        frame(HEADERS, END_HEADERS | 1, 1, hpack.encode(PLAIN) + b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 16)
        * 1
    ),
}


@pytest.mark.parametrize("name", [name for name in FLOODS if name != "hpack bomb"])
async def test_floods_end_the_connection(name: str) -> None:
    async with serving() as (l7, _), h2(l7) as client:
        client.send(FLOODS[name](client))
        await client.ended()
        assert [code for _, code, _ in client.goaways] == [CALM]
        assert l7.hub.counters["http2_floods"] == 1
        async with h2(l7) as other:
            assert (await other.get()).status == 200


async def test_a_bomb_of_fields_is_one_refused_request() -> None:
    async with serving() as (l7, backend), h2(l7) as client:
        client.send(FLOODS["hpack bomb"](client))
        client._next = 3
        assert (await client.answer(1)).status == 431
        assert (await client.get()).status == 200
        assert len(backend.heads) == 1


async def test_a_broken_connection_says_why_and_ends_its_streams() -> None:
    async def never(request: Request) -> None:
        await asyncio.Event().wait()

    async with serving(never) as (l7, backend), h2(l7) as client:
        client.ask()
        await until(lambda: backend.heads)
        client.send(frame(DATA, 0, 9, b"x"))
        await client.ended()
        assert client.goaways == [(1, 1, b"DATA on stream 9")]
        assert (await l7.record()).error_code == "client_closed"
        await until(lambda: not l7.worker.connections)
        assert (l7.hub.counters["http2_errors"], l7.hub.crowd.connections) == (1, 0)


async def test_streams_beyond_the_limit_are_refused() -> None:
    async def never(request: Request) -> None:
        await asyncio.Event().wait()

    async with serving(never) as (l7, _), h2(l7) as client:
        streams = [client.ask() for _ in range(129)]
        assert (await client.answer(streams[-1])).reset == 7
        assert not any(client.answers[stream].over for stream in streams[:-1])


# -- flow


async def test_a_stream_that_is_not_read_stops_its_own_server_alone() -> None:
    size = 8 << 20
    async with serving(big(size)) as (l7, backend), h2(l7, credits=False) as client:
        client.credit(0, 1 << 24)
        slow = client.ask()
        await until(lambda: len(client.answers[slow].body) == 65_535)
        connection = await connection_of(l7)
        held = connection._held
        quick = client.ask()
        client.credit(quick, size)
        assert len((await client.answer(quick)).body) == size
        assert 0 < connection._held <= held + 262_144 < HELD_BYTES
        assert len(client.answers[slow].body) == 65_535
        client.credit(slow, size)
        assert len((await client.answer(slow)).body) == size
        assert backend.connections == 2


async def test_streams_that_are_not_read_hold_no_more_than_they_may() -> None:
    """30 streams with long answers, none of which the client takes."""
    async with serving(big(4 << 20)) as (l7, _), h2(l7, credits=False, INITIAL_WINDOW_SIZE=0) as client:
        streams = [client.ask() for _ in range(30)]
        connection = await connection_of(l7)
        await until(lambda: connection._held > HELD_BYTES // 2)
        for _ in range(50):
            await asyncio.sleep(0.01)
            assert connection._held <= HELD_BYTES + 262_144
        for stream in streams:
            client.reset(stream)
        await until(lambda: not next(iter(l7.worker._sites.values())).streams)
        assert (connection._held, connection.crowded) == (0, False)


async def test_a_body_that_the_server_does_not_read_gets_no_window() -> None:
    """And another stream's does."""
    release = asyncio.Event()

    async def slow(request: Request) -> None:
        if request.path == "/slow":
            await release.wait()
        await echo(request)

    async with serving(slow) as (l7, _), h2(l7) as client:
        stuck = client.ask(
            with_fields((b":method", b"POST"), (b":path", b"/slow"), (b"content-length", b"9000000")), ended=False
        )
        sent = 0
        while client.credited[stuck] + 65_536 > sent and sent < 9_000_000:
            client.data(stuck, b"x" * 16_384)
            sent += 16_384
            await asyncio.sleep(0.002)
        assert sent < 9_000_000
        assert (await client.get((b":method", b"POST"), body=b"y" * 60_000)).body == b"y" * 60_000
        release.set()


async def test_what_is_not_taken_ends_after_its_time() -> None:
    async with serving(big(1 << 20), send_timeout_s=0.3) as (l7, _), h2(l7, INITIAL_WINDOW_SIZE=0) as client:
        stream = client.ask()
        answer = await client.answer(stream)
        assert (answer.status, answer.reset) == (200, 8)
        assert (await l7.record()).error_code == "client_stalled"
        stream = client.ask()
        client.credit(stream, 2 << 20)
        assert len((await client.answer(stream)).body) == 1 << 20


async def test_a_short_answer_that_is_not_taken_ends_after_its_time_too() -> None:
    async with serving(send_timeout_s=0.3) as (l7, _), h2(l7, INITIAL_WINDOW_SIZE=0) as client:
        answer = await client.answer(client.ask())
        assert (answer.status, answer.reset) == (200, 8)


async def test_a_slow_body_is_refused_alone() -> None:
    async with serving(echo, body_timeout_s=0.3) as (l7, _), h2(l7) as client:
        stream = client.ask(with_fields((b":method", b"POST")), b"x", ended=False)
        answer = await client.answer(stream)
        assert (answer.status, b"body_timeout" in answer.body) == (408, True)
        assert (await client.get()).status == 200


@pytest.mark.parametrize(
    ("said", "urgency"),
    [
        ([], (3, True)),
        ([b"u=0"], (0, False)),
        ([b"u=5, i"], (5, True)),
        ([b"i"], (3, True)),
        ([b"u=7;x=1,i=?0"], (7, False)),
        ([b"u=9, i=?1"], (3, True)),
        ([b"u=1", b"i"], (1, True)),
        ([b"\xff"], (3, False)),
    ],
)
def test_priorities(said: list[bytes], urgency: tuple[int, bool]) -> None:
    assert priority_of(said) == urgency


async def test_the_urgent_go_first() -> None:
    """Both wait for the connection's window."""
    async with serving(big(200_000)) as (l7, _), h2(l7, credits=False, INITIAL_WINDOW_SIZE=1 << 20) as client:
        filler = client.ask()
        await until(lambda: len(client.answers[filler].body) == 65_535)
        client.reset(filler)
        later = client.ask(with_fields((b"priority", b"u=6")))
        sooner = client.ask(with_fields((b"priority", b"u=1")))
        (site,) = l7.worker._sites.values()
        numbers = {later, sooner}
        await until(lambda: {each.number for each in site.streams if each.queued} == numbers)  # type: ignore[attr-defined]
        client.credit(0, 16_384)
        await until(lambda: len(client.answers[sooner].body) == 16_384)
        assert client.answers[later].body == b""
        client.credit(0, 400_000)
        assert [len((await client.answer(stream)).body) for stream in (sooner, later)] == [200_000, 200_000]


# -- ends


@pytest.mark.parametrize("how", ["drain", "retire"])
async def test_goaway_in_two_steps(how: str) -> None:
    release = asyncio.Event()

    async def slow(request: Request) -> None:
        await release.wait()
        request.writer.write(ANSWER)

    async with serving(slow) as (l7, backend), h2(l7) as client:
        first = client.ask()
        await until(lambda: backend.heads)
        (connection,) = next(iter(l7.worker._sites.values())).connections
        getattr(connection, how)()
        second = client.ask()  # it may have been on its way
        await until(lambda: len(client.goaways) == 2)
        assert client.goaways[0][:2] == (0x7FFFFFFF, 0)
        assert client.goaways[1][:2] == (second, 0)
        client.ask()
        release.set()
        assert [(await client.answer(stream)).status for stream in (first, second)] == [200, 200]
        await client.ended()
        assert len(backend.heads) == 2


async def test_answers_outlive_what_a_client_says_after_the_end() -> None:
    """A socket that is closed answers it by a reset, at which clients give up what they have not read yet."""
    release = asyncio.Event()

    async def slow(request: Request) -> None:
        await release.wait()
        request.writer.write(ANSWER)

    loop = asyncio.get_running_loop()
    async with serving(slow) as (l7, backend):
        with socket.create_connection(("127.0.0.1", l7.port)) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, PREFACE + frame(SETTINGS))
            await loop.sock_sendall(client, frame(HEADERS, END_HEADERS | 1, 1, hpack.encode(PLAIN)))
            await until(lambda: backend.heads)
            (connection,) = next(iter(l7.worker._sites.values())).connections
            connection.drain()
            release.set()
            await until(lambda: connection.activity == "closing")
            for _ in range(2):  # the first one would be answered by a reset, the second one fail
                await loop.sock_sendall(client, frame(PING, 0, 0, bytes(8)))
            data = b""
            while more := await loop.sock_recv(client, 65_536):
                data += more
        assert b"ok" in data
        await until(lambda: not next(iter(l7.worker._sites.values())).connections)


async def test_draining_ends_what_does_not_end() -> None:
    async def never(request: Request) -> None:
        await asyncio.Event().wait()

    async with serving(never) as (l7, backend), h2(l7) as client:
        stream = client.ask()
        await until(lambda: backend.heads)
        await l7.worker.drain(0.2, 0)
        answer = await client.answer(stream)
        assert (answer.status, b"drain_time_over" in answer.body) == (503, True)
        await client.ended()


async def test_an_idle_connection_is_left() -> None:
    async with serving(idle_timeout_s=0.3) as (l7, _), h2(l7) as client:
        await client.get()
        await client.ended()
        assert [code for _, code, _ in client.goaways] == [0]


async def test_pings_keep_nothing_alive() -> None:
    async with serving(idle_timeout_s=0.3) as (l7, _), h2(l7) as client:
        while not client.closed:
            client.send(frame(PING, 0, 0, b"12345678"))
            await asyncio.sleep(0.1)
        assert [code for _, code, _ in client.goaways] == [0]


async def test_a_head_has_to_end() -> None:
    async with serving(head_timeout_s=0.3, idle_timeout_s=30) as (l7, _), h2(l7) as client:
        client.send(frame(HEADERS, 0, 1, hpack.encode(PLAIN)))
        await client.ended()


async def test_the_client_goes_in_the_midst() -> None:
    gone = asyncio.Event()

    async def never(request: Request) -> None:
        await request.reader.read(1)
        gone.set()

    async with serving(never) as (l7, backend):
        async with h2(l7) as client:
            client.ask()
            client.ask(with_fields((b":method", b"POST")), ended=False)
            await until(lambda: len(backend.heads) == 2)
        await asyncio.wait_for(gone.wait(), 20)
        await until(lambda: len(l7.records) == 2)
        assert {record.error_code for record in l7.records} == {"client_closed"}
        assert (l7.hub.crowd.connections, l7.hub.crowd.held_bytes) == (0, 0)


async def test_an_early_answer_ends_the_request() -> None:
    """RFC 9113 §8.1: the rest of the body is not wanted, and the connection goes on."""

    async def early(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")

    async with serving(early) as (l7, _), h2(l7) as client:
        stream = client.ask(with_fields((b":method", b"POST")), b"x" * 1000, ended=False)
        await until(lambda: client.answers[stream].reset is not None)
        answer = client.answers[stream]
        assert (answer.status, answer.ended, answer.reset) == (413, True, 0)
        client.data(stream, b"y" * 1000)
        assert (await client.get()).status == 413


async def test_a_server_that_breaks_off_resets_the_stream() -> None:
    async def cut(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        request.writer.close()

    async with serving(cut) as (l7, _), h2(l7) as client:
        answer = await client.get()
        assert (answer.status, answer.reset, answer.ended) == (200, 2, False)
        assert (await l7.record()).error_code == "upstream_cut"
        assert (await client.get()).status == 200


# -- WebSockets


def accept(head: bytes) -> bytes:
    (key,) = (line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
    return b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


async def talk(request: Request) -> None:
    opening = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\nX: y\r\n\r\n"
    request.writer.write(opening % accept(request.head) + b"hello")
    while data := await request.reader.read(65536):
        request.writer.write(data.upper())
    request.writer.close()


async def test_a_websocket() -> None:
    async with serving(talk) as (l7, backend), h2(l7) as client:
        stream = client.ask([*WEBSOCKET, (b"origin", b"http://a")], b"early", ended=False)
        answer = client.answers[stream]
        await until(lambda: answer.body == b"helloEARLY")
        assert (answer.status, answer.fields.get(b"x"), b"sec-websocket-accept" in answer.fields) == (200, b"y", False)
        head = backend.heads[0]
        assert head.startswith(b"GET /ws HTTP/1.1\r\nHost: a\r\n")
        assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in head
        (site,) = l7.worker._sites.values()
        assert [each.activity for each in site.streams] == [Activity.TUNNEL]
        client.data(stream, b"more" * 10_000)
        await until(lambda: len(answer.body) == 10 + 40_000, limit_s=20)
        client.data(stream, b"", ended=True)
        await client.answer(stream)
        assert (answer.ended, answer.reset) == (True, None)
        assert (await l7.record()).status == 101
        assert (await client.get((b":path", b"/ws"))).status == 502  # no WebSocket: nobody asked for a 101


async def test_a_websocket_is_opened_by_our_key() -> None:
    async def wrong(request: Request) -> None:
        request.writer.write(SWITCH)

    async with serving(wrong) as (l7, _), h2(l7) as client:
        stream = client.ask([*WEBSOCKET, (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")], ended=False)
        answer = await client.answer(stream)
        assert (answer.status, b"bad_websocket_accept" in answer.body) == (502, True)


async def test_a_websocket_that_is_not_wanted() -> None:
    async with serving() as (l7, _), h2(l7) as client:
        stream = client.ask(WEBSOCKET, ended=False)
        answer = await client.answer(stream)
        assert (answer.status, answer.body) == (200, b"ok")


# -- what is told of it


async def test_views_and_counts_tell_of_streams() -> None:
    release = asyncio.Event()

    async def slow(request: Request) -> None:
        await release.wait()
        request.writer.write(ANSWER)

    async with serving(slow) as (l7, backend), h2(l7) as client:
        ask = l7.worker.answer
        await until(lambda: ask({"ask": "count"})[0]["connections"] == 1)  # type: ignore[index]
        assert [view["activity"] for view in ask({"ask": "views"})] == ["idle"]  # type: ignore[attr-defined]
        for path in (b"/1", b"/2"):
            client.ask(with_fields((b":path", path)))
        await until(lambda: len(backend.heads) == 2)
        (count,) = ask({"ask": "count"})  # type: ignore[misc]
        assert (count["connections"], count["requests"]) == (1, 2)
        views = ask({"ask": "views"})
        assert [(view["path"], view["activity"]) for view in views] == [("/1", "request"), ("/2", "request")]  # type: ignore[attr-defined]
        release.set()
        await until(lambda: [view["activity"] for view in ask({"ask": "views"})] == ["idle"])  # type: ignore[attr-defined]
        view = ask({"ask": "views"})[0]  # type: ignore[index]
        assert (view["requests"], view["client_port"]) == (2, client.writer.get_extra_info("sockname")[1])


async def test_without_prior_knowledge_it_is_no_version_of_ours() -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        status, body = await client.answer()
        assert (status, b"unsupported_version" in body) == (505, True)
        await client.close()


async def test_http_1_goes_on_beside_prior_knowledge() -> None:
    async with serving() as (l7, _):
        assert await l7.get() == (200, b"ok")
        client = await l7.connect()
        assert await client.ask() == (200, b"ok")
        client.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")  # not where a connection begins
        assert (await client.answer())[0] == 505
        await client.close()
        assert l7.hub.counters["http2_connections"] == 0


async def test_a_preface_in_pieces() -> None:
    async with serving() as (l7, _), h2(l7, greeted=False) as client:
        for part in (b"PRI * HT", b"TP/2.0\r\n\r", b"\nSM\r\n\r\n" + frame(SETTINGS)):
            client.send(part)
            await asyncio.sleep(0.01)
        assert (await client.get()).status == 200, client.goaways
        assert (l7.hub.counters["connections"], l7.hub.counters["http2_connections"]) == (1, 1)


async def test_a_retried_request() -> None:
    """The keep-alive race with the server, as in HTTP/1."""
    connections: list[int] = []

    async def once(request: Request) -> None:
        connections.append(request.connection)
        if connections.count(request.connection) == 2:
            request.writer.close()
            return
        request.writer.write(ANSWER)

    async with serving(once) as (l7, _), h2(l7) as client:
        assert [(await client.get()).status for _ in range(2)] == [200, 200]
        assert connections == [1, 1, 2]
        assert l7.hub.counters["retries"] == 1


def test_limits_are_what_the_page_says() -> None:
    assert Limits() == (128, 65_536, 131_072, 65_536, 262_144, (1000, 33), (1000, 100), (10_000, 1_000))
