"""`GET /metrics` on the event loop of the process that it tells of.

Bounded whoever asks: so many connections at once, one request on each, a head of so many bytes, a time for the whole.
The text is made and sent in pieces between which the loop goes on with its work, however much there is to tell; a
scraper that does not read is waited for and, at last, left.

There is neither encryption nor a password: metrics name listeners and servers, and how busy they are. Listen on
loopback or on a network of one's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Final

import h11

from control.node import metrics
from control.node.tcp import cannot_bind
from core.endpoints import endpoint

log = logging.getLogger(__name__)

PATH: Final = b"/metrics"
METHODS: Final = (b"GET", b"HEAD")
CONNECTIONS_LIMIT: Final = 16  # a few Prometheus servers, and people
HEAD_LIMIT_BYTES: Final = 8192
HEAD_S: Final = 5.0
EXCHANGE_S: Final = 30.0  # Prometheus gives up after 10 s by default
HINT: Final = b"metrics are at /metrics\n"

Collect = Callable[[], Iterable[metrics.Family | metrics.Histogram]]


class MetricsError(Exception):
    """The address cannot be listened on; one line with the remedy."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, to have it before anything else is begun. Raises MetricsError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise MetricsError(f"cannot serve metrics on {endpoint(host, port)}: {cannot_bind(error)}") from None


class MetricsServer:
    """Answers scrapes with what `collect` gives, called on the event loop once for each."""

    def __init__(
        self, collect: Collect, *, connections_limit: int = CONNECTIONS_LIMIT, head_s: float = HEAD_S,
        exchange_s: float = EXCHANGE_S,
    ) -> None:  # fmt: skip
        self._collect = collect
        self._connections_limit = connections_limit
        self._head_s = head_s
        self._exchange_s = exchange_s
        self._connections = 0

    async def serve(self, sock: socket.socket) -> asyncio.Server:
        """Until the server that it returns is closed; the socket is of `listen`."""
        return await asyncio.start_server(self._connected, sock=sock, limit=HEAD_LIMIT_BYTES)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            async with asyncio.timeout(self._exchange_s):
                await self._exchange(reader, writer)
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            log.debug("a scrape ended early: %r", error)
            writer.transport.abort()
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        reply = _Reply(http, writer)
        if self._connections > self._connections_limit:
            await reply.whole(503, b"too many connections\n")
            return
        try:
            async with asyncio.timeout(self._head_s):
                request = await _request(http, reader)
        except h11.RemoteProtocolError as error:
            if http.our_state is h11.IDLE:
                await reply.whole(error.error_status_hint, b"not a request\n")
            return
        if request is None:
            return
        reply.bodiless = request.method == b"HEAD"
        if request.target.partition(b"?")[0] != PATH:
            await reply.whole(404, HINT)
        elif request.method not in METHODS:
            await reply.whole(405, HINT, (("Allow", "GET, HEAD"),))
        else:
            await self._metrics(reply)

    async def _metrics(self, reply: _Reply) -> None:
        try:
            families = self._collect()
        except Exception:
            log.exception("metrics cannot be collected")
            await reply.whole(500, b"metrics cannot be collected; the log says why\n")
            return
        reply.head(200, (("Content-Type", metrics.CONTENT_TYPE),))
        for piece in () if reply.bodiless else metrics.render(families):
            reply.body(piece)
            await reply.sent()
            await asyncio.sleep(0)  # drain() alone does not let others run
        await reply.end()


class _Reply:
    """One response; the connection ends with it. `bodiless`: the method asks for the head alone."""

    def __init__(self, http: h11.Connection, writer: asyncio.StreamWriter) -> None:
        self.bodiless = False
        self._http = http
        self._writer = writer

    def head(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        self._send(h11.Response(status_code=status, headers=[*headers, ("Connection", "close")]))

    def body(self, data: bytes) -> None:
        if not self.bodiless:
            self._send(h11.Data(data=data))

    async def sent(self) -> None:
        await self._writer.drain()

    async def end(self) -> None:
        self._send(h11.EndOfMessage())
        await self.sent()

    async def whole(self, status: int, text: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        """A short answer."""
        plain = (("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text))))
        self.head(status, (*plain, *headers))
        self.body(text)
        await self.end()

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)


async def _request(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The request's head; None if the connection ends before. Raises h11.RemoteProtocolError."""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(HEAD_LIMIT_BYTES))
        elif isinstance(event, h11.Request):
            return event
        else:
            return None
