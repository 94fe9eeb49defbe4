"""Rules that no field can state alone: references, clashes, and options that must fit each other.

Each check looks at one aspect of a model and yields the problems it finds. Objects that could not be read are missing
from the model, but their names are in `places`: nothing is said about what refers to them, since their own fault is
reported already. The rules between listeners, instances and addresses are in `core.checks_listeners`, those
about https in `core.checks_tls`, those about how the L7 tier treats servers in `core.checks_upstreams`. After a change
a part of the model is checked (`core.affected`), which has to have all that a check looks at together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from functools import cache
from itertools import chain
from typing import get_args, get_origin

from core import (
    checks_answering,
    checks_authentication,
    checks_listeners,
    checks_redirects,
    checks_rules,
    checks_sticky,
    checks_tls,
    checks_upstreams,
    spread,
)
from core.endpoints import UNIX, endpoint, version
from core.errors import Path, Problem
from core.fields import Ref
from core.model import (
    ACCESS_LIST_ENTRIES,
    L4_SCHEDULERS,
    L7_BACKENDS,
    L7_SCHEDULERS,
    MOST_POOL_ADDRESSES,
    BackendProtocol,
    BackendService,
    CheckType,
    HealthCheck,
    Kind,
    Model,
    Node,
    Role,
    Server,
)
from core.reader import Field, did_you_mean, fields, in_words, optional, show, split

Places = Mapping[tuple[Kind, str], Path]

# Options of a health check that only one type of check reads.
CHECK_OPTIONS: Mapping[str, CheckType] = {
    "method": CheckType.HTTP,
    "uri": CheckType.HTTP,
    "domain": CheckType.HTTP,
    "codes": CheckType.HTTP,
    "service": CheckType.GRPC,
    "request": CheckType.UDP,
    "expect": CheckType.UDP,
}
# A udp server may be asked by tcp or http too, on a port where it says how it is (`port`); the others have no udp port.
CHECKS_OF = {
    BackendProtocol.TCP: (CheckType.TCP, CheckType.HTTP, CheckType.GRPC),
    BackendProtocol.UDP: (CheckType.UDP, CheckType.TCP, CheckType.HTTP),
    BackendProtocol.HTTP: (CheckType.TCP, CheckType.HTTP),
    BackendProtocol.H2: (CheckType.TCP, CheckType.HTTP, CheckType.GRPC),
    BackendProtocol.H2C: (CheckType.TCP, CheckType.HTTP, CheckType.GRPC),
}
# Options of a backend service that only the L7 tier reads.
HTTP_OPTIONS = (
    "hash_key", "tls", "tls_verify", "tls_server_name", "tls_ca_certificate",
    "connect_timeout_s", "first_byte_timeout_s", "idle_timeout_s", "total_timeout_s", "server_max_connections",
    "server_max_queue", "queue_timeout_s", "retry_percent", "retry_min_per_s", "ejection", "slow_start_s", "fallback",
    "queue_target_s",
    "sticky_session", "proxy_protocol",
)  # fmt: skip


def check(model: Model, places: Places) -> Iterator[Problem]:
    """Every problem of a model. `places` has the path of every object, whether or not it could be read."""
    for kind in Kind:
        for name, item in model.of(kind).items():
            yield from _references(item, places[kind, name], places)
    yield from chain(
        _nodes(model, places),
        _access_lists(model, places),
        _certificates(model, places),
        _groups(model, places),
        _backend_services(model, places),
        checks_listeners.check(model, places),
        checks_redirects.check(model, places),
        checks_rules.check(model, places, _backend_service),
        checks_answering.check(model, places),
        checks_authentication.check(model, places),
        checks_sticky.check(model, places),
        checks_tls.check(model, places),
    )


def _references(item: object, path: Path, places: Places) -> Iterator[Problem]:
    cls: type = type(item)
    for field, kind, is_list in referring(cls):
        value = getattr(item, field.name)
        if value == field.default:
            continue
        for index, each in enumerate(value if is_list else (value,)):
            where = (*path, field.name, index) if is_list else (*path, field.name)
            if kind is None:
                yield from _references(each, where, places)
            elif (kind, each) not in places:
                yield _unknown(kind, each, where, places)


@cache
def referring(cls: type) -> tuple[tuple[Field, Kind | None, bool], ...]:
    """The fields that name objects, of which kind and whether several; None for those that hold objects which may."""
    found: list[tuple[Field, Kind | None, bool]] = []
    for field in fields(cls):
        bare, constraints = split(field.annotation)
        is_list = get_origin(bare) is tuple
        if is_list:
            inner, constraints = split(get_args(bare)[0])
        else:
            inner = optional(bare) or bare
        if isinstance(inner, type) and is_dataclass(inner) and referring(inner):
            found.append((field, None, is_list))
        found += [(field, each.kind, is_list) for each in constraints if isinstance(each, Ref)]
    return tuple(found)


def _unknown(kind: Kind, name: str, path: Path, places: Places) -> Problem:
    known = [other for of_kind, other in places if of_kind is kind]
    remedy = did_you_mean(name, known) or (f"known are {', '.join(known[:8])}" if known else f"add [[{kind.value}]]")
    return Problem(path, f"none of the {kind.value.replace('_', ' ')} is named {show(name)}", remedy)


def _nodes(model: Model, places: Places) -> Iterator[Problem]:
    seen: dict[tuple[Role, str], str] = {}
    for node in model.nodes.values():
        path = places[Kind.NODES, node.name]
        if node.zone and node.role is not Role.L7:
            yield Problem((*path, "zone"), f"zone is for l7 nodes, and this one is {node.role}", "remove it")
        if node.address_v6:
            yield from _second_address(node, (*path, "address_v6"))
        for field, address in (("address", node.address), ("address_v6", node.address_v6)):
            other = seen.setdefault((node.role, address), node.name) if address else node.name
            if other != node.name:
                why = f"{address} is the address of the {node.role} node {other} too"
                yield Problem((*path, field), why, "remove one")
    yield from _pools(model, places)


def _second_address(node: Node, path: Path) -> Iterator[Problem]:
    if node.role is not Role.L7:
        yield Problem(path, f"address_v6 is for l7 nodes, and this one is {node.role}", "remove it")
    if version(node.address) == 6:
        yield Problem(path, f"address is of IPv6 already, {node.address}", "give the IPv4 address there, or remove one")


def _pools(model: Model, places: Places) -> Iterator[Problem]:
    """A pool's address belongs to one l4 node, and to nothing else."""
    owners = {vip: f"a VIP of {instance.name}" for instance in model.instances.values() for vip in instance.vips}
    owners |= {
        address: f"the address of node {node.name}"
        for node in model.nodes.values()
        for address in (node.address, node.address_v6)
    }
    groups = [(group.name, group.servers) for group in model.server_groups.values()]
    groups += [(group.name, group.members) for group in model.availability_groups.values()]
    owners |= {server.address: f"a server in {name}" for name, servers in groups for server in servers}
    for node in model.nodes.values():
        path = (*places[Kind.NODES, node.name], "source_pool")
        if node.source_pool and node.role is not Role.L4:
            yield Problem(path, f"source_pool is for l4 nodes, and this one is {node.role}", "remove it")
        for ip, count in Counter(map(version, node.source_pool)).items():
            if count > MOST_POOL_ADDRESSES:
                why = f"{count} IPv{ip} addresses; at most {MOST_POOL_ADDRESSES} are supported"
                yield Problem(path, why, "add nodes if so many connections are needed")
        for index, address in enumerate(node.source_pool):
            if address in owners:
                why = f"{address} is {owners[address]}"
                yield Problem((*path, index), why, "give an address that nothing else has")
            owners[address] = f"in the source_pool of {node.name} already"


