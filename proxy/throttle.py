"""The limits of a listener and of its instance, kept between the socket and whatever speaks on it.

A connection of a listener with limits begins with a `Throttle`, a transport towards the protocols behind it. It turns
away connections that are too many or come too fast, and lets bytes pass as the bandwidth allows: it reads no more than
READ_BYTES at a time and pauses, new connections from the beginning, and it takes what is written into a queue, of which
it sends QUANTUM_BYTES when it is its turn. Whoever has to wait stands in line (`Shaper`), so that all connections of a
worker get equal parts. Nothing is dropped, and memory is bounded: the queue makes the protocol pause as a full socket
does.

Connections of listeners without limits never meet any of this.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from proxy.buckets import Bucket, Gauge

log = logging.getLogger(__name__)

READ_BYTES: Final = 16_384
QUANTUM_BYTES: Final = 16_384
HIGH_BYTES: Final = 65_536
SHORTEST_S: Final = 0.002  # between two looks at a bucket
LOG_EVERY_S: Final = 10.0

_buffer: Final = memoryview(bytearray(READ_BYTES))  # all connections share it: what is read is passed on at once


class Clock(Protocol):
    """What is needed of the loop."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> asyncio.TimerHandle: ...


class Shaper:
    """One direction of a listener: the buckets that its bytes go into, and who waits for them."""

    def __init__(self, loop: Clock) -> None:
        self.buckets: tuple[Bucket, ...] = ()
        self._loop = loop
        self._line: OrderedDict[Callable[[], None], None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, size_bytes: int) -> None:
        for bucket in self.buckets:
            bucket.take(size_bytes)

    @property
    def free(self) -> bool:
        """Whether nobody has to wait."""
        return not self._line and self.wait_s() <= 0

    def wait_s(self) -> float:
        now = self._loop.time()
        return max((bucket.wait_s(now) for bucket in self.buckets), default=0.0)

    def wait(self, turn: Callable[[], None]) -> None:
        """Has `turn` called once, when QUANTUM_BYTES may pass."""
        self._line[turn] = None
        if self._timer is None:
            self._timer = self._loop.call_later(max(self.wait_s(), SHORTEST_S), self._next)

    def leave(self, turn: Callable[[], None]) -> None:
        """Gives up the place in line, if there is one: those that are gone must not hold up who is here."""
        self._line.pop(turn, None)

    def _next(self) -> None:
        """Gives turns to as many as there is room for, each of whom is taken to use a quantum."""
        self._timer = None
        try:
            self._give_turns()
        finally:  # whatever one of them does, the others get theirs
            if self._line and self._timer is None:
                # Who was let read has done so by then, and not everybody uses a whole quantum.
                self._timer = self._loop.call_later(max(self.wait_s(), SHORTEST_S), self._next)

    def _give_turns(self) -> None:
        if self.wait_s() > 0:
            return
        now = self._loop.time()
        room = min((bucket.room(now) for bucket in self.buckets if bucket.rate), default=float("inf"))
        for _ in range(len(self._line)):
            if room <= 0 or not self._line:
                break
            turn, _ = self._line.popitem(last=False)
            turn()
            room -= QUANTUM_BYTES


class Throttling:
    """What the connections of one listener share: both directions, and how many there may be."""

    def __init__(self, name: str, loop: Clock, refused: Callable[[], None]) -> None:
        self.name = name
        self.received, self.sent = Shaper(loop), Shaper(loop)
        self.rate: Bucket | None = None  # of new connections
        self.gauge: Gauge | None = None
        self._loop = loop
        self._refused = refused
        self._next_logged = 0.0

    def lift(self) -> None:
        """There are no limits any more."""
        self.received.buckets = self.sent.buckets = ()
        self.rate = self.gauge = None

    def enter(self) -> bool:
        """A connection comes; whether it may stay. It then counts by the `gauge`, if there is one, until it ends."""
        now = self._loop.time()
        why = ""
        if self.gauge is not None and self.gauge.full:
            why = "has as many connections as it may"
        elif self.rate is not None and self.rate.wait_s(now) > 0:
            why = "gets more new connections than it may"
        if why:
            self._refused()
            if now >= self._next_logged:
                self._next_logged = now + LOG_EVERY_S
                log.warning("%s %s; those that come are cut off", self.name, why)
            return False
        if self.rate is not None:
            self.rate.take(1)
        if self.gauge is not None:
            self.gauge.change(1)
        return True


