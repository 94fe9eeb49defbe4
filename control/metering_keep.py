"""Metering in the store: takes what nodes deliver, once; folds, forgets, and answers queries.

A delivery and the word that it has been taken are one write, so that it counts once, however often it is sent and to
whichever control node. A large one is taken in parts, each with how far it got. `RecordConflictError` means that
another control node was faster: everything is read again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from control import metering
from control.metering import DAY_HOURS, DAYS, HOURS, MONTHS, By, Change, Leaf, Query, Rows, Sums
from control.store import (
    CHANGES_LIMIT,
    WRITE_LIMIT_BYTES,
    LeadershipLostError,
    Record,
    RecordConflictError,
    Store,
    StoreError,
    Write,
)
from core.usage import HOUR_S, Delivery, Place, Usage, merged

log = logging.getLogger(__name__)

SPACE: Final = "metering"
NODES: Final = "n/"
FOLDED: Final = "folded"  # the record that each folding changes, so that a query can tell that there was one
EPOCHS_LIMIT: Final = 8  # of a node, the latest ones
TRIES: Final = 20
READ_AT_ONCE: Final = 16
FOLD_ROWS: Final = 200  # moved in one write
FOLD_EVERY_S: Final = 60.0
FOLD_AFTER_HOURS: Final = 2  # by then most of an hour has been delivered
AHEAD_HOURS: Final = 1  # a node's clock may be ahead
ROWS_LIMIT: Final = 200_000  # of an answer
RETENTION_LIMIT_DAYS: Final = 10 * 366
MONTH_DAYS: Final = 31  # the tables of days are those of months


class TooMuchError(Exception):
    """The answer would be too long; the text has the remedy."""


class BusyError(Exception):
    """Other control nodes changed everything again and again; later it works."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long hours are kept, and then days: 92 days and 13 months."""

    hours_days: int = 92
    days_days: int = 400

    @classmethod
    def of(cls, text: str) -> Retention:
        """HOURS,DAYS, both in days. Raises ValueError with the remedy."""
        parts = text.split(",")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
            raise ValueError(f"{text!r}: give two numbers of days, such as 92,400")
        hours, days = map(int, parts)
        if not 1 <= hours <= days <= RETENTION_LIMIT_DAYS or days < MONTH_DAYS:
            raise ValueError(f"{text!r}: hours 1 day or more, days {MONTH_DAYS} to {RETENTION_LIMIT_DAYS} and no less")
        return cls(hours, days)


