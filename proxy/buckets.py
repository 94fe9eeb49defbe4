"""Rates that the workers of a node keep together: each pours what it takes into one bucket, which leaks at the rate.

A worker knows the level by what all have taken (`Ledger`) and by its own clock. It looks at least every SETTLE_S: what
others took since then is poured in at once, and what leaked is taken off, so that a level is wrong by no more than what
leaks in that time. Who finds it above `depth_s` seconds' worth waits until it has fallen: nothing that was taken is
lost, so that the rate is kept exactly over any longer time, whatever is taken at once. Pure.
"""

from __future__ import annotations

from proxy.ledger import Ledger

SETTLE_S = 0.25
BANDWIDTH_DEPTH_S = 0.25  # as on the L4 nodes (docs/decisions/0018)
CONNECTIONS_DEPTH_S = 1.0
_HALF = 1 << 63


class Bucket:
    """A rate in units a second; 0 is no limit."""

    __slots__ = ("_at", "_depth_s", "_ledger", "_level", "_row", "_seen", "rate")

    def __init__(self, ledger: Ledger, row: int, rate: float, depth_s: float, now: float) -> None:
        self._ledger, self._row = ledger, row
        self.rate = rate
        self._depth_s = depth_s
        self._level = 0.0
        self._seen = ledger.total(row)
        self._at = now

    def take(self, amount: int) -> None:
        """Pours in what has been taken."""
        self._ledger.add(self._row, amount)

    def wait_s(self, now: float) -> float:
        """How long to wait before more is taken; 0: not at all."""
        self.settle(now)
        return max(0.0, self._level / self.rate - self._depth_s) if self.rate else 0.0

    def room(self, now: float) -> float:
        """What may be taken at once."""
        self.settle(now)
        return self.rate * self._depth_s - self._level

    def settle(self, now: float) -> None:
        """Looks at what others have taken. To be called every SETTLE_S at least."""
        total = self._ledger.total(self._row)
        taken = (total - self._seen + _HALF) % (2 * _HALF) - _HALF
        self._seen = total
        self._level = max(0.0, self._level + taken - self.rate * (now - self._at))
        self._at = now


class Gauge:
    """How many there are of something on all workers, of which this one adds and takes off its own."""

    __slots__ = ("_ledger", "_row", "most")

    def __init__(self, ledger: Ledger, row: int, most: int) -> None:
        self._ledger, self._row = ledger, row
        self.most = most
        ledger.clear(row)  # what a worker that has died left there

    @property
    def full(self) -> bool:
        return bool(self.most) and self.most <= self._ledger.total(self._row) < _HALF  # beyond, it is less than none

    def change(self, by: int) -> None:
        self._ledger.add(self._row, by)
