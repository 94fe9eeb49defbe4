"""HTTP/2 as an exchange speaks it to a client (RFC 9113 §8; proxy/dialects.py says what for).

Heads, payload and ends leave as commands, which a stream carries out (h2_stream.py). What was read of the request's
body is payload already: `came` and `end` say how much of it there is, before the exchange takes it.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1
from typing import Final

from proxy import headers
from proxy.commands import Command, EndClient, SendClient, TellClient
from proxy.errors import Code, Refused
from proxy.hpack import encode
from proxy.message import RequestHead, ResponseHead

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_REMEMBERED: Final = 1024
_REMEMBERED_BYTES: Final = 512
_lines: dict[bytes, bytes] = {}
_heads: dict[tuple[int, bytes], bytes] = {}


class Http2Client:
    """A client of HTTP/2 whose request has this head. `ended`: it has no body. See ClientDialect."""

    __slots__ = ("_begun", "_ended", "_head", "_waiting", "trailers")

    def __init__(self, head: RequestHead, *, ended: bool) -> None:
        self._head = head
        self._ended = ended
        self._waiting = 0  # bytes that came and were not received yet
        self._begun: tuple[int, bytes] | None = None  # the answer's head, until it is sent
        self.trailers = b""

    def came(self, size: int) -> None:
        """So many bytes of payload are to be received."""
        self._waiting += size

    def end(self, trailers: bytes = b"") -> None:
        """No more will come."""
        self._ended, self.trailers = True, trailers

    @property
    def done(self) -> bool:
        return self._ended and not self._waiting

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        self._waiting -= len(data)
        return data, b""

    def interim(self, head: ResponseHead) -> list[Command]:
        return [TellClient(head.status, headers.passed(head.block))]

    def switch(self, head: ResponseHead, upgrade: bytes, lines: bytes, node: bytes, data: bytes) -> list[Command]:
        """RFC 8441 §5: 200, and nothing of the key, which is between the server and us. Raises Refused."""
        (key,) = self._head.block.values(b"sec-websocket-key")
        accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest())
        if head.block.values(b"sec-websocket-accept") != [accept]:
            raise Refused(Code.ACCEPT)
        kept = b"".join(
            line for line in lines.splitlines(keepends=True) if not line.lower().startswith(b"sec-websocket-accept:")
        )
        via = b"Via: %b %b\r\n" % (head.block.version, node)
        return [TellClient(200, kept + via, tunnel=True), *([SendClient(data)] if data else ())]

    def framing(self, head: ResponseHead) -> bytes:
        return headers.length_line(head)

    def begin(self, head: ResponseHead, lines: bytes, *, keep_alive: bool) -> bool:
        self._begun = head.status, lines
        return keep_alive

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        commands: list[Command] = []
        if self._begun is not None:
            (status, lines), self._begun = self._begun, None
            alone = ended and not payload and not trailers
            commands.append(TellClient(status, lines, alone))
            if alone:
                return commands
        if payload:
            commands.append(SendClient(payload))
        if ended:
            commands.append(EndClient(trailers))
        return commands

    def reply(self, status: int, lines: bytes, body: bytes, hsts: bytes, *, close: bool) -> list[Command]:
        if not body:
            return [TellClient(status, lines + hsts, True)]
        return [TellClient(status, lines + hsts), SendClient(body), EndClient()]


def head_block(status: int, lines: bytes) -> bytes:
    """The header block of an answer's head; it is the same for every connection."""
    key = status, lines
    found = _heads.get(key)
    if found is None:
        found = encode(((b":status", b"%d" % status),)) + lines_block(lines)
        if len(lines) <= 4 * _REMEMBERED_BYTES:
            if len(_heads) >= _REMEMBERED:
                _heads.clear()
            _heads[key] = found
    return found


def lines_block(lines: bytes) -> bytes:
    """The block of these field lines."""
    parts = []
    for line in lines.split(b"\r\n"):
        part = _lines.get(line)
        if part is None:
            if not line:
                continue
            name, _, value = line.partition(b":")
            part = encode(((name.lower(), value.strip(b" \t")),))
            if len(line) <= _REMEMBERED_BYTES:
                if len(_lines) >= _REMEMBERED:
                    _lines.clear()
                _lines[line] = part
        parts.append(part)
    return b"".join(parts)
