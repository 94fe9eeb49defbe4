"""The policy on messages (docs/messages.md) through a real worker: what clients and servers see, row by row."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from proxy.errors import Code, Source
from tests.proxy import test_h2_conn
from tests.proxy.support import ANSWER, Backend, Client, Request, answer_ok, free_port, model, proxy, with_options
from tests.waiting import until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
WEBSOCKET = (
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

# What a client sends, and the place of what is wrong with it: `·` stands before it, and is not sent.
REFUSED: list[tuple[Code, bytes]] = [
    (Code.REQUEST_LINE, b"\r\n" + "·".encode() + b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    (Code.VERSION, "GET / ·HTTP/2.0\r\nHost: a\r\n\r\n".encode()),
    (Code.VERSION, "GET / ·HTTP/0.9\r\nHost: a\r\n\r\n".encode()),
    (Code.METHOD, "·CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
    (Code.METHOD, "·TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
    (Code.TARGET, "GET ·* HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
    (Code.TARGET, "GET /a·#b HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
    (Code.PATH, "GET /a·%00 HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
    (Code.PATH, "GET http://b/a·\\b HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
    (Code.TARGET_LONG, b"GET /" + b"a" * 16_379 + "·a".encode() + b"a" * 5000),
    (Code.HEAD_LARGE, GET + b"A: " + b"b" * 65_508 + "·b".encode() + b"b" * 5000),
    (Code.FIELDS_MANY, GET + b"A: b\r\n" * 127 + "·A: b\r\n\r\n".encode()),
    (Code.BARE_LF, b"GET / HTTP/1.1" + "·\nHost: a\n\n".encode()),
    (Code.BARE_CR, GET + "A: b·\rc\r\n\r\n".encode()),
    (Code.CONTROL, GET + "A: b·\0c\r\n\r\n".encode()),
    (Code.OBS_FOLD, GET + "A: b\r\n· c\r\n\r\n".encode()),
    (Code.SPACE_COLON, GET + "·A : b\r\n\r\n".encode()),
    (Code.FIELD_NAME, GET + "·: b\r\n\r\n".encode()),
    (Code.FIELD_NAME, GET + "·A[]: b\r\n\r\n".encode()),
    (Code.HOST_MISSING, "GET / ·HTTP/1.1\r\n\r\n".encode()),
    (Code.HOST_REPEATED, GET + "·Host: a\r\n\r\n".encode()),
    (Code.HOST_INVALID, "GET / HTTP/1.1\r\n·Host: a/b\r\n\r\n".encode()),
    *(
        (Code.LENGTH, POST + b"\xc2\xb7Content-Length: " + value + b"\r\n\r\n")
        for value in (b"+1", b"-1", b"1_0", b"0x1", b"", b"1, 1")
    ),
    (Code.LENGTHS_DIFFER, POST + b"Content-Length: 1\r\n" + "·Content-Length: 2\r\n\r\nxx".encode()),
    (Code.LENGTH_AND_CODING, POST + b"Content-Length: 1\r\n" + "·Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()),
    (Code.CODING_1_0, "POST / HTTP/1.0\r\n·Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()),
    (Code.CHUNKED_NOT_LAST, POST + "·Transfer-Encoding: chunked, gzip\r\n\r\n".encode()),
    (Code.CODING_UNKNOWN, POST + "·Transfer-Encoding: gzip, chunked\r\n\r\n".encode()),
    (Code.EXPECTATION, POST + "·Expect: the-worst\r\nContent-Length: 1\r\n\r\n".encode()),
    (Code.UPGRADE, b"\xc2\xb7" + GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
    (Code.LOOP, b"\xc2\xb7" + GET + b"Via: 1.1 other, 1.1 l7-1\r\n\r\n"),
]
# The same in bodies, where places are counted from the body's first byte.
REFUSED_BODIES: list[tuple[Code, bytes]] = [
    (Code.CHUNK_SIZE, "1\r\nx\r\n·x\r\n".encode()),
    (Code.CHUNK_SIZE, "·11111111111111111\r\n".encode()),
    (Code.CHUNK_EXTENSION, "1·;\r\nx\r\n".encode()),
    (Code.CHUNK_EXTENSION, "1·;a\0b\r\nx\r\n".encode()),
    (Code.CHUNK_EXTENSION, "1·;a\rb\r\nx\r\n".encode()),
    (Code.CHUNK_END, "1\r\nx·y\r\n".encode()),
    (Code.BARE_LF, "1·\nx\r\n".encode()),
    (Code.TRAILER, "0\r\n·A : b\r\n\r\n".encode()),
]


def marked(data: bytes) -> tuple[bytes, int]:
    """The bytes without their mark, and where it stood."""
    before, mark, after = data.partition("·".encode())
    assert mark
    return before + after, len(before)


def name(case: object) -> str | None:
    return case.label if isinstance(case, Code) else None


def test_every_rule_on_messages_is_tried() -> None:
    """`readers_disagree` has no message that we know of; see test_head. What only HTTP/2 can say: test_h2_conn;
    credentials, which only rules that ask for them read: test_authentication."""
    ours = {code for code in Code if code.source is Source.CLIENT and code.rule.startswith("RFC")}
    ours -= {Code.AUTHORIZATION}
    of_http_2 = {code for code in ours if code.rule.startswith(("RFC 9113", "RFC 8441"))}
    assert ours - of_http_2 - {Code.CLIENT_CLOSED} == {code for code, _ in REFUSED + REFUSED_BODIES}
    assert {code.label for code in of_http_2} <= {label for _, _, label in test_h2_conn.REFUSED.values()}


def test_every_row_of_the_page_has_its_tests() -> None:
    here = Path(__file__).parent
    rows = [line for line in (here.parents[1] / "docs" / "messages.md").read_text().splitlines() if line[:2] == "| "]
    written = {name for path in here.glob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    named = [set(re.findall(r"`(test_\w+)`", row)) for row in rows[1:]]
    assert len(named) > 25
    assert all(named)
    assert set().union(*named) <= written


async def the_end(client: Client) -> bytes:
    """What comes until the proxy has nothing more to say; it lingers until we close, too (RFC 9112 §9.6)."""
    data = await client.rest()
    await client.close()
    return data


@pytest.mark.parametrize(("code", "data"), REFUSED, ids=name)
async def test_a_refused_head(code: Code, data: bytes) -> None:
    """Answered with its rule, logged with its place, and no server hears of it."""
    sent, place = marked(data)
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(sent)
        status, head, body = await client.whole_answer()
        assert (status, json.loads(body)["error"]) == (code.status, code.label)
        record = await l7.record()
        assert (record.status, record.error_source, record.error_code) == (code.status, "client", code.label)
        assert record.error_detail == f"{code.what} ({code.rule}), byte {place}" == json.loads(body)["detail"]
        assert (b"\r\nAllow: " in head) is (status == 405)
        framed = code in (Code.PATH, Code.UPGRADE, Code.LOOP)  # it is plain where the next request begins
        assert (b"\r\nConnection: close\r\n" in head) is not framed
        if framed:
            assert await client.ask() == (200, b"ok")
            await client.close()
        else:
            assert await the_end(client) == b""
        assert len(backend.heads) == framed


@pytest.mark.parametrize(("code", "data"), REFUSED_BODIES, ids=name)
async def test_a_refused_body(code: Code, data: bytes) -> None:
    """The server, which has seen the beginning, never sees an end that was not there; nobody uses its connection."""
    ended = asyncio.Event()
    got = b""

    async def answer(request: Request) -> None:
        nonlocal got
        got = await request.reader.read()
        ended.set()

    sent, place = marked(data)
    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(CHUNKED)
        await until(lambda: bool(backend.heads))
        client.writer.write(sent)
        status, head, body = await client.whole_answer()
        assert (status, json.loads(body)["error"]) == (code.status, code.label)
        assert b"\r\nConnection: close\r\n" in head
        record = await l7.record()
        assert record.error_detail == f"{code.what} ({code.rule}), byte {place}"
        await asyncio.wait_for(ended.wait(), 5)
        assert b"0\r\n\r\n" not in got
        assert await the_end(client) == b""


# What a server answers, and what is wrong with it. The exchange is over before any of it reaches the client.
BROKEN: list[tuple[Code, bytes]] = [
    (Code.STATUS_LINE, b"ICY 200 OK\r\n\r\n"),
    (Code.STATUS_LINE, b"HTTP/2.0 200 OK\r\n\r\n"),
    (Code.STATUS_LINE, b"HTTP/1.1 099 No\r\n\r\n"),
    (Code.STATUS_LINE, b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17),
    (Code.LENGTH, b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
    (Code.LENGTH, b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"),
    (Code.LENGTHS_DIFFER, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
    (Code.LENGTH_AND_CODING, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (Code.CODING_1_0, b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (Code.CODING_UNKNOWN, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    (Code.CHUNKED_NOT_LAST, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
    (Code.BARE_LF, b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    (Code.BARE_CR, b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n"),
    (Code.CONTROL, b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n"),
    (Code.OBS_FOLD, b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"),
    (Code.SPACE_COLON, b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n"),
    (Code.FIELD_NAME, b"HTTP/1.1 200 OK\r\n: b\r\n\r\n"),
    (Code.HEAD_LARGE, b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000),
    (Code.FIELDS_MANY, b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 129 + b"\r\n"),
    (Code.UNASKED_UPGRADE, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
]


@pytest.mark.parametrize(("code", "data"), BROKEN, ids=name)
async def test_a_broken_answer_is_502(code: Code, data: bytes) -> None:
    """The rule has the name that it has in requests; the client's connection goes on, the server's does not."""
    gone = asyncio.Event()

    async def answer(request: Request) -> None:
        if request.connection > 1:
            return await answer_ok(request)
        request.writer.write(data)
        await request.reader.read()
        gone.set()
        return None

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(GET + b"\r\n")
        status, body = await client.answer()
        while status == 103:
            status, body = await client.answer()
        assert (status, json.loads(body)["error"]) == (502, code.label)
        record = await l7.record()
        assert (record.status, record.error_source, record.error_code) == (502, "upstream", code.label)
        assert code.rule in record.error_detail
        await asyncio.wait_for(gone.wait(), 5)
        assert await client.ask() == (200, b"ok")
        await client.close()


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (Code.CHUNK_SIZE, b"x\r\n"),
        (Code.CHUNK_EXTENSION, b"1;\r\nx\r\n"),
        (Code.CHUNK_END, b"1\r\nxx"),
        (Code.TRAILER, b"0\r\nA : b\r\n\r\n"),
        (Code.UPSTREAM_CUT, b"5\r\nhel"),
    ],
    ids=name,
)
async def test_an_answer_that_breaks_in_its_body_is_cut(code: Code, data: bytes) -> None:
    """RFC 9112 §8: never ended as if it were whole."""

    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        await request.writer.drain()
        request.writer.write(data)
        await request.writer.drain()
        request.writer.close()

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(GET + b"\r\n")
        got = b""
        try:
            while more := await asyncio.wait_for(client.reader.read(1000), 10):
                got += more
        except ConnectionError:
            pass
        assert not got.endswith(b"0\r\n\r\n")
        assert (await l7.record()).error_code == code.label
        await client.close()


# -- connections


async def test_a_request_line_of_8000_bytes_is_served() -> None:
    """RFC 9112 §3."""
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        path = "/" + "a" * (8000 - len("GET / HTTP/1.1"))
        assert await l7.get(path) == (200, b"ok")
    assert backend.heads[0].startswith(f"GET {path} HTTP/1.1\r\n".encode())


async def test_one_empty_line_before_a_request_is_ignored() -> None:
    """RFC 9112 §2.2: as old clients send it after a body."""
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(POST + b"Content-Length: 2\r\n\r\nab\r\n" + GET + b"\r\n")
        assert [await client.answer() for _ in range(2)] == [(200, b"ok")] * 2
        await client.close()


@pytest.mark.parametrize(
    ("asked", "said", "ends"),
    [
        # RFC 9112 §9.3: what keeps a connection alive
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"Connection: close\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", b"Connection: close\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", b"Connection: keep-alive\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", b"Connection: close\r\n", True),
    ],
)
async def test_keep_alive_only_where_it_is_meant(asked: bytes, said: bytes, ends: bool) -> None:
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(asked)
        status, head, _ = await client.whole_answer()
        assert status == 200
        assert b"".join(re.findall(rb"(?i:connection): .*\r\n", head)) == said
        if ends:
            assert await the_end(client) == b""
        else:
            assert await client.ask() == (200, b"ok")
            await client.close()
        assert backend.connections == 1  # towards the server it is kept in any case


@pytest.mark.parametrize("body", [b"Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"\r\nok"])
async def test_an_http_1_0_client_gets_no_chunks(body: bytes) -> None:
    """RFC 9112 §6.1, §7.1.3: the end of the connection is the end of the body, even if it had asked to keep it."""

    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n" + body)
        await request.writer.drain()
        if body.startswith(b"\r\n"):
            request.writer.close()

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        head, _, payload = (await the_end(client)).partition(b"\r\n\r\n")
    assert payload == b"ok"
    assert head.startswith(b"HTTP/1.1 200 ")  # RFC 9110 §15.2: and no 1xx before
    assert b"Transfer-Encoding" not in head
    assert b"\r\nConnection: close" in head


async def test_a_server_that_closes_is_not_asked_on_the_same_connection() -> None:
    """RFC 9112 §9.6."""

    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        assert [await client.ask() for _ in range(3)] == [(200, b"ok")] * 3
        await client.close()
    assert backend.connections == 3


# -- 100-continue and early answers


def expecting(answer: bytes) -> bytes:
    return POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n" + answer


async def test_a_final_answer_instead_of_100_ends_both_connections() -> None:
    """RFC 9110 §10.1.1, RFC 9112 §9.6: whether the body follows is anybody's guess."""

    async def answer(request: Request) -> None:
        if b"Expect" in request.head:
            request.writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        else:
            await answer_ok(request)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(expecting(b""))
        status, head, body = await client.whole_answer()
        assert (status, body) == (401, b"no")
        assert b"\r\nConnection: close\r\n" in head
        client.writer.write(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")  # it is the body, or nothing
        assert await the_end(client) == b""
        assert await l7.get() == (200, b"ok")
    assert backend.connections == 2
    assert len(backend.heads) == 2


async def test_an_expectation_of_http_1_0_is_ignored() -> None:
    """RFC 9110 §10.1.1."""

    async def answer(request: Request) -> None:
        assert b"Expect" not in request.head
        assert await request.body() == b"hello"
        request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        assert (await the_end(client)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_client_need_not_wait_for_100() -> None:
    """RFC 9110 §10.1.1."""

    async def answer(request: Request) -> None:
        assert await request.body() == b"hello"
        request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(expecting(b"hello"))
        assert [(await client.answer())[0] for _ in range(2)] == [100, 200]
        await client.close()
    assert backend.connections == 1


async def test_the_server_that_answered_early_is_not_asked_again_on_that_connection() -> None:
    """Although the rest of the body came and the answer was whole: it may yet read the one for the next request."""
    begun = asyncio.Event()

    async def answer(request: Request) -> None:
        if request.head.startswith(b"POST"):
            request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nea")
            await request.reader.readexactly(4)
            begun.set()
            request.writer.write(b"rl")
        else:
            await answer_ok(request)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(POST + b"Content-Length: 4\r\n\r\nhe")
        await client.reader.readuntil(b"\r\n\r\nea")
        client.writer.write(b"ll")
        assert await the_end(client) == b"rl"
        assert begun.is_set()
        assert await l7.get() == (200, b"ok")
    assert backend.connections == 2


# -- order


async def test_answers_keep_the_order_of_requests_of_every_kind() -> None:
    """RFC 9112 §9.3.2: with bodies, without, refused by us: each in its turn, and one at a time upstream."""
    at_once = most = 0

    async def answer(request: Request) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        body = await request.body()
        if b"\r\nTransfer-Encoding" in request.head:
            assert await request.reader.readexactly(5) == b"0\r\n\r\n"
        await asyncio.sleep(0.02 if request.path == "/slow" else 0)
        at_once -= 1
        text = request.path.encode() + body
        if request.path == "/chunked":
            request.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n/chunked\r\n0\r\n\r\n")
        else:
            request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))

    sent = (
        b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
        b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n"
        b"GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n"
        b"HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n"
        b"POST /q HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(sent)
        got = [await client.answer() for _ in range(4)]
        assert [body if status == 200 else status for status, body in got] == [b"/slow", b"/pabc", 400, b"/chunked"]
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert [(await client.answer())[1] for _ in range(2)] == [b"/q", b"/slow"]
        assert await the_end(client) == b""
    assert most == 1
    assert "/never" not in [each.split(b" ")[1].decode() for each in backend.heads]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_is_not_idempotent_is_never_sent_twice(method: str) -> None:
    """RFC 9110 §9.2.2: not even on a kept connection that died without a word; the client is told."""

    async def answer(request: Request) -> None:
        if request.head.startswith(b"GET"):
            await answer_ok(request)
        else:
            request.writer.transport.abort()

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        assert await client.ask() == (200, b"ok")
        assert (await client.ask(method=method))[0] == 502
        assert (await l7.record(2)).error_code == "upstream_closed"
        await client.close()
    assert sum(head.startswith(method.encode()) for head in backend.heads) == 1


# -- trailers, Via, fields


@pytest.mark.parametrize("te", [b"", b"Connection: TE\r\nTE: trailers\r\n"])
async def test_trailers_reach_only_those_who_ask(te: bytes) -> None:
    """RFC 9110 §6.5."""

    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n")
        request.writer.write(b"0\r\nX-Sum: 1\r\nContent-Length: 7\r\n\r\n")

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(GET + te + b"\r\n")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"X-Sum: " not in head
        end = b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n" if te else b"2\r\nok\r\n0\r\n\r\n"
        assert await client.reader.readexactly(len(end)) == end
        assert (b"\r\nTE: trailers\r\n" in backend.heads[0]) is bool(te)
        client.writer.write(GET + te + b"\r\n")  # where the first one ended is plain to both
        assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await client.close()


async def test_a_loop_ends_when_it_comes_round() -> None:
    """RFC 9110 §7.6.3: a listener that is its own server."""
    port = free_port()
    async with proxy(model(port, [port])) as l7:
        status, body = await l7.get()
        assert (status, json.loads(body)["error"]) == (508, "loop")
        await until(lambda: len(l7.records) == 2)
        assert sorted(record.error_code for record in l7.records) == ["", "loop"]


async def test_fields_between_two_hops_end_here() -> None:
    """RFC 9110 §7.6.1, in both directions."""

    async def answer(request: Request) -> None:
        request.writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive, X-Hop, Content-Length\r\nX-Hop: 1\r\n"
            b"Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX_odd: stays\r\n\r\nok"
        )

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(
            GET + b"Connection: X-Hop, Host, Upgrade\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\n"
            b"Upgrade: h2c\r\nTE: gzip\r\nX_Forwarded_For: 1.1.1.1\r\nX-Stays: 1\r\n\r\n"
        )
        status, head, body = await client.whole_answer()
        assert (status, body) == (200, b"ok")
        await client.close()
    lower = head.lower() + backend.heads[0].lower()
    for gone in (b"x-hop", b"keep-alive", b"proxy-connection", b"upgrade", b"\r\nte:", b"x_forwarded"):
        assert gone not in lower
    assert b"\r\nX-Stays: 1\r\n" in backend.heads[0]
    assert b"\r\nHost: a\r\n" in backend.heads[0]
    assert b"\r\nX_odd: stays\r\n" in head  # a server's own affair


