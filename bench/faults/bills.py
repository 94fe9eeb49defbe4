"""Whether what was metered is what was sent: nothing lost but what docs/metering.md says, nothing twice. Pure.

Known is how many requests were answered and how many were tried, how many connections were opened and how many tried;
the truth lies between, and so must the bill. From the least are taken: what ended in the moments before a worker was
killed (its last quarter of a second), and for connections what a node opened in the ten seconds before it lost its
power. Each is counted for all nodes together, because the load does not know which node has counted what: the bound is
a little wide, never too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.faults.events import Record, Traffic
from bench.faults.promises import Struck

WORKER_S, AFTER_S = 0.5, 0.2  # a quarter of a second, and the time until the kill has come
POWER_S = 11.0
# By these a worker, with what it has not handed in yet, is gone.
WORKERS_DIE = frozenset({"l7-worker-killed", "l7-supervisor-killed", "l7-node-dead"})
NODES_DIE = frozenset({"l4-node-dead"})
OF = {"http": (Traffic.HTTP, Traffic.DOWNLOAD), "https": (Traffic.TLS_NEW, Traffic.TLS_RESUMED)}


@dataclass(frozen=True, slots=True)
class Bill:
    """`least` and `most`: what is right."""

    listener: str
    what: str
    metered: int
    least: int
    most: int

    @property
    def right(self) -> bool:
        return self.least <= self.metered <= self.most

    def __str__(self) -> str:
        verdict = "" if self.right else "  WRONG"
        between = str(self.least) if self.least == self.most else f"{self.least} to {self.most}"
        return f"{self.listener}: {self.metered} {self.what} metered, right is {between}{verdict}"


def metered(rows: Sequence[Mapping[str, object]]) -> dict[str, dict[str, int]]:
    """By listener and column, from the rows of GET /v1/metering."""
    sums: dict[str, dict[str, int]] = {}
    for row in rows:
        of = sums.setdefault(str(row["listener"]), {})
        for column, value in row.items():
            if isinstance(value, int):
                of[column] = of.get(column, 0) + value
    return sums


def bills(
    record: Record,
    faults: Sequence[Struck],
    sums: Mapping[str, Mapping[str, int]],
    opened: Mapping[str, Sequence[float]],
    tried: Mapping[str, int],
) -> list[Bill]:
    """Requests of http and https listeners, connections of tcp listeners."""
    workers = [(fault.before - WORKER_S, fault.struck + AFTER_S) for fault in faults if fault.kind in WORKERS_DIE]
    nodes = [(fault.before - POWER_S, fault.struck + AFTER_S) for fault in faults if fault.kind in NODES_DIE]
    made = []
    for listener, kinds in OF.items():
        events = [event for kind in kinds for event in record.of(kind)]
        sure = sum(not event.why and not _within(event.ended, workers) for event in events)
        found = sum(value for column, value in sums.get(listener, {}).items() if column.startswith("requests_"))
        made.append(Bill(listener, "requests", found, sure, len(events)))
    for listener, times in sorted(opened.items()):
        if listener not in OF:
            sure = sum(not _within(at, nodes) for at in times)
            made.append(Bill(listener, "connections", sums.get(listener, {}).get("connections", 0), sure,
                             tried.get(listener, 0)))  # fmt: skip
    return made


def _within(at: float, windows: Sequence[tuple[float, float]]) -> bool:
    return any(since <= at <= until for since, until in windows)
