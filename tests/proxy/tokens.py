"""Who signs tokens in tests."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def private(kind: str, which: int = 0) -> PrivateKey:
    """A key of a kind; `which` tells several apart."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    if kind == "short":
        return rsa.generate_private_key(65537, 1024)
    if kind == "ed":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}[kind])


def jwk(key: PrivateKey, kid: str = "", **more: object) -> dict[str, Any]:
    """Its public half."""
    public: Any = key.public_key()
    of = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    algorithm = next((each for kind, each in of.items() if isinstance(key, kind)), OKPAlgorithm)
    named = {"kid": kid} if kid else {}
    return {**algorithm.to_jwk(public, as_dict=True), **named, **more}


def jwks(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": list(keys)})


def pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def token(key: PrivateKey | bytes, algorithm: str, claims: dict[str, Any], **header: object) -> bytes:
    return jwt.encode(claims, key, algorithm, headers=header).encode()


def parts(header: object, claims: object, signature: bytes = b"x") -> bytes:
    """A token of these parts, whatever they are."""
    texts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return b".".join(base64.urlsafe_b64encode(each).rstrip(b"=") for each in texts)