class MeteringKeep:
    """One per process."""

    def __init__(
        self, store: Store, retention: Retention | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._retention = retention or Retention()
        self._clock = clock
        self._folding = asyncio.Lock()  # no query in between

    def now(self) -> float:
        return self._clock()

    # -- what nodes deliver

    async def take(self, role: str, node: str, delivery: Delivery) -> int:
        """Counts a delivery, unless it has been; the number of the last one of its epoch that has been counted whole.

        Raises BusyError.
        """
        rows = sorted(delivery.rows.items())
        for _ in range(TRIES * (len(rows) // 50 + 1)):
            record = await self._store.record(SPACE, f"{NODES}{role}/{node}")
            epochs: dict[str, list[int]] = {} if record is None else json.loads(record.value)
            number, done = epochs.get(delivery.epoch, [0, 0])
            if delivery.number <= number:
                return number
            known = epochs.pop(delivery.epoch, None)
            if known is None and epochs:
                log.info("%s %s begins a new epoch of metering", role, node)
            if known is not None and delivery.number > number + 1:
                log.error("%s %s: deliveries %d to %d are missing", role, node, number + 1, delivery.number - 1)
            if delivery.number > number + 1:
                done = 0  # what had been begun is not this one
            changes, count = await self._placed(rows[done:])
            whole = done + count == len(rows)
            epochs[delivery.epoch] = [delivery.number, 0] if whole else [number, done + count]
            word = json.dumps(dict([*epochs.items()][-EPOCHS_LIMIT:])).encode()
            changes.append(Change(f"{NODES}{role}/{node}", word, record.revision if record else 0))
            try:
                await self._store.write(*map(_write, changes))
            except RecordConflictError:
                continue
            if whole:
                return delivery.number
        raise BusyError("the records change too fast; send it again")

    async def _placed(self, rows: Sequence[tuple[Place, Usage]]) -> tuple[list[Change], int]:
        """The changes that the first rows make, as many as one write takes; and how many that is."""
        count = len(rows)
        while True:
            changes = await self._changes(rows[:count])
            if _fits(changes) or count == 1:
                return changes, count
            count = (count + 1) // 2

    async def _changes(self, rows: Sequence[tuple[Place, Usage]]) -> list[Change]:
        now = int(self._clock()) // HOUR_S
        tables: dict[int, dict[str, dict[int, Usage]]] = {}
        for (hour, owner), usage in rows:
            if not now - self._retention.days_days * DAY_HOURS < hour <= now + AHEAD_HOURS:
                hour = now  # a clock that is wrong does not make it less
            table, name = tables.setdefault(hour, {}), metering.name_of(owner)
            table[name] = {0: merged(table[name][0], usage) if name in table else usage}
        changes: list[Change] = []
        for hour, more in tables.items():
            table_name = metering.hours_table(hour)
            leaves = await self._leaves(table_name, min(more), max(more))
            changes += metering.place(table_name, leaves, more)[0]
        return changes

    async def _leaves(self, table: str, first: str, last: str) -> list[Leaf]:
        """Those that names from `first` to `last` belong into."""
        return [leaf async for leaf in self._walk(table, first, last)]

    async def _walk(self, table: str, first: str, last: str) -> AsyncIterator[Leaf]:
        after = table + first[:-1]  # the leaf that ends with `first` is one of them, and behind this
        while True:
            records = await self._store.records(SPACE, after, READ_AT_ONCE)
            for record in records:
                if not record.key.startswith(table):
                    return
                rows = await asyncio.to_thread(metering.decoded, record.value)
                yield Leaf(record.key, record.revision, rows)
                if record.key.removeprefix(table) >= last:
                    return
            if len(records) < READ_AT_ONCE:
                return
            after = records[-1].key

    # -- folding and forgetting

    async def keep(self) -> None:
        """Folds and forgets, until cancelled; one control node at a time."""
        while True:
            try:
                async with self._store.leading("metering"):
                    while True:
                        await self.fold()
                        await self.forget()
                        await asyncio.sleep(FOLD_EVERY_S)
            except (RecordConflictError, LeadershipLostError, StoreError) as error:
                log.warning("metering: %s; again in %.0f s", error, FOLD_EVERY_S)
            await asyncio.sleep(FOLD_EVERY_S)

    async def fold(self) -> int:
        """Moves hours that are over into the tables of days and months; how many rows. Raises RecordConflictError."""
        moved = conflicts = 0
        until = int(self._clock()) // HOUR_S - FOLD_AFTER_HOURS
        while (leaf := await self._first_hour(until)) is not None:
            try:
                async with self._folding:
                    moved += await self._fold(leaf)
            except RecordConflictError:  # something came late for this very hour
                conflicts += 1
                if conflicts == TRIES:
                    raise
        return moved

    async def _first_hour(self, until: int) -> Leaf | None:
        records = await self._store.records(SPACE, HOURS, 1)
        if not records or not records[0].key.startswith(HOURS) or metering.number_of(records[0].key) >= until:
            return None
        return Leaf(records[0].key, records[0].revision, metering.decoded(records[0].value))

    async def _fold(self, leaf: Leaf) -> int:
        count = FOLD_ROWS
        while True:
            names = sorted(leaf.rows)[:count]
            changes = await self._folded(leaf, {name: leaf.rows[name] for name in names})
            if _fits(changes) or count == 1:
                await self._store.write(*map(_write, changes), Write(SPACE, FOLDED, b""))
                return len(names)
            count = (count + 1) // 2

    async def _folded(self, leaf: Leaf, rows: Rows) -> list[Change]:
        hour = metering.number_of(leaf.key)
        day, (first, last) = hour // DAY_HOURS, (min(rows), max(rows))
        changes = [metering.take_out(leaf, rows)]
        hours: Rows = {}
        if day > self._oldest(self._retention.hours_days):
            table = metering.days_table(day)
            leaves = await self._leaves(table, first, last)
            more, hours = await asyncio.to_thread(metering.place, table, leaves, metering.as_hour_of_day(rows, hour))
            changes += more
        month, slot = metering.month_of(day)
        table = metering.months_table(month)
        leaves = await self._leaves(table, first, last)
        days = metering.as_day_of_month(rows, slot, hours, hour)
        more, _ = await asyncio.to_thread(metering.place, table, leaves, days)
        return changes + more

    def _oldest(self, days: int) -> int:
        """The last day that is not kept any more."""
        return int(self._clock()) // HOUR_S // DAY_HOURS - days

    async def forget(self) -> int:
        """Deletes what has been kept long enough; how many records. Raises RecordConflictError."""
        gone = 0
        oldest = self._oldest(self._retention.days_days)
        for kind, until in (
            (DAYS, self._oldest(self._retention.hours_days)),
            (MONTHS, metering.month_of(max(0, oldest))[0]),
        ):
            while any(_is_old(each, kind, until) for each in await self._store.records(SPACE, kind, 1)):
                records = await self._store.records(SPACE, kind, CHANGES_LIMIT - 1)
                old = [each for each in records if _is_old(each, kind, until)]
                async with self._folding:
                    writes = (Write(SPACE, each.key, None, each.revision) for each in old)
                    await self._store.write(*writes, Write(SPACE, FOLDED, b""))
                gone += len(old)
        return gone

    # -- queries

    async def ask(self, query: Query) -> Sums:
        """What a query asks for. Raises TooMuchError, BusyError."""
        for _ in range(TRIES):
            async with self._folding:
                before = await self._store.record(SPACE, FOLDED)
                sums = await self._sum(query)
                after = await self._store.record(SPACE, FOLDED)
            if (before and before.revision) == (after and after.revision):
                return sums
        raise BusyError("what is asked for is being folded; ask again")

    async def _sum(self, query: Query) -> Sums:
        sums = Sums(query)
        first, last = query.start // DAY_HOURS, (query.end - 1) // DAY_HOURS
        tables: list[str]
        if query.by is By.HOUR:
            first = max(first, self._oldest(self._retention.hours_days))
            tables = [metering.days_table(day) for day in range(first, last + 1)]
        else:
            first = max(first, self._oldest(self._retention.days_days))
            months = dict.fromkeys(metering.month_of(max(0, day))[0] for day in range(first, last + 1))
            tables = [metering.months_table(month) for month in months]
        tables += [metering.hours_table(hour) for hour in await self._waiting(query)]
        for table in tables:
            async for leaf in self._walk(table, query.first, query.last):
                await asyncio.to_thread(sums.feed, leaf.key, leaf.rows)
                if len(sums.rows) > ROWS_LIMIT:
                    raise TooMuchError(
                        f"these are more than {ROWS_LIMIT} rows; ask for less time, one instance, or by day or month"
                    )
        return sums

    async def _waiting(self, query: Query) -> list[int]:
        """The hours asked for of which something has not been folded."""
        found: list[int] = []
        after = metering.hours_table(query.start)
        while True:
            records = await self._store.records(SPACE, after, 1)
            if not records or not records[0].key.startswith(HOURS):
                return found
            hour = metering.number_of(records[0].key)
            if hour >= query.end:
                return found
            found.append(hour)
            after = metering.hours_table(hour) + metering.TOP


def _write(change: Change) -> Write:
    return Write(SPACE, change.key, change.value, change.expected)


def _is_old(record: Record, kind: str, until: int) -> bool:
    return record.key.startswith(kind) and metering.number_of(record.key) < until


def _fits(changes: Sequence[Change]) -> bool:
    """Whether one write takes these, and a little more."""
    size_bytes = sum(len(change.value or b"") for change in changes)
    return len(changes) < CHANGES_LIMIT - 1 and size_bytes < WRITE_LIMIT_BYTES - 4096
