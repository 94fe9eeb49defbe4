"""Entering what peers tell of sessions: frames for the program `merge`, which says of each record whether it holds or
what is here (bpf/merge.h has the rule).

A frame is a head, keys and values, as they came in a datagram or a snapshot: Python touches blocks, never single
sessions. One system call takes up to `RECORDS` of them, at about half the cost of a batch update, which could not look
at what is there before it writes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from l4fast.bpf import syscall

# MERGE_RECORDS, enum merging of merge.h
RECORDS: Final = {4: 42, 6: 16}
ENTER, COUNT, END = 0, 1, 2
_HEAD: Final = struct.Struct("=IIII")


class Merged(NamedTuple):
    """How many records were of sessions not known here, newer than what was here, or had no room; and how many
    sessions ended. What is in none of these was no newer."""

    new: int = 0
    newer: int = 0
    full: int = 0
    ended: int = 0


class Merging:
    """Runs `merge` of one IP version. `program_fd`: of the loaded program."""

    def __init__(self, program_fd: int, version: int, key_size: int, value_size: int) -> None:
        self._fd = program_fd
        self._most = RECORDS[version]
        self._key_size, self._value_size = key_size, value_size

    def enter(self, keys: bytes, values: bytes, count: int, *, counted: bool) -> Merged:
        """Enters `count` sessions, unless what is here holds. `counted`: some may count as connections here.

        Raises ValueError if the blocks' lengths do not fit, OSError.
        """
        if len(keys) != count * self._key_size or len(values) != count * self._value_size:
            raise ValueError(f"{count} sessions are {count * self._key_size} and {count * self._value_size} bytes")
        answers: list[int] = []
        for at, n in self._pieces(count):
            some = keys[at * self._key_size : (at + n) * self._key_size]
            answers.append(self._run(ENTER, n, some + values[at * self._value_size : (at + n) * self._value_size]))
            if counted:
                self._run(COUNT, n, some)
        return _sum(answers)

    def end(self, keys: bytes, until_s: int) -> int:
        """These sessions end, with their answers' entries, if their last packet came no later than that second; returns
        how many they were."""
        return _sum([
            self._run(END, n, keys[at * self._key_size : (at + n) * self._key_size], until_s)
            for at, n in self._pieces(len(keys) // self._key_size)
        ]).ended  # fmt: skip

    def _pieces(self, count: int) -> Iterator[tuple[int, int]]:
        return ((at, min(self._most, count - at)) for at in range(0, count, self._most))

    def _run(self, operation: int, count: int, records: bytes, until_s: int = 0) -> int:
        frame = _HEAD.pack(operation, count, until_s, 0) + records
        attributes = syscall._TestRunAttr(
            prog_fd=self._fd, data_size_in=len(frame), data_in=syscall._address(frame), repeat=1
        )  # nobody wants the frame back, which halves the cost of `syscall.run_program`
        syscall.bpf(syscall.PROG_TEST_RUN, attributes)
        return int(attributes.retval)


def _sum(answers: list[int]) -> Merged:
    return Merged(*(sum(answer >> shift & 0xFF for answer in answers) for shift in (0, 8, 16, 24)))
