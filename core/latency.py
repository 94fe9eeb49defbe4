"""How fast a server answers, and the choice between two by it.

A server's latency is Finagle's peak EWMA (com.twitter.finagle.loadbalancer.PeakEwma): a slower answer is believed at
once, faster ones by and by, with a time constant of TAU_S. It fades where nobody asks, so that a server that was slow
is tried again. A request that failed counts as an answer after PENALTY_S: who refuses everything at once is not fast.

The choice is the better of two servers drawn at random by weight (Mitzenmacher, "The Power of Two Choices", 2001):
nearly as even as asking all of them, and a herd of workers that see the same figures does not run to the same server.
Better is less latency × (open requests + 1), the time that a request would take there were they served one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp

from core.schedule import smooth_wrr_ring

TAU_S = 10.0
PENALTY_S = 5.0
DRAWS = 8  # until two different eligible servers should have come up
# Knuth's MMIX generator; its upper bits are random enough to draw servers, and the sequence is the same each time.
_FACTOR, _STEP, _MASK = 6364136223846793005, 1442695040888963407, (1 << 64) - 1


class Latency:
    """One server's. `value_s` is 0 until something is known."""

    __slots__ = ("_at", "value_s")

    def __init__(self) -> None:
        self.value_s = 0.0
        self._at = 0.0

    def observe(self, seconds: float, now: float) -> None:
        """An answer took so long."""
        if seconds >= self.value_s:
            self.value_s = seconds
        else:
            kept = exp(-max(now - self._at, 0.0) / TAU_S)
            self.value_s = self.value_s * kept + seconds * (1 - kept)
        self._at = now

    def fade(self, now: float) -> None:
        """To be called about once a second, or less often."""
        if now - self._at >= 1:
            self.value_s *= exp(-(now - self._at) / TAU_S)
            self._at = now


class TwoChoices:
    """Power of two choices by latency and open requests. `latencies` are the caller's, in the order of `weights`."""

    def __init__(self, weights: Sequence[int], latencies: Sequence[Latency], start: int = 0) -> None:
        self._ring = smooth_wrr_ring(weights)
        self._servers = sorted(set(self._ring))
        self._latencies = latencies
        self._state = (start + 1) * _STEP & _MASK

    def pick(self, eligible: Callable[[int], bool], active: Sequence[int], source: bytes) -> int | None:
        """See `core.schedule.Picker`."""
        ring, state, first = self._ring, self._state, -1
        for _ in range(DRAWS):
            state = state * _FACTOR + _STEP & _MASK
            index = ring[(state >> 32) * len(ring) >> 32] if ring else -1
            if index == first or index < 0 or not eligible(index):
                continue
            if first >= 0:
                self._state = state
                return first if self._cost(first, active) <= self._cost(index, active) else index
            first = index
        self._state = state
        return self._pick_of_few(eligible, active, state >> 32)

    def _pick_of_few(self, eligible: Callable[[int], bool], active: Sequence[int], number: int) -> int | None:
        """Where hardly any are eligible, or one has nearly all the weight."""
        left = [index for index in self._servers if eligible(index)]
        if not left:
            return None
        place = number % len(left)
        first, second = left[place], left[(place + 1 + number % max(len(left) - 1, 1)) % len(left)]
        return first if self._cost(first, active) <= self._cost(second, active) else second

    def _cost(self, index: int, active: Sequence[int]) -> float:
        value_s = self._latencies[index].value_s
        return value_s * (active[index] + 1) if value_s else PENALTY_S * active[index]  # unknown: one request finds out