def _access_lists(model: Model, places: Places) -> Iterator[Problem]:
    for access_list in model.access_lists.values():
        path = (*places[Kind.ACCESS_LISTS, access_list.name], "entries")
        entries = access_list.entries
        if len(entries) > ACCESS_LIST_ENTRIES:
            why = f"{len(entries):,} networks; a list has at most {ACCESS_LIST_ENTRIES:,}"
            yield Problem(path, why, "join neighbouring networks, or make two lists for two listeners")
        if len(set(entries)) == len(entries):
            continue
        seen: dict[str, int] = {}
        for index, entry in enumerate(entries):
            if seen.setdefault(entry, index) != index:
                yield Problem(
                    (*path, index), f"{entry} is in the list already, at position {seen[entry]}", "remove one"
                )


def _certificates(model: Model, places: Places) -> Iterator[Problem]:
    for certificate in model.certificates.values():
        path = places[Kind.CERTIFICATES, certificate.name]
        has_chain = bool(certificate.chain_file or certificate.chain)
        if certificate.chain_file and certificate.chain:
            yield Problem((*path, "chain"), "chain and chain_file exclude each other", "give one of them")
        if certificate.key_file and not has_chain:
            yield Problem((*path, "key_file"), "a key without its chain", "give chain_file too, or domains alone")
        if certificate.chain_file and certificate.domains:
            why = "domains are for a development certificate; the names of chain_file are in its leaf"
            yield Problem((*path, "domains"), why, "remove domains, or chain_file and key_file")
        if not has_chain and not certificate.domains:
            why = "neither a chain nor domains"
            yield Problem(path, why, "give chain_file, or domains for a development certificate")


