"""The fast lane's reading: whole messages of the common shape, from bytes to the bytes that go on, in a few look-ups.

A message head is cut into what its sender repeats and what it varies. Of a request, the target and fields such as
Cookie and Referer vary; of an answer, its date, its length and fields such as ETag. The rest is the head's shape. The
first time that a shape is seen, `head` judges it and `headers` rewrites it, with nothing or probes in place of what
varies; the result is cut at these places and remembered under the exact bytes of the shape. The next message of the
shape costs a look-up, a check of what varies, and a join.

So there is no second policy here: what varies is checked by rules narrower than those of `head` (docs/decisions/0026),
and whatever is not of the common shape is None, for `Exchange` to deal with from its first byte. A differential test
holds both ways to the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from proxy import headers
from proxy.errors import Refused
from proxy.head import CHUNKED, NO_BODY, UNTIL_CLOSE, Memory, read_response
from proxy.head import read_request as head_of_request
from proxy.origin import Origin

MESSAGE_BYTES: Final = 16_384  # longer ones do not care for a microsecond; within all of head.Limits
# A path in normal form without `%`, so that nothing has to be decoded; no quotes or backslashes, so that the access log
# need not escape anything. `/.` is looked for apart.
_REQUEST_LINE = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!$&->@-\[\]-~]*(?:\?[!$-\[\]-~]*)?) HTTP/1\.1\r\n"
)
_VISIBLE: Final = bytes(range(0x20, 0x7F))


def _starts(*names: bytes) -> tuple[bytes, ...]:
    return tuple(b"\r\n%b: " % name for name in names)


# Fields that pass as they are and differ from message to message: as browsers write them, and as others do.
_PASSED: Final = _starts(
    b"Cookie", b"Referer", b"Authorization", b"If-None-Match", b"If-Modified-Since", b"traceparent"
)
_PASSED_LOWER: Final = tuple(start.lower() for start in _PASSED)
# The request id does not pass: it is taken out, and written with our own lines.
_ID: Final = b"\r\nX-Request-Id: "
_ASKED: Final = (*_PASSED, _ID)
_ASKED_LOWER: Final = (*_PASSED_LOWER, _ID.lower())
_TOLD: Final = _starts(b"ETag", b"Last-Modified", b"Set-Cookie", b"Expires", b"Location")
_TOLD_LOWER: Final = tuple(start.lower() for start in _TOLD)
_DATES: Final = frozenset((b"\r\nD", b"\r\nd"))  # …ate:
_LENGTHS: Final = frozenset((b"\r\nContent-L", b"\r\ncontent-l"))  # …ength:
_DATE_BYTES: Final = 29  # RFC 9110 §5.6.7: an IMF-fixdate
_LENGTH_DIGITS: Final = 9
_DATED = re.compile(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT(?=\r\n|\Z)")
# Probes: what stands for what varies while a shape is judged. A head that contains one of itself is of no common shape:
# a second Content-Length that equals the probe must not be taken for no contradiction to the first.
_DATE: Final = b"~the~date~of~a~common~shape~~"
_LENGTH: Final = b"987654321"
_ORIGIN: Final = Origin(b"", b"", b"", False, b"~")
_LINE: Final = b"GET / HTTP/1.1\r\n"
_TAIL: Final = _ORIGIN.lines + b"Via: 1.1 ~\r\nX-Request-Id: ~\r\n\r\n"


class Shape(NamedTuple):
    """A request's head without what varies. Out go the request line, `lines` with the values put in, our own lines.

    `length` is that of its body. `claims`: it says where it comes from, to which a trusted origin's lines are added.
    `keeps`: the connection goes on after the answer. `id_at`: which of the values is the request id; -1: none is.
    """

    host: bytes
    lines: bytes
    length: int
    claims: bool
    keeps: bool
    id_at: int


# A whole request: method, target, shape, request line with its CRLF, the other lines, body, its id or nothing.
Request = tuple[bytes, bytes, Shape, bytes, bytes, bytes, bytes]


class Answer(NamedTuple):
    """A head that was seen before. `length` is the body's, but for HEAD."""

    head: bytes
    status: int
    length: int


class _AnswerShape(NamedTuple):
    """`lines` has places for the values that pass, a date, a length. `ours`: the date is not the server's.

    `body`: it has one.
    """

    status: int
    lines: bytes
    ours: bool
    body: bool


_NO_SHAPE: Final = Shape(b"", b"", -1, False, False, -1)
_NO_ANSWER: Final = _AnswerShape(0, b"", False, False)
_requests: Final = Memory[Shape](limit=8192)
_shape_of: Final = _requests.get


def _cut(data: bytes, start: int, end: int, names: tuple[bytes, ...]) -> tuple[bytes, list[bytes]] | None:
    """data[start:end] less the values of the first field of each name, and these in their order.

    None: a value has to be looked at by others. The places of the cuts follow from the result alone.
    """
    cuts: list[int] = []
    for name in names:
        at = data.find(name, start, end)
        if at >= 0:
            cuts.append(at + len(name))
    pieces: list[bytes] = []
    values: list[bytes] = []
    if not cuts:
        return data[start:end], values
    cuts.sort()
    for at in cuts:
        stop = data.find(b"\r\n", at, end)
        stop = stop if stop >= 0 else end
        pieces.append(data[start:at])
        value = data[at:stop]
        if value.strip(b" ") != value:
            return None
        values.append(value)
        start = stop
    pieces.append(data[start:end])
    if b"".join(values).translate(None, _VISIBLE):
        return None
    return b"".join(pieces), values


def _places(lines: bytes, names: tuple[bytes, ...], key: bytes) -> bytes | None:
    """`lines` as a template with a place for each value that was cut out of `key`; None where one does not pass."""
    places = []
    for name in names:
        if name in key:
            at = lines.find(name) + len(name)
            if at < len(name) or lines[at : at + 2] != b"\r\n":
                return None
            places.append(at)
    pieces, start = [], 0
    for at in sorted(places):
        pieces.append(lines[start:at].replace(b"%", b"%%"))
        start = at
    pieces.append(lines[start:].replace(b"%", b"%%"))
    return b"%b".join(pieces)


def read_request(data: bytes) -> Request | None:
    """The request that `data` is, whole and alone; None where it is anything else, or of no common shape."""
    line = _REQUEST_LINE.match(data)
    end = data.find(b"\r\n\r\n")
    if line is None or len(data) > MESSAGE_BYTES:
        return None
    method, target = line.groups()
    start = line.end()
    names = _ASKED if data.find(b"\r\nHost: ", start - 2, end) >= 0 else _ASKED_LOWER
    cut = _cut(data, start - 2, end, names)
    if cut is None:
        return None
    key, values = cut
    shape = _shape_of(key)
    if shape is None:
        shape = _request_shape(key, names)
        _requests.put(key, shape)
    if shape.length != len(data) - end - 4 or b"/." in target:
        return None
    identifier = b""
    if shape.id_at >= 0:
        identifier = values.pop(shape.id_at)
        if not headers.is_request_id(identifier):
            identifier = b""
    return method, target, shape, data[:start], shape.lines % tuple(values), data[end + 4 :], identifier


def _request_shape(key: bytes, names: tuple[bytes, ...]) -> Shape:
    """Judges the field lines in `key`, where the values of these fields were cut out. _NO_SHAPE: not common."""
    try:
        head = head_of_request(_LINE + key[2:] + b"\r\n\r\n")
    except Refused:
        return _NO_SHAPE
    assert head is not None
    block = head.block
    if block.expects_continue or block.upgrade or block.length == CHUNKED or block.underscored:
        return _NO_SHAPE
    names_of = [field.lower for field in block.acted_on]
    if b"via" in names_of or names_of.count(b"x-request-id") != int(names[-1] in key):
        return _NO_SHAPE
    out = headers.request_head(head, b"/", _ORIGIN, b"~", b"").removeprefix(_LINE).removesuffix(_TAIL)
    lines = _places(out, names[:-1], key)
    if lines is None:
        return _NO_SHAPE
    order = sorted((name for name in names if name in key), key=key.index)
    id_at = order.index(names[-1]) if names[-1] in order else -1
    claims = any(map(headers.is_claim, names_of))
    return Shape(head.host, lines, max(block.length, 0), claims, block.keep_alive, id_at)


