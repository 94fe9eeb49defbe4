"""What clients do with compressed answers."""

from __future__ import annotations

import zlib

import brotli
import zstandard

from core.model import Coding


def decoded(coding: Coding, data: bytes, *, whole: bool = True) -> bytes:
    """The payload; `whole`: which has to have come to its end."""
    if coding is Coding.GZIP:
        gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
        payload = gzip.decompress(data)
        assert not whole or (gzip.eof and not gzip.unused_data)
    elif coding is Coding.ZSTD:
        zstd = zstandard.ZstdDecompressor().decompressobj()
        payload = zstd.decompress(data)
        assert not whole or (zstd.eof and not zstd.unused_data)
    else:
        br = brotli.Decompressor()
        payload = br.process(data)
        assert not whole or br.is_finished()
    return payload
