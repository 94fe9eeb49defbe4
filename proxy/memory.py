"""Verdicts about bytes that come again and again: clients and servers repeat themselves byte for byte.

Only what passed every check is remembered, under the exact bytes that the verdict is about, and not much of it.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

T = TypeVar("T")

MEMORY_BYTES: Final = 32 << 20
FIELD_BYTES: Final = 300  # a Field with what it points to, unless another head's has the same line


class Memory(Generic[T]):
    """Verdicts by the exact bytes they are about; emptied when full, which costs less than keeping an order.

    Full is so many verdicts, or MEMORY_BYTES by a rough count of what they hold.
    """

    __slots__ = ("_held_bytes", "_limit", "_size_bytes", "_verdicts", "get")

    def __init__(self, limit: int = 4096, size_bytes: int = 2048) -> None:
        self._verdicts: dict[bytes, T] = {}
        self._limit, self._size_bytes = limit, size_bytes
        self._held_bytes = 0
        self.get = self._verdicts.get

    def put(self, data: bytes, verdict: T, fields: int = 1) -> None:
        """Remembers a verdict about at most `size_bytes` bytes, which holds so many fields."""
        if len(data) <= self._size_bytes:
            self._held_bytes += 3 * len(data) + FIELD_BYTES * fields
            if len(self._verdicts) >= self._limit or self._held_bytes > MEMORY_BYTES:
                self._verdicts.clear()
                self._held_bytes = 3 * len(data) + FIELD_BYTES * fields
            self._verdicts[data] = verdict
