"""One stream of a client's HTTP/2 connection: a request with its exchange, deadlines, account and line of the log.

What a client may have waiting here is bounded by what it was allowed to send (its window: credit is given back when the
server has taken the bytes) and by what it does not take: a stream whose answer is not taken stops its own server's
connection, and no other's, until all streams of a connection together hold too much (h2_conn.py).

    waits here                            stops
    body that the server does not take    the client, by this stream's window
    answer that the client does not take  the server, by not reading from it; after send_timeout_s the stream is reset
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

from proxy.carrier import NEVER, State
from proxy.commands import Abort, Command, EndClient, Finish, ReleaseUpstream, SendClient, SendUpstream, TellClient
from proxy.errors import Code, Refused, Source
from proxy.h2_frames import Error
from proxy.hpack import Pair
from proxy.http2 import Http2Client, head_block, lines_block
from proxy.message import RequestHead
from proxy.served import ServingCarrier

if TYPE_CHECKING:
    from proxy.h2_conn import Http2Connection

HIGH_BYTES: Final = 16_384  # of an answer that waits: then its server is not read from any more
LOW_BYTES: Final = 4_096
USUAL_URGENCY: Final = 3  # RFC 9218 §4.1
_URGENCY = re.compile(rb"(?:^|,)[ \t]*u=([0-7])[ \t]*(?:$|,|;)")
_ALONE = re.compile(rb"(?:^|,)[ \t]*i(?:=\?1)?[ \t]*(?:$|,|;)")


def priority_of(values: list[bytes]) -> tuple[int, bool]:
    """How urgent a client says that an answer is, and whether parts of it are of use to it (RFC 9218 §4).

    One that says nothing has its answers in turns.
    """
    if not values:
        return USUAL_URGENCY, True
    said = b",".join(values)
    urgency = _URGENCY.search(said)
    return int(urgency[1]) if urgency else USUAL_URGENCY, _ALONE.search(said) is not None


class Stream(ServingCarrier):
    """A request with this number, on this connection. `left`: bytes of its body that are to come, None: any number."""

    __slots__ = (
        "_at", "_client", "_connection", "_end", "_held", "_left", "_out", "_over_here", "_owed", "_whole", "in_turn",
        "number", "queued", "shares", "urgency",
    )  # fmt: skip

    def __init__(self, connection: Http2Connection, number: int, *, ended: bool) -> None:
        super().__init__(connection.hub, connection.site)
        self._connection = connection
        self._transport, self._origin = connection.transport, connection.origin
        self._visitor, self._throttle = connection.visitor, connection.throttle
        self.number = number
        self.since = self._hub.now()
        self._full = connection.crowded
        self._client: Http2Client | None = None
        self._whole = ended  # the client has sent all
        self._left: int | None = None
        self._owed = 0  # of the client's window, to be given back
        self._held = 0
        self._out: deque[bytes] = deque()  # payload that waits for its turn, `queued` bytes
        self._at = 0  # so much of the first piece is gone
        self.queued = 0
        self._end: bytes | None = None  # the answer is whole, and these are its trailers
        self._over_here = False  # the end of our half has been sent
        self.urgency, self.shares = USUAL_URGENCY, True
        self.in_turn = False  # it is among those from which the connection takes

    # -- the client's side

    def ask(self, fields: list[Pair], size: int) -> bool:
        """Sends a request without a body by a faster way than `begin`'s, if there is one."""
        return False

    def begin(self, head: RequestHead) -> None:
        """The head is good."""
        block = head.block
        if priorities := block.values(b"priority"):
            self.urgency, self.shares = priority_of(priorities)
        self._left = block.length if block.length > 0 else 0 if block.length == 0 else None
        # A tunnel's data are no body: to a server of HTTP/1 the request that asks for it has none.
        self._client = Http2Client(head, ended=self._whole or bool(block.upgrade))
        self._account.begin(head.size)
        self._account.number = self._connection.requests
        self._serve(head, client=self._client)
        self.balance()

    def came(self, payload: bytes, size: int, ended: bool) -> None:
        """Some of the body; `size` is what it counts in the window."""
        self._owed += size
        self._account.bytes_in += size
        exchange, client = self._exchange, self._client
        self._whole = self._whole or ended
        if exchange is None or client is None:
            self.balance()
            return
        if exchange.tunnels or exchange.head.block.upgrade:
            self._through(payload, ended)
            return
        client.came(len(payload))
        if ended:
            client.end()
        if self._left is not None:
            self._left -= len(payload)
            if self._left < 0 or (ended and self._left):
                self._run(exchange.refused(Code.LENGTH_WRONG))
                return
        self._run(exchange.client_data(payload))
        if self._body_until < NEVER:
            self._body_until = self._site.allowance.body_until(self._body_until, len(payload), self._hub.now())
        self._touch()
        self.balance()

    def _through(self, payload: bytes, ended: bool) -> None:
        """Data of a tunnel, or ahead of one."""
        exchange = self._exchange
        assert exchange is not None
        if payload:
            self._run(exchange.client_data(payload))
        if ended:
            self._eof = True
            self._run(exchange.client_ended() if exchange.tunnels else exchange.client_closed())
        self._touch()
        self.balance()

    def trailed(self, lines: bytes | Refused) -> None:
        """The body has ended, with these trailers."""
        exchange, client = self._exchange, self._client
        self._whole = True
        if exchange is None or client is None:
            return
        if isinstance(lines, Refused) or self._left or exchange.head.block.upgrade:
            self._run(exchange.refused(lines.code if isinstance(lines, Refused) else Code.LENGTH_WRONG))
            return
        client.end(lines)
        self._run(exchange.client_data(b""))
        self._touch()

    def gone(self) -> None:
        """The client has reset the stream, or is gone itself."""
        self._leave_queue()
        if self._exchange is not None:
            self._run(self._exchange.client_closed())
        self._forget()

    # -- the answer

    def _run(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, TellClient):
                self._tell(command.status, command.lines, ended=command.ended)
            elif isinstance(command, SendClient):
                self._send(command.data)
            elif isinstance(command, EndClient):
                self._end = command.trailers
                self._connection.offer(self)
            elif isinstance(command, SendUpstream):
                assert self._upstream is not None
                self._upstream.write(command.data)
            elif isinstance(command, ReleaseUpstream):
                self._release(command.reuse)
            elif isinstance(command, Finish):
                self._record()
                self._finish(command)
            elif isinstance(command, Abort):
                self._abort()
            else:
                super()._run([command])

    def reply(self, status: int, lines: bytes, body: bytes) -> int:
        """An answer to what is no request that we serve; how many bytes it is."""
        if body:
            self._tell(status, lines, ended=False)
            self._send(body)
            self._end = b""
            self._connection.offer(self)
        else:
            self._tell(status, lines, ended=True)
        self._wait(State.LINGER, self._site.allowance.send_timeout_s)
        return len(lines) + len(body)

    def answer(self, block: bytes, payload: bytes) -> None:
        """A whole answer, without an exchange."""
        connection = self._connection
        if not payload:
            connection.tell(self.number, block, ended=True)
        if not payload or connection.answer(self.number, block, payload):
            self._all_sent()
            return
        connection.tell(self.number, block, ended=False)
        self._end = b""
        self._wait(State.LINGER, self._site.allowance.send_timeout_s)
        self._send(payload)

    def _tell(self, status: int, lines: bytes, *, ended: bool) -> None:
        block = head_block(status, lines)
        self._account.bytes_out += len(block)
        self._connection.tell(self.number, block, ended=ended)
        if ended:
            self._all_sent()

    def _send(self, data: bytes) -> None:
        self._account.bytes_out += len(data)
        self._out.append(data)
        self.queued += len(data)
        self._connection.hold(len(data))
        if self.queued > HIGH_BYTES and not self._full:
            self._stop()
        self._connection.offer(self)

    def _stop(self) -> None:
        """The client has more than enough of ours to take."""
        self._full = True
        if self._upstream is not None:
            self._upstream.pause_reading()
        self._touch()

    def choke(self) -> None:
        """The connection's streams hold too much together."""
        if not self._full:
            self._stop()

    def _go_on(self) -> None:
        self._full = False
        if self._upstream is not None:
            self._upstream.resume_reading()
        self._touch()

    def breathe(self) -> None:
        """They hold no longer too much."""
        if self._full and self.queued <= LOW_BYTES:
            self._go_on()

    @property
    def sendable(self) -> bool:
        """Whether there is anything to be sent."""
        return bool(self._out) or self._end is not None

    def take(self, most: int) -> tuple[bytes, bool]:
        """Payload for the next frame, at most so many bytes; and whether nothing follows it, trailers neither.

        `sent` is to be called then.
        """
        out, data = self._out, b""
        while out and len(data) < most:
            piece, at = out[0], self._at
            part = piece[at : at + most - len(data)] if at or len(piece) > most - len(data) else piece
            data = data + part if data else part
            self._at += len(part)
            if self._at == len(piece):
                out.popleft()
                self._at = 0
        if data:
            self.queued -= len(data)
            self._connection.hold(-len(data))
        return data, not out and self._end == b""

    def sent(self, *, ended: bool) -> None:
        """What `take` gave has been sent."""
        if ended:
            self._all_sent()
            return
        if not self._out and self._end:
            self._connection.tell(self.number, lines_block(self._end), ended=True)
            self._all_sent()
        elif self._full and self.queued <= LOW_BYTES and not self._connection.crowded:
            self._go_on()

    def _all_sent(self) -> None:
        """Our half has ended. A client that has not ended its own is asked to stop (RFC 9113 §8.1)."""
        self._end, self._over_here = None, True
        if self._exchange is None:
            self._leave()

    def _leave(self) -> None:
        if not self._whole:
            self._connection.reset(self.number, Error.NO_ERROR)
        self._forget()

    def _finish(self, finish: Finish) -> None:
        tunnel = self._exchange is not None and self._exchange.head.block.upgrade
        self._exchange = None
        self._ends_at = NEVER
        if self._over_here:
            self._leave()
            return
        if tunnel and self._end is None:
            self._end = b""
            self._connection.offer(self)
        self._wait(State.LINGER, self._site.allowance.send_timeout_s)
        self.balance()

    def _abort(self) -> None:
        """The answer is incomplete: the client is told so."""
        exchange = self._exchange
        assert exchange is not None
        self._record()
        self._exchange = None
        wrong = exchange.error is Code.LENGTH_WRONG
        ours = Error.PROTOCOL_ERROR if wrong else Error.CANCEL if exchange.source is Source.CLIENT else None
        self._connection.reset(self.number, Error.INTERNAL_ERROR if ours is None else ours)
        self._forget()

    def _forget(self) -> None:
        """The stream is over."""
        self._state = State.CLOSED
        self.deadline = NEVER
        self._connection.hold(-self.queued)
        self._out.clear()
        self.queued, self._end = 0, None
        self._hold(0)
        if self._owed:
            self._credit_back()
        self._connection.forget(self)

    # -- flow and time

    def balance(self) -> None:
        exchange = self._exchange
        held = len(exchange.rest) if exchange is not None else 0
        if held != self._held and self._hold(held) and exchange is not None:
            self._hub.count("overloads")
            self._leave_queue()
            self._run(exchange.overloaded())
            return
        pause = bool(held) or (self._upstream is not None and self._upstream.full)
        if self._owed and not pause:
            self._credit_back()
        if pause != self._paused:
            self._paused = pause
            if exchange is not None and not exchange.request_complete:
                self._touch()  # from now on somebody else is waited for

    def _hold(self, held: int) -> bool:
        before, self._held = self._held, held
        return self._hub.crowd.hold(before, held)

    def _credit_back(self) -> None:
        owed, self._owed = self._owed, 0
        self._connection.credit(self.number, owed)

    def expire(self) -> None:
        """The deadline has passed."""
        if self._held_up():
            return
        self.deadline = NEVER
        if self._exchange is not None:
            self._time_out(self._exchange)
        elif self._state is not State.CLOSED:  # what is left of the answer is not taken
            self._connection.reset(self.number, Error.CANCEL)
            self._forget()

    def drained(self) -> None:
        """The drain time is over."""
        self._leave_queue()
        if self._exchange is not None:
            self._run(self._exchange.drained())
