"""What the workers of a node say of their servers, added up. Pure.

Each worker has its own pools and sends their numbers where they have changed (`Pool.news`). Counts of workers that are
gone are kept; what they had open is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from core.endpoints import endpoint
from core.model import Kind, Model
from core.remembered import Remembered
from core.resolve import l7_services, servers

ServerKey = tuple[str, str, int]  # backend service, address, port
Numbers = Mapping[str, float]
Row = dict[str, object]

COUNTS: Final = ("requests", "failures", "errors", "ejections")
LEVELS: Final = ("active", "idle", "ejected")  # `ejected`: by how many workers
_KINDS: Final = (Kind.SERVER_GROUPS, Kind.AVAILABILITY_GROUPS, Kind.BACKEND_SERVICES, Kind.LISTENERS, Kind.RULES)
SLOWEST: Final = "latency_ms"  # of the workers', where the scheduler looks at it


def keyed(upstreams: Mapping[str, Sequence[Sequence[Any]]]) -> dict[ServerKey, dict[str, float]]:
    """A worker's message, by server."""
    return {(name, address, port): dict(n) for name, rows in upstreams.items() for address, port, n in rows}


class Tally:
    """The sums of a node."""

    def __init__(self) -> None:
        self._past: dict[ServerKey, Counter[str]] = {}
        self._unused = Remembered(_unused, *_KINDS)

    def forget(self, worker: dict[ServerKey, dict[str, float]], model: Model) -> None:
        """Takes from what a worker has said the servers that are gone: members may come and go by the minute."""
        for key in worker.keys() - self._unused(model).keys():
            del worker[key]

    def keep(self, servers: Mapping[ServerKey, Numbers]) -> None:
        """Takes over the counts of a worker that is gone."""
        for key, numbers in servers.items():
            self._past.setdefault(key, Counter()).update({name: numbers.get(name, 0) for name in COUNTS})

    def rows(self, model: Model, workers: Sequence[Mapping[ServerKey, Numbers]]) -> list[dict[str, object]]:
        """A row for each http backend service's servers, those without a request too; forgets servers that are gone."""
        unused = self._unused(model)
        for gone in self._past.keys() - unused.keys():
            del self._past[gone]
        used = self._past.keys() | {key for worker in workers for key in worker}
        return [self._row(key, row, workers) if key in used else row for key, row in unused.items()]

    def _row(self, key: ServerKey, unused: Row, workers: Sequence[Mapping[ServerKey, Numbers]]) -> Row:
        parts = [self._past.get(key, {}), *(worker.get(key, {}) for worker in workers)]
        row = dict(unused)
        row |= {name: sum(part.get(name, 0) for part in parts) for name in COUNTS}
        row |= {name: sum(part.get(name, 0) for part in parts[1:]) for name in LEVELS}
        if timed := [part[SLOWEST] for part in parts[1:] if SLOWEST in part]:
            row[SLOWEST] = max(timed)
        return row


def _unused(model: Model) -> dict[ServerKey, Row]:
    """Each server's row before its first request. There are thousands of them, and most stay as they are."""
    return {
        (name, server.address, server.port): {
            "service": name, "server": endpoint(server.address, server.port), **dict.fromkeys((*COUNTS, *LEVELS), 0)
        }
        for name, service in l7_services(model).items()
        for server in servers(model, service)
    }  # fmt: skip


def problems(model: Model, stranded: Sequence[Sequence[str]]) -> Iterator[str]:
    """One text for each backend service without a server for its requests. `stranded`: by worker."""
    counts = Counter(name for names in stranded for name in set(names))
    for name, service in model.backend_services.items():
        if counts[name]:
            where = "" if counts[name] == len(stranded) else f" in {counts[name]} of {len(stranded)} workers"
            what = f"they go to {service.fallback}" if service.fallback else "they get 503"
            yield f"backend service {name}: no server takes requests{where}; {what}"
