"""How long a request may take, and how many may be with a server at once: a real worker, and servers that take time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.model import Model, Rule
from tests.proxy.support import ANSWER, Backend, Client, Request, free_port, model, proxy, with_group, with_service
from tests.proxy.test_conn import reset
from tests.waiting import until


async def never(request: Request) -> None:
    await asyncio.Event().wait()


async def stop_in_the_middle(request: Request) -> None:
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    await request.writer.drain()
    await asyncio.Event().wait()


async def drip(request: Request) -> None:
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        request.writer.write(b".")
        await request.writer.drain()
        await asyncio.sleep(0.05)


TIMEOUTS: list[tuple[str, dict[str, float], Callable[[Request], Awaitable[None]], int, str]] = [
    ("first byte", {"first_byte_timeout_s": 0.3}, never, 504, "upstream_timeout"),
    ("idle", {"first_byte_timeout_s": 50, "idle_timeout_s": 0.3}, stop_in_the_middle, 200, "upstream_cut"),
    ("total, silent", {"total_timeout_s": 0.3}, never, 504, "total_timeout"),
    ("total, answering", {"total_timeout_s": 0.5}, drip, 200, "total_timeout"),
]  # fmt: skip


@pytest.mark.parametrize(("times", "answer", "status", "code"), [t[1:] for t in TIMEOUTS], ids=[t[0] for t in TIMEOUTS])
async def test_timeouts_of_a_service(times: dict[str, Any], answer: Any, status: int, code: str) -> None:
    async with Backend(answer).running() as backend:
        base = model(free_port(), [backend.port], request_timeout_s=60)
        async with proxy(with_service(base, **times)) as l7:
            client = await l7.connect()
            client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            begun = asyncio.get_running_loop().time()
            record = await l7.record()
            assert (record.status, record.error_code) == (status, code)
            assert asyncio.get_running_loop().time() - begun >= 0.25
            await client.close()


async def test_a_time_for_the_whole_is_each_requests_own_and_no_websockets() -> None:
    async def answer(request: Request) -> None:
        if b"Upgrade: websocket" in request.head:
            request.writer.write(
                b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
            )
            while data := await request.reader.read(100):
                request.writer.write(data)
        else:
            await asyncio.sleep(0.4)
            request.writer.write(ANSWER)

    async with Backend(answer).running() as backend:
        base = with_service(model(free_port(), [backend.port]), total_timeout_s=0.9)
        async with proxy(base) as l7:
            client = await l7.connect()
            assert [(await client.ask())[0] for _ in range(4)] == [200] * 4
            client.writer.write(
                b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            await client.reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(1.5)  # longer than the whole may take
            client.writer.write(b"still here")
            assert await client.reader.readexactly(10) == b"still here"
            await client.close()


# -- limits


class Gate:
    """A server that answers one request whenever it is told to, and knows how many it had at once."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.paths: list[str] = []
        self._go = asyncio.Semaphore(0)
        self.backend = Backend(self._answer)

    async def _answer(self, request: Request) -> None:
        self.paths.append(request.path)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self._go.acquire()
        finally:
            self.inside -= 1
        request.writer.write(ANSWER)

    def let_go(self, count: int = 1) -> None:
        for _ in range(count):
            self._go.release()


def limited(port: int, servers: list[int], **limits: Any) -> Model:
    return with_service(model(port, servers, request_timeout_s=60), **{"server_max_connections": 1, **limits})


async def ask(client: Client, path: str) -> asyncio.Task[tuple[int, bytes]]:
    return asyncio.create_task(client.ask(path))


async def test_requests_wait_for_a_server_and_go_in_their_order() -> None:
    gate = Gate()
    async with gate.backend.running() as backend, proxy(limited(free_port(), [backend.port])) as l7:
        clients = [await l7.connect() for _ in range(5)]
        asked = []
        for number, client in enumerate(clients):
            asked.append(await ask(client, f"/{number}"))
            await until(lambda want=number: l7.hub.services["app"].pool.waiting == want)  # type: ignore[misc]
        for _ in clients:
            await until(lambda: gate.inside == 1)
            gate.let_go()
            await until(lambda: gate.inside == 0 or len(gate.paths) > 1)
        assert [await each for each in asked] == [(200, b"ok")] * 5
        assert gate.paths == ["/0", "/1", "/2", "/3", "/4"]
        assert gate.most == backend.connections == 1
        assert l7.hub.counters["queued_requests"] == 4
        for client in clients:
            await client.close()


async def test_a_full_queue_is_503_at_once_and_waiting_in_vain_later() -> None:
    gate = Gate()
    limits = {"server_max_queue": 1, "queue_timeout_s": 0.3}
    async with gate.backend.running() as backend, proxy(limited(free_port(), [backend.port], **limits)) as l7:
        first, second, third = [await l7.connect() for _ in range(3)]
        served = await ask(first, "/first")
        await until(lambda: gate.inside == 1)
        waits = await ask(second, "/second")
        await until(lambda: l7.hub.services["app"].pool.waiting == 1)
        assert (await third.ask("/third"))[0] == 503
        assert (await l7.record(1)).error_code == "queue_full"
        assert (await waits)[0] == 503
        assert (await l7.record(2)).error_code == "queue_timeout"
        gate.let_go(2)
        assert await served == (200, b"ok")
        assert await second.ask("/again") == (200, b"ok")
        for client in (first, second, third):
            await client.close()


