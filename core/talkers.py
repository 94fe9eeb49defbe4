"""Top lists of whoever talks, in bounded memory: names with amounts, of the last seconds. Pure.

A list has room for MOST names. When it is full, the half with the least goes, so that those who talk much stay; of
those who went and come back only what came since is counted. Windows of WINDOW_S follow each other; what is told is of
the last whole one and the one under way. Nothing is counted but for ASKED_S after somebody has asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

MOST: Final = 4096
WINDOW_S: Final = 10.0
ASKED_S: Final = 30.0
TOLD_MOST: Final = 200

Row = tuple[str, tuple[float, ...]]  # a name, and amounts in a second


class Tally:
    """Amounts by name; `width` of them each, the first of which says who stays."""

    def __init__(self, width: int, most: int = MOST) -> None:
        self.rows: dict[str, list[int]] = {}
        self._width = width
        self._most = most

    def add(self, name: str, amounts: Sequence[int]) -> None:
        row = self.rows.get(name)
        if row is None:
            if len(self.rows) >= self._most:
                self._cut()
            row = self.rows[name] = [0] * self._width
        for at, amount in enumerate(amounts):
            row[at] += amount

    def _cut(self) -> None:
        order = sorted(self.rows, key=lambda name: -self.rows[name][0])
        self.rows = {name: self.rows[name] for name in order[: self._most // 2]}


class Watch:
    """Whether somebody has asked lately, and lists of several kinds over windows."""

    def __init__(self, kinds: Mapping[str, int], window_s: float = WINDOW_S, asked_s: float = ASKED_S) -> None:
        self.on = False
        self._kinds, self._window_s, self._asked_s = dict(kinds), window_s, asked_s
        self._until = float("-inf")
        self._begun = 0.0
        self._before: tuple[float, dict[str, Tally]] | None = None
        self.now: dict[str, Tally] = {}

    def ask(self, now: float) -> None:
        """Somebody wants to know."""
        self._until = now + self._asked_s
        if not self.on:
            self.on, self._begun, self._before = True, now, None
            self.now = {kind: Tally(width) for kind, width in self._kinds.items()}

    def tick(self, now: float) -> None:
        """To be called each second or so."""
        if self.on and now >= self._until:
            self.on, self.now, self._before = False, {}, None
        elif self.on and now - self._begun >= self._window_s:
            self._before = now - self._begun, self.now
            self._begun, self.now = now, {kind: Tally(width) for kind, width in self._kinds.items()}

    def top(self, kind: str, limit: int, now: float) -> tuple[float, list[Row]]:
        """Over how many seconds, and who talks most by the first amount."""
        seconds, tallies = now - self._begun, [self.now[kind]] if self.on else []
        if self._before is not None:
            seconds, tallies = seconds + self._before[0], [*tallies, self._before[1][kind]]
        if seconds <= 0:
            return 0.0, []
        return seconds, together([_rows(tally, seconds) for tally in tallies], limit)


def _rows(tally: Tally, seconds: float) -> list[Row]:
    return [(name, tuple(amount / seconds for amount in row)) for name, row in tally.rows.items()]


def together(lists: Iterable[Iterable[Row]], limit: int) -> list[Row]:
    """Several lists as one: amounts add up, the most first."""
    found: dict[str, tuple[float, ...]] = {}
    for rows in lists:
        for name, amounts in rows:
            before = found.get(name)
            found[name] = amounts if before is None else tuple(map(sum, zip(before, amounts, strict=True)))
    return sorted(found.items(), key=lambda row: (-row[1][0], row[0]))[:limit]
