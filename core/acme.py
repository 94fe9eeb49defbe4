"""The `acme` table of a file: how `paifang up` gets certificates that browsers trust (RFC 8555). Pure.

    [acme]                            one CA, for every certificate that has `domains`
    email = "ops@example.com"
    agree_tos = true

The CA proves that the names lead here by one of two challenges. `lead` adds to a model what brings them to the issuer,
a process of this machine: rules of the http listeners for http-01, `acme_backend_service` of the https listeners for
tls-alpn-01. A cluster's control plane never sees the table: there, `paifang keyserver acme` has options for it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final

from core.errors import Path, Problem
from core.fields import HOST_NAME, Pattern
from core.model import (
    BackendProtocol,
    BackendService,
    Certificate,
    Kind,
    Listener,
    Model,
    Protocol,
    Rule,
    Server,
    ServerGroup,
)
from core.reader import show

TABLE: Final = "acme"
LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
CHALLENGE_URL: Final = "/.well-known/acme-challenge"
MADE: Final = "paifang-acme"  # the names of the objects that `lead` adds begin with it
HTTP_PORT, HTTPS_PORT = 80, 443  # where CAs look


class AcmeChallenge(StrEnum):
    """How the CA proves names. auto: http-01 with http on port 80, else tls-alpn-01 with https on port 443."""

    AUTO = "auto"
    HTTP_01 = "http-01"
    TLS_ALPN_01 = "tls-alpn-01"


@dataclass(frozen=True, slots=True)
class Acme:
    """For `paifang up` alone: the CA that every certificate with `domains` is got from, by ACME. One table, `[acme]`.

    Without it the machine's own CA issues development certificates, which also stand in until the CA's are there.
    """

    email: Annotated[str, Pattern(rf"[!-?A-~]{{1,64}}@{HOST_NAME}", "an e-mail address")]
    agree_tos: bool = False
    directory: Annotated[str, Pattern(r"https://[!-~]{1,1000}", "an https URL")] = LETS_ENCRYPT
    directory_ca_file: str = ""
    challenge: AcmeChallenge = AcmeChallenge.AUTO


def wanted(model: Model) -> tuple[Certificate, ...]:
    """The certificates that the CA is asked for."""
    return tuple(each for each in model.certificates.values() if each.domains and not (each.chain or each.chain_file))


def challenge_of(acme: Acme, model: Model) -> AcmeChallenge | None:
    """The challenge that is used; None where auto finds none."""
    if acme.challenge is not AcmeChallenge.AUTO:
        return acme.challenge
    ports = {(listener.protocol, listener.port) for listener in model.listeners.values() if listener.enabled}
    if (Protocol.HTTP, HTTP_PORT) in ports:
        return AcmeChallenge.HTTP_01
    return AcmeChallenge.TLS_ALPN_01 if (Protocol.HTTPS, HTTPS_PORT) in ports else None


def check(acme: Acme, model: Model, places: Mapping[tuple[Kind, str], Path]) -> Iterator[Problem]:
    """Why no certificate would be got."""
    if not acme.agree_tos:
        why = f"the CA at {acme.directory} wants its terms of service agreed to"
        yield Problem((TABLE, "agree_tos"), why, "read them and give agree_tos = true")
    if not wanted(model):
        yield Problem((TABLE,), "no certificate has domains, so that there is none to get", "give a listener domains")
    yield from _channel(acme, model)
    for certificate in wanted(model):
        path = (*places[Kind.CERTIFICATES, certificate.name], "domains")
        for index, name in enumerate(certificate.domains):
            if why := _unprovable(name, acme):
                yield Problem((*path, index), why, "name the hosts, or remove [acme]")
    for listener in model.listeners.values():
        if listener.acme_backend_service:
            path = (*places[Kind.LISTENERS, listener.name], "acme_backend_service")
            yield Problem(path, "with [acme], `paifang up` leads the CA to an issuer of its own", "remove one of them")
    for kind in (Kind.SERVER_GROUPS, Kind.BACKEND_SERVICES, Kind.RULES):
        for name in model.of(kind):
            if name.startswith(MADE):
                yield Problem((*places[kind, name], "name"), f"[acme] makes objects named {MADE}…", "rename it")


def _channel(acme: Acme, model: Model) -> Iterator[Problem]:
    """Whether there is a listener at which the CA could ask."""
    challenge = challenge_of(acme, model)
    if challenge is None:
        why = "a CA looks at port 80 (http-01) or 443 (tls-alpn-01), and no http or https listener has its port"
        remedy = "add one, or give challenge if a router leads one of these ports to a listener"
        yield Problem((TABLE,), why, remedy)
    elif not any(each.enabled and each.protocol is _protocol(challenge) for each in model.listeners.values()):
        kind = _protocol(challenge).value
        why = f"{challenge} needs an {kind} listener, and there is none"
        yield Problem((TABLE, "challenge"), why, "add one, or give another challenge")


def _protocol(challenge: AcmeChallenge) -> Protocol:
    return Protocol.HTTP if challenge is AcmeChallenge.HTTP_01 else Protocol.HTTPS


def _unprovable(name: str, acme: Acme) -> str:
    """Why no CA will certify a name by these challenges; empty if one may."""
    if name.startswith("*."):
        return f"{name}: a wildcard can be proved neither by http-01 nor by tls-alpn-01"
    if _is_address(name):
        return f"{name} is an address, and certificates are got for names"
    if "." not in name and acme.directory == LETS_ENCRYPT:
        return f"{show(name)} is no name that a public CA gives certificates for"
    return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def lead(acme: Acme, model: Model, issuer: tuple[str, int]) -> Model:
    """The model with what leads the CA's challenges to an issuer at this address and port."""
    challenge = challenge_of(acme, model)
    is_http = challenge is AcmeChallenge.HTTP_01
    protocol = BackendProtocol.HTTP if is_http else BackendProtocol.TCP
    service = BackendService(MADE, protocol, server_group=MADE, health_check=None)
    made = replace(
        model,
        server_groups={**model.server_groups, MADE: ServerGroup(MADE, (Server(*issuer),))},
        backend_services={**model.backend_services, MADE: service},
    )
    if is_http:
        return replace(made, rules={**model.rules, **{rule.name: rule for rule in _rules(model)}})
    return replace(made, listeners={name: _leading(listener) for name, listener in model.listeners.items()})


def _rules(model: Model) -> Iterator[Rule]:
    """For each name apart and before all others: whatever rules the file has for it, the CA gets its answer."""
    names = dict.fromkeys(name for certificate in wanted(model) for name in certificate.domains)
    listeners = [each.name for each in model.listeners.values() if each.protocol is Protocol.HTTP]
    for number, (listener, name) in enumerate(((each, name) for each in listeners for name in names), 1):
        yield Rule(f"{MADE}-{number}", listener, MADE, domain=name, url=CHALLENGE_URL, priority=1)


def _leading(listener: Listener) -> Listener:
    is_led = listener.protocol is Protocol.HTTPS
    return replace(listener, acme_backend_service=MADE) if is_led else listener
