"""What would happen to a packet: each step from the VIP to the server, with the object that decides it. Pure.

What is said follows from the very functions that the nodes work by: `core.resolve` for what a listener is to the L4
tier, its access list, `core.flows` for the server. What nobody can know beforehand (whose turn it is, who has the
fewest connections) is not guessed: the candidates are named, and why it is open.

    Explanation: steps, an `outcome`, and `result`, the same for programs. `proxy/explain.py` goes on where a request
    of HTTP comes to an L7 node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from core.endpoints import endpoint, version
from core.fields import Kind
from core.flows import Down, chosen, takes
from core.model import HASH_SCHEDULERS, LEAST_SCHEDULERS, Acl, Listener, Mode, Model, Protocol, Role, Scheduler
from core.resolve import L4Service, l4_services, source_pools

SHOWN: Final = 12  # servers of one step
LIMITS: Final = (
    "max_new_connections_per_s", "max_connections", "max_connections_per_client", "bandwidth_in_mbit_s",
    "bandwidth_out_mbit_s",
)  # fmt: skip
_LAST_PORT: Final = 65535


class ExplainError(ValueError):
    """What is asked makes no sense; the text has the remedy."""


class Outcome(StrEnum):
    """What becomes of it in the end."""

    FORWARDED = "forwarded"  # to a server
    REDIRECTED = "redirected"  # the client is sent elsewhere
    ANSWERED = "answered"  # by a fixed reply
    REFUSED = "refused"  # with an error of ours
    DROPPED = "dropped"
    KERNEL = "kernel"  # it is for no listener, and left to the node's own kernel


@dataclass(frozen=True, slots=True)
class Place:
    """The object of the configuration that decides, and its field."""

    kind: Kind
    name: str
    field: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `notes` are what nearly happened, or may matter besides."""

    what: str
    text: str
    place: Place | None = None
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Explanation:
    """The steps so far. `result` has what programs want to know, by name."""

    steps: list[Step] = field(default_factory=list)
    outcome: Outcome = Outcome.FORWARDED
    result: dict[str, Any] = field(default_factory=dict)

    def say(self, what: str, text: str, place: Place | None = None, *notes: str) -> None:
        """Add a step."""
        self.steps.append(Step(what, text, place, notes))

    def end(self, outcome: Outcome, what: str, text: str, place: Place | None = None, *notes: str) -> Explanation:
        """Add the last step."""
        self.outcome = outcome
        self.say(what, text, place, *notes)
        return self


@dataclass(frozen=True, slots=True)
class Facts:
    """What nodes report, as far as it is known. `down`: servers that L4 nodes find unhealthy, "ADDRESS:PORT/PROTOCOL" →
    why. `seed`: of the flows' hash; None: not known here. `known`: whether nodes were asked at all. `said`: the server
    that an L4 node names, which has the seed, and the node."""

    down: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    known: bool = False
    said: tuple[str, str] = ("", "")

    def reals(self, service: L4Service) -> Down:
        """Those of a service that are down, as `core.flows` wants them."""
        ends = ((real.address, real.port, service.protocol) for real in service.reals)
        return {each for each in ends if f"{endpoint(*each[:2])}/{each[2]}" in self.down}


def document(told: Explanation) -> dict[str, Any]:
    """As JSON: `outcome`, what `result` has, and the steps, each with its object."""
    steps = [
        {"what": step.what, "text": step.text, "notes": list(step.notes)} | (_placed(step.place) if step.place else {})
        for step in told.steps
    ]
    return {"outcome": told.outcome.value, **told.result, "steps": steps}


def _placed(place: Place) -> dict[str, Any]:
    return {"kind": place.kind.value, "name": place.name, "field": place.field}


