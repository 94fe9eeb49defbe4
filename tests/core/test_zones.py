"""Which part of a node's requests goes to which zone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.model import Model, Node, Role
from core.zones import TURNS, Locality, locality, shares, weighed

EVEN = {"a": 1, "b": 1}
CASES = [
    # what, nodes, capacity, the shares of a node in a
    ("as much here as anywhere", EVEN, {"a": 10, "b": 10}, {"a": 1}),
    ("more here", EVEN, {"a": 30, "b": 10}, {"a": 1}),
    ("half as much here", EVEN, {"a": 10, "b": 20}, {"a": 2 / 3, "b": 1 / 3}),
    ("nothing here", EVEN, {"b": 20}, {"a": 0, "b": 1}),
    ("three zones, one of them short too", {"a": 1, "b": 1, "c": 1}, {"a": 10, "b": 10, "c": 40},
     {"a": 1 / 2, "c": 1 / 2}),
    ("what is beyond, in proportion", {"a": 2, "b": 1, "c": 1}, {"a": 10, "b": 30, "c": 40},
     {"a": 1 / 4, "b": 3 / 4 / 3, "c": 3 / 4 * 2 / 3}),
    ("a zone without nodes", {"a": 1}, {"a": 10, "b": 30}, {"a": 1 / 4, "b": 3 / 4}),
    ("two nodes here, one there", {"a": 2, "b": 1}, {"a": 20, "b": 10}, {"a": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "capacity", "expected"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_shares(nodes: dict[str, int], capacity: dict[str, float], expected: dict[str, float]) -> None:
    assert shares(Locality("a", nodes), capacity) == pytest.approx(expected)


ZONES = st.sampled_from("abcd")


@given(st.dictionaries(ZONES, st.integers(1, 9), min_size=1), st.dictionaries(ZONES, st.integers(1, 1000), min_size=1))
def test_every_server_gets_the_same_load(nodes: dict[str, int], capacity: dict[str, float]) -> None:
    """Of all nodes together; and each node sends out of its zone only what the zone cannot take."""
    load = dict.fromkeys(capacity, 0.0)
    for zone, count in nodes.items():
        part = shares(Locality(zone, nodes), capacity)
        assert sum(part.values()) == pytest.approx(1)
        for there, share in part.items():
            if there in load:
                load[there] += share * count
            else:
                assert share == 0
    whole = sum(capacity.values()) / sum(nodes.values())
    assert {zone: each * whole for zone, each in load.items()} == pytest.approx(capacity)


def test_weights_follow_the_shares() -> None:
    here = Locality("a", EVEN)
    weights = weighed(here, "aabbbb", [1] * 6, [1] * 6, ())
    assert weights is not None
    assert sum(weights[:2]) == pytest.approx(TURNS * 2 / 3, abs=2)
    assert sum(weights[2:]) == pytest.approx(TURNS / 3, abs=4)
    assert len(set(weights[:2])) == len(set(weights[2:])) == 1


def test_who_is_out_counts_for_nobody() -> None:
    here = Locality("a", EVEN)
    assert weighed(here, "aabb", [1] * 4, [1] * 4, {3}) == (500, 500, 0, 0)
    weights = weighed(here, "aabb", [1] * 4, [1] * 4, {0})
    assert weights is not None
    assert weights[1] == pytest.approx(667, abs=1)
    assert weights[2] == weights[3] == pytest.approx(167, abs=1)


def test_nothing_to_prefer() -> None:
    here = Locality("a", EVEN)
    assert weighed(here, "aaa", [1] * 3, [1] * 3, ()) is None
    assert weighed(here, "ab", [1, 0], [1, 0], ()) is None
    assert weighed(here, "ab", [1, 1], [1, 1], {0}) is None
    assert weighed(here, "", [], [], ()) is None


def test_a_slow_start_holds_back_within_its_zone() -> None:
    """The zone has its share all the same: its other servers take it."""
    weights = weighed(Locality("a", EVEN), "aabb", [1] * 4, [1, 10, 10, 10], ())
    assert weights == (91, 909, 0, 0)


def test_where_a_node_is() -> None:
    nodes = [
        Node("l7-1", Role.L7, "10.0.0.1", zone="a"),
        Node("l7-2", Role.L7, "10.0.0.2", zone="b"),
        Node("l7-3", Role.L7, "10.0.0.3", zone="b"),
        Node("l7-4", Role.L7, "10.0.0.4"),
        Node("l4-1", Role.L4, "10.0.0.5"),
    ]
    model = Model(nodes={node.name: node for node in nodes})
    assert locality(model, "l7-2") == Locality("b", {"a": 1, "b": 2})
    assert locality(model, "l7-4") is locality(model, "l4-1") is locality(model, "other") is None
