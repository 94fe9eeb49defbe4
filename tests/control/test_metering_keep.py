"""Deliveries count once, whatever happens between; folding and forgetting change no sum."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control import metering_keep
from control.metering import TOP, By, Query, days_table, hour_of, hours_table, months_table
from control.metering_keep import SPACE, BusyError, MeteringKeep, Retention, TooMuchError
from control.store import CHANGES_LIMIT, WRITE_LIMIT_BYTES, LeadershipLostError, Store, Write
from core.usage import HOUR_S, NOTHING, ROWS_LIMIT, SIZE, Delivery, Place, unpacked
from tests.control.memory_store import MemoryStore

NOW = hour_of("2026-11-20T13:00Z")
EPOCH = "0123456789abcdef"
MONTH = Query(hour_of("2026-11-01"), hour_of("2026-12-01"), By.MONTH)


class Clock:
    def __init__(self, hour: int = NOW) -> None:
        self.hour = hour

    def __call__(self) -> float:
        return self.hour * HOUR_S + 60.0


def keep_of(store: MemoryStore, clock: Clock | None = None, retention: Retention | None = None) -> MeteringKeep:
    return MeteringKeep(cast(Store, store), retention, clock or Clock())


def delivery(number: int, *rows: tuple[int, str, int], epoch: str = EPOCH) -> Delivery:
    return Delivery(epoch, number, {(hour, ("shop", name)): unpacked([count]) for hour, name, count in rows})


async def total(keep: MeteringKeep, query: Query = MONTH) -> dict[str, int]:
    return {name: usage[0] for (_, name), usage in (await keep.ask(query)).rows.items()}


async def test_a_delivery_counts_once() -> None:
    keep = keep_of(MemoryStore())
    first, second = delivery(1, (NOW, "web", 5), (NOW - 1, "web", 1)), delivery(2, (NOW, "web", 7))
    assert [await keep.take("l7", "a", each) for each in (first, first, second, first, second)] == [1, 1, 2, 2, 2]
    assert await total(keep) == {"shop/web": 13}
    assert await keep.take("l7", "b", first) == 1  # another node
    assert await keep.take("l4", "a", first) == 1
    assert await keep.take("l7", "a", delivery(1, (NOW, "web", 100), epoch="f" * 16)) == 1  # another epoch
    assert await keep.take("l7", "a", first) == 2
    assert await total(keep) == {"shop/web": 13 + 6 + 6 + 100}


async def test_two_control_nodes_that_take_the_same_count_it_once() -> None:
    store = MemoryStore()
    keeps = [keep_of(store), keep_of(store)]
    for number in range(1, 6):
        same = delivery(number, *((NOW, f"l{n}", 1) for n in range(50)))
        assert await asyncio.gather(*(keep.take("l7", "a", same) for keep in keeps)) == [number, number]
    assert await total(keeps[0]) == {f"shop/l{n}": 5 for n in range(50)}


async def test_another_control_node_takes_and_folds_it_in_between() -> None:
    """Then no table shows that it has been there; what is known of the node does."""
    store, clock = MemoryStore(), Clock()
    keep, other = keep_of(store, clock), keep_of(store, clock)
    same = delivery(1, (NOW - 5, "web", 5))
    write = store.write

    async def later(*changes: Write) -> int:
        store.write = write  # type: ignore[method-assign]
        await other.take("l7", "a", same)
        await other.fold()
        return await write(*changes)

    store.write = later  # type: ignore[method-assign]
    assert await keep.take("l7", "a", same) == 1
    assert await total(keep) == {"shop/web": 5}


async def test_a_large_delivery_is_taken_in_parts_each_once() -> None:
    """The process dies after the first part, and the delivery comes again."""
    store = MemoryStore()
    dice = random.Random(7)
    rows: dict[Place, tuple[int, ...]] = {
        (NOW - hour, ("shop", f"l{n:04d}")): tuple(dice.randrange(10**12) for _ in range(SIZE))
        for hour in range(120)
        for n in range(ROWS_LIMIT // 125)
    }
    large = Delivery(EPOCH, 1, rows)
    died = 0

    def die() -> None:
        nonlocal died
        died += 1
        if died == 2:
            raise OSError("killed")

    store.disturb = die
    keep = keep_of(store)
    with pytest.raises(OSError, match="killed"):
        await keep.take("l7", "a", large)
    store.disturb = lambda: None
    assert await keep_of(store).take("l7", "a", large) == 1
    assert sum((await total(keep)).values()) == sum(row[0] for row in rows.values())
    for write in store.writes:
        assert len(write) <= CHANGES_LIMIT
        assert sum(len(change.value or b"") for change in write) <= WRITE_LIMIT_BYTES
    assert len(store.writes) > 1


async def test_clocks_that_are_wrong_cost_nothing() -> None:
    keep = keep_of(MemoryStore())
    await keep.take("l7", "a", delivery(1, (0, "web", 5), (NOW + 999, "web", 7), (NOW, "web", 1)))
    assert await total(keep, Query(NOW, NOW + 1, By.HOUR)) == {"shop/web": 13}


async def test_records_that_change_all_the_time_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    keep = keep_of(store)
    await keep.take("l7", "a", delivery(1, (NOW, "web", 1)))

    def disturb() -> None:
        for key, (value, _) in [*store.held.items()]:
            store.revision += 1
            store.held[key] = value, store.revision

    store.disturb = disturb
    with pytest.raises(BusyError):
        await keep.take("l7", "a", delivery(2, (NOW, "web", 1)))
    store.disturb = lambda: None
    assert await total(keep) == {"shop/web": 1}


async def test_hours_become_days_and_what_is_late_is_added() -> None:
    store, clock = MemoryStore(), Clock()
    keep = keep_of(store, clock)
    rows = [(NOW - hour, "web", 10**hour) for hour in range(5)]
    await keep.take("l7", "a", delivery(1, *rows))
    assert await keep.fold() == 2  # those that are over for longer than two hours
    hours = Query(NOW - 10, NOW + 10, By.HOUR)
    before = await keep.ask(hours)
    assert len(before.rows) == 5
    clock.hour += 10
    await keep.take("l7", "a", delivery(2, (NOW - 4, "web", 1)))
    assert (await total(keep)) == {"shop/web": 11112}
    assert await keep.fold() == 4
    assert not [key for _, key in store.held if key.startswith("h/")]
    assert (await total(keep)) == {"shop/web": 11112}
    found = await keep.ask(hours)
    assert [usage[0] for usage in found.rows.values()] == [10001, 1000, 100, 10, 1]
    assert await keep.fold() == 0


async def test_the_most_connections_of_a_day_are_those_of_one_hour() -> None:
    keep = keep_of(MemoryStore(), clock := Clock())
    added, known = (*NOTHING[:-2], 3, 0), (*NOTHING[:-2], 0, 2)
    for number, usage in enumerate((added, added, known), 1):
        await keep.take("l7", f"n{number}", Delivery(EPOCH, 1, {(NOW, ("shop", "web")): usage}))
    await keep.take("l7", "n1", Delivery(EPOCH, 2, {(NOW - 1, ("shop", "web")): added}))
    day = Query(NOW - 13, NOW + 11, By.DAY)
    for _ in range(2):
        assert [row[3][-1] for row in (await keep.ask(day)).answer()] == [6]
        clock.hour += 5
        await keep.fold()
    late = Delivery(EPOCH, 3, {(NOW, ("shop", "web")): added})  # a third node's, say
    await keep.take("l7", "n1", late)
    await keep.fold()
    assert [row[3][-1] for row in (await keep.ask(day)).answer()] == [9]


async def test_what_is_old_goes() -> None:
    store, clock = MemoryStore(), Clock()
    keep = keep_of(store, clock, Retention(hours_days=3, days_days=40))
    await keep.take("l7", "a", delivery(1, (NOW, "web", 5)))
    clock.hour += 5
    await keep.fold()
    assert await keep.forget() == 0
    clock.hour += 24 * 4
    assert await keep.forget() == 1
    assert await total(keep, Query(NOW, NOW + 1, By.HOUR)) == {}
    assert await total(keep) == {"shop/web": 5}
    await keep.take("l7", "a", delivery(2, (NOW, "web", 7)))  # too late for the hours, not for the days
    await keep.fold()
    assert await total(keep) == {"shop/web": 12}
    assert not [key for _, key in store.held if key.startswith("d/")]
    clock.hour = hour_of("2027-01-10")
    assert await keep.forget() == 1
    assert await total(keep) == {}


@pytest.mark.parametrize(("text", "found"), [("92,400", Retention()), ("1,31", Retention(1, 31))])
def test_how_long_things_are_kept(text: str, found: Retention) -> None:
    assert Retention.of(text) == found


@pytest.mark.parametrize("text", ["", "92", "92,400,1", "0,400", "400,92", "1,30", "x,400", "92,999999", "92,-400"])
def test_what_is_no_retention(text: str) -> None:
    with pytest.raises(ValueError, match="days"):
        Retention.of(text)


async def test_who_loses_the_lead_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another control node folds meanwhile; this one does not end for that."""
    store, clock = MemoryStore(), Clock(NOW + 5)
    keep = keep_of(store, clock)
    await keep.take("l7", "a", delivery(1, (NOW, "web", 5)))
    monkeypatch.setattr(metering_keep, "FOLD_EVERY_S", 0.01)
    leading, led = store.leading, 0

    def lose(name: str):  # type: ignore[no-untyped-def]
        nonlocal led
        led += 1
        if led == 1:
            raise LeadershipLostError(name)
        return leading(name)

    store.leading = lose  # type: ignore[method-assign,assignment]
    keeping = asyncio.create_task(keep.keep())
    async with asyncio.timeout(20):
        while [key for _, key in store.held if key.startswith("h/")]:
            await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert led == 2


