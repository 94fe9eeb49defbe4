"""HTTP/2 as an exchange speaks it to a server (RFC 9113 §8; proxy/dialects.py says what for).

A request leaves as commands, which a stream carries out (trunk.py), and its answer is heard block by block. What a
server of HTTP/2 can say that one of HTTP/1 cannot is refused as it is of clients (h2_message.py): fields about
connections, upper case, line ends within fields, a body of another length than the head says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from proxy.commands import Command, EndUpstream, SendUpstream, TellUpstream
from proxy.dialects import Heard, Piece
from proxy.errors import Code, Refused
from proxy.h2_message import VERSION, field_in, trailer_lines
from proxy.head import DEFAULT_LIMITS
from proxy.headers import reason_of
from proxy.hpack import Pair, encode
from proxy.http2 import lines_block
from proxy.message import CHUNKED, NO_BODY, Outgoing, ResponseHead
from proxy.policy import judge

_STATUS = re.compile(rb"[1-9][0-9]{2}")
_TRAILERS: Final = encode(((b"te", b"trailers"),))


class Http2Server:
    """A server that is asked by `method`. See ServerDialect."""

    __slots__ = ("_answered", "_left", "_method", "ended", "untouched")
    partial = upgrades = False

    def __init__(self, method: bytes) -> None:
        self._method = method
        self._answered = False
        self._left = CHUNKED  # of the answer's body, if its length is known
        self.ended = False
        self.untouched = True

    # -- towards the server

    def request(self, request: Outgoing, *, ended: bool) -> list[Command]:
        return [TellUpstream(request, ended)]

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        sent: list[Command] = [SendUpstream(payload)] if payload else []
        return [*sent, EndUpstream(trailers)] if ended else sent

    # -- from it

    def receive(self, data: bytes) -> list[Heard]:
        raise AssertionError("it is heard block by block")

    def headed(self, fields: Sequence[Pair] | None, *, ended: bool) -> list[Heard]:
        """A block of fields."""
        self.untouched = False
        try:
            if fields is None:
                raise Refused(Code.HEAD_LARGE)
            if self._answered:
                return self._trailed(fields, ended=ended)
            head = _head(fields, self._method, ended=ended)
            if head.status < 200:
                if ended:
                    raise Refused(Code.STATUS_LINE)
                return [head]
            self._answered = True
            self._left = head.length
            return [head, self._end(b"")] if ended else [head]
        except Refused as refused:
            return [refused]

    def came(self, payload: bytes, *, ended: bool) -> list[Heard]:
        """Some of the body."""
        if not self._answered:
            return [Refused(Code.STATUS_LINE)]
        if self._left != CHUNKED:
            self._left = max(self._left, 0) - len(payload)
            if self._left < 0:
                return [Refused(Code.LENGTH_WRONG)]
        try:
            return [self._end(payload)] if ended else [Piece(payload)] if payload else []
        except Refused as refused:
            return [refused]

    def _trailed(self, fields: Sequence[Pair], *, ended: bool) -> list[Heard]:
        if not ended or len(fields) > DEFAULT_LIMITS.fields:
            raise Refused(Code.TRAILER)
        return [self._end(b"", trailer_lines(fields))]

    def _end(self, payload: bytes, trailers: bytes = b"") -> Piece:
        if self._left > 0:
            raise Refused(Code.LENGTH_WRONG)
        self.ended = True
        return Piece(payload, True, trailers, True)

    def close(self) -> Piece | None:
        return None


def request_block(request: Outgoing, scheme: bytes) -> bytes:
    """The header block of a request's head; it is the same for every connection.

    The host has to be there in HTTP/2 or else is left out (RFC 9113 §8.3.1): HTTP/1.0 need not say one.
    """
    pseudo = [(b":method", request.method), (b":scheme", scheme), (b":path", request.target)]
    if request.host:
        pseudo.append((b":authority", request.host))
    block = encode(pseudo) + lines_block(request.fields + request.ours)
    if request.length >= 0:
        block += encode(((b"content-length", b"%d" % request.length),))
    return block + _TRAILERS if request.trailers else block


def _head(fields: Sequence[Pair], method: bytes, *, ended: bool) -> ResponseHead:
    """An answer's head. Raises Refused."""
    if not fields or fields[0][0] != b":status" or not _STATUS.fullmatch(fields[0][1]):
        raise Refused(Code.PSEUDO)
    if len(fields) > DEFAULT_LIMITS.fields:
        raise Refused(Code.FIELDS_MANY)
    status = int(fields[0][1])
    if status == 101:  # RFC 9113 §8.6
        raise Refused(Code.UNASKED_UPGRADE)
    block = judge(1, tuple([field_in(pair) for pair in fields[1:]]), request=False)
    if method == b"HEAD" or status < 200 or status in (204, 304):
        length = NO_BODY
    elif block.length != NO_BODY:
        length = block.length
    else:
        length = 0 if ended else CHUNKED
        block = block._replace(length=length)
    return ResponseHead(status, reason_of(status), length, block._replace(version=VERSION), 0)
