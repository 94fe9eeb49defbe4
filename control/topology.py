"""The cluster as a picture: clients, VIPs, nodes, groups, and what passes between them in a second. Pure.

Rates are those of `control.sight`. There may be ten thousand servers: of each list `limit` are told, of servers
SERVERS_MOST altogether, those that are down first; how many there are stands beside (`…_total`). Rates of servers are
worked out for those that are told alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from control import groups
from control.rates import Flow, joined
from control.sight import (
    GROUP_KINDS,
    L7,
    NONE,
    Counted,
    GroupKey,
    Rates,
    Sight,
    added,
    of_flow,
    of_load,
    of_upstream,
)
from control.window import MALFORMED, WINDOW_S, Now
from core.endpoints import endpoint
from core.model import Listener, Model, Role, Server
from core.overrides import configured
from core.resolve import l7_addresses

SERVERS_MOST: Final = 2000
LISTED: Final = 200  # of each list, unless asked otherwise
UNASKED: Final = "not probed yet"  # control.node.probe


def document(version: int, at: float, sight: Sight, *, instance: str = "", limit: int = LISTED) -> dict[str, Any]:
    """The answer to /v1/topology; `at` in Unix time. `instance`: of this one's listeners and groups alone."""
    model = sight.model
    chosen = [each for each in model.listeners.values() if instance in ("", each.instance)]
    rates = {each.name: sight.listener(each) for each in chosen}
    leads = _groups_by_listener(sight)
    every = [(kind, name) for kind in GROUP_KINDS for name in getattr(model, kind)]
    wanted = list(dict.fromkeys(key for each in chosen for key in leads[each.name])) if instance else every
    clients = added(rates.values())
    told, shown = chosen[:limit], wanted[:limit]
    instances = [each for each in model.instances.values() if instance in ("", each.name)]
    return {
        "version": version,
        "at": round(at, 3),
        "window_s": WINDOW_S,
        "clients": {name: _rounded(clients[name]) for name in CLIENTS},
        "instances": [{"name": each.name, "type": each.type.value, "vips": list(each.vips)} for each in instances][
            :limit
        ],
        "instances_total": len(instances),
        "listeners": [_listener(each, leads[each.name], rates[each.name]) for each in told],
        "listeners_total": len(chosen),
        "nodes": [_node(each) for each in sight.nodes],
        "groups": list(_groups(sight, shown, limit)),
        "groups_total": len(wanted),
        "links": [link.document() for link in _links(sight, told, set(shown))],
    }


CLIENTS: Final = ("bytes_in_per_s", "bytes_out_per_s", "connections_per_s", "requests_per_s", "connections")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _round(rates: Rates) -> Rates:
    return {name: _rounded(value) for name, value in rates.items()}


def _groups_by_listener(sight: Sight) -> dict[str, dict[GroupKey, None]]:
    """The groups that each listener leads to, also by its rules, in order."""
    model = sight.model
    found: dict[str, dict[GroupKey, None]] = {name: {} for name in model.listeners}
    led = [(each.name, each.backend_service) for each in model.listeners.values()]
    for rule in model.rules.values():
        led += [
            (rule.listener, name) for name in (rule.backend_service, *(part.backend_service for part in rule.split))
        ]
    for listener, service in led:
        if service in sight.group_of:
            found[listener][sight.group_of[service]] = None
    return found


def _listener(listener: Listener, leads: Iterable[GroupKey], rates: Rates) -> dict[str, Any]:
    return {
        "name": listener.name,
        "instance": listener.instance,
        "protocol": listener.protocol.value,
        "port": listener.port,
        "enabled": listener.enabled,
        "tier": "l7" if listener.protocol in L7 else "l4",
        "groups": [{"kind": kind, "name": name} for kind, name in leads],
        "rates": _round(rates),
    }


def _node(node: Counted) -> dict[str, Any]:
    status, facts = node.status, node.status.facts
    sessions, software = facts.get("sessions"), facts.get("software")
    return {
        "role": status.role,
        "name": status.name,
        "step": status.step.value,
        "why": status.why,
        "version": status.version,
        "age_s": status.age_s,
        "draining": bool(facts.get("draining") or facts.get("resting")),
        "software": software if isinstance(software, str) else None,
        "rates": _round(node.rates),
        "sessions": sessions if status.role == Role.L4.value and type(sessions) is int else None,
    }


