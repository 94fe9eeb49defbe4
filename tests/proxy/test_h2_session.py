"""Frames and streams of HTTP/2: the h2 library as the client, and frames by hand for what no library sends."""

from __future__ import annotations

import struct
from collections import defaultdict

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import hpack
from proxy.h2_events import Acknowledged, Asked, Broken, Came, Event, Leaving, Opened, Trailed, WasReset
from proxy.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    GOAWAY,
    HEADERS,
    MOST_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Error,
    frame,
)  # fmt: skip
from proxy.h2_session import Limits, Session

REQUEST = [(b":method", b"POST"), (b":path", b"/"), (b":scheme", b"https"), (b":authority", b"a.example")]
BLOCK = hpack.encode(REQUEST)
ANSWER = hpack.encode([(b":status", b"200")])


def asked(stream: int, *, ended: bool = True) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if ended else 0), stream, BLOCK)


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def setting(name: int, value: int) -> bytes:
    return struct.pack(">HL", name, value)


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each."""
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        data = data[9 + length :]
    return found


def greeted(limits: Limits | None = None) -> Session:
    session = Session(limits or Limits(), 0.0)
    assert session.receive(PREFACE + frame(SETTINGS), 0.0) == []
    session.take()
    return session


class Pair:
    """A client of the h2 library and a session that hear each other."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.client = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None, validate_outbound_headers=False)
        )
        self.session = Session(limits or Limits(), 0.0, connect_protocol=True)
        self.client.initiate_connection()
        self.heard: list[h2.events.Event] = []
        self.events: list[Event] = []
        self.turn()

    def turn(self) -> list[Event]:
        """Until nobody has anything to say."""
        new: list[Event] = []
        while True:
            to_us, to_them = self.client.data_to_send(), self.session.take()
            if not to_us and not to_them:
                self.events += new
                return new
            new += self.session.receive(to_us, 0.0)
            self.heard += self.client.receive_data(to_them)

    def ask(self, *, ended: bool = True, fields: list[tuple[bytes, bytes]] | None = None) -> int:
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, fields or REQUEST, end_stream=ended)
        return stream

    def of(self, kind: type[h2.events.Event]) -> list[h2.events.Event]:
        return [event for event in self.heard if isinstance(event, kind)]


# -- what a client does that means well


def test_what_we_say_of_ourselves() -> None:
    pair = Pair()
    settings = pair.client.remote_settings
    assert settings.max_concurrent_streams == 128
    assert settings.initial_window_size == 65_536
    assert settings.max_header_list_size == 65_536
    assert settings.enable_connect_protocol == 1
    assert pair.client.outbound_flow_control_window == 262_144
    assert not pair.events
    assert pair.of(h2.events.SettingsAcknowledged)


def test_a_client_that_keeps_a_smaller_table_is_told_that_we_know() -> None:
    """RFC 7541 §4.2: at the beginning of the next block, once; nghttp2 ends the connection otherwise."""
    session = greeted()
    session.receive(frame(SETTINGS, 0, 0, setting(1, 4096)) + asked(1) + asked(3) + asked(5) + asked(7), 0.0)
    said = []
    for stream, sizes in ((1, ()), (3, (100, 9000)), (5, (0,)), (7, (4096, 50))):
        session.receive(b"".join(frame(SETTINGS, 0, 0, setting(1, size)) for size in sizes), 0.0)
        session.take()
        session.head(stream, ANSWER, True)
        said.append(frames(session.take())[0][3])
    assert said == [ANSWER, b"\x20" + ANSWER, ANSWER, ANSWER]


def test_a_request_and_its_answer() -> None:
    pair = Pair()
    stream = pair.ask(ended=False)
    assert pair.turn() == [Asked(stream, REQUEST, False)]
    pair.client.send_data(stream, b"question", end_stream=True)
    assert pair.turn() == [Came(stream, b"question", 8, True)]
    pair.session.head(stream, ANSWER, False)
    pair.session.data(stream, b"answer", True)
    pair.turn()
    (response,) = pair.of(h2.events.ResponseReceived)
    assert response.headers == [(b":status", b"200")]  # type: ignore[attr-defined]
    assert [event.data for event in pair.of(h2.events.DataReceived)] == [b"answer"]  # type: ignore[attr-defined]
    assert pair.session.streams == 0


