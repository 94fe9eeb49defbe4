"""Routing by host and path, and the one normal form of paths."""

from __future__ import annotations

import pytest

from core.model import Rule
from proxy.errors import Code, Refused
from proxy.rules import Router, below, host_name, normal_target

RULES = [
    ("www.example.com", "/", "www"),
    ("www.example.com", "/api", "www-api"),
    ("www.example.com", "/api/v2", "www-api-2"),
    ("*.example.com", "/", "wild"),
    ("*.b.example.com", "/only", "wild-b"),
    ("", "/static/", "static"),
    ("bare.example.org", "/x", "bare"),
]


def router(default: str = "default") -> Router:
    rules = [Rule(f"r{i}", "web", service, domain, url) for i, (domain, url, service) in enumerate(RULES)]
    return Router(rules, default)


@pytest.mark.parametrize(
    ("host", "target", "service"),
    [
        (b"www.example.com", b"/", "www"),
        (b"WWW.Example.COM.:8080", b"/apis", "www"),
        (b"www.example.com", b"/api", "www-api"),
        (b"www.example.com", b"/api/", "www-api"),
        (b"www.example.com", b"/api?x=/v2", "www-api"),
        (b"www.example.com", b"/api/v2/y", "www-api-2"),
        (b"a.example.com", b"/", "wild"),
        (b"a.b.example.com", b"/only/this", "wild-b"),
        (b"a.b.example.com", b"/else", "wild"),
        (b"example.com", b"/", "default"),
        (b"example.com", b"/static/x", "static"),
        (b"example.com", b"/static", "default"),
        (b"bare.example.org", b"/x", "bare"),
        (b"bare.example.org", b"/static/x", "static"),
        (b"[::1]:80", b"/", "default"),
        (b"", b"/", "default"),
        (b"www.example.com", b"*", "www"),
    ],
)
def test_the_most_specific_rule_wins(host: bytes, target: bytes, service: str) -> None:
    assert router().route(host, target) == service


def test_without_rules_and_without_default() -> None:
    assert Router((), "app").route(b"a", b"/") == "app"
    assert router("").route(b"nobody.org", b"/") == ""


def test_the_first_of_two_equal_rules_wins() -> None:
    rules = [Rule("a", "web", "one", "", "/x"), Rule("b", "web", "two", "", "/x")]
    assert Router(rules, "").route(b"h", b"/x") == "one"


def test_host_names() -> None:
    assert [host_name(h) for h in (b"A.b:80", b"a.", b"[::1]:80", b"[::1]", b"")] == ["a.b", "a", "[::1]", "[::1]", ""]


def test_below() -> None:
    assert below("/a", "/a")
    assert below("/a/b", "/a")
    assert below("/a/b", "/a/")
    assert not below("/ab", "/a")
    assert not below("/a", "/a/")


@pytest.mark.parametrize(
    ("target", "normal"),
    [
        (b"/", b"/"),
        (b"/a/b?c=../%2e", b"/a/b?c=../%2e"),
        (b"/%61%2Db", b"/a-b"),
        (b"/a%2fb%c3%A9", b"/a%2Fb%C3%A9"),
        (b"/%2541", b"/%2541"),  # decoded once
        (b"/a/./b/../c", b"/a/c"),
        (b"/a/%2e%2E/c", b"/c"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/a//b/../c", b"/a//c"),
        (b"/...", b"/..."),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/a?b\\c", b"/a?b\\c"),
        (b"*", b"*"),
    ],
)
def test_paths_have_one_normal_form(target: bytes, normal: bytes) -> None:
    """RFC 3986 §6.2.2."""
    assert normal_target(target) == normal
    assert normal_target(normal) == normal


@pytest.mark.parametrize(
    "target",
    [
        b"/a\\b",
        b"/%00",
        b"/a%",
        b"/a%4",
        b"/a%zz",
        b"/..",
        b"/a/../..",
        b"/%2e%2e/x",
        b"/a%2F..%2Fb",
        b"/a%5c..",
        b"/x/..%2f",
    ],
)
def test_ambiguous_paths_are_refused(target: bytes) -> None:
    with pytest.raises(Refused) as caught:
        normal_target(target)
    assert caught.value.code is Code.PATH
