"""Which certificates the ACME issuer gets, when it renews them, and how long it waits after a failure. Pure.

The issuer looks after each certificate of the configuration that has `domains`. It is *due* when its chain is missing,
is for other names or for another key, or when a third of its life is left. A failure is tried again after growing
delays: public CAs allow five failed validations an hour for an account and name.

The CA proves a name by the challenge for which the issuer listens. Where it listens for both, tls-alpn-01 is for the
certificates of listeners that lead it here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from certs import inventory

RENEW_AT = 1 / 3  # of its life, when that much is left
RETRY_S = (900.0, 86_400.0)  # the first delay and the longest


class Challenge(StrEnum):
    """How the CA proves a name: by a request to port 80, or a handshake with port 443."""

    HTTP_01 = "http-01"
    TLS_ALPN_01 = "tls-alpn-01"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate to look after, and the chain that the configuration has for it.

    led: whether a listener that serves it leads handshakes of the CA to an issuer.
    """

    name: str
    domains: tuple[str, ...]
    chain: str = ""
    led: bool = False


@dataclass(slots=True)
class Attempts:
    """The failures since the last success. `next_at`: monotonic seconds."""

    why: str = ""
    next_at: float = 0.0
    delay_s: float = RETRY_S[0]

    def failed(self, why: str, now: float) -> None:
        """Wait, twice as long as before."""
        self.why, self.next_at = why, now + self.delay_s
        self.delay_s = min(2 * self.delay_s, RETRY_S[1])


@dataclass(slots=True)
class Plan:
    """The attempts for each certificate, by name; those of certificates that have gone are forgotten."""

    attempts: dict[str, Attempts] = field(default_factory=dict)

    def of(self, wanted: Sequence[Wanted]) -> None:
        """Take the certificates that are wanted now."""
        names = {each.name for each in wanted}
        self.attempts = {name: self.attempts.get(name, Attempts()) for name in names}


def wanted(config: Mapping[str, object]) -> tuple[Wanted, ...]:
    """What to look after, from the configuration's document."""
    led = {name for table in _tables(config, "listeners") if table.get("acme_backend_service")
           for name in table.get("certificates", ())}  # fmt: skip
    return tuple(
        Wanted(table["name"], tuple(table["domains"]), table.get("chain", ""), table["name"] in led)
        for table in _tables(config, "certificates")
        if table.get("domains")
    )


def _tables(config: Mapping[str, object], kind: str) -> list[Any]:
    tables = config.get(kind, [])
    return tables if isinstance(tables, list) else []


def challenge(each: Wanted, listens: Collection[Challenge]) -> Challenge:
    """How a certificate's names are to be proved, of the challenges that the issuer listens for."""
    if len(listens) == 1:
        return next(iter(listens))
    return Challenge.TLS_ALPN_01 if each.led else Challenge.HTTP_01


def impossible(domains: Sequence[str]) -> str:
    """Why neither challenge can ever prove these names; empty if it can."""
    wildcard = next((name for name in domains if name.startswith("*.")), "")
    return f"{wildcard}: a wildcard can be proved neither by http-01 nor by tls-alpn-01; name the hosts" * bool(
        wildcard
    )


def reason(chain: str, domains: Sequence[str], key_id: str, now: datetime, stand_in: x509.Certificate | None) -> str:
    """Why a chain cannot go on serving these names with the key `key_id` (hexadecimal); empty if it can.

    stand_in: the CA whose certificates only stand in until there is another.
    """
    found = inventory.read(chain) if chain else None
    if found is None:
        return "there is none yet"
    if stand_in is not None and _is_of(chain, stand_in):
        return "a development certificate stands in for it"
    if {*found.names} != {*domains}:
        return "its names have changed"
    if found.key_id != key_id:
        return "it is for another key"
    if found.ends - now <= (found.ends - found.begins) * RENEW_AT:
        return "a third of its life is left"
    return ""


def _is_of(chain: str, ca: x509.Certificate) -> bool:
    """Whether the leaf of a readable chain was issued by this CA."""
    try:
        x509.load_pem_x509_certificate(chain.encode()).verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def renewal(chain: str) -> datetime | None:
    """When a chain is due."""
    found = inventory.read(chain)
    return None if found is None else found.ends - (found.ends - found.begins) * RENEW_AT
