"""Entering what peers tell of sessions: frames for the programs `merge` and `hear`, which say of each record whether it
holds or what is here (bpf/merge.h has the rule).

A frame is a head and what has come: of a snapshot keys and values, up to `RECORDS` of them; of a datagram its body.
Python touches blocks, never single sessions. One system call takes a frame, at about half the cost of a batch update,
which could not look at what is there before it writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from l4fast.bpf import syscall
from l4fast.sync_codec import MAX_BODY

# MERGE_RECORDS, enum merging of merge.h
RECORDS: Final = {4: 54, 6: 31}
ENTER, COUNT, END = 0, 1, 2
# struct merge: operation, count, until_s, shift_s; struct hear: operation, ends, count, shift_s
_HEAD: Final = struct.Struct("=IIIi8x")


class Merged(NamedTuple):
    """How many records were of sessions not known here, newer than what was here, or had no room; and how many
    sessions ended. What is in none of these was no newer."""

    new: int = 0
    newer: int = 0
    full: int = 0
    ended: int = 0


class Merging:
    """Runs the programs of one IP version, whose descriptors these are."""

    def __init__(self, merge_fd: int, hear_fd: int, version: int, key_size: int, value_size: int) -> None:
        self._most = RECORDS[version]
        self._key_size, self._value_size = key_size, value_size
        self._runner = syscall.Runner(merge_fd, _HEAD.size + self._most * (key_size + value_size))
        self._hearing = syscall.Runner(hear_fd, _HEAD.size + MAX_BODY)

    def hear(self, body: bytes, count: int, ends: int, shift_s: int, *, counted: bool) -> Merged:
        """Enters what a datagram tells of `count` sessions, unless what is here holds. `shift_s`, `counted`: as below.

        Raises OSError.
        """
        answer = self._hearing.run(_HEAD.pack(ENTER, ends, count, shift_s), body)
        if counted:
            self._hearing.run(_HEAD.pack(COUNT, ends, count, shift_s), body)
        return Merged(answer & 0xFF, answer >> 8 & 0xFF, answer >> 16 & 0xFF)

    def enter(self, body: bytes, count: int, shift_s: int, *, counted: bool) -> Merged:
        """Enters `count` sessions, whose keys stand in a block before their values, unless what is here holds.
        `shift_s`: of this node's clock, ahead of the peer's. `counted`: some may count as connections here.

        Raises ValueError if the block's length does not fit, OSError.
        """
        key_size, value_size = self._key_size, self._value_size
        if len(body) != count * (key_size + value_size):
            raise ValueError(f"{count} sessions are {count * (key_size + value_size)} bytes")
        answers: list[int] = []
        values_at = count * key_size
        for at, n in self._pieces(count):
            keys = body[at * key_size : (at + n) * key_size]
            values = body[values_at + at * value_size : values_at + (at + n) * value_size]
            answers.append(self._runner.run(_HEAD.pack(ENTER, n, 0, shift_s), keys, values))
            if counted:
                self._runner.run(_HEAD.pack(COUNT, n, 0, 0), keys)
        return _sum(answers)

    def end(self, keys: bytes, until_s: int) -> int:
        """These sessions end, with their answers' entries, if their last packet came no later than that second;
        returns how many they were."""
        return _sum([
            self._runner.run(_HEAD.pack(END, n, until_s, 0), keys[at * self._key_size : (at + n) * self._key_size])
            for at, n in self._pieces(len(keys) // self._key_size)
        ]).ended  # fmt: skip

    def _pieces(self, count: int) -> Iterator[tuple[int, int]]:
        return ((at, min(self._most, count - at)) for at in range(0, count, self._most))


def _sum(answers: list[int]) -> Merged:
    return Merged(*(sum(answer >> shift & 0xFF for answer in answers) for shift in (0, 8, 16, 24)))
