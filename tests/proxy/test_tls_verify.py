"""Signatures of every scheme, right and wrong."""

from __future__ import annotations

import pytest

from proxy.tls_verify import verifies
from tests.proxy.tls_support import new_key, sign, spki

SCHEMES = {
    "P-256": [0x0403, 0x0503, 0x0603],
    "P-384": [0x0403, 0x0503, 0x0603],
    "RSA": [0x0401, 0x0501, 0x0601, 0x0804, 0x0805, 0x0806],
    "ED25519": [0x0807],
}


@pytest.mark.parametrize(("kind", "scheme"), [(kind, each) for kind, schemes in SCHEMES.items() for each in schemes])
def test_schemes(kind: str, scheme: int) -> None:
    key, other = new_key(kind), new_key(kind, 1)
    signature = sign(key, scheme, b"content")
    assert verifies(spki(key), scheme, b"content", signature)
    assert not verifies(spki(key), scheme, b"something else", signature)
    assert not verifies(spki(other), scheme, b"content", signature)
    wrong = [b"", b"0", signature[:-1], signature + b"0", bytes(len(signature)), bytes(60_000)]
    assert not any(verifies(spki(key), scheme, b"content", each) for each in wrong)
    if kind != "ED25519":
        others = {each for each in SCHEMES[kind] if each != scheme}
        assert not any(verifies(spki(key), each, b"content", signature) for each in others)


def test_what_is_no_key_or_no_scheme() -> None:
    key = new_key("P-256")
    assert not verifies(b"no key", 0x0403, b"content", sign(key, 0x0403, b"content"))
    assert not verifies(spki(key), 0x0203, b"content", sign(key, 0x0403, b"content"))
    assert not verifies(spki(new_key("RSA")), 0x0203, b"content", b"x")
