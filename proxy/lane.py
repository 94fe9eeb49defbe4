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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple

from proxy import headers
from proxy.body import LAST_CHUNK, ChunkedReader, chunk
from proxy.changes import Changes
from proxy.errors import Code, Refused
from proxy.head import read_request as head_of_request
from proxy.head import read_response
from proxy.memory import Memory
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE, Block, RequestHead, is_acted_on
from proxy.origin import Origin
from proxy.policy import is_host
from proxy.rules import normal_target
from proxy.shapes import (
    CHANGES,
    NO_FORM,
    Cuts,
    Form,
    cut_out,
    order_of,
    places_in,
    starts,
    values_of,
    where_cut,
)

MESSAGE_BYTES: Final = 16_384  # longer ones do not care for a microsecond; within all of head.Limits
# No quotes or backslashes, so that the access log need not escape anything.
_REQUEST_LINE = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[!$->@-\[\]-~]*(?:\?[!$-\[\]-~]*)?) HTTP/1\.1\r\n"
)
# The host is written first, the request id with our own lines. The others pass as they are, and differ from message to
# message: as browsers write them, and as others do.
_HOST: Final = b"\r\nHost: "
_ID: Final = b"\r\nX-Request-Id: "
_PASSED: Final = starts(b"Cookie", b"Referer", b"Authorization", b"If-None-Match", b"If-Modified-Since", b"traceparent")
_PASSED_LOWER: Final = frozenset(start.lower() for start in _PASSED)
VARIED: Final = 4  # so many names of fields are looked for besides; each costs a tenth of a microsecond
_TOLD: Final = starts(b"ETag", b"Last-Modified", b"Set-Cookie", b"Expires", b"Location")
_TOLD_LOWER: Final = tuple(start.lower() for start in _TOLD)
_DATES: Final = frozenset((b"\r\nD", b"\r\nd"))  # …ate:
_LENGTHS: Final = frozenset((b"\r\nContent-L", b"\r\ncontent-l"))  # …ength:
_DATE_BYTES: Final = 29  # RFC 9110 §5.6.7: an IMF-fixdate
_LENGTH_DIGITS: Final = 9
_DATED = re.compile(rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT(?=\r\n|\Z)")
# Probes: what stands for what varies while a shape is judged. A head that contains one of itself is of no common shape:
# a second Content-Length that equals the probe must not be taken for no contradiction to the first.
_ANY_HOST: Final = b"~"
_DATE: Final = b"~the~date~of~a~common~shape~~"
_LENGTH: Final = b"987654321"
_ORIGIN: Final = Origin(b"", b"", b"", False, b"~")
_LINE: Final = b"GET / HTTP/1.1\r\n"
_new: Final = tuple.__new__  # half of what the class takes
_TAIL: Final = _ORIGIN.lines + b"Via: 1.1 ~\r\nX-Request-Id: ~\r\n\r\n"


@dataclass(frozen=True, slots=True)  # whose attributes are read in a quarter of a named tuple's time
class Shape:
    """A request's head without what varies. Out go the request line, the host's, `lines` with the values put in that
    `pick` takes, our own.

    `length` is that of its body. `claims`: it says where it comes from, to which a trusted origin's lines are added.
    `keeps`: the connection goes on after the answer. `host_at`, `id_at`: which of the values are the host and the
    request id; -1: none is.
    """

    lines: bytes
    pick: Callable[[list[bytes]], object]
    length: int
    claims: bool
    keeps: bool
    host_at: int
    id_at: int
    block: Block
    cuts: Cuts


class Request(NamedTuple):
    """A whole request. `target` is in normal form, `line` the request line with its CRLF, `host_line` the host's,
    `identifier` its own or nothing; `key` and `cut` are its head."""

    method: bytes
    target: bytes
    host: bytes
    shape: Shape
    line: bytes
    host_line: bytes
    key: bytes
    cut: list[bytes]
    body: bytes
    identifier: bytes

    def values(self, name: bytes) -> list[bytes]:
        """As `Block.values`."""
        return values_of(name, self.shape.block, self.shape.cuts, self.cut)


@dataclass(frozen=True, slots=True)
class _AnswerShape:
    """`form` of the head, with places for a date and a length behind the changes. `ours`: the date is not the server's.

    `length`: NO_BODY, CHUNKED or 0, which is what was cut out.
    """

    status: int
    form: Form
    ours: bool
    length: int
    block: Block
    cuts: Cuts


@dataclass(slots=True)
class Answer:
    """A head; `cut` is what was cut out of it. `length` is the body's, but for HEAD."""

    head: bytes
    status: int
    length: int
    shape: _AnswerShape
    cut: list[bytes]

    def values(self, name: bytes) -> list[bytes]:
        """What the server said; as `Block.values`."""
        return values_of(name, self.shape.block, self.shape.cuts, self.cut)


def _nothing(_: object) -> object:
    return ()


def _picker(kept: Sequence[int]) -> Callable[[list[bytes]], object]:
    """Takes these out of the values; one alone is as good as a tuple of one for `%`."""
    return itemgetter(*kept) if kept else _nothing


_NO_BLOCK: Final = Block(1, (), (), b"", NO_BODY, False, frozenset(), b"", False, b"")

_NO_SHAPE: Final = Shape(b"", _nothing, -1, False, False, -1, -1, _NO_BLOCK, {})
_NO_ANSWER: Final = _AnswerShape(0, NO_FORM, False, NO_BODY, _NO_BLOCK, {})
_shapes: Final = Memory[Shape](limit=8192)  # behind the names of the fields that were cut out besides
_forms: Final = Memory[Form]()
_hosts: Final = Memory[bytes](limit=16_384, size_bytes=264)  # those that are good, with their lines


class Requests:
    """Reads requests. `varied`: names of further fields that differ from request to request, and pass."""

    def __init__(self, varied: Iterable[bytes] = ()) -> None:
        names = [name for name in varied if not is_acted_on(name) and b"\r\n%b: " % name not in _PASSED_LOWER]
        written = [b"-".join(part.capitalize() for part in name.split(b"-")) for name in names[:VARIED]]
        self._names = (_HOST, *_PASSED, *starts(*written), _ID)
        self._lower = tuple(name.lower() for name in self._names)
        self._mark = b",".join(written)  # which is in no name

    def read(self, data: bytes) -> Request | None:
        """The request that `data` is, whole and alone; None where it is anything else, or of no common shape."""
        line = _REQUEST_LINE.match(data)
        end = data.find(b"\r\n\r\n")
        if line is None or end < 0 or len(data) > MESSAGE_BYTES:
            return None
        method, target = line.groups()
        start = line.end()
        found = cut_out(data, start - 2, end, self._names if data.find(_HOST, start - 2, end) >= 0 else self._lower)
        if found is None:
            return None
        key, cut = found
        shape = _shapes.get(self._mark + key)
        if shape is None:
            shape = self._shape(key)
            _shapes.put(self._mark + key, shape, len(shape.block.fields))
        if shape.length != len(data) - end - 4:
            return None
        host = cut[shape.host_at]
        host_line = _hosts.get(host)
        if host_line is None:
            if not is_host(host):
                return None
            host_line = b"Host: %b\r\n" % host
            _hosts.put(host, host_line)
        first = data[:start]
        if b"%" in target or b"/." in target:
            try:
                target = normal_target(target)
            except Refused:
                return None
            first = b"%b %b HTTP/1.1\r\n" % (method, target)
        identifier = b""
        if shape.id_at >= 0 and headers.is_request_id(cut[shape.id_at]):
            identifier = cut[shape.id_at]
        return _new(Request, (method, target, host, shape, first, host_line, key, cut, data[end + 4 :], identifier))

    def changed_lines(self, request: Request, changes: Changes) -> bytes | None:
        """The lines of a request with what changes in them; None: not by the fast lane."""
        mark = b"%b\n%b%b" % (changes.mark, self._mark, request.key)
        form = _forms.get(mark)
        if form is None:
            form = self._form(request.key, changes.removed)
            _forms.put(mark, form)
        return form.filled(request.cut, changes.lines)

    def _shape(self, key: bytes) -> Shape:
        """Judges the field lines in `key`, where values were cut out. _NO_SHAPE: not common."""
        try:
            head = _judged(key)
        except Refused:
            return _NO_SHAPE
        block = head.block
        if block.expects_continue or block.upgrade or block.length == CHUNKED or block.underscored:
            return _NO_SHAPE
        order, passed = self._order(key)
        cut = [name[2:-2].lower() for name in order]
        names_of = [field.lower for field in block.acted_on]
        if b"via" in names_of or names_of.count(b"x-request-id") != cut.count(b"x-request-id"):
            return _NO_SHAPE
        lines = places_in(_request_lines(head), passed, key)
        if lines is None:
            return _NO_SHAPE
        id_at = cut.index(b"x-request-id") if b"x-request-id" in cut else -1
        return Shape(
            lines, _picker([order.index(name) for name in passed]), max(block.length, 0),
            any(map(headers.is_claim, names_of)), block.keep_alive, cut.index(b"host"), id_at, block,
            where_cut(key, order),
        )  # fmt: skip

    def _form(self, key: bytes, removed: frozenset[bytes]) -> Form:
        """The lines of a request of a common shape that is changed. NO_FORM: not by the fast lane."""
        order, passed = self._order(key)
        kept = [name for name in passed if name[2:-2].lower() not in removed]
        lines = places_in(_request_lines(_judged(key), Changes(removed, CHANGES)), kept, key)
        if lines is None or lines.count(CHANGES) != 1 or lines.rfind(b"%b") > lines.find(CHANGES):
            return NO_FORM
        return Form(lines.replace(CHANGES, b"%b"), tuple(order.index(name) for name in kept))

    def _order(self, key: bytes) -> tuple[list[bytes], list[bytes]]:
        """The names whose values were cut out, in their order; those of them that pass."""
        names = self._names if _HOST in key else self._lower
        order = order_of(key, names)
        return order, [name for name in order if name not in (names[0], names[-1])]


@lru_cache(maxsize=64)
def reader(varied: tuple[bytes, ...]) -> Requests:
    """The one for these names."""
    return Requests(varied)


def _judged(key: bytes) -> RequestHead:
    """A request's head by its key. Raises Refused."""
    name = _HOST if _HOST in key else _HOST.lower()
    at = key.find(name) + len(name)
    if at < len(name):
        raise Refused(Code.HOST_MISSING)
    head = head_of_request(_LINE + key[2:at] + _ANY_HOST + key[at:] + b"\r\n\r\n")
    assert head is not None
    return head


def _request_lines(head: RequestHead, changes: Changes | None = None) -> bytes:
    """What goes to the server, but for the host's line and our own."""
    out = headers.request_head(head, b"/", _ORIGIN, b"~", b"", changes=changes)
    host_line = b"Host: %b\r\n" % head.host
    assert out.startswith(_LINE + host_line)
    return out[len(_LINE + host_line) :].removesuffix(_TAIL)


class Answers:
    """Answers of servers to requests from a listener with these `node` and `hsts` (see `headers.response_head`).

    `keeps`: the client's connection goes on.
    """

    def __init__(self, node: bytes, hsts: bytes, date: Callable[[], bytes], *, keeps: bool = True) -> None:
        self._node, self.hsts, self._date, self.keeps = node, hsts, date, keeps
        self._heads = Memory[Answer]()
        self._shapes = Memory[_AnswerShape]()

    def read(self, data: bytes, method: bytes, changes: Changes | None = None) -> tuple[bytes, Answer] | None:
        """What goes to the client for the answer that `data` is, whole and alone, and its head; None if it is not.

        The server keeps its connection open after it.
        """
        end = data.find(b"\r\n\r\n")
        if not 0 < end <= MESSAGE_BYTES:
            return None
        head = data[:end]
        mark = head if changes is None else b"%b\n%b\n%b" % (changes.mark, changes.lines, head)
        answer = self._heads.get(mark)
        if answer is None:
            answer = self._read_head(head, changes)
            if answer is None:
                return None
            if not answer.shape.ours:
                self._heads.put(mark, answer, len(answer.cut))
        length, body = answer.length, data[end + 4 :]
        if length == CHUNKED:
            chunks = _chunks(body) if method != b"HEAD" else None
            return None if chunks is None else (answer.head + chunks, answer)
        if method == b"HEAD":
            length = 0
        return (answer.head + body, answer) if length == len(body) else None

    def _read_head(self, head: bytes, changes: Changes | None) -> Answer | None:
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
        names = _TOLD_LOWER if b"\r\ncontent-" in head else _TOLD
        found = cut_out(key, 0, len(key), names)
        if found is None:
            return None
        key, cut = found
        mark = key if changes is None else b"%b\n%b" % (changes.mark, key)
        shape = self._shapes.get(mark)
        if shape is None:
            shape = self._shape(key, names, bool(date), bool(length), changes.removed if changes else None)
            self._shapes.put(mark, shape, len(shape.block.fields))
        if not shape.status:
            return None
        theirs = [each for each in (date, length) if each]
        last = [self._date(), *theirs] if shape.ours else theirs
        out = shape.form.filled(cut, *last) if changes is None else shape.form.filled(cut, changes.lines, *last)
        assert out is not None
        size = shape.length or int(length)
        return Answer(out, shape.status, 0 if size == NO_BODY else size, shape, [*cut, *theirs])

    def _shape(
        self, key: bytes, names: tuple[bytes, ...], cut_date: bool, cut_length: bool, removed: frozenset[bytes] | None
    ) -> _AnswerShape:
        try:
            head = read_response(key + b"\r\n\r\n", b"GET")
        except Refused:
            return _NO_ANSWER
        assert head is not None
        if head.status < 200 or not head.block.keep_alive or head.length == UNTIL_CLOSE:
            return _NO_ANSWER
        if head.length not in (NO_BODY, CHUNKED) and not cut_length:
            return _NO_ANSWER
        ours = not any(field.lower == b"date" for field in head.block.acted_on)
        changes = None if removed is None else Changes(removed, CHANGES)
        out = headers.response_head(head, 1, self.keeps, self._node, _DATE, self.hsts, changes)
        order = order_of(key, names)
        kept = [name for name in order if removed is None or name[2:-2].lower() not in removed]
        lines = places_in(out, kept, key)
        probes = {CHANGES: int(removed is not None), _DATE: int(ours or cut_date), _LENGTH: int(cut_length)}
        if lines is None or any(lines.count(probe) != times for probe, times in probes.items()):
            return _NO_ANSWER
        places = [at for probe in (b"%b", *probes) if (at := lines.rfind(probe)) >= 0]
        if places != sorted(places):
            return _NO_ANSWER
        for probe in probes:
            lines = lines.replace(probe, b"%b")
        form = Form(lines, tuple(order.index(name) for name in kept))
        length = head.length if head.length in (NO_BODY, CHUNKED) else 0
        where = [probe for probe, cut in ((_DATE, cut_date), (_LENGTH, cut_length)) if cut]
        return _AnswerShape(head.status, form, ours, length, head.block, where_cut(key, order, *where))


def _chunks(body: bytes) -> bytes | None:
    """A chunked body as we pass it on; None where it is not whole and alone, or says more than its payload."""
    reader = ChunkedReader(keep_trailers=True)
    try:
        payload, rest = reader.receive(body)
    except Refused:
        return None
    if not reader.done or rest or reader.trailers:
        return None
    return chunk(payload) + LAST_CHUNK if payload else LAST_CHUNK