def test_trailers_both_ways() -> None:
    pair = Pair()
    stream = pair.ask(ended=False)
    pair.client.send_data(stream, b"body")
    pair.client.send_headers(stream, [(b"grpc-status", b"0")], end_stream=True)
    assert pair.turn()[1:] == [Came(stream, b"body", 4, False), Trailed(stream, [(b"grpc-status", b"0")])]
    pair.session.head(stream, ANSWER, False)
    pair.session.data(stream, b"body", False)
    pair.session.head(stream, hpack.encode([(b"x-sum", b"1")]), True)
    pair.turn()
    (trailers,) = pair.of(h2.events.TrailersReceived)
    assert trailers.headers == [(b"x-sum", b"1")]  # type: ignore[attr-defined]
    assert pair.session.streams == 0


def test_a_long_head_goes_in_several_frames() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.turn()
    long = [(b":status", b"200"), *((b"x-%d" % n, b"v" * 1000) for n in range(40))]
    pair.client.max_inbound_frame_size = FRAME_BYTES
    pair.client.decoder.max_header_list_size = 1 << 20
    pair.session.head(stream, hpack.encode(long), True)
    pair.turn()
    (response,) = pair.of(h2.events.ResponseReceived)
    assert response.headers == long  # type: ignore[attr-defined]


def test_a_long_head_of_the_client() -> None:
    pair = Pair()
    long = [*REQUEST, *((b"x-%d" % n, bytes(range(33, 97)) * 10) for n in range(30))]
    stream = pair.ask(fields=long)
    assert pair.turn() == [Asked(stream, long, True)]


def test_a_head_that_is_too_long_is_told_without_its_fields() -> None:
    pair = Pair(Limits(fields_bytes=1000))
    stream = pair.ask(fields=[*REQUEST, (b"x", b"v" * 1000)])
    assert pair.turn() == [Asked(stream, None, True)]
    second = pair.ask()
    assert pair.turn() == [Asked(second, REQUEST, True)]


def test_windows_hold_us_back_and_open_again() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.turn()
    pair.session.head(stream, ANSWER, False)
    assert pair.session.room(stream) == 65_535
    pair.session.data(stream, b"x" * 65_535, False)
    pair.turn()
    assert pair.session.room(stream) == 0
    pair.client.increment_flow_control_window(1000)
    assert pair.turn() == [Opened(0)]
    assert pair.session.room(stream) == 0, "the stream's own window is used up"
    pair.client.increment_flow_control_window(700, stream)
    assert pair.turn() == [Opened(stream)]
    assert pair.session.room(stream) == 700
    other = pair.ask()
    pair.turn()
    pair.session.head(other, ANSWER, False)
    assert pair.session.room(other) == 1000


def test_a_clients_new_window_is_for_all_streams() -> None:
    pair = Pair()
    stream = pair.ask()
    pair.turn()
    pair.session.head(stream, ANSWER, False)
    pair.session.data(stream, b"x" * 60_000, False)
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
    pair.turn()
    assert pair.session.room(stream) == 0
    pair.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 70_000})
    assert Opened(0) in pair.turn()
    assert pair.session.room(stream) == 5535, "what the connection has left"


def test_what_is_passed_on_is_given_back() -> None:
    pair = Pair(Limits(stream_window=10_000, window=70_000))
    stream = pair.ask(ended=False)
    pair.turn()
    for _ in range(100):
        pair.client.send_data(stream, b"x" * 5000)
        (came,) = pair.turn()
        assert isinstance(came, Came)
        pair.session.credit(stream, came.size)
        pair.turn()
    assert pair.client.local_flow_control_window(stream) == 10_000


def test_padding_counts_and_is_given_back() -> None:
    pair = Pair()
    stream = pair.ask(ended=False)
    pair.client.send_data(stream, b"abc", pad_length=100)
    assert pair.turn()[1:] == [Came(stream, b"abc", 104, False)]


def test_streams_that_are_gone_give_the_connections_window_back() -> None:
    pair = Pair(Limits(stream_window=65_536, window=65_536 * 2))
    for _ in range(20):
        stream = pair.ask(ended=False)
        pair.turn()
        pair.session.reset(stream, Error.CANCEL)
        pair.client.send_data(stream, b"x" * 16_000)  # on its way when it was reset
        assert pair.turn() == []
    assert pair.client.outbound_flow_control_window > 65_536


def test_the_client_resets() -> None:
    pair = Pair()
    stream = pair.ask(ended=False)
    pair.turn()
    pair.client.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
    assert pair.turn() == [WasReset(stream, Error.CANCEL)]
    assert pair.session.streams == 0
    assert pair.session.room(stream) == 0


