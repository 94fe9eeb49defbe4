"""What is wrong with an authentication, where, and what to do about it."""

from __future__ import annotations

import json

import pytest

from core.config import load
from core.errors import ConfigErrors

SOUND = """\
[[server_groups]]
name = "idp"
servers = [{ address = "10.0.0.9", port = 443 }]
[[backend_services]]
name = "idp"
protocol = "http"
server_group = "idp"
tls = true
[[backend_services]]
name = "mail"
protocol = "tcp"
server_group = "idp"
[[authentications]]
name = "staff"
basic = { users_file = "/etc/paifang/users" }
user_field = "X-User"
[[authentications]]
name = "api"
backend_service = "idp"
jwt = { jwks_url = "https://login.example/keys", claim_fields = { email = "X-Email" } }
[[authentications]]
name = "door"
backend_service = "idp"
forward = { path = "/check", copied_fields = ["Authorization"] }
[[listeners]]
protocol = "http"
port = 80
servers = ["127.0.0.1:9000"]
[[rules]]
name = "r"
listener = "http-80"
backend_service = "http-80"
authentication = "staff"
"""
BASIC, JWT, FORWARD = (line for line in SOUND.splitlines() if line.startswith(("basic =", "jwt =", "forward =")))
KEY = json.dumps({"keys": [{"kty": "RSA", "n": "x", "e": "AQAB"}]})


def jwt(inner: str) -> str:
    return f"jwt = {{ {inner} }}"


# What is said of authentications begins with their names.
CASES = [
    (BASIC, "", "staff: nobody could prove anything; give basic, jwt, forward or certificate"),
    (BASIC, "certificate = {}", "rules.r.authentication: http-80 asks no client for a certificate"),
    (BASIC, 'certificate = { sha256 = ["x"] }', "staff.certificate.sha256[0]: 'x' does not fit"),
    (BASIC, f"{BASIC}\nforward = {{}}", "staff.forward: basic and forward exclude each other; give one"),
    (BASIC, 'basic = { users_file = "users" }', "staff.basic.users_file: 'users' does not fit"),
    (BASIC, 'basic = { users_file = "/u", realm = "a\\"b" }', "staff.basic.realm: "),
    (f"{BASIC}\n", f'{BASIC}\nbackend_service = "idp"\n', "staff.backend_service: nobody is asked"),
    (f'backend_service = "idp"\n{FORWARD}', FORWARD, "door: no service is there to be asked"),
    (f'"idp"\n{FORWARD}', f'"mail"\n{FORWARD}', "door.backend_service: mail is a tcp service"),
    (f'"idp"\n{FORWARD}', f'"idb"\n{FORWARD}', "door.backend_service: none of the backend services is"),
    ('authentication = "staff"', 'authentication = "stuff"', "rules.r.authentication: none of the authentications is"),
    ("https://login", "http://login", "api.jwt.jwks_url: the service idp is spoken to by https; write https"),
    (JWT, jwt('jwks_url = "https://a/", secret_file = "/s"'), "api.jwt.secret_file: jwks_url and secret_file"),
    (f'backend_service = "idp"\n{JWT}', jwt(""), "api.jwt: no keys to verify tokens by"),
    (JWT, jwt('jwks_url = "https://a/", algorithms = []'), "api.jwt.algorithms: no token could be good"),
    (JWT, jwt('jwks_url = "https://a/", algorithms = ["none"]'), "api.jwt.algorithms[0]: 'none' is not known"),
    (JWT, jwt('jwks_url = "https://a/", algorithms = ["RS256", "HS256"]'),
     "api.jwt.algorithms[1]: HS256 is of a shared secret, and a public key is none; give secret_file"),
    (JWT, jwt('jwks_url = "https://a/", algorithms = ["RS256", "RS256"]'), "api.jwt.algorithms[1]: RS256 is in"),
    (f'backend_service = "idp"\n{JWT}', jwt('secret_file = "/s"'),
     "api.jwt.algorithms[0]: RS256 is of a key pair, and secret_file is none; give HS256"),
    (f'backend_service = "idp"\n{JWT}', jwt(f"jwks = '{KEY}'").replace("RSA", "oct"),
     "api.jwt.jwks: key 1 is secret, and whoever may read the configuration would have it"),
    (f'backend_service = "idp"\n{JWT}', jwt(f"jwks = '{KEY}'").replace('"n"', '"d"'), "api.jwt.jwks: key 1 is"),
    (f'backend_service = "idp"\n{JWT}', jwt("jwks = '[]'"), "api.jwt.jwks: '[]' is no set of keys"),
    (f'backend_service = "idp"\n{JWT}', jwt("""jwks = '{"keys":[{}]}'"""), "api.jwt.jwks: key 1 says not"),
    (JWT, jwt('jwks_url = "https://a/", token = "header:Authorization"'), "api.jwt.token: Authorization says"),
    (JWT, jwt('jwks_url = "https://a/", token = "query:t"'), "api.jwt.token: 'query:t' does not fit"),
    ("X-Email", "X-Forwarded-For", "api.jwt.claim_fields.email: X-Forwarded-For has a meaning of its own"),
    ("X-Email", "Authorization", "api.jwt.claim_fields.email: Authorization has a meaning of its own"),
    ("X-Email", "X_Email", "api.jwt.claim_fields.email: 'X_Email' does not fit"),
    ('"X-User"', '"X-SSL-Client-DN"', "staff.user_field: X-SSL-Client-DN has a meaning of its own"),
    ('"X-User"', '"Content-Length"', "staff.user_field: Content-Length has a meaning of its own"),
    (JWT, f'{JWT}\nuser_field = "x-email"', "api.jwt.claim_fields.email: X-Email tells servers something"),
    ('["Authorization"]', '["Set-Cookie"]', "door.forward.copied_fields[0]: Set-Cookie has a meaning"),
    ('["Authorization"]', '[], request_fields = ["Host"]', "door.forward.request_fields[0]: Host is what"),
    ('"staff"\n', '"staff"\nrequest_headers = [{ name = "x-user", value = "root" }]\n',
     "rules.r.request_headers[0].name: x-user is what staff tells servers, and they rely on it; remove one of them"),
]  # fmt: skip


def test_a_sound_one() -> None:
    model = load(SOUND, path="site.toml", format="toml")
    assert list(model.authentications) == ["staff", "api", "door"]
    assert model.rules["r"].authentication == "staff"


@pytest.mark.parametrize(("old", "new", "expected"), CASES, ids=range(len(CASES)))
def test_what_is_wrong_with_it(old: str, new: str, expected: str) -> None:
    at = SOUND.rindex(old) if old.endswith("\n") and "rules" in expected else SOUND.index(old)
    text = SOUND[:at] + new + SOUND[at + len(old) :]
    with pytest.raises(ConfigErrors) as errors:
        load(text, path="site.toml", format="toml")
    told = [f"{error.object_path}: {error.why}; {error.suggestion}" for error in errors.value.errors]
    expected = expected if expected.startswith("rules.") else f"authentications.{expected}"
    assert any(each.startswith(expected) for each in told), told
    assert all(error.line for error in errors.value.errors)
