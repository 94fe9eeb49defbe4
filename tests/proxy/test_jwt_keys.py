"""Which keys of a set are taken, and for which algorithms."""

from __future__ import annotations

import json

import pytest
from jwt.algorithms import ECAlgorithm

from proxy.jwt_keys import MOST_KEYS, read, shared
from tests.proxy.tokens import jwk, jwks, private

ALL = ("RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA")


@pytest.mark.parametrize(
    ("kind", "more", "algorithms"),
    [
        ("rsa", {}, {"RS256", "PS256"}),
        ("rsa", {"alg": "RS256"}, {"RS256"}),
        ("p256", {}, {"ES256"}),
        ("p384", {}, {"ES384"}),
        ("p521", {}, {"ES512"}),
        ("ed", {}, {"EdDSA"}),
        ("p256", {"use": "sig", "key_ops": ["verify"]}, {"ES256"}),
    ],
)
def test_a_key_says_what_it_is_for(kind: str, more: dict[str, object], algorithms: set[str]) -> None:
    keys = read(jwks(jwk(private(kind), "k", **more)), ALL)
    assert {each for each in ALL if keys.find("k", each)} == algorithms


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(jwk(private("rsa"), alg="HS256"), id="of HS256, which is no public key's"),
        pytest.param(jwk(private("rsa"), alg="RS512"), id="of an algorithm that is not allowed"),
        pytest.param(jwk(private("p256"), use="enc"), id="to encrypt by"),
        pytest.param(jwk(private("p256"), key_ops=["encrypt"]), id="for another operation"),
        pytest.param(jwk(private("p256"), key_ops="verify"), id="operations that are no list"),
        pytest.param(jwk(private("short")), id="too short"),
        pytest.param({"kty": "oct", "k": "c2VjcmV0" * 8}, id="a secret"),
        pytest.param({"kty": "oct", "k": "c2VjcmV0" * 8, "alg": "RS256"}, id="a secret that says RS256"),
        pytest.param(ECAlgorithm.to_jwk(private("p256"), as_dict=True), id="with its private half"),
        pytest.param({**jwk(private("p256")), "crv": "P-384"}, id="a point that is not on its curve"),
        pytest.param({**jwk(private("p256")), "crv": "secp256k1"}, id="a curve that is not known"),
        pytest.param({**jwk(private("p256")), "crv": ["P-256"]}, id="a curve that is no text"),
        pytest.param({**jwk(private("p256")), "x": 7}, id="a coordinate that is no text"),
        pytest.param({**jwk(private("p256")), "kid": 7}, id="a name that is no text"),
        pytest.param({"kty": "RSA", "n": "!", "e": "AQAB"}, id="a number that is none"),
        pytest.param({}, id="nothing"),
    ],
)  # fmt: skip
def test_what_is_passed_over(key: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no key for .* among 1"):
        read(jwks(key), ALL)
    assert read(jwks(key, jwk(private("p384"), "good")), ALL).names == ["good"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "not JSON"),
        ("[" * 9999, "not JSON"),
        ("[]", "no key set"),
        ('{"keys": {}}', "no key set"),
        ('{"keys": []}', "no key for"),
        (json.dumps({"keys": [{}] * (MOST_KEYS + 1)}), f"{MOST_KEYS} are allowed"),
        (" " * 65_537, "65536 are allowed"),
    ],
)
def test_what_is_no_set(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read(text, ALL)


def test_keys_of_one_name_are_all_tried_and_a_token_without_a_name_may_be_of_any() -> None:
    keys = read(jwks(jwk(private("p256"), "a"), jwk(private("p256", 1), "a"), jwk(private("p256", 2))), ALL)
    assert [len(keys.find(kid, "ES256")) for kid in ("a", "b", None)] == [2, 0, 3]
    assert [len(keys.find("a", algorithm)) for algorithm in ("RS256", "HS256", "none")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("size", "algorithm", "good"), [(32, "HS256", True), (31, "HS256", False), (63, "HS512", False)]
)
def test_a_secret_has_to_be_as_long_as_its_hash(size: int, algorithm: str, good: bool) -> None:
    if good:
        assert len(shared(b"x" * size, [algorithm]).find(None, algorithm)) == 1
    else:
        with pytest.raises(ValueError, match="RFC 7518"):
            shared(b"x" * size, [algorithm])
