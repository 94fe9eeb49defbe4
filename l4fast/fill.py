"""How full the tables are whose entries are evicted, counted entry by entry.

The kernel keeps no number of a hash map's entries for us. The sessions are counted by the sweep of `expiry`, which
reads them anyhow; here the others are walked in batches, a budget at a time, 0.2 µs an entry. A walk is not a moment:
what is added or deleted meanwhile is counted or not. What is shown is that of the last whole walk.

The half-open flows stand in an array of buckets (bpf/half_open.h), the others are LRU tables of the kernel. Either
keeps what nobody asks for until it needs the room: a half-open entry whose handshake never ended, a client that has not
come back. Full is therefore its usual state on a busy node, and evicts the oldest.
"""

from __future__ import annotations

import ctypes as ct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from l4fast.bpf.syscall import Map
from l4fast.loader import DataPlane

BATCH: Final = 1024  # entries in one system call: 0.2 ms
HALF_OPEN: Final = "half_open"
TABLES: Final = (HALF_OPEN, "half_open_fullnat", "half_open_answers", "fragments", "clients")


class Countable(Protocol):
    """A table whose blocks say how many entries they have."""

    @property
    def max_entries(self) -> int: ...
    def blocks(self, batch: int) -> Iterator[tuple[bytes, bytes, int]]: ...


Maps = Mapping[str, Mapping[int, Countable]]  # a table's map of each IP version
Fills = dict[str, dict[int, "Fill"]]


class Buckets:
    """The array of half-open flows: its entries are the flows, of which each bucket has room for several."""

    def __init__(self, array: Map[Any, Any]) -> None:
        self._array = array
        layout = array.value
        self._step = ct.sizeof(layout) // 8
        self._ways = range(layout.entry.offset // 8, (layout.entry.offset + layout.entry.size) // 8)
        self.max_entries = array.max_entries * len(self._ways)

    def blocks(self, batch: int) -> Iterator[tuple[bytes, bytes, int]]:
        for keys, values, _ in self._array.blocks(batch):
            words = memoryview(values).cast("Q")
            columns = [words[way :: self._step].tolist() for way in self._ways]
            yield keys, values, sum(len(column) - column.count(0) for column in columns)


def countable(plane: DataPlane, name: str, version: int) -> Countable:
    """One of TABLES."""
    table = plane.map(name, version)
    return Buckets(table) if name == HALF_OPEN else table


@dataclass(frozen=True, slots=True)
class Fill:
    """Entries in a table of one IP version, and how many it has room for."""

    used: int
    size: int


class Census:
    """Walks the maps of each table, one after the other; at the end of a round it rests until the next second."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._used = {name: dict.fromkeys(of, 0) for name, of in maps.items()}
        self._round: Iterator[int] | None = None
        self._begun_s = 0

    def count(self, budget: int, now_s: int) -> None:
        """Goes on for about `budget` entries, or to the end of the round."""
        while budget > 0:
            if self._round is None:
                if now_s == self._begun_s:
                    return
                self._round, self._begun_s = self._walk(), now_s
            seen = next(self._round, None)
            if seen is None:
                self._round = None
            else:
                budget -= seen

    def fill(self) -> Fills:
        """Each table as of its last whole walk, by name and IP version."""
        return {
            name: {version: Fill(self._used[name][version], each.max_entries) for version, each in of.items()}
            for name, of in self._maps.items()
        }

    def _walk(self) -> Iterator[int]:
        """Entries seen by each system call."""
        for name, of in self._maps.items():
            for version, each in of.items():
                used = 0
                for _, _, count in each.blocks(BATCH):
                    used += count
                    yield count
                self._used[name][version] = used