def flow(
    model: Model, protocol: str, client: tuple[str, int], vip: tuple[str, int], facts: Facts | None = None
) -> Explanation:
    """The first packet of a flow: a SYN, or a datagram, from `client` to `vip` (address and port each).

    A client's port of 0 is one that is not known. Raises ExplainError.
    """
    facts = facts or Facts()
    check_ends(client, vip)
    told = Explanation(result={"client": endpoint(*client), "vip": endpoint(*vip), "protocol": protocol})
    services = l4_services(model)
    service = next((s for s in services if (s.vip, s.port, s.protocol) == (*vip, protocol)), None)
    if service is None:
        return _nobody(told, model, protocol, vip)
    listener = model.listeners[service.listener]
    told.result |= {"listener": listener.name, "mode": service.mode.value}
    told.say("listener", _said_of(listener, model), Place(Kind.LISTENERS, listener.name))
    if never_a_client(client[0]) or client[0] == vip[0]:
        told.result["reason"] = "drop_bad_source"
        return told.end(Outcome.DROPPED, "source", f"{client[0]} can be no client's address: drop_bad_source")
    if not _admits(told, service, listener, client[0]):
        return told
    if limits := limits_text(listener, model):
        told.say("limits", limits, Place(Kind.LISTENERS, listener.name))
    return _to_real(told, model, service, listener, client, facts)


def check_ends(client: tuple[str, int], vip: tuple[str, int]) -> None:
    """Raises ExplainError."""
    for address, port in (client, vip):
        try:
            ip_address(address)
        except ValueError:
            raise ExplainError(f"{address!r} is no IP address") from None
        if not 0 <= port <= _LAST_PORT:
            raise ExplainError(f"{port} is no port")
    if version(client[0]) != version(vip[0]):
        raise ExplainError(f"{client[0]} and {vip[0]} are not of one IP version")


def never_a_client(address: str) -> bool:
    """Whether the data plane drops packets from it (l4fast/bpf/ip.h)."""
    ip = ip_address(address)
    if isinstance(ip, IPv4Address):
        return ip.packed[0] in (0, 127) or ip.packed[0] >= 224
    assert isinstance(ip, IPv6Address)
    special = ip.ipv4_mapped is not None or int(ip) < 2
    return ip.is_multicast or ip.is_link_local or special


def _nobody(told: Explanation, model: Model, protocol: str, vip: tuple[str, int]) -> Explanation:
    """No listener is there: what comes nearest."""
    owners = [instance for instance in model.instances.values() if vip[0] in instance.vips]
    theirs = [each for each in model.listeners.values() for owner in owners if each.instance == owner.name]
    same = [each for each in theirs if each.port == vip[1]]
    notes = [f"the listener {each.name} of this port is {_why_not(each, protocol)}" for each in same]
    notes += [f"this VIP has {each.protocol}/{each.port} ({each.name})" for each in theirs if each not in same][:SHOWN]
    where = endpoint(*vip)
    told.result["reason"] = "pass_not_for_vip"
    if not owners:
        vips = sorted({each for instance in model.instances.values() for each in instance.vips})
        known = f"the VIPs are {', '.join(vips[:SHOWN])}" if vips else "no instance has a VIP"
        text = f"{vip[0]} is no instance's VIP; the node's kernel gets the packet"
        return told.end(Outcome.KERNEL, "listener", text, None, known)
    text = f"no listener is there for {protocol} to {where}; the node's kernel gets the packet, or, where the VIP is "
    text += "the node's own address (vrrp), it is dropped: drop_no_listener"
    return told.end(Outcome.KERNEL, "listener", text, Place(Kind.INSTANCES, owners[0].name), *notes)


def _why_not(listener: Listener, protocol: str) -> str:
    if listener.enabled or carried_by(listener.protocol) != protocol:
        return f"for {listener.protocol}"
    return "not enabled"


def carried_by(protocol: Protocol) -> str:
    """What a listener's packets are."""
    return "udp" if protocol is Protocol.UDP else "tcp"


