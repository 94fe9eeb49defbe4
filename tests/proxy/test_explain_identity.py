"""Who would be found out to have asked, without any secret."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest

from core.explain import Explanation, Outcome, Place
from core.model import Authentication, Basic, Certified, ForwardAuth, Jwt, Kind, Rule
from proxy.explain import Wanted, request
from tests.proxy.support import model
from tests.proxy.tokens import jwk, jwks, private, token

KEY = private("p256")
FILE = "/etc/paifang/no-such-file"
EACH = (
    Authentication("staff", Basic(FILE), user_field="X-User"),
    Authentication("api", jwt=Jwt(jwks=jwks(jwk(KEY)), required_claims=(("scope", "x"),)), user_field="X-User"),
    Authentication("far", jwt=Jwt(jwks_url="http://login.example/keys"), backend_service="app", user_field="X-User"),
    Authentication("cert", certificate=Certified(("alice",)), user_field="X-User"),
    Authentication("door", forward=ForwardAuth(copied_fields=("X-Group",)), backend_service="app", user_field="X-User"),
)


def explain(name: str, *fields: str) -> Explanation:
    rules = [Rule(each.name, "web", "app", url=f"/{each.name}", authentication=each.name) for each in EACH]
    base = replace(model(80, [9000], rules=rules), authentications={each.name: each for each in EACH})
    return request(base, Wanted(f"http://a/{name}", fields=("X-User: root", *fields)))


def bearer(**claims: object) -> str:
    good = token(KEY, "ES256", {"sub": "alice", "exp": 1 << 40, **claims})
    return f"Authorization: Bearer {good.decode()}"


BASIC = f"Authorization: Basic {base64.b64encode(b'bob:builder').decode()}"


@pytest.mark.parametrize(
    ("name", "fields", "user", "note"),
    [
        ("staff", (BASIC,), "bob", f"supposed that {FILE} of the nodes has bob and this password"),
        ("api", (bearer(scope="x y"),), "alice", ""),
        ("far", ("Authorization: Bearer a.b.c",), "", "supposed that the token is good: its keys are at http://login"),
        ("cert", (), "", "supposed that the client's certificate is one of those that are meant"),
        ("door", ("X-Group: root",), "", "supposed that app lets it pass"),
    ],
)
def test_who_it_would_be(name: str, fields: tuple[str, ...], user: str, note: str) -> None:
    told = explain(name, *fields)
    assert told.outcome is Outcome.FORWARDED
    assert told.result["user"] == user
    (step,) = [step for step in told.steps if step.what == "identity"]
    assert step.place == Place(Kind.AUTHENTICATIONS, name)
    assert " ".join(step.notes).startswith(note)
    lines = told.result["upstream_head"]
    assert not any(word in line for line in lines for word in ("root", "Authorization", "builder"))
    assert not user or f"X-User: {user}" in lines
    assert "builder" not in str([step.text for step in told.steps])


@pytest.mark.parametrize(
    ("name", "fields", "error", "note"),
    [
        ("staff", (), "unauthenticated", ""),
        ("staff", (BASIC, BASIC), "bad_authorization", ""),
        ("api", (), "unauthenticated", ""),
        ("api", (bearer(),), "forbidden", "its claims do not suffice"),
        ("api", (bearer(exp=1),), "unauthenticated", "it has expired"),
        ("far", (BASIC,), "unauthenticated", ""),
    ],
)
def test_who_would_not_be_admitted(name: str, fields: tuple[str, ...], error: str, note: str) -> None:
    told = explain(name, *fields)
    assert (told.outcome, told.result["error"]) == (Outcome.REFUSED, error)
    step = told.steps[-1]
    assert (step.what, step.place) == ("identity", Place(Kind.AUTHENTICATIONS, name))
    assert note in " ".join(step.notes)
