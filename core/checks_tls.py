"""Rules of what belongs to https: whose clients are admitted, Strict-Transport-Security, the way there from http."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from core.errors import Path, Problem
from core.model import CertificateFields, ClientCertificate, Kind, Listener, Model, Protocol
from core.reader import in_words

Places = Mapping[tuple[Kind, str], Path]

# What https://hstspreload.org asks for. https://www.chromium.org/hsts
PRELOAD_MAX_AGE_S = 31_536_000
# Options about clients' certificates.
_OF_CLIENTS = {
    "client_certificate": ClientCertificate.REQUIRED,
    "client_certificate_fields": CertificateFields.RFC9440,
}


def check(model: Model, places: Places) -> Iterator[Problem]:
    """Every problem of these options, one listener after the other."""
    yield from _authorities(model, places)
    for listener in model.listeners.values():
        path = places[Kind.LISTENERS, listener.name]
        yield from _strict_transport(listener, path)
        for name, usual in _OF_CLIENTS.items():
            if getattr(listener, name) is not usual and not listener.ca_certificate:
                why = "no authorities to verify a client's certificate by"
                yield Problem((*path, name), why, "give ca_certificate too, or remove it")
        if listener.https_redirect_port and listener.protocol is Protocol.HTTP:
            yield from _redirect(listener, model, path)


def _authorities(model: Model, places: Places) -> Iterator[Problem]:
    for each in model.ca_certificates.values():
        path = places[Kind.CA_CERTIFICATES, each.name]
        for name in ("bundle", "crl"):
            if getattr(each, name) and getattr(each, f"{name}_file"):
                yield Problem((*path, name), f"{name} and {name}_file exclude each other", "give one of them")
        if not each.bundle and not each.bundle_file:
            yield Problem(path, "no authorities", "give bundle_file, or the PEM text as bundle")


def _strict_transport(listener: Listener, path: Path) -> Iterator[Problem]:
    age_s = listener.hsts_max_age_s
    for name in ("hsts_include_subdomains", "hsts_preload"):
        if getattr(listener, name) and not age_s:
            yield Problem((*path, name), "no time for which it would hold", "give hsts_max_age_s too, or remove it")
    if listener.hsts_preload and age_s and not (listener.hsts_include_subdomains and age_s >= PRELOAD_MAX_AGE_S):
        why = "browsers' lists take domains with all of their subdomains, and for a year at least"
        remedy = f"give hsts_include_subdomains = true and hsts_max_age_s of at least {PRELOAD_MAX_AGE_S}, or remove it"
        yield Problem((*path, "hsts_preload"), why, remedy)


def _redirect(listener: Listener, model: Model, path: Path) -> Iterator[Problem]:
    where = (*path, "https_redirect_port")
    if listener.backend_service:
        why = "what no rule matches is redirected, so that nothing would reach its backend_service"
        yield Problem(where, why, "remove it, or the backend_service")
    ports = [
        str(other.port)
        for other in model.listeners.values()
        if other.protocol is Protocol.HTTPS and other.instance == listener.instance
    ]
    if str(listener.https_redirect_port) not in ports:
        why = f"no https listener of instance {listener.instance} has port {listener.https_redirect_port}"
        yield Problem(where, why, f"give {in_words(ports, 'or')}" if ports else "add the https listener")
