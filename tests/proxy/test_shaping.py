"""Limits of requests end to end: clients, workers, servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from core.model import AccessList, Acl, RateLimit, Rule
from tests.proxy.processes import keep, running
from tests.proxy.support import Backend, Client, Proxy, Request, free_port, model, proxy, with_options
from tests.waiting import until


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


async def test_bodies_are_measured_on_the_fast_lane_and_off_it() -> None:
    """Also where they do not say how long they are, and where the answer is not waited for."""
    async with Backend().running() as backend:
        rules = [Rule("up", "web", "app", url="/up", max_body_bytes=100_000)]
        base = with_options(model(free_port(), [backend.port], rules=rules), max_body_bytes=200, max_head_bytes=2000)
        async with proxy(base) as l7:
            client = await l7.connect()
            for size, path, status in ((10, "/", 200), (200, "/", 200), (201, "/up", 200), (90_000, "/up", 200)):
                assert (await client.ask(path, body=bytes(size), method="POST"))[0] == status
            assert (await client.ask("/", fields=b"X: %b\r\n" % bytes(b"x" * 1900)))[0] == 200
            visits = [each for each in l7.records if each.status == 200]
            assert len(visits) == 5
            assert (await client.ask("/", body=bytes(201), method="POST"))[0] == 413
            assert await client.rest() == b""
            chunked = await l7.connect()
            chunked.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunked.writer.write(b"c8\r\n%b\r\n1\r\nx\r\n" % bytes(200))
            assert (await chunked.answer())[0] == 413
            long = await l7.connect()
            assert (await long.ask("/", fields=b"X: %b\r\n" % bytes(b"x" * 2000)))[0] == 431
            for each in (client, chunked, long):
                await each.close()


async def test_workers_count_requests_at_a_time_together(identity: Path) -> None:
    gate = asyncio.Event()

    async def wait(request: Request) -> None:
        await gate.wait()
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with Backend(wait).running() as backend:
        port = free_port()
        keep(identity, with_options(model(port, [backend.port], request_timeout_s=60), max_requests=5))
        async with running(identity, port, "--workers", "2"):
            clients = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(12)]
            answers = []
            for number, client in enumerate(clients, 1):
                answers.append(asyncio.create_task(client.ask()))
                refused = number - 5
                await until(
                    lambda number=number, refused=refused: (
                        len(backend.heads) >= min(number, 5) and sum(each.done() for each in answers) >= refused
                    )
                )
            gate.set()
            assert sorted([(await answer)[0] for answer in answers]) == [200] * 5 + [503] * 7
            assert (await clients[0].ask())[0] == 200
            for client in clients:
                await client.close()


async def test_a_rules_list_refuses_and_another_admits_without_a_new_connection() -> None:
    lists = {"some": AccessList("some", ("127.0.0.0/8",))}
    async with Backend().running() as backend:
        white = Rule("in", "web", "app", url="/in", acl=Acl.WHITE, access_list="some")
        black = Rule("out", "web", "app", url="/out", acl=Acl.BLACK, access_list="some")
        base = replace(model(free_port(), [backend.port], rules=[white, black]), access_lists=lists)
        async with proxy(base) as l7:
            client = await l7.connect()
            assert [(await client.ask(path))[0] for path in ("/", "/in", "/out", "/in")] == [200, 200, 403, 200]
            await l7.worker.apply(replace(base, access_lists={"some": AccessList("some", ("192.0.2.0/24",))}))
            assert [(await client.ask(path))[0] for path in ("/", "/in", "/out")] == [200, 403, 200]
            assert (await l7.record(7)).way.rule == "out"
            await client.close()
