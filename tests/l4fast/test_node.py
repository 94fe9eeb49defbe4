"""What is pure in the joining of a node; `test_failover.py` runs whole ones."""

from __future__ import annotations

import ctypes

from l4fast.node import layout_of


class Key(ctypes.Structure):
    _fields_ = (("client", ctypes.c_uint32), ("vip", ctypes.c_uint32))


class Value(ctypes.Structure):
    _fields_ = (("packets", ctypes.c_uint32), ("state", ctypes.c_uint8), ("zero", ctypes.c_uint8 * 3))


class Renamed(ctypes.Structure):
    _fields_ = (("packets", ctypes.c_uint32), ("mode", ctypes.c_uint8), ("zero", ctypes.c_uint8 * 3))


class Moved(ctypes.Structure):
    _fields_ = (("state", ctypes.c_uint8), ("zero", ctypes.c_uint8 * 3), ("packets", ctypes.c_uint32))


def test_a_layout_is_its_fields_and_not_its_class() -> None:
    layout = layout_of(Key, Value)
    again = type("Value", (ctypes.Structure,), {"_fields_": Value._fields_})
    assert (layout.key_size, layout.value_size) == (8, 8)
    assert layout_of(Key, again) == layout


def test_layouts_of_one_size_and_another_meaning_differ() -> None:
    checksums = [layout_of(Key, value).checksum for value in (Value, Renamed, Moved)]
    assert len(set(checksums)) == 3
    assert layout_of(Value, Key) != layout_of(Key, Value)
