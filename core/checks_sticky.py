"""Stickiness: that a cookie has a name where only the servers know it, and that two services do not share one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from core.behind import servers_of
from core.errors import Path, Problem
from core.model import BackendService, Kind, Model, StickySession, StickyType
from core.overrides import configured, overridden, services_of
from core.reader import show

Places = Mapping[tuple[Kind, str], Path]

_DEFAULTS = StickySession()


def check(model: Model, places: Places) -> Iterator[Problem]:
    """Every problem of sticky sessions."""
    for service in model.backend_services.values():
        if service.sticky_session is not None:
            yield from _one(service.sticky_session, (*places[Kind.BACKEND_SERVICES, service.name], "sticky_session"))
    for rule in model.rules.values():
        if rule.sticky_session is not None:
            yield from _one(rule.sticky_session, (*places[Kind.RULES, rule.name], "sticky_session"))
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
    for listener, domain, services, where in _destinations(model):
        for service in services:
            if service.sticky_session is None:
                continue
            cookie = service.sticky_session.cookie
            # The parts of a split may share one: a client has his server in one of them, and is led there.
            parts = [each for each in services if each.sticky_session and each.sticky_session.cookie == cookie]
            reached = frozenset((each.address, each.port) for part in parts for each in servers_of(model, part))
            before, name = seen.setdefault((listener, domain, cookie), (reached, service.name))
            if before != reached:
                owner = where or (Kind.BACKEND_SERVICES, configured(service.name))
                also = f"listener {listener} also leads to {configured(name)}"
                why = f"{also}, with the same cookie {cookie} and other servers"
                yield Problem((*places[owner], "sticky_session"), why, "give one of the two another cookie")
                break


Destination = tuple[str, str, list[BackendService], tuple[Kind, str] | None]


def _destinations(model: Model) -> Iterator[Destination]:
    """Listener, domain and backend services of each rule that forwards, and of each listener; the rule if it says how
    long clients stay."""
    found = model.backend_services
    for rule in model.rules.values():
        services = [overridden(found[name], rule) for name in services_of(rule) if name in found]
        yield rule.listener, rule.domain.lower(), services, (Kind.RULES, rule.name) if rule.sticky_session else None
    for listener in model.listeners.values():
        if listener.backend_service in found:
            yield listener.name, "", [found[listener.backend_service]], None
