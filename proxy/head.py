"""Message heads of HTTP/1: bytes in, a checked head or a refusal out (RFC 9110, 9112).

A head is cut strictly: CRLF only, no folding, no control characters. What is ambiguous is refused with the rule and the
byte offset, because two readers that disagree about where a message ends are how requests are smuggled.

There are two paths under this one policy. Fields of the common shape (HTTP/1.1, ASCII, nothing that changes framing
or protocol) are taken as they were cut. All others, which is where readers differ, are read by h11, and the policy
judges what h11 has read. Tests hold the two to the same verdicts and the same fields (docs/decisions/0021).

Clients and servers repeat themselves byte for byte. So verdicts are remembered under the exact bytes, in two steps: the
block of everything after the target, and each field line. A head seen before costs one regular expression and one
look-up; one that differs in its cookie costs one line. Only what passed every check is remembered, and not much of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

import h11

from proxy.errors import Code, Refused

T = TypeVar("T")

# Framings that are not a length.
NO_BODY: Final = -1
CHUNKED: Final = -2
UNTIL_CLOSE: Final = -3

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([!-~]+) (?=HTTP/\d\.\d\r\n)")
_STATUS_LINE = re.compile(rb"HTTP/(\d)\.(\d) (\d\d\d)(?: ([\t -~\x80-\xff]*))?\r\n")
_FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*(|[!-~\x80-\xff]|[!-~\x80-\xff][\t -~\x80-\xff]*[!-~\x80-\xff])[ \t]*")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n")
_CONTROL_SO_FAR = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]|(?<!\r)\n"
)  # a CR at the end may yet get its LF
_DIGITS = re.compile(rb"[0-9]{1,18}")  # RFC 9110 §8.6: 1*DIGIT; 18 digits fit any machine word
_PORT = rb"(?::[0-9]{0,5})?"
# Narrower than RFC 3986's reg-name: no sub-delims and no percent-encoding, which no host on the Internet has.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])" + _PORT)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([^#]*)")
_TRAILERS = re.compile(rb"(?i:(?:^|,)[ \t]*trailers[ \t]*(?:$|,))")
_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a head, in bytes and fields. RFC 9112 §3 asks for request lines of at least 8,000 bytes."""

    line_bytes: int = 16_384
    head_bytes: int = 65_536
    fields: int = 128


