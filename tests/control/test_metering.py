"""Tables of leaves: what is added is there, wherever it stands; times and periods."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.metering import (
    LEAF_BYTES,
    TOP,
    By,
    Change,
    Leaf,
    Query,
    Rows,
    Sums,
    add,
    day_of,
    days_table,
    decoded,
    encoded,
    hour_of,
    hours_table,
    month_of,
    months_table,
    place,
    take_out,
    time_of,
)
from core.usage import NOTHING, SIZE, Usage, unpacked

names = st.builds(lambda a, b: f"{a}/{b}", st.text("abz09.-", min_size=1, max_size=4), st.text("abz_", min_size=1))
usages = st.lists(st.integers(0, 10**12), max_size=SIZE).map(unpacked)
tables = st.dictionaries(names, st.dictionaries(st.integers(0, 31), usages, min_size=1, max_size=3), max_size=8)


def large(count: int, seed: int = 1) -> Rows:
    """Rows that hardly deflate."""
    dice = random.Random(seed)
    return {f"i/{n:05d}": {0: tuple(dice.randrange(10**12) for _ in range(SIZE))} for n in range(count)}


def applied(table: dict[str, Leaf], changes: list[Change]) -> dict[str, Leaf]:
    result = dict(table)
    for change in changes:
        assert change.expected == (table[change.key].revision if change.key in table else 0)
        if change.value is None:
            del result[change.key]
        else:
            assert len(change.value) <= LEAF_BYTES
            result[change.key] = Leaf(change.key, change.expected + 1, decoded(change.value))
    return dict(sorted(result.items()))


@given(tables)
def test_encoded_and_back(rows: Rows) -> None:
    assert decoded(encoded(rows)) == rows


@given(st.lists(tables, max_size=4))
def test_all_that_is_placed_is_there(parts: list[Rows]) -> None:
    held: dict[str, Leaf] = {}
    total: dict[str, dict[int, Usage]] = {}
    for rows in parts:
        changes, now = place("h/1/", [*held.values()], rows)
        held = applied(held, changes)
        total = add(total, rows)  # type: ignore[assignment]
        assert now == {name: total[name] for name in rows}
    assert {name: slots for leaf in held.values() for name, slots in leaf.rows.items()} == total


def test_a_leaf_that_grows_is_split_and_each_name_is_found_in_its_own() -> None:
    rows = large(3000)
    held = applied({}, place("d/1/", [], rows)[0])
    assert len(held) > 4
    assert next(reversed(held)) == "d/1/" + TOP
    bounds = [key.removeprefix("d/1/") for key in held]
    for leaf, low in zip(held.values(), ["", *bounds], strict=False):
        assert all(low < name <= leaf.key.removeprefix("d/1/") for name in leaf.rows)
    changes, _ = place("d/1/", [*held.values()], {"i/00007": {0: (1, *NOTHING[1:])}})
    assert [change.key for change in changes] == [next(iter(held))]
    after = applied(held, changes)
    assert after[changes[0].key].rows["i/00007"][0][0] == rows["i/00007"][0][0] + 1


def test_what_is_taken_out_is_gone() -> None:
    leaf = Leaf("h/1/~", 5, {"a/b": {0: NOTHING}, "a/c": {0: NOTHING}})
    assert take_out(leaf, ["a/b", "a/c"]) == Change("h/1/~", None, 5)
    left = take_out(leaf, ["a/b"])
    assert left.value is not None
    assert decoded(left.value).keys() == {"a/c"}


@given(st.integers(0, 60_000))
def test_days_of_months(day: int) -> None:
    assert day_of(*month_of(day)) == day


def test_times() -> None:
    hour = hour_of("2026-11-20T13:00Z")
    assert time_of(hour) == "2026-11-20T13:00:00Z"
    assert hour_of("2026-11-20") == hour - 13
    assert hour_of("2026-11-20T15:00+02:00") == hour
    for text, why in (("2026-11-20T13:30Z", "full hour"), ("tomorrow", "no time"), ("1960-01-01", "full hour")):
        with pytest.raises(ValueError, match=why):
            hour_of(text)


@settings(max_examples=30)
@given(st.sampled_from(By), st.integers(1, 60))
def test_a_period_holds_its_hours(by: By, days: int) -> None:
    start = hour_of("2026-10-17")
    query = Query(start, start + days * 24, by)
    sums = Sums(query)
    one = (1, *NOTHING[1:-2], 2, 0)
    for hour in range(start - 2, start + days * 24 + 2):
        sums.feed(hours_table(hour) + TOP, {"shop/web": {0: one}})
    rows = [*sums.answer()]
    assert sum(usage[0] for *_, usage in rows) == days * 24
    assert {usage[-1] for *_, usage in rows} == {2}  # a maximum is not added up
    assert rows[0][:3] == ({"hour": "2026-10-17T00:00:00Z", "day": "2026-10-17", "month": "2026-10"}[by], "shop", "web")
    assert len(rows) == {"hour": days * 24, "day": days, "month": 1 + (days > 15) + (days > 45)}[by]


def test_days_and_months_are_read_from_their_tables() -> None:
    hour = hour_of("2026-11-20T13:00Z")
    query = Query(hour - 13, hour + 11, By.HOUR)
    sums = Sums(query)
    sums.feed(days_table(hour // 24) + TOP, {"a/b": {13: (7, *NOTHING[1:])}, "a/c": {0: NOTHING}})
    assert [row[:3] for row in sums.answer()] == [
        ("2026-11-20T00:00:00Z", "a", "c"), ("2026-11-20T13:00:00Z", "a", "b"),
    ]  # fmt: skip
    days = Sums(Query(hour - 13, hour + 11, By.DAY))
    month, slot = month_of(hour // 24)
    days.feed(months_table(month) + TOP, {"a/b": {slot: (7, *NOTHING[1:]), slot + 1: (9, *NOTHING[1:])}})
    assert [(row[0], row[3][0]) for row in days.answer()] == [("2026-11-20", 7)]


def test_who_is_asked_for() -> None:
    wanted = Query(0, 1, By.HOUR, "shop", "web")
    assert [name for name in ("shop/web", "shop/api", "shoe/web") if wanted.wants(name)] == ["shop/web"]
    assert (wanted.first, wanted.last) == ("shop/web", "shop/web")
    assert Query(0, 1, By.HOUR, "shop").last == "shop/~"
    assert Query(0, 1).last == TOP