def _groups(model: Model, places: Places) -> Iterator[Problem]:
    for server_group in model.server_groups.values():
        path = (*places[Kind.SERVER_GROUPS, server_group.name], "servers")
        yield from repeated_servers(server_group.servers, path)
    for group in model.availability_groups.values():
        path = (*places[Kind.AVAILABILITY_GROUPS, group.name], "members")
        yield from repeated_servers(group.members, path)
        if spread.is_dynamic(group):
            yield from checks_upstreams.names(group, path[:-1])
            continue
        for index, member in enumerate(group.members):
            if not member.zone:
                yield Problem((*path, index), "zone is missing", "name the fault domain that this member stands in")
        for why, remedy in spread.faults(group, group.members):
            yield Problem(path, why, remedy)


def repeated_servers(servers: tuple[Server, ...], path: Path) -> Iterator[Problem]:
    """Servers without a port, and those that stand twice."""
    for index, server in enumerate(servers):
        if server.address.startswith(UNIX) and server.port:
            yield Problem((*path, index, "port"), "a socket has a path and no port", "remove it")
        elif not server.address.startswith(UNIX) and not server.port:
            yield Problem((*path, index), "port is missing", "give a whole number from 1 to 65535")
    seen: dict[tuple[str, int], int] = {}
    for index, server in enumerate(servers):
        first = seen.setdefault((server.address, server.port), index)
        if first != index:
            why = f"{endpoint(server.address, server.port)} is in the list already, at position {first}"
            yield Problem((*path, index), why, "remove one, and raise the other's weight if it should get more")


def _backend_services(model: Model, places: Places) -> Iterator[Problem]:
    for service in model.backend_services.values():
        yield from _backend_service(service, model, places[Kind.BACKEND_SERVICES, service.name])


def _backend_service(service: BackendService, model: Model, path: Path) -> Iterator[Problem]:
    if service.server_group and service.availability_group:
        why = "server_group and availability_group exclude each other"
        yield Problem((*path, "availability_group"), why, "give one of them")
    elif not service.server_group and not service.availability_group:
        yield Problem(path, "no servers", "give server_group or availability_group")
    is_l7 = service.protocol in L7_BACKENDS
    allowed = L7_SCHEDULERS if is_l7 else L4_SCHEDULERS
    if service.scheduler not in allowed:
        tier = "L7" if is_l7 else "L4"
        why = f"the {tier} tier, which schedules {service.protocol} services, has no {service.scheduler}"
        yield Problem((*path, "scheduler"), why, f"give {in_words(sorted(allowed), 'or')}")
    if not is_l7:
        for field in fields(BackendService):
            if field.name in HTTP_OPTIONS and getattr(service, field.name) != field.default:
                why = f"{field.name} is for http services, and this one is {service.protocol}"
                yield Problem((*path, field.name), why, "remove it")
    if service.health_check is not None:
        yield from _health_check(service.health_check, service.protocol, (*path, "health_check"))
    yield from checks_upstreams.check(service, model, path)
    yield from checks_upstreams.sockets(service, model, path)


def _health_check(check: HealthCheck, protocol: BackendProtocol, path: Path) -> Iterator[Problem]:
    if check.type not in CHECKS_OF[protocol]:
        why = f"a check by {check.type} says nothing about a service of protocol {protocol}"
        yield Problem((*path, "type"), why, f"give {in_words(CHECKS_OF[protocol], 'or')}")
    defaults = HealthCheck()
    for option, owner in CHECK_OPTIONS.items():
        if check.type is not owner and getattr(check, option) != getattr(defaults, option):
            why = f"{option} is for {owner} checks, and this is a {check.type} check"
            yield Problem((*path, option), why, f'remove it, or give type = "{owner}"')
