"""Who waits in a queue: tables of events, and load simulated."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

import pytest

from core.line import INTERVALS, Line

TARGET_S = 0.05


def line(target_s: float = TARGET_S, most: int = 1000) -> Line[str]:
    made: Line[str] = Line()
    made.target_s, made.most = target_s, most
    return made


def test_first_come_first_served_while_it_runs_empty_now_and_then() -> None:
    made = line()
    assert made.next(0) is None
    for start in range(100):  # bursts that end within the interval
        now = start * 0.6
        assert all(made.join(name, now) for name in "abc")
        assert made.shed(now + 0.45) == []
        assert [made.next(now + 0.45) for _ in range(4)] == ["a", "b", "c", None]


def test_one_that_does_not_run_empty_serves_the_newest_and_sheds_the_oldest() -> None:
    made = line()
    made.join("old", 0.0)
    made.join("older than the target", 0.44)
    made.join("recent", 0.46)
    made.join("new", 0.5)
    assert not made.overloaded(0.5)
    assert made.overloaded(0.501)
    assert made.shed(0.501) == ["old", "older than the target"]
    assert made.next(0.501) == "new"
    assert made.next(0.501) == "recent"
    assert not made.overloaded(0.501)
    made.join("a", 0.6)
    made.join("b", 0.6)
    assert made.next(1.0) == "a"  # it was empty in between


def test_what_may_be_shed_goes_first_and_is_not_taken_in() -> None:
    made = line()
    assert made.join("may be shed", 0.0, sheddable=True)
    assert made.join("not", 0.01)
    assert made.shed(0.12) == []
    assert made.shed(0.13) == ["may be shed"]
    assert not made.join("another", 0.13, sheddable=True)
    assert made.join("not either", 0.13)
    assert len(made) == 2


def test_without_a_target_everybody_waits() -> None:
    made = line(0.0)
    made.join("a", 0.0)
    made.join("b", 50.0, sheddable=True)
    assert (made.overloaded(99), made.shed(99), made.next(99)) == (False, [], "a")


def test_there_is_room_for_so_many_and_leaving_makes_some() -> None:
    made = line(most=2)
    assert [made.join(name, 0.0) for name in "abc"] == [True, True, False]
    made.leave("a")
    made.leave("nobody")
    assert made.join("c", 0.1)
    assert made.next(0.2) == "b"


@dataclass
class Load:
    """Requests at random, `factor` times what `servers` can do that take `work_s` each on average; clients that have
    waited for `patience_s` give up, and leave the line."""

    made: Line[int]
    factor: float
    servers: int = 10
    work_s: float = 0.05
    patience_s: float = 2.0
    span_s: float = 60.0
    waited: list[float] = field(default_factory=list)  # of those that were served
    refused: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})  # by whether they may be shed
    came: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})

    def run(self, sheddable: float = 0.0) -> Load:
        chance = random.Random(7)
        rate = self.factor * self.servers / self.work_s
        free, number, now = self.servers, 0, 0.0
        ends: list[float] = []
        began: dict[int, tuple[float, bool]] = {}
        waiting: deque[int] = deque()
        arrival = chance.expovariate(rate)
        while now < self.span_s:
            if ends and ends[0] <= arrival:
                now = heapq.heappop(ends)
                free += 1
            else:
                now, number = arrival, number + 1
                arrival = now + chance.expovariate(rate)
                began[number] = now, chance.random() < sheddable
                self.came[began[number][1]] += 1
                waiting.append(number)
                if not self.made.join(number, now, sheddable=began[number][1]):
                    self.refused[began[number][1]] += 1
            while waiting and now - began[waiting[0]][0] > self.patience_s:
                self.made.leave(waiting.popleft())
            for gone in self.made.shed(now):
                self.refused[began[gone][1]] += 1
            while free and (waiter := self.made.next(now)) is not None:
                free -= 1
                heapq.heappush(ends, now + chance.expovariate(1 / self.work_s))
                self.waited.append(now - began[waiter][0])
        return self

    def quantile(self, share: float) -> float:
        return sorted(self.waited)[int(len(self.waited) * share)]


@pytest.mark.parametrize("factor", [1.2, 2.0, 5.0])
def test_who_is_served_under_overload_has_not_waited_long(factor: float) -> None:
    plain, controlled = (Load(line(target), factor).run() for target in (0.0, TARGET_S))
    assert plain.quantile(0.5) > 0.9  # as long as clients have patience
    assert controlled.quantile(0.5) <= TARGET_S
    assert max(controlled.waited) <= (INTERVALS + 1) * TARGET_S
    assert len(controlled.waited) >= 0.97 * len(plain.waited)  # no server is idle for it


@pytest.mark.parametrize(("factor", "share"), [(0.7, 0.0005), (0.85, 0.02)])
def test_below_capacity_next_to_nobody_is_shed(factor: float, share: float) -> None:
    load = Load(line(), factor).run()
    assert load.refused[False] <= share * load.came[False]


def test_what_may_be_shed_is_shed_before_what_may_not() -> None:
    load = Load(line(), 1.6).run(sheddable=0.5)
    assert load.refused[True] > 0.6 * load.came[True]
    assert load.refused[False] < 0.12 * load.came[False]
    assert Load(line(), 1.6).run().refused[False] > 0.3 * (load.came[False] + load.came[True])
