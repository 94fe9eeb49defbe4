"""Encoders of content codings: payload in, encoded payload out, piece by piece (RFC 1952, RFC 7932, RFC 8878).

An encoder keeps what it needs to find repetitions in (its window) and what it has not made a block of yet. `flush` has
it say all that it was given, at the cost of some bytes. What a turn of the loop takes is bounded by what one read
brings, 256 KB at most, and by the ranges of the levels: see docs/compression.md for what was measured.

Windows are of 64 KB (brotli), 128 KB (zstd) and 32 KB (gzip), and tables as small as windows, so that an encoder takes
a quarter to half a megabyte; ENCODERS_MOST of them may be at work in a worker at a time. A body that comes in one piece
needs none: it is encoded at once, which spares a zstd encoder of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final, Protocol
from weakref import WeakSet

import brotli
import zstandard

from core.answers import Coding, Compression

ENCODERS_MOST: Final = 256  # in a worker at a time; what comes then goes as it is
_GZIP: Final = 16 + zlib.MAX_WBITS  # with the header of RFC 1952
_BROTLI_WINDOW: Final = 16  # 2^16 bytes; from 17 on some levels take a megabyte
_ZSTD_WINDOW: Final = 17
_ZSTD_TABLE: Final = 16


class _Stream(Protocol):
    """One of the three libraries' encoders, in the midst of a body."""

    def compress(self, data: bytes) -> bytes: ...

    def flush(self) -> bytes:
        """All that it was given; it goes on."""

    def finish(self) -> bytes:
        """The end."""


class _Gzip:
    __slots__ = ("_encoder", "compress")

    def __init__(self, level: int) -> None:
        self._encoder = zlib.compressobj(level, zlib.DEFLATED, _GZIP)
        self.compress = self._encoder.compress

    def flush(self) -> bytes:
        return self._encoder.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._encoder.flush(zlib.Z_FINISH)


class _Brotli:
    __slots__ = ("compress", "finish", "flush")

    def __init__(self, level: int) -> None:
        encoder = brotli.Compressor(quality=level, lgwin=_BROTLI_WINDOW)
        self.compress, self.flush, self.finish = encoder.process, encoder.flush, encoder.finish


class _Zstd:
    """`ZstdCompressor` has one stream at a time."""

    __slots__ = ("_encoder", "compress")

    def __init__(self, level: int) -> None:
        self._encoder = zstandard.ZstdCompressor(compression_params=_zstd(level)).compressobj()
        self.compress = self._encoder.compress

    def flush(self) -> bytes:
        return self._encoder.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)

    def finish(self) -> bytes:
        return self._encoder.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)


@cache
def _zstd(level: int) -> zstandard.ZstdCompressionParameters:
    return zstandard.ZstdCompressionParameters.from_level(
        level, window_log=_ZSTD_WINDOW, hash_log=_ZSTD_TABLE, chain_log=_ZSTD_TABLE, write_content_size=0
    )


@cache
def _zstd_for_whole(level: int) -> zstandard.ZstdCompressor:
    """For bodies of one piece: the loop has one at a time."""
    return zstandard.ZstdCompressor(compression_params=_zstd(level))


_STREAMS: Final[Mapping[Coding, Callable[[int], _Stream]]] = {
    Coding.GZIP: _Gzip,
    Coding.BR: _Brotli,
    Coding.ZSTD: _Zstd,
}


class Encoder:
    """Encodes one body. `prompt`: each piece goes out as it comes; otherwise whoever asks for it looks after `holds`.

    `bytes_in` and `bytes_out` are of payload.
    """

    __slots__ = ("__weakref__", "_level", "_stream", "bytes_in", "bytes_out", "coding", "holds", "prompt")

    def __init__(self, coding: Coding, level: int, *, prompt: bool = False) -> None:
        self.coding, self._level, self.prompt = coding, level, prompt
        self._stream: _Stream | None = None
        self.holds = False  # something that was given and has not come out
        self.bytes_in = self.bytes_out = 0
        _at_work.add(self)

    def encode(self, payload: bytes, *, ended: bool) -> bytes:
        """What is to be sent now, perhaps nothing. `ended`: that was the last piece."""
        self.bytes_in += len(payload)
        if ended:
            encoded = self._whole(payload) if self._stream is None else self._last(self._stream, payload)
            self.holds = False
        elif payload:
            if self._stream is None:
                self._stream = _STREAMS[self.coding](self._level)
            encoded = self._stream.compress(payload)
            self.holds = True
            if self.prompt:
                encoded += self._flush(self._stream)
        else:
            encoded = b""
        self.bytes_out += len(encoded)
        return encoded

    def flush(self) -> bytes:
        """All that is held back."""
        if not self.holds or self._stream is None:
            return b""
        encoded = self._flush(self._stream)
        self.bytes_out += len(encoded)
        return encoded

    def _flush(self, stream: _Stream) -> bytes:
        self.holds = False
        return stream.flush()

    def _last(self, stream: _Stream, payload: bytes) -> bytes:
        self._stream = None
        return (stream.compress(payload) if payload else b"") + stream.finish()

    def _whole(self, payload: bytes) -> bytes:
        if self.coding is Coding.ZSTD:
            return _zstd_for_whole(self._level).compress(payload)
        return self._last(_STREAMS[self.coding](self._level), payload)


_at_work: Final[WeakSet[Encoder]] = WeakSet()


def encoder(coding: Coding, compression: Compression, *, prompt: bool = False) -> Encoder | None:
    """An encoder for one body; None where too many are at work."""
    if len(_at_work) >= ENCODERS_MOST:
        return None
    levels = {
        Coding.GZIP: compression.gzip_level,
        Coding.BR: compression.brotli_level,
        Coding.ZSTD: compression.zstd_level,
    }
    return Encoder(coding, levels[coding], prompt=prompt)