class Throttle(asyncio.Transport, asyncio.BufferedProtocol):
    """One connection of a listener with limits. `inner` is the next protocol."""

    __slots__ = (
        "_closing", "_early", "_entered", "_eof", "_gauge", "_held", "_inner", "_inner_full", "_inner_paused", "_lost",
        "_queue", "_queued", "_raw", "_raw_full", "_waits", "_with", "high",
    )  # fmt: skip

    def __init__(self, throttling: Throttling, inner: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._with = throttling
        self._inner = inner
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._entered = False
        self._closing = self._eof = self._lost = False
        self._held = False  # we do not read, since there is no bandwidth
        self._early = b""  # what came all the same
        self._waits = False  # we stand in line to write
        self._inner_paused = False  # the protocol does not want to read
        self._inner_full = False  # it has been told not to write
        self._raw_full = False
        self._gauge: Gauge | None = None  # where it counts
        self.high = HIGH_BYTES

    # Towards the socket: a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        if not self._with.enter():
            self._lost = True
            self._raw.abort()
            return
        self._entered, self._gauge = True, self._with.gauge
        self._hold()  # else each new connection would read once in advance, and run up a debt for all
        self._inner.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._entered:
            return
        if self._gauge is not None:
            self._gauge.change(-1)
        self._lost = True
        self._with.received.leave(self._read_on)
        self._with.sent.leave(self._write_on)
        self._queue.clear()
        self._queued = 0
        self._inner.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._lost:
            return
        data = bytes(_buffer[:nbytes])
        if self._held:  # a new connection: loops begin to read it whatever `connection_made` says
            self._early += data
            self._balance()
        else:
            self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        self._with.received.take(len(data))
        self._hold()
        if self._held:
            self._balance()
        self._deliver(data)

    def _hold(self) -> None:
        """Lets the connection wait before it reads more, if there is no bandwidth."""
        received = self._with.received
        if not self._held and received.wait_s() > 0:
            self._held = True
            received.wait(self._read_on)

    def _deliver(self, data: bytes) -> None:
        """The protocol may give its place to another one at any time."""
        while data and not self._lost:
            inner = self._inner
            if isinstance(inner, asyncio.BufferedProtocol):
                buffer = memoryview(inner.get_buffer(len(data))).cast("B")
                size = min(len(buffer), len(data))
                buffer[:size] = data[:size]
                inner.buffer_updated(size)
                data = data[size:]
            else:
                cast(asyncio.Protocol, inner).data_received(data)
                return

    def _read_on(self) -> None:
        self._held = False
        if self._lost:
            return
        early, self._early = self._early, b""
        if early and not self._closing:
            try:
                self._take_in(early)
            except BaseException:
                self._raw.abort()  # as a loop does
                raise
        self._balance()

    def eof_received(self) -> bool:
        stays = bool(cast(asyncio.Protocol, self._inner).eof_received())
        if stays or not self._queue:
            return stays
        self.close()  # once everything is sent
        return True

    def pause_writing(self) -> None:
        self._raw_full = True
        self._tell()

    def resume_writing(self) -> None:
        self._raw_full = False
        if self._queue and not self._waits:
            self._stand_in_line()
        self._tell()

    # Towards the protocol: a transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._lost or not data:
            return
        sent = self._with.sent
        if not self._queue and len(data) <= QUANTUM_BYTES and sent.free:
            sent.take(len(data))
            self._raw.write(data)
            return
        self._queue.append(bytes(data))
        self._queued += len(data)
        if not self._waits:
            self._stand_in_line()
        self._tell()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def _stand_in_line(self) -> None:
        self._waits = True
        self._with.sent.wait(self._write_on)

    def _write_on(self) -> None:
        self._waits = False
        if self._lost or self._raw_full:
            return
        data = self._dequeue()
        self._with.sent.take(len(data))
        self._raw.write(data)
        if self._queue:
            if not self._raw_full:
                self._stand_in_line()
        elif self._closing:
            self._raw.close()
        elif self._eof:
            self._raw.write_eof()
        self._tell()

    def _dequeue(self) -> bytes:
        """At most a quantum of what waits."""
        parts, room = [], QUANTUM_BYTES
        while self._queue and room:
            first = self._queue.popleft()
            if len(first) > room:
                self._queue.appendleft(first[room:])
                first = first[:room]
            room -= len(first)
            parts.append(first)
        self._queued -= QUANTUM_BYTES - room
        return b"".join(parts)

    def _tell(self) -> None:
        """Has the protocol write no more than there is room for."""
        full = self._raw_full or self._queued > (self.high // 4 if self._inner_full else self.high)
        if full != self._inner_full and not self._lost:
            self._inner_full = full
            inner = cast(asyncio.Protocol, self._inner)
            (inner.pause_writing if full else inner.resume_writing)()

    @property
    def waits(self) -> bool:
        """Whether it is for the limits that nothing moves."""
        return self._held or self._waits

    @property
    def waits_to_write(self) -> bool:
        """Whether it is for the limits that what is here is not sent."""
        return self._waits

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._balance()
        if not self._queue:
            self._raw.close()

    def abort(self) -> None:
        self._closing = True
        self._queue.clear()
        self._queued = 0
        self._raw.abort()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._eof = True
        if not self._queue:
            self._raw.write_eof()

    def pause_reading(self) -> None:
        self._inner_paused = True
        self._balance()

    def resume_reading(self) -> None:
        self._inner_paused = False
        self._balance()

    def _balance(self) -> None:
        if self._raw.is_closing():
            return
        if self._held or self._inner_paused or self._closing:
            self._raw.pause_reading()
        else:
            self._raw.resume_reading()

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def is_reading(self) -> bool:
        return not (self._held or self._inner_paused or self._closing)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._queued + self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`throttle`: this; and whatever the socket's transport knows."""
        return self if name == "throttle" else self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner
