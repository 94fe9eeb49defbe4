"""A server for the lab to balance: HTTP, a TCP stream service, a UDP echo. Each answer says who it is and whom it sees.

    python -m deploy.lab.backend --name be-1 --address 10.81.0.101 --address 10.81.2.100 \\
        --http 8080 --tcp 9000 --tcp 5001 --udp 9053

UDP answers leave from the address that was asked, because each address has a socket of its own: a server behind
direct routing has to do that, or the client would see an answer from a stranger. Everything is bounded: connections,
lines, bodies, time.

HTTP: any method and path answer 200 with JSON {server, client, method, path, headers, body_bytes}; `?size=N` answers N
bytes of the stream of `deploy/lab/stream.py` instead, `?delay_ms=N` waits first.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import cast
from urllib.parse import parse_qs, urlsplit

import h11

from control.node import logs
from control.node.notify import notify
from core.endpoints import endpoint
from deploy.lab import stream

log = logging.getLogger(__name__)

Serve = Callable[["Who", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]

MOST_CONNECTIONS = 4096
IDLE_S = 75.0  # longer than the proxy keeps an idle connection, so that it is not the server who closes
MOST_DELAY_MS = 60_000
READ_BYTES = 1 << 16


@dataclass(slots=True)
class Who:
    """The server's name and its bound on connections."""

    name: str
    connections: asyncio.Semaphore

    def sees(self, client: tuple[str, int], **more: object) -> bytes:
        """One line of JSON about this server and the client as it sees it."""
        return json.dumps({"server": self.name, "client": endpoint(*client[:2]), **more}).encode() + b"\n"


# --- TCP ---------------------------------------------------------------------------------------------------------


