"""Bytes between sockets and exchanges; deadlines; back-pressure.

A client connection reads heads one after the other and runs one exchange at a time: answers leave in the order of their
requests, and requests sent ahead wait in a buffer of PIPELINE_BYTES, beyond which nothing more is read.

Memory is bounded in both directions because neither side is read while the other side's transport is full: what one
read brought (uvloop's 256 KB; READ_BYTES from a server whose answer is long) and a transport's high-water mark are all
that a connection ever holds.

Deadlines are one attribute per connection, moved on every event, and looked at by the worker's sweep a few times a
second: cheaper than a timer for each, and exact enough for seconds. Every state has one: no connection waits for ever
for an event that was missed.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from time import monotonic
from typing import Final, cast

from core.endpoints import endpoint
from proxy import client_identity, headers
from proxy.access_log import Record, Visitor
from proxy.actions import Decision, Way
from proxy.carrier import NEVER, Carrier, State
from proxy.client_identity import UnusableIdentity
from proxy.commands import Finish
from proxy.errors import Code, Refused
from proxy.exchange import Exchange
from proxy.gate import LOG_EVERY_S, admits
from proxy.head import read_request
from proxy.hub import Activity, Hub, Site, View
from proxy.message import RequestHead
from proxy.moves import Waits
from proxy.origin import USUAL, Origin
from proxy.throttle import Throttle
from proxy.upstream import CLOSE_S, WRITE_HIGH_BYTES

log = logging.getLogger(__name__)

PIPELINE_BYTES: Final = 65_536
# RFC 9112 §9.6: after an early answer, read on for a while so that a reset does not destroy it.
LINGER_S: Final = 2.0
DRAIN_IDLE_S: Final = 1.0
HEADS_A_TURN: Final = 16  # of one client; replies of our own to what is sent ahead must not hold up the others
OPEN_SLACK_S: Final = 1.0  # the attempt to connect ends before whoever waits for it gives up


class ClientConnection(Carrier):
    """One client's connection to a listener."""

    __slots__ = (
        "_body_until", "_buffer", "_bytes_in", "_client", "_decided", "_eof", "_head", "_held_bytes", "_paused",
        "_place", "_reading_heads", "_retiring", "_scanned", "_site", "_started_at", "_throttle", "_told_in",
        "_told_out", "_turn_over", "_visitor", "since",
    )  # fmt: skip

    def __init__(self, hub: Hub, site: Site) -> None:
        super().__init__(hub)
        self._site = site
        self._buffer = b""
        self._scanned = 0
        self._head: RequestHead | None = None
        self._decided: Decision = None  # what is to happen to the request that is in the buffer, if that is known
        self._paused = False  # we do not read from the client
        self._eof = False
        self._retiring = False
        self._reading_heads = False
        self._turn_over = False  # what is here waits for the loop's next turn
        self._place: str | None = None  # in the crowd
        self._held_bytes = 0
        self._body_until = NEVER
        self._throttle: Throttle | None = None
        self._started_at = 0.0
        self._bytes_in = 0
        self._told_in = self._told_out = 0  # of the exchange's bytes, to be billed before it ends
        self.since = 0.0

    # -- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]).partition("%")[0] if peer else ""  # a link-local address has its link behind a %
        tls_version, sni = (str(transport.get_extra_info(name) or "") for name in ("tls_version", "sni"))
        self._visitor = Visitor(self._site.name, self._client, tls_version, sni)
        self._origin = Origin(
            self._client.encode("ascii"), self._site.scheme.encode("ascii"), b"%d" % self._site.port,
            headers.is_trusted(self._client, self._site.trusted), self._hub.node, self._identify(),
            self._site.telling, *(self._ends() if self._site.telling != USUAL else ()),
        )  # fmt: skip
        site = self._site
        if site.throttling is not None:
            self._throttle = transport.get_extra_info("throttle")
        site.connections.add(self)
        site.most_connections = max(site.most_connections, len(site.connections))
        self._hub.count("connections")
        self._hub.journal.bills.opened(site.name)
        self._place = self._hub.crowd.enter(self._client, self._site.allowance)
        if self._place is None or self._hub.crowd.full:
            self._turn_away()
        self.since = self._hub.now()
        self.deadline = self._hub.now() + self._site.idle_timeout_s
        if self._site.access is not None:
            self.admit()  # the list may have changed during the TLS handshake

    def _ends(self) -> tuple[bytes, bytes]:
        """The client's port, and the address of ours that it came to."""
        peer, own = (self._transport.get_extra_info(name) for name in ("peername", "sockname"))
        return b"%d" % peer[1] if peer else b"", str(own[0]).encode("ascii") if own else b""

    def _current(self) -> Exchange | None:
        """The exchange that goes on; to be asked before anything is done that an exchange has to know of."""
        return self._exchange

    @property
    def _leaving(self) -> bool:
        """Whether the connection is to close after the answer that it has."""
        return self._retiring or self._site.closing

    def _identify(self) -> bytes | None:
        """The lines about a client's certificate; see `Origin.identity`. Cuts a client that it does not admit."""
        profile = self._site.profile
        if not profile.authorities:
            return None
        der = self._transport.get_extra_info("client_certificate")
        try:
            if der:
                return client_identity.lines(der, datetime.now(UTC))
            if profile.required:  # asked for since the handshake began
                raise UnusableIdentity("there is none")
        except UnusableIdentity as error:
            self._hub.count("client_certificates_refused")
            log.info("%s: the certificate of %s is not taken: %s", self._site.name, self._client, error)
            self._transport.abort()
        return b""

    def data_received(self, data: bytes) -> None:
        exchange = self._current()
        if exchange is not None:
            self._bytes_in += len(data)
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
        hub = self._hub
        self._started_at = monotonic()
        self._bytes_in, self._bytes_out = len(self._buffer), 0
        rest, self._buffer, self._scanned = self._buffer[head.size :], b"", 0
        self._head = head
        self._service, self._first_at = None, 0.0
        self._body_until = NEVER
        self._state = State.EXCHANGE
        if head.block.underscored:
            self._tell_underscored(head)
        identifier = headers.request_id(head.block) or hub.new_request_id()
        self._exchange = Exchange(
            head,
            self._origin,
            self._site.router,
            identifier,
            hub.date,
            rest=rest,
            closing=self._leaving,
            hsts=self._site.hsts,
        )
        decided, self._decided = self._decided, None
        self._run(self._exchange.start(decided))
        self._touch()

    def _tell_underscored(self, head: RequestHead) -> None:
        """Says which fields do not pass, so that nobody has to wonder; not too often."""
        names = [
            field.name.decode("ascii")
            for field in head.block.acted_on
            if b"_" in field.lower and not headers.passes(field.lower, self._origin)
        ]
        if not names:
            return
        self._hub.count("underscored_fields", len(names))
        if self._hub.now() >= self._site.next_underscore_logged:
            self._site.next_underscore_logged = self._hub.now() + LOG_EVERY_S
            log.info("%s: dropped from a request of %s: %s", self._site.name, self._client, ", ".join(names)[:200])

    def _refuse(self, code: Code, offset: int | None) -> None:
        """Answers what is not a request that we serve, and closes."""
        hub = self._hub
        identifier = hub.new_request_id()
        date, hsts = hub.date(), self._site.hsts
        reply = headers.error_reply(
            code, code.status, identifier, hub.node, date, close=True, body=True, hsts=hsts, offset=offset
        )
        self._transport.write(reply)
        record = Record(self._site.name, self._client, status=code.status, bytes_in=len(self._buffer))
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

    # -- what the server does

    def upstream_data(self, data: bytes) -> None:
        exchange = self._current()
        assert exchange is not None
        self._time(exchange)
        self._run(exchange.upstream_data(data))
        if not exchange.reads_head:  # single bytes of a head buy no time
            self._touch()

    def upstream_lost(self) -> None:
        exchange = self._current()
        assert exchange is not None
        self._run(exchange.upstream_closed())
        self._touch()

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
            whose = f"{self._client} has" if self._place is None else "this worker has"
            log.warning("%s: %s too many connections; those that come are cut off", site.name, whose)
        self._transport.abort()

    def give_way(self) -> None:
        """To others, for which there is no more room. To be asked of who waits for his client."""
        self._hub.count("connections_gave_way")
        self._transport.abort()

    def _wait(self, state: State, timeout_s: float) -> None:
        self._state = state
        self.deadline = self._hub.now() + timeout_s

    def _touch(self) -> None:
        exchange, site = self._exchange, self._site
        if exchange is None or self._waiting is not None:
            return
        waits = exchange.waits
        if self._full:
            timeout_s = site.allowance.send_timeout_s
        elif waits is Waits.UPSTREAM:
            timeout_s = site.request_timeout_s
            if self._service is not None:
                service = self._service
                own_s = service.idle_timeout_s if exchange.answering else service.first_byte_timeout_s
                timeout_s = own_s or timeout_s
        elif waits is Waits.CONNECT and self._service is not None:
            timeout_s = self._service.connect_timeout_s + OPEN_SLACK_S
        elif waits is Waits.TUNNEL:
            timeout_s = min(site.tunnel_timeout_s, site.request_timeout_s) if self._eof else site.tunnel_timeout_s
        elif self._paused or exchange.answering:  # it is not the client's pace alone that counts
            self._body_until = NEVER
            timeout_s = site.request_timeout_s if self._paused else site.allowance.body_timeout_s
        else:
            timeout_s = site.allowance.body_timeout_s
            if self._body_until == NEVER:
                self._body_until = self._hub.now() + timeout_s
            timeout_s = min(timeout_s, self._body_until - self._hub.now())
        self.deadline = self._hub.now() + timeout_s
        if self.deadline > self._ends_at and waits is not Waits.TUNNEL:
            self.deadline = self._ends_at

    def expire(self) -> None:
        """The deadline has passed."""
        if self._throttle is not None and self._throttle.waits:  # it is not the client's fault
            self.deadline = self._hub.now() + self._site.allowance.body_timeout_s
            if self._body_until < NEVER:
                self._body_until = self.deadline
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

    def _time_out(self, exchange: Exchange) -> None:
        whole = self._ends_at <= self._hub.now()
        if self._waiting is not None:
            self._leave_queue()
            self._run(exchange.no_server(Code.TOTAL_TIMEOUT if whole else Code.QUEUE_TIMEOUT))
        else:
            self._run(exchange.timed_out(client_stalled=self._full, whole=whole))

    def leave_dead_server(self) -> None:
        """Does not wait for a server that is unhealthy and has gone silent, as a machine does that lost its power.

        To be asked now and then while a server is unhealthy. One that still acknowledges what it gets may be about to
        answer, and is waited for.
        """
        service = self._service
        if service is None:
            return
        if self._upstream is not None:
            if service.pool.is_down(self._upstream.server) and self._upstream.silent:
                self._upstream.abort()
        elif self._attempt is not None:
            server, timeout = self._attempt
            if service.pool.is_down(server) and not timeout.expired():
                timeout.reschedule(self._hub.now())

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

    # -- what there is to tell

    @property
    def activity(self) -> Activity:
        """What the connection is at."""
        if self._exchange is not None and self._exchange.tunnels:
            return Activity.TUNNEL
        return _ACTIVITIES[self._state]

    def view(self) -> View:
        """For people who look at the node."""
        exchange, head = self._current(), self._head
        view: View = {
            "listener": self._site.name, "client": self._client, "activity": self.activity,
            "age_s": round(self._hub.now() - self.since, 1), "tls": self._visitor.tls_version,
            "busy_s": 0.0, "method": "", "host": "", "path": "", "request_id": "", "server": "",
        }  # fmt: skip
        if exchange is not None and head is not None:
            view["busy_s"] = round(monotonic() - self._started_at, 1)
            view["method"], view["host"] = head.method.decode("ascii"), head.host.decode("ascii")
            view["path"], view["request_id"] = exchange.target.decode("ascii"), exchange.identifier.decode("ascii")
        if self._upstream is not None:
            view["server"] = endpoint(*self._upstream.server)
        return view

    # -- log

    def tell_progress(self) -> None:
        """Has the bytes billed that an exchange has moved since the last time."""
        exchange = self._exchange
        if exchange is not None:
            bytes_in, bytes_out = self._bytes_in - len(exchange.rest), self._bytes_out
            self._hub.journal.bills.ahead(self._site.name, bytes_in - self._told_in, bytes_out - self._told_out)
            self._told_in, self._told_out = bytes_in, bytes_out

    def _record(self) -> None:
        exchange, head, now = self._exchange, self._head, monotonic()
        assert exchange is not None
        assert head is not None
        record = Record(
            self._site.name,
            self._client,
            head.method.decode("ascii"),
            head.host.decode("ascii"),
            exchange.target.decode("ascii"),
            exchange.status,
            self._bytes_in - len(exchange.rest),
            self._bytes_out,
            (now - self._started_at) * 1000,
        )
        if exchange.upstream is not None:
            record.upstream = endpoint(*exchange.upstream)
            record.upstream_ms = (now - self._assigned_at) * 1000
            if self._first_at:
                record.first_byte_s = self._first_at - self._assigned_at
        # The service that was asked last: a fallback, perhaps.
        record.way = Way(exchange.rule, self._service.name if self._service is not None else exchange.service)
        record.request_id = exchange.identifier.decode("ascii")
        record.tls_version, record.sni = self._visitor.tls_version, self._visitor.sni
        record.version = f"HTTP/1.{head.block.minor}"
        if self._hub.log_fields:
            record.fields = tuple(each.value(head.block, exchange.answer, record.way) for each in self._hub.log_fields)
        source = exchange.source.value if exchange.source else ""
        if self._told_in or self._told_out:
            self._hub.journal.bills.ahead(self._site.name, -self._told_in, -self._told_out)
            self._told_in = self._told_out = 0
        self._hub.journal.record(record, exchange.error, source, exchange.offset)


_ACTIVITIES: Final = {
    State.IDLE: Activity.IDLE,
    State.HEAD: Activity.HEAD,
    State.EXCHANGE: Activity.REQUEST,
    State.LINGER: Activity.CLOSING,
    State.CLOSED: Activity.CLOSING,
}
