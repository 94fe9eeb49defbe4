"""Which server gets the next connection: the tables of the L4 tier and the pickers of the L7 tier.

The L4 tier runs on tables, made here and written to BPF maps: `smooth_wrr_ring` (a position advances with each new
connection) and `maglev_table` (the flow's hash is the position). The C code only indexes them.

The L7 tier asks a `Picker` per request. A server of weight 0 takes nothing new anywhere. Ineligible servers (down,
draining, already tried) are skipped without forgetting the order, so that the others keep their proportions.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from math import gcd
from typing import Protocol

from core.model import Scheduler

TABLE_SIZE = 65537  # prime, as Maglev needs; the paper's own choice for up to about a thousand servers (section 5.3)


def smooth_wrr_ring(weights: Sequence[int], limit: int = TABLE_SIZE) -> array[int]:
    """One period of nginx's smooth weighted round-robin: the indexes of `weights` in the order of their turns.

    The algorithm (ngx_http_upstream_round_robin.c): at each turn every server's score grows by its weight, the highest
    score wins (the first among equals) and loses the sum of all weights. Weights 5, 1, 1 give a a b a c a a.

    Servers of one weight win in the order of the list, again and again, so that a turn needs to compare only the heads
    of as many queues as there are different weights. The period is the sum of the weights over their greatest common
    divisor; where that exceeds `limit`, weights are scaled down to it, each server keeping one turn at least. Raises
    ValueError if more servers than `limit` have a weight.
    """
    divisor = gcd(*weights) or 1
    turns = [weight // divisor for weight in weights]
    if sum(turns) > limit:
        turns = _shares(turns, limit)
    period = sum(turns)
    queues: dict[int, deque[int]] = {}  # weight -> indexes, the next to win first
    for index, weight in enumerate(turns):
        if weight:
            queues.setdefault(weight, deque()).append(index)
    taken = [0] * len(turns)
    ring = array("I")
    for turn in range(1, period + 1):
        _, winner = max((weight * turn - period * taken[queue[0]], -queue[0]) for weight, queue in queues.items())
        queues[turns[-winner]].rotate(-1)
        taken[-winner] += 1
        ring.append(-winner)
    return ring


def _shares(weights: Sequence[int], total: int) -> list[int]:
    """`total` split in the proportion of `weights`: whole numbers, at least 1 for every weight that is not 0.

    Largest remainders first, earlier servers first among equals. Raises ValueError if `total` does not go round.
    """
    shares = [0] * len(weights)
    open_ = [index for index, weight in enumerate(weights) if weight]
    if len(open_) > total:
        raise ValueError(f"{len(open_)} servers do not fit into {total} slots")
    while open_:
        weight_sum = sum(weights[index] for index in open_)
        small = [index for index in open_ if weights[index] * total < weight_sum]
        if not small:
            break
        for index in small:  # less than one slot: it gets one, the others share what is left
            shares[index] = 1
        total -= len(small)
        open_ = [index for index in open_ if not shares[index]]
    if not open_:
        return shares
    for index in open_:
        shares[index] = weights[index] * total // weight_sum
    left = total - sum(shares[index] for index in open_)
    by_remainder = sorted(open_, key=lambda index: -(weights[index] * total % weight_sum))
    for index in by_remainder[:left]:
        shares[index] += 1
    return shares


def maglev_table(names: Sequence[str], weights: Sequence[int], size: int = TABLE_SIZE) -> array[int]:
    """Maglev's look-up table (Eisenbud et al., NSDI 2016, section 3.4): slot -> index into `names`.

    Each name is hashed to an offset and a skip, which make a permutation of the slots; servers in turn take the first
    free slot of their permutation until all are taken. A server gets its weight's share of the slots. The assignment
    depends on the set of (name, weight) and not on its order. `size` has to be prime. Raises ValueError if more
    servers than `size` have a weight; no server with a weight gives an empty table.
    """
    order = sorted((index for index, weight in enumerate(weights) if weight), key=names.__getitem__)
    if not order:
        return array("I")
    quota = _shares([weights[index] for index in order], size)
    places, skips = [], []
    for index in order:
        digest = hashlib.blake2b(names[index].encode(), digest_size=16).digest()
        places.append(int.from_bytes(digest[:8], "big") % size)
        skips.append(int.from_bytes(digest[8:], "big") % (size - 1) + 1)
    ring = smooth_wrr_ring(quota, size)
    table = [-1] * size
    for turn in ring if len(ring) == size else list(ring) * (size // len(ring)):
        place, skip = places[turn], skips[turn]
        while table[place] >= 0:
            place = (place + skip) % size
        table[place] = order[turn]
        places[turn] = place
    return array("I", table)


class Picker(Protocol):
    """Chooses a server by its index."""

    def pick(self, eligible: Callable[[int], bool], active: Sequence[int], source: bytes) -> int | None:
        """The server for one more request, or None if no server with a weight is eligible.

        `active[i]` is the number of requests (or connections) that server i has open; `source` the client's address.
        """


class SmoothWrr:
    """Smooth weighted round-robin: walks the ring, passing over what is not eligible."""

    def __init__(self, weights: Sequence[int], start: int = 0) -> None:
        self._ring = smooth_wrr_ring(weights)
        self._servers = sorted(set(self._ring))
        self._next = start % len(self._ring) if self._ring else 0

    def pick(self, eligible: Callable[[int], bool], active: Sequence[int], source: bytes) -> int | None:
        ring = self._ring
        for step in range(len(ring)):
            index = ring[(self._next + step) % len(ring)]
            if eligible(index):
                self._next = (self._next + step + 1) % len(ring)
                return index
            if step == len(self._servers) and not any(map(eligible, self._servers)):
                return None  # a ring may be long, and is not walked to its end for nothing
        return None


class RoundRobin(SmoothWrr):
    """Round-robin: every server with a weight has one turn a round."""

    def __init__(self, weights: Sequence[int], start: int = 0) -> None:
        super().__init__([min(weight, 1) for weight in weights], start)


class WeightedLeastConnections:
    """The fewest open requests for its weight; smooth weighted round-robin among equals, as nginx's least_conn."""

    def __init__(self, weights: Sequence[int], start: int = 0) -> None:
        self._weights = tuple(weights)
        self._among_equals = SmoothWrr(weights, start)

    def pick(self, eligible: Callable[[int], bool], active: Sequence[int], source: bytes) -> int | None:
        least: set[int] = set()
        least_active, least_weight = 0, 0
        for index, weight in enumerate(self._weights):
            if not weight or not eligible(index):
                continue
            load, bar = active[index] * least_weight, least_active * weight  # active/weight, cross-multiplied
            if not least or load < bar:
                least = {index}
                least_active, least_weight = active[index], weight
            elif load == bar:
                least.add(index)
        if len(least) == 1:
            return least.pop()
        return self._among_equals.pick(least.__contains__, active, source)


