"""A connection to a server that many requests share, and the stream that each of them has on it (HTTP/2).

A stream looks to its carrier like a connection of its own (upstream.py), which ends with its request. The trunk reads
always: how much may come is what the windows say. What came for a stream whose client takes nothing more waits with the
stream, which gets no more credit meanwhile, so that it alone stands still and at most its window waits. In the other
direction, what the windows have no room for waits with the stream as well, and the carrier stops reading from its
client as it does for a socket that is full. Streams that wait send in turns, a frame each.

A trunk that leaves (told so by its server, removed, silent, or at its last number) takes no new request, and closes
when the last one is over. Requests that the server says it has not touched are told so (`unprocessed`), for they may be
asked again.

Nobody is asked whether he is still there without reason: servers of gRPC take pings more often than every five minutes
for abuse, and go. A machine that has died is found by its health check and by what the kernel knows (`silent`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Protocol, cast

from core.endpoints import UNIX, endpoint
from proxy.balance import Address
from proxy.dialects import Heard
from proxy.errors import Code, Refused
from proxy.h2_calls import SERVERS, Calls
from proxy.h2_events import Broken, Came, Event, Headed, Left, WasReset
from proxy.h2_frames import FRAME_BYTES, Error
from proxy.http2 import lines_block
from proxy.http2_server import Http2Server, request_block
from proxy.message import Outgoing
from proxy.upstream import CLOSE_S, WRITE_HIGH_BYTES, Secured, is_silent

IDLE_S: Final = 60.0
PING_S: Final = 310.0  # of silence while somebody waits; gRPC's servers suffer one in 300 s
PING_WAIT_S: Final = 15.0
SUSPECT_S: Final = 5.0  # who gave up waiting after such a silence had better ask on another connection
_PING: Final = b"paifang\0"


class NotHttp2(ConnectionError):
    """The server does not speak HTTP/2, or takes no request by it."""


class User(Protocol):
    """Who has borrowed a stream."""

    def upstream_heard(self, heard: list[Heard]) -> None: ...

    def upstream_lost(self, *, unprocessed: bool = False) -> None: ...

    def balance(self) -> None: ...


class Stream:
    """One request on a trunk. To be told of the request at once, in the turn of the loop in which it was joined."""

    __slots__ = (
        "_begun_at", "_ending", "_held", "_number", "_paused", "_pending", "_trunk", "client", "dialect", "name",
        "server",
    )  # fmt: skip
    bulk = False

    def __init__(self, trunk: Trunk, method: bytes) -> None:
        self._trunk = trunk
        self.server, self.name = trunk.server, trunk.name
        self.client: User | None = None
        self.dialect = Http2Server(method)
        self._number = 0
        self._begun_at = 0.0
        self._pending = b""  # waits for room
        self._ending: bytes | None = None  # trailers that wait behind it
        self._paused = False
        self._held: list[tuple[list[Heard], int]] = []  # waits for the client, with what it counts

    @property
    def usable(self) -> bool:
        """A stream takes one request."""
        return not self._number and self._trunk.takes

    @property
    def full(self) -> bool:
        return bool(self._pending) or self._trunk.full

    @property
    def silent(self) -> bool:
        return self._trunk.silent

    # -- to the server

    def tell(self, request: Outgoing, ended: bool) -> None:
        """The request's head."""
        self._number = self._trunk.begin(self, request, ended)
        self._begun_at = self._trunk.now()

    def write(self, data: bytes) -> None:
        if not self._gone:
            self._pending += data
            self._trunk.has_more(self)

    def write_eof(self, trailers: bytes = b"") -> None:
        if not self._gone:
            self._ending = trailers
            self._trunk.has_more(self)

    def push(self) -> bool:
        """Sends a frame of what waits; whether there was room, or there is nothing left. The trunk's turn."""
        calls, size = self._trunk.calls, len(self._pending)
        if size:
            room = min(calls.room(self._number), FRAME_BYTES)
            if not room:
                return False
            data, self._pending = self._pending[:room], self._pending[room:]
            last = self._ending == b"" and not self._pending
            calls.data(self._number, data, last)
            if last:
                self._ending = None
        if not self._pending and self._ending is not None:
            trailers, self._ending = self._ending, None
            if trailers:
                calls.head(self._number, lines_block(trailers), ended=True)
            else:
                calls.data(self._number, b"", ended=True)
        return True

    @property
    def waits(self) -> bool:
        """Whether something is left to be sent."""
        return bool(self._pending) or self._ending is not None

    @property
    def _gone(self) -> bool:
        return not self._trunk.calls.has(self._number)

    # -- to the client

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        while self._held and not self._paused and self.client is not None:
            heard, size = self._held.pop(0)
            self._pass(heard, size)
        self._trunk.flush_soon()

    def hear(self, heard: list[Heard], size: int) -> None:
        """The server has said this, which counts so much in the stream's window."""
        if self._paused or self._held:
            self._held.append((heard, size))
        else:
            self._pass(heard, size)

    def _pass(self, heard: list[Heard], size: int) -> None:
        client = self.client
        if client is None:
            return
        if size:
            self._trunk.calls.credit(self._number, size)
        if heard:
            client.upstream_heard(heard)

    def lost(self, *, unprocessed: bool = False) -> None:
        """There will be no more of it. A whole answer that waits for its client is still whole."""
        client = self.client
        if client is not None and not (self.dialect.ended and self._held):
            client.upstream_lost(unprocessed=unprocessed)

    # -- the end

    def read_plainly(self) -> None:
        """There is but one way."""

    def close(self) -> None:
        """Whatever is not over is cancelled."""
        self._pending, self._ending = b"", None
        self._held.clear()
        self._trunk.leave(self, self._number, self._begun_at)

    def abort(self) -> None:
        """The whole connection is dead."""
        self._trunk.abort()


