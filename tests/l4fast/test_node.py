"""What is pure in the joining of a node; `test_failover.py` runs whole ones."""

from __future__ import annotations

import ctypes

from l4fast.node import layouts_of
from l4fast.sync_records import Layout

Kind = type[ctypes.Structure]


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
    layouts = layouts_of({4: (Key, Value, Value, Key), 6: (Wide, Value, Key, Wide)})
    again = type("Value", (ctypes.Structure,), {"_fields_": Value._fields_})
    assert layouts == {
        4: Layout(8, 8, 8, 8, layouts[6].checksum), 6: Layout(32, 8, 8, 32, layouts[4].checksum),
    }  # fmt: skip
    assert layouts[6].body_size(3, 2) == 4 + 2 * 8 + 3 * 32
    assert layouts[4].checksum == layouts[6].checksum
    assert layouts_of({6: (Wide, again, Key, Wide), 4: (Key, again, again, Key)}) == layouts


def test_layouts_of_one_size_and_another_meaning_differ() -> None:
    """Whichever version it is of: a node that lays out the other's records differently runs another release."""
    some: list[tuple[Kind, Kind]] = [(Key, Value), (Key, Renamed), (Key, Moved), (Value, Key)]
    whole = [(*each, Key, Value) for each in some] + [(Key, Value, *each) for each in some[1:]]
    usual = (Wide, Value, Key, Wide)
    checksums = {layouts_of({4: each, 6: usual})[6].checksum for each in whole}
    checksums |= {layouts_of({4: usual, 6: each})[4].checksum for each in whole}
    assert len(checksums) == 14