class LeastConnections(WeightedLeastConnections):
    """The fewest open requests, whatever the weight; round-robin among equals."""

    def __init__(self, weights: Sequence[int], start: int = 0) -> None:
        super().__init__([min(weight, 1) for weight in weights], start)


class SourceHash:
    """One server per client address for as long as it is eligible, by Maglev's table.

    Clients of an ineligible server are spread over the others by further hashes, and nobody else moves.
    """

    def __init__(self, weights: Sequence[int], names: Sequence[str] | None = None) -> None:
        self._table = maglev_table(names or [str(index) for index in range(len(weights))], weights)
        self._servers = sorted(set(self._table))

    def pick(self, eligible: Callable[[int], bool], active: Sequence[int], source: bytes) -> int | None:
        if not self._table:
            return None
        digest = hashlib.blake2b(source, digest_size=32).digest()
        for at in range(0, 32, 8):
            index = self._table[int.from_bytes(digest[at : at + 8], "big") % len(self._table)]
            if eligible(index):
                return index
        left = [index for index in self._servers if eligible(index)]
        return left[int.from_bytes(digest[:8], "big") % len(left)] if left else None


def picker(
    scheduler: Scheduler, weights: Sequence[int], *, names: Sequence[str] | None = None, start: int = 0
) -> Picker:
    """The picker of an L7 scheduler.

    `start` shifts the first turn, so that several workers do not all begin with the same server. `names` identify the
    servers to the source hash: with them, a client's server does not depend on the order of the list.
    """
    match scheduler:
        case Scheduler.RR:
            return RoundRobin(weights, start)
        case Scheduler.WRR:
            return SmoothWrr(weights, start)
        case Scheduler.LC:
            return LeastConnections(weights, start)
        case Scheduler.WLC:
            return WeightedLeastConnections(weights, start)
        case Scheduler.SH:
            return SourceHash(weights, names)
        case Scheduler.MAGLEV:
            raise ValueError("maglev is a scheduler of the L4 tier")
