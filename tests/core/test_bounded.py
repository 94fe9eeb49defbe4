"""Consistent hash with bounded loads: who keeps its server, and that nobody gets more than its share."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.bounded import BOUND_PERCENT, BoundedHash

KEYS = [b"key %d" % number for number in range(1000)]


def up(_: int) -> bool:
    return True


def servers_of(chosen: BoundedHash, count: int, gone: frozenset[int] = frozenset()) -> list[int | None]:
    """Each key's server while nothing else is open."""
    return [chosen.pick(lambda index: index not in gone, [0] * count, key) for key in KEYS]


def test_a_key_has_its_server_and_they_spread_by_weight() -> None:
    chosen = BoundedHash([100, 100, 200])
    first = servers_of(chosen, 3)
    assert first == servers_of(chosen, 3)
    assert [first.count(index) for index in range(3)] == pytest.approx([250, 250, 500], rel=0.15)


def test_names_not_places_decide() -> None:
    one, other = BoundedHash([1, 1, 1], ["a", "b", "c"]), BoundedHash([1, 1, 1], ["c", "b", "a"])
    assert [2 - index for index in servers_of(other, 3)] == servers_of(one, 3)  # type: ignore[operator]


def test_who_is_gone_moves_nobody_else() -> None:
    chosen = BoundedHash([1] * 5)
    before, after = servers_of(chosen, 5), servers_of(chosen, 5, frozenset({3}))
    assert all(new == old for old, new in zip(before, after, strict=True) if old != 3)
    heirs = [new for old, new in zip(before, after, strict=True) if old == 3]
    assert set(heirs) == {0, 1, 2, 4}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.lists(st.integers(0, 3), min_size=1, max_size=200),
    st.sets(st.integers(0, 5), max_size=3),
)
def test_nobody_gets_more_than_its_share_whatever_the_keys(weights: list[int], keys: list[int], gone: set[int]) -> None:
    """The paper's bound: ceil(c · m · w/W) of m requests that are open, over the servers that are eligible."""
    chosen, active = BoundedHash(weights), [0] * len(weights)
    left = [index for index in range(len(weights)) if index not in gone]
    for opened, key in enumerate(keys, start=1):
        index = chosen.pick(left.__contains__, active, b"%d" % key)
        if not left:
            assert index is None
            continue
        assert index in left
        active[index] += 1
        total = sum(weights[each] for each in left)
        assert active[index] <= ceil(BOUND_PERCENT * opened * weights[index] / (100 * total))


def test_a_popular_key_spreads_over_few_servers_in_the_same_order() -> None:
    def order(requests: int) -> list[int]:
        chosen, active, seen = BoundedHash([1] * 10), [0] * 10, list[int]()
        for number in range(100):
            active[number % 10] += 1  # ten open requests at each
        for _ in range(requests):
            index = chosen.pick(up, active, b"popular")
            assert index is not None
            active[index] += 1
            seen.append(index)
        return list(dict.fromkeys(seen))

    assert len(order(3)) == 1
    assert 2 <= len(order(9)) <= 4
    assert order(9)[: len(order(3))] == order(3)


def test_without_weight_there_is_none() -> None:
    assert BoundedHash([0, 0]).pick(up, [0, 0], b"x") is None
    assert BoundedHash([]).pick(up, [], b"x") is None
    assert BoundedHash([1, 0]).pick(lambda index: index == 1, [0, 0], b"x") is None
