"""Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, SODA 2018).

A key has a server for as long as that has room; room is BOUND times its fair share of the requests that are open. What
exceeds it goes on to a next server that is the key's own too, so that a popular key spreads over few servers, always in
the same order, and no server has more than BOUND times its share whatever the keys are.

The server is that of Maglev's table; the next one stands a stride further, a stride of the key's own, so that what one
server cannot take is spread over all others. The paper proves the bound of its moves for a ring; the bound of the
load holds for any order, since nobody is given more than that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from core.schedule import maglev_table

BOUND_PERCENT = 125  # of the fair share: the c of the paper, as HAProxy's and Envoy's documents advise
STEPS = 64  # a fifth of the weight has room, and a step finds it with that chance: 0.8^64 fails once in a million


class BoundedHash:
    """One server per key, unless it has more than its share. `names` identify the servers whatever their order."""

    def __init__(self, weights: Sequence[int], names: Sequence[str] | None = None) -> None:
        self._weights = tuple(weights)
        self._table = maglev_table(names or [str(index) for index in range(len(weights))], weights)
        self._total = sum(weights)

    def pick(self, eligible: Callable[[int], bool], active: Sequence[int], source: bytes) -> int | None:
        """See `core.schedule.Picker`; `source` is the key."""
        table, weights = self._table, self._weights
        if not table:
            return None
        digest = int.from_bytes(hashlib.blake2b(source, digest_size=16).digest(), "big")
        slot, stride = digest % len(table), (digest >> 64) % (len(table) - 1) + 1
        share = (sum(active) + 1) * BOUND_PERCENT
        index = table[slot]
        # Of all servers' weight the share is smallest: who is below that has room, whoever is eligible.
        if active[index] * 100 * self._total < share * weights[index] and eligible(index):
            return index
        left = [each for each, weight in enumerate(weights) if weight and eligible(each)]
        if not left:
            return None
        open_requests = (sum(active[each] for each in left) + 1) * BOUND_PERCENT
        total = sum(weights[each] for each in left)
        for step in range(STEPS):
            index = table[(slot + step * stride) % len(table)]
            # ceil(c · m · w/W) requests at most, and one fewer before this one
            if active[index] * 100 * total < open_requests * weights[index] and eligible(index):
                return index
        return min(left, key=lambda each: active[each] / weights[each])
