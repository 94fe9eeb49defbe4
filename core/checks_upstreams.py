"""Rules of backend services of http, h2 and h2c: how the L7 tier treats their servers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from core.endpoints import UNIX, split
from core.errors import Path, Problem
from core.line import INTERVALS
from core.model import (
    L7_BACKENDS,
    MULTIPLEXED,
    AvailabilityGroup,
    BackendProtocol,
    BackendService,
    DnsType,
    Model,
    ProxyHeader,
    Scheduler,
)
from core.reader import show

# A server's place in their tables changes with its weight: a slow start would move clients at each of its steps.
WITHOUT_SLOW_START = frozenset({Scheduler.SH, Scheduler.CH})

TLS_WORDS = {
    BackendProtocol.HTTP: "give tls = true too, or remove it",
    BackendProtocol.H2C: 'give protocol = "h2", or remove it',
}


def check(service: BackendService, model: Model, path: Path) -> Iterator[Problem]:
    """Every problem of one backend service."""
    if service.protocol not in L7_BACKENDS:
        return
    ejection = service.ejection
    if ejection is not None and ejection.longest_s < ejection.first_s:
        why = f"longest_s ({ejection.longest_s:g}) is less than first_s ({ejection.first_s:g})"
        yield Problem((*path, "ejection"), why, "raise longest_s, or lower first_s")
    if ejection is not None and not ejection.failures and not ejection.errors:
        yield Problem((*path, "ejection"), "neither failures nor errors count", "give one of them, or ejection = false")
    if service.slow_start_s and service.scheduler in WITHOUT_SLOW_START:
        why = f"with {service.scheduler}, a slow start would move clients from server to server"
        yield Problem((*path, "slow_start_s"), why, "remove it, or give another scheduler")
    if service.hash_key != "source" and service.scheduler is not Scheduler.CH:
        why = f"the scheduler {service.scheduler} hashes no key of the request"
        yield Problem((*path, "hash_key"), why, 'give scheduler = "ch", or remove it')
    if not service.server_max_connections:
        for name in ("server_max_queue", "queue_timeout_s", "queue_target_s"):
            if getattr(service, name) != getattr(_DEFAULTS, name):
                why = "nobody waits for a server without server_max_connections"
                yield Problem((*path, name), why, "give server_max_connections too, or remove it")
    if service.queue_target_s * INTERVALS > service.queue_timeout_s:
        why = f"it counts once a queue has not been empty for {INTERVALS} times as long, and nobody waits so long in it"
        yield Problem((*path, "queue_target_s"), why, "lower it, or raise queue_timeout_s")
    if service.proxy_protocol is not ProxyHeader.OFF and service.protocol in MULTIPLEXED:
        why = f"connections of {service.protocol} carry requests of many clients, and a header names one"
        yield Problem((*path, "proxy_protocol"), why, 'give protocol = "http", or remove it')
    yield from _fallback(service, model, (*path, "fallback"))
    yield from _tls(service, path)


def _fallback(service: BackendService, model: Model, path: Path) -> Iterator[Problem]:
    """A fallback is one of the L7 tier, and following fallbacks comes to an end."""
    other = model.backend_services.get(service.fallback)
    if other is None:
        return
    if other.protocol not in L7_BACKENDS:
        why = f"{show(other.name)} is a service of protocol {other.protocol}, and this one is {service.protocol}"
        yield Problem(path, why, "name a service of protocol http, h2 or h2c")
    seen = {service.name}
    while other is not None and other.name not in seen:
        seen.add(other.name)
        other = model.backend_services.get(other.fallback)
    if other is not None and other.name == service.name:
        yield Problem(path, "this service is its own fallback, by way of those that it names", "break the circle")


def _tls(service: BackendService, path: Path) -> Iterator[Problem]:
    if service.tls and service.protocol is BackendProtocol.H2C:
        yield Problem((*path, "tls"), "h2c is HTTP/2 without TLS", 'give protocol = "h2", or remove it')
        return
    for name in ("tls_verify", "tls_server_name", "tls_ca_certificate"):
        if not service.speaks_tls and getattr(service, name) != getattr(_DEFAULTS, name):
            yield Problem((*path, name), "servers are not asked by TLS", TLS_WORDS[service.protocol])
    if service.tls_ca_certificate and not service.tls_verify:
        why = "certificates that are not verified need no authority"
        yield Problem((*path, "tls_ca_certificate"), why, "remove it, or tls_verify")


def names(group: AvailabilityGroup, path: Path) -> Iterator[Problem]:
    """DNS names: which of them need ports, and who is asked."""
    for index, name in enumerate(group.dns):
        where = (*path, "dns", index)
        if name.type is DnsType.SRV and name.port:
            yield Problem((*where, "port"), "srv records have ports of their own", "remove it")
        if name.type is not DnsType.SRV and not name.port:
            yield Problem(where, "port is missing", "give a whole number from 1 to 65535")
        if any((other.name, other.type) == (name.name, name.type) for other in group.dns[:index]):
            yield Problem(where, f"{name.name} is in the list already", "remove one")
    for index, text in enumerate(group.resolvers):
        found = split(text)
        assert found is not None  # by its pattern
        try:
            ipaddress.ip_address(found[0])
        except ValueError:
            why = f"{show(found[0])} is not an IP address"
            yield Problem((*path, "resolvers", index), why, "give an address and port such as '127.0.0.1:53'")
        if found[1] > 65535:
            why = f"{found[1]} is no port"
            yield Problem((*path, "resolvers", index), why, "give an address and port such as '127.0.0.1:53'")


def sockets(service: BackendService, model: Model, path: Path) -> Iterator[Problem]:
    """Sockets are known to the L7 nodes; L4 nodes and ports do not reach them."""
    group = model.server_groups.get(service.server_group)
    spread = model.availability_groups.get(service.availability_group)
    servers = group.servers if group is not None else spread.members if spread is not None else ()
    if not any(server.address.startswith(UNIX) for server in servers):
        return
    if service.protocol not in L7_BACKENDS:
        why = f"a server of it is a unix socket, and this service is {service.protocol}"
        yield Problem(path, why, "give it servers with IP addresses, or protocol http, h2 or h2c")
    if service.health_check is not None and service.health_check.port:
        why = "a server of it is a unix socket, which has no ports to be asked on"
        yield Problem((*path, "health_check", "port"), why, "remove it")
    if service.speaks_tls and service.tls_verify and not service.tls_server_name:
        why = "a server of it is a unix socket, and no name to verify its certificate by"
        yield Problem((*path, "tls"), why, "give tls_server_name")


_DEFAULTS = BackendService("", BackendProtocol.HTTP)