def test_streams_beyond_the_limit_are_refused() -> None:
    session = greeted(Limits(streams=2))
    events = session.receive(asked(1) + asked(3) + asked(5), 0.0)
    assert [event.stream for event in events if isinstance(event, Asked)] == [1, 3]
    assert frames(session.take()) == [(RST_STREAM, 0, 5, number(Error.REFUSED_STREAM))]


def test_goaway_in_two_steps() -> None:
    pair = Pair()
    first = pair.ask()
    pair.turn()
    pair.session.leave()
    second = pair.ask()
    late = asked(5)
    pair.turn()
    assert [event.last_stream_id for event in pair.of(h2.events.ConnectionTerminated)] == [MOST_WINDOW]  # type: ignore[attr-defined]
    session = pair.session
    session.leave(last=session.last)
    assert frames(session.take()) == [(GOAWAY, 0, 0, number(second) + number(0))]
    assert session.receive(late, 0.0) == [], "a stream after the last one: the client knows that it was not served"
    session.head(first, ANSWER, True)
    session.head(second, ANSWER, True)
    assert session.streams == 0


def test_pings() -> None:
    pair = Pair()
    pair.client.ping(b"12345678")
    pair.session.ping(b"abcdefgh")
    assert pair.turn() == [Acknowledged(b"abcdefgh")]
    assert [event.ping_data for event in pair.of(h2.events.PingAckReceived)] == [b"12345678"]  # type: ignore[attr-defined]


def test_the_client_leaves() -> None:
    pair = Pair()
    pair.client.close_connection(error_code=h2.errors.ErrorCodes.NO_ERROR)
    assert pair.turn() == [Leaving(0)]


def test_priorities_and_unknown_frames_pass() -> None:
    session = greeted()
    unknown = frame(0xFA, 0xFF, 7, b"whatever") + frame(PRIORITY, 0, 9, bytes(5))
    ours = frame(HEADERS, END_HEADERS | END_STREAM | PADDED | PRIORITISED, 1, b"\x03" + bytes(5) + BLOCK + bytes(3))
    assert session.receive(unknown + ours, 0.0) == [Asked(1, REQUEST, True)]


@given(st.data())
def test_bytes_may_come_in_any_pieces(data: st.DataObject) -> None:
    whole = PREFACE + frame(SETTINGS) + asked(1, ended=False) + frame(DATA, 0, 1, b"abc") + frame(PING, 0, 0, bytes(8))
    whole += frame(HEADERS, END_STREAM, 3, BLOCK[:3]) + frame(CONTINUATION, END_HEADERS, 3, BLOCK[3:])
    session, at, events = Session(Limits(), 0.0), 0, list[Event]()
    while at < len(whole):
        step = data.draw(st.integers(1, 30))
        events += session.receive(whole[at : at + step], 0.0)
        at += step
    assert events == [Asked(1, REQUEST, False), Came(1, b"abc", 3, False), Asked(3, REQUEST, True)]
    assert session.between_frames


class Talk:
    """A conversation of requests with bodies both ways, one step at a time, and what each side should have."""

    def __init__(self) -> None:
        self.pair = Pair(Limits(streams=4, stream_window=3000, window=66_000))
        self.sent: defaultdict[int, bytes] = defaultdict(bytes)
        self.answered: defaultdict[int, bytes] = defaultdict(bytes)
        self.open: dict[int, bool] = {}  # whether the client still sends
        self.answering: dict[int, bool] = {}  # whether the head is out

    def step(self, what: str, size: int) -> None:
        client, session = self.pair.client, self.pair.session
        streams = sorted({*self.open, *self.answering})
        stream = streams[size % len(streams)] if streams else 0
        if what == "ask" and len(streams) < 4:
            self.open[self.pair.ask(ended=False)] = True
        elif what == "send" and self.open.get(stream):
            payload = bytes(min(size, client.local_flow_control_window(stream)))
            client.send_data(stream, payload)
            self.sent[stream] += payload
        elif what == "end" and self.open.pop(stream, False):
            client.end_stream(stream)
        elif what == "answer" and stream in self.answering:
            if not self.answering[stream]:
                session.head(stream, ANSWER, False)
                self.answering[stream] = True
            payload = b"a" * min(size, session.room(stream))
            session.data(stream, payload, False)
            self.answered[stream] += payload
        elif what == "finish" and stream in self.answering and stream not in self.open:
            if not self.answering.pop(stream):
                session.head(stream, ANSWER, False)
            session.data(stream, b"", True)
        elif what == "reset" and stream in self.open:
            del self.open[stream]
            self.answering.pop(stream, None)
            client.reset_stream(stream)
        self.hear()

    def hear(self) -> None:
        before = len(self.pair.heard)
        for event in self.pair.turn():
            assert not isinstance(event, Broken), event
            if isinstance(event, Asked):
                self.answering[event.stream] = False
            if isinstance(event, Came):
                self.pair.session.credit(event.stream, event.size)
        for heard in self.pair.heard[before:]:
            if isinstance(heard, h2.events.DataReceived) and heard.flow_controlled_length:
                self.pair.client.acknowledge_received_data(heard.flow_controlled_length, heard.stream_id)

    def check(self) -> None:
        came: defaultdict[int, bytes] = defaultdict(bytes)
        for event in self.pair.events:
            if isinstance(event, Came):
                came[event.stream] += event.payload
        assert {stream: data for stream, data in came.items() if data} == {k: v for k, v in self.sent.items() if v}
        got: defaultdict[int, bytes] = defaultdict(bytes)
        for heard in self.pair.heard:
            if isinstance(heard, h2.events.DataReceived):
                got[heard.stream_id] += heard.data
        assert {stream: data for stream, data in got.items() if data} == {k: v for k, v in self.answered.items() if v}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "send", "end", "answer", "answer", "finish", "reset"]), st.integers(0, 20_000)
        ),
        max_size=60,
    )
)
def test_any_conversation(steps: list[tuple[str, int]]) -> None:
    talk = Talk()
    for what, size in steps:
        talk.step(what, size)
    talk.check()


