"""Connections to servers: alone with a scripted transport, then in a proxy on uvloop before servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import uvloop

from core.model import BackendProtocol, BackendService, Server
from proxy import upstream
from proxy.pool import Open, Pool, Reuse
from proxy.upstream import UpstreamConnection
from tests.proxy.support import free_port, model, proxy
from tests.waiting import until

SERVER = ("10.0.0.1", 80)


class Transport(asyncio.Transport):
    """What happened to it is in `done`; `pending` is what it has not sent."""

    def __init__(self, pending: int = 0) -> None:
        super().__init__()
        self.done: list[str] = []
        self.pending = pending

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == upstream.WRITE_HIGH_BYTES

    def get_write_buffer_size(self) -> int:
        return self.pending

    def is_closing(self) -> bool:
        return bool(self.done)

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


class User:
    """Counts what it is told."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self.told: Counter[str] = Counter()
        self._connection = connection

    def upstream_data(self, data: bytes) -> None:
        self.told[data.decode()] += 1

    def upstream_lost(self) -> None:
        self.told["lost"] += 1
        self._connection.client = None
        self._connection.close()

    def balance(self) -> None:
        self.told["balance"] += 1


def made(pending: int = 0) -> tuple[UpstreamConnection, Transport, Pool[UpstreamConnection, str]]:
    pool: Pool[UpstreamConnection, str] = Pool()
    pool.update([Server(*SERVER)], BackendService("app", BackendProtocol.HTTP), 0)
    connection, transport = UpstreamConnection(pool, SERVER, bytearray(100)), Transport(pending)
    connection.connection_made(transport)
    return connection, transport, pool


def feed(connection: UpstreamConnection, data: bytes) -> None:
    connection.data_received(data)


def test_its_user_gets_bytes_and_the_end_once() -> None:
    connection, transport, _ = made()
    connection.client = user = User(connection)
    feed(connection, b"hello")
    connection.pause_writing()
    assert not connection.usable
    connection.resume_writing()
    connection.eof_received()
    connection.connection_lost(None)
    assert user.told == {"hello": 1, "balance": 2, "lost": 1}
    assert transport.done == ["close"]


@pytest.mark.parametrize("event", ["answer", "end", "reset"])
def test_an_idle_one_that_stirs_leaves_the_pool_at_once(event: str) -> None:
    connection, _, pool = made()
    assert pool.assign(b"", 0, repeatable=True) == Open(SERVER)
    assert pool.released(SERVER, connection, 0)
    if event == "answer":
        feed(connection, b"HTTP/1.1 408 Idle\r\n\r\n")
        assert not connection.usable
    elif event == "end":
        connection.eof_received()
    else:
        connection.connection_lost(ConnectionResetError())
    assert pool.assign(b"", 0, repeatable=True) == Open(SERVER)


def test_one_that_idles_is_used_again() -> None:
    connection, _, pool = made()
    pool.assign(b"", 0, repeatable=True)
    pool.released(SERVER, connection, 0)
    assert pool.assign(b"", 0, repeatable=True) == Reuse(connection, SERVER)


async def test_what_a_server_does_not_take_is_dropped_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "CLOSE_S", 0.01)
    connection, transport, _ = made(pending=1)
    connection.close()
    connection.close()
    assert transport.done == ["close"]
    await until(lambda: transport.done == ["close", "abort"])


# -- on uvloop, as in a worker

RESET = struct.pack("ii", 1, 0)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def close_at_once(sock: socket.socket) -> None:
    sock.close()


