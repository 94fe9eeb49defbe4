"""Requests in a second from what L7 nodes report: rates, percentiles, sums over nodes, restarts."""

from __future__ import annotations

from typing import Any

import pytest

from control.rates import Meters, Picture
from control.rates_l7 import BOUNDS, CLASSES, Load, Traffic, Upstream, between, together
from proxy import meters, traffic

SERVER = {"service": "app", "server": "10.0.0.1:80", "requests": 10, "failures": 1, "errors": 2, "active": 3, "idle": 4,
          "ejected": 1}  # fmt: skip


def row(requests: int, buckets: list[int], opened: int = 0, tls: list[int] | None = None) -> dict[str, Any]:
    return {"statuses": [0, 0, requests, 0, 0, 0], "buckets": buckets, "open": opened, "tls": tls or [0, 0, 0]}


def facts(at_s: float, started: float = 1.0, **listeners: Any) -> dict[str, Any]:
    told = {"started": started, "at_s": at_s, "listeners": listeners, "services": {}}
    return {"traffic": told, "upstreams": [], "health": []}


def feed(watched: Meters, *nodes: dict[str, Any], step: str = "in step") -> Picture:
    rows = [
        {"role": "l7", "name": f"l7-{n}", "step": step, "facts": each} for n, each in enumerate(nodes, 1)
    ]  # fmt: skip
    return watched.feed({"version": 1, "nodes": rows}, lambda _: ())


def test_it_speaks_the_nodes_language() -> None:
    assert (BOUNDS, CLASSES) == (meters.BOUNDS, meters.CLASSES)
    counted = meters.Meters()
    counted.handshake("web", "TLSv1.3 new")
    counted.handshake("web", "TLSv1.3 resumed")
    counted.handshake("web", "failed timeout")
    rows = meters.Sums().rows([counted.news()], listeners=["web"], services=["app"], rules=[])
    told = traffic.traffic(rows, [{"web": 2}, {"web": 3}], 1.0, 5.0)
    assert between({}, {"traffic": told}).listeners["web"] == Load(connections=5)
    later = {"traffic": {**told, "at_s": 6.0}}
    again = {"traffic": {**told, "at_s": 5.5, "listeners": {}}}
    load = between(again, later).listeners["web"]
    assert (load.handshakes, load.resumed, load.handshakes_failed) == (4, 2, 2)
    assert (load.requests, load.quantile_ms(0.5)) == (0, None)


def test_rates_are_per_second_of_the_nodes_clock() -> None:
    watched = Meters()
    feed(watched, facts(10.0, web=row(100, [100], 7, [10, 0, 0])))
    picture = feed(watched, facts(12.0, web=row(140, [100, 0, 0, 40], 8, [12, 4, 6])))
    load = picture.traffic.listeners["web"]
    assert picture.nodes[0].traffic == picture.traffic
    assert (load.requests, load.status("2xx"), load.connections) == (20, 20, 8)
    assert (load.handshakes, load.resumed, load.handshakes_failed) == (3, 2, 3)
    assert load.quantile_ms(0.5) == pytest.approx(7.5), "between 5 and 10 ms"
    assert picture.traffic.total == load
    assert feed(watched, facts(12.0, web=row(140, [100, 0, 0, 40], 8, [12, 4, 6]))).traffic == picture.traffic


def test_a_node_that_started_anew_has_no_rates_until_its_second_report() -> None:
    watched = Meters()
    feed(watched, facts(10.0, web=row(100, [100])))
    assert feed(watched, facts(3.0, 2.0, web=row(5, [5], 1))).traffic.listeners["web"] == Load(connections=1)
    assert feed(watched, facts(4.0, 2.0, web=row(6, [6]))).traffic.listeners["web"].requests == 1


def test_a_listener_that_was_removed_and_added_counts_from_zero() -> None:
    watched = Meters()
    feed(watched, facts(10.0, web=row(100, [100])))
    assert feed(watched, facts(11.0, web=row(3, [3]))).traffic.listeners["web"].requests == 3


