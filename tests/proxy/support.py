"""What the proxy's end-to-end tests share: a scripted server, a worker inside the test, a small raw client."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from control.node.tasks import Tasks
from core.model import (
    BackendProtocol,
    BackendService,
    Instance,
    Listener,
    Model,
    Protocol,
    Rule,
    Scheduler,
    Server,
    ServerGroup,
)
from proxy.access_log import Record
from proxy.hub import Hub
from proxy.tls import TlsServer
from proxy.worker import Worker
from tests.waiting import until

Answer = Callable[["Request"], Awaitable[None]]
WEBSOCKET = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 2\r\n\r\nok"


def free_port() -> int:
    """A port that nobody has right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class Request:
    """What a test server got, and the way back."""

    head: bytes
    connection: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def path(self) -> str:
        return self.head.split(b" ")[1].decode()

    async def body(self) -> bytes:
        match = re.search(rb"\r\nContent-Length: (\d+)", self.head)
        return await self.reader.readexactly(int(match[1])) if match else b""


async def answer_ok(request: Request) -> None:
    await request.body()
    request.writer.write(ANSWER)


@dataclass
class Backend:
    """A server on a free port that keeps what it was asked; `answer` scripts it, and may close the connection."""

    answer: Answer = answer_ok
    port: int = 0
    host: str = "127.0.0.1"
    path: str = ""  # of a unix socket in place of host and port
    tls: ssl.SSLContext | None = None
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Backend]:
        if self.path:
            server = await asyncio.start_unix_server(self._serve, self.path, limit=1 << 16, ssl=self.tls)
        else:
            server = await asyncio.start_server(self._serve, self.host, self.port, limit=1 << 16, ssl=self.tls)
            self.port = server.sockets[0].getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while not writer.is_closing():
                    head = await reader.readuntil(b"\r\n\r\n")
                    self.heads.append(head)
                    await self.answer(Request(head, number, reader, writer))
                    await writer.drain()
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def model(
    port: int,
    servers: Sequence[int],
    *,
    idle_timeout_s: int = 5,
    request_timeout_s: int = 5,
    scheduler: Scheduler = Scheduler.RR,
    rules: Sequence[Rule] = (),
    trusted: tuple[str, ...] = (),
    connect_timeout_s: float = 2.0,
) -> Model:
    """One http listener named `web` on `port`, in front of servers on these local ports."""
    listener = Listener(
        "web", "main", Protocol.HTTP, port, backend_service="app", idle_timeout_s=idle_timeout_s,
        request_timeout_s=request_timeout_s, trusted_proxies=trusted,
    )  # fmt: skip
    return Model(
        server_groups={"app": ServerGroup("app", tuple(Server("127.0.0.1", each) for each in servers))},
        backend_services={
            "app": BackendService(
                "app", BackendProtocol.HTTP, "app", scheduler=scheduler, connect_timeout_s=connect_timeout_s
            )
        },
        instances={"main": Instance("main")},
        listeners={"web": listener},
        rules={rule.name: rule for rule in rules},
    )


def with_service(base: Model, name: str = "app", /, **changes: Any) -> Model:
    """The model with a backend service changed, or a new one like `app`."""
    services = base.backend_services
    changed = replace(services.get(name, services["app"]), name=name, **changes)
    return replace(base, backend_services={**services, name: changed})


def with_group(base: Model, name: str, servers: Sequence[int]) -> Model:
    """The model with one more server group, on these local ports."""
    group = ServerGroup(name, tuple(Server("127.0.0.1", each) for each in servers))
    return replace(base, server_groups={**base.server_groups, name: group})


def with_options(base: Model, **options: object) -> Model:
    """The model with other settings of its listener `web`."""
    return replace(base, listeners={**base.listeners, "web": replace(base.listeners["web"], **options)})  # type: ignore[arg-type]


def with_listener(base: Model, name: str, port: int) -> Model:
    """The model with one more listener like `web`."""
    return replace(base, listeners={**base.listeners, name: replace(base.listeners["web"], name=name, port=port)})


def without_listener(base: Model, name: str) -> Model:
    return replace(base, listeners={key: value for key, value in base.listeners.items() if key != name})


@dataclass
class Proxy:
    """A worker inside the test."""

    worker: Worker
    hub: Hub
    written: list[Record]
    port: int

    @property
    def records(self) -> list[Record]:
        """Of all exchanges that are over."""
        self.hub.journal.settle()
        return self.written

    async def connect(self, port: int = 0, host: str = "127.0.0.1") -> Client:
        reader, writer = await asyncio.open_connection(host, port or self.port)
        return Client(reader, writer)

    async def get(self, path: str = "/") -> tuple[int, bytes]:
        client = await self.connect()
        answer = await client.ask(path)
        await client.close()
        return answer

    async def record(self, count: int = 1) -> Record:
        """The newest record, once there are `count`."""
        await until(lambda: len(self.records) >= count)
        return self.records[-1]


@asynccontextmanager
async def proxy(configuration: Model, tls: TlsServer | None = None) -> AsyncIterator[Proxy]:
    """A worker that serves this configuration; fails the test when one of its tasks or callbacks died."""
    failures: list[object] = []
    tasks = Tasks(lambda _, error: failures.append(error))
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    records: list[Record] = []
    hub = Hub("l7-1", tasks, records.append)
    worker = Worker(hub, tls)
    await worker.apply(configuration)
    tasks.spawn(worker.sweep(), "sweep")
    try:
        yield Proxy(worker, hub, records, next(iter(configuration.listeners.values())).port)
    finally:
        await worker.drain(0, 0)
        for service in hub.services.values():
            for upstream in service.pool.drop():
                upstream.abort()
            service.trunks.retire()
        await tasks.close()
        await asyncio.sleep(0.01)  # transports close in the next turns
    assert not failures


class Client:
    """A client that writes and reads bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(
        self, path: str = "/", fields: bytes = b"", body: bytes = b"", method: str = "GET"
    ) -> tuple[int, bytes]:
        length = b"Content-Length: %d\r\n" % len(body) if body else b""
        self.writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\n".encode() + length + fields + b"\r\n" + body)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer, which must have a length or be chunked."""
        return (await self.whole_answer())[::2]  # type: ignore[return-value]

    async def whole_answer(self) -> tuple[int, bytes, bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        status = int(head.split(b" ")[1])
        if b"\r\nTransfer-Encoding: chunked\r\n" in head:
            return status, head, await self._chunks()
        match = re.search(rb"\r\nContent-Length: (\d+)", head)
        return status, head, await self.reader.readexactly(int(match[1])) if match else b""

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        assert await self.reader.readexactly(2) == b"\r\n"
        return body

    async def rest(self) -> bytes:
        """Everything until the proxy closes."""
        return await asyncio.wait_for(self.reader.read(), 10)

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


async def open_websocket(port: int, path: str) -> Client:
    """A WebSocket that a server opened with `WEBSOCKET`."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    client.writer.write(
        f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert (await client.whole_answer())[0] == 101
    return client
