"""The form of a signature: the SDK's signer and ours on the same requests, and one vector that stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
from jdcloud_sdk.core.credential import Credential
from jdcloud_sdk.core.signer import Signer

from control.jdcloud.errors import JdError
from control.jdcloud.signature import Request, read
from tests.control.jdcloud.conftest import Silent

AT = "20261120T184500Z"


def request(method: str = "GET", target: str = "/v1/regions/r/backends/", body: str = "") -> Request:
    """A request as the SDK signs it."""
    heads: dict[str, Any] = {"User-Agent": "x", "Content-Type": "application/json", "x-jdcloud-date": AT,
                             "x-jdcloud-nonce": "n-1"}  # fmt: skip
    signer, url = Signer(Silent()), f"http://lb.example:8481{target}"
    signer.sign(method, "lb", "r", url, heads, body, Credential("PFAKabc", "secret"), "")
    path, _, query = target.partition("?")
    return Request(method, path, query, [("Host", "lb.example:8481"), *heads.items()], body.encode())


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/v1/regions/r/backends/", ""),
        ("GET", "/v1/regions/r/targetGroups/tg-1:describeTargets?pageSize=20&pageNumber=2", ""),
        ("GET", "/v1/regions/r/backends/?filters.1.name=a&filters.1.values.1=%E5%90%8D%20x%2By", ""),
        ("GET", "/v1/regions/r//backends/~x?b=&a=1", ""),
        ("POST", "/v1/regions/r/loadBalancers/", '{"loadBalancerName": "商店"}'),
        ("DELETE", "/v1/regions/r/backends/backend-1", ""),
    ],
    ids=["plain", "colon", "escaped", "slashes", "post", "delete"],
)
def test_the_sdks_signer_agrees(method: str, target: str, body: str) -> None:
    found = read(request(method, target, body))
    assert (found.key_id, found.nonce, found.signed_at) == ("PFAKabc", "n-1", 1795200300.0)
    assert found.scope == ("20261120", "r", "lb", "jdcloud3_request")
    assert found.signed_with("secret")
    assert not found.signed_with("secreu")


VECTOR = "6d48e8081334a7ff1f28c5c5566732d6b0eb8fb095aff66c034286fb10fff2ba"


def test_a_vector() -> None:
    """If the SDK's next release signs otherwise, this one does not change with it."""
    heads = [
        ("Host", "lb.example:8481"), ("Content-Type", "application/json"), ("x-jdcloud-date", AT),
        ("x-jdcloud-nonce", "n-1"),
        (
            "Authorization",
            "JDCLOUD3-HMAC-SHA256 Credential=PFAKabc/20261120/r/lb/jdcloud3_request, "
            f"SignedHeaders=content-type;host;x-jdcloud-date;x-jdcloud-nonce, Signature={VECTOR}",
        ),
    ]  # fmt: skip
    assert read(Request("GET", "/v1/regions/r/backends/", "", heads, b"")).signed_with("secret")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "JDCLOUD2-HMAC-SHA256 Credential=a"),
        ("Authorization", ""),
        ("x-jdcloud-date", "2026-11-20T18:45:00Z"),
        ("x-jdcloud-date", "20261121T184500Z"),
        ("x-jdcloud-nonce", "n" * 129),
        ("x-jdcloud-content-sha256", "0" * 64),
        ("Host", ""),
    ],
    ids=["algorithm", "none", "form", "day", "nonce", "hash", "host"],
)
def test_what_is_no_signature(name: str, value: str) -> None:
    made = request()
    heads = [(each, value if each == name else old) for each, old in made.headers]
    with pytest.raises(JdError):
        read(Request(made.method, made.path, made.query, heads, made.body))


def test_heads_that_have_to_be_signed() -> None:
    made = request("POST", body="{}")
    for names in ("content-type;x-jdcloud-date;x-jdcloud-nonce", "host;content-type", "host;host", "host;nothing"):
        heads = [
            (name, old if name != "Authorization" else old.replace(
                "content-type;host;x-jdcloud-date;x-jdcloud-nonce", names))
            for name, old in made.headers
        ]  # fmt: skip
        assert heads != list(made.headers)
        with pytest.raises(JdError):
            read(Request(made.method, made.path, made.query, heads, made.body))


@pytest.mark.parametrize("query", ["a=1&a=2", "a", "a=%zz", "a=%ff"])
def test_queries_that_mean_several_things(query: str) -> None:
    made = request()
    with pytest.raises(JdError):
        read(Request(made.method, made.path, query, made.headers, made.body))


def test_heads_and_paths_that_mean_several_things() -> None:
    made = request()
    with pytest.raises(JdError):
        read(Request(made.method, made.path, "", [*made.headers, ("HOST", "other")], b""))
    with pytest.raises(JdError):
        read(Request(made.method, made.path + "%2e", "", made.headers, b""))