async def serve_stream(who: Who, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests of deploy/lab/stream.py until the client closes."""
    client = writer.get_extra_info("peername")
    while line := await asyncio.wait_for(reader.readline(), IDLE_S):
        try:
            request = stream.parse(line)
        except stream.StreamError as error:
            writer.write(who.sees(client, error=str(error)))
            break
        writer.write(who.sees(client))
        if isinstance(request, stream.Get):
            await _send(writer, request)
        else:
            writer.write(who.sees(client, sha256=await _receive(reader, request.size_bytes)))
        await asyncio.wait_for(writer.drain(), IDLE_S)


async def _send(writer: asyncio.StreamWriter, request: stream.Get) -> None:
    """The data at the rate asked for. A transfer that falls behind (a node died) does not speed up to catch up."""
    for block in stream.blocks(request.size_bytes, request.seed):
        writer.write(block)
        await asyncio.wait_for(writer.drain(), IDLE_S)
        if request.rate:
            await asyncio.sleep(len(block) / request.rate)


async def _receive(reader: asyncio.StreamReader, size_bytes: int) -> str:
    total = hashlib.sha256()
    while size_bytes:
        data = await asyncio.wait_for(reader.read(min(size_bytes, READ_BYTES)), IDLE_S)
        if not data:
            raise asyncio.IncompleteReadError(b"", size_bytes)
        total.update(data)
        size_bytes -= len(data)
    return total.hexdigest()


# --- UDP ---------------------------------------------------------------------------------------------------------


class Echo(asyncio.DatagramProtocol):
    """Answers `{"server": …, "client": …, "echo": TEXT}` to each datagram."""

    def __init__(self, who: Who) -> None:
        self._who = who
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # its base class in asyncio says less

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(self._who.sees(addr, echo=data.decode("latin-1")), addr)


# --- HTTP --------------------------------------------------------------------------------------------------------


async def serve_http(who: Who, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests of one connection until either side closes."""
    connection = h11.Connection(h11.SERVER)
    while True:
        try:
            request, body_bytes = await _read_request(connection, reader, writer)
        except h11.RemoteProtocolError as error:
            with contextlib.suppress(h11.LocalProtocolError):
                _reply(connection, writer, error.error_status_hint, f"{error}\n".encode())
            return
        if request is None:
            return
        await _answer(who, connection, writer, request, body_bytes)
        await asyncio.wait_for(writer.drain(), IDLE_S)
        if connection.our_state is not h11.DONE:
            return
        connection.start_next_cycle()


async def _read_request(
    connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[h11.Request | None, int]:
    """The next request and the length of its body, which is read and forgotten."""
    request, body_bytes = None, 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            connection.receive_data(await asyncio.wait_for(reader.read(READ_BYTES), IDLE_S))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body_bytes += len(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return request, body_bytes
        else:
            return None, 0


async def _answer(
    who: Who, connection: h11.Connection, writer: asyncio.StreamWriter, request: h11.Request, body_bytes: int
) -> None:
    target = urlsplit(request.target.decode("ascii"))
    query = parse_qs(target.query)
    if delay_ms := _query_number(query, "delay_ms", MOST_DELAY_MS):
        await asyncio.sleep(delay_ms / 1000)
    if size_bytes := _query_number(query, "size", stream.MOST_BYTES):
        writer.write(_head(connection, 200, size_bytes, b"application/octet-stream"))
        if request.method != b"HEAD":
            for block in stream.blocks(size_bytes, 0):
                writer.write(connection.send(h11.Data(data=block)) or b"")
                await asyncio.wait_for(writer.drain(), IDLE_S)
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        return
    headers: dict[str, list[str]] = {}
    for name, value in request.headers:
        headers.setdefault(name.decode("ascii"), []).append(value.decode("latin-1"))
    body = who.sees(
        writer.get_extra_info("peername"),
        method=request.method.decode("ascii"),
        path=request.target.decode("ascii"),
        headers=headers,
        body_bytes=body_bytes,
    )
    _reply(connection, writer, 200, body, b"application/json", head=request.method == b"HEAD")


def _query_number(query: dict[str, list[str]], name: str, most: int) -> int:
    text = query.get(name, ["0"])[0]
    return min(int(text), most) if text.isdecimal() and len(text) < 20 else 0


_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


def _head(connection: h11.Connection, status: int, size_bytes: int, media_type: bytes) -> bytes:
    headers = [(b"Content-Type", media_type), (b"Content-Length", str(size_bytes).encode())]
    return connection.send(h11.Response(status_code=status, reason=_REASONS.get(status, b""), headers=headers)) or b""


def _reply(
    connection: h11.Connection,
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    media_type: bytes = b"text/plain",
    *,
    head: bool = False,
) -> None:
    writer.write(_head(connection, status, len(body), media_type))
    if not head:
        writer.write(connection.send(h11.Data(data=body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")


# --- the process -------------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.lab.backend",
        description=__doc__.split("\n\n")[0],
        epilog="example: python -m deploy.lab.backend --name be-1 --address 127.0.0.1 --http 8080 --tcp 9000",
    )
    parser.add_argument("--name", required=True, help="what the answers call this server")
    parser.add_argument("--address", action="append", required=True, help="bind here; may be repeated")
    for protocol in ("http", "tcp", "udp"):
        parser.add_argument(
            f"--{protocol}", type=int, action="append", default=[], metavar="PORT", help=f"serve {protocol} there"
        )
    parsed = parser.parse_args(argv)
    if not (parsed.http or parsed.tcp or parsed.udp):
        parser.error("nothing to serve: give --http, --tcp or --udp")
    return parsed


class Backend:
    """The sockets of one backend. `start` binds; `ports` says where; `close` ends all connections."""

    def __init__(self, name: str) -> None:
        self._who = Who(name, asyncio.Semaphore(MOST_CONNECTIONS))
        self._servers: list[asyncio.Server] = []
        self._datagrams: list[asyncio.DatagramTransport] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, address: str, *, http: Sequence[int], tcp: Sequence[int], udp: Sequence[int]) -> None:
        """Bind every port at `address`. Raises OSError."""
        loop = asyncio.get_running_loop()
        for serve, ports in ((serve_http, http), (serve_stream, tcp)):
            for port in ports:
                self._servers.append(await asyncio.start_server(self._accept(serve), address, port, backlog=1024))
        for port in udp:
            transport, _ = await loop.create_datagram_endpoint(lambda: Echo(self._who), (address, port))
            self._datagrams.append(transport)

    def ports(self) -> list[int]:
        """Where it listens, in the order of binding, datagram sockets last."""
        servers = [int(server.sockets[0].getsockname()[1]) for server in self._servers]
        return servers + [int(transport.get_extra_info("sockname")[1]) for transport in self._datagrams]

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for transport in self._datagrams:
            transport.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _accept(self, serve: Serve) -> Accept:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._converse(serve, reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        return accepted

    async def _converse(self, serve: Serve, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self._who.connections.locked():
                async with self._who.connections:
                    await serve(self._who, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            log.debug("%s: connection ended: %r", writer.get_extra_info("peername"), error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    backend = Backend(options.name)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        for address in options.address:
            await backend.start(address, http=options.http, tcp=options.tcp, udp=options.udp)
        notify("READY=1")
        await stop.wait()
    finally:
        await backend.close()


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(sys.argv[1:] if argv is None else argv)
    logs.setup(options.name)
    try:
        asyncio.run(run(options))
    except OSError as error:
        print(f"paifang-backend: cannot listen: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
