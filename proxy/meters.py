"""What is counted of each listener: in a worker, and added up in its supervisor. Pure.

A `Meter`'s wire form is a dictionary of numbers and lists of numbers, which workers send when it has changed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from proxy.access_log import Record, Visit

# Seconds. From a cached answer on a LAN to the default request_timeout_s; HAProxy and Envoy have about as many.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CLASSES: Final = ("other", "1xx", "2xx", "3xx", "4xx", "5xx")
SWITCHED: Final = 101  # how long a WebSocket lasted says nothing about requests

Document = Mapping[str, Any]


class Meter:
    """One listener."""

    __slots__ = ("buckets", "bytes_in", "bytes_out", "errors", "seconds", "statuses", "told")

    def __init__(self) -> None:
        self.statuses = [0] * len(CLASSES)
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.bytes_in = self.bytes_out = 0
        self.errors: Counter[str] = Counter()  # "SOURCE CODE"
        self.told = -1  # requests at the last `news`

    def count(self, status: int, bytes_in: int, bytes_out: int, took_s: float) -> None:
        self.statuses[status // 100 if 100 <= status < 600 else 0] += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        if status != SWITCHED:
            self.buckets[bisect_left(BOUNDS, took_s)] += 1
            self.seconds += took_s

    def document(self) -> dict[str, Any]:
        return {
            "statuses": self.statuses, "buckets": self.buckets, "seconds": self.seconds, "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out, "errors": dict(self.errors),
        }  # fmt: skip


class Meters:
    """Those of a worker."""

    def __init__(self) -> None:
        self._meters: defaultdict[str, Meter] = defaultdict(Meter)

    def record(self, record: Record) -> None:
        """Counts an exchange or a refused request."""
        meter = self._meters[record.listener]
        meter.count(record.status, record.bytes_in, record.bytes_out, record.duration_ms / 1000)
        if record.error_code:
            meter.errors[f"{record.error_source} {record.error_code}"] += 1

    def visits(self, visits: Iterable[Visit]) -> None:
        """Counts exchanges of the common kind."""
        meters = self._meters
        for _, visitor, _, _, _, status, bytes_in, bytes_out, took_s, _, _ in visits:
            meters[visitor.listener].count(status, bytes_in, bytes_out, took_s)

    def keep(self, listeners: Collection[str]) -> None:
        """Forgets the listeners that are gone."""
        for name in self._meters.keys() - set(listeners):
            del self._meters[name]

    def news(self) -> dict[str, dict[str, Any]]:
        """The listeners whose numbers have changed since this was last asked."""
        found: dict[str, dict[str, Any]] = {}
        for name, meter in self._meters.items():
            requests = sum(meter.statuses)
            if requests != meter.told:
                meter.told = requests
                found[name] = meter.document()
        return found


NOTHING: Final = Meter().document()


def together(parts: Iterable[Document]) -> dict[str, Any]:
    """The sum of several meters."""
    found = [NOTHING, *parts]
    errors: Counter[str] = Counter()
    for part in found:
        errors.update(part["errors"])
    return {
        "statuses": _columns([part["statuses"] for part in found]),
        "buckets": _columns([part["buckets"] for part in found]),
        **{name: sum(part[name] for part in found) for name in ("seconds", "bytes_in", "bytes_out")},
        "errors": dict(errors),
    }


def _columns(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]