# --- servers


class Health:
    """Who holds which server for down. An L7 node speaks of a backend service's server, an L4 node of an address."""

    def __init__(self, sight: Sight) -> None:
        self._probed: set[tuple[GroupKey | None, str]] = set()
        self._down: dict[tuple[GroupKey | None, str], list[tuple[str, str]]] = {}
        for node in sight.nodes:
            rows = node.status.facts.get("health") if node.now is not None else None
            for row in rows if isinstance(rows, list) else ():
                if isinstance(row, Mapping) and isinstance(row.get("healthy"), bool) and row.get("why") != UNASKED:
                    self._add(sight, node.status.name, row)

    def _add(self, sight: Sight, node: str, row: Mapping[str, Any]) -> None:
        group = sight.group_of.get(configured(str(row["service"]))) if "service" in row else None
        key = group, str(row.get("server")).partition("/")[0]
        self._probed.add(key)
        if not row["healthy"]:
            held = self._down.setdefault(key, [])
            if not any(name == node for name, _ in held):
                held.append((node, str(row.get("why", ""))))

    def of(self, group: GroupKey, server: Server) -> tuple[str, list[str], str]:
        """State, the nodes that hold it for down, and the word of one of them."""
        keys = [(scope, endpoint(server.address, server.port)) for scope in (group, None)]
        held = [each for key in keys for each in self._down.get(key, ())]
        names, why = [name for name, _ in held], held[0][1] if held else ""
        if server.weight == 0:
            return "draining", names, why
        if held:
            return "down", names, why
        return ("up" if any(key in self._probed for key in keys) else "unknown"), [], ""


def _groups(sight: Sight, keys: Sequence[GroupKey], limit: int) -> Iterator[dict[str, Any]]:
    health, rates, room = Health(sight), sight.group_rates(), SERVERS_MOST
    users: dict[GroupKey, list[str]] = {}
    for service, key in sight.group_of.items():
        users.setdefault(key, []).append(service)
    facts = [node.status.facts for node in sight.nodes if node.now is not None]
    servers = _Servers(sight)
    for kind, name in keys:
        members = _members(sight.model, (kind, name), facts)
        states = [(server, *health.of((kind, name), server)) for server in members]
        counts = dict.fromkeys(("up", "down", "draining", "unknown"), 0)
        for _, state, _, _ in states:
            counts[state] += 1
        states.sort(key=lambda each: each[1] != "down")
        shown = states[: min(limit, room)]
        room -= len(shown)
        yield {
            "kind": kind,
            "name": name,
            "backend_services": users.get((kind, name), []),
            "rates": _round(rates.get((kind, name), NONE)),
            "servers_total": len(states),
            "servers_by_state": counts,
            "servers": [
                {
                    "address": server.address, "port": server.port, "weight": server.weight, "zone": server.zone,
                    "rack": server.rack, "state": state, "down_on": nodes, "why": why,
                    "rates": _round(servers.rates((kind, name), endpoint(server.address, server.port))),
                }
                for server, state, nodes, why in shown
            ],
        }  # fmt: skip


def _members(model: Model, key: GroupKey, facts: Sequence[Mapping[str, Any]]) -> Sequence[Server]:
    if key[0] == "server_groups":
        return model.server_groups[key[1]].servers
    return groups.known_members(model.availability_groups[key[1]], facts)


