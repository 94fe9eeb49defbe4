"""Copies of requests: what is copied, what the copy says, and that the original never notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from core.model import HeaderChange, Mirror, Rewrite, Rule
from proxy import copies
from proxy.demands import Mirroring
from tests.proxy.support import (
    ANSWER,
    Backend,
    Proxy,
    Request,
    free_port,
    model,
    open_websocket,
    proxy,
    with_group,
    with_service,
)
from tests.waiting import until


@dataclass
class Both:
    """A proxy, its server, and the one that gets copies, of which the bodies are kept."""

    l7: Proxy
    server: Backend
    shadow: Backend
    bodies: list[bytes]


@asynccontextmanager
async def mirrored(mirror: Mirror, answer: Any = None, **rule: Any) -> AsyncIterator[Both]:
    bodies: list[bytes] = []

    async def keep(request: Request) -> None:
        if b"Transfer-Encoding: chunked" in request.head:
            body = b""
            while size := int(await request.reader.readuntil(b"\r\n"), 16):
                body += (await request.reader.readexactly(size + 2))[:-2]
            await request.reader.readexactly(2)
        else:
            body = await request.body()
        bodies.append(body)
        await (answer or answer_plainly)(request)

    async with Backend().running() as server, Backend(keep).running() as shadow:
        made = Rule("r", "web", "app", mirror=mirror, **rule)
        base = with_group(model(free_port(), [server.port], rules=[made]), "shadow", [shadow.port])
        base = with_service(base, "shadow", server_group="shadow", health_check=None, connect_timeout_s=0.5)
        async with proxy(base) as l7:
            yield Both(l7, server, shadow, bodies)


async def answer_plainly(request: Request) -> None:
    request.writer.write(ANSWER)


async def test_a_copy_is_what_the_server_gets_with_a_mark() -> None:
    rule = {
        "rewrite": Rewrite(host="inner.example", path="/x${path}"),
        "request_headers": (HeaderChange("X-Set", value="1"),),
    }
    async with mirrored(Mirror("shadow"), **rule) as both:
        client = await both.l7.connect()
        for body in (b"", b"some", bytes(30_000)):
            assert (await client.ask("/a?b", b"X-Mirrored: no\r\nA: b\r\n", body, "POST"))[0] == 200
        client.writer.write(b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n")
        client.writer.write(b"0\r\n\r\n")
        await until(lambda: len(both.bodies) == 4)
        assert both.bodies == [b"", b"some", bytes(30_000), b"abcde"]
        for copy, original in zip(both.shadow.heads[:3], both.server.heads, strict=False):
            assert copy.startswith(b"POST /x/a?b HTTP/1.1\r\nHost: inner.example\r\n")
            assert b"\r\nX-Mirrored: 1\r\n" in copy
            assert b"X-Mirrored: no" not in copy
            gone = original.replace(b"X-Mirrored: no\r\n", b"")
            assert sorted(copy.replace(b"X-Mirrored: 1\r\n", b"").split(b"\r\n")) == sorted(gone.split(b"\r\n"))
        await until(lambda: both.shadow.connections == 1)  # they take turns on one
        assert both.l7.hub.counters["mirrored_requests"] == 4
        assert both.l7.hub.counters["mirrors_failed"] == 0
        await client.close()


@pytest.mark.parametrize("percent", [0.5, 10, 33.3, 50, 100])
def test_a_percentage_is_met_exactly_and_evenly(percent: float) -> None:
    mirroring = Mirroring(Mirror("shadow", percent))
    turns = [index for index in range(10_000) if mirroring.next()]
    assert abs(len(turns) - percent * 100) <= 1
    gaps = {later - earlier for earlier, later in pairwise(turns)}
    assert max(gaps) - min(gaps) <= 1


async def test_a_body_that_is_too_long_is_not_copied() -> None:
    async with mirrored(Mirror("shadow", max_body_bytes=1000)) as both:
        client = await both.l7.connect()
        for size in (1001, 50_000, 1000):
            assert (await client.ask("/", body=bytes(size), method="POST"))[0] == 200
        await until(lambda: len(both.bodies) == 1)
        assert both.bodies == [bytes(1000)]
        assert both.l7.hub.counters["mirrors_dropped"] == 2
        await client.close()


async def never(request: Request) -> None:
    await asyncio.Event().wait()


async def fail(request: Request) -> None:
    request.writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")


async def nonsense(request: Request) -> None:
    request.writer.write(b"what?\r\n\r\n")


async def hang_up(request: Request) -> None:
    request.writer.close()


@pytest.mark.parametrize("answer", [fail, nonsense, hang_up])
async def test_whatever_becomes_of_a_copy_the_original_is_answered(answer: Any) -> None:
    async with mirrored(Mirror("shadow"), answer) as both:
        client = await both.l7.connect()
        for _ in range(5):
            assert (await client.ask("/", body=b"x", method="POST"))[0] == 200
        await until(lambda: both.l7.hub.counters["mirrors_failed"] == 5)
        assert {record.status for record in both.l7.records} == {200}
        assert len(both.l7.records) == 5  # copies have no line of their own
        await client.close()


async def test_copies_that_are_not_answered_are_bounded_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "TAKES_S", 0.5)
    async with mirrored(Mirror("shadow"), never) as both:
        both.l7.hub.mirror = copies.Copies(both.l7.hub, most=3).send
        client = await both.l7.connect()
        for _ in range(10):
            assert (await client.ask())[0] == 200
        assert both.l7.hub.counters["mirrored_requests"] == 3
        assert both.l7.hub.counters["mirrors_dropped"] == 7
        await until(lambda: both.l7.hub.counters["mirrors_failed"] == 3)
        assert (await client.ask())[0] == 200
        assert both.l7.hub.counters["mirrored_requests"] == 4
        await client.close()


async def test_a_service_without_servers_and_websockets_are_no_trouble() -> None:
    async with mirrored(Mirror("shadow"), url="/") as both:
        both.l7.worker.set_down({"shadow": [("127.0.0.1", both.shadow.port)]})
        assert (await both.l7.get())[0] == 200

        async def upgrade(request: Request) -> None:
            request.writer.write(
                b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
            )
            await asyncio.Event().wait()

        both.server.answer = upgrade
        before = both.l7.hub.counters["mirrored_requests"]
        client = await open_websocket(both.l7.port, "/")
        assert both.l7.hub.counters["mirrored_requests"] == before
        await client.close()