def _said_of(listener: Listener, model: Model) -> str:
    instance = model.instances[listener.instance]
    what = f"{listener.protocol} to port {listener.port} of the instance {instance.name} ({instance.type})"
    return f"{listener.name}: {what}"


def _admits(told: Explanation, service: L4Service, listener: Listener, client: str) -> bool:
    if service.access is None:
        return True
    place, name = Place(Kind.LISTENERS, listener.name, "access_list"), listener.access_list
    listed = service.access.admits(client) is (service.access.acl is Acl.WHITE)
    stands = f"{client} {'stands' if listed else 'does not stand'} in the {service.access.acl} list {name}"
    if service.access.admits(client):
        told.say("access list", f"{stands}: admitted", place)
        return True
    told.result["reason"] = "drop_denied"
    told.end(Outcome.DROPPED, "access list", f"{stands}: dropped without an answer (drop_denied)", place)
    return False


def limits_text(listener: Listener, model: Model) -> str:
    """What may keep it out; empty where nothing is limited."""
    instance = model.instances[listener.instance]
    found = [
        f"{name} = {value}{of}"
        for owner, of in ((listener, ""), (instance, f" of the instance {instance.name}"))
        for name in LIMITS
        if (value := getattr(owner, name, 0))
    ]
    return f"dropped beyond {', '.join(found)}, of the whole cluster" if found else ""


def _to_real(
    told: Explanation, model: Model, service: L4Service, listener: Listener, client: tuple[str, int], facts: Facts
) -> Explanation:
    place = _place_of_servers(model, listener)
    down = facts.reals(service)
    able = [real for real in service.reals if takes(service, real, down)]
    ends = [endpoint(real.address, real.port) for real in able]
    whose = "L7 node" if listener.protocol in (Protocol.HTTP, Protocol.HTTPS) else "server"
    notes = list(_left_out(service, facts, down))
    told.result["candidates"] = ends
    if not able:
        told.result["reason"] = "drop_no_real"
        text = f"no {whose} takes new flows: dropped (drop_no_real)"
        return told.end(Outcome.DROPPED, whose, text, place, *notes)
    if not facts.known and service.check is not None:
        notes.append("by the configuration alone: which are healthy is known to the nodes")
    if service.persistence_timeout_s:
        bits = f"/{service.persistence_prefix}" if service.persistence_prefix < (32, 128)[":" in service.vip] else ""
        told.say(
            "persistence",
            f"a client{bits} whose last new flow is less than {service.persistence_timeout_s} s ago goes to that one's "
            "server, by the memory of the node that it enters at; else:",
            Place(Kind.LISTENERS, listener.name, "persistence_timeout_s"),
        )
    server = _choose(told, service, client, facts, down, ends, whose, place, notes)
    _place_of_node(told, model, server)
    told.result |= {"server": server, "hashed": service.scheduler in HASH_SCHEDULERS}
    if service.persistence_timeout_s:
        told.result |= {"server": "", "otherwise": server}  # a flow of a moment ago may decide
    _say_mode(told, model, service, listener, server or f"the {whose}")
    return told


def _place_of_servers(model: Model, listener: Listener) -> Place | None:
    if listener.protocol in (Protocol.HTTP, Protocol.HTTPS):
        return next((Place(Kind.NODES, n.name) for n in model.nodes.values() if n.role is Role.L7), None)
    service = model.backend_services[listener.backend_service]
    return Place(Kind.BACKEND_SERVICES, service.name, "scheduler")


def _place_of_node(told: Explanation, model: Model, server: str) -> None:
    """The L7 node that was chosen, in place of the first one."""
    step, address = told.steps[-1], server.rpartition(":")[0].strip("[]")
    for node in model.nodes.values() if step.place is not None and step.place.kind is Kind.NODES else ():
        if address and address in (node.address, node.address_v6):
            told.steps[-1] = replace(step, place=Place(Kind.NODES, node.name))


