"""A set of addresses of one IP version, given as networks: what access lists hold, and what the XDP tier's are loaded
from.

Networks that lie within others say nothing more and are left out, so that those kept do not overlap: an address is
found by one bisection, and the longest match in the kernel's trie is the only one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from core.endpoints import version as version_of

BITS: Final[Mapping[int, int]] = {4: 32, 6: 128}  # of an address, by IP version


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Networks that do not overlap, in order: the first and the last address of each, as numbers."""

    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    version: int = 4

    @classmethod
    def of(cls, networks: Iterable[str], version: int = 4) -> Prefixes:
        """Those of this IP version, each "10.0.0.0/8" or a bare address; they have been checked to have no bits
        beyond theirs."""
        # Of two that begin together the larger stands first.
        bits = BITS[version]
        mine = (network for network in networks if version_of(network) == version)
        spans = sorted((start, -end) for start, end in (_span(network, bits) for network in mine))
        first: list[int] = []
        last: list[int] = []
        for start, end in spans:
            if not last or start > last[-1]:
                first.append(start)
                last.append(-end)
        return cls(tuple(first), tuple(last), version)

    def __contains__(self, address: int) -> bool:
        at = bisect_right(self.first, address) - 1
        return at >= 0 and address <= self.last[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each network's address and length."""
        bits = BITS[self.version]
        for start, end in zip(self.first, self.last, strict=True):
            yield start, bits - (end - start).bit_length()

    def __len__(self) -> int:
        return len(self.first)


def number(address: str) -> int:
    """An address as a number; the zone of one that is valid on one link alone ("fe80::1%eth0") is left out."""
    if ":" in address:
        return int(IPv6Address(address.partition("%")[0]))
    a, b, c, d = address.split(".")
    return int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)


def _span(network: str, bits: int) -> tuple[int, int]:
    address, _, length = network.partition("/")
    start = number(address)
    return start, start | (1 << bits) - 1 >> int(length or bits)
