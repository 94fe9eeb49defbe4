"""An established TLS connection: a transport towards the application, a protocol towards the socket.

    application ── write ──► queue ──► SSL_write ──► outgoing BIO ──► raw transport
    application ◄─ data_received ── SSL_read ◄── incoming BIO ◄── shared buffer ◄── raw transport

Memory is bounded in both directions. What comes in is decrypted and delivered before more is read, and nothing is read
while the application has paused. What goes out is encrypted only while the raw transport takes it; the rest waits in
the queue as plaintext, and the application is paused when that exceeds its limit. Data passes through the two BIOs in
slices of one record, because a BIO keeps the memory of the largest thing it ever held.

The two buffers that sockets are read into and records are decrypted into are shared by all connections of a process:
each is in use within one callback only.

End of stream: close_notify and a bare FIN both end what the client sends (`eof_received`); HTTP has its own framing to
tell a truncated message by. If the application then wants to go on writing, it can: TLS 1.3 allows it (RFC 8446 §6.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

RECORD = 16384  # plaintext of a full record (RFC 8446 §5.1)
SLICE = RECORD + 512  # its ciphertext, with room for header, padding and tag
READ = 65536  # bytes taken from a socket at a time
LINGER_S = 2.0  # as long as plain connections whose client is still sending (conn.py)
HIGH_WATER, LOW_WATER = 65536, 16384  # bytes; asyncio's own default for the first

Bytes = bytes | bytearray | memoryview
_NOBODY = asyncio.Protocol()  # to whom those belong that are over


class Buffers:
    """The memory that every connection reads through.

    `plain` has room for what `cipher` can hold and for the part of a record that came before.
    """

    __slots__ = ("cipher", "plain")

    def __init__(self) -> None:
        self.cipher = memoryview(bytearray(READ))
        self.plain = memoryview(bytearray(READ + 2 * SLICE))


class TlsStream(asyncio.Transport, asyncio.BufferedProtocol):
    """Made when the handshake is done. `start` tells the application and delivers what has come with the handshake."""

    __slots__ = (
        "_buffers",
        "_close_timeout_s",
        "_closer",
        "_closing",
        "_ended",
        "_error",
        "_high",
        "_incoming",
        "_inner",
        "_inner_paused",
        "_lingers",
        "_loop",
        "_low",
        "_outgoing",
        "_queue",
        "_queued",
        "_raw",
        "_raw_paused",
        "_reading",
        "_sni",
        "_tls",
    )

    def __init__(
        self,
        raw: asyncio.Transport,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        inner: asyncio.Protocol,
        *,
        loop: asyncio.AbstractEventLoop,
        buffers: Buffers,
        sni: str,
        raw_paused: bool,
        close_timeout_s: float,
    ) -> None:
        super().__init__()
        self._raw = raw
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._inner = inner
        self._buffers = buffers
        self._sni = sni
        self._raw_paused = raw_paused
        self._close_timeout_s = close_timeout_s
        self._loop = loop
        self._queue: deque[Bytes] = deque()
        self._queued = 0
        self._high, self._low = HIGH_WATER, LOW_WATER
        self._inner_paused = False
        self._reading = True
        self._ended = False
        self._closing = False
        self._error: ssl.SSLError | None = None
        self._closer: asyncio.TimerHandle | None = None
        self._lingers: asyncio.TimerHandle | None = None  # all is said; what the client still sends is dropped

    def start(self, early: bytes) -> None:
        """`early`: ciphertext that arrived after the client's Finished and is in no BIO yet."""
        self._inner.connection_made(self)
        if early and not self._closing:
            self._incoming.write(early)
        self._decrypt_left_over()

    # Protocol towards the socket

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffers.cipher

    def buffer_updated(self, nbytes: int) -> None:
        if not self._closing:
            self._decrypt(self._buffers.cipher[:nbytes])

    def eof_received(self) -> bool:
        """True keeps the raw transport open for writing."""
        self._end()
        return not self._closing or bool(self._queue)

    def pause_writing(self) -> None:
        self._raw_paused = True

    def resume_writing(self) -> None:
        self._raw_paused = False
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._queue.clear()
        self._queued = 0
        for timer in (self._closer, self._lingers):
            if timer is not None:
                timer.cancel()
        inner, self._inner = self._inner, _NOBODY  # who knows us: OpenSSL's 34 KiB would wait for a collection
        inner.connection_lost(exc or self._error)

    # Reading

    def _decrypt(self, data: memoryview) -> None:
        """Delivers what `data` completes, in one piece, then the end of the stream if that is in it too."""
        filled, ended = 0, False
        try:
            for start in range(0, len(data) or 1, SLICE):
                self._incoming.write(data[start : start + SLICE])
                filled, ended = self._read_records(filled)
                if ended or self._closing:
                    break
        except ssl.SSLError as error:
            self._fail(error)
            return
        if self._outgoing.pending:  # the answer to a KeyUpdate
            self._raw.write(self._outgoing.read())
        self._deliver(filled)
        if ended:
            self._end()

    def _read_records(self, filled: int) -> tuple[int, bool]:
        """Adds the plaintext of all whole records to the `filled` bytes; the second result is true at the stream's end.

        A BIO or record that is empty is not read again only to be told so: the exception would cost 2 µs. What came
        before a broken record is delivered. Raises SSLError.
        """
        tls, incoming, plain = self._tls, self._incoming, self._buffers.plain
        try:
            while incoming.pending or tls.pending():
                if len(plain) - filled < RECORD:  # only where reading was paused with much in the BIO
                    self._deliver(filled)
                    filled = 0
                    if self._closing:
                        break
                got = tls.read(RECORD, plain[filled:])
                if not got:
                    return filled, True
                filled += int(got)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return filled, True
        except ssl.SSLError:
            self._deliver(filled)
            raise
        return filled, False

    def _deliver(self, filled: int) -> None:
        if filled and not self._closing:
            self._inner.data_received(bytes(self._buffers.plain[:filled]))

    def _decrypt_left_over(self) -> None:
        if self._reading and not self._closing and (self._incoming.pending or self._tls.pending()):
            self._decrypt(self._buffers.cipher[:0])

    def _end(self) -> None:
        """The client sends no more. The application decides whether it still has something to say."""
        if self._ended or self._closing:
            return
        self._ended = True
        if not self._inner.eof_received():
            self.close()

    def pause_reading(self) -> None:
        if self._reading and not self._closing:
            self._reading = False
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and not self._closing:
            self._reading = True
            self._raw.resume_reading()
            self._loop.call_soon(self._decrypt_left_over)

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    # Writing

    def write(self, data: Bytes) -> None:
        """Encrypts and sends as much as the raw transport takes, queues the rest. Ignored after `close`."""
        if self._closing or not data:
            return
        if self._raw_paused or self._queue:
            self._enqueue(data)
        else:
            self._send(data)
        if self._queued > self._high and not self._inner_paused:
            self._inner_paused = True
            self._inner.pause_writing()

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        """Small pieces, such as a head and its body, share a record."""
        pieces = list(list_of_data)
        if sum(map(len, pieces)) <= RECORD:
            self.write(b"".join(pieces))
        else:
            for piece in pieces:
                self.write(piece)

    def _enqueue(self, data: Bytes) -> None:
        """What is queued is ours: the caller may change a bytearray as soon as `write` has returned."""
        data = data if isinstance(data, bytes) else bytes(data)
        self._queue.append(data)
        self._queued += len(data)

    def _send(self, data: Bytes) -> None:
        """Only while the raw transport takes it; what it does not take is put at the *head* of the queue."""
        try:
            if len(data) <= RECORD:
                self._tls.write(data)
                self._raw.write(self._outgoing.read())
                return
            view = memoryview(data)
            for start in range(0, len(view), RECORD):
                if self._raw_paused:
                    left = view[start:]
                    self._queue.appendleft(left if view.readonly else bytes(left))
                    self._queued += len(left)
                    return
                self._tls.write(view[start : start + RECORD])
                self._raw.write(self._outgoing.read())
        except ssl.SSLError as error:
            self._fail(error)

    def _pump(self) -> None:
        while self._queue and not self._raw_paused:
            data = self._queue.popleft()
            self._queued -= len(data)
            self._send(data)
        if self._closing:
            if not self._queue:
                self._say_goodbye()
        elif self._inner_paused and self._queued <= self._low:
            self._inner_paused = False
            self._inner.resume_writing()

    def can_write_eof(self) -> bool:
        return False

    def write_eof(self) -> None:
        raise NotImplementedError("TLS ends both directions at once: use close()")

    def get_write_buffer_size(self) -> int:
        """Bytes: plaintext in the queue and ciphertext in the raw transport."""
        return self._queued + self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Bytes of queued plaintext; the raw transport's own limit comes on top. Raises ValueError as asyncio does."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        low = high // 4 if low is None else low
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be >= low ({low}) must be >= 0")
        self._high, self._low = high, low

    # Ending

    def close(self) -> None:
        """Sends what is queued and close_notify, then closes; cuts a client that does not take it in time."""
        if self._closing:
            return
        self._closing = True
        if not self._queue:
            self._say_goodbye()
        if self._queue or self._raw.get_write_buffer_size():
            self._closer = self._loop.call_later(self._close_timeout_s, self._cut)

    def _cut(self) -> None:
        """The client has not taken everything in time; it has more where it is our own limits that hold it up."""
        if self._held_up():
            self._closer = self._loop.call_later(self._close_timeout_s, self._cut)
        else:
            self._raw.abort()

    def _held_up(self) -> bool:
        throttle = self._raw.get_extra_info("throttle")
        return throttle is not None and throttle.waits_to_write

    def _say_goodbye(self) -> None:
        """Sends close_notify, and FIN; the socket is closed when the client has ended too, or after `LINGER_S`.

        To data that arrives at a socket that is closed the kernel answers with RST, and drops what the client has not
        got yet (RFC 9112 §9.6). Its own close_notify is such data.
        """
        if self._lingers is not None:
            return
        with contextlib.suppress(ssl.SSLError):  # SSLWantReadError: the client's own close_notify is not waited for
            self._tls.unwrap()
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())
        if self._ended:
            self._raw.close()
            return
        self._lingers = self._loop.call_later(LINGER_S, self._leave)
        self._raw.write_eof()
        if not self._reading:
            self._raw.resume_reading()

    def _leave(self) -> None:
        """The client has had its time to end, which begins when everything is sent."""
        if self._held_up():
            self._lingers = self._loop.call_later(LINGER_S, self._leave)
        else:
            self._raw.close()

    def _fail(self, error: ssl.SSLError) -> None:
        """A broken record or a fatal alert. OpenSSL may have left an alert of its own, which is sent if it can be."""
        self._closing = True
        self._error = error
        self._queue.clear()
        self._queued = 0
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())
        if self._raw.get_write_buffer_size():
            self._raw.abort()
        else:
            self._raw.close()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing

    # What the application may ask

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`sni` (""), `tls_version`, `cipher`, `alpn` (""), `client_certificate` (DER of a verified one, or None), and
        whatever the raw transport knows."""
        if name == "sni":
            return self._sni
        if name == "tls_version":
            return self._tls.version()
        if name == "cipher":
            cipher = self._tls.cipher()
            return cipher[0] if cipher else default
        if name == "client_certificate":
            return self._tls.getpeercert(binary_form=True)
        if name == "alpn":
            return self._tls.selected_alpn_protocol() or ""
        return self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner
