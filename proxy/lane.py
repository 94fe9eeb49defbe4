"""The fast lane's reading: whole messages of the common shape, from bytes to the bytes that go on, in a few look-ups.

A message head is cut into what its sender repeats and what it varies. Of a request, the target and the cookie vary; of
an answer, its date and its length. The rest is the head's shape. The first time that a shape is seen, `head` judges it
and `headers` rewrites it, with probes in place of what varies; the result is cut at the probes and remembered under the
exact bytes of the shape. The next message of the shape costs a look-up, a check of what varies, and a join.

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
from proxy.headers import Origin

MESSAGE_BYTES: Final = 16_384  # longer ones do not care for a microsecond; within all of head.Limits
# A path in normal form without `%`, so that nothing has to be decoded; no quotes or backslashes, so that the access log
# need not escape anything. `/.` is looked for apart.
_REQUEST_LINE = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!$&->@-\[\]-~]*(?:\?[!$-\[\]-~]*)?) HTTP/1\.1\r\n"
)
_VISIBLE: Final = bytes(range(0x20, 0x7F))
_COOKIES: Final = frozenset((b"\r\nC", b"\r\nc"))  # …ookie:
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
    """A request's head without its target and cookie. What goes on: request line, `before`, cookie, `after`, our lines.

    `length` is that of its body. `claims`: it says where it comes from, to which a trusted origin's lines are added.
    """

    host: bytes
    before: bytes
    after: bytes
    length: int
    claims: bool


# A whole request: method, target, shape, request line with its CRLF, the cookie's value, body.
Request = tuple[bytes, bytes, Shape, bytes, bytes, bytes]


class Answer(NamedTuple):
    """A head that was seen before. `length` is the body's, but for HEAD."""

    head: bytes
    status: int
    length: int


class _AnswerShape(NamedTuple):
    """Out go `start`, a date, `middle`, a length, `end`. `ours`: the date is not the server's. `body`: it has one."""

    status: int
    start: bytes
    middle: bytes
    end: bytes
    ours: bool
    body: bool


_NO_SHAPE: Final = Shape(b"", b"", b"", -1, False)
_NO_ANSWER: Final = _AnswerShape(0, b"", b"", b"", False, False)
_requests: Final = Memory[Shape]()
_shape_of: Final = _requests.get


def read_request(data: bytes) -> Request | None:
    """The request that `data` is, whole and alone; None where it is anything else, or of no common shape."""
    line = _REQUEST_LINE.match(data)
    end = data.find(b"\r\n\r\n")
    if line is None or len(data) > MESSAGE_BYTES:
        return None
    start = line.end()
    at = data.find(b"ookie: ", start, end) + 7
    if at > 6 and data[at - 10 : at - 7] in _COOKIES:
        stop = data.find(b"\r\n", at)
        cookie = data[at:stop]
        if cookie.translate(None, _VISIBLE) or cookie.strip(b" ") != cookie:
            return None
        key = data[start:at] + data[stop:end]
    else:
        at, cookie, key = 0, b"", data[start:end]
    shape = _shape_of(key)
    if shape is None:
        shape = _request_shape(key, at - start if at else 0)
        _requests.put(key, shape)
    method, target = line.groups()
    if shape.length != len(data) - end - 4 or b"/." in target:
        return None
    return method, target, shape, data[:start], cookie, data[end + 4 :]


def _request_shape(key: bytes, cookie_at: int) -> Shape:
    """Judges the field lines in `key`, where a cookie's value was cut out at `cookie_at`. _NO_SHAPE: not common."""
    try:
        head = head_of_request(_LINE + key + b"\r\n\r\n")
    except Refused:
        return _NO_SHAPE
    assert head is not None
    block = head.block
    if not block.keep_alive or block.expects_continue or block.upgrade or block.length == CHUNKED or block.underscored:
        return _NO_SHAPE
    names = [field.lower for field in block.acted_on]
    if b"via" in names or b"x-request-id" in names:
        return _NO_SHAPE
    lines = headers.request_head(head, b"/", _ORIGIN, b"~", b"").removeprefix(_LINE).removesuffix(_TAIL)
    before, after = lines, b""
    if cookie_at:
        empty = key[cookie_at - 10 : cookie_at] + b"\r\n"
        at = lines.find(empty) + 10
        if at < 10:  # Connection names it
            return _NO_SHAPE
        before, after = lines[:at], lines[at:]
    return Shape(head.host, before, after, max(block.length, 0), any(map(headers.is_claim, names)))


class Answers:
    """Answers of servers to requests from a listener with these `node` and `hsts` (see `headers.response_head`)."""

    def __init__(self, node: bytes, hsts: bytes, date: Callable[[], bytes]) -> None:
        self._node, self.hsts, self._date = node, hsts, date
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
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shape(key, cut_date=bool(date), cut_length=bool(length))
            self._shapes.put(key, shape)
        if not shape.status:
            return None
        date = self._date() if shape.ours else date
        line = b"%b%b%b%b%b" % (shape.start, date, shape.middle, length, shape.end)
        answer = Answer(line, shape.status, int(length) if shape.body else 0)
        if not shape.ours:
            self._heads.put(head, answer)
        return answer

    def _shape(self, key: bytes, *, cut_date: bool, cut_length: bool) -> _AnswerShape:
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
        out = headers.response_head(head, 1, True, self._node, _DATE, self.hsts)
        start, date, rest = out.partition(_DATE) if ours or cut_date else (b"", b"", out)
        middle, length, end = rest.partition(_LENGTH) if cut_length else (rest, b"", b"")
        found = bool(date) is (ours or cut_date) and bool(length) is cut_length
        if not found or _DATE in rest or _LENGTH in start + end:  # the server says a probe
            return _NO_ANSWER
        return _AnswerShape(head.status, start, middle, end, ours, head.length != NO_BODY)