@pytest.mark.parametrize(
    ("buckets", "share", "wanted"),
    [
        ((), 0.5, None),
        ((0.0, 0.0), 0.5, None),
        ((10.0,), 0.5, 0.5),
        ((10.0,), 0.99, 0.99),
        ((98.0, 0.0, 0.0, 2.0), 0.99, 7.5),
        ((1.0,) * 15, 1.0, 60_000),
        ((0.0,) * 15 + (5.0,), 0.5, 60_000),  # beyond the last bound nobody knows how far
    ],
)
def test_percentiles(buckets: tuple[float, ...], share: float, wanted: float | None) -> None:
    assert Load(buckets=buckets).quantile_ms(share) == (wanted if wanted is None else pytest.approx(wanted))


def test_over_the_nodes_all_adds_up() -> None:
    """And percentiles are those of all requests, not of the nodes' own."""
    quick = Traffic(listeners={"web": Load(99, (0, 0, 99, 0, 0, 0), (99.0,), 3, 1, 1, 0)})
    slow = Traffic(
        listeners={"web": Load(1, (0, 0, 0, 0, 0, 1), (0.0, 0.0, 1.0), 4, 1, 0, 2), "x": Load(connections=1)}
    )
    both = together([quick, slow])
    load = both.listeners["web"]
    assert (load.requests, load.status("2xx"), load.status("5xx"), load.connections) == (100, 99, 1, 7)
    assert (load.handshakes, load.resumed, load.handshakes_failed) == (2, 1, 2)
    assert load.quantile_ms(0.5) == pytest.approx(50 / 99)
    assert load.quantile_ms(0.995) == pytest.approx(3.75)
    assert both.listeners["x"] == Load(connections=1)
    assert together([]) == Traffic()


def test_servers() -> None:
    old = {**facts(1.0), "upstreams": [SERVER]}
    new = {**facts(3.0), "upstreams": [SERVER | {"requests": 30, "failures": 3}, SERVER | {"server": "b:1"}],
           "health": [{"service": "app", "server": "b:1", "healthy": False}]}  # fmt: skip
    found = between(old, new).servers
    assert found["app", "10.0.0.1:80"] == Upstream(10, 1, 0, 3, 4, 1, down=False)
    assert found["app", "b:1"] == Upstream(5, 0.5, 1, 3, 4, 1, down=True)
    both = together([between(old, new), between({}, new)]).servers
    assert both["app", "10.0.0.1:80"] == Upstream(10, 1, 0, 6, 8, 2, down=False)


def test_nodes_of_other_tiers_and_silent_ones_have_none() -> None:
    picture = feed(Meters(), {}, facts(1.0, web=row(1, [1])), step="silent")
    assert [node.traffic for node in picture.nodes] == [None, None]
    assert picture.traffic == Traffic()


def test_the_document_for_programs() -> None:
    load = Load(2, (0, 0, 1, 0, 0, 1), (2.0,), 3, 1, 0, 0)
    told = Traffic(load, {"web": load}, {"app": Load()}, {("app", "b:1"): Upstream(1, 0, 0)}).document()
    assert told["listeners"]["web"] == told["total"]
    assert told["total"] == {
        "requests": 2, "connections": 3, "handshakes": 1, "resumed": 0, "handshakes_failed": 0, "status_other": 0,
        "status_1xx": 0, "status_2xx": 1, "status_3xx": 0, "status_4xx": 0, "status_5xx": 1, "p50_ms": 0.5,
        "p99_ms": pytest.approx(0.99), "bytes_in": None, "bytes_out": None, "opened": None,
    }  # fmt: skip
    assert told["services"]["app"]["p99_ms"] is None
    assert told["servers"] == [{"service": "app", "server": "b:1", "requests": 1, "failures": 0, "errors": 0,
                                "active": 0, "idle": 0, "ejected": 0, "down": False}]  # fmt: skip
