"""Servers of one's own zone first, as far as they are one's share of all servers.

A node sends its requests to the servers of its zone as long as these are at least as large a part of all servers (by
weight, of those that take requests) as the zone's nodes are of all nodes. Where they are less, since some are down or
there never were more, it sends them what they can take, and the rest to the other zones, to each by what it has beyond
the share of its own nodes. So traffic crosses zones no more than it has to, and every server gets the same load, if
every node gets the same number of requests. (Envoy's zone aware routing:
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/zone_aware)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from core.model import Model, Role

TURNS = 1000  # what weights add up to, so that rings stay short; more where there are many servers
TURNS_EACH = 20


@dataclass(frozen=True, slots=True)
class Locality:
    """A node's zone, and how many nodes there are in each."""

    zone: str
    nodes: Mapping[str, int]


def locality(model: Model, node: str) -> Locality | None:
    """Where an l7 node is; None where the configuration does not say."""
    zones = Counter(each.zone for each in model.nodes.values() if each.role is Role.L7 and each.zone)
    here = next((each for each in model.nodes.values() if each.role is Role.L7 and each.name == node), None)
    return Locality(here.zone, dict(zones)) if here is not None and here.zone else None


def shares(here: Locality, capacity: Mapping[str, float]) -> dict[str, float]:
    """Which part of a node's requests goes to each zone. `capacity`: the weight there, of servers that take requests;
    more than 0 in all."""
    nodes, total = sum(here.nodes.values()), sum(capacity.values())
    demand = {zone: here.nodes.get(zone, 0) / nodes for zone in {*here.nodes, *capacity}}
    supply = {zone: capacity.get(zone, 0) / total for zone in demand}
    own = here.zone
    if supply[own] >= demand[own]:
        return {own: 1.0}
    kept = supply[own] / demand[own]
    spare = {zone: supply[zone] - demand[zone] for zone in capacity if supply[zone] > demand[zone]}
    everything = sum(spare.values())
    return {own: kept} | {zone: (1 - kept) * beyond / everything for zone, beyond in spare.items()}


def weighed(
    here: Locality, zones: Sequence[str], base: Sequence[int], now: Sequence[int], out: Collection[int]
) -> tuple[int, ...] | None:
    """The weights of servers for this node; None where there is nothing to prefer.

    `zones`, `base` weights and those of this moment (`now`) are by server; `out` are the servers that take no requests.
    """
    capacity: Counter[str] = Counter()
    for index, weight in enumerate(base):
        if index not in out:
            capacity[zones[index]] += weight
    there = {zone: weight for zone, weight in capacity.items() if weight}
    if len(there) < 2:
        return None
    part = shares(here, there)
    whole = Counter[str]()
    for index, weight in enumerate(now):
        if index not in out:
            whole[zones[index]] += weight
    turns = max(TURNS, TURNS_EACH * len(zones))
    factor = {zone: part.get(zone, 0) * turns / whole[zone] for zone in there if whole[zone]}
    return tuple(
        max(1, round(weight * factor[zone])) if weight and factor.get(zone) else 0
        for zone, weight in zip(zones, now, strict=True)
    )
