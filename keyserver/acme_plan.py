"""Which certificates the ACME issuer gets, when it renews them, and how long it waits after a failure. Pure.

The issuer looks after each certificate of the configuration that has `domains`. It is *due* when its chain is missing,
is for other names or for another key, or when a third of its life is left. A failure is tried again after growing
delays: public CAs allow five failed validations an hour for an account and name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from certs import inventory

RENEW_AT = 1 / 3  # of its life, when that much is left
RETRY_S = (900.0, 86_400.0)  # the first delay and the longest


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate to look after, and the chain that the configuration has for it."""

    name: str
    domains: tuple[str, ...]
    chain: str = ""


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
    tables = config.get("certificates", [])
    found = []
    for table in tables if isinstance(tables, list) else ():
        if table.get("domains"):
            found.append(Wanted(table["name"], tuple(table["domains"]), table.get("chain", "")))
    return tuple(found)


def impossible(domains: Sequence[str]) -> str:
    """Why http-01 can never prove these names; empty if it can."""
    wildcard = next((name for name in domains if name.startswith("*.")), "")
    return f"{wildcard}: a wildcard cannot be proved over HTTP; name the hosts" if wildcard else ""


def reason(chain: str, domains: Sequence[str], key_id: str, now: datetime) -> str:
    """Why a chain cannot go on serving these names with the key `key_id` (hexadecimal); empty if it can."""
    found = inventory.read(chain) if chain else None
    if found is None:
        return "there is none yet"
    if {*found.names} != {*domains}:
        return "its names have changed"
    if found.key_id != key_id:
        return "it is for another key"
    if found.ends - now <= (found.ends - found.begins) * RENEW_AT:
        return "a third of its life is left"
    return ""


def renewal(chain: str) -> datetime | None:
    """When a chain is due."""
    found = inventory.read(chain)
    return None if found is None else found.ends - (found.ends - found.begins) * RENEW_AT
