"""Who waits in a queue, in which order, and who had better not wait any longer. Pure.

As long as a queue runs empty now and then it takes up bursts, and the first come is served first. One that has not been
empty for a while (INTERVALS times the target) takes up nothing: more comes than is served, and in a queue that is
served in order everybody waits as long as clients have patience. From then on

* those that have waited longer than the target are refused;
* the newest goes first: it is the one whose client still waits.

After a quarter of that time already, what may be shed (`sheddable`) is refused at once, whether it waits or comes: if
that is enough, nobody else is.

So whoever is served has waited no longer than a few times the target, however much comes. (The target and interval of
CoDel, RFC 8289 §3.2, with the order and the times of B. Maurer, "Fail at Scale", ACM Queue 13 (8), 2015, which need no
state but when the queue was last empty.) Without a target a queue is first come, first served.
"""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, TypeVar

Waiter = TypeVar("Waiter")

INTERVALS: Final = 10  # RFC 8289 §4.2: a target is 5 to 10 % of the interval
SHED_INTERVALS: Final = INTERVALS / 4


class _Place(NamedTuple):
    since: float
    sheddable: bool


class Line(Generic[Waiter]):
    """`waiting`, in their order. `most`: how many may wait; `target_s` 0: as long as they like."""

    __slots__ = ("_since", "most", "target_s", "waiting")

    def __init__(self) -> None:
        self.most = 0
        self.target_s = 0.0
        self.waiting: dict[Waiter, _Place] = {}
        self._since = 0.0  # when it was last empty

    def __len__(self) -> int:
        return len(self.waiting)

    def overloaded(self, now: float) -> bool:
        """Whether it has not been empty for too long."""
        return self._longer(INTERVALS, now)

    def _longer(self, intervals: float, now: float) -> bool:
        return bool(self.target_s and self.waiting and now - self._since > intervals * self.target_s)

    def join(self, waiter: Waiter, now: float, *, sheddable: bool = False) -> bool:
        """False: there is no room, or none for what may be shed."""
        if len(self.waiting) >= self.most or (sheddable and self._longer(SHED_INTERVALS, now)):
            return False
        if not self.waiting:
            self._since = now
        self.waiting[waiter] = _Place(now, sheddable)
        return True

    def leave(self, waiter: Waiter) -> None:
        """One waits no longer."""
        self.waiting.pop(waiter, None)

    def shed(self, now: float) -> list[Waiter]:
        """Takes out those that are not to wait any longer, the oldest first."""
        if not self._longer(SHED_INTERVALS, now):
            return []
        before = now - self.target_s if self.overloaded(now) else float("-inf")
        gone = [waiter for waiter, place in self.waiting.items() if place.since < before or place.sheddable]
        for waiter in gone:
            del self.waiting[waiter]
        return gone

    def next(self, now: float) -> Waiter | None:
        """Takes out whose turn it is."""
        if not self.waiting:
            return None
        if self.overloaded(now):
            return self.waiting.popitem()[0]
        waiter = next(iter(self.waiting))
        del self.waiting[waiter]
        return waiter