# -- what a client does that does not


HOSTILE: list[tuple[str, bytes, Error]] = [
    ("a long frame", frame(DATA, 0, 1, bytes(FRAME_BYTES + 1)), Error.FRAME_SIZE_ERROR),
    ("an even stream", asked(2), Error.PROTOCOL_ERROR),
    ("stream 0", asked(0), Error.PROTOCOL_ERROR),
    ("a stream again", asked(3) + asked(1), Error.STREAM_CLOSED),
    ("data on no stream", frame(DATA, 0, 5, b"x"), Error.PROTOCOL_ERROR),
    ("data on stream 0", frame(DATA, 0, 0, b"x"), Error.PROTOCOL_ERROR),
    ("more padding than frame", asked(1, ended=False) + frame(DATA, PADDED, 1, b"\x05abc"), Error.PROTOCOL_ERROR),
    ("padding of nothing", asked(1, ended=False) + frame(DATA, PADDED, 1), Error.FRAME_SIZE_ERROR),
    ("a short priority", frame(HEADERS, END_HEADERS | PRIORITISED, 1, b"abc"), Error.PROTOCOL_ERROR),
    ("a reset of no stream", frame(RST_STREAM, 0, 7, number(8)), Error.PROTOCOL_ERROR),
    ("a reset of stream 0", frame(RST_STREAM, 0, 0, number(8)), Error.PROTOCOL_ERROR),
    ("a short reset", asked(1, ended=False) + frame(RST_STREAM, 0, 1, b"abc"), Error.FRAME_SIZE_ERROR),
    ("settings of a stream", frame(SETTINGS, 0, 1), Error.PROTOCOL_ERROR),
    ("settings of five bytes", frame(SETTINGS, 0, 0, b"12345"), Error.FRAME_SIZE_ERROR),
    ("an acknowledgement that says more", frame(SETTINGS, ACK, 0, bytes(6)), Error.FRAME_SIZE_ERROR),
    ("push of two", frame(SETTINGS, 0, 0, setting(2, 2)), Error.PROTOCOL_ERROR),
    ("a window too large", frame(SETTINGS, 0, 0, setting(4, 1 << 31)), Error.FLOW_CONTROL_ERROR),
    ("frames too short", frame(SETTINGS, 0, 0, setting(5, 16_383)), Error.PROTOCOL_ERROR),
    ("frames too long", frame(SETTINGS, 0, 0, setting(5, 1 << 24)), Error.PROTOCOL_ERROR),
    ("a ping of a stream", frame(PING, 0, 1, bytes(8)), Error.PROTOCOL_ERROR),
    ("a short ping", frame(PING, 0, 0, bytes(7)), Error.FRAME_SIZE_ERROR),
    ("a goodbye of a stream", frame(GOAWAY, 0, 1, bytes(8)), Error.PROTOCOL_ERROR),
    ("a short goodbye", frame(GOAWAY, 0, 0, bytes(7)), Error.FRAME_SIZE_ERROR),
    ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, number(2) + BLOCK), Error.PROTOCOL_ERROR),
    ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, BLOCK), Error.PROTOCOL_ERROR),
    ("a block that is interrupted", frame(HEADERS, 0, 1, BLOCK) + frame(PING, 0, 0, bytes(8)), Error.PROTOCOL_ERROR),
    (
        "a block that another stream goes on with",
        frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, END_HEADERS, 3),
        Error.PROTOCOL_ERROR,
    ),
    ("a window of nothing", frame(WINDOW_UPDATE, 0, 0, number(0)), Error.PROTOCOL_ERROR),
    ("a short window", frame(WINDOW_UPDATE, 0, 0, b"abc"), Error.FRAME_SIZE_ERROR),
    ("a window beyond all", frame(WINDOW_UPDATE, 0, 0, number(MOST_WINDOW)), Error.FLOW_CONTROL_ERROR),
    ("a window of no stream", frame(WINDOW_UPDATE, 0, 9, number(1)), Error.PROTOCOL_ERROR),
    ("a priority of stream 0", frame(PRIORITY, 0, 0, bytes(5)), Error.PROTOCOL_ERROR),
    ("a short priority frame", frame(PRIORITY, 0, 1, bytes(4)), Error.FRAME_SIZE_ERROR),
    ("a block of nonsense", frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), Error.COMPRESSION_ERROR),
    (
        "a stream's window beyond all by settings",
        asked(1) + frame(WINDOW_UPDATE, 0, 1, number(MOST_WINDOW - 70_000)) + frame(SETTINGS, 0, 0, setting(4, 90_000)),
        Error.FLOW_CONTROL_ERROR,
    ),
    (
        "a block without end",
        frame(HEADERS, 0, 1, bytes(FRAME_BYTES)) + frame(CONTINUATION, 0, 1, bytes(FRAME_BYTES)) * 8,
        Error.ENHANCE_YOUR_CALM,
    ),
    ("continuations of nothing", frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 1001, Error.ENHANCE_YOUR_CALM),
    ("rapid resets", b"".join(asked(n) + frame(RST_STREAM, 0, n, number(8)) for n in range(1, 2004, 2)),
     Error.ENHANCE_YOUR_CALM),
    ("settings without end", frame(SETTINGS) * 1001, Error.ENHANCE_YOUR_CALM),
    ("pings without end", frame(PING, 0, 0, bytes(8)) * 1001, Error.ENHANCE_YOUR_CALM),
    ("empty frames without end", asked(1, ended=False) + frame(DATA, 0, 1) * 1001, Error.ENHANCE_YOUR_CALM),
    ("priorities without end", frame(PRIORITY, 0, 1, bytes(5)) * 1001, Error.ENHANCE_YOUR_CALM),
    ("unknown frames without end", frame(0xFA) * 1001, Error.ENHANCE_YOUR_CALM),
    ("small windows without end", frame(WINDOW_UPDATE, 0, 0, number(1)) * 10_001, Error.ENHANCE_YOUR_CALM),
    ("streams beyond the limit without end", b"".join(asked(n) for n in range(1, 2 * (128 + 1001) + 2, 2)),
     Error.ENHANCE_YOUR_CALM),
]  # fmt: skip


