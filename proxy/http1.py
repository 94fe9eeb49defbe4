"""HTTP/1 as an exchange speaks it: to a client, and to a server (RFC 9112; proxy/dialects.py says what for).

A body whose length was said keeps it. One whose end nobody knew beforehand, chunked or ended by the connection's end,
is chunked for HTTP/1.1 and ended by the connection's end for HTTP/1.0. Chunks are made anew, so that no extension
passes, and trailers go only to clients that read them (RFC 9110 §6.5.1), never to a server, which cannot say so.
"""

from __future__ import annotations

from typing import Final

from proxy import headers
from proxy.body import LAST_CHUNK, BodyReader, ChunkedReader, chunk, last_chunk, reader
from proxy.commands import Command, SendClient, SendUpstream
from proxy.dialects import Heard, Piece
from proxy.errors import Refused
from proxy.head import read_response
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE, Block, Outgoing, ResponseHead

CHUNKS_A_TURN: Final = 1024  # of one client, who may send tens of thousands in one read
_NOTHING: Final = (NO_BODY, 0)
_Begun = tuple[ResponseHead, bytes, bool]  # head, lines, whether the connection goes on


class Http1Client:
    """A client of HTTP/1.0 or 1.1 whose request has this block. See ClientDialect."""

    __slots__ = ("_begun", "_chunks", "_minor", "_reader", "done")

    def __init__(self, block: Block) -> None:
        length, self._minor = block.length, block.minor
        self._begun: _Begun | None = None  # of the answer, until it is sent
        self._chunks = False
        self._reader: BodyReader | None = None
        self.done = length in _NOTHING
        if not self.done:
            self._reader = (
                ChunkedReader(keep_trailers=True, most=CHUNKS_A_TURN) if length == CHUNKED else reader(length)
            )

    @property
    def trailers(self) -> bytes:
        return bytes(self._reader.trailers) if isinstance(self._reader, ChunkedReader) else b""

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        assert self._reader is not None
        got = self._reader.receive(data)
        self.done = self._reader.done
        return got

    def interim(self, head: ResponseHead) -> list[Command]:
        """RFC 9110 §15.2: none to HTTP/1.0."""
        return [SendClient(headers.informational_head(head))] if self._minor else []

    def switch(self, head: ResponseHead, upgrade: bytes, lines: bytes, node: bytes, data: bytes) -> list[Command]:
        return [SendClient(headers.switching_head(head, lines, upgrade, node) + data)]

    def framing(self, head: ResponseHead) -> bytes:
        return headers.framing(head, self._minor)

    def begin(self, head: ResponseHead, lines: bytes, *, keep_alive: bool) -> bool:
        if head.length <= CHUNKED:  # or UNTIL_CLOSE
            self._chunks = self._minor == 1
            keep_alive = keep_alive and self._chunks
        self._begun = head, lines, keep_alive
        return keep_alive

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        if self._chunks:
            payload = chunk(payload) if payload else b""
            if ended:
                payload += last_chunk(trailers) if trailers else LAST_CHUNK
        if self._begun is not None:
            (head, lines, keep_alive), self._begun = self._begun, None
            payload = headers.answer_head(head, lines, self._minor, keep_alive, payload)
        return [SendClient(payload)] if payload else []

    def reply(self, status: int, lines: bytes, body: bytes, hsts: bytes, *, close: bool) -> list[Command]:
        return [SendClient(headers.own_reply(status, lines, body, hsts, close=close))]


class Http1Server:
    """A server that is asked by `method`. `trailers`: the client reads those of the answer. See ServerDialect."""

    __slots__ = ("_chunks", "_keeps", "_length", "_method", "_reader", "_rest", "_scanned", "_trailers", "untouched")
    upgrades = True

    def __init__(self, method: bytes, *, trailers: bool) -> None:
        self._method, self._trailers = method, trailers
        self._reader: BodyReader | None = None  # of the answer's body, once there is one
        self._rest = b""  # a head in part; behind a head, what came with it
        self._scanned = 0
        self._chunks = self._keeps = False  # the request's body is sent in chunks; the answer lets the connection go on
        self._length = 0  # of the answer's body
        self.untouched = True

    @property
    def partial(self) -> bool:
        return self._reader is None and bool(self._rest)

    def request(self, request: Outgoing, *, ended: bool) -> list[Command]:
        self._chunks = request.length == CHUNKED
        data = headers.written(request)
        return [SendUpstream(data + LAST_CHUNK if ended and self._chunks else data)]

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        if self._chunks:
            payload = chunk(payload) if payload else b""
            if ended:
                payload += LAST_CHUNK
        return [SendUpstream(payload)] if payload else []

    def receive(self, data: bytes) -> list[Heard]:
        heard: list[Heard] = []
        try:
            body = self._reader or self._head(data, heard)
            if body is None:
                return heard
            payload, rest = body.receive(self._rest if heard else data)
        except Refused as refused:
            return [*heard, refused]
        if body.done:
            trailers = bytes(body.trailers) if isinstance(body, ChunkedReader) else b""
            heard.append(Piece(payload, True, trailers, self._keeps and not rest))
        else:
            heard.append(Piece(payload))
        return heard

    def _head(self, data: bytes, heard: list[Heard]) -> BodyReader | None:
        """Reads heads; the reader of what follows the last of them, which is then `_rest`. None: more has to come."""
        self.untouched = False
        if self._rest:
            data = self._rest + data
        while (head := read_response(data, self._method, self._scanned)) is not None:
            heard.append(head)
            data, self._scanned = data[head.size :], 0
            if head.status >= 200:
                self._rest = data
                self._length = length = head.length
                self._keeps = head.block.keep_alive and length != UNTIL_CLOSE
                kept = self._trailers and length == CHUNKED
                self._reader = body = ChunkedReader(keep_trailers=True) if kept else reader(length)
                return body
            if head.status == 101:
                heard.append(Piece(data))
                return None
        self._rest, self._scanned = data, len(data)
        return None

    def close(self) -> Piece | None:
        return Piece(b"", True) if self._length == UNTIL_CLOSE else None
