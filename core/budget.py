"""How many requests may be sent a second time: a part of all requests, and a few a second in any case.

Where a server fails, each request that was for it is tried elsewhere; where many fail, retries would add up to several
times the load that the rest is failing under. A budget bounds what retries add, as Finagle's RetryBudget and gRPC's
retry throttling do. The few in any case are for services that see hardly any traffic.

What is earned and not spent fades away over WINDOW_S, so that a quiet night saves up nothing for the morning. Time is
looked at only when a retry is asked for: earning costs requests nothing but being counted.
"""

from __future__ import annotations

WINDOW_S = 10.0  # Finagle's ttl


class Budget:
    """The retries of one backend service: `percent` of its requests and `min_per_s` in a second."""

    __slots__ = ("_balance", "_requests", "_since", "min_per_s", "percent")

    def __init__(self, percent: int, min_per_s: float, now: float) -> None:
        self.percent, self.min_per_s = percent, min_per_s
        self._balance = min_per_s * WINDOW_S
        self._requests = 0
        self._since = now

    def spend(self, requests: int, now: float) -> bool:
        """Whether one more request may be sent again; `requests`: how many there have been since the beginning."""
        elapsed_s = now - self._since
        earned = self.percent / 100 * (requests - self._requests) + self.min_per_s * elapsed_s
        if elapsed_s < WINDOW_S:
            self._balance = self._balance * (1 - elapsed_s / WINDOW_S) + earned
        else:
            self._balance = earned * WINDOW_S / elapsed_s  # as if requests had come evenly
        self._requests, self._since = requests, now
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
