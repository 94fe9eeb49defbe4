"""Keys that tokens are verified by: a JWK set (RFC 7517), read strictly. Pure.

Which algorithms a key is good for is said by the key (its type, curve and `alg`), never by the token: a public RSA key
is no secret of HS256. Keys of a set that are not for signatures, of types that are not known, too short or secret are
passed over, so that a provider may add such ones; a set without one that is left is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import AllowedPublicKeys

MOST_BYTES: Final = 65_536
MOST_KEYS: Final = 64
RSA_BITS: Final = 2048  # NIST SP 800-131A
SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518 §3.2
_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}


class Key(NamedTuple):
    """`kid` may be empty."""

    kid: str
    algorithms: frozenset[str]
    key: AllowedPublicKeys | bytes


class KeySet:
    """Keys by their names."""

    __slots__ = ("_by_kid", "_keys")

    def __init__(self, keys: Collection[Key]) -> None:
        self._keys = tuple(keys)
        self._by_kid: dict[str, list[Key]] = {}
        for key in self._keys:
            self._by_kid.setdefault(key.kid, []).append(key)

    def __len__(self) -> int:
        return len(self._keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySet) and self.names == other.names and self._keys == other._keys

    __hash__ = None  # type: ignore[assignment]

    @property
    def names(self) -> list[str]:
        return [key.kid for key in self._keys]

    def find(self, kid: str | None, algorithm: str) -> list[Key]:
        """Those that a token of this algorithm may be signed by: of its name, or any where it gives none."""
        keys = self._keys if kid is None else self._by_kid.get(kid, ())
        return [key for key in keys if algorithm in key.algorithms]


def read(text: str | bytes, allowed: Collection[str]) -> KeySet:
    """The keys of a set that are good for algorithms in `allowed`. Raises ValueError with what is wrong."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has {len(text)} bytes; {MOST_BYTES} are allowed")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError('it is no key set: {"keys": [...]}')
    if len(listed) > MOST_KEYS:
        raise ValueError(f"it has {len(listed)} keys; {MOST_KEYS} are allowed")
    keys = [key for each in listed if isinstance(each, dict) and (key := _key(each, allowed)) is not None]
    if not keys:
        raise ValueError(f"it has no key for {', '.join(sorted(allowed))} among {len(listed)}")
    return KeySet(keys)


def shared(secret: bytes, allowed: Collection[str]) -> KeySet:
    """A shared secret as a key set. Raises ValueError."""
    need = max(SECRET_BYTES[each] for each in allowed)
    if len(secret) < need:
        raise ValueError(f"it has {len(secret)} bytes; {need} are needed (RFC 7518 §3.2)")
    return KeySet([Key("", frozenset(allowed), secret)])


def _key(jwk: Mapping[str, Any], allowed: Collection[str]) -> Key | None:
    """None for what is passed over."""
    kid, use, operations = jwk.get("kid", ""), jwk.get("use", "sig"), jwk.get("key_ops", ["verify"])
    kind, curve = jwk.get("kty"), jwk.get("crv")
    if kind == "RSA":
        fits: Collection[str] = _RSA
    elif kind in ("EC", "OKP") and isinstance(curve, str):
        fits = [_CURVES[curve]] if curve in _CURVES else []
    else:
        fits = []
    if "alg" in jwk:
        fits = [each for each in fits if each == jwk["alg"]]
    algorithms = frozenset(fits) & frozenset(allowed)
    verifies = use == "sig" and isinstance(operations, list) and "verify" in operations
    if not algorithms or not verifies or not isinstance(kid, str) or "d" in jwk:
        return None
    try:
        key = jwt.PyJWK(dict(jwk), min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < RSA_BITS:
        return None
    return Key(kid, algorithms, key)
