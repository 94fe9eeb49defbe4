"""Where clients are sent, and what is answered without a server."""

from __future__ import annotations

import pytest

from core import model
from proxy.actions import Redirect, Reply, Template


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


def test_templates() -> None:
    assert Template("/a").fill({}) == b"/a"
    assert Template("${a}b${a}${c}").fill({b"a": b"1", b"c": b"2"}) == b"1b12"


def test_replies() -> None:
    reply = Reply(model.FixedReply(503, "text/html", "<p>später"))
    assert (reply.status, reply.body) == (503, "<p>später".encode())
    assert reply.lines == b"Content-Type: text/html\r\nContent-Length: 10\r\n"
    assert Reply(model.FixedReply(204)).lines == b""
    assert Reply(model.FixedReply(404)).lines == b"Content-Length: 0\r\n"
