"""Bytes between sockets and exchanges of HTTP/1; back-pressure.

A client connection reads heads one after the other and runs one exchange at a time: answers leave in the order of their
requests, and requests sent ahead wait in a buffer of PIPELINE_BYTES, beyond which nothing more is read.

Memory is bounded in both directions because neither side is read while the other side's transport is full: what one
read brought (uvloop's 256 KB; READ_BYTES from a server whose answer is long) and a transport's high-water mark are all
that a connection ever holds.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, cast

from proxy import headers
from proxy.access_log import Record
from proxy.arrival import identity_of, origin_of, visitor_of
from proxy.carrier import NEVER, State
from proxy.client_identity import UnusableIdentity
from proxy.commands import Finish
from proxy.errors import Code, Refused
from proxy.gate import LOG_EVERY_S, admits
from proxy.h2_conn import Http2Connection
from proxy.h2_frames import PREFACE
from proxy.head import read_request
from proxy.hub import Hub, Site
from proxy.message import RequestHead
from proxy.pages import PLAIN_FORM, Form
from proxy.served import ServingCarrier
from proxy.upstream import CLOSE_S, WRITE_HIGH_BYTES

log = logging.getLogger(__name__)

PIPELINE_BYTES: Final = 65_536
# RFC 9112 §9.6: after an early answer, read on for a while so that a reset does not destroy it.
LINGER_S: Final = 2.0
DRAIN_IDLE_S: Final = 1.0
_HTTP_2: Final = PREFACE[:18]  # what a head of HTTP/1 would be
HEADS_A_TURN: Final = 16  # of one client; replies of our own to what is sent ahead must not hold up the others


class ClientConnection(ServingCarrier):
    """One client's connection to a listener."""

    __slots__ = (
        "_buffer", "_held_bytes", "_place", "_reading_heads", "_retiring", "_scanned", "_turn_over",
    )  # fmt: skip

    def __init__(self, hub: Hub, site: Site) -> None:
        super().__init__(hub, site)
        self._buffer = b""
        self._scanned = 0
        self._retiring = False
        self._reading_heads = False
        self._turn_over = False  # what is here waits for the loop's next turn
        self._place: str | None = None  # in the crowd
        self._held_bytes = 0

    # -- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        visitor = self._visitor = visitor_of(self._site, transport)
        self._origin = origin_of(self._site, transport, visitor.client, self._hub.node, self._identify())
        site = self._site
        if site.throttling is not None:
            self._throttle = transport.get_extra_info("throttle")
        site.connections.add(self)
        site.most_connections = max(site.most_connections, len(site.connections))
        self._hub.count("connections")
        self._hub.journal.bills.opened(site.name)
        self._place = self._hub.crowd.enter(visitor.client, self._site.allowance)
        if self._place is None or self._hub.crowd.full:
            self._turn_away()
        self.since = self._hub.now()
        self.deadline = self._hub.now() + self._site.idle_timeout_s
        if self._site.access is not None:
            self.admit()  # the list may have changed during the TLS handshake

    @property
    def _leaving(self) -> bool:
        """Whether the connection is to close after the answer that it has."""
        return self._retiring or self._site.closing

    def _identify(self) -> bytes | None:
        """See `identity_of`. Cuts a client whose certificate is not to be used."""
        try:
            return identity_of(self._site, self._transport)
        except UnusableIdentity as error:
            self._hub.count("client_certificates_refused")
            log.info("%s: the certificate of %s is not taken: %s", self._site.name, self._visitor.client, error)
            self._transport.abort()
        return b""

    def data_received(self, data: bytes) -> None:
        exchange = self._current()
        if exchange is not None:
            self._account.bytes_in += len(data)
            ahead = exchange.request_complete  # what is sent ahead buys the request before it no time
            self._run(exchange.client_data(data))
            if not ahead:
                if self._body_until < NEVER:
                    self._body_until = self._site.allowance.body_until(self._body_until, len(data), self._hub.now())
                self._touch()
            self.balance()
        elif self._state is not State.LINGER:
            self._buffer = self._buffer + data if self._buffer else data
            self._read_heads()

    def eof_received(self) -> bool:
        """A client that has sent its whole request may close its half and still gets the answer (RFC 9112 §9.6)."""
        self._eof = True
        exchange = self._current()
        while exchange is not None and exchange.more:
            self._run(exchange.go_on())
            exchange = self._exchange
        if exchange is not None and exchange.tunnels:
            self._run(exchange.client_ended())
            self._touch()
            return True
        return exchange is not None and exchange.request_complete

    def pause_writing(self) -> None:
        self._current()
        self._full = True
        if self._upstream is not None:
            self._upstream.pause_reading()
        self._touch()

    def resume_writing(self) -> None:
        self._full = False
        if self._upstream is not None:
            self._upstream.resume_reading()
        if self._exchange is None and self._state is not State.LINGER:
            self._read_heads()
        else:
            self._touch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._site.connections.discard(self)
        if self._place is not None:
            self._hub.crowd.leave(self._place)
            self._hub.crowd.hold(self._held_bytes, 0)
            self._place, self._held_bytes = None, 0
        self._leave_queue()
        exchange = self._current()
        if exchange is not None:
            self._run(exchange.client_closed())
        self._state = State.CLOSED
        self.deadline = NEVER

    # -- heads

    def _read_heads(self) -> None:
        """Starts an exchange for each head in the buffer, one after the other; some end before this returns."""
        if self._reading_heads:
            return
        if self._turn_over:
            self.balance()
            return
        self._reading_heads = True
        left = HEADS_A_TURN
        while self._exchange is None and not self._full and self._state in (State.IDLE, State.HEAD):
            if not self._buffer:
                self._rest()
                break
            if not left:
                self._wait(State.HEAD, self._site.allowance.head_timeout_s)
                self._turn_over = True
                self._hub.loop.call_soon(self._next_turn)
                break
            left -= 1
            if self._site.prior_knowledge and not self._account.number and self._buffer.startswith(_HTTP_2):
                self._hand_over()
                break
            try:
                head = read_request(self._buffer, self._scanned)
            except Refused as refused:
                self._refuse(refused.code, refused.offset)
                break
            if head is None:
                self._scanned = len(self._buffer)
                if self._state is State.IDLE:
                    self._wait(State.HEAD, self._site.allowance.head_timeout_s)
                break
            self._start(head)
        self._reading_heads = False
        if self._state is not State.CLOSED:
            self.balance()

    def _rest(self) -> None:
        """Between two requests. One that leaves and has not said so has a client that may have sent another request."""
        self._wait(State.IDLE, DRAIN_IDLE_S if self._leaving else self._site.idle_timeout_s)

    def _next_turn(self) -> None:
        self._turn_over = False
        exchange = self._exchange
        if exchange is None or not exchange.more:
            self._read_heads()
            return
        self._run(exchange.go_on())
        self._touch()
        self.balance()

    def _start(self, head: RequestHead) -> None:
        self._account.begin(len(self._buffer))
        rest, self._buffer, self._scanned = self._buffer[head.size :], b"", 0
        self._serve(head, rest, closing=self._leaving)

    def _hand_over(self) -> None:
        """It is a connection of HTTP/2, whose preface no request of HTTP/1 can be (RFC 9113 §3.3, §3.4)."""
        data, self._buffer, self._state = self._buffer, b"", State.CLOSED
        self.connection_lost(None)
        connection = Http2Connection(self._hub, self._site, counted=True)
        self._transport.set_protocol(connection)
        connection.connection_made(self._transport)
        connection.data_received(data)

    def _refuse(self, code: Code, offset: int | None) -> None:
        """Answers what is not a request that we serve, and closes."""
        hub = self._hub
        identifier = hub.new_request_id()
        date, hsts, answering = hub.date(), self._site.hsts, self._site.router.answering
        reply = headers.error_reply(
            code,
            code.status,
            identifier,
            hub.node,
            date,
            close=True,
            body=True,
            hsts=hsts,
            offset=offset,
            form=Form(answering.pages) if answering is not None else PLAIN_FORM,
        )
        self._transport.write(reply)
        record = Record(self._site.name, self._visitor.client, status=code.status, bytes_in=len(self._buffer))
        record.bytes_out, record.request_id = len(reply), identifier.decode()
        record.tls_version, record.sni = self._visitor.tls_version, self._visitor.sni
        hub.journal.record(record, code, code.source.value, offset)
        self._buffer = b""
        self._finish(Finish(keep_alive=False, linger=True))

    def _finish(self, finish: Finish) -> None:
        exchange, self._exchange = self._exchange, None
        self._ends_at = NEVER
        if exchange is not None:
            self._buffer, self._scanned = exchange.rest, 0
        if self._transport.is_closing():
            self._wait(State.CLOSED, CLOSE_S)
        elif finish.linger and not self._eof:
            self._buffer = b""
            self._wait(State.LINGER, LINGER_S)
            self.balance()
            if self._transport.can_write_eof():
                self._transport.write_eof()
        elif finish.keep_alive and not (self._eof and not self._buffer):
            self._rest()
            self._read_heads()
        else:
            self._close()

    def _close(self) -> None:
        """Sends what is left to be sent, for a while; then the connection is cut."""
        self._wait(State.CLOSED, CLOSE_S)
        self._transport.close()

    # -- flow and time

    def balance(self) -> None:
        exchange = self._exchange
        held = len(self._buffer) if exchange is None else len(exchange.rest)
        if held != self._held_bytes and self._place is not None:
            before, self._held_bytes = self._held_bytes, held
            if self._hub.crowd.hold(before, held):
                self._shed()
                return
        full = self._upstream is not None and self._upstream.full
        if exchange is not None and exchange.more and not full and not self._turn_over:
            self._turn_over = True
            self._hub.loop.call_soon(self._next_turn)
        pause = held > PIPELINE_BYTES or full
        if pause != self._paused and not self._transport.is_closing() and not self._eof:
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
            if exchange is not None and not exchange.request_complete:
                self._touch()  # from now on somebody else is waited for

    def _shed(self) -> None:
        """Gives back the bytes that wait here, of which there are too many in this worker.

        What was sent ahead is dropped: its client sees that it was not answered, and may send it again (RFC 9112
        §9.3.2). A request whose head, or whose server, is not complete or known yet, is refused.
        """
        self._hub.count("overloads")
        exchange = self._exchange
        if exchange is None:
            self._refuse(Code.OVERLOADED, None)
        elif exchange.request_complete:
            exchange.let_close()
            exchange.rest = b""
        else:
            self._leave_queue()
            self._run(exchange.overloaded())
        self.balance()

    def _turn_away(self) -> None:
        """The client, or the worker, has too many connections: this one is cut off without a word."""
        site, now = self._site, self._hub.now()
        self._hub.count("connections_refused")
        if now >= site.next_crowding_logged:
            site.next_crowding_logged = now + LOG_EVERY_S
            whose = f"{self._visitor.client} has" if self._place is None else "this worker has"
            log.warning("%s: %s too many connections; those that come are cut off", site.name, whose)
        self._transport.abort()

    def give_way(self) -> None:
        """To others, for which there is no more room. To be asked of who waits for his client."""
        self._hub.count("connections_gave_way")
        self._transport.abort()

    def expire(self) -> None:
        """The deadline has passed."""
        if self._held_up():
            return
        self.deadline = NEVER
        exchange = self._current()
        if exchange is not None:
            self._time_out(exchange)
        elif self._state is State.HEAD:
            self._refuse(Code.HEAD_TIMEOUT, len(self._buffer))
        elif self._state is State.CLOSED or self._full:
            self._transport.abort()
        else:
            self._close()

    def drain(self) -> None:
        """The listener keeps no connection alive any more: a busy one closes after its answer, an idle one soon.

        Not at once: a request may be on its way, and closing under it would lose it. Nor after an answer whose head is
        out and did not say so.
        """
        exchange = self._current()
        if exchange is not None:
            if not exchange.answering:
                exchange.let_close()
        elif self._state is State.IDLE:
            self.deadline = min(self.deadline, self._hub.now() + DRAIN_IDLE_S)

    def retire(self) -> None:
        """Whom the listener admits has changed: the client has to come again, after one more answer at most.

        A WebSocket goes on.
        """
        self._retiring = True
        self.drain()

    def cut(self) -> None:
        """The drain time is over."""
        self._leave_queue()
        exchange = self._current()
        if exchange is not None:
            self._run(exchange.drained())
        self._close()

    def admit(self) -> None:
        """The listener's access list may have changed: whoever it denies is cut off without a word."""
        if not admits(self._site, self._transport):
            self._hub.count("connections_denied")
            self._transport.abort()
