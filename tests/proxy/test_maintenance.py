"""Maintenance: all get the page but testers, who get in by their address, a field or a cookie."""

from __future__ import annotations

import json

import pytest

from core.model import Condition, ErrorPage, Maintenance, Rule
from proxy.head import read_request
from proxy.maintenance import Closed
from tests.proxy.support import Backend, Client, free_port, model, proxy, with_options

CLOSED = Maintenance(
    clients=("192.0.2.0/24", "2001:db8::1"),
    headers=(Condition("X-Tester", ("yes", "sure*")),),
    cookies=(Condition("tester"),),
    body="<h1>Closed</h1>${request_id}",
)


@pytest.mark.parametrize(
    ("fields", "client", "admitted"),
    [
        (b"", b"198.51.100.1", False),
        (b"", b"192.0.2.255", True),
        (b"", b"2001:db8::1", True),
        (b"", b"2001:db8::2", False),
        (b"", b"unknown", False),
        (b"X-Tester: yes\r\n", b"198.51.100.1", True),
        (b"X-Tester: surely\r\n", b"198.51.100.1", True),
        (b"X-Tester: no\r\n", b"198.51.100.1", False),
        (b"Cookie: a=b; tester=\r\n", b"198.51.100.1", True),
        (b"Cookie: testers=1\r\n", b"198.51.100.1", False),
    ],
    ids=str,
)
def test_who_gets_in(fields: bytes, client: bytes, admitted: bool) -> None:
    head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    closed, whole = Closed.of(CLOSED), Closed.of(Maintenance())
    assert head is not None
    assert closed is not None
    assert whole is not None
    assert closed.admits(head, b"/", client) is admitted
    assert not whole.admits(head, b"/", client)


def test_what_is_not_enabled_is_open() -> None:
    assert Closed.of(None) is None
    assert Closed.of(Maintenance(enabled=False)) is None


async def get(client: Client, path: str, fields: bytes = b"") -> tuple[int, bytes, bytes]:
    client.writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n".encode() + fields + b"\r\n")
    return await client.whole_answer()


async def test_a_listener_closes_and_opens_under_a_connection() -> None:
    """A rule that is not enabled stays open; one with its own has its own; nothing reaches the server."""
    rules = [
        Rule("status", "web", "app", url="/status", maintenance=Maintenance(enabled=False)),
        Rule("api", "web", "app", url="/api", maintenance=Maintenance(retry_after_s=0)),
    ]
    async with Backend().running() as backend:
        opened = model(free_port(), [backend.port], rules=rules)
        async with proxy(opened) as l7:
            client = await l7.connect()
            assert (await get(client, "/"))[0] == 200
            await l7.worker.apply(with_options(opened, maintenance=CLOSED))
            status, head, body = await get(client, "/", b"X-Request-Id: mine\r\n")
            assert (status, body) == (503, b"<h1>Closed</h1>mine")
            assert b"\r\nRetry-After: 300\r\n" in head
            assert b"\r\nContent-Type: text/html; charset=utf-8\r\n" in head
            assert (await get(client, "/", b"Cookie: tester=1\r\n"))[0] == 200
            assert (await get(client, "/status"))[0] == 200
            assert json.loads((await get(client, "/", b"Accept: application/json\r\n"))[2])["error"] == "maintenance"
            assert len(backend.heads) == 3
            record = await l7.record(5)
            assert (record.status, record.error_code, record.error_source) == (503, "maintenance", "proxy")
            await l7.worker.apply(opened)
            assert (await get(client, "/"))[0] == 200
            status, head, _ = await get(client, "/api")
            assert status == 503
            assert b"Retry-After" not in head
            await client.close()


async def test_without_a_page_that_for_503_is_used() -> None:
    async with Backend().running() as backend:
        base = with_options(
            model(free_port(), [backend.port]), maintenance=Maintenance(), error_pages=(ErrorPage("5xx", body="sorry"),)
        )
        async with proxy(base) as l7:
            assert await l7.get() == (503, b"sorry")
            assert backend.heads == []
