"""The backend and the client against each other, over loopback."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from deploy.lab import backend, client, stream
from deploy.lab.backend import Backend

HOST = "127.0.0.1"


@contextlib.asynccontextmanager
async def serving(**ports: list[int]) -> AsyncIterator[list[int]]:
    server = Backend("be-1")
    await server.start(HOST, **{"http": [], "tcp": [], "udp": [], **ports})
    try:
        yield server.ports()
    finally:
        await server.close()


async def exchange(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(data)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 * stream.BLOCK_BYTES])
async def test_a_download_is_checked(size: int) -> None:
    async with serving(tcp=[0]) as [port]:
        pieces: list[tuple[str, int]] = []
        transfer = await asyncio.to_thread(
            client.download, (HOST, port), size, 0, lambda ours, got: pieces.append((ours, got))
        )
    assert (transfer.server, transfer.size_bytes, transfer.correct) == ("be-1", size, True)
    if size:
        assert pieces[-1] == (transfer.seen_client, size)


async def test_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.deploy.lab.test_backend.HOST", "::1")
    async with serving(tcp=[0], udp=[0]) as [tcp, udp]:
        ours: list[str] = []
        transfer = await asyncio.to_thread(client.download, (HOST, tcp), 1000, 0, lambda name, _: ours.append(name))
        answer = await asyncio.to_thread(client.ask_udp, (HOST, udp), "hello")
    assert transfer.correct
    assert transfer.seen_client == ours[-1]
    assert ours[-1].startswith("[::1]:")
    assert answer["client"].startswith("[::1]:")


async def test_a_wrong_byte_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "digest", lambda size, seed: "0" * 64)
    async with serving(tcp=[0]) as [port]:
        assert not (await asyncio.to_thread(client.download, (HOST, port), 1000)).correct
        assert not (await asyncio.to_thread(client.upload, (HOST, port), 1000)).correct


async def test_an_upload_is_checked() -> None:
    async with serving(tcp=[0]) as [port]:
        transfer = await asyncio.to_thread(client.upload, (HOST, port), 200_000)
    assert transfer.correct
    assert transfer.size_bytes == 200_000


async def test_a_connection_that_ends_early_is_an_error() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"server": "x", "client": "y"}\nabc')
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, HOST, 0)
    async with server:
        with pytest.raises(client.ClientError, match="after 3 of 1000 bytes"):
            await asyncio.to_thread(client.download, (HOST, server.sockets[0].getsockname()[1]), 1000)


async def test_several_requests_on_a_connection_then_a_bad_one() -> None:
    async with serving(tcp=[0]) as [port]:
        answer = await exchange(port, b"GET 0 1 0\nGET 0 2 0\nNONSENSE\nGET 0 3 0\n")
    lines = [json.loads(line) for line in answer.splitlines()]
    assert len(lines) == 3
    assert "GET BYTES SEED RATE" in lines[2]["error"]


async def test_an_endless_line_ends_the_connection() -> None:
    async with serving(tcp=[0]) as [port]:
        with contextlib.suppress(ConnectionError):
            assert await exchange(port, b"x" * 200_000) == b""


async def test_udp_echo_names_server_and_client() -> None:
    async with serving(udp=[0]) as [port]:
        reply = await asyncio.to_thread(client.ask_udp, (HOST, port), "hello")
    assert reply["server"] == "be-1"
    assert reply["client"].startswith("127.0.0.1:")


async def test_udp_without_a_server() -> None:
    with pytest.raises(client.ClientError, match="no answer"):
        await asyncio.to_thread(client.ask_udp, (HOST, 9), "hello")


async def test_http_says_whom_it_sees() -> None:
    async with serving(http=[0]) as [port]:
        request = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5\r\n"
        answer = await exchange(port, request + b"Connection: close\r\n\r\nhello")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    facts = json.loads(body)
    assert facts["server"] == "be-1"
    assert (facts["method"], facts["path"], facts["body_bytes"]) == ("POST", "/a?b=c", 5)
    assert facts["headers"]["x-a"] == ["1", "2"]


async def test_http_keeps_the_connection_and_pipelines() -> None:
    get = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    async with serving(http=[0]) as [port]:
        answer = await exchange(port, 3 * get)
    assert answer.count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize(("method", "length"), [(b"GET", 100_000), (b"HEAD", 0)])
async def test_http_bodies_of_any_size(method: bytes, length: int) -> None:
    async with serving(http=[0]) as [port]:
        answer = await exchange(port, method + b" /?size=100000 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"100000" in head
    assert body == b"".join(stream.blocks(length, 0))


@pytest.mark.parametrize("query", [b"size=-1", b"size=x", b"size=" + b"9" * 30, b"delay_ms=0"])
async def test_senseless_queries_are_ignored(query: bytes) -> None:
    async with serving(http=[0]) as [port]:
        answer = await exchange(port, b"GET /?" + query + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b'"server": "be-1"' in answer


async def test_http_100_continue() -> None:
    async with serving(http=[0]) as [port]:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 100 ")
        writer.write(b"ok")
        await reader.readline()
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await writer.wait_closed()


async def test_what_is_not_http_is_refused() -> None:
    async with serving(http=[0]) as [port]:
        assert (await exchange(port, b"\0\1\2 garbage\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


def test_a_backend_that_serves_nothing_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        backend.arguments(["--name", "be-1", "--address", HOST])
    assert "--http, --tcp or --udp" in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert backend.main(["--name", "x", "--address", "192.0.2.1", "--tcp", "5000"]) == 1
    assert "cannot listen" in capsys.readouterr().err