class _Servers:
    """Rates of single servers: by L4 listener and L7 backend service."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._listeners: dict[GroupKey, list[str]] = {}
        for each in sight.model.listeners.values():
            if each.protocol not in L7 and (key := sight.group_of.get(each.backend_service)):
                self._listeners.setdefault(key, []).append(each.name)
        self._rows: dict[tuple[GroupKey, str], list[tuple[Now, Mapping[str, Any]]]] = {}
        for node in sight.nodes:
            rows = node.now.facts.get("upstreams") if node.now is not None else None
            for row in rows if isinstance(rows, list) else ():
                if isinstance(row, Mapping) and (group := sight.group_of.get(configured(str(row.get("service"))))):
                    assert node.now is not None
                    self._rows.setdefault((group, str(row.get("server"))), []).append((node.now, row))

    def rates(self, group: GroupKey, server: str) -> Rates:
        try:
            flows = [
                found
                for listener in self._listeners.get(group, ())
                for node in self._sight.nodes
                if node.now is not None and node.flows and (found := node.now.l4_server(listener, server))
            ]
            rows = [now.l7_server(row) for now, row in self._rows.get((group, server), ())]
        except MALFORMED:
            return dict(NONE)
        return added([of_flow(joined(flows, sum) if flows else None), of_upstream(rows)])


# --- links


@dataclass(frozen=True, slots=True)
class Link:
    """What passes from one to another; of a group the name stands with its kind before it."""

    source: tuple[str, str]
    target: tuple[str, str]
    rates: Rates

    def document(self) -> dict[str, Any]:
        ways = [self.rates[name] for name in ("bytes_in_per_s", "bytes_out_per_s")]
        known = [way for way in ways if way is not None]
        return {
            "from": _end(*self.source),
            "to": _end(*self.target),
            "bytes_per_s": _rounded(sum(known)) if known else None,
            "requests_per_s": _rounded(self.rates["requests_per_s"]),
            "connections_per_s": _rounded(self.rates["connections_per_s"]),
        }


def _end(kind: str, name: str) -> dict[str, str]:
    if kind in GROUP_KINDS:
        return {"kind": "group", "name": name, "group_kind": kind}
    return {"kind": kind, "name": name}


def _links(sight: Sight, listeners: Sequence[Listener], shown: set[GroupKey]) -> Iterator[Link]:
    """From the clients by VIP and L4 node to L7 node and group. Where nodes of L4 are not there, from VIPs to L7."""
    found: dict[tuple[tuple[str, str], tuple[str, str]], list[Rates]] = {}

    def pass_on(source: tuple[str, str], target: tuple[str, str], rates: Rates) -> None:
        found.setdefault((source, target), []).append(rates)

    clients = ("clients", "clients")
    vias = {each.name: _entries(sight, each) for each in listeners}
    for listener in listeners:
        entries = vias[listener.name]
        for vip in entries:
            alone = len(entries) == 1  # of several VIPs nobody counts which one it was
            if vip != clients:
                pass_on(clients, vip, sight.listener(listener) if alone else NONE)
        for node in sight.nodes:
            if (flow := node.flows.get(listener.name)) is not None:
                l4 = ("l4", node.status.name)
                for vip in entries:
                    pass_on(vip, l4, of_flow(flow) if len(entries) == 1 else NONE)
                for target, rates in _onwards(sight, node, listener, flow):
                    pass_on(l4, target, rates)
            elif listener.name in node.loads and not any(each.flows for each in sight.nodes):
                for vip in entries:
                    pass_on(
                        vip, ("l7", node.status.name), of_load(node.loads[listener.name]) if len(entries) == 1 else NONE
                    )
    for node in sight.nodes:
        for service, load in node.services.items():
            if (group := sight.group_of.get(configured(service))) in shown and group is not None:
                pass_on(("l7", node.status.name), group, of_load(load))
    yield from (
        Link(*ends, added(parts)) for ends, parts in found.items() if ends[1][0] not in GROUP_KINDS or ends[1] in shown
    )


def _entries(sight: Sight, listener: Listener) -> list[tuple[str, str]]:
    """Where its clients come in: its VIPs, or the clients themselves where it has none."""
    vips = sight.model.instances[listener.instance].vips
    return [("vip", vip) for vip in vips] or [("clients", "clients")]


def _onwards(sight: Sight, node: Counted, listener: Listener, flow: Flow) -> Iterator[tuple[tuple[str, str], Rates]]:
    """Where an L4 node sends a listener's packets: to its group, or to the L7 nodes."""
    if listener.protocol not in L7:
        if (group := sight.group_of.get(listener.backend_service)) is not None:
            yield group, of_flow(flow)
        return
    assert node.now is not None
    for each in sight.model.nodes.values():
        if each.role is Role.L7:
            parts = [node.now.l4_server(listener.name, endpoint(a, listener.port)) for a in l7_addresses(each)]
            known = [part for part in parts if part is not None]
            yield ("l7", each.name), of_flow(joined(known, sum) if known else None)
