"""The data that the lab's TCP service sends: endless, cheap, and different at every offset.

A block is 64 KiB of SHAKE-256(seed) with the block's number in its first eight bytes, so that lost, repeated and
reordered pieces all change the digest. Both sides make it from the seed; nothing is stored.

The request is one line, `GET BYTES SEED RATE` or `PUT BYTES`; RATE is in bytes a second, 0 for as fast as it goes.
The reply is one line of JSON that says who serves and whom it sees, then for GET the data. After PUT's data comes a
second line with their SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK_BYTES = 1 << 16
MOST_BYTES = 1 << 34
LINE_LIMIT_BYTES = 256


class StreamError(Exception):
    """A request that breaks the rules above."""


@dataclass(frozen=True, slots=True)
class Get:
    size_bytes: int
    seed: int
    rate: int


@dataclass(frozen=True, slots=True)
class Put:
    size_bytes: int


def parse(line: bytes) -> Get | Put:
    """Read a request line. Raises StreamError."""
    match line.split():
        case [b"GET", size, seed, rate]:
            return Get(_number(size, MOST_BYTES), _number(seed, 1 << 64), _number(rate, MOST_BYTES))
        case [b"PUT", size]:
            return Put(_number(size, MOST_BYTES))
    raise StreamError("give GET BYTES SEED RATE or PUT BYTES")


def _number(text: bytes, most: int) -> int:
    if not text.isdigit() or len(text) > 20 or (number := int(text)) > most:
        raise StreamError(f"a number from 0 to {most} is wanted")
    return number


def blocks(size_bytes: int, seed: int) -> Iterator[bytes]:
    """The data, block by block; the last one is cut to size."""
    body = hashlib.shake_256(seed.to_bytes(9, "big")).digest(BLOCK_BYTES)[8:]
    for number in range(-(-size_bytes // BLOCK_BYTES)):
        left = size_bytes - number * BLOCK_BYTES
        yield (number.to_bytes(8, "big") + body)[:left]


def digest(size_bytes: int, seed: int) -> str:
    """SHA-256 of the data, in hexadecimal."""
    total = hashlib.sha256()
    for block in blocks(size_bytes, seed):
        total.update(block)
    return total.hexdigest()
