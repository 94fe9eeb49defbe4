"""Whether a token (JWT, RFC 7519) is good: a token, keys and the time in; claims or a reason out. Pure.

The signature is PyJWT's to verify (docs/decisions/0189), by a key that itself says which algorithm it is for, and only
those that the configuration names: neither `none` nor another kind of key than was meant comes through (RFC 8725 §3.1).
What is cheap to see is looked at first; a token that has run out costs no signature.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import jwt
from jwt.api_jws import PyJWS

from core import model
from proxy.jwt_keys import KeySet

MOST_BYTES: Final = 8192
PASSED_BYTES: Final = 4096  # of all claims that are passed on
_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")  # RFC 7515 §7.1
_PLAIN: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # printable, less %


class Reason(Enum):
    """Why a token is refused: what is said of it, whether it is the token's rights that do not suffice."""

    FORM = "it is no signed token"
    LONG = f"it is longer than {MOST_BYTES} bytes"
    CRITICAL = "it asks for extensions that are not known"
    ALGORITHM = "its algorithm is not allowed here"
    KEY = "no key that is known has signed it"
    SIGNATURE = "its signature is wrong"
    NO_END = "it does not say when it ends"
    EXPIRED = "it has expired"
    EARLY = "it is not valid yet"
    ISSUER = "it is of another issuer"
    AUDIENCE = "it is for another audience"
    CLAIMS = "its claims do not suffice"
    TOO_MUCH = f"the claims to be passed on have more than {PASSED_BYTES} bytes"

    @property
    def of_rights(self) -> bool:
        """Whether the token is good, and does not suffice: 403."""
        return self in (Reason.CLAIMS, Reason.TOO_MUCH)


class Bad(Exception):
    """The token is refused."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Good(NamedTuple):
    """A token's user, lines for the server, and when it ends on the wall clock, leeway included."""

    user: str
    lines: bytes
    until: float


class Verifier:
    """What one authentication asks of tokens."""

    __slots__ = ("_algorithms", "_audiences", "_fields", "_issuer", "_leeway_s", "_required", "_signatures")

    def __init__(self, terms: model.Jwt, user_field: str) -> None:
        self._algorithms = frozenset(each.value for each in terms.algorithms)
        self._signatures = PyJWS(algorithms=sorted(self._algorithms))
        self._issuer, self._audiences = terms.issuer, frozenset(terms.audiences)
        self._leeway_s, self._required = terms.leeway_s, terms.required_claims
        told = [("sub", user_field)] if user_field else []
        self._fields = tuple((claim, name.encode("ascii")) for claim, name in (*told, *terms.claim_fields))

    def kid(self, token: bytes) -> str | None:
        """The name of the key that a token says it is signed by, if it says one. Raises Bad."""
        return self._header(token)[1]

    def verify(self, token: bytes, keys: KeySet, now: float) -> Good:
        """`now` is the wall clock's. Raises Bad."""
        algorithm, kid = self._header(token)
        claims = _json(token.split(b".")[1])
        until = self._times(claims, now)
        if self._issuer and claims.get("iss") != self._issuer:
            raise Bad(Reason.ISSUER)
        if self._audiences and self._audiences.isdisjoint(_texts(claims.get("aud"))):
            raise Bad(Reason.AUDIENCE)
        candidates = keys.find(kid, algorithm)
        if not candidates:
            raise Bad(Reason.KEY)
        if not any(self._signed(token, algorithm, each.key) for each in candidates):
            raise Bad(Reason.SIGNATURE)
        for name, value in self._required:
            if not _has(claims, name, value):
                raise Bad(Reason.CLAIMS)
        lines = b"".join(
            b"%b: %b\r\n" % (field, text) for name, field in self._fields if (text := said(claims.get(name)))
        )
        if len(lines) > PASSED_BYTES:
            raise Bad(Reason.TOO_MUCH)
        return Good(said(claims.get("sub")).decode("ascii"), lines, until)

    def _header(self, token: bytes) -> tuple[str, str | None]:
        """Algorithm and key's name."""
        if len(token) > MOST_BYTES:
            raise Bad(Reason.LONG)
        match = _COMPACT.fullmatch(token)
        if match is None:
            raise Bad(Reason.FORM)
        header = _json(match[1])
        if "crit" in header or "b64" in header:  # RFC 7515 §4.1.11
            raise Bad(Reason.CRITICAL)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise Bad(Reason.ALGORITHM)
        if kid is not None and not isinstance(kid, str):
            raise Bad(Reason.FORM)
        return algorithm, kid

    def _times(self, claims: Mapping[str, Any], now: float) -> float:
        end, start = claims.get("exp"), claims.get("nbf")
        if end is None:
            raise Bad(Reason.NO_END)
        if not _is_number(end) or not (start is None or _is_number(start)):
            raise Bad(Reason.FORM)
        if now > end + self._leeway_s:
            raise Bad(Reason.EXPIRED)
        if start is not None and now < start - self._leeway_s:
            raise Bad(Reason.EARLY)
        return float(min(end, 1 << 40)) + self._leeway_s

    def _signed(self, token: bytes, algorithm: str, key: Any) -> bool:
        try:
            self._signatures.decode_complete(token, key, algorithms=[algorithm])
        except (jwt.PyJWTError, ValueError, TypeError):
            return False
        return True


def said(value: object) -> bytes:
    """A claim as a field's value: one line of printable ASCII whatever it holds; empty for what is not there.

    Text has `%` and all that is not printable ASCII percent-encoded; items of a list stand between commas, theirs
    encoded; tables are JSON.
    """
    if value is None or value == "" or value == []:
        return b""
    if isinstance(value, str):
        return encoded(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return b", ".join(encoded(each, _PLAIN.replace(",", "")) for each in value)
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def encoded(text: str, safe: str = _PLAIN) -> bytes:
    """Text as printable ASCII."""
    value = quote(text.encode("utf-8", "surrogatepass"), safe=safe)
    # Blanks at the ends would be lost in a field.
    inner = value.strip(" ")
    start = len(value) - len(value.lstrip(" "))
    return ("%20" * start + inner + "%20" * (len(value) - start - len(inner))).encode("ascii")


def _json(segment: bytes) -> Mapping[str, Any]:
    """A part of a token. Raises Bad."""
    try:
        value = json.loads(base64.b64decode(segment + b"=" * (-len(segment) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise Bad(Reason.FORM) from None
    if not isinstance(value, dict):
        raise Bad(Reason.FORM)
    return value


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
    )


def _texts(value: object) -> list[str]:
    """A claim of one text or of several (RFC 7519 §4.1.3)."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def _has(claims: Mapping[str, Any], name: str, value: str) -> bool:
    """Whether a claim is there; with a value: is it, has it among its items or, of `scope`, its words."""
    claim = claims.get(name)
    if claim is None or claim is False:
        return False
    if not value:
        return True
    if claim is True:
        return value == "true"
    words = claim.split(" ") if name in ("scope", "scp") and isinstance(claim, str) else _texts(claim)
    return value in words or (_is_number(claim) and value == str(claim))
