"""The order in which a listener's members take new flows, as inner maps that never change.

A listener moves from one ring to another by a single map update. The ring before is dropped when no packet can still be
reading it. Rings of equal contents are one ring.
"""

from __future__ import annotations

import ctypes as ct
import os
from array import array
from collections.abc import Sequence, Set

from core import flows
from core.flows import takes
from core.resolve import L4Service
from l4fast.bpf import syscall
from l4fast.loader import DataPlane
from l4fast.members import least
from l4fast.mirror import Indexes

# How many computed orders are kept for the next change (a server that fails and returns).
ORDERS_KEPT = 256
# Each open ring is a file descriptor until the kernel has it.
RINGS_AT_ONCE = 256


class Rings:
    """Writes the rings and knows their numbers. The order of calls is that of `VersionTables.apply`."""

    def __init__(self, plane: DataPlane, version: int) -> None:
        self._rings = plane.map("rings", version)
        self._chunk = plane.map("ring_template", version).value
        self._template_fd = plane.programs[version].map_fd("ring_template")
        self._indexes = Indexes(plane.sizes["rings"])
        self._orders: dict[tuple[object, ...], array[int]] = {}

    def restore(self, numbers: Set[int]) -> None:
        """Rings of an agent before, which are in use until the next state is written."""
        self._indexes.reserve(numbers)

    def settle(self) -> None:
        """Frees the rings that were released before."""
        rings = self._indexes.settle()
        if rings:
            # Not deleted: the kernel has no batch for that. The template is an inner map of one chunk.
            template = array("I", [self._template_fd] * len(rings))
            self._rings.put_many(array("I", rings).tobytes(), template.tobytes(), len(rings))

    def content(self, service: L4Service, numbers: Sequence[int], down: Set[tuple[str, int, str]]) -> bytes:
        """Members slot by slot, 16 bits each; `numbers`: those of its reals. Empty if none takes new flows."""
        able = [takes(service, real, down) for real in service.reals]
        if least(service):
            return array("H", (number for number, takes_new in zip(numbers, able, strict=True) if takes_new)).tobytes()
        return array("H", map(numbers.__getitem__, self._order(service, able))).tobytes()

    def _order(self, service: L4Service, able: Sequence[bool]) -> array[int]:
        names = tuple(f"{real.address}:{real.port}" for real in service.reals)
        weights = tuple(real.weight for real in service.reals)
        unable = tuple(n for n, takes_new in enumerate(able) if not takes_new and weights[n])
        key = (service.scheduler, names, weights, unable)
        if key not in self._orders:
            if len(self._orders) >= ORDERS_KEPT:
                self._orders.clear()
            self._orders[key] = flows.order(*key)
        return self._orders[key]

    def write(self, contents: Set[bytes]) -> None:
        """Makes those that are new, in few calls: the kernel waits milliseconds (RCU) at the end of each."""
        new = [content for content in contents if content and content not in self._indexes.used]
        for at in range(0, len(new), RINGS_AT_ONCE):
            some = new[at : at + RINGS_AT_ONCE]
            descriptors: list[int] = []
            try:
                descriptors += map(self._make, some)
                indexes = array("I", (self._indexes.take(content)[0] for content in some))
                self._rings.put_many(indexes.tobytes(), array("I", descriptors).tobytes(), len(some))
            finally:
                for fd in descriptors:
                    os.close(fd)

    def _make(self, content: bytes) -> int:
        """An inner map; the caller closes the descriptor."""
        size = ct.sizeof(self._chunk)
        chunks = -(-len(content) // size)
        fd = syscall.create_map(syscall.MAP_TYPE_ARRAY, 4, size, chunks, syscall.F_INNER_MAP, "ring")
        keys = array("I", range(chunks)).tobytes()
        syscall.update_batch(fd, keys, content.ljust(chunks * size, b"\0"), chunks)
        return fd

    def number(self, content: bytes) -> int:
        return self._indexes.used.get(content, 0)

    def keep(self, contents: Set[bytes]) -> None:
        """Releases the others."""
        self._indexes.keep(contents)
