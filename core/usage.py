"""What a listener's clients have used in an hour, as nodes tell it and the control plane keeps it. Pure.

A *usage* is a row of numbers in the order of `NUMBERS`. All but the last are sums: whatever order they are added in,
and in however many parts, the result is the same. The two last tell how many connections were open at once. L7 nodes
have connections of their own, which add up (`open_added`: each node tells by how much its maximum of the hour has
grown); L4 nodes know one another's sessions, of which the largest number counts (`open_known`).

A *delivery* is what a node hands over at once. Its number is one more than that of the delivery before in the same
`epoch`, and it is the same, byte for byte, however often it is sent: so whoever takes it knows whether he has it
already. An epoch ends where a node has lost its memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Final

HOUR_S: Final = 3600
NUMBERS: Final = (
    "bytes_in", "bytes_out", "connections", "requests_1xx", "requests_2xx", "requests_3xx", "requests_4xx",
    "requests_5xx", "requests_other", "open_added", "open_known",
)  # fmt: skip
SIZE: Final = len(NUMBERS)
OPEN_ADDED: Final = NUMBERS.index("open_added")
COUNTED: Final = OPEN_ADDED  # how many of them come from counters
NOTHING: Final = (0,) * SIZE
LARGEST: Final = (1 << 63) - 1
ROWS_LIMIT: Final = 1000  # of a delivery

Usage = tuple[int, ...]
Owner = tuple[str, str]  # an instance and its listener, by name
Place = tuple[int, Owner]  # an hour, counted from 1970, and whose
_INSTANCE: Final = re.compile(r"[A-Za-z0-9-][A-Za-z0-9._-]{0,79}")
_LISTENER: Final = re.compile(r"[!-}]{1,80}")
_EPOCH: Final = re.compile(r"[0-9a-f]{16}")


def merged(one: Usage, other: Usage) -> Usage:
    """Both together."""
    return (*map(add, one[:-1], other[:-1]), max(one[-1], other[-1]))


def most_open(usage: Usage) -> int:
    """How many connections were open at once, at most."""
    return max(usage[OPEN_ADDED], usage[OPEN_ADDED + 1])


def packed(usage: Usage) -> list[int]:
    """Without the zeros at its end."""
    end = SIZE
    while end and not usage[end - 1]:
        end -= 1
    return list(usage[:end])


def unpacked(numbers: Sequence[int]) -> Usage:
    """The reverse of `packed`."""
    return (*numbers, *NOTHING[len(numbers) :])


def gained(before: Sequence[int], now: Sequence[int]) -> tuple[int, ...]:
    """What counters have counted between two looks; one that has fallen began at zero in between."""
    return tuple(new - old if new >= old else new for old, new in zip(before, now, strict=True))


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a node hands over: `rows` are of different places."""

    epoch: str
    number: int
    rows: Mapping[Place, Usage]

    def document(self) -> dict[str, object]:
        rows = [[hour, *owner, packed(usage)] for (hour, owner), usage in self.rows.items()]
        return {"epoch": self.epoch, "number": self.number, "rows": rows}

    @classmethod
    def of(cls, document: object) -> Delivery:
        """Raises ValueError for what is none."""
        if not isinstance(document, dict):
            raise ValueError("a delivery is an object")
        epoch, number, rows = (document.get(name) for name in ("epoch", "number", "rows"))
        if not isinstance(epoch, str) or not _EPOCH.fullmatch(epoch):
            raise ValueError("epoch: give 16 hexadecimal digits")
        if not isinstance(number, int) or not 0 < number <= LARGEST:
            raise ValueError("number: give one from 1 on")
        if not isinstance(rows, list) or len(rows) > ROWS_LIMIT:
            raise ValueError(f"rows: give a list of at most {ROWS_LIMIT}")
        found = dict(map(_row, rows))
        if len(found) != len(rows):
            raise ValueError("rows: two are of the same listener and hour")
        return cls(epoch, number, found)


def _row(row: object) -> tuple[Place, Usage]:
    if not isinstance(row, list) or len(row) != 4:
        raise ValueError("a row is [HOUR, INSTANCE, LISTENER, NUMBERS]")
    hour, instance, listener, numbers = row
    if not isinstance(instance, str) or not _INSTANCE.fullmatch(instance):
        raise ValueError(f"{instance!r} is no instance")
    if not isinstance(listener, str) or not _LISTENER.fullmatch(listener):
        raise ValueError(f"{listener!r} is no listener")
    if not isinstance(numbers, list) or len(numbers) > SIZE or not _all_counts([hour, *numbers]):
        raise ValueError(f"{instance}/{listener}: hour and numbers are whole numbers from 0 to {LARGEST}")
    return (hour, (instance, listener)), unpacked(numbers)


def _all_counts(values: Iterable[object]) -> bool:
    return all(type(value) is int and 0 <= value <= LARGEST for value in values)
