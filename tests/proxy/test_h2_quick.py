"""The fast lane for streams of HTTP/2, held to the common way: the same events, the same bytes, records and states."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy import hpack
from proxy.conn import ClientConnection
from proxy.errors import Refused
from proxy.h2_conn import Http2Connection
from proxy.h2_frames import END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame
from proxy.h2_lane import answer_payload, request_text
from proxy.h2_message import read_request
from proxy.h2_quick import QuickStream
from proxy.h2_stream import Stream
from proxy.head import read_request as read_text
from proxy.hpack import Pair
from proxy.lane import Answers
from tests.proxy.test_quick import CHUNKED, DATE, HSTS, REQUESTS, STAYS, Loop, Rig, Transport, answer

ASKED = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]


class CommonConnection(Http2Connection):
    """Whose streams know no lane."""

    __slots__ = ()
    stream = Stream


class StreamLoop(Loop):
    def __init__(self) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.call_soon, self.call_later = loop.call_soon, loop.call_later


class StreamRig(Rig):
    """A connection of HTTP/2, with everything around it that it acts on. Clients' frames need not be true."""

    def __init__(self, kind: type[Http2Connection], **options: Any) -> None:
        super().__init__(ClientConnection, **options)
        self.loop = StreamLoop()
        self.hub.loop = self.loop  # type: ignore[assignment]
        self.connection.connection_lost(None)
        self.hub.journal.counters.clear()
        self.transport = Transport()
        self.http2 = kind(self.hub, self.site)
        self.http2.connection_made(self.transport)
        self.http2.data_received(PREFACE + frame(SETTINGS))
        self.last = -1

    async def on(self, event: str, data: Any) -> None:
        connection = self.http2
        streams = list(connection._streams.values())
        if event == "ask":
            self.last += 2
            connection.data_received(frame(HEADERS, END_HEADERS | END_STREAM, self.last, hpack.encode(data)))
        elif event == "reset" and self.last > 0:
            connection.data_received(frame(RST_STREAM, 0, self.last, bytes(4)))
        elif event == "window":
            connection.data_received(frame(WINDOW_UPDATE, 0, 0, data.to_bytes(4, "big")))
        elif event in ("pause_writing", "resume_writing", "drain", "cut"):
            getattr(connection, event)()
        elif event == "settings":
            await super().on(event, b"")
        elif event == "view":
            self.views += [{**stream.view(), "age_s": 0, "busy_s": 0} for stream in streams]
        elif event == "expire" and streams:
            streams[-1].expire()
        elif streams and (upstream := streams[-1]._upstream) is not None:
            if event == "server":
                upstream.data_received(data)
            elif event == "server lost":
                upstream._transport.close()
                upstream.connection_lost(None)
        for _ in range(8):
            await asyncio.sleep(0)

    def state(self) -> dict[str, object]:
        self.hub.journal.settle()
        return {
            "to client": self.transport.sent,
            "client's transport": self.transport.done,
            "to servers": [each._transport.sent for each in self.loop.upstreams],
            # The common way reads no further while an answer waits; the lane has read it whole by then.
            "servers' transports": [
                [what for what in each._transport.done if what not in ("pause", "resume")]
                for each in self.loop.upstreams
            ],
            "streams": [
                (each.number, each._state.name, each.queued, each.urgency, each.shares)
                for each in self.http2._streams.values()
            ],
            "counters": dict(self.hub.counters),
            "records": [
                asdict(replace(each, duration_ms=0, upstream_ms=0, first_byte_s=None, ended=0)) for each in self.records
            ],
            "views": self.views,
            "active": self.pool.active,
            "idle": [len(each.idle) for each in self.pool._members],
            "id": self.hub._id_number,
            "failures": self.failures,
            "held": self.http2._held,
        }

    async def end(self) -> None:
        self.http2.connection_lost(None)
        await self.tasks.close()


async def held_to_the_same(events: list[tuple[str, Any]], **options: Any) -> tuple[StreamRig, int]:
    """The rig with the lane, and how many requests took it."""
    took = 0

    class Counted(QuickStream):
        __slots__ = ()

        def ask(self, fields: list[Pair], size: int) -> bool:
            nonlocal took
            quickly = super().ask(fields, size)
            took += quickly
            return quickly

    class Quick(Http2Connection):
        __slots__ = ()
        stream = Counted

    rigs = [StreamRig(CommonConnection, **options), StreamRig(Quick, **options)]
    for number, event in enumerate(events):
        for rig in rigs:
            await rig.on(*event)
        common, quick = (rig.state() for rig in rigs)
        assert quick == common, (number, event)
    for rig in rigs:
        await rig.end()
    assert rigs[1].state() == rigs[0].state()
    assert not rigs[0].failures
    return rigs[1], took


