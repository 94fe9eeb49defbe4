"""What a worker counts of each listener, and how workers add up."""

from __future__ import annotations

from proxy.access_log import Record, Visit, Visitor
from proxy.meters import BOUNDS, NOTHING, Meters, together


def visit(listener: str, status: int, took_s: float) -> Visit:
    visitor = Visitor(listener, "192.0.2.7", "", "")
    return (0.0, visitor, b"GET", b"a", b"/", status, 10, 100, took_s, "10.0.0.1:80", b"id")


def test_both_kinds_of_exchanges_are_counted_alike() -> None:
    meters, others = Meters(), Meters()
    for status, took_s in ((200, 0.0005), (200, 0.001), (204, 0.0011), (404, 3.0), (502, 99.0)):
        meters.visits([visit("web", status, took_s)])
        others.record(Record("web", "c", status=status, bytes_in=10, bytes_out=100, duration_ms=took_s * 1000))
    news = meters.news()
    assert news == others.news()
    assert news["web"]["statuses"] == [0, 0, 3, 0, 1, 1]
    assert news["web"]["buckets"] == [2, 1, *[0] * 9, 1, 0, 0, 0, 1]
    assert len(news["web"]["buckets"]) == len(BOUNDS) + 1
    assert (news["web"]["bytes_in"], news["web"]["bytes_out"]) == (50, 500)
    assert round(news["web"]["seconds"], 4) == 102.0026


def test_a_websocket_has_no_duration_and_odd_statuses_a_place() -> None:
    meters = Meters()
    meters.record(Record("web", "c", status=101, duration_ms=3_600_000))
    meters.record(Record("web", "c", status=0))
    meters.record(Record("web", "c", status=999))
    row = meters.news()["web"]
    assert row["statuses"] == [2, 1, 0, 0, 0, 0]
    assert (sum(row["buckets"]), row["seconds"]) == (2, 0.0)


def test_errors_by_source_and_code() -> None:
    meters = Meters()
    for _ in range(2):
        meters.record(Record("web", "c", status=404, error_source="proxy", error_code="no_rule"))
    assert meters.news()["web"]["errors"] == {"proxy no_rule": 2}


def test_news_are_told_once_and_what_is_gone_is_forgotten() -> None:
    meters = Meters()
    meters.visits([visit("web", 200, 0.1), visit("api", 200, 0.1)])
    assert meters.news().keys() == {"web", "api"}
    assert meters.news() == {}
    meters.visits([visit("api", 200, 0.1)])
    assert meters.news()["api"]["statuses"][2] == 2
    meters.keep({"web"})
    meters.visits([visit("api", 200, 0.1)])
    assert meters.news()["api"]["statuses"][2] == 1


def test_together() -> None:
    meters = Meters()
    meters.visits([visit("web", 200, 0.1)])
    meters.record(Record("web", "c", status=404, error_source="proxy", error_code="no_rule"))
    one = meters.news()["web"]
    two = together([one, one])
    assert two["statuses"] == [0, 0, 2, 0, 2, 0]
    assert two["errors"] == {"proxy no_rule": 2}
    assert two["seconds"] == 0.2
    assert together([]) == NOTHING
    assert sum(NOTHING["statuses"]) == 0, "adding up changes nobody's numbers"
