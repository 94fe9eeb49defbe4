"""Buckets and places: who has to wait, how long, and that tables stay small."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.limits import Buckets, Full, Places, source_of


def test_a_bucket_empties_and_fills() -> None:
    buckets = Buckets(2.0, 3, 10)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b", 0.0) == 0
    assert buckets.take("a", 0.25) == 0.25, "asking in between costs nothing"
    assert buckets.take("a", 0.5) == 0
    assert buckets.take("a", 0.5) == 0.5
    assert [buckets.take("a", 100.0) for _ in range(4)] == [0, 0, 0, 0.5], "it holds no more than its burst"


@given(st.lists(st.floats(0, 2), max_size=60))
def test_no_more_than_burst_and_rate_pass(gaps: list[float]) -> None:
    buckets, now, passed = Buckets(1.5, 4, 10), 0.0, 0
    for gap in gaps:
        now += gap
        wait_s = buckets.take("a", now)
        passed += not wait_s
        assert passed <= 4 + 1.5 * now + 1e-6
        assert 0 <= wait_s <= 1 / 1.5 + 1e-9


def test_who_has_waited_as_told_may() -> None:
    buckets = Buckets(0.1, 1, 10)
    buckets.take("a", 0.0)
    wait_s = buckets.take("a", 3.0)
    assert buckets.take("a", 3.0 + wait_s) == 0


def test_the_table_is_bounded_and_forgets_who_has_not_asked_for_longest() -> None:
    buckets = Buckets(1.0, 1, 3)
    for key in "abcabd":  # c is the oldest then
        buckets.take(key, 0.0)
    assert len(buckets) == 3
    assert buckets.take("a", 0.0) > 0
    assert buckets.take("c", 0.0) == 0


def test_places_are_given_back() -> None:
    places = Places(3, 2)
    with places.taken("a"), places.taken("a"):
        with pytest.raises(Full) as caught, places.taken("a"):
            pass
        assert caught.value.alone
        with places.taken("b"):
            with pytest.raises(Full) as caught, places.taken("c"):
                pass
            assert not caught.value.alone
        with pytest.raises(ValueError, match="x"), places.taken("b"):
            raise ValueError("x")
        assert len(places) == 2
    assert len(places) == 0


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", "?"),
        (None, "?"),
        ("a socket", "a socket"),
    ],
)
def test_whom_an_address_stands_for(address: str | None, source: str) -> None:
    assert source_of(address) == source
