"""Stickiness: that a cookie has a name where only the servers know it, and that two services do not share one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from core.errors import Path, Problem
from core.model import BackendService, Kind, Model, Server, StickySession, StickyType
from core.reader import show

Places = Mapping[tuple[Kind, str], Path]

_DEFAULTS = StickySession()


def check(model: Model, places: Places) -> Iterator[Problem]:
    """Every problem of sticky sessions."""
    for service in model.backend_services.values():
        if service.sticky_session is not None:
            yield from _one(service.sticky_session, (*places[Kind.BACKEND_SERVICES, service.name], "sticky_session"))
    yield from _shared(model, places)


def _one(sticky: StickySession, path: Path) -> Iterator[Problem]:
    if sticky.type is not StickyType.SERVER:
        return
    if sticky.cookie == _DEFAULTS.cookie:
        why = f"no server sets a cookie of the name {show(sticky.cookie)} unless it is told to"
        yield Problem((*path, "cookie"), why, "give the name of the servers' own cookie")
    if sticky.cookie_timeout_s != _DEFAULTS.cookie_timeout_s:
        why = "how long their cookie is good is for the servers to say"
        yield Problem((*path, "cookie_timeout_s"), why, 'remove it, or give type = "insert"')


def _shared(model: Model, places: Places) -> Iterator[Problem]:
    """Where a client has one cookie for two sets of servers, each takes it from the other: neither keeps him."""
    seen: dict[tuple[str, str, str], tuple[frozenset[tuple[str, int]], str]] = {}
    for listener, domain, services in _destinations(model):
        for service in services:
            if service.sticky_session is None:
                continue
            cookie = service.sticky_session.cookie
            # The parts of a split may share one: a client has his server in one of them, and is led there.
            parts = [each for each in services if each.sticky_session and each.sticky_session.cookie == cookie]
            reached = frozenset((each.address, each.port) for part in parts for each in _servers(model, part))
            before, name = seen.setdefault((listener, domain, cookie), (reached, service.name))
            if before != reached:
                path = (*places[Kind.BACKEND_SERVICES, service.name], "sticky_session")
                why = f"listener {listener} also leads to {name}, with the same cookie {cookie} and other servers"
                yield Problem(path, why, "give one of the two another cookie")
                break


def _destinations(model: Model) -> Iterator[tuple[str, str, list[BackendService]]]:
    """Listener, domain and backend services of each rule that forwards, and of each listener."""
    found = model.backend_services
    for rule in model.rules.values():
        names = [rule.backend_service] if rule.backend_service else [share.backend_service for share in rule.split]
        yield rule.listener, rule.domain.lower(), [found[name] for name in names if name in found]
    for listener in model.listeners.values():
        if listener.backend_service in found:
            yield listener.name, "", [found[listener.backend_service]]


def _servers(model: Model, service: BackendService) -> tuple[Server, ...]:
    group = model.server_groups.get(service.server_group)
    spread = model.availability_groups.get(service.availability_group)
    return (group.servers if group else ()) + (spread.members if spread else ())
