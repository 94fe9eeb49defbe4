"""Limits of requests end to end: clients, workers, servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from core.model import RateLimit, Rule
from tests.proxy.processes import keep, running
from tests.proxy.support import Backend, Client, Proxy, free_port, model, proxy, with_options


@pytest.mark.parametrize("path", ["/", "/api"])
async def test_requests_beyond_a_limit_are_refused_on_a_connection_that_goes_on(path: str) -> None:
    """`/` by the listener's limit, `/api` by the rule's, which is narrower."""
    async with Backend().running() as backend:
        rules = [Rule("api", "web", "app", url="/api", rate_limits=(RateLimit(0.01, burst=2),))]
        base = with_options(model(free_port(), [backend.port], rules=rules), rate_limits=(RateLimit(0.01, burst=3),))
        async with proxy(base) as l7:
            client = await l7.connect()
            got = [(await client.ask(path))[0] for _ in range(5)]
            assert got == ([200, 200, 200, 429, 429] if path == "/" else [200, 200, 429, 429, 429])
            assert len(backend.heads) == got.count(200)
            record = await l7.record(5)
            assert (record.status, record.error_code, record.error_source) == (429, "rate_limited", "client")
            await l7.worker.apply(model(base.listeners["web"].port, [backend.port]))
            assert (await client.ask(path))[0] == 200  # the limit is gone, also for who is here
            await client.close()


def limited(backend: Backend, limit: RateLimit) -> AbstractAsyncContextManager[Proxy]:
    return proxy(with_options(model(free_port(), [backend.port]), rate_limits=(limit,)))


async def test_a_request_waits_for_its_turn_and_what_is_sent_ahead_behind_it() -> None:
    limit = RateLimit(5, burst=1, max_delay_s=30)
    async with Backend().running() as backend, limited(backend, limit) as l7:
        client, loop = await l7.connect(), asyncio.get_running_loop()
        began = loop.time()
        client.writer.write(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab" * 3)
        assert [(await client.answer())[0] for _ in range(3)] == [200] * 3
        assert loop.time() - began >= 0.4
        assert l7.hub.counters["delayed_requests"] == 2
        await client.close()


async def test_workers_count_requests_together(identity: Path) -> None:
    """All, and those of each key: connections come to either worker."""
    async with Backend().running() as backend:
        port = free_port()
        limits = RateLimit(0.01, burst=12), RateLimit(0.01, burst=4, key="header:X-User")
        keep(identity, with_options(model(port, [backend.port]), rate_limits=limits))
        async with running(identity, port, "--workers", "2"):
            got: Counter[tuple[bytes, int]] = Counter()
            for number in range(24):
                user = b"ab"[number % 2 : number % 2 + 1]
                client = Client(*await asyncio.open_connection("127.0.0.1", port))
                got[user, (await client.ask(fields=b"X-User: %b\r\n" % user))[0]] += 1
                await client.close()
            assert got == {(b"a", 200): 4, (b"b", 200): 4, (b"a", 429): 8, (b"b", 429): 8}
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            assert [(await client.ask())[0] for _ in range(6)] == [200] * 4 + [429] * 2
            await client.close()