async def test_who_leaves_the_queue_is_not_served() -> None:
    gate = Gate()
    async with gate.backend.running() as backend, proxy(limited(free_port(), [backend.port])) as l7:
        first, second, third = [await l7.connect() for _ in range(3)]
        asked = [await ask(first, "/first")]
        await until(lambda: gate.inside == 1)
        second.writer.write(b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: l7.hub.services["app"].pool.waiting == 1)
        asked.append(await ask(third, "/third"))
        await until(lambda: l7.hub.services["app"].pool.waiting == 2)
        reset(second)
        await until(lambda: l7.hub.services["app"].pool.waiting == 1)
        gate.let_go(2)
        assert [await each for each in asked] == [(200, b"ok")] * 2
        assert gate.paths == ["/first", "/third"]
        for client in (first, third):
            await client.close()


@pytest.mark.parametrize("how", ["unhealthy", "removed", "more room", "service removed"])
async def test_a_change_is_noticed_by_those_who_wait(how: str) -> None:
    gate = Gate()
    async with gate.backend.running() as backend, Backend().running() as spare:
        base = with_group(limited(free_port(), [backend.port]), "spare", [spare.port])
        base = with_service(base, "spare", server_group="spare")
        base = with_service(base, fallback="spare")
        async with proxy(base) as l7:
            first, second = [await l7.connect() for _ in range(2)]
            served = await ask(first, "/first")
            await until(lambda: gate.inside == 1)
            waits = await ask(second, "/second")
            await until(lambda: l7.hub.services["app"].pool.waiting == 1)
            if how == "unhealthy":
                l7.worker.set_down({"app": [("127.0.0.1", backend.port)]})
            elif how == "removed":
                await l7.worker.apply(with_group(base, "app", []))
            elif how == "more room":
                await l7.worker.apply(with_service(base, server_max_connections=2))
                await until(lambda: gate.inside == 2)
            else:
                services = {name: each for name, each in base.backend_services.items() if name != "app"}
                services["other"] = services["spare"]
                await l7.worker.apply(Model(instances=base.instances, server_groups=base.server_groups,
                                            listeners=base.listeners, backend_services=services))  # fmt: skip
            if how != "more room":
                assert await waits == (200, b"ok")
                assert spare.heads
            gate.let_go(2)
            assert await served == (200, b"ok")
            assert (await waits)[0] == 200
            for client in (first, second):
                await client.close()


async def test_a_drain_ends_those_who_wait() -> None:
    gate = Gate()
    async with gate.backend.running() as backend, proxy(limited(free_port(), [backend.port])) as l7:
        first, second = [await l7.connect() for _ in range(2)]
        served = await ask(first, "/first")
        await until(lambda: gate.inside == 1)
        waits = await ask(second, "/second")
        await until(lambda: l7.hub.services["app"].pool.waiting == 1)
        await l7.worker.drain(0.1, 0)
        assert [(await each)[0] for each in (served, waits)] == [503, 503]
        assert l7.hub.services["app"].pool.waiting == 0
        for client in (first, second):
            await client.close()


async def test_in_a_queue_that_never_empties_the_newest_go_first() -> None:
    """One is with the server for longer than ten targets; three wait, one of which may be shed, another comes last."""
    gate = asyncio.Event()
    served: list[str] = []

    async def answer(request: Request) -> None:
        served.append(request.path)
        await gate.wait()
        request.writer.write(ANSWER)

    rules = [Rule("batch", "web", "app", url="/batch", shed_first=True)]
    async with Backend(answer).running() as backend:
        base = model(free_port(), [backend.port], request_timeout_s=60, rules=rules)
        async with proxy(with_service(base, server_max_connections=1, queue_target_s=0.05)) as l7:
            now = asyncio.get_running_loop().time
            asked = {}

            async def ask(path: str) -> None:
                client = await l7.connect()
                asked[path] = asyncio.create_task(client.ask(path))
                clients.append(client)

            clients: list[Client] = []
            await ask("/first")
            await until(lambda: served == ["/first"])
            for number, path in enumerate(("/old", "/older", "/batch/1"), 1):
                await ask(path)
                await until(lambda number=number: l7.hub.counters["queued_requests"] == number)  # type: ignore[misc]
            begun = now()
            await until(lambda: now() - begun > 0.55)
            await ask("/new")
            await until(lambda: l7.hub.counters["queued_requests"] == 4)
            await ask("/batch/2")
            assert (await asyncio.wait_for(asked["/batch/2"], 20))[0] == 503
            gate.set()
            statuses = {path: (await asyncio.wait_for(task, 20))[0] for path, task in asked.items()}
            assert statuses == {
                "/first": 200, "/old": 503, "/older": 503, "/batch/1": 503, "/new": 200, "/batch/2": 503,
            }  # fmt: skip
            assert served == ["/first", "/new"]
            assert {each.error_code for each in l7.records if each.status == 503} == {"shed"}
            for client in clients:
                await client.close()


async def test_who_is_refused_for_a_full_queue_is_told_to_come_again() -> None:
    async with Backend(never).running() as backend:
        base = model(free_port(), [backend.port], request_timeout_s=60)
        async with proxy(with_service(base, server_max_connections=1, server_max_queue=0)) as l7:
            first, second = await l7.connect(), await l7.connect()
            first.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: bool(backend.heads))
            second.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            status, head, _ = await second.whole_answer()
            assert (status, b"\r\nRetry-After: 1\r\n" in head) == (503, True)
            await first.close()
            await second.close()
