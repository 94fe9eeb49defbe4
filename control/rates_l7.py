"""Requests in a second, from what L7 nodes have counted (proxy/traffic.py). Pure.

As in `control.rates`, rates are taken between two reports of one node by its own clock. Over nodes all adds up, open
connections too. A percentile is that of the requests between the two reports, of all nodes together: it is read off
the sum of their histograms, evenly spread within a bucket, as Prometheus' histogram_quantile does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import zip_longest
from typing import Any, Final

Document = Mapping[str, Any]
ServerName = tuple[str, str]  # backend service, "address:port"

# Seconds; those of the nodes' histograms (proxy/meters.py).
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CLASSES: Final = ("other", "1xx", "2xx", "3xx", "4xx", "5xx")


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of a listener, service or node in a second; `buckets` of them by what they took, for percentiles.

    None: not counted there, or not yet known. `connections`: as many as were open at once in the last second; `opened`
    in a second. The bytes of a service are those of exchanges that have ended.
    """

    requests: float | None = None
    statuses: tuple[float, ...] = ()
    buckets: tuple[float, ...] = ()
    connections: float | None = None
    handshakes: float | None = None
    resumed: float | None = None
    handshakes_failed: float | None = None
    bytes_in: float | None = None
    bytes_out: float | None = None
    opened: float | None = None

    def status(self, name: str) -> float | None:
        """In a second, of this class."""
        return self.statuses[CLASSES.index(name)] if self.statuses else None

    def quantile_ms(self, share: float) -> float | None:
        """What this share of requests took at most; None where there were none."""
        left = share * sum(self.buckets)
        if not left:
            return None
        low = 0.0
        for bound, count in zip((*BOUNDS, BOUNDS[-1]), self.buckets, strict=False):
            if count >= left:
                return 1000 * (low + (bound - low) * left / count)
            left -= count
            low = bound
        return 1000 * low

    def document(self) -> dict[str, Any]:
        """For programs."""
        found = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("statuses", "buckets")
        }
        statuses = {f"status_{name}": self.status(name) for name in CLASSES}
        return {**found, **statuses, "p50_ms": self.quantile_ms(0.5), "p99_ms": self.quantile_ms(0.99)}


LOAD: Final = tuple(member.name for member in fields(Load))


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server: requests, failures and answers of 5xx in a second; requests in flight, idle connections; by how many
    workers it is ejected, and whether its health checks say that it is down."""

    requests: float | None = None
    failures: float | None = None
    errors: float | None = None
    active: float = 0
    idle: float = 0
    ejected: float = 0
    down: bool = False


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is told of one L7 node, or of all together."""

    total: Load = Load()
    listeners: Mapping[str, Load] = field(default_factory=dict)
    services: Mapping[str, Load] = field(default_factory=dict)
    servers: Mapping[ServerName, Upstream] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For programs. Servers, whose names are of two parts, are a list."""
        return {
            "total": self.total.document(),
            "listeners": {name: load.document() for name, load in self.listeners.items()},
            "services": {name: load.document() for name, load in self.services.items()},
            "servers": [
                {"service": of, "server": name, **{each.name: getattr(row, each.name) for each in fields(row)}}
                for (of, name), row in self.servers.items()
            ],
        }


NO_TRAFFIC: Final = Traffic()


def between(old: Document, new: Document) -> Traffic:
    """From two reports of one node; `old` empty: levels only."""
    before, after = old.get("traffic", {}), new["traffic"]
    elapsed_s = after["at_s"] - before["at_s"] if before else 0.0
    rows = {
        kind: {name: load(before.get(kind, {}).get(name), row, elapsed_s) for name, row in after[kind].items()}
        for kind in ("listeners", "services")
    }
    past = {(row["service"], row["server"]): row for row in old.get("upstreams", ())}
    down = {(row["service"], row["server"]) for row in new.get("health", ()) if not row["healthy"]}
    servers = {}
    for row in new.get("upstreams", ()):
        key = (row["service"], row["server"])
        servers[key] = upstream(past.get(key), row, elapsed_s, down=key in down)
    return Traffic(total(rows["listeners"].values()), rows["listeners"], rows["services"], servers)


def together(parts: Sequence[Traffic]) -> Traffic:
    """All nodes."""
    return Traffic(
        total(part.total for part in parts),
        {name: total(found) for name, found in _by_name([part.listeners for part in parts]).items()},
        {name: total(found) for name, found in _by_name([part.services for part in parts]).items()},
        {name: _server_sum(found) for name, found in _by_name([part.servers for part in parts]).items()},
    )


def _by_name(tables: Iterable[Mapping[Any, Any]]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for table in tables:
        for name, row in table.items():
            found.setdefault(name, []).append(row)
    return found


def load(old: Document | None, new: Document, elapsed_s: float) -> Load:
    """A listener's or service's row and the one before it."""
    connections = new.get("open")
    if elapsed_s <= 0:
        return Load(connections=connections)
    old = old or {}
    statuses = _rates(old.get("statuses", ()), new["statuses"], elapsed_s)
    buckets = _rates(old.get("buckets", ()), new["buckets"], elapsed_s)
    tls: tuple[float | None, ...] = (None, None, None)
    if "tls" in new:
        made, resumed, failed = _rates(old.get("tls", ()), new["tls"], elapsed_s)
        tls = made + resumed, resumed, failed
    moved: tuple[float | None, ...] = (None, None, None)
    if "moved" in new:
        moved = (*_rates(old.get("moved", ()), new["moved"], elapsed_s), None)[:3]
    return Load(sum(statuses), statuses, buckets, connections, *tls, *moved)


def _rates(old: Sequence[int], new: Sequence[int], elapsed_s: float) -> tuple[float, ...]:
    """What each gained in a second; all began at zero where one has fallen."""
    gained = [now - then for then, now in zip_longest(old, new, fillvalue=0)]
    return tuple(each / elapsed_s for each in (new if min(gained, default=0) < 0 else gained))


def upstream(old: Document | None, new: Document, elapsed_s: float, *, down: bool) -> Upstream:
    """A server's row and the one before it."""
    names = ("requests", "failures", "errors")
    rates: tuple[float | None, ...] = (None, None, None)
    if elapsed_s > 0:
        rates = _rates([(old or {}).get(name, 0) for name in names], [new[name] for name in names], elapsed_s)
    requests, failures, errors = rates
    return Upstream(requests, failures, errors, new["active"], new["idle"], new["ejected"], down)


def total(loads: Iterable[Load]) -> Load:
    """What several come to."""
    each = list(loads)
    joined: dict[str, Any] = {}
    for name in LOAD:
        known = [value for load in each if (value := getattr(load, name)) is not None]
        if name in ("statuses", "buckets"):
            joined[name] = tuple(map(sum, zip_longest(*known, fillvalue=0)))
        else:
            joined[name] = sum(known) if known else None
    return Load(**joined)


def _server_sum(rows: Sequence[Upstream]) -> Upstream:
    joined: dict[str, Any] = {}
    for name in ("requests", "failures", "errors", "active", "idle", "ejected"):
        known = [value for row in rows if (value := getattr(row, name)) is not None]
        joined[name] = sum(known) if known else None
    return Upstream(**joined, down=any(row.down for row in rows))
