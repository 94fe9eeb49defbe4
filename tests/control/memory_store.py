"""The records of a store, in memory; conflicts on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from control.store import RECORDS_LIMIT, Record, RecordConflictError, Write, check_range, check_writes


class MemoryStore:
    """What a `Store` does with records. `disturb` is called before each write."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], tuple[bytes, int]] = {}
        self.revision = 1
        self.writes: list[tuple[Write, ...]] = []
        self.disturb: Callable[[], None] = lambda: None

    async def record(self, space: str, key: str) -> Record | None:
        found = self.held.get((space, key))
        return None if found is None else Record(key, *found)

    async def records(self, space: str, after: str = "", limit: int = RECORDS_LIMIT) -> tuple[Record, ...]:
        check_range(space, limit)
        keys = sorted(key for of, key in self.held if of == space and key > after)
        return tuple(Record(key, *self.held[space, key]) for key in keys[:limit])

    async def write(self, *changes: Write) -> int:
        check_writes(changes)
        self.disturb()
        for change in changes:
            _, revision = self.held.get((change.space, change.key), (b"", 0))
            if change.expected is not None and change.expected != revision:
                raise RecordConflictError(change.space, change.key)
        self.revision += 1
        for change in changes:
            if change.value is None:
                self.held.pop((change.space, change.key), None)
            else:
                self.held[change.space, change.key] = change.value, self.revision
        self.writes.append(changes)
        return self.revision

    @asynccontextmanager
    async def leading(self, name: str) -> AsyncIterator[None]:
        yield
