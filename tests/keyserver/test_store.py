"""Signers: what they sign verifies, and the key stays where it is."""

import pickle

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from certs.authority import key_id
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.keyfile import PrivateKey
from keyserver.store import Signer

SHA = {4: hashes.SHA256(), 5: hashes.SHA384(), 6: hashes.SHA512()}
PKCS8 = PrivateFormat.PKCS8


@pytest.mark.parametrize(
    ("name", "schemes"),
    [
        ("p256", [0x0403, 0x0503, 0x0603]),
        ("p384", [0x0403, 0x0503, 0x0603]),
        ("rsa", [0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806]),
        ("ed25519", [0x0807]),
    ],
)
def test_signatures_verify(keys: dict[str, PrivateKey], name: str, schemes: list[int]) -> None:
    key = keys[name]
    signer = Signer(key)
    assert signer.key_id == key_id(key.public_key())
    for scheme in schemes:
        signature = signer.sign(scheme, b"content")
        verify(key, scheme, signature, b"content")
        with pytest.raises(InvalidSignature):
            verify(key, scheme, signature, b"other")
    for scheme in {0x0403, 0x0804, 0x0807, 0x0201, 0x0000} - set(schemes):
        with pytest.raises(KeyServerError) as caught:
            signer.sign(scheme, b"content")
        assert caught.value.code is ErrorCode.REFUSED_SCHEME


def verify(key: PrivateKey, scheme: int, signature: bytes, content: bytes) -> None:
    """Straight from RFC 8446 section 4.2.3, apart from the code under test."""
    public = key.public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, content, ec.ECDSA(SHA[scheme >> 8]))
    elif isinstance(public, rsa.RSAPublicKey):
        if scheme >> 8 == 8:
            sha = SHA[scheme & 0xFF]
            public.verify(signature, content, padding.PSS(padding.MGF1(sha), sha.digest_size), sha)
        else:
            public.verify(signature, content, padding.PKCS1v15(), SHA[scheme >> 8])
    else:
        public.verify(signature, content)


def test_key_material_does_not_leave(keys: dict[str, PrivateKey]) -> None:
    for key in keys.values():
        signer = Signer(key)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        secret = key.private_bytes(Encoding.DER, PKCS8, NoEncryption())
        with pytest.raises(TypeError, match="stays in its process"):
            pickle.dumps(signer)
        assert {name for name in dir(signer) if not name.startswith("_")} == {"key_id", "key_type", "sign"}
        assert secret.hex() not in repr(signer)
        assert signer.key_id not in (secret, public)
