"""The access lists of the data plane: each is a trie of its own, filled before any listener knows of it.

A list in the kernel never changes. Listeners move from one list to another by a single map update each, so that no
packet meets half a list; the list before is dropped when no packet can still be reading it. Lists of equal contents are
one list.
"""

from __future__ import annotations

import ctypes as ct
import os
import sys
from array import array
from collections.abc import Set
from typing import Any

from core.model import Acl
from core.prefixes import Prefixes
from core.resolve import Access
from l4fast.bpf import syscall
from l4fast.errors import TablesError
from l4fast.loader import DataPlane
from l4fast.mirror import Indexes

ACLS = {Acl.OFF: 0, Acl.WHITE: 1, Acl.BLACK: 2}  # enum acl of types.h


class AccessLists:
    """Writes the tries and knows their numbers. The order of calls is that of `VersionTables.apply`."""

    def __init__(self, plane: DataPlane, version: int) -> None:
        self._lists = plane.map("access_lists", version)
        template = plane.map("access_list_template", version)
        self._sizes = ct.sizeof(template.key), ct.sizeof(template.value)
        self._template_fd = template.fd
        self._most = plane.sizes["access_lists"] // 2
        self._indexes = Indexes(plane.sizes["access_lists"])

    def restore(self, numbers: Set[int]) -> None:
        """Lists of an agent before, which are in use until the next state is written."""
        self._indexes.reserve(numbers)

    def settle(self) -> None:
        """Frees the lists that were released before."""
        released = self._indexes.settle()
        if released:
            template = array("I", [self._template_fd] * len(released))
            self._lists.put_many(array("I", released).tobytes(), template.tobytes(), len(released))

    def check_room(self, wanted: Set[Prefixes]) -> None:
        """Raises TablesError."""
        if len(wanted) > self._most or not self._indexes.room(wanted):
            raise TablesError(f"{len(wanted)} access lists do not fit the tables; load them larger")

    def write(self, wanted: Set[Prefixes]) -> None:
        """Makes those that are new."""
        for prefixes in wanted - self._indexes.used.keys():
            fd = self._new_trie(prefixes)
            try:
                index = array("I", [self._indexes.take(prefixes)[0]])
                self._lists.put_many(index.tobytes(), array("I", [fd]).tobytes(), 1)
            finally:
                os.close(fd)

    def keep(self, wanted: Set[Prefixes]) -> None:
        """Releases the others."""
        self._indexes.keep(wanted)

    def fields(self, access: Access | None) -> dict[str, Any]:
        """The fields of a `struct listener` that say whom it admits."""
        if access is None:
            return {"acl": ACLS[Acl.OFF]}
        return {"acl": ACLS[access.acl], "access_list": self._indexes.used[access.listed]}

    def _new_trie(self, prefixes: Prefixes) -> int:
        """The caller closes the descriptor."""
        key_size, value_size = self._sizes
        count = len(prefixes)
        fd = syscall.create_map(
            syscall.MAP_TYPE_LPM_TRIE, key_size, value_size, max(1, count), syscall.F_NO_PREALLOC, "access_list"
        )
        if count:
            try:
                syscall.update_batch(fd, _keys(prefixes), array("I", [1] * count).tobytes(), count)
            except OSError:
                os.close(fd)
                raise
        return fd


def _keys(prefixes: Prefixes) -> bytes:
    """struct network: the length in this machine's order, the address in wire order."""
    if prefixes.version == 6:
        return b"".join(length.to_bytes(4, sys.byteorder) + first.to_bytes(16) for first, length in prefixes)
    addresses = array("I", prefixes.first)
    if sys.byteorder == "little":
        addresses.byteswap()
    keys = array("I", bytes(8 * len(addresses)))
    keys[0::2] = array("I", (length for _, length in prefixes))
    keys[1::2] = addresses
    return keys.tobytes()
