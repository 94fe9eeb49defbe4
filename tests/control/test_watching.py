"""Pictures of the cluster and the events between them."""

import json
from typing import Any

from control.reconcile import NodeStatus, Step
from control.watching import Event, Picture, beginning, differences, picture


def node(name: str, step: Step = Step.IN_STEP, version: int = 1, **facts: Any) -> NodeStatus:
    return NodeStatus("l7", name, step, "", version, 0.5, facts, True)


def server(address: str, healthy: object, why: str = "", service: str = "b") -> dict[str, object]:
    return {"service": service, "server": address, "healthy": healthy, "why": why}


def told(events: Any) -> list[tuple[Any, ...]]:
    """Each event by what it is about."""
    short = []
    for event in events:
        data = event.data
        if event.name == "node":
            short.append((data["name"], data["step"], data["version"]))
        else:
            short.append((data["node"], data["service"], data["server"], data["healthy"], data["why"]))
    return short


def test_an_event_in_the_stream() -> None:
    event = Event("version", {"comment": "a\nb\r\n\ndata: x"}, 7)
    head, name, data, *rest = event.encode().decode().split("\n")
    assert (head, name, rest) == ("id: 7", "event: version", ["", ""])
    assert json.loads(data.removeprefix("data: ")) == event.data, "no line break of the data is one of the stream's"
    assert Event("node", {}).encode() == b"event: node\ndata: {}\n\n"


def test_the_beginning_has_all_nodes_and_the_servers_that_are_not_healthy() -> None:
    health = [server("10.0.0.1:80", True), server("10.0.0.2:80", False, "refused")]
    seen = picture([node("a", health=health), node("b", Step.SILENT)])
    assert told(beginning(seen)) == [
        ("a", "in step", 1),
        ("b", "silent", 1),
        ("a", "b", "10.0.0.2:80", False, "refused"),
    ]


def test_what_changes_is_told_and_nothing_else() -> None:
    first = picture([node("a", health=[server("1:80", True), server("2:80", True)]), node("b")])
    second = picture([node("a", health=[server("1:80", False, "timed out"), server("3:80", True)]), node("c")])
    assert told(differences(first, second)) == [
        ("c", "in step", 1),
        ("b", "gone", 1),
        ("a", "b", "1:80", False, "timed out"),
        ("a", "b", "3:80", True, ""),
        ("a", "b", "2:80", None, ""),
    ]
    assert told(differences(second, second)) == []
    other = picture([node("a", health=[server("1:80", False, "refused"), server("3:80", True, "200")]), node("c")])
    assert told(differences(second, other)) == [], "why is that of the moment at which it changed"
    assert told(differences(first, picture([node("a", version=2, health=[]), node("b")])))[0] == ("a", "in step", 2)


def test_ages_counters_and_the_like_are_no_change() -> None:
    first = picture([NodeStatus("l7", "a", Step.IN_STEP, "", 1, 0.1, {"requests": 1}, True)])
    assert first == picture([NodeStatus("l7", "a", Step.IN_STEP, "", 1, 0.9, {"requests": 2}, True)])
    assert first != picture([node("a", problems=["no room"])])


def test_a_report_that_is_none_has_no_servers() -> None:
    for health in (None, 7, [7, {}, server("1:80", "yes")]):
        assert picture([node("a", health=health, problems="x")]).servers == {}
    assert picture([]) == Picture()
    seen = picture([node("a", health=[{"server": "1:80", "healthy": True}])])
    assert seen.servers == {("l7", "a", "", "1:80"): (True, "")}, "of an L4 node, which has no services"
