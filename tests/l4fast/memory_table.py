"""A session table without a kernel: what session sync needs of the data plane, by the rule of `merging`."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from l4fast.merging import Merged
from l4fast.sync_records import Layout
from tests.l4fast.merging import Entry, merged

KEY_SIZE = 8
_VALUE = struct.Struct("!IIIB3x")
TOLD_SIZE = KEY_SIZE + _VALUE.size
LAYOUTS = {ip: Layout(KEY_SIZE, _VALUE.size, 20, TOLD_SIZE, 0x5E55) for ip in (4, 6)}


def key_of(number: int) -> bytes:
    return number.to_bytes(KEY_SIZE, "big")


def value_of(entry: Entry) -> bytes:
    return _VALUE.pack(entry.way, entry.last_s, entry.packets, entry.state)


def entry_of(value: bytes) -> Entry:
    way, last_s, packets, state = _VALUE.unpack(value)
    return Entry(way, last_s, state, packets)


def page_of(entries: Sequence[tuple[bytes, Entry]]) -> tuple[bytes, int, int]:
    """A datagram's body, of how many records and ends; none of these has ends, and each has a second of its own."""
    return bytes(4) + b"".join(key + value_of(entry) for key, entry in entries), len(entries), 0


class MemoryTable:
    """`room`: for so many sessions of each IP version."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.entries: dict[int, dict[bytes, Entry]] = {4: {}, 6: {}}
        self.room = room

    def enter(self, number: int, entry: Entry, ip: int = 4) -> None:
        self.entries[ip][key_of(number)] = entry

    def merge_sessions(self, version: int, body: bytes, count: int, shift_s: int = 0) -> Merged:
        assert len(body) == count * TOLD_SIZE
        keys, values = body[: count * KEY_SIZE], body[count * KEY_SIZE :]
        return self._merge(version, shift_s, (
            (keys[n * KEY_SIZE : (n + 1) * KEY_SIZE], entry_of(values[n * _VALUE.size : (n + 1) * _VALUE.size]))
            for n in range(count)
        ))  # fmt: skip

    def hear_sessions(self, version: int, body: bytes, count: int, ends: int, shift_s: int = 0) -> Merged:
        assert len(body) == LAYOUTS[version].body_size(count, ends)
        return self._merge(version, shift_s, (
            (body[at : at + KEY_SIZE], entry_of(body[at + KEY_SIZE : at + TOLD_SIZE]))
            for at in range(LAYOUTS[version].body_size(0, ends), len(body), TOLD_SIZE)
        ))  # fmt: skip

    def _merge(self, version: int, shift_s: int, records: Iterable[tuple[bytes, Entry]]) -> Merged:
        new = newer = full = 0
        table = self.entries[version]
        for key, told in records:
            here = table.get(key)
            entry = merged(here, replace(told, last_s=told.last_s + shift_s))
            if entry is None or entry == here:
                continue
            if here is None and len(table) >= self.room:
                full += 1
                continue
            table[key] = entry
            new += here is None
            newer += here is not None
        return Merged(new, newer, full)

    def end_keys(self, version: int, keys: bytes, until_s: int) -> int:
        table, ended = self.entries[version], 0
        for at in range(0, len(keys), KEY_SIZE):
            entry = table.get(keys[at : at + KEY_SIZE])
            if entry is not None and entry.last_s <= until_s:
                del table[keys[at : at + KEY_SIZE]]
                ended += 1
        return ended

    def session_blocks(self, size: int) -> Iterator[tuple[int, bytes, bytes, int]]:
        for version, table in self.entries.items():
            keys = list(table)
            for at in range(0, len(keys), size):
                there = [key for key in keys[at : at + size] if key in table]
                if there:
                    yield version, b"".join(there), b"".join(value_of(table[key]) for key in there), len(there)
