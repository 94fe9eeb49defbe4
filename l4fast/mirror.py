"""What `tables` remembers of the maps: their contents, to write differences only, and which numbers are in use."""

from __future__ import annotations

import ctypes as ct
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from l4fast.loader import DataPlane

RESTORED_AT_ONCE = 4096  # entries in one system call


class Mirror:
    """A map and what was written to it."""

    def __init__(self, plane: DataPlane, name: str, version: int) -> None:
        self.map = plane.map(name, version)
        self.held: dict[bytes, bytes] = {}

    def restore(self) -> None:
        """The map, a hash table, was written by an agent before."""
        key_size, value_size = ct.sizeof(self.map.key), ct.sizeof(self.map.value)
        for keys, values, count in self.map.blocks(RESTORED_AT_ONCE):
            for n in range(count):
                key = keys[n * key_size : (n + 1) * key_size]
                self.held[key] = values[n * value_size : (n + 1) * value_size]

    def add(self, wanted: Mapping[bytes, bytes]) -> set[bytes]:
        """Writes what is new or differs; returns the keys whose value has changed."""
        new = {key: value for key, value in wanted.items() if self.held.get(key) != value}
        if new:
            changed = {key for key in new if key in self.held}
            written = self.map.put_many(b"".join(new), b"".join(new.values()), len(new))
            assert written == len(new), f"map {self.map.name} is smaller than the check assumes"
            self.held.update(new)
            return changed
        return set()

    def prune(self, wanted: Collection[bytes]) -> set[bytes]:
        """Deletes what is not wanted; returns the keys."""
        gone = self.held.keys() - set(wanted)
        for key in gone:
            self.map.delete(self.map.key.from_buffer_copy(key))
            del self.held[key]
        return gone


@dataclass(frozen=True)
class Left:
    """Something that an agent before has left, known by its number alone."""

    number: int


class Indexes:
    """Numbers for things that live a while. A number that came free is given again after one `settle`, oldest first."""

    def __init__(self, size: int) -> None:
        self.free = deque(range(size))
        self.used: dict[Any, int] = {}
        self.released: list[int] = []

    def restore(self, used: Mapping[Any, int]) -> None:
        """These were given by an agent before."""
        self.used.update(used)
        taken = set(used.values())
        self.free = deque(number for number in self.free if number not in taken)

    def reserve(self, numbers: Iterable[int]) -> None:
        """These were given by an agent before, nobody knows to what; the next `keep` releases them."""
        self.restore({Left(number): number for number in numbers})

    def settle(self) -> list[int]:
        """Numbers released before come free; returns them."""
        settled, self.released = self.released, []
        self.free.extend(settled)
        return settled

    def room(self, wanted: Iterable[object]) -> bool:
        return len(set(wanted) - self.used.keys()) <= len(self.free)

    def take(self, thing: object) -> tuple[int, bool]:
        """The thing's number, and whether it is new. The caller has asked for room."""
        if thing in self.used:
            return self.used[thing], False
        self.used[thing] = self.free.popleft()
        return self.used[thing], True

    def keep(self, wanted: Set[object]) -> None:
        """Releases what is not wanted."""
        for thing in self.used.keys() - wanted:
            self.released.append(self.used.pop(thing))
