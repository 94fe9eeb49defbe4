"""Secrets for session tickets: the same on every key server that has the same master secret, and another every 2 hours.

Time is cut into periods, counted from 1970. A period's secret is HKDF (RFC 5869) of the master secret and the period's
number, so that key servers need not talk to each other to agree, and an old period's secret does not lead to another
one's. TLS nodes are given three: the one before, with which tickets may still come, the one now, and the one next, with
which the tickets of a node come whose clock is ahead. They make the keys of their listeners of it (proxy/tls_tickets).

A ticket thus lives for one to two periods. Who has a secret can read TLS 1.2 sessions that were resumed in its period:
that is what tickets cost (RFC 5077, section 5.5), and why they are never older.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyserver.protocol import SECRET_BYTES

PERIOD_S = 7200  # as long as OpenSSL takes a session for fresh
MIN_MASTER_BYTES = 32
_SALT = b"paifang session tickets"


@dataclass(frozen=True, slots=True)
class Master:
    """The master secret. Raises ValueError for one that is short."""

    secret: bytes

    def __post_init__(self) -> None:
        if len(self.secret) < MIN_MASTER_BYTES:
            raise ValueError(f"a secret of {len(self.secret)} bytes; {MIN_MASTER_BYTES} or more are wanted")

    def __repr__(self) -> str:
        return "<Master>"

    def secrets(self, now: int) -> tuple[tuple[int, bytes], ...]:
        """(beginning in seconds since 1970, secret) of the periods before, now and next. `now`: seconds since 1970."""
        current = now // PERIOD_S
        return tuple((period * PERIOD_S, self._secret(period)) for period in (current - 1, current, current + 1))

    def _secret(self, period: int) -> bytes:
        return HKDF(SHA256(), SECRET_BYTES, _SALT, period.to_bytes(8, "big", signed=True)).derive(self.secret)
