"""What is pure in the joining of a node; `test_failover.py` runs whole ones."""

from __future__ import annotations

import ctypes

from l4fast.node import layouts_of


class Key(ctypes.Structure):
    _fields_ = (("client", ctypes.c_uint32), ("vip", ctypes.c_uint32))


class Value(ctypes.Structure):
    _fields_ = (("packets", ctypes.c_uint32), ("state", ctypes.c_uint8), ("zero", ctypes.c_uint8 * 3))


class Renamed(ctypes.Structure):
    _fields_ = (("packets", ctypes.c_uint32), ("mode", ctypes.c_uint8), ("zero", ctypes.c_uint8 * 3))


class Moved(ctypes.Structure):
    _fields_ = (("state", ctypes.c_uint8), ("zero", ctypes.c_uint8 * 3), ("packets", ctypes.c_uint32))


class Wide(ctypes.Structure):
    _fields_ = (("client", ctypes.c_uint8 * 16), ("vip", ctypes.c_uint8 * 16))


def test_a_layout_is_its_fields_and_not_its_class() -> None:
    layouts = layouts_of({4: (Key, Value), 6: (Wide, Value)})
    again = type("Value", (ctypes.Structure,), {"_fields_": Value._fields_})
    assert {ip: (layout.key_size, layout.value_size) for ip, layout in layouts.items()} == {4: (8, 8), 6: (32, 8)}
    assert layouts[4].checksum == layouts[6].checksum
    assert layouts_of({6: (Wide, again), 4: (Key, again)}) == layouts


def test_layouts_of_one_size_and_another_meaning_differ() -> None:
    """Whichever version it is of: a node that lays out the other's records differently runs another release."""
    pairs = [(Key, Value), (Key, Renamed), (Key, Moved), (Value, Key)]
    checksums = {layouts_of({4: pair, 6: (Wide, Value)})[6].checksum for pair in pairs}
    checksums |= {layouts_of({4: (Key, Value), 6: pair})[4].checksum for pair in pairs}
    assert len(checksums) == 8
