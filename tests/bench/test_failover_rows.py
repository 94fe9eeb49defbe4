"""What `bench failover` says of the deaths it has seen."""

from __future__ import annotations

from bench.failover import WAYS, _rows
from bench.failover.numbered import Newcomers, Report, Spread


def seen(gap_ms: float, lost: int = 0, moved: int = 0) -> Report:
    gaps, waits = Spread(0, 0, gap_ms, gap_ms), Spread(0, 1, 2, gap_ms + 200)
    why = {"tcp-nat: reset": lost} if lost else {}
    return Report(1.0, 100 - lost, why, 1000, waits, 24, moved, 500, int(gap_ms), gaps, Newcomers(), sent_again=3)


def test_the_distribution_of_gaps_without_the_moment_before() -> None:
    (way,) = WAYS["vrrp"]
    rows = {row.name: row for row in _rows(way, [seen(0), *(seen(gap) for gap in (300, 100, 200, 600))])}
    found = {name: rows[f"vrrp, gap, {name} of 4 deaths"] for name in ("least", "median", "p90", "most")}
    assert {name: row.value for name, row in found.items()} == {"least": 100, "median": 250, "p90": 600, "most": 600}
    assert {name: row.met for name, row in found.items()} == {"least": None, "median": True, "p90": None, "most": False}
    waits = rows["vrrp, longest answer by TCP, median"]
    assert (waits.value, waits.against_value) == (450, 200)
    assert rows["vrrp, connections lost, of 4 × 100"].value == 0


def test_whatever_is_lost_counts() -> None:
    (way, _) = WAYS["static"]
    *_, last = _rows(way, [seen(0), seen(30, lost=2), seen(20, moved=1)])
    assert (last.name, last.value) == ("static, told, connections lost, of 2 × 100", 3)


def test_a_router_that_is_told_has_less_time() -> None:
    assert [way.limit_ms for ways in WAYS.values() for way in ways] == [100, 500, 500, 500]
