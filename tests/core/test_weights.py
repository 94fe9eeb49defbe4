"""Slow start: tenths of the weight, and when the next one comes."""

from __future__ import annotations

import pytest

from core.weights import NEVER, begun, next_step, warming


@pytest.mark.parametrize(
    ("now", "tenths"), [(5, 1), (6.9, 1), (7, 2), (15, 6), (23, 10), (24.9, 10), (25, 10), (1000, 10)]
)
def test_tenths(now: float, tenths: int) -> None:
    assert begun(5, now, 20) == tenths


def test_only_who_warms_up_is_held_back() -> None:
    weights = warming("abc", [3, 2, 0], {"b": 0.0, "c": 0.0}, 10, 20)
    assert weights == (30, 12, 0)


def test_the_next_step_is_the_first_of_all() -> None:
    assert next_step({}, 0, 20) == NEVER
    assert next_step({"a": 0.0, "b": 1.0}, 1.5, 20) == 2
    assert next_step({"a": 0.0, "b": 1.0}, 2, 20) == 3
    assert next_step({"a": 0.0}, 19, 20) == 20


def test_each_step_is_reached() -> None:
    now, seen = 0.0, []
    while now < 7:
        seen.append(begun(0, now, 7))
        now = next_step({"a": 0.0}, now, 7)
    assert seen == list(range(1, 11))
