"""Tokens that are good, and all ways to forge one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.model import Jwt, JwtAlgorithm
from proxy.head import read_request
from proxy.jwt_keys import read, shared
from proxy.jwt_verify import MOST_BYTES, PASSED_BYTES, Bad, Reason, Verifier, said
from tests.proxy.tokens import jwk, jwks, parts, pem, private, token

NOW = 1_700_000_000.0
RSA, OTHER, EC = private("rsa"), private("rsa", 1), private("p256")
KEYS = read(jwks(jwk(RSA, "one"), jwk(EC, "two")), ["RS256", "ES256"])
CLAIMS: dict[str, Any] = {"sub": "alice", "exp": NOW + 60, "iss": "https://login.example", "aud": "shop"}
TERMS = Jwt(
    algorithms=(JwtAlgorithm.RS256, JwtAlgorithm.ES256), issuer="https://login.example", audiences=("shop", "api"),
    leeway_s=30,
)  # fmt: skip
GOOD = token(RSA, "RS256", CLAIMS, kid="one")


def verify(given: bytes, terms: Jwt = TERMS, user_field: str = "X-User", now: float = NOW) -> bytes:
    return Verifier(terms, user_field).verify(given, KEYS, now).lines


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(GOOD, id="rsa"),
        pytest.param(token(EC, "ES256", CLAIMS, kid="two"), id="ec"),
        pytest.param(token(RSA, "RS256", CLAIMS), id="without a key's name"),
        pytest.param(token(RSA, "RS256", {**CLAIMS, "aud": ["x", "api"]}), id="several audiences"),
        pytest.param(token(RSA, "RS256", {**CLAIMS, "exp": NOW - 29}), id="just over"),
        pytest.param(token(RSA, "RS256", {**CLAIMS, "nbf": NOW + 29}), id="about to begin"),
        pytest.param(token(RSA, "RS256", {**CLAIMS, "exp": 1 << 80}), id="for ever"),
    ],
)
def test_good_ones(given: bytes) -> None:
    assert verify(given) == b"X-User: alice\r\n"


def _signed_as(algorithm: str, key: bytes, **header: object) -> bytes:
    """What PyJWT refuses to make: a public key as the secret of a MAC."""
    import base64
    import hashlib
    import hmac

    start = parts({"alg": algorithm, "typ": "JWT", **header}, CLAIMS, b"x").rpartition(b".")[0]
    mac = hmac.new(key, start, hashlib.sha256).digest()
    return start + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")


HEAD, BODY, SIGNATURE = GOOD.split(b".")
BAD = [
    ("none", parts({"alg": "none"}, CLAIMS), Reason.ALGORITHM),
    ("None, in capitals", parts({"alg": "NONE"}, CLAIMS), Reason.ALGORITHM),
    ("none, with a key's name", parts({"alg": "none", "kid": "one"}, CLAIMS), Reason.ALGORITHM),
    ("no signature", parts({"alg": "none"}, CLAIMS, b""), Reason.FORM),
    ("no algorithm", parts({}, CLAIMS), Reason.ALGORITHM),
    ("an algorithm that is no text", parts({"alg": ["RS256"]}, CLAIMS), Reason.ALGORITHM),
    ("the public key as a secret", _signed_as("HS256", pem(RSA), kid="one"), Reason.ALGORITHM),
    ("an algorithm that is not allowed", token(RSA, "RS512", CLAIMS, kid="one"), Reason.ALGORITHM),
    ("an algorithm that the key is not for", token(EC, "ES256", CLAIMS, kid="one"), Reason.KEY),
    ("another key of the same name", token(OTHER, "RS256", CLAIMS, kid="one"), Reason.SIGNATURE),
    ("another key", token(OTHER, "RS256", CLAIMS), Reason.SIGNATURE),
    ("a name that nobody has", token(RSA, "RS256", CLAIMS, kid="three"), Reason.KEY),
    ("a path for a name", token(RSA, "RS256", CLAIMS, kid="../../dev/null"), Reason.KEY),
    ("a query for a name", token(RSA, "RS256", CLAIMS, kid="' OR 1=1 --"), Reason.KEY),
    ("a name that is no text", parts({"alg": "RS256", "kid": {"a": 1}}, CLAIMS), Reason.FORM),
    ("its own key", parts({"alg": "RS256", "jwk": jwk(OTHER)}, CLAIMS), Reason.SIGNATURE),
    ("a place of its key", token(OTHER, "RS256", CLAIMS, jku="https://evil.example/keys"), Reason.SIGNATURE),
    ("other claims", HEAD + b"." + parts({}, {**CLAIMS, "sub": "root"}).split(b".")[1] + b"." + SIGNATURE,
     Reason.SIGNATURE),
    ("a broken signature", GOOD[:-8] + b"AAAAAAAA", Reason.SIGNATURE),
    ("a short signature", HEAD + b"." + BODY + b".AAAA", Reason.SIGNATURE),
    ("extensions", parts({"alg": "RS256", "crit": ["exp"]}, CLAIMS), Reason.CRITICAL),
    ("a detached payload", parts({"alg": "RS256", "b64": False}, CLAIMS), Reason.CRITICAL),
    ("expired", token(RSA, "RS256", {**CLAIMS, "exp": NOW - 31}), Reason.EXPIRED),
    ("too early", token(RSA, "RS256", {**CLAIMS, "nbf": NOW + 31}), Reason.EARLY),
    ("no end", token(RSA, "RS256", {"sub": "a"}), Reason.NO_END),
    ("an end that is no number", parts({"alg": "RS256"}, {**CLAIMS, "exp": "never"}), Reason.FORM),
    ("an end that is true", parts({"alg": "RS256"}, {**CLAIMS, "exp": True}), Reason.FORM),
    ("an end that never comes", parts({"alg": "RS256"}, {**CLAIMS, "exp": float("inf")}), Reason.FORM),
    ("an end that is not a number", parts({"alg": "RS256"}, {**CLAIMS, "exp": float("nan")}), Reason.FORM),
    ("another issuer", token(RSA, "RS256", {**CLAIMS, "iss": "https://login.example.evil"}), Reason.ISSUER),
    ("several issuers", parts({"alg": "RS256"}, {**CLAIMS, "iss": ["https://login.example"]}), Reason.ISSUER),
    ("another audience", token(RSA, "RS256", {**CLAIMS, "aud": ["shops"]}), Reason.AUDIENCE),
    ("no audience", token(RSA, "RS256", {**CLAIMS, "aud": None}), Reason.AUDIENCE),
    ("an audience that is a table", parts({"alg": "RS256"}, {**CLAIMS, "aud": {"shop": 1}}), Reason.AUDIENCE),
    ("two parts", HEAD + b"." + BODY, Reason.FORM),
    ("five parts", b"a.b.c.d.e", Reason.FORM),
    ("empty", b"", Reason.FORM),
    ("other characters", GOOD.replace(b"-", b"+").replace(b"_", b"/") + b"+", Reason.FORM),
    ("padded", GOOD + b"=", Reason.FORM),
    ("two lines", GOOD + b"\r\n", Reason.FORM),
    ("a header that is no table", parts([], CLAIMS), Reason.FORM),
    ("claims that are no table", parts({"alg": "RS256"}, []), Reason.FORM),
    ("claims that are no JSON", HEAD + b".AAAA." + SIGNATURE, Reason.FORM),
    ("a deep header", b"W" * 4000 + b".AAAA.AAAA", Reason.FORM),
    ("huge", token(RSA, "RS256", {**CLAIMS, "x": "y" * MOST_BYTES}), Reason.LONG),
]  # fmt: skip


@pytest.mark.parametrize(("given", "reason"), [pytest.param(*each[1:], id=each[0]) for each in BAD])
def test_bad_ones(given: bytes, reason: Reason) -> None:
    with pytest.raises(Bad) as refused:
        verify(given)
    assert refused.value.reason is reason


def test_a_secret_is_for_macs_alone() -> None:
    secret = b"0123456789abcdef0123456789abcdef"
    terms = Jwt(algorithms=(JwtAlgorithm.HS256,))
    keys, verifier = shared(secret, ["HS256"]), Verifier(terms, "")
    assert verifier.verify(token(secret, "HS256", CLAIMS), keys, NOW).user == "alice"
    assert verifier.verify(token(secret, "HS256", CLAIMS), keys, NOW).until == NOW + 60 + 30
    for forged in (token(RSA, "RS256", CLAIMS), parts({"alg": "none"}, CLAIMS), token(b"x" * 32, "HS256", CLAIMS)):
        with pytest.raises(Bad):
            verifier.verify(forged, keys, NOW)


@pytest.mark.parametrize(
    ("required", "claims", "admitted"),
    [
        (("scope", "read"), {"scope": "write read"}, True),
        (("scope", "read"), {"scope": "reading"}, False),
        (("scope", "read"), {"scope": ["read"]}, True),
        (("groups", "admins"), {"groups": ["users", "admins"]}, True),
        (("groups", "admins"), {"groups": "admins"}, True),
        (("groups", "admins"), {"groups": "users admins"}, False),
        (("groups", "admins"), {"groups": [["admins"]]}, False),
        (("groups", "admins"), {"groups": {"admins": 1}}, False),
        (("email_verified", ""), {"email_verified": True}, True),
        (("email_verified", ""), {"email_verified": False}, False),
        (("email_verified", "true"), {"email_verified": True}, True),
        (("email_verified", "true"), {"email_verified": "true"}, True),
        (("level", "3"), {"level": 3}, True),
        (("level", "3"), {"level": 33}, False),
        (("email", ""), {}, False),
        (("email", ""), {"email": None}, False),
    ],
)
def test_claims_that_are_required(required: tuple[str, str], claims: dict[str, object], admitted: bool) -> None:
    terms = Jwt(algorithms=TERMS.algorithms, required_claims=(required,))
    given = token(RSA, "RS256", {**CLAIMS, **claims})
    if admitted:
        verify(given, terms)
    else:
        with pytest.raises(Bad) as refused:
            verify(given, terms)
        assert refused.value.reason.of_rights


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("alice", b"alice"),
        ("Zoë 50%", b"Zo%C3%AB 50%25"),
        ("a\r\nX-Admin: 1", b"a%0D%0AX-Admin: 1"),
        ("a\nb\0c\x7f", b"a%0Ab%00c%7F"),
        (" a ", b"%20a%20"),
        ("   ", b"%20%20%20"),
        ("\ud800", b"%ED%A0%80"),
        (["a", "b,c", "d\r\n"], b"a, b%2Cc, d%0D%0A"),
        ({"a": "\r\n"}, b'{"a":"\\r\\n"}'),
        ([1, 2], b"[1,2]"),
        (7, b"7"),
        (True, b"true"),
        (None, b""),
        ("", b""),
        ([], b""),
    ],
)
def test_claims_as_fields(value: object, text: bytes) -> None:
    assert said(value) == text


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    )
)
def test_no_claim_ends_its_line(value: object) -> None:
    text = said(value)
    head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Claim: " + text + b"\r\nX-Next: b\r\n\r\n")
    if len(text) < 8000:
        assert head is not None
        assert head.values(b"x-claim") == [text]
        assert head.values(b"x-next") == [b"b"]


def test_which_claims_are_passed_on() -> None:
    terms = Jwt(algorithms=TERMS.algorithms, claim_fields=(("email", "X-Email"), ("groups", "X-Groups")))
    given = token(RSA, "RS256", {**CLAIMS, "email": "a@x", "groups": ["a", "b"]})
    assert verify(given, terms) == b"X-User: alice\r\nX-Email: a@x\r\nX-Groups: a, b\r\n"
    assert verify(GOOD, terms, "") == b""
    with pytest.raises(Bad) as refused:
        verify(token(RSA, "RS256", {**CLAIMS, "groups": ["é" * 6] * (PASSED_BYTES // 38 + 1)}), terms)
    assert refused.value.reason is Reason.TOO_MUCH


def test_whose_key_is_looked_for() -> None:
    verifier = Verifier(TERMS, "")
    assert [verifier.kid(each) for each in (GOOD, token(RSA, "RS256", CLAIMS))] == ["one", None]
    with pytest.raises(Bad):
        verifier.kid(parts({"alg": "none", "kid": "x"}, CLAIMS))


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200)
    | st.from_regex(rb"[A-Za-z0-9_-]{0,30}\.[A-Za-z0-9_-]{0,30}\.[A-Za-z0-9_-]{0,9}", fullmatch=True)
)
def test_nothing_but_refusals_escapes(given: bytes) -> None:
    with pytest.raises(Bad):
        verify(given)
