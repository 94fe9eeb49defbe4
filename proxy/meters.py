"""What is counted of each listener, service, rule and part of a split: in a worker, and added up for a node. Pure.

An exchange is counted under its listener and service. Once a second what came together there is added to the two that
it belongs to, whose sums the worker then sends: dictionaries of numbers and lists of numbers. Rules, of which there may
be thousands, count nothing but statuses, and at once: a meter for each of them took 90 ms a second in one piece.
SERIES_MOST of a kind are told apart, the first ones of the configuration; what belongs to another counts as OTHER's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from core.model import Model, Protocol
from core.overrides import as_used
from core.resolve import l7_services
from proxy.access_log import Record, Visit

# Seconds. From a cached answer on a LAN to the default request_timeout_s; HAProxy and Envoy have about as many.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# From a key server beside us to the time that a handshake may take.
SIGNATURE_BOUNDS: Final = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
CLASSES: Final = ("other", "1xx", "2xx", "3xx", "4xx", "5xx")
KINDS: Final = ("listeners", "services", "rules", "parts")
STATUSES_ALONE: Final = ("rules", "parts")
SERIES_MOST: Final = 2000
OTHER: Final = "other"
L7_PROTOCOLS: Final = (Protocol.HTTP, Protocol.HTTPS)
SWITCHED: Final = 101  # how long a WebSocket lasted says nothing about requests

Document = Mapping[str, Any]


def _columns(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


class Meter:
    """Exchanges: `statuses` by class, `buckets` and `seconds` from head to end, `firsts` and `first_seconds` from the
    choice of a server to its first byte. Those of the fast lane, where both is one, stand in `quick`, `quick_seconds`.
    Of https listeners also the handshakes: `tls` has "VERSION new", "VERSION resumed" and "failed REASON"; `signatures`
    and `signature_seconds` are how long key servers took. `moved`: bytes in and out, those of exchanges that go on too,
    and connections that have begun; of listeners alone.
    """

    __slots__ = (
        "buckets", "bytes_in", "bytes_out", "errors", "first_seconds", "firsts", "moved", "quick", "quick_seconds",
        "seconds", "signature_seconds", "signatures", "statuses", "tls", "told",
    )  # fmt: skip

    def __init__(self) -> None:
        self.statuses = [0] * len(CLASSES)
        self.buckets, self.firsts, self.quick = ([0] * (len(BOUNDS) + 1) for _ in range(3))
        self.seconds = self.first_seconds = self.quick_seconds = 0.0
        self.bytes_in = self.bytes_out = 0
        self.errors: Counter[str] = Counter()  # "SOURCE CODE"
        self.tls: Counter[str] = Counter()
        self.signatures: list[int] = []  # empty: none yet
        self.signature_seconds = 0.0
        self.moved = (0, 0, 0)
        self.told = False

    def record(self, record: Record) -> None:
        status = record.status
        self.statuses[status // 100 if 100 <= status < 600 else 0] += 1
        self.bytes_in += record.bytes_in
        self.bytes_out += record.bytes_out
        if record.error_code:
            self.errors[f"{record.error_source} {record.error_code}"] += 1
        if status != SWITCHED:
            self.buckets[bisect_left(BOUNDS, record.duration_ms / 1000)] += 1
            self.seconds += record.duration_ms / 1000
        if record.first_byte_s is not None:
            self.firsts[bisect_left(BOUNDS, record.first_byte_s)] += 1
            self.first_seconds += record.first_byte_s

    def visit(self, status: int, bytes_in: int, bytes_out: int, took_s: float) -> None:
        self.statuses[status // 100 if status < 600 else 0] += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self.quick[bisect_left(BOUNDS, took_s)] += 1
        self.quick_seconds += took_s

    def add(self, other: Meter) -> None:
        """Another's counts, of which nothing has been told yet."""
        self.statuses = _columns(self.statuses, other.statuses)
        self.buckets = _columns(self.buckets, other.buckets)
        self.firsts = _columns(self.firsts, other.firsts)
        self.quick = _columns(self.quick, other.quick)
        self.seconds += other.seconds
        self.first_seconds += other.first_seconds
        self.quick_seconds += other.quick_seconds
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        if other.errors:
            self.errors.update(other.errors)
        self.told = False

    def document(self, kind: str = KINDS[0]) -> dict[str, Any]:
        """Of a rule only what became of its requests; of a service not what listeners tell."""
        found: dict[str, Any] = {"statuses": self.statuses}
        if kind not in STATUSES_ALONE:
            found |= {
                "buckets": _columns(self.buckets, self.quick), "seconds": self.seconds + self.quick_seconds,
                "firsts": _columns(self.firsts, self.quick), "first_seconds": self.first_seconds + self.quick_seconds,
                "moved": list(self.moved) if kind == KINDS[0] else [self.bytes_in, self.bytes_out],
            }  # fmt: skip
        if kind == "listeners":
            found |= {"bytes_in": self.bytes_in, "bytes_out": self.bytes_out, "errors": dict(self.errors)}
            if self.tls or self.signatures:
                found |= {"tls": dict(self.tls), "signature_seconds": self.signature_seconds}
                found["signatures"] = self.signatures or [0] * (len(SIGNATURE_BOUNDS) + 1)
        return found