class Trunk(asyncio.Protocol):
    """A connection to `server`, ready when its settings have come: `ready` is then done, or has failed with an OSError.

    `on_leave` is called once, when it takes no new requests any more. `tell` is for what somebody has to look into.
    """

    def __init__(self, server: Address, on_leave: Callable[[Trunk], None], tell: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self.server, self.name = server, endpoint(*server)
        self.secured: Secured | None = None  # how, once it is
        self.full = False
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.ready.add_done_callback(_seen)
        self.now = self._loop.time
        self.calls = Calls(SERVERS, self.now())
        self._on_leave, self._tell = on_leave, tell
        self._transport: asyncio.Transport | None = None
        self._streams: dict[int, Stream] = {}
        self._waiting: dict[Stream, None] = {}  # for room
        self._leaving = False
        self._closing = False
        self._flushing = False
        self._receiving = False
        self._heard_at = self._idle_since = self.now()
        self._pinged_at = 0.0

    # -- what the service may ask

    @property
    def takes(self) -> bool:
        """Whether it has room for a request."""
        return not self._leaving and self.calls.takes and self.calls.greeted

    @property
    def used(self) -> bool:
        """Whether it had a request before."""
        return self.calls.last > 0

    @property
    def streams(self) -> int:
        """How many requests it has."""
        return len(self._streams)

    @property
    def silent(self) -> bool:
        """Whether the server's machine does not acknowledge what we have sent. Asks the kernel."""
        transport = self._transport
        if transport is None or transport.is_closing() or self.server[0].startswith(UNIX):
            return False
        return is_silent(cast(socket.socket, transport.get_extra_info("socket")))

    def retire(self) -> None:
        """Takes no new request, and closes after the last one."""
        if not self._leaving:
            self._leaving = True
            self._on_leave(self)
        self._close_if_over()

    def tick(self, now: float) -> None:
        """Does what has become due; to be called a few times a second."""
        if self._leaving:
            return
        if self.calls.exhausted:
            self.retire()
        elif not self._streams:
            if now - self._idle_since >= IDLE_S:
                self.retire()
        elif self._pinged_at:
            if now - self._pinged_at >= PING_WAIT_S:
                self._tell("it answers no ping")
                self.abort()
        elif now - max(self._heard_at, self._idle_since) >= PING_S:
            self._pinged_at = now
            self.calls.ping(_PING)
            self.flush_soon()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- streams

    def begin(self, stream: Stream, request: Outgoing, ended: bool) -> int:
        tls = self.secured is not None and self.secured[0] is not None
        number = self.calls.begin(request_block(request, b"https" if tls else b"http"), ended=ended)
        if not self._streams:
            self._idle_since = self.now()
        self._streams[number] = stream
        self.flush_soon()
        return number

    def has_more(self, stream: Stream) -> None:
        self._waiting[stream] = None
        self._pump(stream)

    def leave(self, stream: Stream, number: int, begun_at: float) -> None:
        """The carrier is done with it."""
        self._waiting.pop(stream, None)
        if self._streams.pop(number, None) is None:
            return
        now = self.now()
        if self.calls.has(number):
            self.calls.reset(number, Error.CANCEL)
            if now - max(begun_at, self._heard_at) >= SUSPECT_S:
                self.retire()
        if not self._streams:
            self._idle_since = now
        self.flush_soon()
        self._close_if_over()

    def _pump(self, caller: Stream | None = None) -> None:
        """Those who wait send in turns. Who is done hears of it, but for the caller."""
        moved = True
        while moved and not self.full and self._waiting:
            moved = False
            for stream in list(self._waiting):
                if stream not in self._waiting or not stream.push():
                    continue
                moved = True
                if not stream.waits:
                    del self._waiting[stream]
                    if stream is not caller and stream.client is not None:
                        stream.client.balance()
            if moved and self._waiting:
                self._flush()
        self.flush_soon()

    def flush_soon(self) -> None:
        """What several requests send in one turn of the loop is one write."""
        if not self._flushing and not self._receiving:
            self._flushing = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        data = self.calls.take()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # -- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._unready("it does not agree to h2 by ALPN")
            self.abort()
            return
        self._flush()

    def data_received(self, data: bytes) -> None:
        calls = self.calls
        self._heard_at, self._pinged_at = self.now(), 0.0
        if not calls.greeted and data.startswith(b"HTTP/1"):
            self._unready("it answers in HTTP/1")
            self.abort()
            return
        self._receiving = True
        for event in calls.receive(data, self._heard_at):
            self._hear(event)
        if calls.greeted and not self.ready.done():
            self.ready.set_result(None)
        if self._waiting:
            self._pump()
        self._receiving = False
        self._flush()
        self._close_if_over()

    def pause_writing(self) -> None:
        self.full = True
        self._balance()

    def resume_writing(self) -> None:
        self.full = False
        self._pump()
        self._balance()

    def _balance(self) -> None:
        for stream in list(self._streams.values()):
            if stream.client is not None:
                stream.client.balance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unready("it closed the connection before its settings came")
        self._lose()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Headed | Came):
            stream = self._streams.get(event.stream)
            if stream is None:
                return
            if isinstance(event, Headed):
                stream.hear(stream.dialect.headed(event.fields, ended=event.ended), 0)
            else:
                stream.hear(stream.dialect.came(event.payload, ended=event.ended), event.size)
        elif isinstance(event, WasReset):
            stream = self._streams.get(event.stream)
            if stream is None:
                return
            if event.why:
                self._tell(event.why)
                stream.hear([Refused(Code.STREAM)], 0)
            else:
                stream.lost(unprocessed=event.code == Error.REFUSED_STREAM and stream.dialect.untouched)
        elif isinstance(event, Left):
            if event.code != Error.NO_ERROR:
                self._tell(f"it ends the connection with error {event.code}")
            self.retire()
            for number in event.unserved:
                stream = self._streams.get(number)
                if stream is not None:
                    stream.lost(unprocessed=stream.dialect.untouched)
        elif isinstance(event, Broken):
            if self.ready.done():
                self._tell(f"its connection is given up: {event.why}")
            self._unready(event.why)
            self._flush()
            self._lose()
            self._close()
        # An answered ping has been noted by what it is; where windows have opened, whoever waits is asked next.

    def _unready(self, why: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(NotHttp2(f"no HTTP/2 with it: {why}"))

    def _lose(self) -> None:
        """Every request is lost, and the server may have had it."""
        if not self._leaving:
            self._leaving = True
            self._on_leave(self)
        for stream in list(self._streams.values()):
            stream.lost()

    def _close_if_over(self) -> None:
        if self._leaving and not self._streams and not self._closing:
            self._closing = True
            self.calls.leave()
            self._flush()
            self._close()

    def _close(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if transport.get_write_buffer_size():
            self._loop.call_later(CLOSE_S, transport.abort)
        transport.close()


def _seen(ready: asyncio.Future[None]) -> None:
    """Who has waited for it may be gone."""
    if not ready.cancelled():
        ready.exception()
