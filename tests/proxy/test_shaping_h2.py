"""Limits and copies of requests that come by HTTP/2: each stream is a request like any other."""

from __future__ import annotations

import asyncio

from core.model import Mirror, RateLimit, Rule
from tests.proxy.h2_support import h2, with_fields
from tests.proxy.support import Backend, Request, free_port, model, proxy, with_group, with_options, with_service
from tests.waiting import until

PRIOR = {"http2_prior_knowledge": True}


async def test_streams_beyond_a_limit_are_refused_or_wait() -> None:
    rules = [Rule("slow", "web", "app", url="/slow", rate_limits=(RateLimit(5, burst=1, max_delay_s=20),))]
    async with Backend().running() as backend:
        base = model(free_port(), [backend.port], rules=rules)
        limits = (RateLimit(0.01, burst=6),)
        async with proxy(with_options(base, rate_limits=limits, **PRIOR)) as l7, h2(l7) as client:
            began = asyncio.get_running_loop().time()
            streams = [client.ask(with_fields((b":path", b"/slow"))) for _ in range(3)]
            assert [(await client.answer(stream)).status for stream in streams] == [200] * 3
            assert asyncio.get_running_loop().time() - began >= 0.35
            answers = [await client.answer(client.ask()) for _ in range(5)]
            assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
            assert int(answers[-1].fields[b"retry-after"]) >= 1


async def test_streams_are_counted_while_they_go_on_and_bodies_as_they_come() -> None:
    gate = asyncio.Event()

    async def wait(request: Request) -> None:
        await request.body()
        await gate.wait()
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with Backend(wait).running() as backend:
        base = with_options(model(free_port(), [backend.port]), max_requests=2, max_body_bytes=100, **PRIOR)
        async with proxy(base) as l7, h2(l7) as client:
            first, second = client.ask(), client.ask()
            await until(lambda: len(backend.heads) == 2)
            assert (await client.answer(client.ask())).status == 503
            client.reset(first)
            await until(lambda: len(l7.records) == 2)
            long = client.ask(with_fields((b":method", b"POST")), ended=False)
            client.data(long, bytes(101), ended=True)
            assert (await client.answer(long)).status == 413
            gate.set()
            assert (await client.answer(second)).status == 200
            assert (await client.answer(client.ask())).status == 200


async def test_streams_are_copied() -> None:
    bodies: list[bytes] = []

    async def keep(request: Request) -> None:
        bodies.append(await request.body())
        request.writer.write(b"HTTP/1.1 204 No\r\n\r\n")

    async with Backend().running() as backend, Backend(keep).running() as shadow:
        rules = [Rule("r", "web", "app", mirror=Mirror("shadow"))]
        base = with_group(model(free_port(), [backend.port], rules=rules), "shadow", [shadow.port])
        base = with_service(base, "shadow", server_group="shadow")
        async with proxy(with_options(base, **PRIOR)) as l7, h2(l7) as client:
            fields = with_fields((b":method", b"POST"), (b"content-length", b"4"))
            assert (await client.get(*fields, body=b"some")).status == 200
            assert (await client.get()).status == 200
            await until(lambda: sorted(bodies) == [b"", b"some"])
            assert all(b"\r\nX-Mirrored: 1\r\n" in head for head in shadow.heads)
