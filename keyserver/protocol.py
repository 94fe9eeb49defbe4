"""The key server's wire protocol, without I/O; `protocol.md` draws every byte.

A client says HELLO, the server answers WELCOME, then requests and replies travel as frames that carry the request's id,
many at a time and in any order. A frame is read in two steps: the frame header says where it ends, the body's reader
must consume exactly that much. So there are three kinds of trouble: a body that contradicts itself costs its own
request only (`Malformed`), a tag that this version lacks is answered and skipped (`Unknown`), and a frame whose length
is impossible costs the connection (`Broken`), because nothing after it can be trusted.

Messages are named tuples, because one SIGN and one SIGNED pass here for every handshake of the cluster: making
a frozen dataclass costs three times as much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, IntEnum, auto
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from certs.report import ChainReport, Staple
from keyserver.errors import ErrorCode, WireError

MAGIC = b"PFKS"
LOWEST_VERSION = HIGHEST_VERSION = 1
KEY_ID_BYTES = 32  # SHA-256 of the SubjectPublicKeyInfo
MAX_CHAIN_BYTES = 1 << 18  # as core.model.Certificate.chain
MAX_FRAME_BYTES = 1 << 19  # a chain, or the report on one, whose every field is at its limit
SECRET_BYTES = 32  # of a period's tickets
MAX_NAME_BYTES = 253  # of a DNS name (RFC 1035, section 2.3.4)
MAX_REQUEST_ID = 0xFFFF_FFFF


class Tag(IntEnum):
    """What a frame is. Replies have the high bit set."""

    HELLO = 0x01
    SIGN = 0x02
    CHECK_CHAIN = 0x03
    PING = 0x04
    FIND = 0x05
    GET_STAPLE = 0x06
    TICKETS = 0x07
    WELCOME = 0x81
    SIGNED = 0x82
    CHAIN_CHECKED = 0x83
    PONG = 0x84
    FOUND = 0x85
    STAPLE_GIVEN = 0x86
    TICKET_SECRETS = 0x87
    GOODBYE = 0xFE
    FAILED = 0xFF


class Hello(NamedTuple):
    """The client's first frame: the versions that it speaks."""

    lowest: int = LOWEST_VERSION
    highest: int = HIGHEST_VERSION


class Welcome(NamedTuple):
    """The server's first frame: the version of all that follows, and how many requests it queues for one connection."""

    version: int
    max_in_flight: int


class Sign(NamedTuple):
    """Asks for the signature of `content` by key `key_id` with a TLS SignatureScheme. `sni` is for the audit log."""

    request_id: int
    key_id: bytes
    scheme: int
    sni: str
    content: bytes


class Signed(NamedTuple):
    request_id: int
    signature: bytes


class CheckChain(NamedTuple):
    """Asks whether a PEM chain, leaf first, may be served."""

    request_id: int
    pem: str


class ChainChecked(NamedTuple):
    request_id: int
    report: ChainReport


class Find(NamedTuple):
    """Asks for the keys of a server name, with their chains."""

    request_id: int
    name: str


class Found(NamedTuple):
    """`chains`: (key id, PEM text) of each key whose chain has the name, and that the client may use."""

    request_id: int
    chains: tuple[tuple[bytes, str], ...]


class GetStaple(NamedTuple):
    """Asks for the OCSP answer to be stapled with a PEM chain, leaf first."""

    request_id: int
    pem: str


class StapleGiven(NamedTuple):
    request_id: int
    staple: Staple


class Tickets(NamedTuple):
    """Asks for the secrets that session tickets are made with."""

    request_id: int


class TicketSecrets(NamedTuple):
    """`secrets`: (when its period begins, in seconds since 1970; 32 bytes), oldest first."""

    request_id: int
    secrets: tuple[tuple[int, bytes], ...]

    def __repr__(self) -> str:
        return f"TicketSecrets({self.request_id}, …)"


class Ping(NamedTuple):
    request_id: int


class Pong(NamedTuple):
    request_id: int


class Failed(NamedTuple):
    """The request was not served. Id 0: the connection as a whole; the sender closes it."""

    request_id: int
    code: ErrorCode


class Goodbye(NamedTuple):
    """The server is about to end: it answers what it has been asked, and wants no more."""


class Malformed(NamedTuple):
    """Seen, not sent: a frame whose body contradicts itself. The connection is sound."""

    request_id: int
    why: str


class Unknown(NamedTuple):
    """Seen, not sent: a frame whose tag means nothing here. The connection is sound."""

    request_id: int
    tag: int


