"""What a rule asks besides host and path."""

from __future__ import annotations

import pytest

from core.model import Condition, Rule
from proxy.conditions import Conditions, cookie_pairs, query_pairs
from proxy.head import read_request
from proxy.message import RequestHead


def head(fields: bytes = b"", target: bytes = b"/", method: bytes = b"GET") -> RequestHead:
    found = read_request(b"%b %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method, target, fields))
    assert found is not None
    return found


def hold(request: RequestHead, **asked: object) -> bool:
    conditions = Conditions.of(Rule("r", "web", "app", **asked))  # type: ignore[arg-type]
    assert conditions is not None
    return conditions.hold(request, request.target)


def test_a_rule_that_asks_nothing_has_none() -> None:
    assert Conditions.of(Rule("r", "web", "app", "h", "/x", priority=3)) is None


def test_methods() -> None:
    assert hold(head(method=b"PUT"), methods=("POST", "PUT"))
    assert not hold(head(method=b"HEAD"), methods=("GET",))
    assert not hold(head(method=b"get"), methods=("GET",))


@pytest.mark.parametrize(
    ("values", "field", "held"),
    [
        ((), b"X-Tenant: anything\r\n", True),
        ((), b"X-Tenant:\r\n", True),
        ((), b"X-Other: 1\r\n", False),
        (("a", "b"), b"x-tenant: b\r\n", True),
        (("a", "b"), b"X-Tenant: B\r\n", False),
        (("a", "b"), b"X-Tenant: a, b\r\n", False),
        (("a",), b"X-Tenant: c\r\nX-Tenant: a\r\n", True),
        (("v2*",), b"X-Tenant: v2.1\r\n", True),
        (("v2*",), b"X-Tenant: v2\r\n", True),
        (("v2*",), b"X-Tenant: xv2\r\n", False),
        (("v?",), b"X-Tenant: v\r\n", False),
        (("*a?c*",), b"X-Tenant: xxabcxx\r\n", True),
        (("[ab]*",), b"X-Tenant: [ab]c\r\n", True),
        (("[ab]*",), b"X-Tenant: ac\r\n", False),
        (("a.c?",), b"X-Tenant: abcd\r\n", False),
        (("é?",), b"X-Tenant: \xc3\xa9\xc3\xa9\r\n", True),
        (("*",), b"X-Tenant: \xff\r\n", True),
    ],
)
def test_fields(values: tuple[str, ...], field: bytes, held: bool) -> None:
    assert hold(head(field), headers=(Condition("X-Tenant", values),)) is held


@pytest.mark.parametrize(
    ("name", "values", "query", "held"),
    [
        ("q", ("a b",), b"q=a+b", True),
        ("q", ("a b",), b"x=1&q=a%20b&y", True),
        ("q", (), b"x&q", True),
        ("q", (), b"Q=1", False),
        ("q", (), b"", False),
        ("q", ("",), b"q=", True),
        ("q", ("2",), b"q=1&q=2", True),
        ("q", ("a&b=c",), b"q=a%26b=c", True),
        ("stadt", ("北*",), b"stadt=%E5%8C%97%E4%BA%AC", True),
        ("a/b", ("1",), b"a%2fb=1", True),
    ],
)
def test_queries(name: str, values: tuple[str, ...], query: bytes, held: bool) -> None:
    assert hold(head(target=b"/p?" + query), queries=(Condition(name, values),)) is held


@pytest.mark.parametrize(
    ("values", "field", "held"),
    [
        (("1",), b"Cookie: canary=1\r\n", True),
        (("1",), b"Cookie: a=b; canary=1;c\r\n", True),
        (("1",), b"Cookie: a=b\r\nCookie: canary=1\r\n", True),
        (("1",), b"Cookie: xcanary=1; canary=10\r\n", False),
        ((), b"Cookie: canary\r\n", True),
        ((), b"", False),
    ],
)
def test_cookies(values: tuple[str, ...], field: bytes, held: bool) -> None:
    assert hold(head(field), cookies=(Condition("canary", values),)) is held


def test_patterns_of_paths() -> None:
    assert hold(head(target=b"/users/7/photos?x=/"), pattern="/users/*/photos")
    assert not hold(head(target=b"/users/7/photos/1?/photos"), pattern="/users/*/photos")
    assert hold(head(target=b"/users/7/photos/1"), pattern="/users/*/photos/**")
    assert not hold(head(target=b"*", method=b"OPTIONS"), pattern="/**")


def test_all_have_to_hold() -> None:
    asked = {
        "methods": ("GET",), "headers": (Condition("a"), Condition("b")), "queries": (Condition("q"), Condition("r")),
        "cookies": (Condition("c"),),
    }  # fmt: skip
    fields, target = b"A: 1\r\nB: 1\r\nCookie: c=1\r\n", b"/?q=1&r=1"
    assert hold(head(fields, target), **asked)
    assert not hold(head(fields, target, b"PUT"), **asked)
    for less in (b"A: 1\r\n", b"B: 1\r\n", b"Cookie: c=1\r\n"):
        assert not hold(head(fields.replace(less, b""), target), **asked)
    for less in (b"q=1", b"r=1"):
        assert not hold(head(fields, target.replace(less, b"")), **asked)


def test_pairs() -> None:
    assert list(query_pairs(b"/a?b=c=d&&e")) == [(b"b", b"c=d"), (b"", b""), (b"e", b"")]
    assert list(cookie_pairs(head(b"Cookie: a=b=c; ;d\r\n"))) == [(b"a", b"b=c"), (b"", b""), (b"d", b"")]


def test_patterns_cannot_be_made_slow_by_clients() -> None:
    """A backtracking matcher would try some 10^25 ways, and this test would never end."""
    assert not hold(head(b"X: " + b"a" * 10_000 + b"\r\n"), headers=(Condition("X", ("*a" * 60 + "b",)),))
