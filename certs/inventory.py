"""What certificates there are: whose, for which names, until when, with which key, used by which listeners. Pure.

A certificate's *end* is that of the first of its chain to expire, since clients then refuse it. How urgent that is
depends on how long it lives: somebody should look when a quarter of its life is left, at most three weeks, and at once
when a tenth is, at most a week. Whoever renews at a third of its life (ACME clients do) never sees either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certs import ocsp
from certs.chain import UNREADABLE, inspect
from certs.report import NO_KEY
from core.model import Model

SOON = (timedelta(days=21), 1 / 4)  # at most, and part of its life
URGENT = (timedelta(days=7), 1 / 10)
_REPORTED = re.compile(r"(?s)certificate '([^']*)': (.*)")  # proxy/tls.py begins its problems like this
REMEMBERED = 4096  # chains that are not parsed again


class Urgency(StrEnum):
    FINE = "fine"
    SOON = "soon"
    URGENT = "urgent"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Link:
    """One certificate of a chain."""

    subject: str
    issuer: str
    begins: datetime
    ends: datetime


@dataclass(frozen=True, slots=True)
class Chain:
    """What stands in a chain. `names` are the leaf's, `ends` is when the first of `links` expires."""

    names: tuple[str, ...]
    issuer: str
    serial_number: str
    key_type: str
    key_id: str
    responder: str
    must_staple: bool
    begins: datetime
    ends: datetime
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One certificate of a configuration. `chain` is None where there is none, or none that can be read."""

    name: str
    chain: Chain | None
    used_by: tuple[str, ...]  # listeners
    urgency: Urgency
    warning: str


@lru_cache(REMEMBERED)
def read(pem: str) -> Chain | None:
    """What stands in a chain; None if it cannot be read."""
    try:
        links = x509.load_pem_x509_certificates(pem.encode())
        names = inspect(pem, links[0].not_valid_before_utc)
        leaf = links[0]
        return Chain(
            names=names.names,
            issuer=leaf.issuer.rfc4514_string(),
            serial_number=f"{leaf.serial_number:x}",
            key_type=_key_type(leaf),
            key_id="" if names.key_id == NO_KEY else names.key_id.hex(),
            responder=ocsp.responder(leaf),
            must_staple=ocsp.must_staple(leaf),
            begins=max(each.not_valid_before_utc for each in links),
            ends=min(each.not_valid_after_utc for each in links),
            links=tuple(
                Link(
                    each.subject.rfc4514_string(),
                    each.issuer.rfc4514_string(),
                    each.not_valid_before_utc,
                    each.not_valid_after_utc,
                )
                for each in links
            ),
        )
    except UNREADABLE:
        return None


def entries(model: Model, now: datetime) -> tuple[Entry, ...]:
    """Every certificate of a configuration, those that end first at the beginning."""
    users: dict[str, list[str]] = {}
    for listener in model.listeners.values():
        for name in listener.certificates:
            users.setdefault(name, []).append(listener.name)
    found = [
        _entry(name, read(certificate.chain) if certificate.chain else None, tuple(users.get(name, ())), now)
        for name, certificate in model.certificates.items()
    ]
    never = datetime.max.replace(tzinfo=UTC)
    return tuple(sorted(found, key=lambda each: (each.chain.ends if each.chain else never, each.name)))


def warnings(model: Model, now: datetime) -> dict[str, str]:
    """What is to be said of certificates that listeners use and that end soon, or have ended, by name."""
    return {each.name: each.warning for each in entries(model, now) if each.warning and each.used_by}


def reported(facts: Iterable[Mapping[str, object]]) -> dict[str, tuple[str, ...]]:
    """What nodes say of certificates in their reports, by the certificate's name, each thing once."""
    found: dict[str, dict[str, None]] = {}
    for each in facts:
        problems = each.get("problems")
        for problem in problems if isinstance(problems, list) else ():
            if match := _REPORTED.match(str(problem)):
                found.setdefault(match[1], {})[match[2]] = None
    return {name: tuple(texts) for name, texts in found.items()}


def document(entry: Entry, problems: tuple[str, ...] | None = None) -> Mapping[str, object]:
    """An entry as JSON; with what keeps its chain from being served, if that was looked into."""
    chain = entry.chain
    facts: dict[str, object] = {"name": entry.name, "used_by": list(entry.used_by)}
    if chain is not None:
        facts |= asdict(chain) | {"begins": _iso(chain.begins), "ends": _iso(chain.ends)}
        facts["links"] = [
            {"subject": each.subject, "issuer": each.issuer, "begins": _iso(each.begins), "ends": _iso(each.ends)}
            for each in chain.links
        ]
    facts |= {"urgency": entry.urgency.value, "warning": entry.warning}
    return facts if problems is None else facts | {"problems": list(problems)}


def _entry(name: str, chain: Chain | None, used_by: tuple[str, ...], now: datetime) -> Entry:
    urgency = Urgency.FINE if chain is None else urgency_of(chain.begins, chain.ends, now)
    warning = ""
    if chain is not None and urgency is Urgency.EXPIRED:
        warning = f"certificate {name!r} expired on {chain.ends:%Y-%m-%d %H:%M} UTC"
    elif chain is not None and urgency is not Urgency.FINE:
        warning = f"certificate {name!r} expires in {_span(chain.ends - now)}, on {chain.ends:%Y-%m-%d %H:%M} UTC"
    return Entry(name, chain, used_by, urgency, warning)


def urgency_of(begins: datetime, ends: datetime, now: datetime) -> Urgency:
    """How soon somebody should look."""
    left, life = ends - now, ends - begins
    if left <= timedelta():
        return Urgency.EXPIRED
    for (most, part), urgency in ((URGENT, Urgency.URGENT), (SOON, Urgency.SOON)):
        if left < min(most, life * part):
            return urgency
    return Urgency.FINE


def _span(left: timedelta) -> str:
    hours = left // timedelta(hours=1)
    count, unit = (hours // 24, "day") if hours >= 48 else (hours, "hour")
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _key_type(leaf: x509.Certificate) -> str:
    try:
        key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "unknown"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {"secp256r1": "ECDSA P-256", "secp384r1": "ECDSA P-384"}.get(key.curve.name, f"ECDSA {key.curve.name}")
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    return "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else type(key).__name__


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