def reset_at_once(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def reset_when_asked(sock: socket.socket) -> None:
    sock.recv(1)
    reset_at_once(sock)


def close_when_asked(sock: socket.socket) -> None:
    sock.recv(1 << 16)
    sock.close()


def answer_unasked(sock: socket.socket) -> None:
    sock.sendall(OK)
    sock.recv(1)
    sock.close()


def answer_and_reset(sock: socket.socket) -> None:
    sock.recv(1 << 16)
    sock.sendall(OK)
    reset_at_once(sock)


def answer_until_close(sock: socket.socket) -> None:
    sock.recv(1 << 16)
    sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nok")
    sock.close()


@contextlib.contextmanager
def server(act: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server in a thread, so that it acts while the loop is anywhere; its port."""

    def run() -> None:
        while True:
            sock, _ = listening.accept()
            if stopped.is_set():
                sock.close()
                return
            with contextlib.suppress(OSError):
                act(sock)
            sock.close()

    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        thread = threading.Thread(target=run)
        thread.start()
        port = listening.getsockname()[1]
        try:
            yield port
        finally:
            stopped.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


@pytest.mark.parametrize(
    ("act", "statuses"),
    [
        (close_at_once, {502}),
        (reset_at_once, {502}),
        (reset_when_asked, {502}),
        (close_when_asked, {502}),
        (answer_unasked, {200, 502}),  # 200 where the answer comes when the request is just out
        (answer_and_reset, {200, 502}),  # 502 where the reset has destroyed the answer
        (answer_until_close, {200}),
    ],
)
def test_no_request_hangs_whatever_the_server_does(act: Callable[[socket.socket], None], statuses: set[int]) -> None:
    async def ask_all(port: int) -> set[int]:
        async with proxy(model(free_port(), [port], request_timeout_s=60)) as l7:

            async def ask(method: str, body: bytes) -> int:
                client = await l7.connect()
                status, _ = await client.ask("/", b"Connection: close\r\n", body, method)
                await client.close()
                return status

            seen: set[int] = set()
            async with asyncio.timeout(10):
                for _ in range(4):
                    requests = [("GET", b""), ("POST", b"body")] * 5
                    seen |= set(await asyncio.gather(*(ask(*request) for request in requests)))
            assert l7.hub.services["app"].pool.active == {}
            return seen

    with server(act) as port:
        assert uvloop.run(ask_all(port)) <= statuses


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def test_long_and_short_answers_on_one_connection(run: Callable[..., None]) -> None:
    """The event loop has to play along when the way of reading changes."""
    run(_long_and_short_answers())


async def _long_and_short_answers() -> None:
    sizes = [10, 200_000, 3_000_000, 5, 1_000_000, 131_072, 7]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.split(b" ")[1][1:])
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    kinds: list[bool] = []
    async with server, proxy(model(free_port(), [port])) as l7:
        client = await l7.connect()
        for size in sizes:
            status, body = await client.ask(f"/{size}")
            assert (status, len(body)) == (200, size)
            (idle,) = l7.hub.services["app"].pool._members[0].idle
            kinds.append(idle.bulk)
            assert idle._transport.get_protocol() is idle
        await client.close()
        server.close()
    assert not any(kinds)


def test_bulk_begins_with_a_long_read_and_ends_with_the_answer() -> None:
    connection, transport, _ = made()
    protocols: list[object] = []
    transport.set_protocol = protocols.append  # type: ignore[method-assign]
    transport.pause_reading = lambda: protocols.append("pause")  # type: ignore[method-assign]
    transport.resume_reading = lambda: protocols.append("resume")  # type: ignore[method-assign]
    connection.client = user = User(connection)
    connection.data_received(b"x" * (upstream.BULK_BYTES - 1))
    assert protocols == []
    connection.data_received(b"y" * upstream.BULK_BYTES)
    (_, bulk, _) = protocols
    assert (protocols[0], protocols[2]) == ("pause", "resume")
    assert isinstance(bulk, asyncio.BufferedProtocol)
    bulk.get_buffer(-1)[:5] = b"hello"  # type: ignore[index]
    bulk.buffer_updated(5)
    bulk.pause_writing()
    bulk.resume_writing()
    assert (user.told["hello"], user.told["balance"]) == (1, 2)
    connection.read_plainly()
    assert protocols[3:] == ["pause", connection, "resume"]
    connection.read_plainly()
    assert len(protocols) == 6
    bulk.eof_received()
    assert user.told["lost"] == 1
