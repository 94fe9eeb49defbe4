"""An HTTP/2 connection with a client (RFC 9113), without its socket: bytes in, events out; calls in, bytes out.

This is the layer of frames and streams: framing, settings, flow control both ways, streams' states, HPACK. What a
request's fields say is not its business. It is written for speed: a request costs one pass over its frames, and no
object but its stream. The h2 library, which costs many times as much, is what the tests hold it to
(docs/decisions/0204-frames-of-our-own.md).

Nothing a client sends makes it hold more than it is told to: a block of fields is bounded while it is collected, a
frame by FRAME_BYTES, the streams at once by `Limits.streams`, and what costs us work and brings the client nothing
(resets, pings, settings, priorities, empty frames, small windows) by budgets that fill with time. A client that exceeds
one gets GOAWAY with ENHANCE_YOUR_CALM.

A stream is open from its head on. Each side ends its own half with END_STREAM; a stream that both have ended, or either
has reset, is gone. Of those that are gone, the ones that we have reset are remembered for a while, since frames for
them may be on their way: these count for the connection's window, and are dropped.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from proxy.h2_events import Acknowledged, Asked, Broken, Came, Event, Leaving, Opened, Trailed, WasReset
from proxy.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    FRAME_HEAD,
    GOAWAY,
    HEAD,
    HEADERS,
    MOST_WINDOW,
    NUMBER,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    TWO_NUMBERS,
    WINDOW_UPDATE,
    Breach,
    Error,
    Setting,
    frame,
    stripped,
)  # fmt: skip
from proxy.hpack import EMPTIED, TABLE_BYTES, Decoder, HpackError, Pair

WINDOW: Final = 65_535  # before any setting
REMEMBERED: Final = 1024  # streams that we have reset


class Limits(NamedTuple):
    """What a client may have of us. Bytes of fields are counted as RFC 9113 §6.5.2 does, those of a block as they come.

    A budget is what may come at once, and how much of it grows back in a second.
    """

    streams: int = 128
    fields_bytes: int = 65_536
    block_bytes: int = 131_072  # beyond what fields may have, so that it is one answer only that is refused
    stream_window: int = 65_536
    window: int = 262_144
    resets: tuple[int, int] = (1000, 33)  # as nghttp2's
    idle_frames: tuple[int, int] = (1000, 100)
    windows: tuple[int, int] = (10_000, 1_000)  # one more for each KiB that goes out, two for each end


class _Stream:
    __slots__ = ("client_ended", "given", "owed", "room", "we_ended")

    def __init__(self, room: int, given: int, ended: bool) -> None:
        self.room = room  # what we may send
        self.given = given  # what the client may send
        self.owed = 0  # what it has sent, and is given back as soon as that is worth a frame
        self.client_ended = ended
        self.we_ended = False


class _Budget:
    """`most` at once, `per_s` more in a second."""

    __slots__ = ("_at", "_left", "_most", "_per_s")

    def __init__(self, most: int, per_s: int, now: float) -> None:
        self._most, self._per_s, self._left, self._at = most, per_s, float(most), now

    def spend(self, now: float) -> bool:
        """Whether there was one left."""
        if self._left < 1:
            self._left = min(self._most, self._left + (now - self._at) * self._per_s)
            self._at = now
            if self._left < 1:
                return False
        self._left -= 1
        return True

    def earn(self, amount: float) -> None:
        self._left = min(self._most, self._left + amount)


class Session:
    """One connection. `connect_protocol`: WebSockets may be asked for (RFC 8441). Times are in seconds of any clock."""

    __slots__ = (
        "_block", "_blocked", "_blocked_ended", "_broken", "_buffer", "_decoder", "_frame_bytes", "_given",
        "_greeted", "_idle", "_last", "_left_at", "_limits", "_now", "_out", "_owed", "_resets", "_room", "_streams",
        "_table", "_table_told", "_they_leave", "_waiting", "_was_reset", "_window", "_windows",
    )  # fmt: skip

    def __init__(self, limits: Limits, now: float, *, connect_protocol: bool = False) -> None:
        self._limits = limits
        self._decoder = Decoder()
        self._buffer = b""
        self._greeted = 0  # 0: the preface is due, 1: the first settings are, 2: both are here
        self._streams: dict[int, _Stream] = {}
        self._was_reset: dict[int, None] = {}  # the oldest first
        self._last = 0  # the last stream that the client has begun
        self._left_at = MOST_WINDOW  # we have told the client that we take no stream beyond this one
        self._they_leave = False
        self._block = bytearray()  # of a head or trailers that go on
        self._blocked = 0  # their stream; 0: there is none
        self._blocked_ended = False
        self._room = self._window = WINDOW  # what we may send at all; and on a new stream
        self._given, self._owed = limits.window, 0
        self._frame_bytes = FRAME_BYTES  # what the client takes
        self._table, self._table_told = TABLE_BYTES, b""  # the client's, for our blocks; what is to be said of it
        self._broken = False
        self._waiting = 0
        self._now = now
        self._resets = _Budget(*limits.resets, now)
        self._idle = _Budget(*limits.idle_frames, now)
        self._windows = _Budget(*limits.windows, now)
        settings = {
            Setting.MAX_CONCURRENT_STREAMS: limits.streams,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_HEADER_LIST_SIZE: limits.fields_bytes,
            Setting.NO_RFC7540_PRIORITIES: 1,
        }
        if connect_protocol:
            settings[Setting.ENABLE_CONNECT_PROTOCOL] = 1
        payload = b"".join(SETTING.pack(name, value) for name, value in settings.items())
        self._out = [frame(SETTINGS, 0, 0, payload)]
        if limits.window > WINDOW:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(limits.window - WINDOW)))

    # -- what the caller may ask

    @property
    def streams(self) -> int:
        """How many there are."""
        return len(self._streams)

    @property
    def last(self) -> int:
        """The last stream that the client has begun."""
        return self._last

    @property
    def between_frames(self) -> bool:
        """Whether the client is not in the midst of a frame or a block."""
        return not self._buffer and not self._blocked

    def knows(self, stream: int) -> bool:
        """Whether the stream is neither over nor reset."""
        return stream in self._streams

    def room(self, stream: int) -> int:
        """How many bytes of a body may be sent on a stream now."""
        found = self._streams.get(stream)
        return max(0, min(self._room, found.room)) if found is not None else 0

    @property
    def waiting(self) -> int:
        """How many bytes of bodies are to be sent."""
        return self._waiting

    def take(self) -> bytes:
        """What is to be sent."""
        self._waiting = 0
        if not self._out:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    # -- bytes in

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What these bytes say."""
        if self._broken:
            return []
        events: list[Event] = []
        self._now = now
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        try:
            at = self._greet(data) if not self._greeted else 0
            at = self._frames(data, at, events)
            self._buffer = data[at:]
        except Breach as breach:
            self._broken = True
            self.leave(breach.code, self._last, breach.why)
            events.append(Broken(breach.code, breach.why))
        return events

    def _greet(self, data: bytes) -> int:
        if not data.startswith(PREFACE):
            if PREFACE.startswith(data):
                return 0
            raise Breach(Error.PROTOCOL_ERROR, "the connection does not begin with the preface of HTTP/2")
        self._greeted = 1
        return len(PREFACE)

    def _frames(self, data: bytes, at: int, events: list[Event]) -> int:
        end = len(data)
        unpack = FRAME_HEAD.unpack_from
        if not self._greeted:
            return at
        while at + HEAD <= end:
            high, low, kind, flags, stream = unpack(data, at)
            length = high << 8 | low
            if length > FRAME_BYTES:
                raise Breach(Error.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            start = at + HEAD
            if start + length > end:
                break
            at = start + length
            stream &= MOST_WINDOW
            if self._blocked and (kind != CONTINUATION or stream != self._blocked):
                raise Breach(Error.PROTOCOL_ERROR, "a block of fields is interrupted")
            if self._greeted == 1:
                if kind != SETTINGS or flags & ACK:
                    raise Breach(Error.PROTOCOL_ERROR, "the first frame is not SETTINGS")
                self._greeted = 2
            if kind == HEADERS:
                self._headers(stream, flags, data[start:at], events)
            elif kind == DATA:
                self._data(stream, flags, data[start:at], events)
            elif kind == WINDOW_UPDATE:
                self._window_update(stream, data[start:at], events)
            else:
                self._other(kind, stream, flags, data[start:at], events)
        return at

    def _headers(self, stream: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if not stream & 1:
            raise Breach(Error.PROTOCOL_ERROR, f"HEADERS on stream {stream}")
        if flags & (PADDED | PRIORITISED):
            payload = stripped(payload, flags)
        ended = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._fields(stream, payload, ended, events)
        else:
            self._blocked, self._blocked_ended = stream, ended
            self._block += payload

    def _fields(self, stream: int, block: bytes, ended: bool, events: list[Event]) -> None:
        """A whole block. It is decoded whatever becomes of its stream, as later ones may refer to it."""
        fields, limits = self._decoded(block), self._limits
        if stream > self._last:
            self._last = stream
            if stream > self._left_at:
                self._remember(stream)  # said so: it will be asked elsewhere
            elif len(self._streams) >= limits.streams:
                self._spend(self._resets, "streams beyond the limit")
                self._refuse(stream, Error.REFUSED_STREAM)
            else:
                self._streams[stream] = _Stream(self._window, limits.stream_window, ended)
                events.append(Asked(stream, fields, ended))
            return
        found = self._streams.get(stream)
        if found is None:
            if stream not in self._was_reset:
                raise Breach(Error.STREAM_CLOSED, f"HEADERS on stream {stream}, which is closed")
        elif found.client_ended:
            self._fault(stream, Error.STREAM_CLOSED, "HEADERS after the end", events)
        elif not ended:
            self._fault(stream, Error.PROTOCOL_ERROR, "trailers that are not the end", events)
        else:
            found.client_ended = True
            events.append(Trailed(stream, fields))
            self._forget_if_over(stream, found)

    def _decoded(self, block: bytes) -> list[Pair] | None:
        limits = self._limits
        if len(block) > limits.block_bytes:
            raise Breach(Error.ENHANCE_YOUR_CALM, f"a block of fields of {len(block)} bytes")
        try:
            return self._decoder.decode(block, limits.fields_bytes)
        except HpackError as error:
            raise Breach(Error.COMPRESSION_ERROR, str(error)) from None

    def _data(self, stream: int, flags: int, payload: bytes, events: list[Event]) -> None:
        size = len(payload)
        self._given -= size
        if self._given < 0:
            raise Breach(Error.FLOW_CONTROL_ERROR, "more than the connection's window")
        if flags & PADDED:
            payload = stripped(payload, flags & PADDED)
        found = self._streams.get(stream)
        if found is None:
            if stream not in self._was_reset:
                code = Error.STREAM_CLOSED if 0 < stream <= self._last and stream & 1 else Error.PROTOCOL_ERROR
                raise Breach(code, f"DATA on stream {stream}")
            self._give_back(size)
            return
        found.given -= size
        ended = bool(flags & END_STREAM)
        if found.client_ended:
            self._give_back(size)
            self._fault(stream, Error.STREAM_CLOSED, "DATA after the end", events)
        elif found.given < 0:
            self._give_back(size)
            self._fault(stream, Error.FLOW_CONTROL_ERROR, "more than the stream's window", events)
        else:
            if not payload and not ended:
                self._spend(self._idle, "empty frames")
            found.client_ended = ended
            events.append(Came(stream, payload, size, ended))
            if ended:
                self._forget_if_over(stream, found)

    def _window_update(self, stream: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise Breach(Error.FRAME_SIZE_ERROR, f"a WINDOW_UPDATE of {len(payload)} bytes")
        self._spend(self._windows, "small windows")
        more = NUMBER.unpack(payload)[0] & MOST_WINDOW
        if not stream:
            self._room += more
            if not more or self._room > MOST_WINDOW:
                code = Error.FLOW_CONTROL_ERROR if more else Error.PROTOCOL_ERROR
                raise Breach(code, f"{more} more for the connection's window")
            if self._room - more <= 0:
                events.append(Opened(0))
            return
        found = self._streams.get(stream)
        if found is None:
            self._must_have_been(stream, "WINDOW_UPDATE")
            return
        found.room += more
        if not more or found.room > MOST_WINDOW:
            code = Error.FLOW_CONTROL_ERROR if more else Error.PROTOCOL_ERROR
            self._fault(stream, code, f"{more} more for the stream's window", events)
        elif found.room - more <= 0 < found.room:
            events.append(Opened(stream))

    def _other(self, kind: int, stream: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if kind == RST_STREAM:
            self._rst_stream(stream, payload, events)
        elif kind == CONTINUATION:
            self._continuation(stream, flags, payload, events)
        elif kind == SETTINGS:
            self._settings(stream, flags, payload, events)
        elif kind == PING:
            self._ping(stream, flags, payload, events)
        elif kind == GOAWAY:
            if stream or len(payload) < 8:
                raise Breach(Error.PROTOCOL_ERROR if stream else Error.FRAME_SIZE_ERROR, "a GOAWAY that is none")
            last, code = TWO_NUMBERS.unpack_from(payload)
            self._goaway(last, code, events)
        elif kind == PUSH_PROMISE:
            raise Breach(Error.PROTOCOL_ERROR, "a PUSH_PROMISE, which nobody may send here")
        else:  # PRIORITY, and what we do not know (§5.5)
            self._spend(self._idle, "frames that ask for nothing")
            if kind == PRIORITY and not stream:
                raise Breach(Error.PROTOCOL_ERROR, "PRIORITY on stream 0")
            if kind == PRIORITY and len(payload) != 5:
                raise Breach(Error.FRAME_SIZE_ERROR, f"a PRIORITY of {len(payload)} bytes")

    def _goaway(self, last: int, code: int, events: list[Event]) -> None:
        """They begin no more; what we promise them, which `last` is about, is nothing."""
        if not self._they_leave:
            self._they_leave = True
            events.append(Leaving(code))

    def _rst_stream(self, stream: int, payload: bytes, events: list[Event]) -> None:
        if len(payload) != 4:
            raise Breach(Error.FRAME_SIZE_ERROR, f"a RST_STREAM of {len(payload)} bytes")
        self._spend(self._resets, "resets")
        if self._streams.pop(stream, None) is None:
            self._must_have_been(stream, "RST_STREAM")
        else:
            events.append(WasReset(stream, NUMBER.unpack(payload)[0]))

    def _continuation(self, stream: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if not self._blocked:
            raise Breach(Error.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block += payload
        self._spend(self._idle, "continuations")
        if len(self._block) > self._limits.block_bytes:
            raise Breach(Error.ENHANCE_YOUR_CALM, f"a block of fields of more than {self._limits.block_bytes} bytes")
        if flags & END_HEADERS:
            block, self._blocked = bytes(self._block), 0
            self._block.clear()
            self._fields(stream, block, self._blocked_ended, events)

    def _settings(self, stream: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if stream:
            raise Breach(Error.PROTOCOL_ERROR, f"SETTINGS on stream {stream}")
        if len(payload) % 6 or (flags & ACK and payload):
            raise Breach(Error.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
        self._spend(self._idle, "settings")
        if flags & ACK:
            return
        for name, value in SETTING.iter_unpack(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                if value > MOST_WINDOW:
                    raise Breach(Error.FLOW_CONTROL_ERROR, f"a window of {value} bytes")
                more, self._window = value - self._window, value
                for found in self._streams.values():
                    found.room += more
                    if found.room > MOST_WINDOW:
                        raise Breach(Error.FLOW_CONTROL_ERROR, "a stream's window beyond 2^31-1")
                if more > 0:
                    events.append(Opened(0))
            elif name == Setting.HEADER_TABLE_SIZE:
                if value < self._table:  # the next block has to say that we know (RFC 7541 §4.2)
                    self._table, self._table_told = 0, EMPTIED
            elif name == Setting.MAX_FRAME_SIZE:
                if not FRAME_BYTES <= value < 1 << 24:
                    raise Breach(Error.PROTOCOL_ERROR, f"frames of {value} bytes")
                self._frame_bytes = min(value, 4 * FRAME_BYTES)  # longer ones would hold up other streams
            elif (name == Setting.ENABLE_PUSH or name == Setting.ENABLE_CONNECT_PROTOCOL) and value > 1:
                raise Breach(Error.PROTOCOL_ERROR, f"setting {name} is {value}")
            else:
                self._note(name, value)
        self._out.append(frame(SETTINGS, ACK, 0, b""))

    def _note(self, name: int, value: int) -> None:
        """A setting that is nothing to us."""

    def _ping(self, stream: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if stream:
            raise Breach(Error.PROTOCOL_ERROR, f"PING on stream {stream}")
        if len(payload) != 8:
            raise Breach(Error.FRAME_SIZE_ERROR, f"a PING of {len(payload)} bytes")
        self._spend(self._idle, "pings")
        if flags & ACK:
            events.append(Acknowledged(payload))
        else:
            self._out.append(frame(PING, ACK, 0, payload))

    def _must_have_been(self, stream: int, what: str) -> None:
        """Frames for streams that are gone may have been on their way; those that never were are an error (§5.1)."""
        if stream > self._last or not stream & 1:
            raise Breach(Error.PROTOCOL_ERROR, f"{what} on stream {stream}, which has not begun")

    def _spend(self, budget: _Budget, what: str) -> None:
        if not budget.spend(self._now):
            raise Breach(Error.ENHANCE_YOUR_CALM, f"too many {what}")

    def _fault(self, stream: int, code: Error, why: str, events: list[Event]) -> None:
        """A stream error (§5.4.2)."""
        self._spend(self._resets, "stream errors")
        self.reset(stream, code)
        events.append(WasReset(stream, code, why))

    # -- bytes out

    def head(self, stream: int, block: bytes, ended: bool) -> None:
        """An answer's head, an interim one's, or trailers, as a block of fields (`hpack.encode`)."""
        flags = END_STREAM if ended else 0
        if self._table_told:
            block, self._table_told = self._table_told + block, b""
        if len(block) <= FRAME_BYTES:
            self._out.append(frame(HEADERS, flags | END_HEADERS, stream, block))
        else:
            for at in range(0, len(block), FRAME_BYTES):
                part = block[at : at + FRAME_BYTES]
                last = END_HEADERS if at + FRAME_BYTES >= len(block) else 0
                kind = CONTINUATION if at else HEADERS
                self._out.append(frame(kind, (0 if at else flags) | last, stream, part))
        if ended:
            self._end(stream)

    def data(self, stream: int, payload: bytes, ended: bool) -> None:
        """Some of an answer's body, no more than there is room for."""
        found = self._streams[stream]
        size = len(payload)
        assert size <= min(found.room, self._room), "more than the windows"
        found.room -= size
        self._room -= size
        self._waiting += size
        at = 0
        while size - at > self._frame_bytes:
            self._frame(payload[at : at + self._frame_bytes], stream, 0)
            at += self._frame_bytes
        self._frame(payload[at:] if at else payload, stream, END_STREAM if ended else 0)
        self._windows.earn(size / 1024)
        self._idle.earn(1)  # clients of gRPC measure the path by a ping for what comes
        if ended:
            self._end(stream)

    def _frame(self, payload: bytes, stream: int, flags: int) -> None:
        """DATA, whose payload is not copied."""
        size = len(payload)
        self._out += (FRAME_HEAD.pack(size >> 8, size & 0xFF, DATA, flags, stream), payload)

    def credit(self, stream: int, size: int) -> None:
        """So much of what came has been passed on: the client may send as much again."""
        self._give_back(size)
        self._open(stream, size)

    def _open(self, stream: int, size: int) -> None:
        """A stream's window, for so much."""
        found = self._streams.get(stream)
        if found is None or found.client_ended:
            return
        found.owed += size
        if found.owed * 2 >= self._limits.stream_window:
            found.given += found.owed
            self._out.append(frame(WINDOW_UPDATE, 0, stream, NUMBER.pack(found.owed)))
            found.owed = 0

    def reset(self, stream: int, code: Error) -> bool:
        """Ends a stream at once. Whether it was not gone."""
        if self._streams.pop(stream, None) is None:
            return False
        self._refuse(stream, code)
        return True

    def leave(self, code: Error = Error.NO_ERROR, last: int | None = None, why: str = "") -> None:
        """GOAWAY: no stream after `last` is served; without it the client is only told to begin no more (§6.8)."""
        if last is not None:
            self._left_at = min(self._left_at, last)
        payload = NUMBER.pack(self._left_at) + NUMBER.pack(code) + why.encode("ascii", "replace")[:128]
        self._out.append(frame(GOAWAY, 0, 0, payload))

    def ping(self, payload: bytes) -> None:
        """Asks for an answer; eight bytes."""
        self._out.append(frame(PING, 0, 0, payload))

    def _give_back(self, size: int) -> None:
        self._owed += size
        if self._owed * 2 >= self._limits.window:
            self._given += self._owed
            self._out.append(frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(self._owed)))
            self._owed = 0

    def _refuse(self, stream: int, code: Error) -> None:
        self._out.append(frame(RST_STREAM, 0, stream, NUMBER.pack(code)))
        self._remember(stream)

    def _remember(self, stream: int) -> None:
        self._was_reset[stream] = None
        if len(self._was_reset) > REMEMBERED:
            del self._was_reset[next(iter(self._was_reset))]

    def _end(self, stream: int) -> None:
        """We have sent all. A client that has not is asked to stop (§8.1)."""
        self._windows.earn(2)  # of a body however small, stream and connection may be given back
        found = self._streams.get(stream)
        if found is not None:
            found.we_ended = True
            self._forget_if_over(stream, found)

    def _forget_if_over(self, stream: int, found: _Stream) -> None:
        if found.client_ended and found.we_ended:
            del self._streams[stream]
