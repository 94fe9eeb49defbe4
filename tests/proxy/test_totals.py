"""What workers have counted, and what of it stays when one ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from core.model import Model
from proxy.totals import Totals


@dataclass
class Worker:
    counters: dict[str, float] = field(default_factory=dict)
    servers: dict[tuple[str, str, int], dict[str, float]] = field(default_factory=dict)
    meters: dict[str, dict[str, Any]] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)


def test_counts_outlive_their_worker_and_levels_do_not() -> None:
    totals = Totals(1.0)
    before = {"requests": 5, "connections_open": 3, "handshakes_in_flight": 2, "requests_waiting": 1}
    totals.keep(Worker(before))
    assert totals.counters([]) == {"requests": 5}
    assert totals.counters([Worker({"requests": 2, "connections_open": 1}), Worker({"requests": 1})]) == {
        "requests": 8, "connections_open": 1,
    }  # fmt: skip
    assert totals.counters([]) == {"requests": 5}, "asking changes nothing"


def test_what_is_gone_is_forgotten() -> None:
    worker = Worker(servers={("app", "10.0.0.1", 80): {"requests": 1}}, meters={"listeners": {"web": {}}})
    Totals(1.0).forget([worker], Model())
    assert not worker.servers
    assert not worker.meters["listeners"]


def test_traffic_says_since_when() -> None:
    told = Totals(12.3456).traffic([Worker(open={"web": 2})], Model(), 7.0)
    assert (told["started"], told["at_s"], told["listeners"]) == (12.346, 7.0, {})
