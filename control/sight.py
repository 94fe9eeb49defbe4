"""What the nodes' reports say of listeners, backend services and groups at one moment, as rates. Pure.

Traffic of a listener is counted at its own tier, as in metering: of tcp and udp by the L4 nodes, of http and https by
the L7 nodes. So the sum of the listeners counts nothing twice. What a tier does not count is null: L4 nodes know
nothing of requests, L7 nodes nothing of packets. Silent nodes, and those that have just begun, have no rates. Over
nodes rates add up; of the sessions of a listener, which L4 nodes share, the highest number counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from control.rates import Flow, joined
from control.rates_l7 import Load, Upstream
from control.rates_l7 import total as loads
from control.reconcile import NodeStatus
from control.window import MALFORMED, Now, Window
from core.model import Listener, Model, Protocol
from core.overrides import configured

L7: Final = frozenset({Protocol.HTTP, Protocol.HTTPS})
GROUP_KINDS: Final = ("server_groups", "availability_groups")

Rates = dict[str, float | None]
GroupKey = tuple[str, str]  # kind, name
NONE: Final[Rates] = dict.fromkeys(
    ("bytes_in_per_s", "bytes_out_per_s", "packets_in_per_s", "connections_per_s", "connections", "requests_per_s",
     "errors_per_s")
)  # fmt: skip


def of_flow(flow: Flow | None) -> Rates:
    """What L4 nodes count."""
    if flow is None:
        return dict(NONE)
    return NONE | {
        "bytes_in_per_s": None if flow.bits_in is None else flow.bits_in / 8,
        "bytes_out_per_s": None if flow.bits_out is None else flow.bits_out / 8,
        "packets_in_per_s": flow.packets_in,
        "connections_per_s": flow.new,
        "connections": flow.sessions,
    }


def of_load(load: Load | None) -> Rates:
    """What L7 nodes count."""
    if load is None:
        return dict(NONE)
    return NONE | {
        "bytes_in_per_s": load.bytes_in,
        "bytes_out_per_s": load.bytes_out,
        "connections_per_s": load.opened,
        "connections": load.connections,
        "requests_per_s": load.requests,
        "errors_per_s": load.status("5xx"),
    }


def of_upstream(rows: Sequence[Upstream]) -> Rates:
    """The same of a server: connections to it, answers of 5xx and failures."""
    known = [row for row in rows if row.requests is not None]
    return NONE | {
        "connections": sum(row.active + row.idle for row in rows) if rows else None,
        "requests_per_s": sum(row.requests or 0 for row in known) if known else None,
        "errors_per_s": sum((row.errors or 0) + (row.failures or 0) for row in known) if known else None,
    }


def added(parts: Iterable[Rates]) -> Rates:
    """Sums; null where nobody knows."""
    found = dict(NONE)
    for part in parts:
        for name, value in part.items():
            if value is not None:
                found[name] = (found[name] or 0) + value
    return found


@dataclass(frozen=True, slots=True)
class Counted:
    """One node's report as rates by listener and, of L7 nodes, by backend service."""

    status: NodeStatus
    now: Now | None
    flows: Mapping[str, Flow]
    loads: Mapping[str, Load]
    services: Mapping[str, Load]

    @property
    def load(self) -> Load | None:
        """All requests of an L7 node."""
        return loads(self.loads.values()) if self.loads else None

    @property
    def rates(self) -> Rates:
        if self.loads:
            return of_load(self.load)
        return of_flow(joined(self.flows.values(), sum) if self.flows else None)


def counted(status: NodeStatus, window: Window) -> Counted:
    """What a node reports, as rates; a report that is not formed as it should be has none."""
    now = window.now(status)
    try:
        if now is None:
            return Counted(status, None, {}, {}, {})
        if "traffic" not in now.facts:
            flows = {name: found for name in now.facts["listeners"] if (found := now.l4_listener(name))}
            return Counted(status, now, flows, {}, {})
        told = now.facts["traffic"]
        by_listener = {name: load for name in told["listeners"] if (load := now.l7_listener(name))}
        by_service = {name: load for name in told["services"] if (load := now.l7_service(name))}
        return Counted(status, now, {}, by_listener, by_service)
    except MALFORMED:
        return Counted(status, None, {}, {}, {})


class Sight:
    """A model and its nodes' reports at one moment: what pictures and charts are made of."""

    def __init__(self, model: Model, statuses: Iterable[NodeStatus], window: Window) -> None:
        self.model = model
        self.nodes = [counted(status, window) for status in statuses]
        self.group_of = {
            name: ("server_groups", each.server_group) if each.server_group
            else ("availability_groups", each.availability_group)
            for name, each in model.backend_services.items()
        }  # fmt: skip

    def listener_load(self, name: str) -> Load | None:
        """Of all L7 nodes."""
        found = [node.loads[name] for node in self.nodes if name in node.loads]
        return loads(found) if found else None

    def listener(self, listener: Listener) -> Rates:
        """Of all nodes of its tier."""
        if listener.protocol in L7:
            return of_load(self.listener_load(listener.name))
        flows = [node.flows[listener.name] for node in self.nodes if listener.name in node.flows]
        return of_flow(joined(flows, max) if flows else None)

    def total_load(self) -> Load | None:
        """Requests of all http and https listeners."""
        found = [node.loads[name] for node in self.nodes for name in node.loads]
        return loads(found) if found else None

    def group_loads(self) -> dict[GroupKey, Load]:
        """Of the backend services of each group, from all L7 nodes."""
        found: dict[GroupKey, list[Load]] = {}
        for node in self.nodes:
            for service, load in node.services.items():
                if (key := self.group_of.get(configured(service))) is not None:
                    found.setdefault(key, []).append(load)
        return {key: loads(each) for key, each in found.items()}

    def group_rates(self) -> dict[GroupKey, Rates]:
        """What goes to each group: from L7 nodes by backend service, from L4 nodes by listener."""
        found: dict[GroupKey, list[Rates]] = {key: [of_load(load)] for key, load in self.group_loads().items()}
        for listener in self.model.listeners.values():
            if listener.protocol not in L7 and (key := self.group_of.get(listener.backend_service)):
                found.setdefault(key, []).append(self.listener(listener))
        return {key: added(each) for key, each in found.items()}

    def clients(self) -> Rates:
        """All listeners together."""
        return added(self.listener(each) for each in self.model.listeners.values())
