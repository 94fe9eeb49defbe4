"""Which server gets the next connection: the tables of the L4 tier and the pickers of the L7 tier.

The L4 tier runs on tables, made here and written to BPF maps: `smooth_wrr_ring` (a position advances with each new
connection) and `flow_table` (the flow's hash is the position). The C code only indexes them.

The L7 tier asks a `Picker` per request. A server of weight 0 takes nothing new anywhere. Ineligible servers (down,
draining, already tried) are skipped without forgetting the order, so that the others keep their proportions.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from math import gcd
from operator import add
from typing import Protocol

from core.model import Scheduler

TABLE_SIZE = 65537  # prime, as Maglev needs; the paper's own choice for up to about a thousand servers (section 5.3)
MAX_SKIP = 4096  # the paper allows any skip; short ones let `find` cross the table in few strides, and spread as well
STRIDES = 0x9E3779B1  # 2^32 / golden ratio (Knuth): neighbouring slots walk in unlike strides
DENSE = 20  # below a twentieth of free slots, where a server tries twenty on average, searching beats probing


def smooth_wrr_ring(weights: Sequence[int], limit: int = TABLE_SIZE) -> array[int]:
    """One period of nginx's smooth weighted round-robin: the indexes of `weights` in the order of their turns.

    The algorithm (ngx_http_upstream_round_robin.c): at each turn every server's score grows by its weight, the highest
    score wins (the first among equals) and loses the sum of all weights. Weights 5, 1, 1 give a a b a c a a.

    Servers of one weight win in the order of the list, again and again, so it is enough to keep one score for each
    different weight: that of the server whose turn comes next. The period is the sum of the weights over their
    greatest common divisor; where that exceeds `limit`, weights are scaled down to it, each server keeping one turn at
    least. Raises ValueError if more servers than `limit` have a weight.
    """
    divisor = gcd(*weights) or 1
    turns = [weight // divisor for weight in weights]
    if sum(turns) > limit:
        turns = _shares(turns, limit)
    period = sum(turns)
    growth = sorted({weight for weight in turns if weight})
    queues = [[index for index, weight in enumerate(turns) if weight == each] for each in growth]
    heads = [0] * len(queues)
    scores = [0] * len(queues)
    ring = array("I")
    for _ in range(period):
        scores = list(map(add, scores, growth))
        best = max(scores)
        winner = scores.index(best)
        if scores.count(best) > 1:
            equals = [queue for queue, score in enumerate(scores) if score == best]
            winner = min(equals, key=lambda queue: queues[queue][heads[queue]])
        ring.append(queues[winner][heads[winner]])
        heads[winner] += 1
        if heads[winner] == len(queues[winner]):  # the next head has won once more than the others ahead of it
            heads[winner] = 0
            scores[winner] -= period
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
    free slot of their permutation until all are taken. In round r a server of weight w, of at most W, has a turn where
    ceil(r·w/W) grows: every server with a weight has at least one slot. The table depends on the set of (name, weight)
    and not on its order. `size` has to be prime. Raises ValueError if more servers than `size` have a weight; where
    none has, the table is empty.
    """
    by_weight = _permutations(names, weights, size)
    if sum(len(each.indexes) for each in by_weight) > size:
        raise ValueError(f"more servers than the {size} slots of the table")
    owner, taken = [0] * size, bytearray(size)
    free = size if by_weight else 0
    probing_ends = size // DENSE
    while free:
        for each in by_weight:
            if each.has_turn():
                if free > len(each.indexes) + probing_ends:
                    _take_probing(each, owner, taken)
                else:
                    _take_searching(each, owner, taken, free)
                free -= min(free, len(each.indexes))
    return array("I", owner if by_weight else [])


