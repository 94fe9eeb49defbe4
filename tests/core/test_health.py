"""Rise and fall, as strings of results: "+" passed, "-" failed; below each the state after it, "U" up or "d" down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.health import Change, Health, State, observe

CASES = [
    # rise, fall, results and states
    (2, 3, "+++", "UUU"),
    (2, 3, "---", "UUd"),
    (2, 3, "--+--+--+", "UUUUUUUUU"),
    (2, 3, "---++", "UUddU"),
    (2, 3, "---+-+-++", "UUddddddU"),
    (3, 2, "--++-+++--", "UddddddUUd".replace(" ", "")),
    (3, 2, "--++-+++--", "UddddddUUd"),
    (2, 2, "----++++", "UddddUUU"),
]


@pytest.mark.parametrize(("rise", "fall", "results", "states"), CASES)
def test_states(rise: int, fall: int, results: str, states: str) -> None:
    health, seen = Health(), ""
    for now, result in enumerate(results):
        health, _ = observe(health, result == "+", float(now), rise=rise, fall=fall)
        seen += "U" if health.healthy else "d"
    assert seen == states


def test_a_change_is_told_once_and_dated() -> None:
    health, changes = Health(since=5.0), []
    for now, result in enumerate("----+++", start=10):
        health, change = observe(health, result == "+", float(now), rise=2, fall=3)
        changes.append((now, change, health.since))
    assert changes == [
        (10, None, 5.0),
        (11, None, 5.0),
        (12, Change.FAILED, 12.0),
        (13, None, 12.0),
        (14, None, 12.0),
        (15, Change.RECOVERED, 15.0),
        (16, None, 15.0),
    ]


@given(st.lists(st.booleans(), max_size=60), st.integers(2, 10), st.integers(2, 10))
def test_a_state_ends_only_after_a_streak_against_it(results: list[bool], rise: int, fall: int) -> None:
    health = Health()
    for number, passed in enumerate(results, start=1):
        before = health
        health, change = observe(health, passed, float(number), rise=rise, fall=fall)
        needed = fall if before.healthy else rise
        streak = results[max(0, number - needed) : number]
        since_change = number - int(before.since)
        ends = since_change >= needed and len(streak) == needed and set(streak) == {not before.healthy}
        assert (change is not None) == ends == (health.state is not before.state)
        assert change is (None if not ends else Change.FAILED if before.state is State.HEALTHY else Change.RECOVERED)
