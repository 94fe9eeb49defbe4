"""The key server's wire protocol, without I/O; `protocol.md` draws every byte.

A client says HELLO, the server answers WELCOME, then requests and replies travel as frames that carry the request's id,
many at a time and in any order. A frame is read in two steps: the frame header says where it ends, the body's reader
must consume exactly that much. So there are three kinds of trouble: a body that contradicts itself costs its own
request only (`Malformed`), a tag that this version lacks is answered and skipped (`Unknown`), and a frame whose length
is impossible costs the connection (`Broken`), because nothing after it can be trusted.

messages.py has what is said, bodies.py how it is written; both are to be had from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from struct import error as StructError

from keyserver.bodies import (
    FRAME,
    GREETINGS,
    LEAST_LENGTH,
    LENGTH_BYTES,
    REPLIES,
    REQUESTS,
    WELCOMES,
    Reader,
    encode,
)
from keyserver.errors import ErrorCode, WireError
from keyserver.messages import (
    HIGHEST_VERSION,
    KEY_ID_BYTES,
    LOWEST_VERSION,
    MAGIC,
    MAX_CHAIN_BYTES,
    MAX_FRAME_BYTES,
    MAX_NAME_BYTES,
    MAX_REQUEST_ID,
    SECRET_BYTES,
    Broken,
    ChainChecked,
    CheckChain,
    Event,
    Failed,
    Find,
    Found,
    GetStaple,
    Goodbye,
    Hello,
    Malformed,
    Message,
    Ping,
    Pong,
    Sign,
    Signed,
    StapleGiven,
    Tag,
    Tickets,
    TicketSecrets,
    Unknown,
    Welcome,
)

__all__ = [
    "HIGHEST_VERSION",
    "KEY_ID_BYTES",
    "LOWEST_VERSION",
    "MAGIC",
    "MAX_CHAIN_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_NAME_BYTES",
    "MAX_REQUEST_ID",
    "SECRET_BYTES",
    "Broken",
    "ChainChecked",
    "CheckChain",
    "Connection",
    "Event",
    "Failed",
    "Find",
    "Found",
    "GetStaple",
    "Goodbye",
    "Hello",
    "Malformed",
    "Message",
    "Ping",
    "Pong",
    "Reader",
    "Sign",
    "Signed",
    "StapleGiven",
    "State",
    "Tag",
    "TicketSecrets",
    "Tickets",
    "Unknown",
    "Welcome",
    "client_side",
    "encode",
    "server_side",
]


class State(Enum):
    GREETING = auto()
    OPEN = auto()
    CLOSED = auto()


# What each side may be sent in each state. A tag that is absent is an unknown one (OPEN) or ends the connection.
_TO_SERVER: Mapping[State, Mapping[int, Reader]] = {
    State.GREETING: GREETINGS,
    State.OPEN: REQUESTS,
    State.CLOSED: {},
}
_TO_CLIENT: Mapping[State, Mapping[int, Reader]] = {
    State.GREETING: WELCOMES,
    State.OPEN: REPLIES,
    State.CLOSED: {},
}


class Connection:
    """One side of a connection: bytes in, events out; messages in, bytes out. Holds at most one frame of input.

    Use `server_side()` or `client_side()`. Afterwards: `receive_data` for what arrives, `events` for what it meant,
    `send` for what to say, `data_to_send` for the bytes of it.
    """

    def __init__(self, readers: Mapping[State, Mapping[int, Reader]], max_in_flight: int) -> None:
        self._readers = readers
        self._max_in_flight = max_in_flight
        self._state = State.GREETING
        self._chunks: list[bytes] = []  # joined once, when the frame at their head is whole: cost stays linear
        self._buffered = 0
        self._needed = FRAME.size
        self._events: list[Event] = []
        self._out: list[bytes] = []

    @property
    def state(self) -> State:
        return self._state

    def send(self, message: Message) -> None:
        """Queues a message. Raises WireError for one that no frame can hold."""
        self._out.append(encode(message))

    def data_to_send(self) -> bytes:
        """The bytes of all that was queued since the last call."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def events(self) -> list[Event]:
        """What has been received since the last call, in order."""
        events, self._events = self._events, []
        return events

    def receive_data(self, data: bytes) -> None:
        """Takes bytes off the wire, cut anywhere. Never raises: what is wrong becomes an event."""
        if self._state is State.CLOSED:
            return
        if self._chunks or len(data) < self._needed:
            self._chunks.append(data)
            self._buffered += len(data)
            if self._buffered < self._needed:
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        rest = self._read_frames(data)
        if rest < len(data):
            self._chunks.append(data[rest:])
        self._buffered = len(data) - rest

    def _read_frames(self, data: bytes) -> int:
        """Reads whole frames off `data`; returns where the first incomplete one begins and sets what it needs."""
        start, total = 0, len(data)
        while total - start >= FRAME.size:
            length, tag, request_id = FRAME.unpack_from(data, start)
            if not LEAST_LENGTH <= length <= MAX_FRAME_BYTES:
                self._break(f"a frame of {length} bytes; {LEAST_LENGTH} to {MAX_FRAME_BYTES} are allowed")
                return total
            end = start + LENGTH_BYTES + length
            if end > total:
                self._needed = end - start
                return start
            reader = self._readers[self._state].get(tag)
            if reader is None:
                self._unexpected(request_id, tag)
            else:
                self._read(reader, request_id, data, start + FRAME.size, end)
            if self._state is State.CLOSED:
                return total
            start = end
        self._needed = FRAME.size
        return start

    def _read(self, reader: Reader, request_id: int, data: bytes, start: int, end: int) -> None:
        try:
            event = reader(request_id, data, start, end)
        except (WireError, StructError, UnicodeError) as why:
            if self._state is State.GREETING:
                self._break(f"a bad greeting: {why}")
            else:
                self._events.append(Malformed(request_id, str(why)))
            return
        if self._state is State.GREETING:
            self._greeted(event)
        else:
            self._events.append(event)

    def _unexpected(self, request_id: int, tag: int) -> None:
        if self._state is State.GREETING:
            self._break(f"tag 0x{tag:02x} before the greeting")
        else:
            self._events.append(Unknown(request_id, tag))

    def _greeted(self, event: Message) -> None:
        """protocol.md, "Versions": the highest one in common; with none in common the connection ends."""
        self._events.append(event)
        if isinstance(event, Hello):
            version = min(event.highest, HIGHEST_VERSION)
            if version < max(event.lowest, LOWEST_VERSION):
                why = f"versions {event.lowest} to {event.highest}; {HIGHEST_VERSION} is spoken here"
                self._break(why, ErrorCode.UNSUPPORTED_VERSION)
            else:
                self.send(Welcome(version, self._max_in_flight))
                self._state = State.OPEN
        elif isinstance(event, Failed):
            self._break(f"the server refused the connection: {event.code.name.lower()}", event.code)
        elif isinstance(event, Welcome) and not LOWEST_VERSION <= event.version <= HIGHEST_VERSION:
            self._break(f"the server chose version {event.version}, which was not offered")
        else:
            self._state = State.OPEN

    def _break(self, why: str, code: ErrorCode = ErrorCode.MALFORMED) -> None:
        self._state = State.CLOSED
        self._events.append(Broken(why, code))


def server_side(max_in_flight: int) -> Connection:
    """The server's side. It answers the greeting by itself."""
    return Connection(_TO_SERVER, max_in_flight)


def client_side() -> Connection:
    """The client's side, with its greeting queued."""
    connection = Connection(_TO_CLIENT, 0)
    connection.send(Hello())
    return connection