def flow_table(names: Sequence[str], weights: Sequence[int], down: Collection[int], size: int) -> array[int]:
    """Maglev's table with the servers that are `down` or of weight 0 passed over: nobody else's slots change.

    Maglev alone moves a few of the others' slots when a server goes, and flows that have no session move with them.
    So servers that take nothing keep their place in the table (of weight 0: as if of the highest weight), and each of
    their slots goes by a walk over the table, a stride of its own, to the first server that takes something. Empty if
    none does.
    """
    gone = frozenset(down) | {index for index, weight in enumerate(weights) if not weight}
    if len(gone) == len(weights):
        return array("I")
    highest = max(weights)
    table = maglev_table(names, [weight or highest for weight in weights], size)
    passed_over = array("I", table)
    for slot, index in enumerate(table):
        place, stride = slot, slot * STRIDES % (size - 1) + 1  # `size` is prime: every stride comes by every slot
        while index in gone:
            place = (place + stride) % size
            index = table[place]
        passed_over[slot] = index
    return passed_over


@dataclass(slots=True)
class _Permutations:
    """The servers of one weight in the order of their names: how far each has come in its permutation."""

    weight: int
    highest: int
    indexes: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    skips: list[int] = field(default_factory=list)
    progress: int = 0

    def has_turn(self) -> bool:
        """Whether the servers have a turn in the next round, which is thereby over."""
        before = -(-self.progress // self.highest)
        self.progress += self.weight
        return -(-self.progress // self.highest) > before


def _permutations(names: Sequence[str], weights: Sequence[int], size: int) -> list[_Permutations]:
    highest = max(weights, default=0)
    by_weight: dict[int, _Permutations] = {}
    for name, index in sorted((names[index], index) for index, weight in enumerate(weights) if weight):
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        each = by_weight.setdefault(weights[index], _Permutations(weights[index], highest))
        each.indexes.append(index)
        each.places.append(int.from_bytes(digest[:8], "big") % size)
        each.skips.append(int.from_bytes(digest[8:], "big") % min(size - 1, MAX_SKIP) + 1)
    return [by_weight[weight] for weight in sorted(by_weight, reverse=True)]


def _take_probing(each: _Permutations, owner: list[int], taken: bytearray) -> None:
    """One turn for each server while slots are plenty: steps along the permutation."""
    size = len(owner)
    places = []
    for index, place, skip in zip(each.indexes, each.places, each.skips, strict=True):
        while taken[place]:
            place += skip
            if place >= size:
                place -= size
        taken[place] = 1
        owner[place] = index
        places.append(place)
    each.places = places


def _take_searching(each: _Permutations, owner: list[int], taken: bytearray, free: int) -> None:
    """One turn for each server, up to `free` of them, while slots are few: `find` in strides, at the speed of C."""
    size = len(owner)
    for order, (index, place, skip) in enumerate(zip(each.indexes[:free], each.places, each.skips, strict=False)):
        steps = taken[place::skip].find(0)
        while steps < 0:
            place += ((size - 1 - place) // skip + 1) * skip - size  # once past the end, and around
            steps = taken[place::skip].find(0)
        place += steps * skip
        taken[place] = 1
        owner[place] = index
        each.places[order] = place


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
        ring, at = self._ring, self._next
        if ring and eligible(ring[at]):  # as nearly always
            self._next = at + 1 if at + 1 < len(ring) else 0
            return ring[at]
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
    """The fewest open requests for its weight; smooth weighted round-robin among equals, as nginx's least_conn.

    The L4 tier, where connections last and equals are rare, lets equals take turns: `among_equals` is a RoundRobin.
    """

    def __init__(self, weights: Sequence[int], start: int = 0, *, among_equals: Picker | None = None) -> None:
        self._weights = tuple(weights)
        self._among_equals = among_equals or SmoothWrr(weights, start)

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
        case Scheduler.TCH | Scheduler.MAGLEV:
            raise ValueError(f"{scheduler} is a scheduler of the L4 tier")
        case Scheduler.P2C | Scheduler.CH:
            raise ValueError(f"{scheduler} is made elsewhere: core.latency, core.bounded")
