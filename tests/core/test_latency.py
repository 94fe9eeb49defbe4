"""The peak EWMA by its figures; the two choices by where requests go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.latency import PENALTY_S, TAU_S, Latency, TwoChoices


def up(_: int) -> bool:
    return True


def test_slower_is_believed_at_once_and_faster_by_and_by() -> None:
    one = Latency()
    one.observe(0.1, 0)
    one.observe(0.5, 1)
    assert one.value_s == 0.5
    one.observe(0.1, 1)
    assert one.value_s == 0.5  # no time has passed
    one.observe(0.1, 1 + TAU_S)
    assert one.value_s == pytest.approx(0.1 + 0.4 * 0.3679, abs=1e-4)


def test_what_nobody_asks_fades() -> None:
    one, other = Latency(), Latency()
    for each in (one, other):
        each.observe(1.0, 0)
    one.fade(0.9)
    assert one.value_s == 1.0
    for now in range(1, 21):
        one.fade(now)
    other.fade(20)
    assert one.value_s == pytest.approx(0.1353, abs=1e-4)  # e^-2
    assert other.value_s == pytest.approx(one.value_s)


def test_a_clock_that_stands_still_breaks_nothing() -> None:
    one = Latency()
    one.observe(0.5, 5)
    one.observe(0.1, 4)
    one.fade(3)
    assert one.value_s == 0.5


def simulate(service_s: list[float], weights: list[int], gap_s: float, count: int = 20_000) -> Counter[int]:
    """Where requests go that come every `gap_s` to servers that take so long for each, several at a time."""
    latencies = [Latency() for _ in weights]
    chosen, active = TwoChoices(weights, latencies), [0] * len(weights)
    under_way: list[tuple[float, int]] = []
    got: Counter[int] = Counter()
    for number in range(count):
        now = number * gap_s
        while under_way and under_way[0][0] <= now:
            ended, index = heappop(under_way)
            active[index] -= 1
            latencies[index].observe(service_s[index], ended)
        index = chosen.pick(up, active, b"")
        assert index is not None
        active[index] += 1
        got[index] += 1
        heappush(under_way, (now + service_s[index], index))
    return got


def test_equal_servers_get_equal_parts() -> None:
    got = simulate([0.05] * 5, [1] * 5, 0.001)
    assert all(count == pytest.approx(4000, rel=0.1) for count in got.values())


def test_a_server_ten_times_slower_gets_little() -> None:
    got = simulate([0.02, 0.02, 0.02, 0.2], [1] * 4, 0.001)
    assert got[3] < 0.1 * got[0]
    assert got[3] > 0


def test_without_load_weights_decide() -> None:
    got = simulate([0.01] * 3, [2, 1, 1], 1.0)
    assert got[0] == pytest.approx(got[1] + got[2], rel=0.2)


def test_an_unknown_server_gets_one_request_and_then_what_it_deserves() -> None:
    known, unknown = Latency(), Latency()
    known.observe(0.01, 0)
    chosen = TwoChoices([1, 1], [known, unknown])
    assert {chosen.pick(up, [0, 0], b"") for _ in range(20)} == {1}
    assert {chosen.pick(up, [0, 1], b"") for _ in range(20)} == {0}


def test_a_server_that_failed_is_avoided_and_tried_again_later() -> None:
    good, bad = Latency(), Latency()
    good.observe(0.05, 0)
    bad.observe(PENALTY_S, 0)
    chosen = TwoChoices([1, 1], [good, bad])
    assert {chosen.pick(up, [2, 0], b"") for _ in range(20)} == {0}
    for now in range(1, 60):
        bad.fade(now)
    assert {chosen.pick(up, [2, 0], b"") for _ in range(20)} == {1}


def few(*indexes: int) -> Callable[[int], bool]:
    return set(indexes).__contains__


@pytest.mark.parametrize("count", [2, 3, 50])
def test_one_that_is_left_gets_all_and_of_two_the_better_one(count: int) -> None:
    latencies = [Latency() for _ in range(count)]
    for index, each in enumerate(latencies):
        each.observe(1 + index, 0)
    chosen = TwoChoices([1] * count, latencies)
    assert {chosen.pick(few(count - 1), [0] * count, b"") for _ in range(50)} == {count - 1}
    assert {chosen.pick(few(0, count - 1), [0] * count, b"") for _ in range(50)} == {0}
    assert chosen.pick(few(), [0] * count, b"") is None


def test_workers_draw_differently() -> None:
    latencies = [Latency() for _ in range(20)]
    drawn = [
        [TwoChoices([1] * 20, latencies, start).pick(up, [0] * 20, b"") for _ in range(1)] for start in range(20)
    ]  # fmt: skip
    assert len({tuple(each) for each in drawn}) > 5


@given(st.lists(st.integers(0, 100), max_size=8), st.sets(st.integers(0, 7)), st.integers(0, 99))
def test_only_eligible_servers_with_a_weight(weights: list[int], eligible: set[int], start: int) -> None:
    chosen = TwoChoices(weights, [Latency() for _ in weights], start)
    may = {index for index, weight in enumerate(weights) if weight and index in eligible}
    for _ in range(5):
        index = chosen.pick(eligible.__contains__, [0] * len(weights), b"")
        assert index in may if may else index is None
