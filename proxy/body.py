"""Bodies of HTTP/1 messages: bytes in, payload out, and where the message ends (RFC 9112 §6–7).

Each reader has `done` and `receive(data) -> (payload, rest)`: `rest` is what follows the body, empty until it is done.
Payload passes straight through; only a chunk's size line or a trailer section is ever held, and both are bounded.
Chunk extensions and trailers are checked and dropped; we chunk anew. Trailers may be kept aside for who wants them.
"""

from __future__ import annotations

import re
import sys
from enum import Enum, auto
from typing import Protocol

from proxy.errors import Code, Refused
from proxy.head import TOKEN
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE

_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION = re.compile(rb"(?:[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + _QUOTED + rb"))?)*")
_PLAIN = re.compile(rb"([0-9A-Fa-f]{1,6})\r\n")  # a size line as nearly all are
_SIZE = re.compile(rb"[0-9A-Fa-f]+")
_TRAILER = re.compile(TOKEN + rb":[\t -~\x80-\xff]*")
SIZE_DIGITS = 15  # 2**60 bytes: more is an overflow attempt, not a chunk
LINE_BYTES = 1024
# Extensions are counted over a whole body: one-byte chunks with long extensions are an amplification.
EXTENSION_BYTES = 16_384
TRAILER_BYTES = 16_384


class BodyReader(Protocol):
    @property
    def done(self) -> bool: ...

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """The payload in `data` and what follows the body. Raises Refused."""


class LengthReader:
    """A body of a known number of bytes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        return self._left == 0

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        if len(data) <= self._left:
            self._left -= len(data)
            return data, b""
        payload, rest = data[: self._left], data[self._left :]
        self._left = 0
        return payload, rest


class UntilCloseReader:
    """A body that ends with the connection (answers only)."""

    __slots__ = ()
    done = False

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        return data, b""


class _Part(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    DONE = auto()


class ChunkedReader:
    """A chunked body (RFC 9112 §7.1).

    `most`: how many chunks one call takes at most, 0 for any number. What it leaves is `rest`, to be given again.
    """

    __slots__ = (
        "_extension_bytes",
        "_keep_trailers",
        "_left",
        "_line",
        "_most",
        "_part",
        "_seen",
        "_trailer_bytes",
        "trailers",
    )

    def __init__(self, *, keep_trailers: bool = False, most: int = 0) -> None:
        self.trailers = bytearray()  # their lines as they came, if they are to be kept
        self._keep_trailers = keep_trailers
        self._most = most or sys.maxsize
        self._part = _Part.SIZE
        self._line = b""  # an unfinished line, or the CR after a chunk's data
        self._left = 0
        self._seen = 0  # bytes of the body before the data at hand, for offsets in refusals
        self._extension_bytes = 0
        self._trailer_bytes = 0

    @property
    def done(self) -> bool:
        return self._part is _Part.DONE

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        payload: list[bytes] = []
        if self._line:
            self._seen -= len(self._line)
            data, self._line = self._line + data, b""
        position, size = 0, len(data)
        while position < size and self._part is not _Part.DONE and len(payload) < self._most:
            if self._part is _Part.DATA:
                taken = data[position : position + self._left]
                payload.append(taken)
                position += len(taken)
                self._left -= len(taken)
                if not self._left:
                    self._part = _Part.DATA_END
            elif self._part is _Part.DATA_END:
                position = self._data_end(data, position)
            elif self._part is _Part.SIZE and (after := self._plain(data, position, payload)) > position:
                position = after
            else:
                position = self._one_line(data, position)
        self._seen += position
        return b"".join(payload), data[position:]

    def _plain(self, data: bytes, position: int, payload: list[bytes]) -> int:
        """Takes whole chunks without extensions; returns where they end. Bodies of tiny chunks cost little by it."""
        match, most = _PLAIN.match, self._most
        while len(payload) < most and (line := match(data, position)) is not None:
            start = line.end()
            end = start + int(line[1], 16)
            if end == start or data[end : end + 2] != b"\r\n":
                break
            payload.append(data[start:end])
            position = end + 2
        return position

    def _data_end(self, data: bytes, position: int) -> int:
        end = data[position : position + 2]
        if end == b"\r":
            self._line = end
            return len(data)
        if end != b"\r\n":
            raise Refused(Code.CHUNK_END, self._seen + position)
        self._part = _Part.SIZE
        return position + 2

    def _one_line(self, data: bytes, position: int) -> int:
        """Reads a size or trailer line; returns the new position, the data's end when the line is unfinished."""
        trailing = self._part is _Part.TRAILER
        newline = data.find(b"\n", position)
        length = (newline if newline >= 0 else len(data)) - position
        if length > (TRAILER_BYTES if trailing else LINE_BYTES):
            raise Refused(Code.TRAILER if trailing else Code.CHUNK_EXTENSION, self._seen + position)
        if newline < 0:
            self._line = data[position:]
            return len(data)
        if data[newline - 1 : newline] != b"\r" or newline == position:
            raise Refused(Code.BARE_LF, self._seen + newline)
        line = data[position : newline - 1]
        if trailing:
            self._trailer(line, position)
        else:
            self._size(line, position)
        return newline + 1

    def _size(self, line: bytes, position: int) -> None:
        digits = _SIZE.match(line)
        if digits is None or len(digits[0]) > SIZE_DIGITS:
            raise Refused(Code.CHUNK_SIZE, self._seen + position)
        extension = line[digits.end() :]
        self._extension_bytes += len(extension)
        if extension and (not _EXTENSION.fullmatch(extension) or self._extension_bytes > EXTENSION_BYTES):
            raise Refused(Code.CHUNK_EXTENSION, self._seen + position + digits.end())
        self._left = int(digits[0], 16)
        self._part = _Part.DATA if self._left else _Part.TRAILER

    def _trailer(self, line: bytes, position: int) -> None:
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > TRAILER_BYTES or (line and not _TRAILER.fullmatch(line)):
            raise Refused(Code.TRAILER, self._seen + position)
        if not line:
            self._part = _Part.DONE
        elif self._keep_trailers:
            self.trailers += line + b"\r\n"


def reader(length: int) -> BodyReader:
    """The reader for a framing: a length in bytes, NO_BODY, CHUNKED or UNTIL_CLOSE. It keeps no trailers."""
    if length == CHUNKED:
        return ChunkedReader()
    if length == UNTIL_CLOSE:
        return UntilCloseReader()
    return LengthReader(0 if length == NO_BODY else length)


def chunk(payload: bytes) -> bytes:
    """One chunk around `payload`, which must not be empty: an empty chunk is LAST_CHUNK."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def last_chunk(trailers: bytes = b"") -> bytes:
    """The end of a chunked body; `trailers` are whole lines."""
    return b"0\r\n%b\r\n" % trailers


LAST_CHUNK = last_chunk()
