"""Which node has which address, while all of them live. Pure.

Every node works out the same answer from the same configuration, so that nobody has to be asked. For each address the
nodes stand in an order of their own: the first has it, the next is its heir. The order of a VIP is that of the hashes
of (VIP, node), so that a node that comes or goes changes nobody else's place (rendezvous hashing; Thaler and
Ravishankar 1998); but no node is the first of more than its part, rounded up: with two VIPs and two nodes each has one
(Mirrokni, Thorup, Zadimoghaddam 2018). A source pool's address has its own node as the first.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """An address as one node sees it: how many nodes would have it before this one, of how many."""

    address: str
    rank: int
    nodes: int


def shares(
    vips: Sequence[str], pools: Mapping[str, Sequence[str]], nodes: Iterable[str], own: str
) -> tuple[Share, ...]:
    """Every VIP and every address of a source pool, from the point of view of the node `own`, in the order of the
    addresses. `pools`: the addresses of each node."""
    names = sorted({*nodes, *pools, own})
    order = _spread(vips, names)
    for node, pool in sorted(pools.items()):
        for address in pool:
            order[address] = [node, *(name for name in _by_hash(address, names) if name != node)]
    return tuple(Share(address, order[address].index(own), len(names)) for address in sorted(order, key=ipaddress_key))


def _spread(vips: Iterable[str], names: Sequence[str]) -> dict[str, list[str]]:
    addresses = sorted(set(vips), key=ipaddress_key)
    most = -(-len(addresses) // len(names))
    firsts: Counter[str] = Counter()
    order = {}
    for address in addresses:
        ranked = _by_hash(address, names)
        first = next(name for name in ranked if firsts[name] < most)
        firsts[first] += 1
        order[address] = [first, *(name for name in ranked if name != first)]
    return order


def _by_hash(address: str, names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: hashlib.blake2b(f"{address} {name}".encode(), digest_size=8).digest())


def ipaddress_key(address: str) -> tuple[int, int]:
    """Sorts addresses of both versions: IPv4 first, then by number."""
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)