class Broken(NamedTuple):
    """Seen, not sent: the connection can no longer be understood. What comes after it is ignored.

    A server says `Failed(0, code)` and closes; a client closes.
    """

    why: str
    code: ErrorCode = ErrorCode.MALFORMED


Message = (
    Hello
    | Welcome
    | Sign
    | Signed
    | CheckChain
    | ChainChecked
    | Find
    | Found
    | GetStaple
    | StapleGiven
    | Tickets
    | TicketSecrets
    | Ping
    | Pong
    | Failed
    | Goodbye
)
Event = Message | Malformed | Unknown | Broken
Reader = Callable[[int, bytes, int, int], Message]  # (request id, data, start and end of the body) → message

# --- Bodies. A layout is the fixed part; its last fields are the lengths of the parts that follow it. ---

_FRAME = Struct(">IBI")  # length of all that follows the length itself, tag, request id
_LENGTH_BYTES = 4
_LEAST_LENGTH = _FRAME.size - _LENGTH_BYTES
_HELLO = Struct(">4sBB")
_WELCOME = Struct(">BI")
_SIGN = Struct(">32sHBH")  # key id, scheme, length of the SNI, length of the content
_CODE = Struct(">B")
_REPORT = Struct(">32sqHH")  # key id, expiry, number of names, number of problems
_TEXT = Struct(">H")  # length of a text
_COUNT = Struct(">H")  # number of chains
_PERIOD = Struct(">q32s")  # beginning, secret
_CHAIN = Struct(">32sI")  # key id, length of the chain
_STAPLE = Struct(">qHH")  # end of the answer, length of the answer, length of the text


def _frame(tag: int, request_id: int, body: bytes = b"") -> bytes:
    length = _LEAST_LENGTH + len(body)
    if length > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {length} bytes; {MAX_FRAME_BYTES} are allowed")
    return _FRAME.pack(length, tag, request_id) + body


def _ends(at: int, end: int) -> None:
    if at != end:
        raise WireError(f"a body that ends {abs(end - at)} bytes {'later' if end > at else 'earlier'} than it says")


def _write_hello(message: Hello) -> bytes:
    return _frame(Tag.HELLO, 0, _HELLO.pack(MAGIC, message.lowest, message.highest))


def _read_hello(request_id: int, data: bytes, start: int, end: int) -> Hello:
    _ends(start + _HELLO.size, end)
    magic, lowest, highest = _HELLO.unpack_from(data, start)
    if magic != MAGIC:
        raise WireError("not the key server's protocol")
    return Hello(lowest, highest)


def _write_welcome(message: Welcome) -> bytes:
    return _frame(Tag.WELCOME, 0, _WELCOME.pack(*message))


def _read_welcome(request_id: int, data: bytes, start: int, end: int) -> Welcome:
    _ends(start + _WELCOME.size, end)
    return Welcome(*_WELCOME.unpack_from(data, start))


def _write_sign(message: Sign) -> bytes:
    request_id, key_id, scheme, sni, content = message
    if len(key_id) != KEY_ID_BYTES:
        raise WireError(f"a key id of {len(key_id)} bytes; it has {KEY_ID_BYTES}")
    name = sni.encode("ascii")
    return _frame(Tag.SIGN, request_id, _SIGN.pack(key_id, scheme, len(name), len(content)) + name + content)


def _read_sign(request_id: int, data: bytes, start: int, end: int) -> Sign:
    key_id, scheme, name_bytes, content_bytes = _SIGN.unpack_from(data, start)
    name = start + _SIGN.size
    content = name + name_bytes
    if content + content_bytes != end:
        _ends(content + content_bytes, end)
    return Sign(request_id, key_id, scheme, data[name:content].decode("ascii"), data[content:end])


def _write_signed(message: Signed) -> bytes:
    return _frame(Tag.SIGNED, message[0], message[1])


def _read_signed(request_id: int, data: bytes, start: int, end: int) -> Signed:
    return Signed(request_id, data[start:end])


def _chain_of(pem: bytes) -> bytes:
    if len(pem) > MAX_CHAIN_BYTES:
        raise WireError(f"a chain of {len(pem)} bytes; {MAX_CHAIN_BYTES} are allowed")
    return pem


def _write_check_chain(message: CheckChain) -> bytes:
    return _frame(Tag.CHECK_CHAIN, message.request_id, _chain_of(message.pem.encode()))


def _read_check_chain(request_id: int, data: bytes, start: int, end: int) -> CheckChain:
    return CheckChain(request_id, _chain_of(data[start:end]).decode())


