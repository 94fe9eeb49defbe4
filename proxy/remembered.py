"""What was found good, for a while: passwords and tokens come again and again, and are not verified each time. Pure.

Kept under a hash keyed with a secret of the process, so that the store gives no credentials away and nobody can choose
what falls together; bounded, the oldest goes first.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MOST: Final = 4096
_SECRET: Final = os.urandom(32)


def digest(*parts: bytes) -> bytes:
    """Of parts that cannot be told from others by running into each other."""
    mac = hashlib.blake2b(key=_SECRET, digest_size=24)
    for part in parts:
        mac.update(b"%d:" % len(part))
        mac.update(part)
    return mac.digest()


class Remembered(Generic[T]):
    """By digest, until a time."""

    __slots__ = ("_found", "_most")

    def __init__(self, most: int = MOST) -> None:
        self._found: OrderedDict[bytes, tuple[float, T]] = OrderedDict()
        self._most = most

    def get(self, key: bytes, now: float) -> T | None:
        until, value = self._found.get(key, (0.0, None))
        return value if now < until else None

    def put(self, key: bytes, value: T, until: float) -> None:
        self._found.pop(key, None)
        self._found[key] = until, value
        if len(self._found) > self._most:
            self._found.popitem(last=False)

    def clear(self) -> None:
        """All of it."""
        self._found.clear()

    def __len__(self) -> int:
        return len(self._found)
