"""Attempts, gaps, and what a fault may cost."""

from __future__ import annotations

import pytest

from bench.faults.events import Event, Record, Traffic, reasons
from bench.faults.kinds import BY_NAME
from bench.faults.promises import BACK_S, DYING_S, NOTICE_S, PROMISES, May, Struck, allowed, broken, cost


def well(*times: float, traffic: Traffic = Traffic.HTTP) -> list[Event]:
    return [Event(traffic, "http", at - 0.1, at) for at in times]


def failed(began: float, ended: float, why: str = "reset", traffic: Traffic = Traffic.HTTP) -> Event:
    return Event(traffic, "http", began, ended, why)


def struck(kind: str, healed: float | None = 14.0) -> Struck:
    return Struck(1, kind, f"{kind} x", before=10.0, struck=10.1, ended=12.0, healed=healed)


GAPS = {
    "in the window": ([8, 9, 10, 11.5, 12], (9.5, 12), 1.5),
    "from before it until in it": ([8, 9, 11.9, 12, 13], (10, 12), 2.9),
    "from before it until after it": ([8, 9, 15], (10, 12), 6),
    "none but elsewhere": ([1, 5, 9, 9.5, 10, 10.5, 11, 19], (9.2, 10.8), 0.5),
    "never well again": ([8, 9], (8.5, 20), 11),
    "never before": ([12, 13], (5, 13), 1),
    "no such traffic": ([], (5, 13), 0),
}


@pytest.mark.parametrize(("times", "window", "gap"), GAPS.values(), ids=GAPS)
def test_the_longest_time_without_success(times: list[float], window: tuple[float, float], gap: float) -> None:
    assert Record(well(*times)).gap_s(Traffic.HTTP, *window) == pytest.approx(gap)


def test_what_failed_does_not_end_a_gap() -> None:
    record = Record([*well(9, 13), failed(9.5, 11)])
    assert record.gap_s(Traffic.HTTP, 10, 12) == pytest.approx(4)
    assert record.attempts(Traffic.HTTP) == (3, 1)
    assert record.gap_s(Traffic.UDP, 10, 12) == 0, "another kind"


def test_which_failures_are_of_a_window() -> None:
    events = [failed(8, 9.9), failed(9, 10.5), failed(11, 20), failed(12.5, 13)]
    record = Record(events)
    assert record.failed(Traffic.HTTP, 10, 12) == events[1:3]
    assert record.outside(Traffic.HTTP, [(10, 12)]) == [events[0], events[3]]
    assert record.outside(Traffic.HTTP, [(0, 8.5), (10.6, 14)]) == [events[1]]


MAY = {  # kind, traffic, when it began → may it fail
    "nothing is to be lost": ("control-killed", Traffic.HTTP, 10.05, False),
    "under way": ("l7-worker-killed", Traffic.HTTP, 10.1 + DYING_S, True),
    "begun after": ("l7-worker-killed", Traffic.HTTP, 10.2 + DYING_S, False),
    "not noticed yet": ("l7-node-dead", Traffic.TLS_NEW, 10.1 + NOTICE_S, True),
    "noticed": ("l7-node-dead", Traffic.TLS_NEW, 10.2 + NOTICE_S, False),
    "while it lasts": ("control-killed", Traffic.API, 13.9, True),
    "long after": ("control-killed", Traffic.API, 14.1 + NOTICE_S, False),
    "told connections of a node that dies": ("l4-node-dead", Traffic.TCP, 10.0, False),
}


@pytest.mark.parametrize(("kind", "traffic", "began", "may"), MAY.values(), ids=MAY)
def test_what_may_fail(kind: str, traffic: Traffic, began: float, may: bool) -> None:
    assert allowed(failed(began, began + 1, traffic=traffic), struck(kind)) is may


def test_what_a_fault_has_cost() -> None:
    record = Record([*well(9, 9.9, 12.9, 13), failed(10, 10.2), failed(10.5, 10.6), failed(10.7, 10.8, "refused")])
    found = {each.traffic: each for each in cost(record, struck("l7-worker-killed"))}
    assert set(found) == set(Traffic)
    http = found[Traffic.HTTP]
    assert (http.failed, http.wrong, http.why) == (3, 2, {"reset": 2, "refused": 1})
    assert http.gap_s == pytest.approx(3.0)
    assert http.may is May.IN_FLIGHT
    assert found[Traffic.UDP].failed == 0


def test_every_promise_that_was_not_kept_is_told() -> None:
    record = Record([failed(10.5, 10.6), failed(30, 31, traffic=Traffic.TCP), *well(9, 40)])
    said = broken(record, [struck("l4-agent-killed"), struck("control-killed", healed=None)])
    assert said == [
        "1. l4-agent-killed x: 1 of http failed: {'reset': 1}",
        "1. control-killed x: 1 of tcp failed: {'reset': 1}",
        "1. control-killed x: 1 of http failed: {'reset': 1}",
        f"1. control-killed x: not back and in step {BACK_S:.0f} s after: ",
    ]
    assert broken(record, []) == ["while there was no fault 1 of tcp failed: {'reset': 1}",
                                  "while there was no fault 1 of http failed: {'reset': 1}"]  # fmt: skip
    assert broken(Record(well(9, 40)), [struck("l4-agent-killed")]) == []


@pytest.mark.parametrize("count", [4, 5])
def test_a_few_datagrams_are_nobodys_fault(count: int) -> None:
    record = Record([failed(10.5 + number / 100, 12.5, "no answer", Traffic.UDP) for number in range(count)])
    assert bool(broken(record, [struck("control-killed")])) is (count > 4)
    assert bool(broken(record, [])) is (count > 4)


def test_promises_are_of_kinds_that_there_are() -> None:
    assert PROMISES.keys() <= BY_NAME.keys()
    assert all(Traffic.TCP not in promise for kind, promise in PROMISES.items() if "server" not in kind)


def test_reasons_most_often_first() -> None:
    assert list(reasons([failed(0, 1, "a"), failed(0, 1, "b"), failed(0, 1, "b")]).items()) == [("b", 2), ("a", 1)]
