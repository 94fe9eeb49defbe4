"""Whether a signature that a key server gave is one.

A node takes signatures on trust: to verify each would cost a fifth of a P-256 handshake, and its client does so anyway.
Only when the client has turned the handshake down afterwards, or OpenSSL could do nothing with it, the node looks too:
it then knows who is to blame, the client or the key server.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import load_der_public_key

_DIGESTS: Final = {4: SHA256(), 5: SHA384(), 6: SHA512()}
_PSS: Final = 0x08  # the first byte of rsa_pss_rsae_*, whose second is a digest's


def verifies(spki: bytes, scheme: int, content: bytes, signature: bytes) -> bool:
    """Whether it is the key's. spki: SubjectPublicKeyInfo in DER; scheme: a SignatureScheme (RFC 8446 §4.2.3)."""
    first, second = scheme >> 8, scheme & 0xFF
    try:
        key = load_der_public_key(spki)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, content)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, content, ec.ECDSA(_DIGESTS[first]))
        elif isinstance(key, rsa.RSAPublicKey) and first == _PSS:
            digest = _DIGESTS[second]
            key.verify(signature, content, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, content, padding.PKCS1v15(), _DIGESTS[first])
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, KeyError):
        return False
    return True