def _write_chain_checked(message: ChainChecked) -> bytes:
    report = message.report
    texts = [text.encode() for text in (*report.names, *report.problems)]
    fixed = _REPORT.pack(report.key_id, report.not_after, len(report.names), len(report.problems))
    return _frame(
        Tag.CHAIN_CHECKED, message.request_id, fixed + b"".join(_TEXT.pack(len(text)) + text for text in texts)
    )


def _read_chain_checked(request_id: int, data: bytes, start: int, end: int) -> ChainChecked:
    key_id, not_after, names, problems = _REPORT.unpack_from(data, start)
    at = start + _REPORT.size
    texts: list[str] = []
    for _ in range(names + problems):
        (size,) = _TEXT.unpack_from(data, at)
        at += _TEXT.size + size
        if at > end:
            _ends(at, end)
        texts.append(data[at - size : at].decode())
    _ends(at, end)
    return ChainChecked(request_id, ChainReport(key_id, tuple(texts[:names]), not_after, tuple(texts[names:])))


def _write_find(message: Find) -> bytes:
    name = message.name.encode("ascii")
    if not 0 < len(name) <= MAX_NAME_BYTES:
        raise WireError(f"a name of {len(name)} bytes; 1 to {MAX_NAME_BYTES} are allowed")
    return _frame(Tag.FIND, message.request_id, name)


def _read_find(request_id: int, data: bytes, start: int, end: int) -> Find:
    if not 0 < end - start <= MAX_NAME_BYTES:
        raise WireError(f"a name of {end - start} bytes; 1 to {MAX_NAME_BYTES} are allowed")
    return Find(request_id, data[start:end].decode("ascii"))


def _write_found(message: Found) -> bytes:
    parts = [_COUNT.pack(len(message.chains))]
    for key_id, chain in message.chains:
        if len(key_id) != KEY_ID_BYTES:
            raise WireError(f"a key id of {len(key_id)} bytes; it has {KEY_ID_BYTES}")
        pem = chain.encode()
        parts += [_CHAIN.pack(key_id, len(pem)), pem]
    return _frame(Tag.FOUND, message.request_id, b"".join(parts))


def _read_found(request_id: int, data: bytes, start: int, end: int) -> Found:
    (count,) = _COUNT.unpack_from(data, start)
    at = start + _COUNT.size
    chains: list[tuple[bytes, str]] = []
    for _ in range(count):
        key_id, size = _CHAIN.unpack_from(data, at)
        at += _CHAIN.size + size
        if at > end:
            _ends(at, end)
        chains.append((key_id, data[at - size : at].decode()))
    _ends(at, end)
    return Found(request_id, tuple(chains))


def _write_get_staple(message: GetStaple) -> bytes:
    return _frame(Tag.GET_STAPLE, message.request_id, _chain_of(message.pem.encode()))


def _read_get_staple(request_id: int, data: bytes, start: int, end: int) -> GetStaple:
    return GetStaple(request_id, _chain_of(data[start:end]).decode())


def _write_staple_given(message: StapleGiven) -> bytes:
    answer, ends, why = message.staple.answer, message.staple.ends, message.staple.why.encode()
    body = _STAPLE.pack(ends, len(answer), len(why)) + answer + why
    return _frame(Tag.STAPLE_GIVEN, message.request_id, body)


def _read_staple_given(request_id: int, data: bytes, start: int, end: int) -> StapleGiven:
    ends, answer_bytes, why_bytes = _STAPLE.unpack_from(data, start)
    answer = start + _STAPLE.size
    why = answer + answer_bytes
    _ends(why + why_bytes, end)
    return StapleGiven(request_id, Staple(data[answer:why], ends, data[why:end].decode()))


def _write_tickets(message: Tickets) -> bytes:
    return _frame(Tag.TICKETS, message.request_id)


def _read_tickets(request_id: int, data: bytes, start: int, end: int) -> Tickets:
    _ends(start, end)
    return Tickets(request_id)


def _write_ticket_secrets(message: TicketSecrets) -> bytes:
    if any(len(secret) != SECRET_BYTES for _, secret in message.secrets):
        raise WireError(f"a secret that does not have {SECRET_BYTES} bytes")
    return _frame(Tag.TICKET_SECRETS, message.request_id, b"".join(_PERIOD.pack(*each) for each in message.secrets))


def _read_ticket_secrets(request_id: int, data: bytes, start: int, end: int) -> TicketSecrets:
    if (end - start) % _PERIOD.size:
        raise WireError(f"secrets of {end - start} bytes; each has {_PERIOD.size}")
    return TicketSecrets(request_id, tuple(_PERIOD.unpack_from(data, at) for at in range(start, end, _PERIOD.size)))


