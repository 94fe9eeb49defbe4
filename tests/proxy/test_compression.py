"""Which answers are compressed, what that changes, and that clients decode what servers sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from email.message import Message

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.model import (
    Coding,
    Compression,
    HeaderAction,
    HeaderChange,
    Listener,
    Model,
    Personal,
    Protocol,
    Rule,
    StickySession,
)
from proxy.answering import Answering
from proxy.body import ChunkedReader, chunk
from proxy.changes import Changes
from proxy.commands import Finish, FlushSoon, SendClient
from proxy.compression import Compressing, Fate, case_of
from proxy.exchange import Exchange
from proxy.head import read_request, read_response
from proxy.origin import Origin
from proxy.rules import Router
from tests.proxy.decoding import decoded
from tests.proxy.h2_support import h2, with_fields
from tests.proxy.support import Backend, Client, Request, free_port, model, proxy, with_options, with_service
from tests.waiting import until

ORIGIN = Origin(b"192.0.2.1", b"https", b"443", False, b"l7-1")
TEXT = b"Not all that glisters is gold; " * 200
GZIP = b"Accept-Encoding: gzip\r\n"


def fate(
    request: bytes = GZIP, answer: bytes = b"", *, status: int = 200, line: bytes = b"GET / HTTP/1.1",
    kind: bytes = b"Content-Type: text/html\r\nContent-Length: 6000\r\n", certified: bool = False, **options: object,
) -> Fate | None:  # fmt: skip
    asked = read_request(line + b"\r\nHost: a\r\n" + request + b"\r\n")
    head = read_response(b"HTTP/1.1 %d X\r\n%b%b\r\n" % (status, kind, answer), b"GET")
    assert asked is not None
    assert head is not None
    compressing = Compressing(replace(Compression(), **options))
    case = case_of(asked, asked.block.minor, certified=certified)
    return compressing.fate(case, head.status, head.block.length, head)


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (b"Content-Type: image/png\r\n", {}),
        (b"Content-Type: application/grpc+proto\r\n", {"types": ("application/*",)}),
        (b"", {}),
        (b"Content-Type: text/html\r\nContent-Type: text/html\r\n", {}),
        (b"Content-Type: text/html\r\nContent-Length: 1023\r\n", {}),
        (b"Content-Type: text/html\r\nContent-Length: 0\r\n", {"min_bytes": 0}),
        (b"Content-Type: text/html\r\nContent-Encoding: br\r\n", {}),
        (b"Content-Type: text/html\r\nContent-Range: bytes 0-5/10\r\n", {}),
        (b"Content-Type: text/html\r\nCache-Control: max-age=5, No-Transform\r\n", {}),
        (b"Content-Type: text/css\r\n", {"types": ("text/html", "image/*")}),
    ],
    ids=str,
)
def test_unfit_answers_pass_untouched(answer: bytes, options: dict[str, object]) -> None:
    assert fate(kind=answer, **options) is None


@pytest.mark.parametrize("status", [204, 205, 206, 226, 301, 302])
def test_answers_without_content_or_in_part_pass_untouched(status: int) -> None:
    assert fate(status=status) is None


@pytest.mark.parametrize(
    "kind",
    ["text/html; charset=utf-8", "TEXT/HTML", "text/x-unheard-of", "application/problem+json", "image/svg+xml",
     "application/rss+xml;q=1", "application/json"],
)  # fmt: skip
@pytest.mark.parametrize("status", [200, 203, 404, 500])
def test_fit_answers_are_compressed(kind: str, status: int) -> None:
    found = fate(kind=b"Content-Type: %b\r\n" % kind.encode(), status=status)
    assert found is not None
    assert found.coding is Coding.GZIP
    assert found.changes.lines == b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"


COOKIE, SECRET, SETS = b"Cookie: a=b\r\n", b"Authorization: Basic eDp5\r\n", b"Set-Cookie: a=b\r\n"
HTML, CSS = b"Content-Type: text/html\r\n", b"Content-Type: text/css\r\n"
PUBLIC = b"Content-Type: text/html\r\nCache-Control: public, max-age=60\r\n"


@pytest.mark.parametrize(
    ("request_", "answer", "kind", "never", "static", "always"),
    [
        (b"", b"", HTML, True, True, True),
        (COOKIE, b"", HTML, False, False, True),
        (SECRET, b"", HTML, False, False, True),
        (b"", SETS, HTML, False, False, True),
        (COOKIE, b"", CSS, False, True, True),
        (SECRET, b"", b"Content-Type: font/ttf\r\n", False, True, True),
        (COOKIE, b"", PUBLIC, False, True, True),
        (COOKIE, b"", b"Content-Type: text/plain\r\nCache-Control: private\r\n", False, False, True),
    ],
    ids=str,
)
def test_what_may_hold_a_secret_is_compressed_only_as_the_configuration_says(
    request_: bytes, answer: bytes, kind: bytes, never: bool, static: bool, always: bool
) -> None:
    for personal, wanted in zip(Personal, (never, static, always), strict=True):
        found = fate(GZIP + request_, answer, kind=kind, personal=personal)
        assert found is not None
        assert (found.coding is not None) is wanted, personal
        assert found.changes.lines.endswith(b"Vary: Accept-Encoding\r\n")
        assert bool(found.why) is not wanted


def test_a_certificate_is_a_credential() -> None:
    found = fate(certified=True)
    assert found is not None
    assert found.coding is None


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (b"", b"GET / HTTP/1.1"),
        (b"Accept-Encoding: br;q=0\r\n", b"GET / HTTP/1.1"),
        (GZIP, b"GET / HTTP/1.0"),
        (GZIP + b"Cache-Control: no-transform\r\n", b"GET / HTTP/1.1"),
    ],
)
def test_others_learn_that_it_depends(request_: bytes, line: bytes) -> None:
    found = fate(request_, line=line)
    assert found is not None
    assert found.coding is None
    assert found.changes == Changes(frozenset(), b"Vary: Accept-Encoding\r\n")


@pytest.mark.parametrize("vary", [b"Accept-Encoding", b"origin, accept-encoding", b"*"])
def test_what_says_so_already_says_it_once(vary: bytes) -> None:
    found = fate(b"", b"Vary: %b\r\n" % vary)
    assert found is not None
    assert found.changes.lines == b""


# -- through an exchange


class Told:
    """An exchange of a listener that compresses, whose request has been sent, and what its client is told."""

    def __init__(self, fields: bytes = GZIP, rule: Rule | None = None, *, line: bytes = b"GET / HTTP/1.1") -> None:
        head = read_request(line + b"\r\nHost: a\r\n" + fields + b"\r\n")
        assert head is not None
        listener = Listener("web", "main", Protocol.HTTP, 80, compression=Compression())
        router = Router([rule] if rule else (), "app", answering=Answering.of_listener(listener))
        self.exchange = Exchange(head, ORIGIN, router, b"id", lambda: b"now")
        self.sent = b""
        self.soon = 0  # how often it is to be asked for what is held back
        self.finished: Finish | None = None
        self.exchange.start()
        self.exchange.assigned(("10.0.0.1", 80), False)

    def on(self, *data: bytes) -> Told:
        """The server has sent this."""
        for each in data:
            self._take(self.exchange.upstream_data(each))
        return self

    def _take(self, commands: Sequence[object]) -> None:
        self.sent += b"".join(each.data for each in commands if isinstance(each, SendClient))
        self.soon += sum(isinstance(each, FlushSoon) for each in commands)
        self.finished = next((each for each in commands if isinstance(each, Finish)), self.finished)

    def flush(self) -> None:
        self._take(self.exchange.flush())

    def close(self) -> None:
        self._take(self.exchange.upstream_closed())

    @property
    def fields(self) -> Message:
        fields = Message()
        for line in self.sent.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
            name, _, value = line.decode("latin-1").partition(": ")
            fields[name] = value
        return fields

    @property
    def payload(self) -> bytes:
        """The body as far as it has come, decoded."""
        body = self.sent.partition(b"\r\n\r\n")[2]
        if self.fields["Transfer-Encoding"] == "chunked":
            reader = ChunkedReader()
            body, rest = reader.receive(body)
            assert not rest
            assert reader.done is (self.finished is not None)
        coding = self.fields["Content-Encoding"]
        return decoded(Coding(coding), body, whole=self.finished is not None) if coding else body


def ok(*fields: bytes, length: int | None = len(TEXT), kind: bytes = b"text/html") -> bytes:
    """The head of an answer."""
    lines = [b"HTTP/1.1 200 OK", b"Date: d", b"Content-Type: " + kind, *fields]
    lines += [b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_the_head_tells_of_another_representation() -> None:
    told = Told().on(
        ok(b'ETag: "abc"', b"Accept-Ranges: bytes", b"Content-MD5: x", b"Digest: x", b"Content-Digest: x",
           b"Repr-Digest: x", b"Vary: Origin", b"X-Other: stays") + TEXT
    )  # fmt: skip
    assert told.payload == TEXT
    fields = told.fields
    assert fields.get_all("Vary") == ["Origin", "Accept-Encoding"]
    assert (fields["Content-Encoding"], fields["ETag"], fields["X-Other"]) == ("gzip", 'W/"abc"', "stays")
    assert fields["Transfer-Encoding"] == "chunked"
    gone = "Content-Length", "Accept-Ranges", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest"
    assert not [name for name in gone if name in fields]
    assert told.finished == Finish(True)
    assert len(told.sent) < len(TEXT) / 2


def test_a_weak_tag_stays_as_it_is_and_two_tags_are_none() -> None:
    assert Told().on(ok(b'ETag: W/"abc"') + TEXT).fields["ETag"] == 'W/"abc"'
    assert Told().on(ok(b'ETag: "a"', b'ETag: "b"') + TEXT).fields["ETag"] is None


def test_a_rule_takes_nothing_back() -> None:
    """What it says of an ETag counts; Vary and Content-Encoding say what is so."""
    changes = (
        HeaderChange("Vary", value="Origin"), HeaderChange("ETag", value='"mine"'),
        HeaderChange("Content-Encoding", HeaderAction.REMOVE),
    )  # fmt: skip
    told = Told(rule=Rule("r", "web", "app", response_headers=changes)).on(
        ok(b'ETag: "abc"', b"Vary: Accept-Encoding") + TEXT
    )
    assert told.payload == TEXT
    assert told.fields.get_all("Vary") == ["Origin", "Accept-Encoding"]
    assert told.fields.get_all("ETag") == ['"mine"']


@pytest.mark.parametrize(
    ("asked", "tag", "told"),
    [
        (b'W/"abc"', b'"abc"', 'W/"abc"'),
        (b'"x", W/"abc"', b'"abc"', 'W/"abc"'),
        (b'"abc"', b'"abc"', '"abc"'),
        (b'"abc", W/"abc"', b'"abc"', '"abc"'),
        (b'W/"abc"', b'W/"abc"', 'W/"abc"'),
        (b"*", b'"abc"', '"abc"'),
        (b'W/"ab"', b'"abc"', '"abc"'),
    ],
)
def test_a_304_names_the_tag_that_the_client_has(asked: bytes, tag: bytes, told: str) -> None:
    made = Told(GZIP + b"If-None-Match: %b\r\n" % asked)
    made.on(b"HTTP/1.1 304 Not Modified\r\nDate: d\r\nETag: %b\r\n\r\n" % tag)
    assert made.fields["ETag"] == told
    assert (made.fields["Vary"] == "Accept-Encoding") is (told != tag.decode())
    assert "Content-Encoding" not in made.fields


def test_the_head_is_as_for_get() -> None:
    told = Told(line=b"HEAD / HTTP/1.1").on(ok(b'ETag: "abc"'))
    assert (told.fields["Content-Encoding"], told.fields["ETag"]) == ("gzip", 'W/"abc"')
    assert "Content-Length" not in told.fields
    assert told.sent.endswith(b"\r\n\r\n")
    assert told.finished == Finish(True)


def test_a_rule_compresses_otherwise_or_not_at_all() -> None:
    off = Rule("r", "web", "app", compression=Compression(codings=()))
    told = Told(rule=off).on(ok() + TEXT)
    assert (told.fields["Content-Encoding"], told.fields["Vary"], told.payload) == (None, None, TEXT)
    other = Rule("r", "web", "app", compression=Compression(codings=(Coding.BR,)))
    told = Told(b"Accept-Encoding: gzip, br;q=0.5\r\n", rule=other).on(ok() + TEXT)
    assert (told.fields["Content-Encoding"], told.payload) == ("br", TEXT)


def test_trailers_pass_but_for_digests() -> None:
    body = chunk(TEXT) + b"0\r\nX-Sum: 1\r\nRepr-Digest: x\r\n\r\n"
    told = Told(GZIP + b"TE: trailers\r\nConnection: TE\r\n").on(ok(length=None) + body)
    assert told.payload == TEXT
    assert told.sent.endswith(b"0\r\nX-Sum: 1\r\n\r\n")


def test_what_is_held_back_is_asked_for_once() -> None:
    told = Told().on(ok(length=None) + chunk(b"<p>one"))
    assert told.fields["Content-Encoding"] == "gzip"  # the head is not held back
    assert (told.payload, told.soon) == (b"", 1)
    told.on(chunk(b"<p>two"))
    assert told.soon == 1
    told.flush()
    assert told.payload == b"<p>one<p>two"
    before = told.sent
    told.flush()
    assert told.sent == before
    told.on(chunk(b"<p>three"))
    assert told.soon == 2
    told.on(chunk(b"<p>four") + b"0\r\n\r\n")
    told.flush()  # nobody is there any more
    assert told.payload == b"<p>one<p>two<p>three<p>four"


@pytest.mark.parametrize("coding", list(Coding))
def test_events_go_out_one_by_one(coding: Coding) -> None:
    told = Told(b"Accept-Encoding: %b\r\n" % coding.encode())
    told.on(ok(length=None, kind=b"text/event-stream; charset=utf-8"))
    for number in range(1, 4):
        told.on(chunk(b"data: event\n\n"))
        assert told.payload == b"data: event\n\n" * number
    assert told.soon == 0


def test_an_answer_that_is_cut_is_cut() -> None:
    """The client must not take it for whole."""
    told = Told().on(ok() + TEXT[:50])
    told.close()
    told.flush()
    assert told.finished is None
    assert not told.sent.endswith(b"0\r\n\r\n")


PIECES = st.lists(st.one_of(st.binary(min_size=1, max_size=200), st.just(TEXT)), min_size=1, max_size=6)


@settings(max_examples=150)
@given(PIECES, st.sampled_from(Coding), st.sampled_from(["length", "chunked", "close"]), st.data())
def test_clients_decode_what_servers_sent(
    pieces: list[bytes], coding: Coding, framing: str, data: st.DataObject
) -> None:
    """However it is framed and cut, and whenever what is held back is asked for."""
    body = b"".join(pieces)
    if framing == "length":
        stream = ok(length=len(body)) + body
    elif framing == "chunked":
        stream = ok(length=None) + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"
    else:
        stream = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Type: text/html\r\n\r\n" + body
    told = Told(b"Accept-Encoding: %b\r\n" % coding.encode())
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        told.on(stream[start:end])
        if data.draw(st.booleans()):
            told.flush()
    if framing == "close":
        told.close()
    assert told.finished is not None
    assert told.payload == body
    assert (told.fields["Content-Encoding"] == coding) is (framing != "length" or len(body) >= 1024)


# -- through a worker


async def serve(request: Request) -> None:
    """`/page` is fit, `/events` goes on after its first event when asked to, `/part` is one."""
    writer = request.writer
    if request.path == "/page":
        writer.write(ok(b'ETag: "1"') + (TEXT if not request.head.startswith(b"HEAD") else b""))
    elif request.path == "/slow":
        writer.write(ok() + TEXT[:100])
        await held[-1].wait()
        writer.write(TEXT[100:])
    elif request.path == "/part":
        head = ok(b"Content-Range: bytes 0-9/10000", length=10).replace(b"200 OK", b"206 Partial Content")
        writer.write(head + TEXT[:10])
    else:
        writer.write(ok(length=2) + b"ok")


held: list[asyncio.Event] = []  # the newest is this test's


async def get(client: Client, path: str, fields: bytes = b"", method: str = "GET") -> tuple[bytes, bytes]:
    """The head and the decoded payload."""
    _, head, body = await (await _ask(client, path, fields, method)).whole_answer()
    found = re.search(rb"\r\nContent-Encoding: (\w+)", head)
    return head, decoded(Coding(found[1].decode()), body) if found and body else body


async def _ask(client: Client, path: str, fields: bytes, method: str) -> Client:
    client.writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\n".encode() + fields + b"\r\n")
    return client


def compressing(port: int, backend: int, **options: object) -> Model:
    return with_options(model(port, [backend]), compression=replace(Compression(), **options))


async def test_curl_decodes_what_it_gets() -> None:
    """Whichever coding this curl likes."""
    async with Backend(serve).running() as backend, proxy(compressing(free_port(), backend.port)) as l7:
        for asked in (["--compressed"], ["--compressed", "-H", "Accept-Encoding: gzip"], []):
            run = await asyncio.create_subprocess_exec(
                "curl", "-sS", "-D-", *asked, f"http://127.0.0.1:{l7.port}/page", stdout=asyncio.subprocess.PIPE
            )
            out, _ = await asyncio.wait_for(run.communicate(), 20)
            head, _, body = out.partition(b"\r\n\r\n")
            assert body == TEXT
            assert (b"\r\nContent-Encoding: " in head) is bool(asked)
            assert b"\r\nVary: Accept-Encoding\r\n" in head
        assert l7.hub.counters["compressed_answers"] == 2
        assert l7.hub.counters["compression_bytes_in"] == 2 * len(TEXT)
        assert 0 < l7.hub.counters["compression_bytes_out"] < len(TEXT)


async def test_one_connection_carries_all_kinds_of_answers() -> None:
    """The fast lane takes what has nothing to do with compression, before and after; all are logged once."""
    sticky = StickySession()
    async with Backend(serve).running() as backend:
        base = with_service(compressing(free_port(), backend.port), sticky_session=sticky)
        async with proxy(base) as l7:
            client = await l7.connect()
            assert b"Content-Encoding" not in (await get(client, "/", GZIP))[0]
            head, body = await get(client, "/page", GZIP)
            assert b"\r\nContent-Encoding: gzip\r\n" in head
            assert body == TEXT
            cookie = b"Cookie: %b\r\n" % re.search(rb"SERVERID=[^;]+", head)[0]  # type: ignore[index]
            head, body = await get(client, "/page", GZIP + cookie)  # which is ours, and no secret
            assert b"\r\nContent-Encoding: gzip\r\n" in head
            head, body = await get(client, "/page", GZIP + cookie.replace(b"\r\n", b"; a=b\r\n"))
            assert b"Content-Encoding" not in head
            assert body == TEXT
            head, _ = await get(client, "/page", GZIP, "HEAD")
            assert b"\r\nContent-Encoding: gzip\r\n" in head
            assert b'\r\nETag: W/"1"\r\n' in head
            head, body = await get(client, "/part", GZIP + b"Range: bytes=0-9\r\n")
            assert (head.split()[1], body) == (b"206", TEXT[:10])
            assert b"Content-Encoding" not in head
            assert (await get(client, "/", GZIP))[1] == b"ok"
            await client.close()
            await l7.record(7)
            assert l7.hub.counters["compressed_answers"] == 2
            assert len(l7.records) == 7
        assert backend.connections == 1


async def test_what_a_server_has_sent_does_not_wait_for_what_it_will() -> None:
    held.append(asyncio.Event())
    async with Backend(serve).running() as backend, proxy(compressing(free_port(), backend.port)) as l7:
        client = await _ask(await l7.connect(), "/slow", GZIP, "GET")
        await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), 20)
        got = b""
        while decoded(Coding.GZIP, got, whole=False) != TEXT[:100]:
            size = int(await asyncio.wait_for(client.reader.readuntil(b"\r\n"), 20), 16)
            got += (await client.reader.readexactly(size + 2))[:-2]
        held[-1].set()
        assert decoded(Coding.GZIP, got + await client._chunks()) == TEXT
        await client.close()


async def test_it_is_turned_on_and_off_under_a_connection() -> None:
    async with Backend(serve).running() as backend:
        off = model(free_port(), [backend.port])
        async with proxy(off) as l7:
            client = await l7.connect()
            for configuration, wanted in ((off, False), (compressing(l7.port, backend.port), True), (off, False)):
                await l7.worker.apply(configuration)
                head, body = await get(client, "/page", GZIP)
                assert (b"Content-Encoding" in head, b"Vary" in head, body) == (wanted, wanted, TEXT)
            await client.close()


async def test_streams_of_http_2() -> None:
    """Compressed, held back for a moment, and as HEAD has it; beside answers that are not."""
    held.append(asyncio.Event())
    async with Backend(serve).running() as backend:
        made = with_options(compressing(free_port(), backend.port), http2_prior_knowledge=True)
        async with proxy(made) as l7, h2(l7) as client:
            asked = (b"accept-encoding", b"br")
            for _ in range(2):
                got = await client.get((b":path", b"/page"), asked)
                assert decoded(Coding.BR, got.body) == TEXT
                assert (got.fields[b"content-encoding"], got.fields[b"etag"]) == (b"br", b'W/"1"')
                assert b"content-length" not in got.fields
                assert (await client.get()).body == b"ok"
            got = await client.get((b":path", b"/page"), (b":method", b"HEAD"), asked)
            assert (got.fields[b"content-encoding"], got.body) == (b"br", b"")
            assert b"content-length" not in got.fields
            answer = client.answers[stream := client.ask(with_fields((b":path", b"/slow"), asked))]
            await until(lambda: decoded(Coding.BR, answer.body, whole=False) == TEXT[:100], limit_s=20)
            held[-1].set()
            assert decoded(Coding.BR, (await client.answer(stream)).body) == TEXT
