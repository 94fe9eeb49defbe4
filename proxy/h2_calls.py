"""An HTTP/2 connection to a server (RFC 9113), without its socket: our side of the requests, bytes in and events out.

The frames are those of h2_session.py, seen from the other end: we begin the streams, with odd numbers in their order,
and the server answers with heads, bodies and trailers (`Headed`, `Came`). A server bounds us by its setting of streams
at once, and leaves by GOAWAY, whose last stream says which requests it has not touched (§6.8): these come back as
`Left.unserved`, and one that it refuses as `WasReset` with REFUSED_STREAM (§8.7). Both may be asked elsewhere.

Nothing that a server sends makes us hold more than `Limits` say, as with clients. What came of a body counts no longer
for the connection's window once it is here, only for its stream's until that is given `credit`: a stream that nobody
reads stands still alone.
"""

from __future__ import annotations

from typing import Final

from proxy.h2_events import Came, Event, Headed, Left
from proxy.h2_frames import (
    MOST_WINDOW,
    NUMBER,
    PREFACE,
    SETTING,
    SETTINGS,
    WINDOW_UPDATE,
    Breach,
    Error,
    Setting,
    frame,
)
from proxy.h2_session import WINDOW, Limits, Session, _Stream

STREAMS: Final = 256  # at once on a connection, if the server allows more: the next go to another connection
LAST_STREAM: Final = MOST_WINDOW  # then the numbers end (§5.1.1)
SERVERS: Final = Limits(
    streams=STREAMS,
    block_bytes=98_304,  # beyond what fields may have, so that it is one answer only that is refused
    stream_window=131_072,
    window=1_048_576,
    resets=(10_000, 1_000),  # a server may well refuse as fast as we ask
    idle_frames=(10_000, 1_000),  # gRPC's servers ping us to learn how much is under way
)


class Calls(Session):
    """One connection. Times are in seconds of any clock."""

    __slots__ = ("_most", "connect_protocol", "last_served")

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        settings = {
            Setting.ENABLE_PUSH: 0,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_HEADER_LIST_SIZE: limits.fields_bytes,
        }
        payload = b"".join(SETTING.pack(name, value) for name, value in settings.items())
        self._out = [PREFACE, frame(SETTINGS, 0, 0, payload)]
        if limits.window > WINDOW:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, NUMBER.pack(limits.window - WINDOW)))
        self._greeted = 1  # a server has no preface but its settings (§3.4)
        self._most = limits.streams
        self.connect_protocol = False  # WebSockets may be asked for (RFC 8441)
        self.last_served = MOST_WINDOW  # the server does nothing about streams beyond this one

    # -- what the caller may ask

    @property
    def greeted(self) -> bool:
        """Whether the server's settings are here."""
        return self._greeted == 2

    @property
    def most(self) -> int:
        """How many streams there may be at once."""
        return self._most

    @property
    def takes(self) -> bool:
        """Whether a stream may be begun."""
        return (
            len(self._streams) < self._most
            and self.last_served == MOST_WINDOW
            and not self.exhausted
            and not self._broken
        )

    def begin(self, block: bytes, *, ended: bool) -> int:
        """Asks; the stream's number. `block`: the head. To be called where a stream `takes` one."""
        assert self.takes
        self._last = stream = self._last + 2 if self._last else 1
        self._streams[stream] = _Stream(self._window, self._limits.stream_window, ended=False)
        self.head(stream, block, ended)
        return stream

    @property
    def exhausted(self) -> bool:
        """Whether there are no numbers left."""
        return self._last >= LAST_STREAM

    def has(self, stream: int) -> bool:
        """Whether the stream is not over for both sides."""
        return stream in self._streams

    # -- bytes in

    def _fields(self, stream: int, block: bytes, ended: bool, events: list[Event]) -> None:
        fields = self._decoded(block)
        found = self._streams.get(stream)
        if found is None:
            if stream not in self._was_reset:
                code = Error.STREAM_CLOSED if stream <= self._last else Error.PROTOCOL_ERROR
                raise Breach(code, f"HEADERS on stream {stream}, which is not open")
        elif found.client_ended:
            self._fault(stream, Error.STREAM_CLOSED, "HEADERS after the end", events)
        else:
            found.client_ended = ended
            events.append(Headed(stream, fields, ended))
            if ended:
                self._forget_if_over(stream, found)

    def _data(self, stream: int, flags: int, payload: bytes, events: list[Event]) -> None:
        before = len(events)
        super()._data(stream, flags, payload, events)
        if len(events) > before:
            event = events[-1]
            if isinstance(event, Came):
                self._give_back(event.size)

    def _note(self, name: int, value: int) -> None:
        if name == Setting.MAX_CONCURRENT_STREAMS:
            self._most = min(value, self._limits.streams)
        elif name == Setting.ENABLE_CONNECT_PROTOCOL:
            self.connect_protocol = bool(value)

    def _goaway(self, last: int, code: int, events: list[Event]) -> None:
        self._spend(self._idle, "goodbyes")
        self.last_served = min(self.last_served, last & MOST_WINDOW, MOST_WINDOW - 1)
        unserved = [stream for stream in self._streams if stream > self.last_served]
        for stream in unserved:
            del self._streams[stream]
            self._remember(stream)
        events.append(Left(code, unserved))

    # -- bytes out

    def credit(self, stream: int, size: int) -> None:
        """So much of what came has been passed on: the server may send as much again on this stream."""
        self._open(stream, size)

    def leave(self, code: Error = Error.NO_ERROR, last: int | None = None, why: str = "") -> None:
        """GOAWAY. The server has begun no stream, so that there is no last one."""
        super().leave(code, 0, why)
