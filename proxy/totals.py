"""What the workers of a node have counted altogether, those that are gone included. Pure.

Each worker counts from its own start and sends its numbers as they change. When one ends, what it had counted is kept
here, so that nothing that a node tells ever goes back; what it had open is not kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from core.model import Kind, Model
from core.remembered import Remembered
from proxy import meters
from proxy.meters import Document
from proxy.tally import ServerKey, Tally
from proxy.traffic import traffic


class Counting(Protocol):
    """What a worker has told (`worker_process.WorkerProcess`)."""

    counters: dict[str, float]
    servers: dict[ServerKey, dict[str, float]]
    meters: dict[str, dict[str, Document]]
    open: dict[str, int]


class Totals:
    """Those of one node. `started`: when it did, in Unix time; its counters begin with that."""

    def __init__(self, started: float) -> None:
        self._started = round(started, 3)
        self._counters: Counter[str] = Counter()
        self._sums = meters.Sums()
        self._tally = Tally()
        self._names = Remembered(meters.names, Kind.BACKEND_SERVICES, Kind.LISTENERS, Kind.RULES)

    def keep(self, worker: Counting) -> None:
        """Takes over what a worker had counted that is gone."""
        self._counters.update({name: n for name, n in worker.counters.items() if not _is_level(name)})
        self._tally.keep(worker.servers)
        self._sums.take_over(worker.meters)

    def forget(self, workers: Iterable[Counting], resolved: Model) -> None:
        """Takes from what workers have said whatever is gone: they tell what has changed only, and so it would stay."""
        names = self._names(resolved)
        for worker in workers:
            meters.forget(worker.meters, **names)
            self._tally.forget(worker.servers, resolved)

    def counters(self, workers: Iterable[Counting]) -> dict[str, float]:
        """By name."""
        found: Counter[str] = Counter(self._counters)
        for worker in workers:
            found.update(worker.counters)
        return dict(found)

    def meters(self, workers: Sequence[Counting], model: Model) -> dict[str, dict[str, Any]]:
        """Rows by kind and name; forgets listeners, services and rules that are gone."""
        return self._sums.rows([worker.meters for worker in workers], **self._names(model))

    def traffic(self, workers: Sequence[Counting], model: Model, at_s: float) -> dict[str, Any]:
        """See proxy/traffic.py."""
        opened: list[Mapping[str, int]] = [worker.open for worker in workers]
        return traffic(self.meters(workers, model), opened, self._started, at_s)

    def upstreams(self, workers: Sequence[Counting], resolved: Model) -> list[dict[str, object]]:
        """Rows by backend service and server."""
        return self._tally.rows(resolved, [worker.servers for worker in workers])


def _is_level(name: str) -> bool:
    """Counters that go down again, and are not to be added to those of a worker's successor."""
    return name.endswith(("_open", "_waiting", "in_flight"))
