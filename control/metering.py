"""How the control plane keeps what was used: tables of leaves, as plain data. Pure.

A *table* has a row for each listener: usages by slot. It is kept as *leaves*, records of at most `LEAF_BYTES` each. The
key of a leaf ends with the largest name that belongs into it, that of the last one with `TOP`: so the leaf of a name is
the first whose key is not smaller, and those of an instance stand side by side. A leaf that grows too large is split.

Three kinds of tables: `h/HOUR` takes what nodes deliver, in slot 0. Later it is folded into `d/DAY`, whose slots are
the day's hours, and `m/MONTH`, whose slots are the month's days. Folding moves rows: in one write they leave the one
and come into the others. What is delivered late goes the same way once more, however late it is. `m/` outlives `d/`,
and is what days and months are counted from; a query adds what still waits in `h/`.
"""

from __future__ import annotations

import json
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Final

from core.usage import HOUR_S, NOTHING, NUMBERS, OPEN_ADDED, SIZE, Owner, Usage, merged, most_open, packed, unpacked

LEAF_BYTES: Final = 32 << 10
TOP: Final = "~"  # behind every name
HOURS, DAYS, MONTHS = "h/", "d/", "m/"
DAY_HOURS: Final = 24
EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
COLUMNS: Final = (*NUMBERS[:OPEN_ADDED], "connections_max")

Slots = Mapping[int, Usage]
Rows = Mapping[str, Slots]  # by "INSTANCE/LISTENER"


class By(StrEnum):
    """Periods of a query."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A record as it was read."""

    key: str
    revision: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class Change:
    """What is to become of a record that is at the revision `expected` (0: there is none). None: it goes."""

    key: str
    value: bytes | None
    expected: int


# -- names


def name_of(owner: Owner) -> str:
    return "/".join(owner)


def owner_of(name: str) -> Owner:
    instance, _, listener = name.partition("/")
    return instance, listener


def hours_table(hour: int) -> str:
    return f"{HOURS}{hour:07d}/"


def days_table(day: int) -> str:
    return f"{DAYS}{day:06d}/"


def months_table(month: int) -> str:
    return f"{MONTHS}{month:05d}/"


def number_of(key: str) -> int:
    """The hour, day or month of a leaf's table."""
    return int(key.split("/", 2)[1])


def month_of(day: int) -> tuple[int, int]:
    """The month, counted from the year 0, of a day since 1970; and which day of it this is, from 1."""
    found = date.fromordinal(EPOCH_DAY + day)
    return found.year * 12 + found.month - 1, found.day


