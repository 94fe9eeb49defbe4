"""Rules of backend services of protocol http: how the L7 tier treats their servers."""

from __future__ import annotations

from collections.abc import Iterator

from core.errors import Path, Problem
from core.model import BackendProtocol, BackendService, Model, Scheduler
from core.reader import fields, show

# A server's place in their tables changes with its weight: a slow start would move clients at each of its steps.
WITHOUT_SLOW_START = frozenset({Scheduler.SH, Scheduler.CH})


def check(service: BackendService, model: Model, path: Path) -> Iterator[Problem]:
    """Every problem of one backend service."""
    if service.protocol is not BackendProtocol.HTTP:
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
        for name in ("server_max_queue", "queue_timeout_s"):
            if getattr(service, name) != next(field.default for field in fields(BackendService) if field.name == name):
                why = "nobody waits for a server without server_max_connections"
                yield Problem((*path, name), why, "give server_max_connections too, or remove it")
    yield from _fallback(service, model, (*path, "fallback"))


def _fallback(service: BackendService, model: Model, path: Path) -> Iterator[Problem]:
    """A fallback is of protocol http, and following fallbacks comes to an end."""
    other = model.backend_services.get(service.fallback)
    if other is None:
        return
    if other.protocol is not BackendProtocol.HTTP:
        why = f"{show(other.name)} is a service of protocol {other.protocol}, and this one is http"
        yield Problem(path, why, "name a service of protocol http")
    seen = {service.name}
    while other is not None and other.name not in seen:
        seen.add(other.name)
        other = model.backend_services.get(other.fallback)
    if other is not None and other.name == service.name:
        yield Problem(path, "this service is its own fallback, by way of those that it names", "break the circle")
