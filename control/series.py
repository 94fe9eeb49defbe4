"""Charts of the last hours and days: what the nodes counted, in rings of cells. Pure.

Every ten seconds each object gets a cell: what passed in a second, and how requests were spread over the buckets of
time. Six of them become the cell of a minute, ten of those that of ten minutes: rates are averaged over the cells that
know them, connections are the most of them, and percentiles are read off the buckets, so that they are those of all
requests of the minute. What is not known is NaN in a cell and null in an answer.

The objects that are kept are bounded: all together, and of nodes, listeners and groups the first MOST of each.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from control.rates_l7 import BOUNDS, Load
from control.sight import GROUP_KINDS, L7, GroupKey, Rates, Sight, of_flow, of_load
from core.model import Listener

# Seconds of a slot → how many there are: an hour, a day, 14 days.
RINGS: Final = {10: 360, 60: 1440, 600: 2016}
STEP_S: Final = min(RINGS)
MOST: Final = {"nodes": 64, "listeners": 128, "groups": 128}
TOTAL: Final = "total"
FIELDS: Final = (
    "bytes_in_per_s", "bytes_out_per_s", "connections_per_s", "connections", "requests_per_s", "errors_per_s",
)  # fmt: skip
LEVELS: Final = frozenset({FIELDS.index("connections")})
BUCKETS: Final = len(BOUNDS) + 1
QUANTILES: Final = {"latency_p50_s": 0.5, "latency_p99_s": 0.99}
_CELL: Final = struct.Struct(f"<{len(FIELDS) + BUCKETS}f")
NAN: Final = float("nan")
EMPTY: Final = _CELL.pack(*[NAN] * (len(FIELDS) + BUCKETS))


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of one object at one time."""

    rates: Rates
    load: Load | None = None

    def cell(self) -> bytes:
        numbers = [NAN if (value := self.rates[name]) is None else value for name in FIELDS]
        buckets = self.load.buckets if self.load is not None else ()
        padded = [*buckets, *[0.0] * (BUCKETS - len(buckets))] if buckets else [NAN] * BUCKETS
        return _CELL.pack(*numbers, *padded[:BUCKETS])


def measured(sight: Sight) -> tuple[dict[str, Measured], dict[str, int]]:
    """Everything that is kept, by name, and how many of each kind are not."""
    model = sight.model
    found = {TOTAL: Measured(sight.clients(), sight.total_load())}
    dropped = dict.fromkeys(MOST, 0)
    groups, loads = sight.group_rates(), sight.group_loads()
    each: dict[str, Iterable[tuple[str, Measured]]] = {
        "nodes": [(f"nodes/{n.status.role}/{n.status.name}", Measured(n.rates, n.load)) for n in sight.nodes],
        "listeners": (
            (f"listeners/{listener.name}", _listener(sight, listener))
            for listener in list(model.listeners.values())[: MOST["listeners"]]
        ),
        "groups": (
            (f"groups/{kind}/{name}", Measured(groups.get((kind, name), of_flow(None)), loads.get((kind, name))))
            for kind, name in _groups(sight)[: MOST["groups"]]
        ),
    }
    counts = {"nodes": len(sight.nodes), "listeners": len(model.listeners), "groups": len(_groups(sight))}
    for kind, objects in each.items():
        found |= dict(list(objects)[: MOST[kind]])
        dropped[kind] = max(0, counts[kind] - MOST[kind])
    return found, dropped


def _groups(sight: Sight) -> list[GroupKey]:
    return [(kind, name) for kind in GROUP_KINDS for name in getattr(sight.model, kind)]


def _listener(sight: Sight, listener: Listener) -> Measured:
    if listener.protocol in L7:
        load = sight.listener_load(listener.name)
        return Measured(of_load(load), load)
    return Measured(sight.listener(listener))


def row(found: Mapping[str, Measured], numbers: Mapping[str, int]) -> bytes:
    """The cells of all objects, each at its number."""
    cells = [EMPTY] * (max(numbers.values(), default=-1) + 1)
    for name, number in numbers.items():
        if name in found:
            cells[number] = found[name].cell()
    return b"".join(cells)


def cell_of(row: bytes, number: int) -> tuple[float, ...] | None:
    """An object's cell in a row; None where it has none."""
    at = number * _CELL.size
    return _CELL.unpack_from(row, at) if at + _CELL.size <= len(row) else None


def merged(rows: Sequence[bytes]) -> bytes:
    """The cells of a longer time."""
    most = max((len(row) for row in rows), default=0) // _CELL.size
    return b"".join(
        _CELL.pack(*_merged([cell for row in rows if (cell := cell_of(row, number)) is not None]))
        for number in range(most)
    )


def _merged(cells: Sequence[tuple[float, ...]]) -> Iterable[float]:
    for column, values in enumerate(zip(*cells, strict=True)):
        known = [value for value in values if value == value]
        if not known:
            yield NAN
        else:
            yield max(known) if column in LEVELS else sum(known) / len(known)


def coarser(step: int) -> int | None:
    """The ring that is made of this one."""
    return next((each for each in sorted(RINGS) if each > step), None)


def ring_for(start: float, step: int, now: float) -> int:
    """The finest ring whose slots are no shorter than `step` and that reaches back to `start`; else the coarsest."""
    fit = [each for each in sorted(RINGS) if each >= step and now - start <= each * RINGS[each] + each]
    return fit[0] if fit else max(RINGS)


@dataclass(frozen=True, slots=True)
class Asked:
    """Slots of a ring, from `start` to before `end`."""

    step: int
    start: int
    end: int

    @classmethod
    def of(cls, start: float, end: float, step: int, now: float) -> Asked:
        """No more than the ring has, and no slot that is not over yet."""
        ring = ring_for(start, step, now)
        last = math.floor(min(end, now) / ring) * ring
        first = max(math.floor(start / ring) * ring, last - RINGS[ring] * ring)
        return cls(ring, first, max(first, last))


def answer(asked: Asked, rows: Iterable[tuple[int, bytes]], number: int, since: int) -> dict[str, list[float | None]]:
    """The columns of an object from `since` on."""
    count = (asked.end - asked.start) // asked.step
    columns: dict[str, list[float | None]] = {name: [None] * count for name in (*FIELDS, *QUANTILES)}
    for slot, row in rows:
        at = (slot - asked.start) // asked.step
        cell = cell_of(row, number) if slot + asked.step > since else None
        if cell is None or not 0 <= at < count:
            continue
        for name, value in zip(FIELDS, cell, strict=False):
            columns[name][at] = _shown(value)
        buckets = cell[len(FIELDS) :]
        if buckets[0] == buckets[0]:
            load = Load(buckets=buckets)
            for name, share in QUANTILES.items():
                quantile = load.quantile_ms(share)
                columns[name][at] = None if quantile is None else _shown(quantile / 1000)
    return columns


def _shown(value: float) -> float | None:
    """With seven digits, as many as a cell has."""
    return float(f"{value:.7g}") if value == value else None
