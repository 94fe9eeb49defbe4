"""Retries in proportion to requests, and the few in any case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.budget import WINDOW_S, Budget


def granted(budget: Budget, asked: int, requests: int, now: float) -> int:
    return sum(budget.spend(requests, now) for _ in range(asked))


def steady(percent: int, min_per_s: int, per_s: int, failing: int, seconds: int) -> float:
    """The part of requests that is sent again in the last half, where `failing` percent of them would be."""
    budget, given_, half = Budget(percent, min_per_s, 0.0), 0, seconds * per_s // 2
    for requests in range(1, 2 * half + 1):
        if requests % 100 < failing:
            allowed = budget.spend(requests, requests / per_s)
            given_ += allowed and requests > half
    return given_ / half


@pytest.mark.parametrize(
    ("failing", "share"), [(100, 0.2), (60, 0.2), (10, 0.1), (0, 0)], ids=["all", "most", "few", "none"]
)
def test_a_fifth_of_the_requests(failing: int, share: float) -> None:
    assert steady(20, 0, 500, failing, 60) == pytest.approx(share, abs=0.01)


def test_the_few_in_any_case() -> None:
    assert steady(0, 10, 500, 100, 60) == pytest.approx(10 / 500, abs=0.002)


def test_without_a_budget_there_is_no_retry() -> None:
    assert granted(Budget(0, 0, 0.0), 5, 1000, 5.0) == 0


def test_a_service_begins_with_a_window_of_the_few() -> None:
    assert granted(Budget(20, 3, 0.0), 100, 0, 0.0) == 3 * WINDOW_S


def test_a_quiet_night_saves_nothing_up() -> None:
    """A million requests without a failure: what may be spent then is a fifth of the last ten seconds' requests."""
    budget = Budget(20, 0, 0.0)
    assert granted(budget, 10_000, 1_000_000, 10_000.0) == 200
    assert granted(budget, 10, 1_000_000, 10_000.0) == 0


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 30)), max_size=50), st.integers(0, 100), st.integers(0, 20))
def test_never_more_than_earned_and_begun_with(steps: list[tuple[int, float]], percent: int, floor: int) -> None:
    budget, requests, now, spent = Budget(percent, floor, 0.0), 0, 0.0, 0
    for more, pause in steps:
        requests, now = requests + more, now + pause
        spent += granted(budget, 3, requests, now)
        assert spent <= floor * WINDOW_S + percent / 100 * requests + floor * now + 1e-6
