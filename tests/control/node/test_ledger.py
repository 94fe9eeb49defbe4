"""What is counted is delivered once: whoever dies, whatever is lost on the way."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.node import ledger as module
from control.node.ledger import Counted, Ledger, LedgerError
from core.usage import NOTHING, NUMBERS, Delivery, Owner, Usage

WEB, API = ("shop", "web"), ("shop", "api")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metering.db"


def counted(count: int, owner: Owner | None = WEB, *, last: bool = False) -> Counted:
    return Counted(owner, (count,), last)


def drain(ledger: Ledger, limit: int = 1000) -> dict[tuple[int, Owner], Usage]:
    rows: dict[tuple[int, Owner], Usage] = {}
    while (delivery := ledger.seal(limit)) is not None:
        rows |= delivery.rows
        ledger.acknowledge(delivery, delivery.number)
    return rows


def firsts(rows: dict[tuple[int, Owner], Usage]) -> dict[tuple[int, Owner], int]:
    return {place: usage[0] for place, usage in rows.items()}


def test_gains_of_places_add_up_by_hour_and_owner(path: Path) -> None:
    ledger = Ledger(path)
    ledger.cut(5, {"s": {"1": counted(10), "2": counted(1), "3": counted(7, API)}})
    ledger.cut(5, {"s": {"1": counted(12), "2": counted(1), "3": counted(7, API)}})
    ledger.cut(6, {"s": {"1": counted(13), "2": counted(1), "3": counted(9, API)}})
    assert firsts(drain(ledger)) == {(5, WEB): 13, (5, API): 7, (6, WEB): 1, (6, API): 2}
    assert ledger.undelivered == 0
    ledger.close()


def test_the_next_process_goes_on_where_the_last_cut_was(path: Path) -> None:
    first = Ledger(path)
    first.cut(5, {"s": {"1": counted(10)}})
    first.close()
    second = Ledger(path)
    second.cut(5, {"s": {"1": counted(11, None)}})  # it does not know yet whose it is
    assert firsts(drain(second)) == {(5, WEB): 11}
    second.close()


def test_a_place_that_nobody_knows_waits(path: Path) -> None:
    ledger = Ledger(path)
    ledger.cut(5, {"s": {"1": counted(10, None)}})
    assert ledger.seal() is None
    ledger.cut(5, {"s": {"1": counted(12)}})
    assert firsts(drain(ledger)) == {(5, WEB): 12}
    ledger.close()


def test_counters_that_begin_anew(path: Path) -> None:
    """It has fallen; its place was the last of its kind; it was not there for a while; its source has another name."""
    ledger = Ledger(path)
    ledger.cut(5, {"s": {"1": counted(10)}})
    ledger.cut(5, {"s": {"1": counted(3)}})
    ledger.cut(5, {"s": {"1": counted(5, last=True)}})
    ledger.cut(5, {"s": {"1": counted(6)}})
    ledger.cut(5, {"s": {}})
    ledger.cut(5, {"s": {"1": counted(100)}})
    ledger.cut(5, {"t": {"1": counted(1000)}})
    assert ledger.sources == {"t"}
    assert firsts(drain(ledger)) == {(5, WEB): 10 + 3 + 2 + 6 + 100 + 1000}
    ledger.close()


def test_a_source_that_is_not_read_this_time_is_remembered(path: Path) -> None:
    ledger = Ledger(path)
    ledger.cut(5, {"s": {"1": counted(10)}})
    ledger.cut(5, {"t": {"1": counted(1)}}, besides={"s"})
    ledger.cut(5, {"s": {"1": counted(11)}})
    assert ledger.bases("s") == {"1": (WEB, (11, *NOTHING[1:-2]))}
    assert firsts(drain(ledger)) == {(5, WEB): 12}
    ledger.close()


def test_an_owner_that_changes_gets_what_is_counted_from_then_on(path: Path) -> None:
    ledger = Ledger(path)
    ledger.cut(5, {"s": {"1": counted(10)}})
    ledger.cut(5, {"s": {"1": counted(10, API)}})
    ledger.cut(5, {"s": {"1": counted(13, API)}})
    assert firsts(drain(ledger)) == {(5, WEB): 10, (5, API): 3}
    ledger.close()


def test_the_most_connections_of_an_hour_are_told_by_how_they_grow(path: Path) -> None:
    ledger = Ledger(path)
    told = []
    added, known = NUMBERS.index("open_added"), NUMBERS.index("open_known")
    for hour, most in ((5, 3), (5, 2), (5, 7), (4, 1), (5, 7), (6, 2)):
        ledger.cut(hour, {}, added={WEB: most}, known={API: most})
        rows = drain(ledger)
        told.append((rows.get((hour, WEB), NOTHING)[added], rows[hour, API][known]))
    assert told == [(3, 3), (0, 2), (4, 7), (1, 1), (0, 7), (2, 2)]
    ledger.close()


def test_what_is_sealed_stays_as_it_is_until_it_is_acknowledged(path: Path) -> None:
    ledger = Ledger(path)
    ledger.cut(5, {"s": {"1": counted(10)}})
    sealed = ledger.seal()
    ledger.cut(5, {"s": {"1": counted(15)}})
    assert ledger.seal() == sealed
    ledger.close()
    again = Ledger(path)
    assert again.seal() == sealed
    assert sealed is not None
    assert not again.acknowledge(sealed, sealed.number)
    assert not again.acknowledge(sealed, sealed.number)  # an answer that came twice
    after = again.seal()
    assert after is not None
    assert (after.epoch, after.number, firsts(dict(after.rows))) == (sealed.epoch, 2, {(5, WEB): 5})
    assert not again.acknowledge(sealed, 1)
    assert again.seal() == after
    again.close()


def test_a_copy_that_was_put_back_does_not_tell_it_again(path: Path) -> None:
    ledger = Ledger(path)
    ledger.cut(5, {"s": {"1": counted(10)}})
    sealed = ledger.seal()
    assert sealed is not None
    assert ledger.acknowledge(sealed, 4)
    assert ledger.undelivered == 0
    ledger.cut(5, {"s": {"1": counted(11)}})
    after = ledger.seal()
    assert after is not None
    assert (after.number, after.epoch == sealed.epoch, firsts(dict(after.rows))) == (1, False, {(5, WEB): 1})
    ledger.close()


def test_the_control_plane_is_away_for_months(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HOURS_LIMIT", 10)
    ledger = Ledger(path)
    for hour in range(100):
        ledger.cut(hour, {"s": {"1": counted(hour + 1), "2": counted(2 * hour, API)}})
    assert ledger.undelivered <= 2 * 11
    rows = firsts(drain(ledger, limit=3))
    assert sum(count for (_, owner), count in rows.items() if owner == WEB) == 100
    assert sum(count for (_, owner), count in rows.items() if owner == API) == 198
    assert rows[99, WEB] == 1
    assert min(hour for hour, _ in rows) == 90
    ledger.close()


def test_one_process_at_a_time(path: Path) -> None:
    ledger = Ledger(path)
    with pytest.raises(BlockingIOError):
        Ledger(path)
    ledger.close()
    Ledger(path).close()


def test_a_clock_is_remembered(path: Path) -> None:
    ledger = Ledger(path)
    assert ledger.clock() is None
    ledger.note_clock("boot-1", 12.5)
    assert ledger.clock() == ("boot-1", 12.5)
    ledger.close()


def test_what_cannot_be_used_says_so(path: Path) -> None:
    path.write_bytes(b"this is no database, and long enough for SQLite to see it" * 20)
    with pytest.raises(LedgerError, match="move it away"):
        Ledger(path)
    with pytest.raises(LedgerError, match="state directory"):
        Ledger(path / "below" / "metering.db")


def test_a_cut_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)
    ledger.cut(5, {"s": {"1": counted(10)}})

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "_add", fail)
        with pytest.raises(LedgerError, match="disk is full"):
            ledger.cut(5, {"s": {"1": counted(30)}})
    ledger.cut(5, {"s": {"1": counted(31)}})
    assert firsts(drain(ledger)) == {(5, WEB): 31}
    ledger.close()


class Places:
    """Counters somewhere: they go on whoever reads them, but for those of a source that goes."""

    def __init__(self) -> None:
        self.sources: dict[str, dict[str, int]] = {"s0": {}}
        self.counted: Counter[str] = Counter()
        self.made = 1

    def count(self, name: str, by: int) -> None:
        places = self.sources[f"s{self.made - 1}"]
        places[name] = places.get(name, 0) + by
        self.counted[name] += by

    def look(self) -> dict[str, dict[str, Counted]]:
        return {
            source: {name: Counted(("shop", name), (count,)) for name, count in places.items()}
            for source, places in self.sources.items()
        }


class Far:
    """The control plane, as it should be: takes each number of an epoch once."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.total: Counter[str] = Counter()

    def take(self, delivery: Delivery) -> int:
        if delivery.number > self.last.get(delivery.epoch, 0):
            assert delivery.number == self.last.get(delivery.epoch, 0) + 1
            self.last[delivery.epoch] = delivery.number
            for (_, (_, name)), usage in delivery.rows.items():
                self.total[name] += usage[0]
        return self.last[delivery.epoch]


