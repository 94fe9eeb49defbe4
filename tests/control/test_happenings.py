"""Events from tables of reports: told once, together, and never what was so before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from control.happenings import (
    BEGINNING_S,
    FLAPS,
    FLAPS_S,
    LAGGING_S,
    NAMED,
    SETTLE_S,
    Event,
    Happening,
    Watcher,
)
from control.reconcile import NodeStatus, Step
from core.config import from_dict
from tests.control.test_topology import CLUSTER, status

MODEL = from_dict(CLUSTER)


class Watched:
    """A watcher that has begun with these nodes; `look` is ever a second later."""

    def __init__(self, *statuses: NodeStatus, before: dict[str, str] | None = None) -> None:
        self.now = 0.0
        self.watcher = Watcher(before or {}, 0.0)
        self.look(*statuses)
        self.now = BEGINNING_S
        self.first = self.look(*statuses)

    def look(self, *statuses: NodeStatus, by: dict[str, str] | None = None, after_s: float = 1.0) -> list[Happening]:
        self.now += after_s
        return self.watcher.look(MODEL, statuses, by or {}, self.now, 1000 + self.now)

    def settle(self, *statuses: NodeStatus, **more: Any) -> list[str]:
        """What is told until a change has lasted."""
        return [each.text for _ in range(int(SETTLE_S) + 2) for each in self.look(*statuses, **more)]


def node(name: str = "l7-1", **changes: Any) -> NodeStatus:
    facts = changes.pop("facts", {})
    return replace(status(name[:2], name, facts), **changes)


def health(*down: str, up: tuple[str, ...] = (), why: str = "refused") -> dict[str, Any]:
    rows = [{"service": "b", "server": server, "healthy": False, "why": why} for server in down]
    return {"health": [*rows, *({"service": "b", "server": server, "healthy": True, "why": ""} for server in up)]}


def test_what_was_so_before_is_no_event() -> None:
    watched = Watched(
        node(facts={**health("10.0.1.1:80"), "problems": ["x"], "resting": 5}), before={"l7/l7-1": "in step"}
    )
    assert watched.first == []


def test_a_node_that_comes_goes_and_comes_back() -> None:
    watched = Watched(node())
    assert [each.text for each in watched.first] == ["l7-1 has come"]
    [silent] = watched.look(node(step=Step.SILENT, why="no report for 6 s"))
    assert (silent.kind, silent.severity, silent.object) == ("node", "error", "nodes/l7-1")
    assert silent.text == "l7-1 is silent: no report for 6 s"
    assert silent.fields["before"] == "in step"
    assert watched.look(node(step=Step.SILENT, why="no report for 7 s")) == []
    assert [each.text for each in watched.look(node())] == ["l7-1 is back"]
    assert [each.text for each in watched.look()] == ["l7-1 is not listed any more, and does not report"]


def test_a_node_that_was_lost_while_nobody_looked() -> None:
    watched = Watched(node(step=Step.SILENT, why="has never reported"), before={"l7/l7-1": "in step"})
    assert [each.text for each in watched.first] == ["l7-1 is silent: has never reported"]


def test_a_node_that_is_expected() -> None:
    expected = node(step=Step.SILENT, why="has never reported", version=None)
    watched = Watched(expected)
    assert [each.text for each in watched.first] == ["l7-1 is listed, and has never reported"]
    assert watched.look(expected) == []
    assert [each.text for each in watched.look(node())] == ["l7-1 has come"]


def test_a_node_that_lags_for_a_moment_is_none() -> None:
    watched = Watched(node(), before={"l7/l7-1": "in step"})
    assert watched.look(node(step=Step.LAGGING, why="runs version 7, not 8", since_s=LAGGING_S / 2)) == []
    [lags] = watched.look(node(step=Step.LAGGING, why="runs version 7, not 8", since_s=LAGGING_S))
    assert (lags.text, lags.severity) == ("l7-1 lags: runs version 7, not 8", "warning")
    [refuses] = watched.look(node(step=Step.LAGGING, why="refuses version 8: cannot bind 0.0.0.0:443", since_s=0.1))
    assert (refuses.text, refuses.severity) == ("l7-1 refuses version 8: cannot bind 0.0.0.0:443", "error")
    assert [each.text for each in watched.look(node())] == ["l7-1 is in step again"]


def test_a_server_that_all_nodes_lose_is_told_once() -> None:
    watched = Watched(*(node(name, facts=health(up=("10.0.1.1:80",))) for name in ("l7-1", "l7-2")))
    down, up = health("10.0.1.1:80"), health(up=("10.0.1.1:80",))
    assert watched.look(node("l7-1", facts=down), node("l7-2", facts=up)) == []
    both = watched.settle(node("l7-1", facts=down), node("l7-2", facts=down))
    assert both == ["10.0.1.1:80 of g is down: refused"]
    assert watched.settle(node("l7-1", facts=up), node("l7-2", facts=up)) == ["10.0.1.1:80 of g is up"]


def test_a_server_that_some_nodes_lose() -> None:
    watched = Watched(*(node(name, facts=health(up=("10.0.1.1:80",))) for name in ("l7-1", "l7-2")))
    told = watched.settle(node("l7-1", facts=health("10.0.1.1:80")), node("l7-2", facts=health(up=("10.0.1.1:80",))))
    assert told == ["10.0.1.1:80 of g is down on some of the l7 nodes: refused"]


def test_a_server_that_is_down_for_a_moment_is_none() -> None:
    watched = Watched(node(facts=health(up=("10.0.1.1:80",))))
    assert watched.look(node(facts=health("10.0.1.1:80"))) == watched.look(node(facts=health("10.0.1.1:80"))) == []
    assert watched.settle(node(facts=health(up=("10.0.1.1:80",)))) == []


def test_thousands_of_servers_are_one_event() -> None:
    names = [f"10.1.{n >> 8}.{n & 255}:80" for n in range(10_000)]
    watched = Watched(node(facts=health(up=("10.0.1.1:80",))))
    events = [each for _ in range(6) for each in watched.look(node(facts=health(*names)))]
    assert len(events) == 1
    assert events[0].text.startswith("10000 servers of g are down: ")
    assert (events[0].fields["count"], len(events[0].fields["servers"])) == (10_000, NAMED)
    assert (events[0].object, events[0].severity, len(events[0].text) <= 500) == ("server_groups/g", "error", True)


def test_what_flaps_is_told_of_no_more_for_a_while() -> None:
    watched = Watched(node(), before={"l7/l7-1": "in step"})
    told = []
    for _ in range(20):
        told += watched.look(node(step=Step.SILENT, why="x")) + watched.look(node())
    assert len(told) == FLAPS + 1
    assert told[-1].text.startswith("nodes/l7-1 changes its state again and again")
    watched.now += FLAPS_S
    assert len(watched.look(node(step=Step.SILENT, why="x"))) == 1


def test_problems_come_and_go_whatever_numbers_they_have() -> None:
    watched = Watched(node(), before={"l7/l7-1": "in step"})
    assert watched.settle(node(facts={"problems": ["3 of 10 are lost"]})) == ["l7-1: 3 of 10 are lost"]
    assert watched.settle(node(facts={"problems": ["4 of 11 are lost"]})) == []
    assert watched.settle(node()) == ["l7-1, no longer: … of … are lost"]
    found = [e for _ in range(5) for e in watched.look(node(facts={"problems": ["metering cannot be delivered"]}))]
    assert [each.kind for each in found] == ["metering"]


def test_drains_and_vips() -> None:
    watched = Watched(node("l4-1"), before={"l4/l4-1": "in step"})
    [drain] = watched.look(node("l4-1", facts={"resting": 5.0}), by={"l4-1": "ann"})
    assert (drain.kind, drain.text, drain.fields["by"]) == ("drain", "l4-1 drains by the word of ann", "ann")
    assert [each.text for each in watched.look(node("l4-1"))] == ["l4-1 does not drain any more"]
    vip = {"vip": {"addresses": [{"address": "192.0.2.1", "held": True}]}}
    assert watched.settle(node("l4-1", facts=vip)) == ["l4-1 has 192.0.2.1"]
    lost = {"vip": {"addresses": [{"address": "192.0.2.1", "held": False}]}}
    assert watched.settle(node("l4-1", facts=lost)) == ["l4-1 does not have 192.0.2.1 any more"]


@pytest.mark.parametrize(
    "facts", [{"problems": 3, "health": "x", "vip": 1}, {"health": [1, {}], "vip": {"addresses": [3]}}], ids=str
)
def test_reports_that_are_none(facts: dict[str, Any]) -> None:
    assert Watched(node(facts=facts), before={"l7/l7-1": "in step"}).settle(node(facts=facts)) == []


def test_the_document() -> None:
    event = Event(7, Happening(1.23456, "node", "info", "nodes/a", "a is back", {"x": 1}))
    assert event.document() == {
        "id": 7, "at": 1.235, "kind": "node", "severity": "info", "object": "nodes/a", "text": "a is back",
        "fields": {"x": 1},
    }  # fmt: skip
