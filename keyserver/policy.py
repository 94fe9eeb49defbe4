"""What may be signed: only what a TLS server signs in a handshake, pure decisions over bytes and numbers.

The client sends the whole content instead of its digest, so the server can insist on the content's shape. Two exist:

* TLS 1.3, RFC 8446 section 4.4.3: 64 spaces, "TLS 1.3, server CertificateVerify", a zero byte, and the transcript hash.
  The hash is the cipher suite's, not the signature scheme's: SHA-256 or SHA-384 whatever the scheme says.
* TLS 1.2, RFC 8422 section 5.4: client random, server random, ServerECDHParams of a named curve, nothing after it.

A JWT, a certificate, a client's CertificateVerify, a delegated credential and a DHE or export-grade key exchange have
neither shape. The shapes exclude each other, too: byte 64 is "T" in the first and 3 in the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from keyserver.errors import ErrorCode, KeyServerError


class KeyType(StrEnum):
    __hash__ = str.__hash__  # Enum's own is written in Python and costs 0.15 µs, several times a signature

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA = "rsa"
    ED25519 = "ed25519"


class Shape(StrEnum):
    __hash__ = str.__hash__  # as above

    TLS13 = "tls13-server"
    TLS12 = "tls12-ecdhe"


_TLS13 = b" " * 64 + b"TLS 1.3, server CertificateVerify\x00"
_TLS13_BYTES = frozenset({len(_TLS13) + 32, len(_TLS13) + 48})

_RANDOMS_BYTES = 64
_NAMED_CURVE = 3
_UNCOMPRESSED = 4
# Named group → bytes of the public point (RFC 8422 section 5.1.1), and whether it begins with 4 (uncompressed).
_CURVES = {23: (65, True), 24: (97, True), 25: (133, True), 29: (32, False), 30: (56, False)}
# The params' first four bytes → (length of the whole content, whether the point has a form byte).
_ECDHE: Mapping[bytes, tuple[int, bool]] = {
    bytes((_NAMED_CURVE, 0, curve, point_bytes)): (_RANDOMS_BYTES + 4 + point_bytes, has_form)
    for curve, (point_bytes, has_form) in _CURVES.items()
}

# RFC 8446 section 4.2.3. In TLS 1.3 an ECDSA scheme fixes the curve and PKCS #1 is gone; in TLS 1.2 the same code
# points mean hash and algorithm only. SHA-1 is nowhere.
_ECDSA = frozenset({0x0403, 0x0503, 0x0603})
_RSA_PSS = frozenset({0x0804, 0x0805, 0x0806})
_RSA_PKCS1 = frozenset({0x0401, 0x0501, 0x0601})
_ED25519 = frozenset({0x0807})
_ALLOWED: Mapping[tuple[Shape, KeyType], frozenset[int]] = {
    (Shape.TLS13, KeyType.EC_P256): frozenset({0x0403}),
    (Shape.TLS13, KeyType.EC_P384): frozenset({0x0503}),
    (Shape.TLS13, KeyType.RSA): _RSA_PSS,
    (Shape.TLS13, KeyType.ED25519): _ED25519,
    (Shape.TLS12, KeyType.EC_P256): _ECDSA,
    (Shape.TLS12, KeyType.EC_P384): _ECDSA,
    (Shape.TLS12, KeyType.RSA): _RSA_PSS | _RSA_PKCS1,
    (Shape.TLS12, KeyType.ED25519): _ED25519,
}


def shape_of(content: bytes) -> Shape | None:
    """The shape that `content` has in every byte that the protocols fix, or None."""
    if content.startswith(_TLS13):
        return Shape.TLS13 if len(content) in _TLS13_BYTES else None
    expected = _ECDHE.get(content[_RANDOMS_BYTES : _RANDOMS_BYTES + 4])
    if expected is None or len(content) != expected[0]:
        return None
    if expected[1] and content[_RANDOMS_BYTES + 4] != _UNCOMPRESSED:
        return None
    return Shape.TLS12


def check(key_type: KeyType, scheme: int, content: bytes) -> Shape:
    """The shape of what a key may sign. Raises KeyServerError: REFUSED_SHAPE or REFUSED_SCHEME."""
    shape = shape_of(content)
    if shape is None:
        raise KeyServerError(ErrorCode.REFUSED_SHAPE)
    if scheme not in _ALLOWED[shape, key_type]:
        raise KeyServerError(ErrorCode.REFUSED_SCHEME)
    return shape


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the key server, and with it all of its keys: local users by uid, nodes by role and perhaps name."""

    uids: frozenset[int]
    nodes: frozenset[str] | None = None  # None: every node of the roles
    roles: frozenset[str] = frozenset({"l7"})

    def admits_uid(self, uid: int) -> bool:
        return uid in self.uids

    def admits_node(self, role: str, name: str) -> bool:
        return role in self.roles and (self.nodes is None or name in self.nodes)


class TokenBucket:
    """At most `burst` units at once and `rate` a second in the long run; `now` is monotonic seconds."""

    __slots__ = ("_burst", "_filled_at", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._filled_at = now

    def take(self, now: float, units: float = 1.0) -> bool:
        """Whether `units` were there to be taken. A clock that stands still or steps back fills nothing."""
        if now > self._filled_at:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
            self._filled_at = now
        if self._tokens < units:
            return False
        self._tokens -= units
        return True
