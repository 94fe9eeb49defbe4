"""How groups are spread over zones and racks, and what is said where they are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.model import AvailabilityGroup, DnsName, Server
from core.spread import Zone, faults, report, zones
from core.zones import Locality, weighed


def member(number: int, zone: str, rack: str = "", weight: int = 100) -> Server:
    return Server(f"10.0.0.{number}", 80, weight, zone, rack)


THREE = (member(1, "b"), member(2, "a", "r1", 50), member(3, "a", "r2", 50))


def test_zones_and_racks() -> None:
    assert zones(THREE) == (Zone("a", ("r1", "r2"), 2, 100, 50.0), Zone("b", (), 1, 100, 50.0))
    assert zones(()) == ()
    assert zones((member(1, "a", weight=0),)) == (Zone("a", (), 1, 0, 0.0),)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, []),
        ({"min_zones": 3}, ["the members stand in 2 zones, and min_zones is 3"]),
        ({"min_racks": 2}, []),
        ({"min_racks": 3}, ["the members stand in 2 racks, and min_racks is 3"]),
        ({"max_percent_per_zone": 50}, []),
        (
            {"max_percent_per_zone": 49},
            [f"zone '{zone}' has 50 % of the weight, and max_percent_per_zone is 49" for zone in "ab"],
        ),
    ],
    ids=str,
)
def test_what_a_group_asks_for(asked: dict[str, int], said: list[str]) -> None:
    group = AvailabilityGroup("g", THREE, **asked)  # type: ignore[arg-type]
    assert [why for why, _ in faults(group, THREE)] == said


def test_members_that_come_and_go_need_not_name_zones() -> None:
    group = AvailabilityGroup("g", dns=(DnsName("a.test", port=80),))
    assert list(faults(group, (member(1, ""),))) == []
    assert [why for why, _ in faults(group, (member(1, "a"), member(2, "")))] == [
        "all members are in zone 'a'; losing it loses all"
    ]


def test_a_report_counts_who_is_down() -> None:
    assert report({"g": THREE}, ["10.0.0.3:80", "10.0.0.9:80"]) == [
        {"group": "g", "zone": "a", "racks": ["r1", "r2"], "members": 2, "percent": 50.0, "down": 1},
        {"group": "g", "zone": "b", "racks": [], "members": 1, "percent": 50.0, "down": 0},
    ]


ZONES = "abc"
PLACED = st.lists(st.tuples(st.sampled_from(ZONES), st.integers(1, 100)), min_size=3, max_size=30)


@given(PLACED, st.dictionaries(st.sampled_from(ZONES), st.integers(1, 4), min_size=1), st.sampled_from(ZONES))
def test_losing_a_zone_costs_only_its_members(placed: list[tuple[str, int]], nodes: dict[str, int], lost: str) -> None:
    """All nodes together load the servers that are left by their weights, and those of the lost zone not at all."""
    names, base = [zone for zone, _ in placed], [weight for _, weight in placed]
    out = {index for index, zone in enumerate(names) if zone == lost}
    left = [index for index in range(len(placed)) if index not in out]
    load = [0.0] * len(placed)
    for zone, count in nodes.items():
        weights = weighed(Locality(zone, nodes), names, base, base, out) or tuple(base)
        whole = sum(weights[index] for index in left)
        for index in left:
            load[index] += count * weights[index] / whole
    total, requests = sum(base[index] for index in left), sum(nodes.values())
    for index in left:
        # Weights are whole numbers of turns, at least 1: a part in fifty for each node is what rounding may cost.
        assert load[index] == pytest.approx(requests * base[index] / total, rel=0.1, abs=0.05 * requests)
