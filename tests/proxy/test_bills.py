"""What is billed: the same however an exchange went, and when it is told."""

from __future__ import annotations

from proxy.access_log import Record, Visit, Visitor
from proxy.actions import NO_WAY
from proxy.bills import Bills, by_listener
from proxy.journal import Journal


def visit(listener: str, status: int, bytes_in: int = 10, bytes_out: int = 100) -> Visit:
    visitor = Visitor(listener, "192.0.2.7", "", "")
    return (0.0, visitor, b"GET", b"a", b"/", status, bytes_in, bytes_out, 0.1, "10.0.0.1:80", b"id", NO_WAY, ())


class Kept(dict[str, tuple[int, ...]]):
    full = False

    def keep(self, name: str, counters: tuple[int, ...]) -> bool:
        if not self.full:
            self[name] = counters
        return not self.full


def test_both_kinds_of_exchanges_are_billed_alike() -> None:
    one, other, kept = Journal(lambda _: None, lambda _: None), Journal(lambda _: None, lambda _: None), Kept()
    for listener, status in (("web", 200), ("web", 204), ("api", 404), ("web", 101), ("web", 502), ("api", 304)):
        one.visits.append(visit(listener, status))
        other.record(Record(listener, "c", status=status, bytes_in=10, bytes_out=100))
    one.keep = kept.keep
    one.store()
    found = dict(kept)
    kept.clear()
    other.keep = kept.keep
    other.store()
    assert found == kept
    assert kept["web"] == (40, 400, 0, 1, 2, 0, 0, 1, 0)
    assert kept["api"] == (20, 200, 0, 0, 0, 1, 1, 0, 0)


def test_statuses_that_are_none() -> None:
    bills, kept = Bills(), Kept()
    for status in (0, 99, 600, 999):
        bills.record(Record("web", "c", status=status))
    bills.store(kept.keep)
    assert kept["web"] == (0,) * 8 + (4,)


def test_bytes_ahead_of_the_end_are_not_counted_twice() -> None:
    bills, kept = Bills(), Kept()
    bills.ahead("web", 5, 70)
    bills.store(kept.keep)
    assert kept["web"][:2] == (5, 70)
    bills.ahead("web", -5, -70)
    bills.record(Record("web", "c", status=200, bytes_in=6, bytes_out=90))
    bills.store(kept.keep)
    assert kept["web"][:2] == (6, 90)


def test_what_cannot_be_kept_is_told_again_and_the_rest_once() -> None:
    bills, kept = Bills(), Kept()
    kept.full = True
    bills.opened("web")
    bills.store(kept.keep)
    kept.full = False
    bills.store(kept.keep)
    assert kept["web"][2] == 1
    kept.clear()
    bills.store(kept.keep)
    assert kept == {}


def test_visits_side_by_side() -> None:
    visits = [visit("a", 200), visit("b", 200), visit("a", 404)]
    assert {name: len(some) for name, some in by_listener(visits).items()} == {"a": 2, "b": 1}
    alone = [visits[0], visits[2]]
    assert by_listener(alone) == {"a": alone}
