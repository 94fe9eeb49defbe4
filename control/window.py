"""What nodes had counted some seconds ago, so that it can be said what passes now. Pure.

Of each node the counters of a few reports are kept, KEEP_EVERY_S apart, as copies: reports may be brought up to date in
place. A rate is taken from the youngest of them that is WINDOW_S old to the report that is there now, by the node's own
clock, as `control.rates` does for two reports that follow each other: so it covers WINDOW_S to WINDOW_S + KEEP_EVERY_S,
or less where a node has just started. A report that is not formed as it should be is none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from control.rates import Flow, flow
from control.rates_l7 import Load, Upstream, load, upstream
from control.reconcile import NodeStatus, Step

WINDOW_S: Final = 5.0
KEEP_EVERY_S: Final = 2.5
MALFORMED: Final = (KeyError, TypeError, ValueError, AttributeError, IndexError)

Document = Mapping[str, Any]
NodeKey = tuple[str, str]  # role, name
Server = tuple[str, str]  # listener or backend service, "address:port"
# What of an L4 node's rows of servers is kept, in this order.
COLUMNS: Final = ("packets_in", "packets_out", "bytes_in", "bytes_out", "sessions_made")
UPSTREAM: Final = ("requests", "failures", "errors")


@dataclass(frozen=True, slots=True)
class Sample:
    """A node's counters at `at_s` of its clock; those of servers as tuples, of which there may be tens of thousands."""

    started: object
    at_s: float
    listeners: Mapping[str, Document]
    services: Mapping[str, Document] = field(default_factory=dict)
    servers: Mapping[Server, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Now:
    """A node's report, and the counters to compare it with (None: not yet)."""

    facts: Document
    at_s: float
    before: Sample | None

    @property
    def elapsed_s(self) -> float:
        return 0.0 if self.before is None else self.at_s - self.before.at_s

    def l4_listener(self, name: str) -> Flow | None:
        """None: this node does not count it."""
        row = self.facts["listeners"].get(name)
        return None if row is None else flow(self._before("listeners").get(name, {}), row, self.elapsed_s)

    def l4_server(self, listener: str, server: str) -> Flow | None:
        """None: this node does not count it, or what it says is not formed as it should be."""
        try:
            row = self.facts["servers"][listener][server]
            before = self._before("servers").get((listener, server), ())
            return flow(dict(zip(COLUMNS, before, strict=False)), row, self.elapsed_s)
        except MALFORMED:
            return None

    def l7_listener(self, name: str) -> Load | None:
        return self._load("listeners", name)

    def l7_service(self, name: str) -> Load | None:
        return self._load("services", name)

    def l7_server(self, row: Document) -> Upstream:
        """Of a row of `upstreams`."""
        before = self._before("servers").get((row["service"], row["server"]), ())
        return upstream(dict(zip(UPSTREAM, before, strict=False)), row, self.elapsed_s, down=False)

    def _load(self, kind: str, name: str) -> Load | None:
        row = self.facts["traffic"][kind].get(name)
        return None if row is None else load(self._before(kind).get(name), row, self.elapsed_s)

    def _before(self, kind: str) -> Mapping[Any, Any]:
        found: Mapping[Any, Any] = {} if self.before is None else getattr(self.before, kind)
        return found


class Window:
    """All nodes. `take` is to be called once a second or so."""

    def __init__(self, window_s: float = WINDOW_S, every_s: float = KEEP_EVERY_S, *, servers: bool = True) -> None:
        self._servers = servers
        self._window_s = window_s
        self._every_s = every_s
        self._kept: dict[NodeKey, deque[Sample]] = {}

    def take(self, statuses: Iterable[NodeStatus]) -> None:
        """Keep what is due, and forget nodes that are gone."""
        present = set()
        for status in statuses:
            key = status.role, status.name
            present.add(key)
            if status.step is not Step.SILENT:
                try:
                    self._take(key, status.facts)
                except MALFORMED:
                    self._kept.pop(key, None)
        for key in self._kept.keys() - present:
            del self._kept[key]

    def now(self, status: NodeStatus) -> Now | None:
        """What is known of a node; None where it is silent or does not count."""
        if status.step is Step.SILENT:
            return None
        try:
            started, at_s = _stamp(status.facts)
        except MALFORMED:
            return None
        kept = [each for each in self._kept.get((status.role, status.name), ()) if each.started == started]
        older = [each for each in kept if each.at_s <= at_s - self._window_s]
        before = older[-1] if older else next((each for each in kept if each.at_s < at_s), None)
        return Now(status.facts, at_s, before)

    def _take(self, key: NodeKey, facts: Document) -> None:
        started, at_s = _stamp(facts)
        kept = self._kept.setdefault(key, deque())
        if kept and kept[-1].started != started:
            kept.clear()
        if kept and at_s - kept[-1].at_s < self._every_s:
            return
        kept.append((_l7 if "traffic" in facts else _l4)(facts, servers=self._servers))
        while len(kept) > 2 and kept[1].at_s <= at_s - self._window_s:
            kept.popleft()


def _stamp(facts: Document) -> tuple[object, float]:
    """When a node started, and its clock. Raises one of MALFORMED."""
    stamp = facts.get("traffic", facts)
    return stamp["started"], float(stamp["at_s"])


def _l4(facts: Document, *, servers: bool) -> Sample:
    rows = {
        (listener, server): tuple(row.get(column, 0) for column in COLUMNS)
        for listener, of in facts["servers"].items()
        for server, row in of.items()
        if servers
    }
    return Sample(*_stamp(facts), {name: dict(row) for name, row in facts["listeners"].items()}, servers=rows)


def _l7(facts: Document, *, servers: bool) -> Sample:
    told = facts["traffic"]
    rows = {
        (row["service"], row["server"]): tuple(row[column] for column in UPSTREAM)
        for row in facts.get("upstreams", ())
        if servers
    }
    return Sample(
        *_stamp(facts),
        {name: dict(row) for name, row in told["listeners"].items()},
        {name: dict(row) for name, row in told["services"].items()},
        rows,
    )
