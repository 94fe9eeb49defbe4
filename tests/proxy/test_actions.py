"""Where clients are sent, and what is answered without a server."""

from __future__ import annotations

import pytest

from core import model
from core.checks_rules import OURS, OURS_BEGIN
from core.model import HeaderAction
from proxy.actions import Changes, Redirect, Reply, Rewrite, Template
from proxy.message import ACTED_ON


@pytest.mark.parametrize(
    ("asked", "location"),
    [
        ({"protocol": "https"}, b"https://a.test/old/x?q=1"),
        ({"protocol": "https", "port": 8443}, b"https://a.test:8443/old/x?q=1"),
        ({"protocol": "http", "path": "/new"}, b"http://A.test:8080/new?q=1"),
        ({"path": "/new${rest}"}, b"http://A.test:8080/new/x?q=1"),
        ({"path": "${rest}", "query": ""}, b"http://A.test:8080/x"),
        ({"host": "b.test"}, b"http://b.test/old/x?q=1"),
        ({"host": "www.${host}", "port": 81}, b"http://www.a.test:81/old/x?q=1"),
        ({"port": 80}, b"http://a.test/old/x?q=1"),
        ({"path": "/go${path}", "query": "from=${host}${path}&${query}"}, b"http://A.test:8080/go/old/x?from=a.test/old/x&q=1"),
    ],
)  # fmt: skip
def test_locations(asked: dict[str, object], location: bytes) -> None:
    redirect = Redirect(model.Redirect(**asked), "/old", 302)  # type: ignore[arg-type]
    assert redirect.location(b"http", b"A.test:8080", b"/old/x?q=1") == location
    assert redirect.status(b"POST") == 302


@pytest.mark.parametrize(
    ("url", "target", "location"),
    [
        ("/old", b"/old", b"http://a/"),
        ("/old", b"/old?q", b"http://a/?q"),
        ("/", b"/x/y", b"http://a/x/y"),
        ("/old/", b"/old/x", b"http://a/x"),
        ("/old", b"//evil.test", b"http://a//evil.test"),
        ("/", b"*", b"http://a/"),
        ("", b"/exact", b"http://a/"),
    ],
)
def test_what_follows_the_url(url: str, target: bytes, location: bytes) -> None:
    """There is always a host in front, and no path can be taken for one."""
    path = "${path}" if target.startswith(b"//") else "${rest}"
    redirect = Redirect(model.Redirect(path=path, status=308), url, 308)
    assert redirect.location(b"http", b"a", target) == location


@pytest.mark.parametrize(
    ("host", "port", "target", "location"),
    [
        (b"a.test", 443, b"/b?c", b"https://a.test/b?c"),
        (b"A.Test.:80", 443, b"/x?y=z", b"https://a.test/x?y=z"),
        (b"a.test:8080", 8443, b"/x", b"https://a.test:8443/x"),
        (b"[2001:db8::1]:80", 8443, b"/", b"https://[2001:db8::1]:8443/"),
        (b"a.test", 443, b"*", b"https://a.test/"),
        (b"a.test", 443, b"//evil.test/", b"https://a.test//evil.test/"),
    ],
)
def test_https_locations(host: bytes, port: int, target: bytes, location: bytes) -> None:
    redirect = Redirect.to_https(port)
    assert redirect.location(b"http", host, target) == location
    assert [redirect.status(method) for method in (b"GET", b"HEAD", b"POST")] == [301, 301, 308]


@pytest.mark.parametrize(
    ("asked", "host", "target"),
    [
        ({"path": "/new${rest}"}, b"A.test:80", b"/new/x?q=1"),
        ({"path": "${rest}", "query": "p=${path}&${query}"}, b"A.test:80", b"/x?p=/old/x&q=1"),
        ({"host": "inner.test"}, b"inner.test", b"/old/x?q=1"),
        ({"host": "${host}.inner", "query": ""}, b"a.test.inner", b"/old/x"),
    ],
)
def test_rewriting(asked: dict[str, str], host: bytes, target: bytes) -> None:
    rewrite = Rewrite(model.Rewrite(**asked), "/old/")
    assert rewrite.apply(b"A.test:80", b"/old/x?q=1") == (host, target)


def test_an_asterisk_stays() -> None:
    assert Rewrite(model.Rewrite("b", "/x"), "/").apply(b"a", b"*") == (b"b", b"*")


def test_changes() -> None:
    assert Changes.of([]) is None
    changes = Changes.of([
        model.HeaderChange("X-A", value="1"), model.HeaderChange("X-A", HeaderAction.ADD, "2"),
        model.HeaderChange("X-B", HeaderAction.REMOVE), model.HeaderChange("X-C", HeaderAction.ADD),
    ])  # fmt: skip
    assert changes == Changes(frozenset((b"x-a", b"x-b")), b"X-A: 1\r\nX-A: 2\r\nX-C: \r\n")


def test_what_changes_is_never_what_we_act_on() -> None:
    """Else a change would not reach it, or what we say would stand there twice."""
    acted_on = {name.decode() for name in ACTED_ON} - {"strict-transport-security"}
    assert {name for name in acted_on if not name.startswith(OURS_BEGIN)} <= OURS


def test_templates() -> None:
    assert Template("/a").fill({}) == b"/a"
    assert Template("${a}b${a}${c}").fill({b"a": b"1", b"c": b"2"}) == b"1b12"


def test_replies() -> None:
    reply = Reply(model.FixedReply(503, "text/html", "<p>später"))
    assert (reply.status, reply.body) == (503, "<p>später".encode())
    assert reply.lines == b"Content-Type: text/html\r\nContent-Length: 10\r\n"
    assert Reply(model.FixedReply(204)).lines == b""
    assert Reply(model.FixedReply(204), Changes(frozenset((b"a",)), b"A: 1\r\n")).lines == b"A: 1\r\n"
    assert Reply(model.FixedReply(404)).lines == b"Content-Length: 0\r\n"