DEFAULT_LIMITS: Final = Limits()
# Fields that somebody here acts on. All others pass as they are; see also `is_acted_on`.
ACTED_ON: Final = frozenset(
    (
        b"client-cert", b"client-cert-chain", b"connection", b"content-length", b"date", b"expect", b"forwarded",
        b"host", b"keep-alive", b"proxy-connection", b"slb-id", b"slb-ip", b"strict-transport-security", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"via", b"x-real-ip", b"x-request-id",
    )
)  # fmt: skip
# Fields that change where a message ends or what follows it: heads with one of them are read by h11.
_SPECIAL: Final = frozenset((b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade"))
# Which fields a refusal of what a whole head says is about.
_ABOUT: Final = {
    Code.LENGTH: (b"content-length",),
    Code.LENGTHS_DIFFER: (b"content-length",),
    Code.LENGTH_AND_CODING: (b"content-length", b"transfer-encoding"),
    Code.CODING_1_0: (b"transfer-encoding",),
    Code.CHUNKED_NOT_LAST: (b"transfer-encoding",),
    Code.CODING_UNKNOWN: (b"transfer-encoding",),
    Code.HOST_REPEATED: (b"host",),
    Code.HOST_INVALID: (b"host",),
    Code.EXPECTATION: (b"expect",),
}
_PLAIN_CHUNKED: Final = (b"transfer-encoding", b"chunked")  # what every other answer says


class Field(NamedTuple):
    """A field line: name in lower case and as it came, value without outer white space, the line as we write it."""

    lower: bytes
    name: bytes
    value: bytes
    line: bytes
    acted_on: bool


class Fields(Protocol):
    """A message's fields, for whoever asks for some of them."""

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field called `name` (lower case), in order."""


class Asked(Fields, Protocol):
    """What rules, keys and cookies ask of a request: a `RequestHead`, or what the fast lane has in its place."""

    @property
    def method(self) -> bytes: ...

    @property
    def host(self) -> bytes: ...


class Block(NamedTuple):
    """Version and field lines, checked. `length` is a Content-Length, NO_BODY, CHUNKED or UNTIL_CLOSE.

    `acted_on` are the fields that somebody acts on, `passed` the lines of the others, each with its CRLF.
    """

    minor: int
    fields: tuple[Field, ...]
    acted_on: tuple[Field, ...]
    passed: bytes
    length: int
    keep_alive: bool
    connection: frozenset[bytes]
    host: bytes
    expects_continue: bool
    upgrade: bytes
    trailers: bool = False  # who sent it reads them (RFC 9110 §10.1.4)
    underscored: bool = False  # there are fields that do not pass, since their names have an underscore

    def values(self, name: bytes) -> list[bytes]:
        """The values of every field called `name` (lower case), in order."""
        return [field.value for field in self.fields if field.lower == name]


class RequestHead(NamedTuple):
    """`target` is in origin form or `*`; `host` is that of the target where it had one; `size` counts bytes read.

    `path_at` is where the path stands among them.
    """

    method: bytes
    target: bytes
    host: bytes
    block: Block
    size: int
    path_at: int = 0

    def values(self, name: bytes) -> list[bytes]:
        return self.block.values(name)


class ResponseHead(NamedTuple):
    """`length` already knows the method it answers (RFC 9112 §6.3); `size` counts bytes read."""

    status: int
    reason: bytes
    length: int
    block: Block
    size: int

    def values(self, name: bytes) -> list[bytes]:
        return self.block.values(name)


MEMORY_BYTES: Final = 32 << 20
FIELD_BYTES: Final = 300  # a Field with what it points to, unless another head's has the same line


class Memory(Generic[T]):
    """Verdicts by the exact bytes they are about; emptied when full, which costs less than keeping an order.

    Full is so many verdicts, or MEMORY_BYTES by a rough count of what they hold.
    """

    __slots__ = ("_held_bytes", "_limit", "_size_bytes", "_verdicts", "get")

    def __init__(self, limit: int = 4096, size_bytes: int = 2048) -> None:
        self._verdicts: dict[bytes, T] = {}
        self._limit, self._size_bytes = limit, size_bytes
        self._held_bytes = 0
        self.get = self._verdicts.get

    def put(self, data: bytes, verdict: T, fields: int = 1) -> None:
        """Remembers a verdict about at most `size_bytes` bytes, which holds so many fields."""
        if len(data) <= self._size_bytes:
            self._held_bytes += 3 * len(data) + FIELD_BYTES * fields
            if len(self._verdicts) >= self._limit or self._held_bytes > MEMORY_BYTES:
                self._verdicts.clear()
                self._held_bytes = 3 * len(data) + FIELD_BYTES * fields
            self._verdicts[data] = verdict


_requests = Memory[Block]()
_responses = Memory[Block]()
_lines = Memory[Field](size_bytes=512)


def read_request(data: bytes, scanned: int = 0, limits: Limits = DEFAULT_LIMITS) -> RequestHead | None:
    """The request head at the start of `data`; None when more bytes are needed. Raises Refused.

    `scanned` bytes were seen by an earlier call and found incomplete: they are not searched again.
    """
    start = 2 if data.startswith(b"\r\n") else 0  # RFC 9112 §2.2: one empty line before a request is ignored
    end = data.find(b"\r\n\r\n", max(start, scanned - 3))
    if end < 0:
        _refuse_early(data, start, scanned, limits)
        return None
    if end - start > limits.head_bytes:
        raise Refused(Code.HEAD_LARGE, limits.head_bytes)
    line = _REQUEST_LINE.match(data, start)
    if line is None or line.end() - start > limits.line_bytes:
        raise _why_not_a_first_line(data, start, end, limits, Code.REQUEST_LINE)
    method, target = line.groups()
    key = data[line.end() : end]
    block = _requests.get(key)
    if block is None:
        block = _read_block(key, line.end(), limits, request=True)
        _requests.put(key, block, len(block.fields))
    return _request_head(method, target, line.start(2), block, end + 4)


def read_response(data: bytes, method: bytes, scanned: int = 0, limits: Limits = DEFAULT_LIMITS) -> ResponseHead | None:
    """The response head to a request of `method` at the start of `data`; None when more is needed. Raises Refused."""
    end = data.find(b"\r\n\r\n", max(0, scanned - 3))
    if end < 0:
        _refuse_early(data, 0, scanned, limits)
        return None
    if end > limits.head_bytes:
        raise Refused(Code.HEAD_LARGE, limits.head_bytes)
    line = _STATUS_LINE.match(data, 0, end + 2)
    if line is None or data[:7] != b"HTTP/1." or line[2] not in (b"0", b"1") or line[3] < b"100":
        raise _why_not_a_first_line(data, 0, end, limits, Code.STATUS_LINE)
    # The version stands in front of the status, so the key is put together again: "HTTP/1.1" CRLF and the fields.
    key = data[:8] + data[line.end() - 2 : end]
    block = _responses.get(key)
    if block is None:
        block = _read_block(key, line.end() - 10, limits, request=False)
        _responses.put(key, block, len(block.fields))
    status = int(line[3])
    return ResponseHead(status, line[4] or b"", _response_length(method, status, block), block, end + 4)


def _response_length(method: bytes, status: int, block: Block) -> int:
    """RFC 9112 §6.3: what ends the body of an answer."""
    if method == b"HEAD" or status < 200 or status in (204, 304):
        return NO_BODY
    return UNTIL_CLOSE if block.length == NO_BODY else block.length


def _request_head(method: bytes, target: bytes, offset: int, block: Block, size: int) -> RequestHead:
    """Applies RFC 9112 §3.2 to the target; the Host field yields to an absolute target."""
    if method in (b"CONNECT", b"TRACE"):
        raise Refused(Code.METHOD, 0)
    host = block.host
    if not target.startswith(b"/"):
        if target == b"*" and method == b"OPTIONS":
            return RequestHead(method, target, host, block, size, offset)
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refused(Code.TARGET, offset)
        host, target = absolute.groups()
        at, offset = offset, offset + absolute.start(2)
        if not _HOST.fullmatch(host):
            raise Refused(Code.HOST_INVALID, at + absolute.start(1))
        if not target:
            target = b"*" if method == b"OPTIONS" else b"/"  # RFC 9112 §3.2.4
        elif target.startswith(b"?"):
            target = b"/" + target
    if b"#" in target:
        raise Refused(Code.TARGET, offset + target.index(b"#"))
    return RequestHead(method, target, host, block, size, offset)


def _refuse_early(data: bytes, start: int, scanned: int, limits: Limits) -> None:
    """Refuses an incomplete head that can no longer become a good one, so that nobody waits for its end."""
    bad = _CONTROL_SO_FAR.search(data, max(start, scanned - 1))
    if bad:
        raise Refused(_control_code(bad[0]), bad.start())
    if len(data) - start > limits.line_bytes and data.find(b"\r\n", start, start + limits.line_bytes) < 0:
        raise Refused(Code.TARGET_LONG, start + limits.line_bytes)
    if len(data) - start > limits.head_bytes:
        raise Refused(Code.HEAD_LARGE, start + limits.head_bytes)


def _control_code(found: bytes) -> Code:
    return {b"\n": Code.BARE_LF, b"\r": Code.BARE_CR}.get(found[:1], Code.CONTROL)


def _why_not_a_first_line(data: bytes, start: int, end: int, limits: Limits, otherwise: Code) -> Refused:
    """The most telling reason why a request or status line is not one that we serve."""
    stop = data.find(b"\r\n", start, end + 2)
    bad = _CONTROL.search(data, start, stop)
    if bad:
        return Refused(_control_code(bad[0]), bad.start())
    if stop - start > limits.line_bytes:
        return Refused(Code.TARGET_LONG, start + limits.line_bytes)
    return Refused(otherwise, start)


def _read_block(data: bytes, offset: int, limits: Limits, *, request: bool) -> Block:
    """Checks `HTTP/x.y` CRLF field lines. `offset` is where `data` stands in the message."""
    if data[:8] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise Refused(Code.VERSION, offset)
    minor = data[7] - 48
    fields = _read_fields(data, offset, limits)
    try:
        if not _is_common(minor, fields, data, request=request):
            fields = _read_again(minor, fields, data, limits, request=request)
        return _judge(minor, fields, request=request)
    except Refused as refused:
        raise Refused(refused.code, offset + _where(refused.code, data)) from refused


def _read_again(
    minor: int, fields: tuple[Field, ...], data: bytes, limits: Limits, *, request: bool
) -> tuple[Field, ...]:
    """The fields as h11 reads them. What it refuses is refused, for our own reason if there is one: it names a rule."""
    try:
        return _read_by_h11(data, limits, request=request)
    except h11.RemoteProtocolError as error:
        _judge(minor, fields, request=request)
        raise Refused(Code.SECOND_READER) from error


def _where(code: Code, data: bytes) -> int:
    """Where in a block the last of the fields stands that a refusal is about; 0 if it is about none."""
    names, at, found = _ABOUT.get(code, ()), 0, 0
    for line in data.split(b"\r\n"):
        if line.partition(b":")[0].lower() in names:
            found = at
        at += len(line) + 2
    return found


def _judge(minor: int, fields: tuple[Field, ...], *, request: bool) -> Block:
    """The policy on what a whole head says. The offsets of refusals are left to the caller."""
    acted_on = tuple(field for field in fields if field.acted_on)
    options = [field.value for field in acted_on if field.lower == b"connection"]
    connection = frozenset(option.strip().lower() for value in options for option in value.split(b","))
    return Block(
        minor=minor,
        fields=fields,
        acted_on=acted_on,
        passed=b"".join([field.line for field in fields if not field.acted_on]),
        length=_length(minor, acted_on),
        keep_alive=b"close" not in connection and (minor == 1 or b"keep-alive" in connection),
        connection=connection,
        host=_host(minor, acted_on) if request else b"",
        expects_continue=_expects_continue(acted_on) and minor == 1 if request else False,
        upgrade=_upgrade(minor, acted_on, connection),
        trailers=minor == 1 and any(field.lower == b"te" and _TRAILERS.search(field.value) for field in acted_on),
        underscored=any(b"_" in field.lower for field in acted_on),
    )


def _read_fields(data: bytes, offset: int, limits: Limits) -> tuple[Field, ...]:
    lines = data.split(b"\r\n")
    if len(lines) - 1 > limits.fields:
        raise Refused(Code.FIELDS_MANY, offset + sum(len(line) + 2 for line in lines[: limits.fields + 1]))
    fields: list[Field] = []
    for line in lines[1:]:
        field = _lines.get(line)
        if field is None:
            match = _FIELD.fullmatch(line)
            if match is None:
                raise _why_not_a_field(lines, len(fields) + 1, offset)
            field = _field(*match.groups())
            _lines.put(line, field)
        fields.append(field)
    return tuple(fields)


def _is_common(minor: int, fields: tuple[Field, ...], data: bytes, *, request: bool) -> bool:
    special = [(field.lower, field.value) for field in fields if field.lower in _SPECIAL]
    return minor == 1 and data.isascii() and (not special or (not request and special == [_PLAIN_CHUNKED]))


def _read_by_h11(data: bytes, limits: Limits, *, request: bool) -> tuple[Field, ...]:
    """The fields as h11 reads them from the same bytes. Raises h11.RemoteProtocolError."""
    connection = h11.Connection(h11.SERVER if request else h11.CLIENT, limits.head_bytes + 64)
    version, rest = data[:8], data[8:]
    connection.receive_data((b"GET / %b" if request else b"%b 200 ") % version + rest + b"\r\n\r\n")
    event = connection.next_event()
    assert isinstance(event, h11.Request | h11.Response), event
    return tuple(_field(bytes(name), bytes(value)) for name, value in event.headers.raw_items())


def _field(name: bytes, value: bytes) -> Field:
    lower = name.lower()
    return Field(lower, name, value, b"%b: %b\r\n" % (name, value), is_acted_on(lower))


def is_acted_on(lower: bytes) -> bool:
    """Whether somebody here acts on fields of this name (lower case)."""
    return lower in ACTED_ON or lower.startswith(b"x-forwarded-") or b"_" in lower


def _why_not_a_field(lines: list[bytes], number: int, offset: int) -> Refused:
    line = lines[number]
    offset += sum(len(each) + 2 for each in lines[:number])
    bad = _CONTROL.search(line)
    if bad:
        return Refused(_control_code(bad[0]), offset + bad.start())
    if line[:1] in (b" ", b"\t"):
        return Refused(Code.OBS_FOLD, offset)
    name, colon, _ = line.partition(b":")
    if colon and name and name != name.rstrip(b" \t"):
        return Refused(Code.SPACE_COLON, offset)
    return Refused(Code.FIELD_NAME, offset)


def _length(minor: int, fields: tuple[Field, ...]) -> int:
    """RFC 9112 §6.3, without the part that knows the method: a length, CHUNKED or NO_BODY."""
    lengths = [field.value for field in fields if field.lower == b"content-length"]
    codings = [field.value for field in fields if field.lower == b"transfer-encoding"]
    if codings:
        if lengths:
            raise Refused(Code.LENGTH_AND_CODING)
        if minor == 0:
            raise Refused(Code.CODING_1_0)
        return _chunked(codings)
    if not lengths:
        return NO_BODY
    for value in lengths:
        if not _DIGITS.fullmatch(value):
            raise Refused(Code.LENGTH)
    if len({int(value) for value in lengths}) > 1:
        raise Refused(Code.LENGTHS_DIFFER)
    return int(lengths[0])


def _chunked(codings: list[bytes]) -> int:
    names = [name.strip(b" \t").lower() for value in codings for name in value.split(b",")]
    if names == [b"chunked"]:
        return CHUNKED
    if b"chunked" in names[:-1] or b"" in names:
        raise Refused(Code.CHUNKED_NOT_LAST)
    raise Refused(Code.CODING_UNKNOWN)


def _host(minor: int, fields: tuple[Field, ...]) -> bytes:
    hosts = [field.value for field in fields if field.lower == b"host"]
    if len(hosts) > 1:
        raise Refused(Code.HOST_REPEATED)
    if not hosts:
        if minor == 1:
            raise Refused(Code.HOST_MISSING)
        return b""
    if not _HOST.fullmatch(hosts[0]):
        raise Refused(Code.HOST_INVALID)
    return hosts[0]


def is_host(value: bytes) -> bool:
    """Whether it may stand in a Host field."""
    return _HOST.fullmatch(value) is not None


def _expects_continue(fields: tuple[Field, ...]) -> bool:
    expectations = [field.value.lower() for field in fields if field.lower == b"expect"]
    if any(value != b"100-continue" for value in expectations):
        raise Refused(Code.EXPECTATION)
    return bool(expectations)


def _upgrade(minor: int, fields: tuple[Field, ...], connection: frozenset[bytes]) -> bytes:
    """The protocol of `Upgrade`, lower case; nothing in HTTP/1.0 (RFC 9110 §7.8) or without the connection option."""
    if minor == 0 or b"upgrade" not in connection:
        return b""
    return b",".join(field.value.lower() for field in fields if field.lower == b"upgrade")


def upgrades_to_websocket(head: RequestHead) -> bool:
    """Whether `head` opens a WebSocket as RFC 6455 §4.1 asks. Raises Refused where it means to and does not."""
    block = head.block
    if block.upgrade != b"websocket":
        return False
    keys = block.values(b"sec-websocket-key")
    sound = (
        head.method == b"GET"
        and len(keys) == 1
        and _WEBSOCKET_KEY.fullmatch(keys[0])
        and block.values(b"sec-websocket-version") == [b"13"]
        and block.length in (NO_BODY, 0)
    )
    if not sound:
        raise Refused(Code.UPGRADE)
    return True
