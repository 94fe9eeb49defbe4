"""Which connections a node has, by worker and together."""

from __future__ import annotations

import asyncio

import pytest

from proxy import census
from proxy.census import Count, Filter
from tests.proxy.support import WEBSOCKET, Backend, Request, free_port, model, open_websocket, proxy
from tests.waiting import until


def row(listener: str, *numbers: int, oldest_s: float = 0.0) -> Count:
    connections, requests, tunnels = numbers
    return Count(listener=listener, connections=connections, requests=requests, tunnels=tunnels, oldest_s=oldest_s)


def test_workers_add_up() -> None:
    answers = [[row("web", 3, 1, 1, oldest_s=7.0), row("api", 1, 0, 0)], [row("web", 2, 1, 0, oldest_s=9.0)], []]
    assert census.together(answers) == [row("api", 1, 0, 0), row("web", 5, 2, 1, oldest_s=9.0)]
    assert census.together([]) == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"limit": 0}, "limit 0: give 1 to 10000"),
        ({"limit": "9"}, "limit '9': give 1 to 10000"),
        ({"limit": 10_001}, "limit 10001: give 1 to 10000"),
        ({"activity": "asleep"}, "'asleep' is no activity; there are idle, head, request, tunnel, streams, closing"),
        ({"client": "10.0.0.1/8"}, "10.0.0.1/8 has host bits set; give an address or a network, as 192.0.2.0/24"),
    ],
)
def test_what_no_connection_can_be_is_refused(arguments: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Filter.of(arguments)


async def test_a_worker_tells_of_its_connections() -> None:
    answering = asyncio.Event()

    async def answer(request: Request) -> None:
        if request.path == "/chat":
            request.writer.write(WEBSOCKET)
            await request.reader.read()
        else:
            await answering.wait()
            request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with Backend(answer).running() as backend, proxy(model(free_port(), [backend.port])) as l7:
        tunnel = await open_websocket(l7.port, "/chat")
        busy, idle, half = [await l7.connect() for _ in range(3)]
        busy.writer.write(b"GET /slow HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: 42\r\n\r\n")
        half.writer.write(b"GET / HT")

        def views(**wanted: object) -> list[census.View]:
            return l7.worker.answer({"ask": "views", **wanted})  # type: ignore[return-value]

        def activities() -> list[str]:
            return sorted(view["activity"] for view in views())

        await until(
            lambda: (
                activities() == ["head", "idle", "request", "tunnel"] and bool(views(activity="request")[0]["server"])
            )
        )
        (count,) = l7.worker.answer({"ask": "count"})  # type: ignore[misc]
        assert count | {"oldest_s": 0} == row("web", 4, 1, 1)
        (request,) = views(activity="request")
        assert {key: request[key] for key in ("method", "host", "path", "request_id")} == {  # type: ignore[literal-required]
            "method": "GET", "host": "a.test", "path": "/slow", "request_id": "42",
        }  # fmt: skip
        assert (request["server"], request["client"]) == (f"127.0.0.1:{backend.port}", "127.0.0.1")
        assert len(views(client="127.0.0.0/8")) == 4
        assert views(client="10.0.0.0/8") == views(listener="api") == []
        assert [view["activity"] for view in views(limit=1)] == ["tunnel"]  # the oldest
        answering.set()
        assert (await busy.answer())[0] == 200
        assert activities() == ["head", "idle", "idle", "tunnel"]
        for client in (tunnel, busy, idle, half):
            await client.close()
        await until(lambda: not views())