class Answers:
    """Answers of servers to requests from a listener with these `node` and `hsts` (see `headers.response_head`).

    `keeps`: the client's connection goes on.
    """

    def __init__(self, node: bytes, hsts: bytes, date: Callable[[], bytes], *, keeps: bool = True) -> None:
        self._node, self.hsts, self._date, self.keeps = node, hsts, date, keeps
        self._heads = Memory[Answer]()
        self._shapes = Memory[_AnswerShape]()

    def read(self, data: bytes, method: bytes) -> tuple[bytes, int] | None:
        """What goes to the client for the answer that `data` is, whole and alone, and its status; None if it is not.

        The server keeps its connection open after it.
        """
        end = data.find(b"\r\n\r\n")
        if not 0 < end <= MESSAGE_BYTES:
            return None
        head = data[:end]
        answer = self._heads.get(head)
        if answer is None:
            answer = self._read_head(head)
            if answer is None:
                return None
        out, status, length = answer
        if method == b"HEAD":
            length = 0
        if length != len(data) - end - 4:
            return None
        return out + data[end + 4 :], status

    def _read_head(self, head: bytes) -> Answer | None:
        """The head with its date and length cut out, by its shape."""
        if _DATE in head or _LENGTH in head:
            return None
        date, length, key = b"", b"", head
        at = head.find(b"ate: ") + 5
        if at > 4 and head[at - 8 : at - 5] in _DATES and _DATED.match(head, at):
            date = head[at : at + _DATE_BYTES]
            key = head[:at] + _DATE + head[at + _DATE_BYTES :]
        at = key.find(b"ength: ") + 7
        if at > 6 and key[at - 18 : at - 7] in _LENGTHS:
            stop = key.find(b"\r\n", at)
            stop = stop if stop >= 0 else len(key)
            length = key[at:stop]
            if not length.isdigit() or len(length) > _LENGTH_DIGITS or (length[:1] == b"0" and len(length) > 1):
                return None
            key = key[:at] + _LENGTH + key[stop:]
        names = _TOLD if b"\r\nContent-Length: " in head else _TOLD_LOWER
        cut = _cut(key, 0, len(key), names)
        if cut is None:
            return None
        key, values = cut
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shape(key, names, cut_date=bool(date), cut_length=bool(length))
            self._shapes.put(key, shape)
        if not shape.status:
            return None
        if date or shape.ours:
            values.append(date or self._date())
        if length:
            values.append(length)
        answer = Answer(shape.lines % tuple(values), shape.status, int(length) if shape.body else 0)
        if not shape.ours:
            self._heads.put(head, answer)
        return answer

    def _shape(self, key: bytes, names: tuple[bytes, ...], *, cut_date: bool, cut_length: bool) -> _AnswerShape:
        try:
            head = read_response(key + b"\r\n\r\n", b"GET")
        except Refused:
            return _NO_ANSWER
        assert head is not None
        if head.status < 200 or not head.block.keep_alive or head.length in (CHUNKED, UNTIL_CLOSE):
            return _NO_ANSWER
        if head.length != NO_BODY and not cut_length:
            return _NO_ANSWER
        ours = not any(field.lower == b"date" for field in head.block.acted_on)
        out = headers.response_head(head, 1, self.keeps, self._node, _DATE, self.hsts)
        lines = _places(out, names, key)
        dates, lengths = int(ours or cut_date), int(cut_length)
        if lines is None or lines.count(_DATE) != dates or lines.count(_LENGTH) != lengths:
            return _NO_ANSWER
        places = [at for probe in (b"%b", _DATE, _LENGTH) if (at := lines.rfind(probe)) >= 0]
        if places != sorted(places):
            return _NO_ANSWER
        lines = lines.replace(_DATE, b"%b").replace(_LENGTH, b"%b")
        return _AnswerShape(head.status, lines, ours, head.length != NO_BODY)