def fields_of(text: bytes) -> list[Pair]:
    """A request of HTTP/1.1 as fields of HTTP/2, whatever may be wrong with it."""
    line, *lines = text.partition(b"\r\n\r\n")[0].split(b"\r\n")
    method, target, _ = (line + b"  ").split(b" ", 2)
    plain = [(name.lower(), value.strip()) for name, _, value in (each.partition(b":") for each in lines)]
    host = b"".join([value for name, value in plain if name == b"host"][:1])
    pseudo = [(b":method", method), (b":scheme", b"http"), (b":authority", host), (b":path", target)]
    return [*pseudo, *(pair for pair in plain if pair[0] != b"host")]


MESSAGES = {name: fields_of(text) for name, text in REQUESTS.items()}
MORE: dict[str, list[Pair]] = {
    "no scheme": [*ASKED[:1], *ASKED[2:]],
    "another scheme": [ASKED[0], (b":scheme", b"https"), *ASKED[2:]],
    "a scheme that is none": [ASKED[0], (b":scheme", b"ftp"), *ASKED[2:]],
    "pseudo-fields in another order": [ASKED[3], ASKED[1], ASKED[0], ASKED[2]],
    "a pseudo-field twice": [*ASKED, (b":path", b"/")],
    "a pseudo-field behind": [*ASKED, (b"a", b"b"), (b":path", b"/")],
    "an unknown pseudo-field": [*ASKED, (b":a", b"b")],
    "host as well": [*ASKED, (b"host", b"a")],
    "another host": [*ASKED, (b"host", b"b")],
    "host alone": [ASKED[0], ASKED[1], ASKED[3], (b"host", b"a")],
    "upper case": [*ASKED, (b"A", b"b")],
    "a line's end": [*ASKED, (b"a", b"b\r\nc: d")],
    "a line feed": [*ASKED, (b"a", b"b\nc: d")],
    "NUL": [*ASKED, (b"a", b"b\0")],
    "white space before": [*ASKED, (b"a", b" b")],
    "white space behind": [*ASKED, (b"a", b"b\t")],
    "an empty value": [*ASKED, (b"a", b"")],
    "a colon in a name": [*ASKED, (b"a:b", b"c")],
    "an empty name": [*ASKED, (b"", b"c")],
    "a connection's field": [*ASKED, (b"connection", b"close")],
    "te": [*ASKED, (b"te", b"trailers")],
    "te that is no trailers": [*ASKED, (b"te", b"gzip")],
    "a length of nothing": [*ASKED, (b"content-length", b"0")],
    "a length": [*ASKED, (b"content-length", b"5")],
    "crumbs": [*ASKED, (b"cookie", b"a=b"), (b"accept", b"x"), (b"cookie", b"c=d")],
    "crumbs alone": [*ASKED, (b"cookie", b"a=b"), (b"cookie", b"c=d")],
    "priority": [*ASKED, (b"priority", b"u=1, i")],
    "a line's end in the path": [*ASKED[:3], (b":path", b"/ HTTP/1.1\r\nx: y")],
    "a line's end in the method": [(b":method", b"GET / HTTP/1.1\r\nx: y\r\n"), *ASKED[1:]],
    "a line's end in the host": [*ASKED[:2], (b":authority", b"a\r\nx: y"), ASKED[3]],
}
ANSWERS = {
    "plain": answer(), "no date": answer(b""), "empty": answer(body=b""), "tagged": answer(DATE + b"ETag: x\r\n"),
    "chunked": CHUNKED, "no chunks": b"HTTP/1.1 200 OK\r\n" + DATE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "not found": answer(status=b"404 Not Found"), "failed": answer(status=b"500 Oops"),
    "not modified": b"HTTP/1.1 304 Not Modified\r\n" + DATE + b"\r\n", "long": answer(body=b"x" * 20_000),
    "cookie": answer(DATE + b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n"), "closing": answer(b"Connection: close\r\n"),
    "until the end": b"HTTP/1.1 200 OK\r\n\r\nx", "interim": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(),
    "two answers": answer() * 2, "broken": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
}  # fmt: skip
WARM = [("ask", ASKED), ("server", answer())] * 2  # now each of the two servers has a connection to be used again
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {}, "hsts": {"hsts": HSTS}, "trusted": {"trusted": True},
    "own fields": {"log_fields": ("request:Referer", "response:ETag")},
}  # fmt: skip


@pytest.mark.parametrize("name", [*MESSAGES, *MORE])
async def test_requests(name: str) -> None:
    fields = MESSAGES.get(name) or MORE[name]
    await held_to_the_same([*WARM, ("ask", fields), ("view", b""), ("server", answer()), ("ask", fields)])


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("name", ANSWERS)
async def test_answers(name: str, option: str) -> None:
    whole = ANSWERS[name]
    half = len(whole) // 2
    in_two = [("ask", ASKED), ("server", whole[:half]), ("server", whole[half:]), ("server lost", b"")]
    await held_to_the_same([*WARM, ("ask", ASKED), ("server", whole), *in_two], **OPTIONS[option])


async def test_the_lane_is_taken() -> None:
    events = [*WARM, ("ask", ASKED), ("server", answer()), ("ask", MORE["crumbs"]), ("server", CHUNKED)]
    rig, took = await held_to_the_same([*events, ("ask", MORE["priority"]), ("server", ANSWERS["tagged"])])
    assert took == 3, "all but the first two, which had to open a connection to each of two servers"
    assert [record.version for record in rig.records] == ["HTTP/2.0"] * 5


