"""What a worker counts of each listener, service and rule, and how workers add up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.model import Redirect, Rewrite, Rule, Scheduler, Share
from proxy import meters as module
from proxy.access_log import Record, Visit, Visitor, record_of
from proxy.actions import NO_WAY, Way
from proxy.meters import BOUNDS, NOTHING, OTHER, SIGNATURE_BOUNDS, Meters, Sums, apart, forget, names, together
from tests.proxy.support import Backend, free_port, model, proxy, with_group, with_service


def visit(listener: str, status: int, took_s: float, way: Way = NO_WAY) -> Visit:
    visitor = Visitor(listener, "192.0.2.7", "", "")
    return (0.0, visitor, b"GET", b"a", b"/", status, 10, 100, took_s, "10.0.0.1:80", b"id", way, ())


def listeners(meters: Meters) -> dict[str, Any]:
    return meters.news()["listeners"]


def test_both_kinds_of_exchanges_are_counted_alike() -> None:
    meters, others = Meters(), Meters()
    for status, took_s in ((200, 0.0005), (200, 0.001), (204, 0.0011), (404, 3.0), (502, 99.0)):
        meters.visits([visit("web", status, took_s, Way("api", "app"))])
        others.record(record_of(visit("web", status, took_s, Way("api", "app"))))
    news = meters.news()
    assert news == others.news()
    row = news["listeners"]["web"]
    assert row["statuses"] == news["services"]["app"]["statuses"] == [0, 0, 3, 0, 1, 1]
    assert news["rules"] == {"api": {"statuses": [0, 0, 3, 0, 1, 1]}}
    assert row["buckets"] == row["firsts"] == news["services"]["app"]["firsts"] == [2, 1, *[0] * 9, 1, 0, 0, 0, 1]
    assert len(row["buckets"]) == len(BOUNDS) + 1
    assert (row["bytes_in"], row["bytes_out"]) == (50, 500)
    assert round(row["seconds"], 4) == round(row["first_seconds"], 4) == 102.0026


def test_the_time_to_the_first_byte_is_of_those_that_got_one() -> None:
    meters = Meters()
    meters.record(Record("web", "c", status=200, duration_ms=3000, first_byte_s=0.02, way=Way("", "app")))
    meters.record(Record("web", "c", status=503, duration_ms=5000, way=Way("", "app")))
    row = meters.news()["services"]["app"]
    assert (sum(row["buckets"]), row["seconds"]) == (2, 8.0)
    assert (sum(row["firsts"]), row["firsts"][4], row["first_seconds"]) == (1, 1, 0.02)


def test_each_service_and_rule_has_its_own() -> None:
    meters = Meters()
    meters.visits([visit("web", 200, 0.1, Way("a", "one")), visit("web", 200, 0.1, Way("a", "two"))])
    meters.visits([visit("web", 404, 0.1, Way("b", "two")), visit("api", 200, 0.1, Way("", "two"))])
    meters.record(Record("web", "c", status=301, way=Way("c", "")))
    news = meters.news()
    assert {name: row["statuses"] for name, row in news["services"].items()} == {
        "one": [0, 0, 1, 0, 0, 0], "two": [0, 0, 2, 0, 1, 0],
    }  # fmt: skip
    assert {name: row["statuses"] for name, row in news["rules"].items()} == {
        "a": [0, 0, 2, 0, 0, 0], "b": [0, 0, 0, 0, 1, 0], "c": [0, 0, 0, 1, 0, 0],
    }  # fmt: skip
    assert news["listeners"]["web"]["statuses"] == [0, 0, 2, 1, 1, 0]


def test_a_websocket_has_no_duration_and_odd_statuses_a_place() -> None:
    meters = Meters()
    meters.record(Record("web", "c", status=101, duration_ms=3_600_000))
    meters.record(Record("web", "c", status=0))
    meters.record(Record("web", "c", status=999))
    row = listeners(meters)["web"]
    assert row["statuses"] == [2, 1, 0, 0, 0, 0]
    assert (sum(row["buckets"]), row["seconds"]) == (2, 0.0)


def test_errors_by_source_and_code() -> None:
    meters = Meters()
    for _ in range(2):
        meters.record(Record("web", "c", status=404, error_source="proxy", error_code="no_rule"))
    assert listeners(meters)["web"]["errors"] == {"proxy no_rule": 2}


def test_news_are_told_once_and_what_is_gone_is_forgotten() -> None:
    meters = Meters()
    meters.visits([visit("web", 200, 0.1), visit("api", 200, 0.1)])
    assert listeners(meters).keys() == {"web", "api"}
    assert meters.news() == {"listeners": {}, "services": {}, "rules": {}, "parts": {}}
    meters.visits([visit("api", 200, 0.1)])
    assert listeners(meters)["api"]["statuses"][2] == 2
    meters.keep(listeners=["web"], services=[], rules=[])
    meters.keep(listeners=["web", "api"], services=[], rules=[])
    meters.visits([visit("api", 200, 0.1)])
    assert listeners(meters)["api"]["statuses"][2] == 1


def test_what_is_beyond_the_bound_is_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SERIES_MOST", 2)
    meters, rules = Meters(), [f"r{number}" for number in range(5)]
    meters.keep(listeners=["web"], services=["app"], rules=rules)
    meters.visits([visit("web", 200, 0.1, Way(rule, "app")) for rule in rules])
    news = meters.news()
    assert {name: row["statuses"][2] for name, row in news["rules"].items()} == {"r0": 1, "r1": 1, OTHER: 3}
    assert news["services"]["app"]["statuses"][2] == 5
    wanted = {"listeners": ["web"], "services": ["app"], "rules": rules}
    rows = Sums().rows([news, news], **wanted)
    assert {name: row["statuses"][2] for name, row in rows["rules"].items()} == {"r0": 2, "r1": 2, OTHER: 6}


def test_a_node_keeps_what_workers_that_are_gone_had_counted() -> None:
    meters, sums, wanted = Meters(), Sums(), {"listeners": ["web", "new"], "services": ["app"], "rules": ["api"]}
    meters.visits([visit("web", 200, 0.1, Way("api", "app"))])
    news = meters.news()
    sums.take_over(news)
    sums.take_over(news)
    rows = sums.rows([news], **wanted)
    assert rows["listeners"]["web"]["statuses"][2] == rows["rules"]["api"]["statuses"][2] == 3
    assert rows["listeners"]["new"] == NOTHING["listeners"]
    assert sums.rows([], **{**wanted, "rules": []})["rules"] == {}
    assert sums.rows([], **wanted)["rules"]["api"] == NOTHING["rules"], "a rule that comes back begins at zero"


def test_a_worker_does_not_keep_names_that_are_gone() -> None:
    meters, wanted = Meters(), {"listeners": ["new"], "services": ["app"], "rules": []}
    meters.visits([visit("web", 200, 0.1, Way("api", "app"))])
    news = meters.news()
    forget(news, **wanted)
    left = {kind: list(rows) for kind, rows in news.items()}
    assert left == {"listeners": [], "services": ["app"], "rules": [], "parts": []}


def test_the_names_are_those_of_the_l7_tier() -> None:
    made = model(80, [81])
    rules = {"api": Rule("api", "web", "app", url="/api"), "else": Rule("else", "elsewhere", "app")}
    assert names(replace(made, rules=rules)) == {
        "listeners": ("web",), "services": ("app",), "rules": ("api",), "parts": (),
    }  # fmt: skip
    assert apart(["a", "b", "a"]) == ("a", "b")


def test_the_parts_of_a_split_are_counted_by_rule_and_service() -> None:
    made = model(80, [81])
    app = made.backend_services["app"]
    shares = (Share("app", 90), Share("v2", 10))
    rules = {
        "api": Rule("api", "web", url="/api", split=shares),
        "own": Rule("own", "web", split=shares, scheduler=Scheduler.RR),
    }
    made = replace(made, rules=rules, backend_services={"app": app, "v2": replace(app, name="v2")})
    known = names(made)
    assert known["parts"] == ("api app", "api v2", "own app@own", "own v2@own")
    meters = Meters()
    meters.keep(**known)
    meters.visits([visit("web", 200, 0.1, Way("api", service)) for service in ("app", "app", "v2")])
    meters.visits([visit("web", 200, 0.1, Way("", "v2"))])
    meters.record(Record("web", "c", status=502, way=Way("own", "v2@own")))
    counted = {name: row["statuses"] for name, row in meters.news()["parts"].items()}
    assert counted == {
        "api app": [0, 0, 2, 0, 0, 0], "api v2": [0, 0, 1, 0, 0, 0], "own app@own": [0] * 6,
        "own v2@own": [0, 0, 0, 0, 0, 1],
    }  # fmt: skip
    meters.keep(**known)
    meters.visits([visit("web", 200, 0.1, Way("api", "v2"))])
    assert meters.news()["parts"] == {"api v2": {"statuses": [0, 0, 2, 0, 0, 0]}}, "what changes goes on"
    meters.keep(**{**known, "parts": ()})
    meters.visits([visit("web", 200, 0.1, Way("api", "v2"))])
    assert meters.news()["parts"] == {}


def test_handshakes_and_signatures() -> None:
    meters = Meters()
    meters.handshake("web", "TLSv1.3 new")
    meters.handshake("web", "failed timeout")
    meters.signature("web", 0.0004)
    meters.signature("web", 99)
    one = meters.news()["listeners"]["web"]
    assert meters.news()["listeners"] == {}
    two = together("listeners", [one, NOTHING["listeners"], one])
    assert two["tls"] == {"TLSv1.3 new": 2, "failed timeout": 2}
    assert (two["signatures"], two["signature_seconds"]) == ([0, 2, *[0] * 13, 2], 198.0008)
    assert len(SIGNATURE_BOUNDS) + 1 == len(one["signatures"])


def test_what_ends_at_a_listener_that_is_gone_is_not_told() -> None:
    meters = Meters()
    meters.keep(listeners=["web"], services=["app"], rules=[])
    meters.visits([visit("gone", 200, 0.1, Way("old", "app"))])
    meters.handshake("gone", "failed timeout")
    meters.signature("gone", 1)
    news = meters.news()
    assert (news["listeners"], news["rules"]) == ({}, {})
    assert news["services"]["app"]["statuses"][2] == 1


def test_together() -> None:
    meters = Meters()
    meters.visits([visit("web", 200, 0.1)])
    meters.record(Record("web", "c", status=404, error_source="proxy", error_code="no_rule"))
    one = listeners(meters)["web"]
    two = together("listeners", [one, one])
    assert two["statuses"] == [0, 0, 2, 0, 2, 0]
    assert two["errors"] == {"proxy no_rule": 2}
    assert two["seconds"] == 0.2
    assert together("listeners", []) == NOTHING["listeners"]
    assert sum(NOTHING["listeners"]["statuses"]) == 0, "adding up changes nobody's numbers"


async def test_the_rule_and_the_service_that_answered_are_told() -> None:
    """On both lanes, also of a fallback and of what no server was asked for."""
    rules = [
        Rule("api", "web", "app", url="/api"), Rule("moved", "web", url="/old", redirect=Redirect(path="/new")),
        Rule("lost", "web", "empty", url="/lost"), Rule("changed", "web", "app", url="/c", rewrite=Rewrite(path="/x")),
    ]  # fmt: skip
    async with Backend().running() as backend:
        made = with_service(
            model(free_port(), [backend.port], rules=rules), "empty", server_group="none", fallback="app"
        )
        async with proxy(with_group(made, "none", [])) as l7:
            for number, path in enumerate(("/", "/", "/api", "/old", "/lost", "/c"), 1):
                await l7.get(path)
                await l7.record(number)
            ways = [each.way for each in l7.records]
            assert ways == [
                ("", "app"),
                ("", "app"),
                ("api", "app"),
                ("moved", ""),
                ("lost", "app"),
                ("changed", "app"),
            ]
            assert [each.first_byte_s is not None for each in l7.records] == [True, True, True, False, True, True]
            news = l7.hub.journal.meters.news()
            assert {name: sum(row["statuses"]) for name, row in news["rules"].items()} == {
                "api": 1, "moved": 1, "lost": 1, "changed": 1,
            }  # fmt: skip
            assert {name: sum(row["statuses"]) for name, row in news["services"].items()} == {"app": 5}
            assert news["listeners"]["web"]["statuses"] == [0, 0, 5, 1, 0, 0]
            assert sum(news["services"]["app"]["firsts"]) == 5
