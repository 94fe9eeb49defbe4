"""When a server counts as healthy: the rise and fall machine of the active checks.

A server changes sides only after an unbroken streak of results that contradict its state: `fall` failures make a
healthy server unhealthy, `rise` successes an unhealthy one healthy. One result that agrees ends the streak. A server
that has just been configured counts as healthy, so that adding one (or restarting the checker) never takes the others'
place away; `fall` failures correct that.

    state      result   streak before          state      streak   change
    HEALTHY    passed   any                    HEALTHY    0        -
    HEALTHY    failed   less than fall - 1     HEALTHY    + 1      -
    HEALTHY    failed   fall - 1               UNHEALTHY  0        FAILED
    UNHEALTHY  failed   any                    UNHEALTHY  0        -
    UNHEALTHY  passed   less than rise - 1     UNHEALTHY  + 1      -
    UNHEALTHY  passed   rise - 1               HEALTHY    0        RECOVERED
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Change(Enum):
    RECOVERED = "recovered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Health:
    """A server's health. `since` is when `state` began, in the caller's monotonic seconds."""

    state: State = State.HEALTHY
    streak: int = 0
    since: float = 0.0

    @property
    def healthy(self) -> bool:
        return self.state is State.HEALTHY


def observe(health: Health, passed: bool, now: float, *, rise: int, fall: int) -> tuple[Health, Change | None]:
    """The health after one more result, and the change of state that it brought, if any."""
    if passed is health.healthy:
        return (health if health.streak == 0 else Health(health.state, 0, health.since)), None
    streak = health.streak + 1
    if streak < (fall if health.healthy else rise):
        return Health(health.state, streak, health.since), None
    if health.healthy:
        return Health(State.UNHEALTHY, 0, now), Change.FAILED
    return Health(State.HEALTHY, 0, now), Change.RECOVERED
