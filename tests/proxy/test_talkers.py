"""Who talks through a worker: in windows, sampled, bounded, and only while somebody asks."""

from __future__ import annotations

from typing import Any

import pytest

from core import talkers as lists
from core.talkers import ASKED_S, WINDOW_S, Tally, Watch, together
from proxy.access_log import Record, Visitor, Way
from proxy.journal import Journal
from proxy.talkers import SAMPLE, Talkers, asked


def visit(client: str, server: str = "10.0.0.1:80") -> Any:
    return (
        0.0,
        Visitor("web", client, "", ""),
        b"GET",
        b"h",
        b"/",
        200,
        10,
        100,
        0.001,
        server,
        b"i",
        Way("", "b"),
        (),
    )


def told(journal: Journal, by: str, now: float) -> dict[str, tuple[float, ...]]:
    [(_, rows)] = journal.talkers.told(by, now)
    return dict(rows)


def test_nothing_is_counted_until_somebody_asks() -> None:
    journal = Journal(lambda _: None)
    journal.visits += [visit("a")] * 100
    journal.settle()
    assert told(journal, "client", 5.0) == {}
    journal.visits += [visit("a")] * 8 + [visit("b", "")] * 2
    journal.settle()
    record = Record("web", "b", status=200, bytes_in=20, bytes_out=40)
    record.upstream = "10.0.0.2:80"
    journal.record(record)
    assert told(journal, "client", 7.0) == {"a": (4.0, 40.0, 400.0), "b": (1.5, 20.0, 120.0)}
    assert told(journal, "server", 7.0)["10.0.0.2:80"] == (0.5, 10.0, 20.0)


def test_of_many_a_part_is_looked_at_and_counts_for_all() -> None:
    talkers = Talkers()
    talkers.told("client", 0.0)
    for _ in range(SAMPLE):
        talkers.visits([visit(f"c{n % 4}") for n in range(64)])
    [(seconds, rows)] = talkers.told("client", 1.0)
    assert (seconds, dict(rows)) == (
        1.0,
        {f"c{n}": tuple(16.0 * SAMPLE * each for each in (1, 10, 100)) for n in range(4)},
    )


def test_windows_follow_each_other_and_end() -> None:
    watch = Watch({"client": 1})
    watch.ask(0.0)
    watch.now["client"].add("a", (100,))
    watch.tick(WINDOW_S)
    watch.now["client"].add("b", (30,))
    assert watch.top("client", 9, WINDOW_S + 10) == (20.0, [("a", (5.0,)), ("b", (1.5,))])
    watch.tick(2 * WINDOW_S)
    assert [name for name, _ in watch.top("client", 9, 2 * WINDOW_S)[1]] == ["b"]
    watch.tick(ASKED_S)
    assert (watch.on, watch.now, watch.top("client", 9, ASKED_S)[1]) == (False, {}, [])


def test_a_list_is_bounded_and_keeps_those_who_talk() -> None:
    tally = Tally(1, most=100)
    for n in range(10_000):
        tally.add(f"n{n}", (1,))
        tally.add("loud", (1,))
    assert len(tally.rows) <= 100
    assert tally.rows["loud"] == [10_000]


def test_lists_add_up() -> None:
    assert together([[("a", (1.0, 2.0))], [("b", (5.0, 0.0)), ("a", (3.0, 4.0))]], 9) == [
        ("b", (5.0, 0.0)), ("a", (4.0, 6.0)),
    ]  # fmt: skip


async def test_all_workers_together() -> None:
    async def workers(what: str, **arguments: object) -> list[Any]:
        assert (what, arguments) == ("talkers", {"by": "client"})
        return [[2.0, [["a", [1.0, 2.0, 3.0]]]], [3.0, [["a", [1.0, 0.0, 0.0]]]]]

    found = await asked(workers, "client")
    row = {"client": "a", "requests_per_s": 2.0, "bytes_in_per_s": 2.0, "bytes_out_per_s": 3.0}
    assert found == {"ready": True, "window_s": 3.0, "talkers": [row]}
    with pytest.raises(ValueError, match="by is one of client, server"):
        await asked(workers, "flow")
    assert lists.TOLD_MOST < lists.MOST
