"""A connection to a server: bytes to and from whoever uses it now."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar, cast

from control.node.introducing import introduced
from core.endpoints import UNIX, endpoint
from proxy.balance import Address
from proxy.pool import Pool

# Above this a transport is full. uvloop then writes at once what it would have gathered until the end of the turn.
WRITE_HIGH_BYTES: Final = 16_384
BULK_BYTES: Final = 131_072  # an answer that comes in such pieces is long
CLOSE_S: Final = 10.0  # how long the last bytes of a closed connection may take, in either direction
# So many timeouts of the kernel in a row (0.2, 0.4 s… on a LAN) for the same bytes: nobody is there. A server that is
# merely slow acknowledges, and one that does not read closes its window, which counts apart (tcpi_probes).
SILENT_RETRANSMITS: Final = 2
_TCPI_RETRANSMITS: Final = 2  # linux/tcp.h: offset in struct tcp_info


# A context for TLS, None for plain text, and the name in the servers' certificates; empty: their addresses.
Secured = tuple[ssl.SSLContext | None, str]


Connected = TypeVar("Connected", bound=Any)  # a protocol that wants to know how it is `secured`


async def connect(
    loop: asyncio.AbstractEventLoop,
    make: Callable[[], Connected],
    server: Address,
    secured: Secured,
    introduction: bytes = b"",
) -> Connected:
    """A connection to a server, which begins with `introduction`, before TLS if there is any.

    Raises OSError, of which ssl.SSLError is one. The caller limits the time.
    """
    (address, port), (tls, name) = server, secured
    path = address.removeprefix(UNIX) if address.startswith(UNIX) else ""
    options: dict[str, Any] = {}
    if tls is not None:
        options = {"ssl": tls, "server_hostname": name or ("" if path else address), "ssl_shutdown_timeout": CLOSE_S}
    if introduction and tls is not None:
        options["sock"] = await introduced(address, port, lambda _: introduction)
        if path:
            _, made = await loop.create_unix_connection(make, **options)
        else:
            _, made = await loop.create_connection(make, **options)
    elif path:
        _, made = await loop.create_unix_connection(make, path, **options)
    else:
        _, made = await loop.create_connection(make, address, port, **options)
    if introduction and tls is None:
        made.write(introduction)
    made.secured = secured
    return made


def is_silent(sock: socket.socket) -> bool:
    """Whether the machine at the other end does not acknowledge what was sent. Asks the kernel."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCPI_RETRANSMITS + 1)
    return info[_TCPI_RETRANSMITS] >= SILENT_RETRANSMITS


class User(Protocol):
    """Who has borrowed the connection: see `ClientConnection`."""

    def upstream_data(self, data: bytes) -> None: ...

    def upstream_lost(self, *, unprocessed: bool = False) -> None: ...

    def balance(self) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """A connection to a server: in use by one client connection, or idle in its pool, or neither while it is opened.

    Small answers are read as uvloop does it, up to 256 KB at once, which costs 1 to 3 µs less than with a buffer of our
    own. From the first read of BULK_BYTES on, reads go into `buffer`, which bounds what one read brings; all
    connections of a loop share it, since what is in it is taken at once.
    (Not of TLS: what it brings at once is bounded by itself, and asyncio's would write into slices of the buffer, which
    are copies.)

    Whoever takes a connection has to ask whether it is `usable`: one that has ended tells its user so once, when it
    ends, and nobody later.
    """

    __slots__ = (
        "_buffer", "_pool", "_transport", "bulk", "client", "full", "introduction", "name", "owner", "secured",
        "server",
    )  # fmt: skip
    dialect = None  # HTTP/1

    def __init__(self, pool: Pool[UpstreamConnection, Any], server: Address, buffer: bytearray) -> None:
        self._pool = pool
        self._buffer = buffer
        self.server = server
        self.name = endpoint(*server)
        self.client: User | None = None
        self.full = False
        self.bulk = False
        self.secured: Secured | None = None  # how, once it is
        self.introduction = b""  # what it has begun with, as a connection of one client alone, whose transport is:
        self.owner: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def write_eof(self, trailers: bytes = b"") -> None:
        """Ends what we say, where the transport can do that without ending what it hears. It has no trailers."""
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def usable(self) -> bool:
        return not self.full and not self._transport.is_closing()

    @property
    def silent(self) -> bool:
        """Whether the server's machine does not acknowledge what we have sent. Asks the kernel."""
        if self._transport.is_closing() or self.server[0].startswith(UNIX):
            return False
        return is_silent(cast(socket.socket, self._transport.get_extra_info("socket")))

    def is_orphan(self) -> bool:
        """Whether it was made for a client that has gone."""
        return self.owner is not None and self.owner.is_closing()

    def close(self) -> None:
        """Sends what is left to be sent, for a while; then the connection is cut."""
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(CLOSE_S, self._transport.abort)
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.client is None:
            # An answer that nobody asked for: whatever it is, it must not meet the next request.
            self._pool.closed(self.server, self)
            self.abort()
            return
        if len(data) >= BULK_BYTES and not self.bulk and (self.secured is None or self.secured[0] is None):
            self._read_by(_Bulk(self, self._buffer))
            self.bulk = True
        self.client.upstream_data(data)

    def read_plainly(self) -> None:
        """Reads as at the beginning, for whoever is next."""
        if self.bulk and not self._transport.is_closing():
            self._read_by(self)
            self.bulk = False

    def _read_by(self, protocol: asyncio.BaseProtocol) -> None:
        """uvloop asks what kind of protocol it has when it begins to read."""
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def pause_writing(self) -> None:
        self.full = True
        if self.client is not None:
            self.client.balance()

    def resume_writing(self) -> None:
        self.full = False
        if self.client is not None:
            self.client.balance()

    def eof_received(self) -> None:
        """The end of what the server says is the end, also where we have not said everything yet."""
        self._lost()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def _lost(self) -> None:
        if self.client is None:
            self._pool.closed(self.server, self)
        else:
            self.client.upstream_lost()


class _Bulk(asyncio.BufferedProtocol):
    """The same connection, read into a buffer."""

    __slots__ = ("_buffer", "_upstream")

    def __init__(self, upstream: UpstreamConnection, buffer: bytearray) -> None:
        self._upstream, self._buffer = upstream, buffer

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._upstream.data_received(bytes(memoryview(self._buffer)[:nbytes]))

    def pause_writing(self) -> None:
        self._upstream.pause_writing()

    def resume_writing(self) -> None:
        self._upstream.resume_writing()

    def eof_received(self) -> None:
        self._upstream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.connection_lost(exc)
