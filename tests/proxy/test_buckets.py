"""Rates and counts that workers keep together, each with a column of its own in one memory."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.limits import SiteLimits
from proxy.buckets import Bucket, Gauge
from proxy.ledger import ROWS, Ledger, Rows, memory
from proxy.throttles import names


def together(workers: int) -> list[Ledger]:
    fd = memory(workers)
    try:
        return [Ledger(os.dup(fd), workers, turn) for turn in range(workers)]
    finally:
        os.close(fd)


def test_each_sees_what_all_have_taken() -> None:
    one, two = together(2)
    one.add(0, 5)
    two.add(0, 7)
    two.add(ROWS - 1, 1)
    assert [one.total(0), two.total(0), one.total(ROWS - 1), one.total(1)] == [12, 12, 1, 0]
    two.clear(0)
    assert one.total(0) == 5
    one.add(0, -6)
    assert (two.total(0) + 1) % (1 << 64) == 0  # a worker that has died took its part along; nobody stumbles


def test_a_rate_is_that_of_all_workers() -> None:
    one, two = (Bucket(ledger, 3, 100.0, 1.0, 0.0) for ledger in together(2))
    one.take(80)
    assert (one.wait_s(0.0), two.wait_s(0.0)) == (0.0, 0.0)
    two.take(70)
    assert one.wait_s(0.0) == two.wait_s(0.0) == pytest.approx(0.5)
    assert one.wait_s(0.25) == pytest.approx(0.25)
    assert one.wait_s(0.5) == 0.0
    assert two.room(1.0) == pytest.approx(50.0)
    assert two.room(9.0) == pytest.approx(100.0)  # a pause saves up no more than the depth


def test_a_new_worker_does_not_pay_for_what_was_taken_before() -> None:
    one, two = together(2)
    one.add(0, 1_000_000)
    assert Bucket(two, 0, 1.0, 1.0, 0.0).wait_s(0.0) == 0.0


def test_without_a_rate_nobody_waits() -> None:
    bucket = Bucket(Ledger(), 0, 0.0, 1.0, 0.0)
    bucket.take(1 << 40)
    assert bucket.wait_s(0.0) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 500), st.floats(0.0, 0.25)), min_size=1, max_size=80))
def test_no_more_passes_than_the_rate_allows(takings: list[tuple[int, int, float]]) -> None:
    """Whoever takes what, and when: all that passes within a time is the rate's, the depth and one taking of each."""
    rate, depth_s, now = 1000.0, 0.25, 0.0
    buckets = [Bucket(ledger, 0, rate, depth_s, 0.0) for ledger in together(3)]
    passed = [(0.0, 0)]
    for who, amount, later_s in takings:
        now += later_s
        for bucket in buckets:
            bucket.settle(now)
        if buckets[who].wait_s(now) <= 0:
            buckets[who].take(amount)
            passed.append((now, passed[-1][1] + amount))
    for at, (began, before) in enumerate(passed):
        for ended, after in passed[at + 1 :]:
            assert after - before <= rate * (ended - began + depth_s) + 500 + 1e-6


def test_a_gauge_counts_on_all_workers() -> None:
    one, two = (Gauge(ledger, 0, 2) for ledger in together(2))
    one.change(1)
    assert not two.full
    two.change(1)
    assert one.full
    assert two.full
    one.change(-1)
    assert not two.full


def test_what_a_dead_worker_counted_is_gone_with_its_successor() -> None:
    fd = memory(1)
    Gauge(Ledger(os.dup(fd), 1, 0), 0, 1).change(1)
    assert not Gauge(Ledger(fd, 1, 0), 0, 1).full


def test_less_than_none_is_not_full() -> None:
    """As it may be for a while in a row that somebody else has had, some of whose connections are still open."""
    ledger = Ledger()
    gauge = Gauge(ledger, 0, 2)
    ledger.add(0, -1)
    assert not gauge.full


def test_rows_keep_their_names_and_are_used_again_late() -> None:
    rows = Rows(4)
    assert rows.give(["a", "b"]) == {"a": 0, "b": 1}
    assert rows.give(["b", "c"]) == {"b": 1, "c": 2}
    assert rows.give(["b", "a"]) == {"b": 1, "a": 3}
    assert rows.give(["b", "a", "d", "e"]) == {"b": 1, "a": 3, "d": 0, "e": 2}
    with pytest.raises(ValueError, match="5 limits; at most 4 are kept"):
        rows.give("abcde")


def test_what_needs_rows() -> None:
    limits = {"l": SiteLimits("i", 1, 0, 2, 0, 3, 0), "m": SiteLimits("i", 0, 1, 2, 0, 0, 4)}
    assert list(names(limits)) == [
        "listener l in", "listener l connections", "instance i in", "listener m out", "listener m new", "instance i in",
    ]  # fmt: skip