what = st.sampled_from(["count", "count", "cut", "cut", "kill", "source", "lose", "unanswered", "deliver", "repeat"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(what, st.integers(1, 1000)), max_size=40), st.randoms(use_true_random=False))
def test_sums_are_what_was_counted(plan: list[tuple[str, int]], dice: random.Random) -> None:
    with TemporaryDirectory() as directory:
        deliver_all(Path(directory) / "metering.db", plan, dice)


def deliver_all(path: Path, plan: list[tuple[str, int]], dice: random.Random) -> None:
    places, far, ledger, hour = Places(), Far(), Ledger(path), 5
    sent: list[Delivery] = []
    for step, number in plan:
        hour += dice.choice((-1, 0, 0, 1))
        if step == "count":
            places.count(dice.choice("abc"), number)
        elif step == "cut":
            ledger.cut(hour, places.look())
        elif step == "kill":
            ledger.close()
            ledger = Ledger(path)
        elif step == "source":  # a worker has ended: what it has left is read, and then removed
            gone = [*places.sources]
            places.sources[f"s{places.made}"] = {}
            places.made += 1
            ledger.cut(hour, places.look())
            for name in gone:
                del places.sources[name]
        elif step == "repeat" and sent:
            far.take(dice.choice(sent))
        elif (delivery := ledger.seal(dice.randrange(1, 4))) is not None and step != "lose":
            sent.append(delivery)
            last = far.take(delivery)
            if step != "unanswered":
                assert not ledger.acknowledge(delivery, last)
    ledger.cut(hour, places.look())
    while (delivery := ledger.seal(2)) is not None:
        ledger.acknowledge(delivery, far.take(delivery))
    ledger.close()
    assert far.total == places.counted
