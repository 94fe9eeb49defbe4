"""Rules of how clients prove who they are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from core.checks_rules import OURS
from core.errors import Path, Problem
from core.model import L7_BACKENDS, Authentication, BackendProtocol, Jwt, Kind, Model, Rule
from core.reader import in_words, show

Places = Mapping[tuple[Kind, str], Path]

WAYS = ("basic", "jwt", "forward", "certificate")
KEYS = ("jwks", "jwks_url", "secret_file")
# What no server may be told by: the L7 tier says it itself, or servers and browsers act on it.
_TAKEN = OURS | {
    "cookie", "set-cookie", "x-forwarded-for", "x-forwarded-host", "x-forwarded-method", "x-forwarded-port",
    "x-forwarded-proto", "x-forwarded-uri", "x-forwarded-client-srcport",
}  # fmt: skip
_TAKEN_BEGIN = ("client-cert", "x-forwarded-client-cert", "x-ssl-client")


def check(model: Model, places: Places) -> Iterator[Problem]:
    """Every problem of authentications, and of rules that name one."""
    for each in model.authentications.values():
        path = places[Kind.AUTHENTICATIONS, each.name]
        yield from _ways(each, path)
        yield from _service(each, model, path)
        yield from _fields(each, path)
        if each.jwt is not None:
            yield from _jwt(each.jwt, (*path, "jwt"))
    for rule in model.rules.values():
        asked = model.authentications.get(rule.authentication)
        if asked is not None:
            path = places[Kind.RULES, rule.name]
            yield from _changed(rule, asked, path)
            listener = model.listeners.get(rule.listener)
            if asked.certificate is not None and listener is not None and not listener.ca_certificate:
                why = f"{listener.name} asks no client for a certificate, so that nobody would be admitted"
                yield Problem((*path, "authentication"), why, "give the listener a ca_certificate")


def _ways(each: Authentication, path: Path) -> Iterator[Problem]:
    given = [name for name in WAYS if getattr(each, name) is not None]
    if not given:
        yield Problem(path, "nobody could prove anything", f"give {in_words(WAYS, 'or')}")
    for name in given[1:]:
        yield Problem((*path, name), f"{given[0]} and {name} exclude each other", "give one of them")


def _service(each: Authentication, model: Model, path: Path) -> Iterator[Problem]:
    asks = each.forward is not None or (each.jwt is not None and bool(each.jwt.jwks_url))
    service = model.backend_services.get(each.backend_service)
    where = (*path, "backend_service")
    if asks and not each.backend_service:
        yield Problem(path, "no service is there to be asked", "give backend_service")
    elif each.backend_service and not asks:
        yield Problem(where, "nobody is asked", "remove it, or give forward, or jwt with jwks_url")
    elif service is not None and service.protocol not in L7_BACKENDS:
        why = f"{service.name} is a {service.protocol} service, and is to be asked by http"
        yield Problem(where, why, f"refer to one of protocol {in_words(sorted(L7_BACKENDS), 'or')}")
    elif service is not None and each.jwt is not None:
        scheme = "https" if service.tls or service.protocol is BackendProtocol.H2 else "http"
        if each.jwt.jwks_url and not each.jwt.jwks_url.startswith(f"{scheme}:"):
            why = f"the service {service.name} is spoken to by {scheme}"
            remedy = f"write {scheme}://, or give tls of the service the other value"
            yield Problem((*path, "jwt", "jwks_url"), why, remedy)


def told(each: Authentication) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The fields by which servers are told something, with where they stand."""
    if each.user_field:
        yield ("user_field",), each.user_field
    for claim, field in each.jwt.claim_fields if each.jwt is not None else ():
        yield ("jwt", "claim_fields", claim), field
    for index, field in enumerate(each.forward.copied_fields if each.forward is not None else ()):
        yield ("forward", "copied_fields", index), field


def _fields(each: Authentication, path: Path) -> Iterator[Problem]:
    seen: set[str] = set()
    for at, field in told(each):
        lower = field.lower()
        ours = lower in _TAKEN or lower.startswith(_TAKEN_BEGIN)
        if ours or (lower == "authorization" and each.forward is None):
            yield Problem((*path, *at), f"{field} has a meaning of its own", "give another name, such as X-User")
        elif lower in seen:
            yield Problem((*path, *at), f"{field} tells servers something already", "give another name")
        seen.add(lower)
    for index, field in enumerate(each.forward.request_fields if each.forward is not None else ()):
        if field.lower() in OURS or field.lower().startswith((*_TAKEN_BEGIN, "x-forwarded-")):
            why = f"{field} is what the L7 tier itself says, or drops"
            yield Problem((*path, "forward", "request_fields", index), why, "remove it")


def _changed(rule: Rule, each: Authentication, path: Path) -> Iterator[Problem]:
    names = {field.lower() for at, field in told(each)}
    for index, change in enumerate(rule.request_headers):
        if change.name.lower() in names:
            why = f"{change.name} is what {each.name} tells servers, and they rely on it"
            yield Problem((*path, "request_headers", index, "name"), why, "remove one of them")


def _jwt(jwt: Jwt, path: Path) -> Iterator[Problem]:
    given = [name for name in KEYS if getattr(jwt, name)]
    if not given:
        yield Problem(path, "no keys to verify tokens by", f"give {in_words(KEYS, 'or')}")
    for name in given[1:]:
        yield Problem((*path, name), f"{given[0]} and {name} exclude each other", "give one of them")
    if not jwt.algorithms:
        yield Problem((*path, "algorithms"), "no token could be good", "give the algorithms of the issuer")
    for index, algorithm in enumerate(jwt.algorithms):
        where = (*path, "algorithms", index)
        if algorithm in jwt.algorithms[:index]:
            yield Problem(where, f"{algorithm} is in the list already", "remove one")
        elif algorithm.shared and not jwt.secret_file and given:
            why = f"{algorithm} is of a shared secret, and a public key is none"
            yield Problem(where, why, "give secret_file, or remove it")
        elif jwt.secret_file and not algorithm.shared:
            yield Problem(where, f"{algorithm} is of a key pair, and secret_file is none", "give HS256, HS384 or HS512")
    if jwt.token.lower() == "header:authorization":
        yield Problem((*path, "token"), "Authorization says of which kind it is", "give authorization")
    if jwt.jwks:
        yield from _jwks(jwt.jwks, (*path, "jwks"))


def _jwks(text: str, path: Path) -> Iterator[Problem]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not keys:
        yield Problem(path, f"{show(text[:20])} is no set of keys", 'give JSON text {"keys": [...]} (RFC 7517)')
        return
    for number, key in enumerate(keys, 1):
        if not isinstance(key, dict) or "kty" not in key:
            yield Problem(path, f"key {number} says not what it is", "give each key a kty")
        elif "d" in key or key["kty"] == "oct":
            why = f"key {number} is secret, and whoever may read the configuration would have it"
            yield Problem(path, why, "give its public half alone; a shared secret stands in a secret_file on the nodes")
