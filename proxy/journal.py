"""What exchanges leave behind: counters, and records for the access log.

A record that the fast lane leaves is a `Visit`, a tuple that costs next to nothing to make. Visits wait, SETTLE_AT of
them at most, and are counted and handed on together: by the worker a few times a second, and before anybody reads
counters or writes a record of the common kind, so that counters are never behind and lines keep their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from proxy.access_log import Record, Visit, record_of
from proxy.bills import Bills, Keep, by_listener
from proxy.errors import Code
from proxy.meters import Document, Meters
from proxy.talkers import Talkers

# Some 50 µs at a time. 512 are 5 % cheaper each, and hold up the loop, and so everybody, for half a millisecond.
SETTLE_AT: Final = 64

_CLASSES: Final = ("status_0xx", "status_1xx", "status_2xx", "status_3xx", "status_4xx", "status_5xx") + (
    "status_other",
) * 4


class Journal:
    """Counters and log of one worker. Without `write_visits`, visits become records one by one."""

    def __init__(
        self,
        write_record: Callable[[Record], None],
        write_visits: Callable[[Sequence[Visit]], None] | None = None,
    ) -> None:
        self.meters = Meters()
        self.bills = Bills()
        self.talkers = Talkers()
        self.keep: Keep | None = None  # of the bills; see proxy/cells.py
        self._write_record = write_record
        self._write_visits = write_visits or self._write_one_by_one
        self._counters: Counter[str] = Counter()
        self.visits: list[Visit] = []  # to be appended to; `settle` from SETTLE_AT on

    def count(self, name: str, more: int = 1) -> None:
        """Adds to a counter. What waits goes on waiting: settled one by one, visits would cost 8 µs more each."""
        self._counters[name] += more

    @property
    def counters(self) -> Counter[str]:
        """By name."""
        self.settle()
        return self._counters

    def record(self, record: Record, code: Code | None = None, source: str = "", offset: int | None = None) -> None:
        """Counts and logs an exchange, or a request that was refused."""
        counters = self.counters
        counters["requests"] += 1
        counters[_CLASSES[record.status // 100]] += 1
        counters["bytes_in"] += record.bytes_in
        counters["bytes_out"] += record.bytes_out
        if code is not None:
            counters["error_" + code.label] += 1
            record.error_source, record.error_code = source, code.label
            record.error_detail = code.said(offset)
        self.meters.record(record)
        self.bills.record(record)
        if self.talkers.on:
            self.talkers.record(record)
        self._write_record(record)

    def settle(self) -> None:
        """Counts and hands on the visits that wait."""
        if not self.visits:
            return
        visits, self.visits = self.visits, []
        counters = self._counters
        counters["requests"] += len(visits)
        for listener, some in by_listener(visits).items():
            statuses = Counter([visit[5] for visit in some])
            bytes_in, bytes_out = sum([visit[6] for visit in some]), sum([visit[7] for visit in some])
            for status, number in statuses.items():
                counters[_CLASSES[status // 100]] += number
            counters["bytes_in"] += bytes_in
            counters["bytes_out"] += bytes_out
            self.bills.visits(listener, statuses, bytes_in, bytes_out)
        self.meters.visits(visits)
        if self.talkers.on:
            self.talkers.visits(visits)
        self._write_visits(visits)

    def news(self) -> dict[str, dict[str, Document]]:
        """What `Meters.news` has, with the bytes of exchanges that go on."""
        self.settle()
        for listener, gained in self.bills.moved():
            self.meters.moved(listener, gained)
        return self.meters.news()

    def store(self) -> None:
        """Writes the bills down where they outlive us."""
        self.settle()
        if self.keep is not None:
            self.bills.store(self.keep)

    def _write_one_by_one(self, visits: Sequence[Visit]) -> None:
        for visit in visits:
            self._write_record(record_of(visit))