def apart(names: Iterable[str]) -> tuple[str, ...]:
    """Those of a kind that are told one by one, where a configuration has these."""
    return tuple(dict.fromkeys(names))[:SERIES_MOST]


def names(model: Model) -> dict[str, tuple[str, ...]]:
    """What there is to count for, by kind, in the order of the configuration."""
    listeners = {each.name: each for each in model.listeners.values() if each.protocol in L7_PROTOCOLS}
    return {
        "listeners": tuple(listeners),
        "services": tuple(l7_services(model)),
        "rules": tuple(rule.name for rule in model.rules.values() if rule.listener in listeners),
        "parts": tuple(
            f"{rule.name} {share.backend_service}"
            for rule in model.rules.values()
            if rule.split and rule.listener in listeners
            for share in as_used(rule).split
        ),
    }


class Meters:
    """Those of a worker."""

    def __init__(self) -> None:
        self._fresh: dict[str, dict[str, Meter]] = {}  # since the last `news`, by listener and service
        self._rules: dict[str, Meter] = {}  # where each is counted, as far as it has been asked
        self._parts: dict[tuple[str, str], Meter] = {}  # of rules that split, by rule and service
        self._sums: dict[str, dict[str, Meter]] = {kind: {} for kind in KINDS}
        self._known: dict[str, dict[str, str]] | None = None  # by kind, what each name is counted as; None: as itself

    def record(self, record: Record) -> None:
        """Counts an exchange or a refused request."""
        self._of(record.listener, record.way.service).record(record)
        if record.way.rule:
            digit = record.status // 100 if 100 <= record.status < 600 else 0
            for meter in (self._rule(record.way.rule), self._parts.get(record.way)):
                if meter is not None:
                    meter.statuses[digit] += 1
                    meter.told = False

    def visits(self, visits: Iterable[Visit]) -> None:
        """Counts exchanges of the common kind."""
        fresh, rules, parts = self._fresh, self._rules, self._parts
        for _, visitor, _, _, _, status, bytes_in, bytes_out, took_s, _, _, (rule, service), _ in visits:
            try:
                meter = fresh[visitor.listener][service]
            except KeyError:
                meter = self._of(visitor.listener, service)
            meter.visit(status, bytes_in, bytes_out, took_s)
            if rule:
                meter = rules.get(rule) or self._rule(rule)
                meter.statuses[status // 100 if status < 600 else 0] += 1
                meter.told = False
                if parts and (part := parts.get((rule, service))) is not None:
                    part.statuses[status // 100 if status < 600 else 0] += 1
                    part.told = False

    def _of(self, listener: str, service: str) -> Meter:
        services = self._fresh.setdefault(listener, {})
        if service not in services:
            services[service] = Meter()
        return services[service]

    def _rule(self, name: str) -> Meter:
        """Where a rule is counted; of one that is gone, nowhere that is told."""
        if name not in self._rules:
            self._rules[name] = self._sum("rules", name) or Meter()
        return self._rules[name]

    def keep(self, **names: Sequence[str]) -> None:
        """Takes what the configuration has, by kind, and forgets what is gone."""
        self._collect()
        self._known, self._rules = {}, {}
        for kind, sums in self._sums.items():
            told = apart(names.get(kind, ()))
            self._known[kind] = dict.fromkeys(names.get(kind, ()), OTHER) | {name: name for name in told}
            for name in sums.keys() - {*told, OTHER}:
                del sums[name]
        self._parts = {}
        for name in names.get("parts", ()):
            rule, _, service = name.partition(" ")
            if (meter := self._sum("parts", name)) is not None:
                self._parts[rule, service] = meter

    def _collect(self) -> None:
        fresh, self._fresh = self._fresh, {}
        for listener, services in fresh.items():
            for service, meter in services.items():
                for kind, name in (("listeners", listener), ("services", service)):
                    if (found := self._sum(kind, name)) is not None:
                        found.add(meter)

    def handshake(self, listener: str, how: str) -> None:
        """Counts a TLS handshake that has ended; see `Meter` for the words."""
        if (found := self._sum("listeners", listener)) is not None:
            found.tls[how] += 1
            found.told = False

    def moved(self, listener: str, gained: tuple[int, int, int]) -> None:
        """Adds to a listener's bytes in, bytes out and connections."""
        if (found := self._sum("listeners", listener)) is not None:
            a, b, c = found.moved
            found.moved = a + gained[0], b + gained[1], c + gained[2]
            found.told = False

    def signature(self, listener: str, took_s: float) -> None:
        """Counts an answer of the key server."""
        if (found := self._sum("listeners", listener)) is not None:
            found.signatures = found.signatures or [0] * (len(SIGNATURE_BOUNDS) + 1)
            found.signatures[bisect_left(SIGNATURE_BOUNDS, took_s)] += 1
            found.signature_seconds += took_s
            found.told = False

    def _sum(self, kind: str, name: str) -> Meter | None:
        """Where a name is counted; None: it is gone from the configuration, or is none."""
        told = name if self._known is None else self._known[kind].get(name, "")
        return self._sums[kind].setdefault(told, Meter()) if told else None

    def news(self) -> dict[str, dict[str, Document]]:
        """By kind and name, those whose numbers have changed since this was last asked."""
        self._collect()
        found: dict[str, dict[str, Document]] = {}
        for kind, sums in self._sums.items():
            found[kind] = {name: meter.document(kind) for name, meter in sums.items() if not meter.told}
            for meter in sums.values():
                meter.told = True
        return found


NOTHING: Final[Mapping[str, Document]] = {kind: Meter().document(kind) for kind in KINDS}


def together(kind: str, parts: Iterable[Document]) -> dict[str, Any]:
    """The sum of several meters' documents."""
    rows = list(parts)
    if len(rows) == 1:  # as most are, of thousands
        return {**NOTHING[kind], **rows[0]}
    found = dict(NOTHING[kind])
    for part in rows:
        for name, value in part.items():
            if name not in found:
                found[name] = value
            elif isinstance(value, Mapping):
                found[name] = dict(Counter(found[name]) + Counter(value))
            else:
                found[name] = _columns(found[name], value) if isinstance(value, Sequence) else found[name] + value
    return found


def forget(worker: Mapping[str, dict[str, Document]], **names: Iterable[str]) -> None:
    """Takes from what a worker has said what the configuration does not have any more."""
    for kind, rows in worker.items():
        _forget(rows, apart(names.get(kind, ())))


def _forget(rows: dict[str, Document], told: Iterable[str]) -> None:
    for name in rows.keys() - {*told, OTHER}:
        del rows[name]


class Sums:
    """Those of a node: what workers say, and what those that are gone had said."""

    def __init__(self) -> None:
        self._past: dict[str, dict[str, Document]] = {kind: {} for kind in KINDS}

    def take_over(self, meters: Mapping[str, Mapping[str, Document]]) -> None:
        """Keeps the counts of a worker that is gone."""
        for kind, rows in meters.items():
            past = self._past[kind]
            for name, row in rows.items():
                past[name] = together(kind, [past[name], row] if name in past else [row])

    def rows(
        self, workers: Sequence[Mapping[str, Mapping[str, Document]]], **names: Iterable[str]
    ) -> dict[str, dict[str, Any]]:
        """By kind, a row for each name that the configuration has; forgets those that are gone."""
        found: dict[str, dict[str, Any]] = {}
        for kind in KINDS:
            told = apart(names.get(kind, ()))
            _forget(self._past[kind], told)
            parts = [self._past[kind], *(worker.get(kind, {}) for worker in workers)]
            counted = {name for part in parts for name in part}
            rows: dict[str, Any] = dict.fromkeys(told, NOTHING[kind])  # as most are, of thousands
            for name in [name for name in told if name in counted] + [OTHER] * (OTHER in counted):
                rows[name] = together(kind, (part[name] for part in parts if name in part))
            found[kind] = rows
        return found
