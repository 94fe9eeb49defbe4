"""What servers weigh at the moment: their configured weights, less what a slow start holds back.

A server that has come into the service (added, healthy again, back from ejection) begins with a tenth of its weight and
gets another tenth each tenth of `slow_start_s`, as nginx' slow_start, in steps. Whoever picks servers makes its tables
anew at each step, so that steps cost and requests do not.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from core.model import Scheduler

Key = TypeVar("Key", bound=Hashable)

STEPS = 10
NEVER = float("inf")
# While weights differ, schedulers that know none are replaced by those that do.
WITH_WEIGHTS = {Scheduler.RR: Scheduler.WRR, Scheduler.LC: Scheduler.WLC}


def begun(since: float, now: float, slow_start_s: float) -> int:
    """How many tenths of its weight a server has that came in at `since`."""
    return min(STEPS, 1 + int((now - since) * STEPS / slow_start_s))


def warming(
    servers: Sequence[Key], weights: Sequence[int], since: Mapping[Key, float], now: float, slow_start_s: float
) -> tuple[int, ...]:
    """The weights of `servers` in tenths of the configured ones. `since`: when those came in that are warming up."""
    return tuple(
        weight * (begun(since[server], now, slow_start_s) if server in since else STEPS)
        for server, weight in zip(servers, weights, strict=True)
    )


def next_step(since: Mapping[Key, float], now: float, slow_start_s: float) -> float:
    """When the next of the warming servers gets more weight; infinity when none is left."""
    return min(
        (at + begun(at, now, slow_start_s) * slow_start_s / STEPS for at in since.values()),
        default=NEVER,
    )
