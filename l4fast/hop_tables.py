"""The next hops of one IP version as the program has them: `hops`, `hop_numbers`, `node_macs`.

A server's address keeps its number while it is one. A MAC address that changes is written where it stands.
"""

from __future__ import annotations

import ctypes as ct
import struct
import sys
from collections.abc import Collection, Iterable, Mapping, Set

from l4fast.addresses import address_bytes, text_of
from l4fast.hops import Hop
from l4fast.loader import DataPlane
from l4fast.mirror import Indexes, Mirror

# WAY_* of types.h
WAY_INTERFACE, WAY_HERE, WAY_NODE, WAY_VLAN_SHIFT = 0x0F, 0x10, 0x20, 8
# What has the numbers 0 (nobody) and HOP_CLIENTS.
_NO_HOP, _CLIENTS = "", "clients"


class Hops:
    """Writes the next hops and knows their numbers. The order of calls is that of `VersionTables.apply`."""

    def __init__(self, plane: DataPlane, version: int) -> None:
        self._plane = plane
        self._hops = Mirror(plane, "hops", version)
        self._by_address = Mirror(plane, "hop_numbers", version)
        self._node_macs = Mirror(plane, "node_macs", version)
        self._indexes = Indexes(plane.sizes["hops"])
        for name in (_NO_HOP, _CLIENTS):
            self._indexes.take(name)
        self._left: dict[str, bytes] = {}

    def restore(self) -> None:
        """Goes on where an agent before has ended: its next hops count until they are resolved again."""
        self._by_address.restore()
        self._node_macs.restore()
        table = self._hops.map
        numbers = {text_of(key): int.from_bytes(value, sys.byteorder) for key, value in self._by_address.held.items()}
        self._indexes.restore(numbers)
        self._left = {name: bytes(table.entry(number)) for name, number in self._indexes.used.items()}

    def settle(self) -> None:
        self._indexes.settle()

    def room(self, wanted: Iterable[object]) -> bool:
        return self._indexes.room(wanted)

    @property
    def numbers(self) -> Mapping[str, int]:
        """By address."""
        return self._indexes.used

    def keep(self, addresses: Set[str]) -> None:
        """Releases the others."""
        self._indexes.keep(addresses | {_NO_HOP, _CLIENTS})

    def write(self, addresses: Set[str], next_hops: Mapping[str, Hop], gateway: str, nodes: Collection[str]) -> bool:
        """Says whether an address that sessions may go to has another next hop than before, or none. `nodes`: those
        whose hops are WAY_NODE."""
        for address in addresses:
            self._indexes.take(address)
        hops = self._indexes.used
        entries = {_index(hops[_CLIENTS]): self._entry(_CLIENTS, next_hops.get(gateway))}
        entries |= {
            _index(hops[address]): self._entry(address, next_hops.get(address), WAY_NODE if address in nodes else 0)
            for address in addresses
        }
        macs = {next_hops[address].mac + bytes(2): _index(1) for address in nodes if address in next_hops}
        self._node_macs.add(macs)
        self._node_macs.prune(macs)
        numbers = {address_bytes(address): _index(hops[address]) for address in addresses}
        self._hops.add(entries)
        changed = self._by_address.add(numbers)
        return bool(changed | self._by_address.prune(numbers))

    def _entry(self, name: str, hop: Hop | None, way: int = 0) -> bytes:
        """struct hop; zero if there is none. What is here has a MAC address as well, for it is resolved."""
        interfaces = self._plane.interfaces
        if hop is None:
            return self._left.get(name, bytes(ct.sizeof(self._hops.map.value)))
        self._left.pop(name, None)
        if hop.here:
            return struct.pack("=6s6sI", interfaces[0].mac, interfaces[0].mac, WAY_HERE)
        number = [each.name for each in interfaces].index(hop.interface) if hop.interface else 0
        way |= hop.vlan << WAY_VLAN_SHIFT | (number + 1 if len(interfaces) > 1 else 0)
        return struct.pack("=6s6sI", hop.mac, interfaces[number].mac, way)


def _index(number: int) -> bytes:
    return struct.pack("=I", number)