async def test_an_answer_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering_keep, "ROWS_LIMIT", 3)
    keep = keep_of(MemoryStore())
    await keep.take("l7", "a", delivery(1, *((NOW, f"l{n}", 1) for n in range(4))))
    with pytest.raises(TooMuchError, match="one instance"):
        await keep.ask(MONTH)
    assert await total(keep, Query(MONTH.start, MONTH.end, By.MONTH, "shop", "l2")) == {"shop/l2": 1}


async def test_a_query_that_is_overtaken_by_a_folding_begins_anew() -> None:
    store, clock = MemoryStore(), Clock(NOW + 5)
    keep, other = keep_of(store, clock), keep_of(store, clock)
    await keep.take("l7", "a", delivery(1, (NOW, "web", 5)))
    records, seen = store.records, 0

    async def while_reading(space: str, after: str = "", limit: int = 1000):  # type: ignore[no-untyped-def]
        nonlocal seen
        found = await records(space, after, limit)
        if after.startswith(hours_table(NOW)) and not seen:  # days are read, hours are about to be
            seen += 1
            store.records = records  # type: ignore[method-assign]
            await other.fold()
            return await records(space, after, limit)
        return found

    store.records = while_reading  # type: ignore[method-assign]
    assert await total(keep) == {"shop/web": 5}
    assert seen == 1