@pytest.mark.parametrize("event", ["reset", "expire", "server lost", "drain", "cut", "settings", "pause_writing"])
async def test_what_happens_meanwhile(event: str) -> None:
    after = [("resume_writing", b""), ("server", answer()), ("ask", ASKED), ("server", answer())]
    await held_to_the_same([*WARM, ("ask", ASKED), (event, b""), ("view", b""), *after])


async def test_a_client_that_does_not_take_what_it_asked_for() -> None:
    full = [*WARM, ("ask", ASKED), ("pause_writing", b""), ("server", answer())]
    await held_to_the_same([*full, ("ask", ASKED), ("server", answer()), ("resume_writing", b"")])


async def test_streams_that_hold_too_much_together() -> None:
    """Then nothing more is read from any server, and no request takes the lane."""
    long = answer(body=b"x" * 15_000)
    events = [*WARM]
    for _ in range(80):
        events += [("ask", ASKED), ("server", long)]
    rig, _ = await held_to_the_same([*events, ("ask", ASKED), ("server", answer()), ("window", 1 << 20)])
    assert any("pause" in each._transport.done for each in rig.loop.upstreams)


async def test_windows_that_are_used_up() -> None:
    long = answer(body=b"x" * 16_000)
    events: list[tuple[str, Any]] = [*WARM]
    for _ in range(6):
        events += [("ask", ASKED), ("server", long)]
    await held_to_the_same([*events, ("window", 10_000), ("ask", ASKED), ("server", long), ("window", 1 << 20)])


async def test_clients_that_stay() -> None:
    cookie = (b"cookie", b"SERVERID=" + STAYS)
    await held_to_the_same([*WARM, ("ask", [*ASKED, cookie]), ("server", answer()), ("ask", [*ASKED, cookie])])


FIELDS = st.lists(
    st.tuples(
        st.one_of(
            st.sampled_from([b"accept", b"cookie", b"referer", b"x-a", b"te", b"host", b"a_b", b"X", b"priority", b""]),
            st.binary(max_size=6),
        ),
        st.one_of(st.sampled_from([b"", b"x", b" x", b"x\r\n", b"a\0", b"trailers", b"u=2"]), st.binary(max_size=8)),
    ),
    max_size=6,
)


@given(FIELDS, st.permutations(ASKED), st.one_of(st.just(b"/"), st.binary(max_size=10)))
def test_a_text_says_what_the_fields_say(fields: list[Pair], pseudo: list[Pair], path: bytes) -> None:
    """Whatever becomes a text is good by the policy for HTTP/2 as well, and means the same."""
    asked = [(name, path if name == b":path" else value) for name, value in pseudo] + fields
    text = request_text(asked, b"http")
    if text is None:
        return
    try:
        head = read_text(text)
    except Refused:
        return  # the lane leaves it to the common way
    assert head is not None
    assert head.size == len(text)
    other = read_request(asked, 0, ended=True, new_key=bytes)
    assert (head.method, head.target, head.host) == (other.method, other.target, other.host)
    assert [(each.lower, each.value) for each in head.block.fields] == [
        (each.lower, each.value) for each in other.block.fields
    ]


@pytest.mark.parametrize("value", [b"b\r\nc: d", b"b\nc", b"b\rc", b"b\0", b" b", b"b ", b"\tb", b"b\t", b""])
@pytest.mark.parametrize("name", [b"x-a", b"cookie"])
def test_a_value_that_its_line_would_not_hold_is_no_text(name: bytes, value: bytes) -> None:
    assert request_text([*ASKED, (name, b"b")], b"http") is not None
    assert request_text([*ASKED, (name, value)], b"http") is None
    assert request_text([*ASKED, (name, value), (b"accept", b"x")], b"http") is None


@pytest.mark.parametrize("size", [0, 1, 15, 16, 255, 5000])
def test_a_chunk_is_its_payload(size: int) -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"\r\n" * size) if size else b"0\r\n\r\n"
    if size:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (2 * size, b"\r\n" * size)
    answers = Answers(b"n", b"", lambda: b"now")
    told = answers.read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body, b"GET")
    assert told is not None
    out, head = told
    assert answer_payload(out[len(head.head) :], chunked=True) == b"\r\n" * size


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from([*MESSAGES.values(), *MORE.values()])),
        st.tuples(st.just("ask"), st.just(ASKED)),
        st.tuples(st.just("server"), st.sampled_from([*ANSWERS.values()])),
        st.tuples(st.just("server"), st.just(answer())),
        st.tuples(st.sampled_from(["reset", "server lost", "pause_writing", "resume_writing", "view"]), st.just(b"")),
        st.tuples(st.just("window"), st.integers(1, 30_000)),
    ),
    max_size=16,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS)
def test_any_turns(events: list[tuple[str, Any]]) -> None:
    asyncio.run(_any_turns(events))


async def _any_turns(events: list[tuple[str, Any]]) -> None:
    await held_to_the_same([*WARM, *events])