def _left_out(service: L4Service, facts: Facts, down: Down) -> Iterator[str]:
    for real in service.reals[: 1 << 12]:
        end = endpoint(real.address, real.port)
        if not real.weight:
            yield f"{end} has weight 0: it keeps its sessions and takes nothing new"
        elif (real.address, real.port, service.protocol) in down:
            yield f"{end} is unhealthy: {facts.down[f'{end}/{service.protocol}']}"


def _choose(
    told: Explanation, service: L4Service, client: tuple[str, int], facts: Facts, down: Down, ends: list[str],
    whose: str, place: Place | None, notes: list[str],
) -> str:  # fmt: skip
    """The server, where it can be known; says how it is found."""
    scheduler = service.scheduler
    among = f"{len(ends)} of {len(service.reals)} take new flows: {', '.join(ends[:SHOWN])}"
    among += ", …" if len(ends) > SHOWN else ""
    needs_port = scheduler is not Scheduler.SH
    if len(ends) == 1:
        told.say(whose, f"{ends[0]}: the only one that takes new flows", place, *notes)
        return ends[0]
    if scheduler not in HASH_SCHEDULERS:
        how = "the one with the fewest connections at that moment, of each node by itself" \
            if scheduler in LEAST_SCHEDULERS else "whose turn it is, of each node and CPU by itself"  # fmt: skip
        told.say(whose, f"{scheduler}: {how}, which nobody can know beforehand; {among}", place, *notes)
        return ""
    if facts.said[0] in ends:
        text = f"{facts.said[0]}: {scheduler}, by the hash that every node computes alike, as {facts.said[1]} does"
        told.say(whose, text, place, among, *notes)
        return facts.said[0]
    if facts.seed is None or (needs_port and not client[1]):
        lacks = "the seed of the cluster key is not known here (--cluster-key FILE)" if facts.seed is None else \
            "the client's port is not known (--from ADDRESS:PORT)"  # fmt: skip
        told.say(whose, f"{scheduler}: by a hash that every node computes alike, and {lacks}; {among}", place, *notes)
        return ""
    real = chosen(service, client, down, facts.seed)
    assert real is not None
    server = endpoint(real.address, real.port)
    of = {Scheduler.SH: "the client's address", Scheduler.TCH: "addresses and ports"}
    text = (
        f"{server}: {scheduler}, the hash of {of.get(scheduler, 'addresses, ports and protocol')} says so on every node"
    )
    told.say(whose, text, place, among, *notes)
    return server


_MODES: Final[Mapping[Mode, str]] = {
    Mode.NAT: "destination {vip} → {server}; the server answers through an L4 node, which puts the VIP back",
    Mode.DR: "as it is, to the MAC address of {server}, which has the VIP itself and answers the client directly",
    Mode.TUNNEL: "whole, inside a packet to {server}, which takes it out, has the VIP itself and answers directly",
    Mode.FULLNAT: "destination {vip} → {server}, source → an address of the node's pool ({pool})",
}


def _say_mode(told: Explanation, model: Model, service: L4Service, listener: Listener, server: str) -> None:
    vip = endpoint(service.vip, service.port)
    own = sorted({a for pool in source_pools(model).values() for a in pool if version(a) == version(service.vip)})
    text = _MODES[service.mode].format(vip=vip, server=server, pool=", ".join(own[:4]) or "none is given")
    told.say("forwarding", f"{service.mode}: {text}", Place(Kind.LISTENERS, listener.name, "mode"))
    if service.stateless:
        told.say("session", "none: the hash of each packet decides", Place(Kind.INSTANCES, listener.instance, "type"))
    elif service.protocol == "udp":
        told.say("session", f"made by the first datagram; it ends {service.idle_timeout_s} s after the last")
    else:
        told.say(
            "session",
            f"made when the handshake is complete, told to the peers at its third packet; idle for "
            f"{service.idle_timeout_s} s it ends",
        )
