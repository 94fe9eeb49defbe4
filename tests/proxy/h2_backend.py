"""A server of HTTP/2 on the h2 library, scripted by the test, which sees connections and streams."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

Said = Mapping[SettingCodes | int, int]


class Link:
    """A connection that somebody has made to the server."""

    def __init__(self, server: H2Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None, validate_inbound_headers=True))
        self.calls: dict[int, Call] = {}
        self.room = asyncio.Event()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def goaway(self, last: int, code: int = 0) -> None:
        """As servers say it that go on with what they have: the library would close the connection for itself."""
        self.writer.write(bytes((0, 0, 8, 7, 0, 0, 0, 0, 0)) + last.to_bytes(4) + code.to_bytes(4))


@dataclass(eq=False)
class Call:
    """A request."""

    link: Link
    stream: int
    fields: dict[bytes, bytes]
    pairs: list[tuple[bytes, bytes]]
    body: bytearray = field(default_factory=bytearray)
    trailers: dict[bytes, bytes] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def path(self) -> str:
        return self.fields[b":path"].decode()

    def head(self, *fields: tuple[str, str], status: int = 200, end: bool = False) -> None:
        self.link.h2.send_headers(self.stream, [(":status", str(status)), *fields], end_stream=end)
        self.link.flush()

    async def data(self, data: bytes, end: bool = False) -> None:
        """Waits for room."""
        link = self.link
        while data:
            room = min(link.h2.local_flow_control_window(self.stream), link.h2.max_outbound_frame_size)
            if room <= 0:
                link.room.clear()
                await link.room.wait()
                continue
            part, data = data[:room], data[room:]
            link.h2.send_data(self.stream, part, end_stream=end and not data)
            link.flush()
            await link.writer.drain()

    def end(self, *trailers: tuple[str, str]) -> None:
        if trailers:
            self.link.h2.send_headers(self.stream, trailers, end_stream=True)
        else:
            self.link.h2.end_stream(self.stream)
        self.link.flush()

    def reset(self, code: int) -> None:
        self.link.h2.reset_stream(self.stream, code)
        self.link.flush()


Answer = Callable[[Call], Awaitable[None]]


async def answer_ok(call: Call) -> None:
    await call.ended.wait()
    call.head(("content-length", "2"), ("date", "d"))
    await call.data(b"ok", end=True)


@dataclass
class H2Backend:
    """Answers as `answer` says, each request in a task of its own. `settings` are said first; `raw`: instead of
    HTTP/2 these bytes are sent to whoever has connected."""

    answer: Answer = answer_ok
    settings: Said = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    raw: bytes | None = None
    reads: bool = True  # credit is given at once for what comes
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[H2Backend]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
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
        link = Link(self, reader, writer)
        self.links.append(link)
        try:
            with suppress(ConnectionError, asyncio.CancelledError, ProtocolError):
                if self.raw is not None:
                    writer.write(self.raw)
                    await reader.read()
                else:
                    await self._speak(link)
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _speak(self, link: Link) -> None:
        link.h2.local_settings = Settings(client=False, initial_values={4: 65_535, **self.settings})
        link.h2.initiate_connection()
        link.flush()
        while data := await link.reader.read(65_536):
            for event in link.h2.receive_data(data):
                self._hear(link, event)
            link.flush()

    def _hear(self, link: Link, event: object) -> None:
        link.room.set()
        if isinstance(event, RequestReceived):
            pairs = [(bytes(name), bytes(value)) for name, value in event.headers]  # type: ignore[arg-type]
            call = Call(link, event.stream_id, dict(pairs), pairs)
            link.calls[event.stream_id] = call
            self.calls.append(call)
            task = asyncio.get_running_loop().create_task(self._answer(call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(event, DataReceived):
            call = link.calls[event.stream_id]
            call.body += event.data
            call.came.set()
            if self.reads:
                link.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, TrailersReceived):
            link.calls[event.stream_id].trailers = {bytes(k): bytes(v) for k, v in event.headers}  # type: ignore[arg-type]
        elif isinstance(event, StreamEnded):
            link.calls[event.stream_id].ended.set()
        elif isinstance(event, StreamReset):
            cancelled = link.calls[event.stream_id].cancelled
            if not cancelled.done():
                cancelled.set_result(int(event.error_code))

    async def _answer(self, call: Call) -> None:
        with suppress(ProtocolError, ConnectionError):
            await self.answer(call)