def test_giving_back_what_small_bodies_took_is_no_flood() -> None:
    """As nginx and others do it for each message of gRPC: once for the stream, once for the connection."""
    session = greeted()
    for stream in range(1, 24_001, 2):
        assert session.receive(asked(stream), 0.0)
        session.head(stream, ANSWER, False)
        session.data(stream, b"small", True)
        credit = frame(WINDOW_UPDATE, 0, stream, number(5)) + frame(WINDOW_UPDATE, 0, 0, number(5))
        assert not [each for each in session.receive(credit, 0.0) if isinstance(each, Broken)]
        session.take()


@pytest.mark.parametrize(("data", "code"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_what_breaks_the_connection(data: bytes, code: Error) -> None:
    session = greeted()
    events = session.receive(data, 0.0)
    broken = events[-1]
    assert isinstance(broken, Broken)
    assert broken.code is code, broken
    kind, _, _, payload = frames(session.take())[-1]
    assert (kind, int.from_bytes(payload[4:8], "big")) == (GOAWAY, code)
    assert session.receive(asked(99_999), 0.0) == [], "nothing is read any more"


STREAM_FAULTS: list[tuple[str, bytes, Error]] = [
    ("a head after the end", asked(1), Error.STREAM_CLOSED),
    ("data after the end", frame(DATA, 0, 1, b"x"), Error.STREAM_CLOSED),
    ("a window of nothing", frame(WINDOW_UPDATE, 0, 1, number(0)), Error.PROTOCOL_ERROR),
    ("a window beyond all", frame(WINDOW_UPDATE, 0, 1, number(MOST_WINDOW)), Error.FLOW_CONTROL_ERROR),
]


@pytest.mark.parametrize(("data", "code"), [row[1:] for row in STREAM_FAULTS], ids=[row[0] for row in STREAM_FAULTS])
def test_what_ends_a_stream_alone(data: bytes, code: Error) -> None:
    session = greeted()
    session.receive(asked(1), 0.0)
    (was_reset,) = session.receive(data, 0.0)
    assert isinstance(was_reset, WasReset)
    assert (was_reset.stream, was_reset.code) == (1, code)
    assert frames(session.take()) == [(RST_STREAM, 0, 1, number(code))]
    assert session.receive(asked(3), 0.0) == [Asked(3, REQUEST, True)]


def test_trailers_that_are_not_the_end() -> None:
    session = greeted()
    session.receive(asked(1, ended=False), 0.0)
    (was_reset,) = session.receive(asked(1, ended=False), 0.0)
    assert isinstance(was_reset, WasReset)
    assert was_reset.code == Error.PROTOCOL_ERROR


def test_more_than_the_streams_window() -> None:
    session = greeted(Limits(stream_window=100))
    (_, was_reset) = session.receive(asked(1, ended=False) + frame(DATA, 0, 1, bytes(101)), 0.0)
    assert isinstance(was_reset, WasReset)
    assert was_reset.code == Error.FLOW_CONTROL_ERROR


def test_more_than_the_connections_window() -> None:
    session = greeted(Limits(stream_window=100_000, window=65_535))
    data = asked(1, ended=False) + frame(DATA, 0, 1, bytes(16_384)) * 4
    broken = session.receive(data, 0.0)[-1]
    assert isinstance(broken, Broken)
    assert broken.code is Error.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", PREFACE + asked(1), PREFACE + frame(SETTINGS, ACK), b"PRI * HTTP/2.0\r\n\r\nXX"]
)
def test_what_is_no_beginning(data: bytes) -> None:
    broken = Session(Limits(), 0.0).receive(data, 0.0)[-1]
    assert isinstance(broken, Broken)
    assert broken.code is Error.PROTOCOL_ERROR


def test_budgets_fill_again_with_time() -> None:
    session = greeted(Limits(idle_frames=(10, 5)))
    for second in range(1, 50):
        assert session.receive(frame(PING, 0, 0, bytes(8)) * 5, float(second)) == []
    assert isinstance(session.receive(frame(PING, 0, 0, bytes(8)) * 16, 49.0)[-1], Broken)


def test_windows_for_what_is_sent_cost_nothing() -> None:
    session = greeted(Limits(windows=(10, 0)))
    session.receive(frame(SETTINGS, 0, 0, setting(4, MOST_WINDOW)) + frame(WINDOW_UPDATE, 0, 0, number(1 << 30)), 0.0)
    session.receive(asked(1), 0.0)
    session.head(1, ANSWER, False)
    for _ in range(100):
        session.data(1, bytes(16_384), False)
        assert session.receive(frame(WINDOW_UPDATE, 0, 1, number(1)) * 10, 0.0) == []


def test_a_ping_for_each_frame_costs_nothing() -> None:
    """As grpc-go's and grpc-java's clients send them, to know how much the path holds."""
    session = greeted(Limits(idle_frames=(2, 0)))
    session.receive(frame(SETTINGS, 0, 0, setting(4, MOST_WINDOW)) + frame(WINDOW_UPDATE, 0, 0, number(1 << 30)), 0.0)
    session.receive(asked(1), 0.0)
    session.head(1, ANSWER, False)
    for _ in range(100):
        session.data(1, b"message", False)
        assert session.receive(frame(PING, 0, 0, bytes(8)), 0.0) == []
    assert isinstance(session.receive(frame(PING, 0, 0, bytes(8)) * 4, 0.0)[-1], Broken)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40))))
def test_any_frames_are_understood_or_refused(many: list[tuple[int, int, int, bytes]]) -> None:
    session = greeted(Limits(streams=3))
    for kind, flags, stream, payload in many:
        events = session.receive(frame(kind, flags, stream, payload), 0.0)
        frames(session.take())
        assert session.streams <= 3
        if events and isinstance(events[-1], Broken):
            return
