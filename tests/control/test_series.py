"""Charts: cells, rings, what is read from them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from control import series
from control.history import MEMORY, OBJECTS_MOST, History
from control.rates_l7 import Load
from control.series import MOST, NAN, RINGS, TOTAL, Asked, Measured, answer, cell_of, measured, merged, row
from control.sight import NONE, Sight
from control.window import Window
from core.config import from_dict
from tests.control.test_topology import CLUSTER, l4_facts, l7_facts, status

NOW = 1_763_670_000.0


def of(requests: float | None, connections: float | None = 1.0, buckets: tuple[float, ...] = ()) -> Measured:
    rates = {**NONE, "requests_per_s": requests, "connections": connections}
    return Measured(rates, Load(requests, buckets=buckets) if buckets else None)


def test_a_row_has_each_object_at_its_number() -> None:
    found = row({"a": of(1.0), "b": of(None)}, {"a": 3, "b": 1, "c": 0})
    one, other = cell_of(found, 3), cell_of(found, 1)
    assert one is not None
    assert other is not None
    at = series.FIELDS.index("requests_per_s")
    assert (one[at], math.isnan(other[at])) == (1.0, True)
    assert cell_of(found, 4) is None


def test_a_minute_averages_rates_and_has_the_most_connections() -> None:
    rows = [row({"a": of(rate, held, (rate, 0.0, rate))}, {"a": 0}) for rate, held in ((2.0, 5.0), (4.0, 3.0))]
    found = answer(Asked(60, 0, 60), [(0, merged([*rows, row({"a": of(None, None)}, {"a": 0})]))], 0, 0)
    assert (found["requests_per_s"], found["connections"]) == ([3.0], [5.0])
    assert found["bytes_in_per_s"] == [None]
    assert found["latency_p50_s"] == [0.001], "half of them within the first millisecond"
    assert found["latency_p99_s"] == [pytest.approx(0.00495)]


def test_an_answer_has_a_place_for_each_slot() -> None:
    cells = {slot: row({"a": of(float(slot))}, {"a": 0}) for slot in (20, 40)}
    found = answer(Asked(10, 10, 60), cells.items(), 0, 0)
    assert found["requests_per_s"] == [None, 20.0, None, 40.0, None]
    assert answer(Asked(10, 10, 60), cells.items(), 0, 35)["requests_per_s"] == [None, None, None, 40.0, None]
    assert answer(Asked(10, 10, 60), cells.items(), 7, 0)["requests_per_s"] == [None] * 5


@pytest.mark.parametrize(
    ("back_s", "step", "ring"),
    [(600, 1, 10), (3600, 10, 10), (3700, 10, 60), (86_400, 10, 60), (90_000, 10, 600), (600, 30, 60), (600, 3600, 600),
     (10**9, 10, 600)],
    ids=str,
)  # fmt: skip
def test_the_finest_ring_that_reaches_back(back_s: float, step: int, ring: int) -> None:
    asked = Asked.of(NOW - back_s, NOW, step, NOW)
    assert asked.step == ring
    assert asked.start % ring == asked.end % ring == 0
    assert NOW - ring < asked.end <= NOW
    assert (asked.end - asked.start) // ring <= RINGS[ring]


def test_nothing_of_the_future() -> None:
    asked = Asked.of(NOW + 100, NOW + 200, 10, NOW)
    assert asked.start == asked.end


def test_all_that_is_measured() -> None:
    window, model = Window(0.0, 0.0, servers=False), from_dict(CLUSTER)
    for at in (0, 10, 20):
        reports = [status("l4", "l4-1", l4_facts(at, 100 * at)), status("l7", "l7-1", l7_facts(at, 20 * at))]
        found, dropped = measured(Sight(model, reports, window))
        window.take(reports)
    assert set(found) == {
        TOTAL, "nodes/l4/l4-1", "nodes/l7/l7-1", "listeners/mail", "listeners/web", "groups/server_groups/g",
        "groups/server_groups/t",
    }  # fmt: skip
    assert dropped == {"nodes": 0, "listeners": 0, "groups": 0}
    assert found[TOTAL].rates["bytes_in_per_s"] == 300
    assert found["listeners/web"].rates["requests_per_s"] == 22
    assert found["groups/server_groups/t"].rates["bytes_in_per_s"] == 100
    load = found["nodes/l7/l7-1"].load
    assert load is not None
    assert load.buckets == (20,)


def test_objects_are_bounded() -> None:
    listeners = [{**CLUSTER["listeners"][0], "name": f"w{n}", "port": 1000 + n} for n in range(MOST["listeners"] + 7)]
    model = from_dict({**CLUSTER, "listeners": listeners})
    found, dropped = measured(Sight(model, [], Window()))
    assert dropped["listeners"] == 7
    assert sum(name.startswith("listeners/") for name in found) == MOST["listeners"]


def test_numbers_stay_and_those_of_the_gone_are_used_again() -> None:
    history = History()
    first = history.keep(["a", "b"], 10)
    assert history.keep(["b", "c"], 20)["b"] == first["b"]
    assert history.objects()["a"] == (first["a"], 10), "a chart of what is gone is kept while there is room"
    many = [f"n{n}" for n in range(OBJECTS_MOST)]
    numbers = history.keep(many, 30)
    assert sorted(numbers.values()) == list(range(OBJECTS_MOST))
    assert "a" not in history.objects()
    history.close()


def test_slots_are_kept_and_forgotten(tmp_path: Path) -> None:
    history = History(tmp_path / "history.db")
    for slot in range(0, 100, 10):
        history.put_cells(10, slot, b"%d" % slot, slot - 30)
    assert list(history.cells(10, 0, 90)) == [(60, b"60"), (70, b"70"), (80, b"80")]
    history.close()
    again = History(tmp_path / "history.db")
    assert [slot for slot, _ in again.cells(10, 0, 1000)] == [60, 70, 80, 90]
    assert list(again.cells(60, 0, 1000)) == []
    again.close()


def test_a_full_disk_disturbs_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = History(tmp_path / "history.db")
    history._db.execute("PRAGMA max_page_count = 1")  # as many as there are
    for slot in range(200):
        history.put_cells(10, slot, bytes(range(256)) * slot, 0)
    assert history.failures > 0
    assert sum("not kept" in line for line in caplog.messages) == 1, "it is said once"
    history._db.execute("PRAGMA max_page_count = 100000")
    before = history.failures
    history.put_cells(10, 1000, b"again", 0)
    assert (history.failures, list(history.cells(10, 1000, 1001))) == (before, [(1000, b"again")])
    history.close()


def test_a_damaged_file_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(b"no database at all" * 1000)
    history = History(path)
    history.note({"a": 1})
    history.close()
    assert (tmp_path / "history.db.damaged").read_bytes().startswith(b"no database")
    assert "put aside" in caplog.text
    again = History(path)
    assert again.notes() == {"a": 1}
    again.close()


def test_a_file_that_cannot_be_made_leaves_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = History(tmp_path / "none" / "history.db")
    history.note({"a": 1})
    assert (history.notes(), "held in memory" in caplog.text) == ({"a": 1}, True)
    history.close()
    assert MEMORY == ":memory:"


def test_nan_is_no_number() -> None:
    assert NAN != NAN
