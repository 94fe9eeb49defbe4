"""Scrapes over real sockets: the right one, the wrong ones, and those that would hold the process up."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Iterator

import pytest

from control.node.metrics import CONTENT_TYPE, Family, gauge, only
from control.node.metrics_server import HEAD_LIMIT_BYTES, MetricsError, MetricsServer, listen

TEXT = "# HELP up Whether.\n# TYPE up gauge\nup 1\n"
GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"


def families() -> list[Family]:
    return [gauge("up", "Whether.", only(1))]


async def started(server: MetricsServer) -> tuple[asyncio.Server, int]:
    listening = await server.serve(listen("127.0.0.1", 0))
    return listening, int(listening.sockets[0].getsockname()[1])


async def exchange(port: int, data: bytes) -> bytes:
    """What the server answers until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        return await asyncio.wait_for(reader.read(-1), 5)
    finally:
        writer.close()
        await writer.wait_closed()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.fixture
async def port():  # type: ignore[no-untyped-def]
    listening, port = await started(MetricsServer(families))
    yield port
    listening.close()
    await listening.wait_closed()


async def test_a_scrape(port: int) -> None:
    def scrape() -> tuple[int, str | None, str | None, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/metrics?x=1")
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, answer.getheader("Content-Type"), answer.getheader("Connection"), text

    assert await asyncio.to_thread(scrape) == (200, CONTENT_TYPE, "close", TEXT)


async def test_http_1_0_has_no_chunks(port: int) -> None:
    answer = await exchange(port, b"GET /metrics HTTP/1.0\r\n\r\n")
    assert status(answer) == 200
    assert answer.endswith(b"\r\n\r\n" + TEXT.encode())


async def test_byte_by_byte(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for byte in GET:
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    assert status(await asyncio.wait_for(reader.read(-1), 5)) == 200
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("request_", "expected", "within"),
    [
        (b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200, CONTENT_TYPE.encode()),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 404, b"Content-Length: 24"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404, b"metrics are at /metrics\n"),
        (b"GET /metricsx HTTP/1.1\r\nHost: a\r\n\r\n", 404, b""),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405, b"Allow: GET, HEAD"),
        (b"nonsense\r\n\r\n", 400, b"not a request"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400, b""),
        (b"GET /" + b"a" * 2 * HEAD_LIMIT_BYTES, 431, b""),
    ],
)
async def test_answers(port: int, request_: bytes, expected: int, within: bytes) -> None:
    answer = await exchange(port, request_)
    assert status(answer) == expected
    assert within in answer
    assert request_[:4] != b"HEAD" or answer.endswith(b"\r\n\r\n")


async def test_who_says_nothing_is_left() -> None:
    listening, port = await started(MetricsServer(families, head_s=0.05))
    assert await exchange(port, b"GET /metrics HTTP/1.1\r\n") == b""
    listening.close()


async def test_who_does_not_read_is_left() -> None:
    ended = asyncio.Event()

    def endless() -> Iterator[Family]:
        try:
            while True:
                yield Family("p", "gauge", "Help.", (((str(n),), n) for n in range(1000)), ("n",))
        finally:
            ended.set()

    listening, port = await started(MetricsServer(endless, exchange_s=0.3))
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(GET)
        await asyncio.wait_for(ended.wait(), 5)
    listening.close()


async def test_the_loop_goes_on_while_there_is_much_to_tell() -> None:
    turns = 0
    before: list[int] = []

    def many() -> Iterator[Family]:
        for _ in range(20):
            before.append(turns)
            yield Family("p", "gauge", "Help.", (((str(n),), n) for n in range(1000)), ("n",))

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    listening, port = await started(MetricsServer(many))
    other = asyncio.create_task(others())
    await exchange(port, GET)
    assert before == sorted(set(before)), "the others had a turn between any two families"
    other.cancel()
    listening.close()


async def test_connections_are_limited() -> None:
    listening, port = await started(MetricsServer(families, connections_limit=1))
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.sleep(0.05)
    assert status(await exchange(port, b"")) == 503
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.05)
    assert status(await exchange(port, GET)) == 200
    listening.close()


async def test_a_failure_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> list[Family]:
        raise RuntimeError("the map has gone")

    listening, port = await started(MetricsServer(fails))
    assert status(await exchange(port, GET)) == 500
    assert "the map has gone" in caplog.text
    listening.close()


def test_addresses() -> None:
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(
            MetricsError, match=rf"metrics on 127.0.0.1:{port}: Address already in use; another process"
        ):
            listen("127.0.0.1", port)
    with listen("::1", 0) as sock:
        assert sock.getsockname()[0] == "::1"
    with pytest.raises(MetricsError, match=r"cannot serve metrics on nowhere\.invalid:0: "):
        listen("nowhere.invalid", 0)
    with pytest.raises(
        MetricsError, match=r"metrics on 192.0.2.1:0: Cannot assign requested address; give an address of"
    ):
        listen("192.0.2.1", 0)
