"""What clients of each listener have used, for bills. Pure.

Counters as `core.usage` has them, which never fall while the worker lives, whatever becomes of a listener meanwhile. An
exchange counts with its end; the bytes of one that goes on are counted ahead of it (`ahead`), and are left out then.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from core.usage import COUNTED, NUMBERS
from proxy.access_log import Record, Visit

Keep = Callable[[str, tuple[int, ...]], bool]  # writes down a listener's counters; False: not now

BYTES_IN, BYTES_OUT, CONNECTIONS = (NUMBERS.index(name) for name in ("bytes_in", "bytes_out", "connections"))
OTHER: Final = NUMBERS.index("requests_other")
# By the first digit of a status.
CLASSES: Final = {digit: NUMBERS.index(f"requests_{digit}xx") for digit in range(1, 6)}


class Bills:
    """Those of a worker."""

    def __init__(self) -> None:
        self._bills: defaultdict[str, list[int]] = defaultdict(lambda: [0] * COUNTED)
        self._changed: set[str] = set()  # since the last `store`
        self._moving: set[str] = set()  # since the last `moved`
        self._told: dict[str, tuple[int, int, int]] = {}

    def opened(self, listener: str) -> None:
        """A client's connection has begun."""
        self._bills[listener][CONNECTIONS] += 1
        self._touch(listener)

    def ahead(self, listener: str, bytes_in: int, bytes_out: int) -> None:
        """An exchange that goes on has moved so many bytes more; or, negative, ends and will be counted whole."""
        bill = self._bills[listener]
        bill[BYTES_IN] += bytes_in
        bill[BYTES_OUT] += bytes_out
        self._touch(listener)

    def record(self, record: Record) -> None:
        """Counts an exchange or a refused request."""
        bill = self._bills[record.listener]
        bill[CLASSES.get(record.status // 100, OTHER)] += 1
        bill[BYTES_IN] += record.bytes_in
        bill[BYTES_OUT] += record.bytes_out
        self._touch(record.listener)

    def visits(self, listener: str, statuses: Counter[int], bytes_in: int, bytes_out: int) -> None:
        """Counts exchanges of the common kind, all of one listener."""
        bill = self._bills[listener]
        for status, number in statuses.items():
            bill[CLASSES.get(status // 100, OTHER)] += number
        bill[BYTES_IN] += bytes_in
        bill[BYTES_OUT] += bytes_out
        self._touch(listener)

    def moved(self) -> list[tuple[str, tuple[int, int, int]]]:
        """Bytes in, bytes out and connections of each listener that have come since this was last asked.

        What an exchange had counted ahead may just have been taken back, to be counted whole: told next time.
        """
        moving, self._moving = self._moving, set()
        found = []
        for name in moving:
            bill, before = self._bills[name], self._told.get(name, (0, 0, 0))
            now = bill[BYTES_IN], bill[BYTES_OUT], bill[CONNECTIONS]
            gained = now[0] - before[0], now[1] - before[1], now[2] - before[2]
            if min(gained) < 0:
                self._moving.add(name)
            elif any(gained):
                self._told[name] = now
                found.append((name, gained))
        return found

    def _touch(self, listener: str) -> None:
        self._changed.add(listener)
        self._moving.add(listener)

    def store(self, keep: Keep) -> None:
        """Has the counters written down of each listener that has changed since the last time."""
        changed, self._changed = self._changed, set()
        for name in changed:
            if not keep(name, tuple(self._bills[name])):
                self._changed.add(name)


def by_listener(visits: Sequence[Visit]) -> Mapping[str, Sequence[Visit]]:
    """Visits side by side; most often all are of one listener."""
    names = {visit[1].listener for visit in visits}
    if len(names) == 1:
        return {names.pop(): visits}
    apart: defaultdict[str, list[Visit]] = defaultdict(list)
    for visit in visits:
        apart[visit[1].listener].append(visit)
    return apart
