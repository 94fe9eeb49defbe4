"""Chains by server name: what a program that serves TLS needs to know before its first handshake. Pure.

The chains are those that stand with the keys (*.pem and *.key files), each filed under the names of its leaf. A name is
looked up as TLS clients match it (RFC 6125, section 6.4.3): exactly, else with its first label replaced by an asterisk.
Of several chains for one key the one that lasts longest counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MAX_FOUND = 8  # keys for one name: two or three are usual
MAX_FOUND_BYTES = 1 << 18  # of PEM text, in one answer


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain as PEM text, the id of its leaf's key, the leaf's names, and when it ends in seconds since 1970."""

    key_id: bytes
    names: tuple[str, ...]
    not_after: int
    pem: str


class Chains:
    """An index of chains. Those that cannot be answered with, because they are too long, are left out."""

    def __init__(self, chains: Iterable[Chain] = ()) -> None:
        latest: dict[bytes, Chain] = {}
        for chain in chains:
            other = latest.get(chain.key_id)
            if len(chain.pem) <= MAX_FOUND_BYTES and (other is None or chain.not_after > other.not_after):
                latest[chain.key_id] = chain
        index: dict[str, list[Chain]] = {}
        for chain in latest.values():
            for name in dict.fromkeys(map(normal, chain.names)):
                index.setdefault(name, []).append(chain)
        self._index: Mapping[str, list[Chain]] = index

    def __len__(self) -> int:
        return len({chain.key_id for chains in self._index.values() for chain in chains})

    def find(self, name: str) -> list[Chain]:
        """The chains for a name, in the order in which they were given; none where no certificate has it."""
        name = normal(name)
        found = self._index.get(name)
        if found is None:
            _, dot, parent = name.partition(".")
            found = self._index.get(f"*.{parent}", []) if dot else []
        return list(found)


def answer(chains: Iterable[Chain]) -> tuple[tuple[bytes, str], ...]:
    """(key id, PEM) of as many as one answer holds."""
    taken: list[tuple[bytes, str]] = []
    size_bytes = 0
    for chain in chains:
        size_bytes += len(chain.pem)
        if len(taken) == MAX_FOUND or size_bytes > MAX_FOUND_BYTES:
            break
        taken.append((chain.key_id, chain.pem))
    return tuple(taken)


def normal(name: str) -> str:
    """A DNS name in lower case, without the root's dot."""
    return name.lower().removesuffix(".")