steps = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "again", "old", "fold", "hour", "forget"]),
        st.integers(0, 30),
        st.integers(1, 1000),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps, st.randoms(use_true_random=False))
async def test_sums_are_what_was_sent(plan: list[tuple[str, int, int]], dice: random.Random) -> None:
    """Two control nodes, three nodes, deliveries that come again and late, conflicts, folding in between."""
    store, clock = MemoryStore(), Clock()
    keeps = [keep_of(store, clock), keep_of(store, clock)]
    sent: dict[str, list[Delivery]] = {"a": [], "b": [], "c": []}
    expected: Counter[str] = Counter()

    def conflict() -> None:
        key = (SPACE, hours_table(clock.hour) + TOP)
        if key in store.held and dice.random() < 0.2:
            store.revision += 1
            store.held[key] = store.held[key][0], store.revision

    store.disturb = conflict
    for what, which, count in plan:
        keep, node = dice.choice(keeps), dice.choice("abc")
        if what == "send":
            rows = [(clock.hour - n * which, f"l{n % 4}", count) for n in range(1 + which % 5)]
            made = delivery(len(sent[node]) + 1, *rows)
            sent[node].append(made)
            for (_, (_, name)), usage in made.rows.items():
                expected[f"shop/{name}"] += usage[0]
            await keep.take("l7", node, made)
        elif what in ("again", "old") and sent[node]:
            await keep.take("l7", node, sent[node][-1 if what == "again" else which % len(sent[node])])
        elif what == "fold":
            await keep.fold()
        elif what == "hour":
            clock.hour += which
        else:
            await keep.forget()
    by_month = Query(NOW - 24 * 60 // 24 * 24 - NOW % 24, NOW + 24 * 90 - NOW % 24, By.MONTH)
    by_hour = Query(by_month.start, by_month.end, By.HOUR)
    for query in (by_month, by_hour):
        found: Counter[str] = Counter()
        for (_, name), usage in (await keeps[0].ask(query)).rows.items():
            found[name] += usage[0]
        assert found == expected


async def test_the_tables_stand_side_by_side() -> None:
    """What queries rely on: keys in the order of time."""
    assert hours_table(9) < hours_table(10) < hours_table(500_000)
    assert days_table(9) < days_table(20_000)
    assert months_table(9) < months_table(24_311)
    Write(SPACE, hours_table(500_000) + "i" * 80 + "/" + "l" * 80, b"")  # the longest key
