"""Availability groups as the status shows them, by the configuration and what nodes report."""

from __future__ import annotations

from control import groups
from core.model import AvailabilityGroup, DnsName, Model, Server

STATIC = AvailabilityGroup("static", (Server("10.0.0.1", 80, zone="a"), Server("10.0.0.2", 80, 50, "b", "r1")))
DYNAMIC = AvailabilityGroup("dynamic", dns=(DnsName("a.test", port=80),))
MODEL = Model(availability_groups={"static": STATIC, "dynamic": DYNAMIC})


def rows(*facts: dict[str, object]) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in groups.document(MODEL, facts)]


def test_a_group_of_the_configuration() -> None:
    assert rows() == [("static", "a", [], 1, 66.7, 0), ("static", "b", ["r1"], 1, 33.3, 0)]


def test_what_nodes_know() -> None:
    """Each member once, however many nodes know it; down as soon as one node says so."""
    known = {"dynamic": [{"address": "10.0.0.3", "port": 80, "weight": 9, "zone": "c", "rack": ""}]}
    more = {"dynamic": [*known["dynamic"], {"address": "10.0.0.4", "port": 80}]}
    l4 = {"members": known, "health": [{"server": "10.0.0.2:80/tcp", "healthy": False}]}
    l7 = {"members": more, "health": [{"server": "10.0.0.3:80", "healthy": False}]}
    assert rows(l4, l7) == [
        ("static", "a", [], 1, 66.7, 0), ("static", "b", ["r1"], 1, 33.3, 1),
        ("dynamic", "", [], 1, 91.7, 0), ("dynamic", "c", [], 1, 8.3, 1),
    ]  # fmt: skip


def test_nonsense_in_a_report_is_passed_over() -> None:
    nonsense: list[dict[str, object]] = [
        {"members": 1, "health": 1}, {"members": {"dynamic": 1}, "health": [1]},
        {"members": {"dynamic": [1, {"a": 1}]}},
    ]  # fmt: skip
    assert rows(*nonsense) == rows()
