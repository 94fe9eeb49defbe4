"""Usages add up in any order, and a delivery is what it was sent as."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.usage import (
    LARGEST,
    NOTHING,
    NUMBERS,
    ROWS_LIMIT,
    SIZE,
    Delivery,
    gained,
    merged,
    most_open,
    packed,
    unpacked,
)

usages = st.lists(st.integers(0, 10**9), min_size=SIZE, max_size=SIZE).map(tuple)


@given(st.lists(usages, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_adding_does_not_matter(some, random):  # type: ignore[no-untyped-def]
    def total(those: list[tuple[int, ...]]) -> tuple[int, ...]:
        result = NOTHING
        for each in those:
            result = merged(result, each)
        return result

    shuffled = random.sample(some, len(some))
    assert total(some) == total(shuffled)
    assert total(some)[0] == sum(each[0] for each in some)
    assert total(some)[-1] == max(each[-1] for each in some)


@given(usages)
def test_packed_and_back(usage: tuple[int, ...]) -> None:
    assert unpacked(packed(usage)) == usage
    assert packed(NOTHING) == []


def test_what_counters_gain() -> None:
    assert gained((5, 0), (7, 1)) == (2, 1)
    assert gained((5, 9), (7, 3)) == (2, 3)  # the second one has begun anew


def test_connections_of_nodes_add_up_or_are_the_same() -> None:
    added, known = NUMBERS.index("open_added"), NUMBERS.index("open_known")
    l7, l4 = list(NOTHING), list(NOTHING)
    l7[added], l4[known] = 3, 5
    assert most_open(merged(tuple(l7), tuple(l7))) == 6
    assert most_open(merged(tuple(l4), tuple(l4))) == 5


ROW = [5, "shop", "web", [1, 2]]
SOUND = {"epoch": "0123456789abcdef", "number": 1, "rows": [ROW]}


def test_a_delivery_through_json() -> None:
    delivery = Delivery("0123456789abcdef", 7, {(5, ("shop", "web")): unpacked([1, 2]), (6, ("-", "a")): NOTHING})
    assert Delivery.of(json.loads(json.dumps(delivery.document()))) == delivery


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"epoch": "x"}, "epoch"),
        ({"number": 0}, "number"),
        ({"number": "1"}, "number"),
        ({"rows": {}}, "rows"),
        ({"rows": [[n, "a", "b", []] for n in range(ROWS_LIMIT + 1)]}, "at most"),
        ({"rows": [ROW, ROW]}, "same listener and hour"),
        ({"rows": [[5, "shop", "web"]]}, "a row is"),
        ({"rows": [[5, "a/b", "web", []]]}, "no instance"),
        ({"rows": [[5, "shop", "", []]]}, "no listener"),
        ({"rows": [[5, "shop", "web~", []]]}, "no listener"),
        ({"rows": [[-1, "shop", "web", []]]}, "whole numbers"),
        ({"rows": [[5, "shop", "web", [1.5]]]}, "whole numbers"),
        ({"rows": [[5, "shop", "web", [True]]]}, "whole numbers"),
        ({"rows": [[5, "shop", "web", [LARGEST + 1]]]}, "whole numbers"),
        ({"rows": [[5, "shop", "web", [0] * (SIZE + 1)]]}, "whole numbers"),
    ],
)
def test_what_is_no_delivery(change: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Delivery.of({**SOUND, **change})


@given(st.recursive(st.none() | st.integers() | st.text(), lambda of: st.lists(of) | st.dictionaries(st.text(), of)))
def test_only_a_value_error_escapes(document: object) -> None:
    try:
        Delivery.of(document)
    except ValueError:
        return
    raise AssertionError("nothing of this kind is a delivery")
