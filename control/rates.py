"""What passes through the cluster in a second, from what its nodes have counted. Pure.

A rate is taken between two reports of one node, by that node's own clock: how long a report was on its way, and how
often we look, does not matter. A report seen twice changes nothing. A node that has started anew counts from zero, and
has no rates until its second report; a single counter that has fallen (its listener was removed and added again) has
counted from zero since. So no rate is ever negative.

Over the nodes, rates add up. What is held does not: a synchronised session is known to all nodes, so that the number
of those who know the most is the best guess at how many there are. A server's sessions are those whose packets pass a
node, and do add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from control import rates_l7
from control.rates_l7 import NO_TRAFFIC, Traffic

Document = Mapping[str, Any]
Counts = Mapping[str, int]
ServerName = tuple[str, str]  # listener, "address:port"

# Rate → the counter that it is of, and what one of those is worth.
RATES: Final = {
    "packets_in": ("packets_in", 1),
    "packets_out": ("packets_out", 1),
    "bits_in": ("bytes_in", 8),
    "bits_out": ("bytes_out", 8),
    "new": ("sessions_made", 1),
}
# Counters of packets that a listener did not let in: these, and those that begin so (its limits).
REFUSED: Final = ("denied", "over_")
LEVELS: Final = ("sessions", "connections")
DROP: Final = "drop_"
EVENT: Final = "event_"


@dataclass(frozen=True, slots=True)
class Flow:
    """Traffic of a listener, server or node in a second, and what it holds. None: not counted, or not yet known."""

    packets_in: float | None = None
    packets_out: float | None = None
    bits_in: float | None = None
    bits_out: float | None = None
    new: float | None = None
    refused: float | None = None
    sessions: float | None = None
    connections: float | None = None


FLOW: Final = tuple(member.name for member in fields(Flow))


@dataclass(frozen=True, slots=True)
class Reason:
    """A verdict's count since the node started (all nodes': added up), and in a second."""

    total: int
    per_s: float | None


@dataclass(frozen=True, slots=True)
class Fill:
    used: int
    size: int


@dataclass(frozen=True, slots=True)
class Health:
    """A server by those who probe it: `down` of `probed` nodes hold it for down; `why` is the word of one of them."""

    probed: int
    down: int
    why: str


@dataclass(frozen=True, slots=True)
class View:
    """What is told of one node, or of all together. `packets` and `drops` are of all that its interface saw; `tables`
    are by name and IP version."""

    total: Flow = Flow()
    packets: float | None = None
    drops: float | None = None
    reasons: Mapping[str, Reason] = field(default_factory=dict)
    listeners: Mapping[str, Flow] = field(default_factory=dict)
    servers: Mapping[ServerName, Flow] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Fill]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """A node as `paifang status` has it, and its view: empty for tiers that do not count packets; `traffic`: of L7."""

    name: str
    role: str
    step: str
    remarks: tuple[str, ...]
    counts: bool
    view: View
    traffic: Traffic | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    version: int
    nodes: tuple[Node, ...]
    together: View
    traffic: Traffic = NO_TRAFFIC


class Meter:
    """One node: the last two of its reports that differ in time."""

    def __init__(self) -> None:
        self._old: Document = {}
        self._new: Document = {}
        self._started: object = None
        self._at_s = 0.0

    def feed(self, facts: Document) -> View:
        """The view that a report of an L4 node gives."""
        return _view(*self._pair(facts, facts))

    def feed_l7(self, facts: Document) -> Traffic:
        """The same of an L7 node."""
        return rates_l7.between(*self._pair(facts, facts["traffic"]))

    def _pair(self, facts: Document, stamp: Document) -> tuple[Document, Document]:
        """The report before and this one; `stamp` has their times."""
        started, at_s = stamp.get("started"), stamp["at_s"]
        if started != self._started:
            self._old, self._new = {}, facts
        elif at_s != self._at_s:
            self._old, self._new = self._new, facts
        self._started, self._at_s = started, at_s
        return self._old, self._new


class Meters:
    """All nodes."""

    def __init__(self) -> None:
        self._meters: dict[tuple[str, str], Meter] = {}

    def feed(self, status: Document, remarks: Callable[[Document], Iterable[str]]) -> Picture:
        """The picture that the answer to /v1/status gives; `remarks` says what is to be said of a node."""
        nodes = tuple(self._node(node, tuple(remarks(node))) for node in status["nodes"])
        present = {(node["role"], node["name"]) for node in status["nodes"]}
        self._meters = {key: meter for key, meter in self._meters.items() if key in present}
        traffic = rates_l7.together([node.traffic for node in nodes if node.traffic is not None])
        return Picture(status["version"], nodes, _together([node.view for node in nodes if node.counts]), traffic)

    def _node(self, node: Document, remarks: tuple[str, ...]) -> Node:
        facts = node["facts"]
        counts = "at_s" in facts and "started" in facts
        speaks = counts and node["step"] != "silent"
        key = (node["role"], node["name"])
        view = self._meters.setdefault(key, Meter()).feed(facts) if speaks else View()
        traffic = None
        if "traffic" in facts and node["step"] != "silent":
            traffic = self._meters.setdefault(key, Meter()).feed_l7(facts)
        return Node(node["name"], node["role"], node["step"], remarks, speaks, view, traffic)


def _view(old: Document, new: Document) -> View:
    elapsed_s = new["at_s"] - old["at_s"] if old else 0.0
    reasons = {
        name: Reason(count, _rate(old.get("counters", {}), new["counters"], name, elapsed_s))
        for name, count in new["counters"].items()
    }
    packets = [reason.per_s for name, reason in reasons.items() if not name.startswith(EVENT)]
    drops = [reason.per_s for name, reason in reasons.items() if name.startswith(DROP)]
    before, after = old.get("listeners", {}), new["listeners"]
    listeners = {name: flow(before.get(name, {}), row, elapsed_s) for name, row in after.items()}
    before, after = old.get("servers", {}), new["servers"]
    servers = {
        (listener, server): flow(before.get(listener, {}).get(server, {}), row, elapsed_s)
        for listener, rows in after.items()
        for server, row in rows.items()
    }
    tables = {
        name: {version: Fill(fill["used"], fill["size"]) for version, fill in of.items()}
        for name, of in new["tables"].items()
    }
    total = joined(listeners.values(), sum)
    return View(total, _sum(packets), _sum(drops), reasons, listeners, servers, _health(new["health"]), tables)


def _rate(old: Counts, new: Counts, name: str, elapsed_s: float) -> float | None:
    """What a counter gained in a second; one that is new or has fallen began at zero."""
    if elapsed_s <= 0 or name not in new:
        return None
    gained = new[name] - old.get(name, 0)
    return (gained if gained >= 0 else new[name]) / elapsed_s


def flow(old: Counts, new: Counts, elapsed_s: float) -> Flow:
    """A row of a listener or server, and the one before it."""
    rates: dict[str, float | None] = {}
    for name, (counter, worth) in RATES.items():
        rate = _rate(old, new, counter, elapsed_s)
        rates[name] = None if rate is None else rate * worth
    rates["refused"] = _sum(_rate(old, new, name, elapsed_s) for name in new if name.startswith(REFUSED))
    return Flow(**rates, **{name: new.get(name) for name in LEVELS})


def _health(entries: Iterable[Document]) -> dict[str, Health]:
    """By "address:port"; a server of both protocols is down if one of them is."""
    found: dict[str, Health] = {}
    for entry in entries:
        server = entry["server"].rpartition("/")[0]
        if not entry["healthy"]:
            found[server] = Health(1, 1, entry["why"])
        else:
            found.setdefault(server, Health(1, 0, ""))
    return found


def _together(views: list[View]) -> View:
    names = Counter(name for view in views for name in view.reasons)
    reasons = {name: _reason([view.reasons[name] for view in views if name in view.reasons]) for name in names}
    listeners = _rows([view.listeners for view in views])
    servers = _rows([view.servers for view in views], sessions=sum)
    health: dict[str, Health] = {}
    for view in views:
        for server, each in view.health.items():
            before = health.get(server, Health(0, 0, ""))
            health[server] = Health(before.probed + 1, before.down + each.down, before.why or each.why)
    return View(
        joined([view.total for view in views], max),
        _sum(view.packets for view in views),
        _sum(view.drops for view in views),
        reasons, listeners, servers, health,
    )  # fmt: skip


def _reason(each: list[Reason]) -> Reason:
    return Reason(sum(reason.total for reason in each), _sum(reason.per_s for reason in each))


Join = Callable[[Iterable[float]], float]


def _rows(tables: list[Mapping[Any, Flow]], *, sessions: Join = max) -> dict[Any, Flow]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: joined([table[name] for table in tables if name in table], max, sessions) for name in names}


def joined(flows: Iterable[Flow], connections: Join, sessions: Join | None = None) -> Flow:
    """Rates add up; what is held is joined as said: by sum over one node's listeners, by max over nodes."""
    joins = {"connections": connections, "sessions": sessions or connections}
    each = list(flows)
    found = {}
    for name in FLOW:
        known = [value for flow in each if (value := getattr(flow, name)) is not None]
        found[name] = joins.get(name, sum)(known) if known else None
    return Flow(**found)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
