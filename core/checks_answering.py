"""Rules of what the L7 tier says to browsers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from core.errors import Path, Problem
from core.model import Cors, Kind, Model

Places = Mapping[tuple[Kind, str], Path]

_FORBIDDEN = ("CONNECT", "TRACE")  # Fetch §2.2.1: no script may send them
_OWN_PORTS = {"http": "80", "https": "443"}
_BEGIN = "access-control-"


def check(model: Model, places: Places) -> Iterator[Problem]:
    """Every problem of listeners and rules in this."""
    for listener in model.listeners.values():
        if listener.cors is not None:
            yield from _cors(listener.cors, (*places[Kind.LISTENERS, listener.name], "cors"))
    for rule in model.rules.values():
        path = places[Kind.RULES, rule.name]
        of = model.listeners.get(rule.listener)
        if rule.cors is not None:
            yield from _cors(rule.cors, (*path, "cors"))
        if rule.cors is None and (of is None or of.cors is None):
            continue
        for index, change in enumerate(rule.response_headers):
            if change.name.lower().startswith(_BEGIN):
                why = f"{change.name} is what cors says, and browsers take it once"
                yield Problem((*path, "response_headers", index, "name"), why, "remove one of them")


def _cors(cors: Cors, path: Path) -> Iterator[Problem]:
    if not cors.origins:
        yield Problem((*path, "origins"), "nobody may ask", "give an origin, or remove cors")
    if "*" in cors.origins and len(cors.origins) > 1:
        yield Problem(
            (*path, "origins"), "* is every origin, so that the others say nothing", "give * alone, or remove it"
        )
    if "*" in cors.origins and cors.credentials:
        why = "with credentials, * would let every page act and read as the user who looks at it"
        yield Problem((*path, "credentials"), why, "list the origins, or remove credentials")
    for index, origin in enumerate(cors.origins):
        scheme, _, rest = origin.partition("://")
        port = rest.rpartition(":")[2] if ":" in rest.rpartition("]")[2] else ""
        if port and (int(port) > 65535 or _OWN_PORTS[scheme] == port):
            why = f"no browser names port {port} of {scheme}"
            yield Problem((*path, "origins", index), why, "give the origin as browsers do, without the usual port")
    for index, method in enumerate(cors.methods):
        if method in _FORBIDDEN:
            yield Problem((*path, "methods", index), f"no script may send {method}", "remove it")
    if "*" in cors.headers and len(cors.headers) > 1:
        yield Problem(
            (*path, "headers"), "* is every field, so that the others say nothing", "give * alone, or remove it"
        )
    if "*" in cors.exposed_headers and cors.credentials:
        why = "with credentials browsers read * as a name"
        yield Problem((*path, "exposed_headers"), why, "list the fields, or remove credentials")