def _write_ping(message: Ping) -> bytes:
    return _frame(Tag.PING, message.request_id)


def _read_ping(request_id: int, data: bytes, start: int, end: int) -> Ping:
    _ends(start, end)
    return Ping(request_id)


def _write_pong(message: Pong) -> bytes:
    return _frame(Tag.PONG, message.request_id)


def _read_pong(request_id: int, data: bytes, start: int, end: int) -> Pong:
    _ends(start, end)
    return Pong(request_id)


def _write_failed(message: Failed) -> bytes:
    return _frame(Tag.FAILED, message.request_id, _CODE.pack(message.code))


def _read_failed(request_id: int, data: bytes, start: int, end: int) -> Failed:
    """A code that this version does not know, or that never travels, counts as INTERNAL."""
    _ends(start + _CODE.size, end)
    (code,) = _CODE.unpack_from(data, start)
    return Failed(request_id, _WIRE_CODES.get(code, ErrorCode.INTERNAL))


def _write_goodbye(message: Goodbye) -> bytes:
    return _frame(Tag.GOODBYE, 0)


def _read_goodbye(request_id: int, data: bytes, start: int, end: int) -> Goodbye:
    _ends(start, end)
    return Goodbye()


_WIRE_CODES: Mapping[int, ErrorCode] = {code: code for code in ErrorCode if code < 0x80}
_WRITERS: Mapping[type[Message], Callable[..., bytes]] = {
    Hello: _write_hello,
    Welcome: _write_welcome,
    Sign: _write_sign,
    Signed: _write_signed,
    CheckChain: _write_check_chain,
    ChainChecked: _write_chain_checked,
    Find: _write_find,
    Found: _write_found,
    GetStaple: _write_get_staple,
    StapleGiven: _write_staple_given,
    Tickets: _write_tickets,
    TicketSecrets: _write_ticket_secrets,
    Ping: _write_ping,
    Pong: _write_pong,
    Failed: _write_failed,
    Goodbye: _write_goodbye,
}


def encode(message: Message) -> bytes:
    """The frame of a message. Raises WireError for one that no frame can hold."""
    try:
        return _WRITERS[type(message)](message)
    except (StructError, UnicodeError) as why:
        raise WireError(f"{type(message).__name__} does not fit its frame: {why}") from None


class State(Enum):
    GREETING = auto()
    OPEN = auto()
    CLOSED = auto()


# What each side may be sent in each state. A tag that is absent is an unknown one (OPEN) or ends the connection.
_TO_SERVER: Mapping[State, Mapping[int, Reader]] = {
    State.GREETING: {Tag.HELLO: _read_hello},
    State.OPEN: {
        Tag.SIGN: _read_sign,
        Tag.CHECK_CHAIN: _read_check_chain,
        Tag.FIND: _read_find,
        Tag.GET_STAPLE: _read_get_staple,
        Tag.TICKETS: _read_tickets,
        Tag.PING: _read_ping,
    },
    State.CLOSED: {},
}
_TO_CLIENT: Mapping[State, Mapping[int, Reader]] = {
    State.GREETING: {Tag.WELCOME: _read_welcome, Tag.FAILED: _read_failed},
    State.OPEN: {
        Tag.SIGNED: _read_signed,
        Tag.CHAIN_CHECKED: _read_chain_checked,
        Tag.FOUND: _read_found,
        Tag.STAPLE_GIVEN: _read_staple_given,
        Tag.TICKET_SECRETS: _read_ticket_secrets,
        Tag.PONG: _read_pong,
        Tag.FAILED: _read_failed,
        Tag.GOODBYE: _read_goodbye,
    },
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
        self._needed = _FRAME.size
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
        while total - start >= _FRAME.size:
            length, tag, request_id = _FRAME.unpack_from(data, start)
            if not _LEAST_LENGTH <= length <= MAX_FRAME_BYTES:
                self._break(f"a frame of {length} bytes; {_LEAST_LENGTH} to {MAX_FRAME_BYTES} are allowed")
                return total
            end = start + _LENGTH_BYTES + length
            if end > total:
                self._needed = end - start
                return start
            reader = self._readers[self._state].get(tag)
            if reader is None:
                self._unexpected(request_id, tag)
            else:
                self._read(reader, request_id, data, start + _FRAME.size, end)
            if self._state is State.CLOSED:
                return total
            start = end
        self._needed = _FRAME.size
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
