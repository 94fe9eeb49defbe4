"""A set of IPv4 addresses, given as networks: what access lists hold, and what the XDP tier's are loaded from.

Networks that lie within others say nothing more and are left out, so that those kept do not overlap: an address is
found by one bisection, and the longest match in the kernel's trie is the only one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Networks that do not overlap, in order: the first and the last address of each, as numbers."""

    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()

    @classmethod
    def of(cls, networks: Iterable[str]) -> Prefixes:
        """The networks, each "10.0.0.0/8" or a bare address; they have been checked to have no bits beyond theirs."""
        # Of two that begin together the larger stands first.
        spans = sorted((start, -end) for start, end in map(_span, networks))
        first: list[int] = []
        last: list[int] = []
        for start, end in spans:
            if not last or start > last[-1]:
                first.append(start)
                last.append(-end)
        return cls(tuple(first), tuple(last))

    def __contains__(self, address: int) -> bool:
        at = bisect_right(self.first, address) - 1
        return at >= 0 and address <= self.last[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each network's address and length."""
        for start, end in zip(self.first, self.last, strict=True):
            yield start, 32 - (end - start).bit_length()

    def __len__(self) -> int:
        return len(self.first)


def number(address: str) -> int:
    """A dotted address as a number."""
    a, b, c, d = address.split(".")
    return int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)


def _span(network: str) -> tuple[int, int]:
    address, _, length = network.partition("/")
    start = number(address)
    return start, start | 0xFFFFFFFF >> int(length or 32)