def day_of(month: int, slot: int) -> int:
    """The reverse of `month_of`."""
    return date(month // 12, month % 12 + 1, slot).toordinal() - EPOCH_DAY


# -- leaves


def encoded(rows: Rows) -> bytes:
    """By name, without the zeros at the ends. Most of it is digits, which take half a byte each when deflated."""
    table = [[name, *([slot, *packed(usage)] for slot, usage in sorted(rows[name].items()))] for name in sorted(rows)]
    return zlib.compress(json.dumps(table, separators=(",", ":")).encode(), 6)


def decoded(value: bytes) -> dict[str, dict[int, Usage]]:
    """The reverse of `encoded`."""
    return {
        name: {slot: unpacked(numbers) for slot, *numbers in slots}
        for name, *slots in json.loads(zlib.decompress(value))
    }


def add(rows: Rows, more: Rows) -> dict[str, Slots]:
    """Both together."""
    total = dict(rows)
    for name, slots in more.items():
        found = dict(total.get(name, {}))
        for slot, usage in slots.items():
            found[slot] = merged(found[slot], usage) if slot in found else usage
        total[name] = found
    return total


def place(table: str, leaves: Sequence[Leaf], more: Rows) -> tuple[list[Change], dict[str, Slots]]:
    """Adds rows to a table, of which `leaves` are all that the names of `more` belong into, in their order.

    The changes, and the rows of these names as they are then.
    """
    bounds = [leaf.key.removeprefix(table) for leaf in leaves]
    parts: dict[int, dict[str, Slots]] = {}
    for name, slots in more.items():
        parts.setdefault(bisect_left(bounds, name), {})[name] = slots
    changes: list[Change] = []
    now: dict[str, Slots] = {}
    for at, part in sorted(parts.items()):
        leaf = leaves[at] if at < len(leaves) else Leaf(table + TOP, 0, {})
        rows = add(leaf.rows, part)
        now.update((name, rows[name]) for name in part)
        changes += _split(table, leaf, rows)
    return changes, now


def _split(table: str, leaf: Leaf, rows: Rows) -> Iterator[Change]:
    """The leaf with these rows, or several in its place, of which the last one has its key."""
    *others, last = _pieces(rows)
    for piece, value in others:
        yield Change(table + max(piece), value, 0)
    yield Change(leaf.key, last[1], leaf.revision)


def _pieces(rows: Rows) -> list[tuple[Rows, bytes]]:
    value = encoded(rows)
    if len(value) <= LEAF_BYTES or len(rows) < 2:
        return [(rows, value)]
    names = sorted(rows)
    half = len(names) // 2
    return [each for some in (names[:half], names[half:]) for each in _pieces({name: rows[name] for name in some})]


def take_out(leaf: Leaf, names: Iterable[str]) -> Change:
    """The leaf without these."""
    gone = set(names)
    left = {name: slots for name, slots in leaf.rows.items() if name not in gone}
    return Change(leaf.key, encoded(left) if left else None, leaf.revision)


# -- folding


def as_hour_of_day(rows: Rows, hour: int) -> Rows:
    """Rows of `h/HOUR` for `d/`."""
    return {name: {hour % DAY_HOURS: usage} for name, slots in rows.items() for usage in slots.values()}


def as_day_of_month(rows: Rows, slot: int, hours: Rows, hour: int) -> Rows:
    """Rows of `h/HOUR` for `m/`, where maxima are of all that is known of the hour: `hours` are those of `d/`."""
    found: dict[str, Slots] = {}
    for name, slots in rows.items():
        for usage in slots.values():
            whole = hours.get(name, {}).get(hour % DAY_HOURS, usage)
            found[name] = {slot: (*usage[:OPEN_ADDED], 0, max(most_open(usage), most_open(whole)))}
    return found


# -- queries


@dataclass(frozen=True, slots=True)
class Query:
    """`start` and `end` are hours, counted from 1970; what is empty is not asked for."""

    start: int
    end: int
    by: By = By.HOUR
    instance: str = ""
    listener: str = ""

    def wants(self, name: str) -> bool:
        instance, listener = owner_of(name)
        return self.instance in ("", instance) and self.listener in ("", listener)

    @property
    def first(self) -> str:
        """The first name that may be wanted."""
        return f"{self.instance}/{self.listener}" if self.instance else "!"

    @property
    def last(self) -> str:
        """The last name that may be wanted."""
        if not self.instance:
            return TOP
        return f"{self.instance}/{self.listener}" if self.listener else f"{self.instance}/{TOP}"

    def period(self, hour: int) -> int:
        """The hour, day or month of an hour."""
        if self.by is By.HOUR:
            return hour
        return hour // DAY_HOURS if self.by is By.DAY else month_of(hour // DAY_HOURS)[0]


class Sums:
    """The answer to a query, as leaves are fed in any order."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.rows: dict[tuple[int, str], Usage] = {}

    def feed(self, key: str, rows: Rows) -> None:
        """A leaf's rows; its table is read from its key."""
        kind, number = key[:2], number_of(key)
        query = self.query
        periods: dict[int, int] = {}
        for name, slots in rows.items():
            if not query.wants(name):
                continue
            for slot, usage in slots.items():
                if slot not in periods:
                    hour = _hour(kind, number, slot)
                    periods[slot] = query.period(hour) if query.start <= hour < query.end else -1
                if periods[slot] >= 0:
                    self._add((periods[slot], name), usage)

    def _add(self, place: tuple[int, str], usage: Usage) -> None:
        before = self.rows.get(place, NOTHING)
        if self.query.by is not By.HOUR:  # of several hours the largest maximum counts, not their sum
            usage = (*usage[:OPEN_ADDED], 0, most_open(usage))
        self.rows[place] = merged(before, usage)

    def answer(self) -> Iterator[tuple[str, str, str, Usage]]:
        """Rows of time, instance, listener and the numbers of COLUMNS, in this order."""
        for (period, name), usage in sorted(self.rows.items()):
            yield self.query_time(period), *owner_of(name), (*usage[:OPEN_ADDED], most_open(usage))

    def query_time(self, period: int) -> str:
        """When a period begins, as it is written."""
        if self.query.by is By.HOUR:
            return time_of(period)
        if self.query.by is By.DAY:
            return date.fromordinal(EPOCH_DAY + period).isoformat()
        return f"{period // 12:04d}-{period % 12 + 1:02d}"


def _hour(kind: str, number: int, slot: int) -> int:
    if kind == HOURS:
        return number
    return number * DAY_HOURS + slot if kind == DAYS else day_of(number, slot) * DAY_HOURS


def time_of(hour: int) -> str:
    """An hour as RFC 3339 has it."""
    return datetime.fromtimestamp(hour * HOUR_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def hour_of(text: str) -> int:
    """The hour of a date, or of a date and time of a full hour, in UTC. Raises ValueError with the remedy."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no time; give a date such as 2026-11-20, or 2026-11-20T13:00Z") from None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    seconds = (found - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    if seconds < 0 or seconds % HOUR_S:
        raise ValueError(f"{text[:40]!r} is no full hour; what is used is kept by the hour")
    return seconds // HOUR_S


assert SIZE == OPEN_ADDED + 2
