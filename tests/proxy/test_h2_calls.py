"""Our side of a connection to a server of HTTP/2: before the h2 library, and before servers that mean ill."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import given
from hypothesis import strategies as st

from proxy.h2_calls import SERVERS, Calls
from proxy.h2_events import Broken, Came, Event, Headed, Left, WasReset
from proxy.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    NUMBER,
    PING,
    PREFACE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    TWO_NUMBERS,
    WINDOW_UPDATE,
    Error,
    Setting,
    frame,
)
from proxy.h2_session import Limits
from proxy.hpack import encode

GET = encode([(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")])
OK = encode([(b":status", b"200")])
GREETING = frame(SETTINGS)
LIMITS = SERVERS._replace(stream_window=1000, window=100_000, resets=(10, 0), idle_frames=(10, 0), windows=(10, 0))


def calls(limits: Limits = SERVERS) -> Calls:
    """A connection whose server has said its settings."""
    made = Calls(limits, 0.0)
    assert made.take().startswith(PREFACE)
    made.receive(GREETING, 0.0)
    made.take()
    return made


def test_before_its_settings_a_server_gets_no_request() -> None:
    made = Calls(SERVERS, 0.0)
    assert not made.greeted
    made.receive(frame(SETTINGS, payload=SETTING.pack(Setting.MAX_CONCURRENT_STREAMS, 1)), 0.0)
    assert made.greeted
    assert made.begin(GET, ended=True) == 1
    assert not made.takes


def test_streams_have_odd_numbers_and_those_that_are_over_make_room() -> None:
    made = calls(SERVERS._replace(streams=2))
    assert [made.begin(GET, ended=True), made.begin(GET, ended=True)] == [1, 3]
    assert not made.takes
    assert made.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, OK), 0) == [Headed(1, [(b":status", b"200")], True)]
    assert made.takes
    assert made.begin(GET, ended=True) == 5


def test_numbers_end() -> None:
    made = calls()
    made._last = (1 << 31) - 3
    assert made.begin(GET, ended=True) == (1 << 31) - 1
    assert made.exhausted
    assert not made.takes


@pytest.mark.parametrize(
    ("lasts", "unserved"),
    [((3,), [[5, 7]]), ((0,), [[1, 3, 5, 7]]), (((1 << 31) - 1, 5), [[], [7]]), ((3, 7), [[5, 7], []])],
)
def test_a_server_that_leaves_says_what_it_has_not_touched(lasts: tuple[int, ...], unserved: list[list[int]]) -> None:
    made = calls()
    for _ in range(4):
        made.begin(GET, ended=True)
    said = [made.receive(frame(GOAWAY, payload=TWO_NUMBERS.pack(last, 0)), 0) for last in lasts]
    assert said == [[Left(0, those)] for those in unserved]
    assert not made.takes


def test_the_connections_window_is_given_back_at_once_and_a_streams_when_it_was_read() -> None:
    made = calls(LIMITS)
    made.begin(GET, ended=True)
    made.receive(frame(HEADERS, END_HEADERS, 1, OK), 0)
    for _ in range(200):
        (event,) = made.receive(frame(DATA, 0, 1, b"x" * 1000), 0)
        assert event == Came(1, b"x" * 1000, 1000, False)
        made.credit(1, 1000)
    out = made.take()
    assert out.count(frame(WINDOW_UPDATE, 0, 1, NUMBER.pack(1000))) == 200
    assert out.count(frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(50_000))) == 4
    made.receive(frame(DATA, 0, 1, b"x" * 1000), 0)  # is not read
    (event,) = made.receive(frame(DATA, 0, 1, b"x"), 0)
    assert isinstance(event, WasReset)
    assert event.code == Error.FLOW_CONTROL_ERROR


def headers(stream: int, flags: int = END_HEADERS | END_STREAM) -> bytes:
    return frame(HEADERS, flags, stream, OK)


BROKEN: dict[str, tuple[bytes, Error]] = {
    "an answer to nothing": (headers(9), Error.PROTOCOL_ERROR),
    "an answer of its own": (headers(2), Error.PROTOCOL_ERROR),
    "a second answer": (headers(1) + headers(1), Error.STREAM_CLOSED),
    "a body of nothing": (frame(DATA, 0, 9, b"x"), Error.PROTOCOL_ERROR),
    "a promise": (frame(PUSH_PROMISE, END_HEADERS, 1, NUMBER.pack(2) + GET), Error.PROTOCOL_ERROR),
    "a reset of nothing": (frame(RST_STREAM, 0, 9, NUMBER.pack(8)), Error.PROTOCOL_ERROR),
    "a head that is interrupted": (frame(HEADERS, 0, 1, OK) + frame(PING, payload=b"x" * 8), Error.PROTOCOL_ERROR),
    "a head without end": (
        frame(HEADERS, 0, 1, b"x" * 16_384) + frame(CONTINUATION, 0, 1, b"x" * 16_384) * 6, Error.ENHANCE_YOUR_CALM
    ),
    "a frame too long": (frame(DATA, 0, 1, b"x" * 16_385), Error.FRAME_SIZE_ERROR),
    "fields that nobody can read": (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff"), Error.COMPRESSION_ERROR),
    "pings": (frame(PING, payload=b"x" * 8) * 20, Error.ENHANCE_YOUR_CALM),
    "settings": (frame(SETTINGS) * 20, Error.ENHANCE_YOUR_CALM),
    "goodbyes": (frame(GOAWAY, payload=TWO_NUMBERS.pack(5, 0)) * 20, Error.ENHANCE_YOUR_CALM),
    "windows": (frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(1)) * 20, Error.ENHANCE_YOUR_CALM),
    "empty frames": (frame(HEADERS, END_HEADERS, 1, OK) + frame(DATA, 0, 1) * 20, Error.ENHANCE_YOUR_CALM),
    "resets": (headers(1) + frame(RST_STREAM, 0, 1, NUMBER.pack(8)) * 20, Error.ENHANCE_YOUR_CALM),
    "a window too wide": (frame(WINDOW_UPDATE, 0, 0, NUMBER.pack((1 << 31) - 1)), Error.FLOW_CONTROL_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_connection_that_is_broken(case: str) -> None:
    data, code = BROKEN[case]
    made = calls(LIMITS._replace(block_bytes=98_304))
    made.begin(GET, ended=True)
    events = made.receive(data, 0)
    assert isinstance(events[-1], Broken)
    assert events[-1].code == code
    assert made.take().endswith(frame(GOAWAY, payload=TWO_NUMBERS.pack(0, code) + events[-1].why.encode()))
    assert not made.takes
    assert made.receive(GREETING, 0) == []


RESET: dict[str, tuple[bytes, Error]] = {
    "a second head after the end": (headers(1) + headers(1), Error.STREAM_CLOSED),
    "a body after the end": (headers(1) + frame(DATA, 0, 1, b"x"), Error.STREAM_CLOSED),
    "no window": (headers(1, END_HEADERS) + frame(WINDOW_UPDATE, 0, 1, NUMBER.pack(0)), Error.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("case", RESET)
def test_a_fault_that_costs_its_stream_alone(case: str) -> None:
    data, code = RESET[case]
    made = calls(LIMITS)
    made.begin(GET, ended=False)
    made.begin(GET, ended=True)
    *_, event = made.receive(data, 0)
    assert isinstance(event, WasReset)
    assert (event.stream, event.code) == (1, code)
    assert event.why
    assert frame(RST_STREAM, 0, 1, NUMBER.pack(code)) in made.take()
    assert made.receive(headers(3), 0) == [Headed(3, [(b":status", b"200")], True)]


def test_settings_are_answered_and_kept_to() -> None:
    made = calls()
    made.begin(GET, ended=False)
    assert made.room(1) == 65_535
    made.receive(frame(SETTINGS, payload=SETTING.pack(Setting.INITIAL_WINDOW_SIZE, 10)), 0)
    assert made.room(1) == 10
    assert made.take().endswith(frame(SETTINGS, ACK))
    made.receive(frame(SETTINGS, payload=SETTING.pack(Setting.ENABLE_CONNECT_PROTOCOL, 1)), 0)
    assert made.connect_protocol


class Peer:
    """A server on the library, which answers each request with its own body, in pieces of any size."""

    def __init__(self, window: int) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.h2.update_settings({4: window})
        self.h2.initiate_connection()

    def receive(self, data: bytes) -> list[object]:
        return list(self.h2.receive_data(data)) if data else []


def _cut(data: bytes, at: list[int]) -> list[bytes]:
    """In pieces, each of them as long as the next of `at` says."""
    pieces = []
    for size in at:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.booleans()), min_size=1, max_size=6),
    st.lists(st.integers(1, 200), max_size=20),
)
def test_conversations_with_the_library(bodies: list[tuple[bytes, bool]], sizes: list[int]) -> None:
    """However the bytes are cut, each answer is its request's body, and trailers stay with their streams."""
    peer, made = Peer(65_535), Calls(SERVERS, 0.0)
    made.receive(peer.h2.data_to_send(), 0.0)
    streams = {}
    for body, _ in bodies:
        stream = made.begin(GET, ended=not body)
        streams[stream] = body
        if body:
            made.data(stream, body, ended=True)
    got: dict[int, bytes] = dict.fromkeys(streams, b"")
    for piece in _cut(made.take(), sizes):
        peer.receive(piece)
    for (body, trailed), stream in zip(bodies, streams, strict=True):
        peer.h2.send_headers(stream, [(":status", "200"), ("x-n", str(stream))])
        peer.h2.send_data(stream, body, end_stream=not trailed)
        if trailed:
            peer.h2.send_headers(stream, [("x-sum", str(len(body)))], end_stream=True)
    events: list[Event] = []
    for piece in _cut(peer.h2.data_to_send(), sizes):
        events += made.receive(piece, 0.0)
    for event in events:
        assert isinstance(event, Headed | Came), event
        if isinstance(event, Came):
            got[event.stream] += event.payload
            made.credit(event.stream, event.size)
    assert got == streams
    assert not made.streams
    assert peer.receive(made.take()) is not None


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_raise_anything(data: bytes, greeted: bool) -> None:
    made = calls(LIMITS) if greeted else Calls(LIMITS, 0.0)
    if greeted:
        made.begin(GET, ended=False)
    made.receive(data, 0.0)
    made.take()
