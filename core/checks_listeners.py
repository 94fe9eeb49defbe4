"""Listeners: what their protocol needs and allows, and who may answer on which address and port."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from operator import attrgetter

from core import checks_answers
from core.behind import Groups, servers_of
from core.checks_shaping import access_problems, rate_problems
from core.endpoints import UNIX, endpoint, is_loopback, version
from core.errors import Path, Problem
from core.model import (
    HASH_SCHEDULERS,
    KEEPING_THE_PORT,
    L4_SCHEDULERS,
    L7_SCHEDULERS,
    BackendProtocol,
    BackendService,
    Instance,
    InstanceType,
    Kind,
    Listener,
    Mode,
    Model,
    Protocol,
    ProxyProtocol,
    Role,
)
from core.reader import fields, in_words, show
from core.resolve import l7_addresses
from core.spread import is_dynamic

Places = Mapping[tuple[Kind, str], Path]

L4_PROTOCOLS = (Protocol.TCP, Protocol.UDP)
L7_PROTOCOLS = (Protocol.HTTP, Protocol.HTTPS)
L4_INSTANCES = (InstanceType.NLB, InstanceType.DNLB)
_OF_L7 = (BackendProtocol.HTTP, BackendProtocol.H2, BackendProtocol.H2C)
BACKENDS_OF = {
    Protocol.TCP: (BackendProtocol.TCP,),
    Protocol.UDP: (BackendProtocol.UDP,),
    Protocol.HTTP: _OF_L7,
    Protocol.HTTPS: _OF_L7,
}
DRAIN_TIMEOUT_S = 300
_WHOLE_ADDRESS = {"persistence_prefix": 32, "persistence_prefix_v6": 128}
# Options that only some protocols read. http and https listeners behind VIPs have L4 sessions too, of TCP.
OPTIONS: Mapping[str, tuple[Protocol, ...]] = {
    "mode": L4_PROTOCOLS,
    "certificates": (Protocol.HTTPS,),
    "established_timeout_s": (Protocol.TCP, *L7_PROTOCOLS),
    "udp_idle_timeout_s": (Protocol.UDP,),
    "persistence_timeout_s": L4_PROTOCOLS,
    "persistence_prefix": L4_PROTOCOLS,
    "persistence_prefix_v6": L4_PROTOCOLS,
    "idle_timeout_s": L7_PROTOCOLS,
    "request_timeout_s": L7_PROTOCOLS,
    "trusted_proxies": L7_PROTOCOLS,
    "proxy_protocol": L7_PROTOCOLS,
    "proxy_protocol_from": L7_PROTOCOLS,
    "tls_policy": (Protocol.HTTPS,),
    "hsts_max_age_s": (Protocol.HTTPS,),
    "hsts_include_subdomains": (Protocol.HTTPS,),
    "hsts_preload": (Protocol.HTTPS,),
    "https_redirect_port": (Protocol.HTTP,),
    "ca_certificate": (Protocol.HTTPS,),
    "client_certificate": (Protocol.HTTPS,),
    "client_certificate_fields": (Protocol.HTTPS,),
    "handshake_timeout_s": (Protocol.HTTPS,),
    "max_handshakes_per_client": (Protocol.HTTPS,),
    "head_timeout_s": L7_PROTOCOLS,
    "body_timeout_s": L7_PROTOCOLS,
    "min_body_rate_bytes_s": L7_PROTOCOLS,
    "send_timeout_s": L7_PROTOCOLS,
    "max_connections_per_client": L7_PROTOCOLS,
    "acme_backend_service": (Protocol.HTTPS,),
    "drain": L4_PROTOCOLS,
    "drain_timeout_s": L4_PROTOCOLS,
    "x_forwarded_for": L7_PROTOCOLS,
    "x_forwarded_proto": L7_PROTOCOLS,
    "x_forwarded_port": L7_PROTOCOLS,
    "x_forwarded_client_port": L7_PROTOCOLS,
    "x_forwarded_slb_ip": L7_PROTOCOLS,
    "x_forwarded_slb_id": L7_PROTOCOLS,
    "underscored_fields": L7_PROTOCOLS,
    "rate_limits": L7_PROTOCOLS,
    "cors": L7_PROTOCOLS,
    "security_headers": L7_PROTOCOLS,
    "max_head_bytes": L7_PROTOCOLS,
    "max_body_bytes": L7_PROTOCOLS,
    "max_requests": L7_PROTOCOLS,
    "max_requests_per_client": L7_PROTOCOLS,
    "compression": L7_PROTOCOLS,
    "error_pages": L7_PROTOCOLS,
    "maintenance": L7_PROTOCOLS,
    "http2": (Protocol.HTTPS,),
    "http2_prior_knowledge": (Protocol.HTTP,),
}


def check(model: Model, places: Places) -> Iterator[Problem]:
    """Every problem of listeners and VIPs."""
    groups = Groups(model)
    with_rules = {rule.listener for rule in model.rules.values()}
    for listener in model.listeners.values():
        path = places[Kind.LISTENERS, listener.name]
        instance = model.instances.get(listener.instance)
        service = model.backend_services.get(listener.backend_service)
        yield from _options(listener, path)
        yield from access_problems(listener, path)
        yield from _proxies(listener, path)
        yield from _limits(listener, instance, path)
        yield from rate_problems(listener.rate_limits, (*path, "rate_limits"))
        yield from checks_answers.of_listener(listener, path)
        yield from _target(listener, listener.name in with_rules, service, path)
        if instance is not None:
            yield from _instance(listener, instance, path)
            if service is not None and instance.type is InstanceType.DNLB:
                yield from _stateless(listener, service, path)
            if service is not None and listener.protocol in L4_PROTOCOLS:
                yield from _versions(instance, service, groups, (*path, "backend_service"))
        if service is not None:
            yield from servers_fit(listener, instance, service, groups, (*path, "backend_service"))
        issuer = model.backend_services.get(listener.acme_backend_service)
        if issuer is not None and listener.protocol is Protocol.HTTPS:
            yield from _issuer(issuer, (*path, "acme_backend_service"))
            yield from servers_fit(listener, instance, issuer, groups, (*path, "acme_backend_service"))
    yield from _clashes(model, places)
    yield from _answers(model, places)
    yield from _vips(model, places)
    yield from _without_pool(model, places)


@cache
def _others(protocol: Protocol) -> tuple[tuple[str, ...], tuple[object, ...], Callable[[Listener], tuple[object, ...]]]:
    """The options that are for other protocols, their defaults, and how to get them all of a listener."""
    found = [each for each in fields(Listener) if each.name in OPTIONS and protocol not in OPTIONS[each.name]]
    names = tuple(each.name for each in found)
    return names, tuple(each.default for each in found), attrgetter(*names)


def _options(listener: Listener, path: Path) -> Iterator[Problem]:
    others, defaults, of = _others(listener.protocol)
    values = of(listener)
    if values != defaults:
        for name, value, default in zip(others, values, defaults, strict=True):
            if value != default:
                why = f"{name} is for {in_words(OPTIONS[name], 'and')} listeners, and this one is {listener.protocol}"
                yield Problem((*path, name), why, "remove it")
    for name, whole in _WHOLE_ADDRESS.items():
        if getattr(listener, name) != whole and not listener.persistence_timeout_s:
            why = "a prefix of clients without a time for which they keep their server"
            yield Problem((*path, name), why, "give persistence_timeout_s too, or remove it")
    if listener.drain_timeout_s != DRAIN_TIMEOUT_S and not listener.drain:
        why = "a time to drain for, and nothing is drained"
        yield Problem((*path, "drain_timeout_s"), why, "give drain = true too, or remove it")
    if listener.protocol is Protocol.HTTPS and not listener.certificates:
        yield Problem(path, "an https listener without certificates", "give certificates, or domains to try it out")
    for index, name in enumerate(listener.certificates):
        if name in listener.certificates[:index]:
            yield Problem((*path, "certificates", index), f"{show(name)} is in the list already", "remove one")


def _proxies(listener: Listener, path: Path) -> Iterator[Problem]:
    if listener.proxy_protocol is ProxyProtocol.OFF and listener.proxy_protocol_from:
        why = "proxy_protocol is off, so that nobody is asked for a header"
        yield Problem((*path, "proxy_protocol_from"), why, 'give proxy_protocol = "required", or remove it')
    if listener.proxy_protocol is not ProxyProtocol.OFF and not listener.proxy_protocol_from:
        why = f"{listener.proxy_protocol} of nobody: whoever may send the header may pass for any client"
        yield Problem((*path, "proxy_protocol"), why, "give proxy_protocol_from, the networks of your proxies")


def _limits(listener: Listener, instance: Instance | None, path: Path) -> Iterator[Problem]:
    """The L4 tier has to see the traffic, and to know whose connection a packet is of; the L7 tier does anyway."""
    dropped = listener.protocol in L4_PROTOCOLS and listener.mode in KEEPING_THE_PORT
    why = f"the L4 tier keeps it, and answers in mode {listener.mode} do not pass there"
    if listener.bandwidth_out_mbit_s and dropped:
        yield Problem((*path, "bandwidth_out_mbit_s"), why, "remove it, or use mode nat")
    if instance is None:
        return
    if instance.bandwidth_out_mbit_s and dropped:
        limited = f"{instance.name} has bandwidth_out_mbit_s: {why}"
        yield Problem((*path, "mode"), limited, "use mode nat, or give the listener an instance of its own")
    for name in ("bandwidth_in_mbit_s", "bandwidth_out_mbit_s"):
        own, whole = getattr(listener, name), getattr(instance, name)
        if whole and own > whole:
            beyond = f"{own} Mbit/s is more than {instance.name} has in all, {whole}"
            yield Problem((*path, name), beyond, "lower it, or remove it")
    if instance.type is not InstanceType.DNLB:
        return
    if listener.max_connections:
        why = "an instance of type dnlb keeps no sessions that could be counted"
        yield Problem((*path, "max_connections"), why, "remove it, or use type nlb")
    if listener.max_new_connections_per_s and listener.protocol is Protocol.UDP:
        why = "an instance of type dnlb keeps no sessions, and no datagram is the first"
        yield Problem((*path, "max_new_connections_per_s"), why, "remove it, or use type nlb")


def _target(listener: Listener, has_rules: bool, service: BackendService | None, path: Path) -> Iterator[Problem]:
    wanted = in_words(BACKENDS_OF[listener.protocol], "or")
    if service is not None and service.protocol not in BACKENDS_OF[listener.protocol]:
        why = f"{service.name} is a {service.protocol} service, and a listener of {listener.protocol} needs {wanted}"
        yield Problem((*path, "backend_service"), why, f"refer to one of protocol {wanted}")
    if listener.backend_service or listener.https_redirect_port:
        return
    if listener.protocol in L4_PROTOCOLS:
        yield Problem(path, "backend_service is missing", f"give one of protocol {wanted}, or servers")
    elif not has_rules:
        yield Problem(
            path, "nowhere to forward to", "give backend_service or servers, or add [[rules]] of this listener"
        )


def _issuer(service: BackendService, where: Path) -> Iterator[Problem]:
    """L7 nodes lead connections to it byte by byte, and choose its servers as they do those of http services."""
    if service.protocol is not BackendProtocol.TCP:
        why = f"{service.name} is a {service.protocol} service, and the issuer is spoken to by tcp"
        yield Problem(where, why, "refer to one of protocol tcp")
    elif service.scheduler not in L7_SCHEDULERS:
        why = f"the L7 tier, which leads to {service.name} here, has no {service.scheduler}"
        yield Problem(
            where, why, f"give the service the scheduler {in_words(sorted(L7_SCHEDULERS & L4_SCHEDULERS), 'or')}"
        )


def _instance(listener: Listener, instance: Instance, path: Path) -> Iterator[Problem]:
    is_l4 = listener.protocol in L4_PROTOCOLS
    wanted = L4_INSTANCES if is_l4 else (InstanceType.ALB,)
    if instance.type not in wanted or (is_l4 and not instance.vips):
        has = f"type {instance.type}" + ("" if instance.vips else " without vips")
        need = f"type {in_words(wanted, 'or')}" + (" with vips" if is_l4 else "")
        why = f"a listener of {listener.protocol} needs an instance of {need}; {instance.name} is of {has}"
        one = in_words(wanted, "or")
        yield Problem((*path, "instance"), why, f"refer to an instance of type {one}" + (" with vips" * is_l4))
    elif is_l4 and any(is_loopback(vip) for vip in instance.vips):
        yield Problem((*path, "instance"), f"{instance.name} has a loopback VIP, which no packet reaches", "change it")


def _stateless(listener: Listener, service: BackendService, path: Path) -> Iterator[Problem]:
    if listener.drain:
        why = "an instance of type dnlb keeps no sessions that could go on"
        yield Problem((*path, "drain"), why, "remove it, or use type nlb")
    if listener.persistence_timeout_s:
        why = "an instance of type dnlb keeps nothing of its clients"
        yield Problem((*path, "persistence_timeout_s"), why, 'remove it, and give the service scheduler = "sh"')
    if listener.protocol in L4_PROTOCOLS and service.scheduler not in HASH_SCHEDULERS:
        why = f"an instance of type dnlb keeps no sessions, and {service.name} is scheduled by {service.scheduler}"
        hashes = in_words(sorted(HASH_SCHEDULERS), "or")
        yield Problem((*path, "backend_service"), why, f"give the service the scheduler {hashes}")
    if listener.mode is Mode.FULLNAT:
        why = "an instance of type dnlb keeps no sessions, without which fullnat cannot tell whose an answer is"
        yield Problem((*path, "mode"), why, "use another mode, or an instance of type nlb")


def _versions(instance: Instance, service: BackendService, groups: Groups, where: Path) -> Iterator[Problem]:
    """Packets are not translated: a VIP has the servers of its own IP version."""
    have = groups.behind(service).versions
    for vip in instance.vips:
        ip = version(vip)
        if have and ip not in have:
            why = (
                f"the servers of {service.name} are all of IPv{10 - ip}, and VIP {vip} of {instance.name} needs IPv{ip}"
            )
            yield Problem(where, why, f"add servers of IPv{ip}, or give the VIP an instance of its own")
            return


def _answers(model: Model, places: Places) -> Iterator[Problem]:
    """Without sessions, a server's answer belongs to a nat listener by the server's address and port alone."""
    if not any(instance.type is InstanceType.DNLB for instance in model.instances.values()):
        return
    owners: dict[tuple[str, int, Protocol], list[tuple[Listener, Instance]]] = {}
    for listener in model.listeners.values():
        instance = model.instances.get(listener.instance)
        service = model.backend_services.get(listener.backend_service)
        if listener.protocol not in L4_PROTOCOLS or listener.mode is not Mode.NAT or not (instance and service):
            continue
        group = model.availability_groups.get(service.availability_group)
        if group is not None and is_dynamic(group) and instance.type is InstanceType.DNLB:
            why = f"members of {group.name} come and go, and without sessions nobody can tell whose their answers are"
            path = (*places[Kind.LISTENERS, listener.name], "mode")
            yield Problem(path, why, "use mode dr, or an instance of type nlb")
        of_version = Counter(map(version, instance.vips))
        if instance.type is InstanceType.DNLB and max(of_version.values(), default=0) > 1:
            ip, count = of_version.most_common(1)[0]
            why = f"{instance.name} has {count} IPv{ip} VIPs and keeps no sessions: an answer may be any VIP's"
            yield Problem(
                (*places[Kind.LISTENERS, listener.name], "mode"), why, "give it one of each IP version, or use mode dr"
            )
        for server in servers_of(model, service):
            owners.setdefault((server.address, server.port, listener.protocol), []).append((listener, instance))
    said = set()
    for (address, port, _), sharing in owners.items():
        stateless = [listener for listener, instance in sharing if instance.type is InstanceType.DNLB]
        for listener in stateless:
            others = [other.name for other, _ in sharing if other is not listener]
            if others and listener.name not in said:
                said.add(listener.name)
                names = in_words(others, "and")
                why = f"{endpoint(address, port)} answers for {names} too, and no session tells whose it is"
                remedy = "use mode dr, or servers of another port"
                yield Problem((*places[Kind.LISTENERS, listener.name], "backend_service"), why, remedy)


def servers_fit(
    listener: Listener, instance: Instance | None, service: BackendService, groups: Groups, where: Path
) -> Iterator[Problem]:
    """What a listener demands of the servers that it forwards to, be it by a rule. `where` names their service."""
    vips = instance.vips if instance else ()
    is_l4, port, behind = listener.protocol in L4_PROTOCOLS, listener.port, groups.behind(service)
    if is_l4:
        keeps = listener.mode in KEEPING_THE_PORT and behind.ports - {port}
        if not keeps and (listener.mode is Mode.DR or not behind.loopback):
            return
    elif port not in behind.ports:
        return
    for server in behind.servers:
        if not is_l4 and server.port != port:  # of a million servers, next to all
            continue
        if server.address.startswith(UNIX):  # core.checks_upstreams says where they fit
            continue
        if is_l4:
            if listener.mode is not Mode.DR and is_loopback(server.address):
                at = endpoint(server.address, server.port)
                why = f"{at} in {service.name} is the L4 node itself, where mode {listener.mode} does not lead"
                yield Problem(where, why, "give the server's address on the network, or use mode dr")
            if listener.mode in KEEPING_THE_PORT and server.port != listener.port:
                at = endpoint(server.address, server.port)
                why = f"mode {listener.mode} keeps the port, {listener.port}, and {at} in {service.name} has another"
                yield Problem(where, why, "give the servers the listener's port, or use mode nat")
        elif server.address in vips or (instance is not None and not vips and is_loopback(server.address)):
            at = endpoint(server.address, server.port)
            why = f"{at} in {service.name} is where this listener answers itself"
            yield Problem(where, why, "change the listener's port or the server's")


def _without_pool(model: Model, places: Places) -> Iterator[Problem]:
    """Every L4 node gets every listener's traffic, and fullnat needs addresses to put in the clients' place."""
    pools = [(node.name, set(map(version, node.source_pool))) for node in model.nodes.values() if node.role is Role.L4]
    for listener in model.listeners.values():
        instance = model.instances.get(listener.instance)
        needed = sorted(set(map(version, instance.vips))) if instance and listener.mode is Mode.FULLNAT else []
        for ip in needed:
            poolless = next((name for name, has in pools if ip not in has), "")
            if poolless:
                why = f"mode fullnat takes its IPv{ip} source addresses from each node's pool, and {poolless} has none"
                yield Problem((*places[Kind.LISTENERS, listener.name], "mode"), why, "give the node source_pool")


def _clashes(model: Model, places: Places) -> Iterator[Problem]:
    """Two listeners on one address, transport and port. Without VIPs, the L7 nodes answer on all addresses."""
    seen: dict[tuple[str, int], list[tuple[Listener, Instance]]] = {}
    ready_ports = {node.health_port: node.name for node in model.nodes.values() if node.role is Role.L7}
    for listener in model.listeners.values():
        instance = model.instances.get(listener.instance)
        if instance is None:
            continue
        path = (*places[Kind.LISTENERS, listener.name], "port")
        transport = "udp" if listener.protocol is Protocol.UDP else "tcp"
        others = seen.setdefault((transport, listener.port), [])
        for other, other_instance in others:
            shared = _shared(listener, instance, other, other_instance)
            if shared:
                why = f"listener {other.name} has {transport} port {listener.port} on {shared} already"
                yield Problem(path, why, "change one of the ports, or give their instances vips of their own")
                break
        others.append((listener, instance))
        if listener.protocol in L7_PROTOCOLS and not instance.vips and listener.port in ready_ports:
            why = f"node {ready_ports[listener.port]} answers on port {listener.port} whether it is ready"
            yield Problem(path, why, "change the listener's port or the node's health_port")


def _shared(listener: Listener, instance: Instance, other: Listener, other_instance: Instance) -> str:
    """The address that both listeners would answer on; empty if there is none."""
    common = set(instance.vips) & set(other_instance.vips)
    if common:
        return min(common)
    both_l7 = listener.protocol in L7_PROTOCOLS and other.protocol in L7_PROTOCOLS
    return "every address" if both_l7 and not (instance.vips and other_instance.vips) else ""


def _vips(model: Model, places: Places) -> Iterator[Problem]:
    """A VIP belongs to no machine: neither a server nor a node has it. Loopback VIPs stay on the L7 node itself."""
    owners = {address: f"node {node.name}" for node in model.nodes.values() for address in l7_addresses(node)}
    for server_group in model.server_groups.values():
        owners |= {server.address: f"a server in {server_group.name}" for server in server_group.servers}
    for group in model.availability_groups.values():
        owners |= {member.address: f"a server in {group.name}" for member in group.members}
    for instance in model.instances.values():
        for index, vip in enumerate(instance.vips):
            path = (*places[Kind.INSTANCES, instance.name], "vips", index)
            if vip in instance.vips[:index]:
                yield Problem(path, f"{vip} is in the list already", "remove one")
            if vip in owners and not is_loopback(vip):
                yield Problem(path, f"{vip} is the address of {owners[vip]}", "give an address that no machine has")
    yield from _unreachable(model, places)


def _unreachable(model: Model, places: Places) -> Iterator[Problem]:
    """Where L4 nodes bring the traffic of a VIP to L7 nodes, they need an address of its IP version."""
    if not any(node.role is Role.L4 for node in model.nodes.values()):
        return
    nodes = [node for node in model.nodes.values() if node.role is Role.L7]
    have = {version(address) for node in nodes for address in l7_addresses(node)}
    serving = {listener.instance for listener in model.listeners.values() if listener.protocol in L7_PROTOCOLS}
    for instance in model.instances.values():
        for index, vip in enumerate(instance.vips):
            if instance.name in serving and nodes and version(vip) not in have:
                remedy = "give the l7 nodes address_v6" if version(vip) == 6 else "give the l7 nodes an IPv4 address"
                why = (
                    f"no l7 node has an address of IPv{version(vip)}, which L4 nodes need to bring it the VIP's traffic"
                )
                yield Problem((*places[Kind.INSTANCES, instance.name], "vips", index), why, remedy)
