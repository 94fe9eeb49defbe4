"""What the workers of a node have taken of what they share, in memory that all of them see.

A row is something that is shared, such as the bandwidth of a listener; a worker writes its own column of it and reads
the sum. So nothing is ever written by two, and no lock is needed: a sum is at most as old as the writes that are under
way. Rows are numbered by the supervisor, which gives the memory as a descriptor; a worker that runs alone has its own.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping
from typing import Final

ROWS: Final = 16_384
CELL_BYTES: Final = 8
_WHOLE: Final = 1 << 64


class Ledger:
    """One worker's view: column `turn` of `workers`. `fd`: the memory; it is closed here."""

    def __init__(self, fd: int | None = None, workers: int = 1, turn: int = 0) -> None:
        size = ROWS * workers * CELL_BYTES
        self._workers, self._turn = workers, turn
        self._memory = mmap.mmap(-1 if fd is None else fd, size)
        self._cells = memoryview(self._memory).cast("Q")
        if fd is not None:
            os.close(fd)

    def add(self, row: int, amount: int) -> None:
        """This worker has taken so much more."""
        at = row * self._workers + self._turn
        self._cells[at] = (self._cells[at] + amount) % _WHOLE

    def clear(self, row: int) -> None:
        """This worker has taken nothing yet."""
        self._cells[row * self._workers + self._turn] = 0

    def total(self, row: int) -> int:
        """What all have taken."""
        at = row * self._workers
        return sum(self._cells[at : at + self._workers]) % _WHOLE


class Rows:
    """Which row is whose. A row that has become free is used again as late as possible: nobody uses it then."""

    def __init__(self, rows: int = ROWS) -> None:
        self._rows = rows
        self._next = 0
        self._used: dict[str, int] = {}

    def give(self, names: Iterable[str]) -> Mapping[str, int]:
        """A row for each name; the rows of all other names become free. Raises ValueError if there are too many."""
        wanted = list(dict.fromkeys(names))
        if len(wanted) > self._rows:
            raise ValueError(f"{len(wanted)} limits; at most {self._rows} are kept")
        kept = {name: self._used[name] for name in wanted if name in self._used}
        taken = set(kept.values())
        for name in wanted:
            if name in kept:
                continue
            while self._next in taken:
                self._next = (self._next + 1) % self._rows
            kept[name] = self._next
            taken.add(self._next)
            self._next = (self._next + 1) % self._rows
        self._used = kept
        return dict(kept)


def memory(workers: int) -> int:
    """A descriptor of memory for so many workers. Pages that nobody has written take no room."""
    fd = os.memfd_create("paifang-l7-limits")
    os.ftruncate(fd, ROWS * workers * CELL_BYTES)
    return fd
