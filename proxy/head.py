"""Message heads of HTTP/1: bytes in, a checked head or a refusal out (RFC 9110, 9112).

A head is cut strictly: CRLF only, no folding, no control characters. What is ambiguous is refused with the rule and the
byte offset, because two readers that disagree about where a message ends are how requests are smuggled.

There are two paths under one policy (policy.py). Fields of the common shape (HTTP/1.1, ASCII, nothing that changes
framing or protocol) are taken as they were cut. All others, which is where readers differ, are read by h11, and the
policy judges what h11 has read. Tests hold the two to the same verdicts and the same fields (docs/decisions/0021).

Verdicts are remembered (memory.py) in two steps: the block of everything after the target, and each field line. A head
seen before costs one regular expression and one look-up; one that differs in its cookie costs one line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import h11

from proxy.errors import Code, Refused
from proxy.memory import Memory
from proxy.message import Block, Field, RequestHead, ResponseHead, field_of
from proxy.policy import is_host, judge, response_length, where

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([!-~]+) (?=HTTP/\d\.\d\r\n)")
_STATUS_LINE = re.compile(rb"HTTP/(\d)\.(\d) (\d\d\d)(?: ([\t -~\x80-\xff]*))?\r\n")
_FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*(|[!-~\x80-\xff]|[!-~\x80-\xff][\t -~\x80-\xff]*[!-~\x80-\xff])[ \t]*")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n")
_CONTROL_SO_FAR = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r[^\n]|(?<!\r)\n"
)  # a CR at the end may yet get its LF
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([^#]*)")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a head, in bytes and fields. RFC 9112 §3 asks for request lines of at least 8,000 bytes."""

    line_bytes: int = 16_384
    head_bytes: int = 65_536
    fields: int = 128


DEFAULT_LIMITS: Final = Limits()
# Fields that change where a message ends or what follows it: heads with one of them are read by h11.
_SPECIAL: Final = frozenset((b"expect", b"te", b"trailer", b"transfer-encoding", b"upgrade"))
_PLAIN_CHUNKED: Final = (b"transfer-encoding", b"chunked")  # what every other answer says


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
    return ResponseHead(status, line[4] or b"", response_length(method, status, block), block, end + 4)


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
        if not is_host(host):
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
        return judge(minor, fields, request=request)
    except Refused as refused:
        raise Refused(refused.code, offset + where(refused.code, data)) from refused


def _read_again(
    minor: int, fields: tuple[Field, ...], data: bytes, limits: Limits, *, request: bool
) -> tuple[Field, ...]:
    """The fields as h11 reads them. What it refuses is refused, for our own reason if there is one: it names a rule."""
    try:
        return _read_by_h11(data, limits, request=request)
    except h11.RemoteProtocolError as error:
        judge(minor, fields, request=request)
        raise Refused(Code.SECOND_READER) from error


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
            field = field_of(*match.groups())
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
    return tuple(field_of(bytes(name), bytes(value)) for name, value in event.headers.raw_items())


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