async def test_fields_with_an_underscore_are_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A server that reads its environment cannot tell X_Real_IP from X-Real-IP. RFC 9110 §5.1 leaves it to us."""
    caplog.set_level("INFO")
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        for _ in range(3):
            assert (await client.ask(fields=b"X_Real_IP: 1.1.1.1\r\nX-A: b\r\nx_: y\r\n"))[0] == 200
        await client.close()
        assert l7.hub.counters["underscored_fields"] == 6
    assert [m for m in caplog.messages if "dropped" in m] == ["web: dropped from a request of 127.0.0.1: X_Real_IP, x_"]
    assert not any(b"X_Real" in head for head in backend.heads)


# -- upgrades


async def test_an_upgrade_from_http_1_0_is_ignored() -> None:
    """RFC 9110 §7.8."""
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(b"GET / HTTP/1.0\r\nHost: a\r\n" + WEBSOCKET + b"\r\n")
        assert (await the_end(client)).startswith(b"HTTP/1.1 200 ")
    assert b"pgrade" not in backend.heads[0]


async def test_a_server_may_decline_to_upgrade() -> None:
    """RFC 6455 §4.2.2: an ordinary answer to an ordinary request; both connections go on."""
    async with Backend().running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        for _ in range(2):
            client.writer.write(GET + WEBSOCKET + b"\r\n")
            assert await client.answer() == (200, b"ok")
        await client.close()
    assert backend.connections == 1


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_tunnel_is_never_pooled(who: str) -> None:
    """Whoever ends it, and whatever looks like a request in it."""

    async def answer(request: Request) -> None:
        if b"websocket" not in request.head:
            return await answer_ok(request)
        request.writer.write(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert await request.reader.readexactly(len(GET) + 2) == GET + b"\r\n"  # through, unread
        request.writer.write(ANSWER)
        if who == "server":
            await request.writer.drain()
            request.writer.close()
        return None

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(GET + WEBSOCKET + b"\r\n")
        assert (await client.whole_answer())[0] == 101
        client.writer.write(GET + b"\r\n")
        assert await client.reader.readexactly(len(ANSWER)) == ANSWER
        if who == "server":
            assert await client.rest() == b""
        await client.close()
        await l7.record()
        assert l7.records[0].status == 101
        assert await l7.get() == (200, b"ok")
    assert backend.connections == 2


@pytest.mark.parametrize("who", ["client", "server"])
async def test_either_half_of_a_tunnel_may_close_first(who: str) -> None:
    """What a side has said before its end arrives; after the client's end, so does what the server says then."""
    got = b""

    async def answer(request: Request) -> None:
        nonlocal got
        request.writer.write(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        if who == "client":
            got = await request.reader.read()  # until the client's end
        request.writer.write(b"y" * 300_000)
        await request.writer.drain()
        request.writer.close()

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(GET + WEBSOCKET + b"\r\n")
        assert (await client.whole_answer())[0] == 101
        if who == "client":
            client.writer.write(b"x" * 300_000)
            client.writer.write_eof()
        assert await the_end(client) == b"y" * 300_000
        assert got == (b"x" * 300_000 if who == "client" else b"")
        assert ((await l7.record()).status, l7.records[0].error_code) == (101, "")


async def test_a_tunnel_whose_client_has_ended_does_not_wait_for_ever() -> None:
    """A server that takes no notice has `request_timeout_s`."""
    ended = asyncio.Event()

    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await request.writer.drain()
        await ended.wait()

    async with (
        Backend(answer).running() as backend,
        proxy(model(free_port(), [backend.port], request_timeout_s=1)) as l7,
    ):
        client = await l7.connect()
        client.writer.write(GET + WEBSOCKET + b"\r\n")
        assert (await client.whole_answer())[0] == 101
        client.writer.write_eof()
        assert await the_end(client) == b""
        ended.set()


async def test_a_head_that_trickles_from_a_server_has_its_time_as_a_whole() -> None:
    """`request_timeout_s` is from the request's end to the answer's head, not between two bytes of it."""

    async def answer(request: Request) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
            request.writer.write(bytes((byte,)))
            await asyncio.sleep(0.1)

    async with (
        Backend(answer).running() as backend,
        proxy(model(free_port(), [backend.port], request_timeout_s=1)) as l7,
    ):
        assert (await l7.get())[0] == 504
        assert l7.records[0].error_code == "upstream_timeout"


async def test_a_client_that_reads_nothing_is_cut() -> None:
    """`send_timeout_s`; the server, whose connection cannot be used again, is told by its end."""
    told = asyncio.Event()

    async def answer(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        try:
            while True:
                request.writer.write(bytes(100_000))
                await request.writer.drain()
        except ConnectionError:
            told.set()

    async with (
        Backend(answer).running() as backend,
        proxy(with_options(model(free_port(), [backend.port], request_timeout_s=60), send_timeout_s=1)) as l7,
    ):
        client = await l7.connect()
        client.writer.write(GET + b"\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        record = await l7.record()
        assert (record.error_source, record.error_code) == ("client", "client_stalled")
        await asyncio.wait_for(told.wait(), 10)
        client.writer.transport.abort()


async def test_nothing_is_tunnelled_before_101() -> None:
    """What a client sends ahead waits: a server that declines never sees it as a request."""
    decided = asyncio.Event()

    async def answer(request: Request) -> None:
        await decided.wait()
        request.writer.write(ANSWER)

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        client = await l7.connect()
        client.writer.write(GET + WEBSOCKET + b"\r\nGET /ahead HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: bool(backend.heads))
        assert len(backend.heads) == 1
        decided.set()
        assert [await client.answer() for _ in range(2)] == [(200, b"ok")] * 2
        await client.close()
    assert [head.split(b" ")[1] for head in backend.heads] == [b"/", b"/ahead"]
    assert b"websocket" not in backend.heads[1]
