"""One client of the key server: its requests in turns, its replies in order of their coming, its room bounded.

A connection's requests are served in turns of at most `TURN_REQUESTS`, so that a client that pipelines thousands delays
the others by a millisecond. While a client has requests waiting, or does not read its replies, nothing more is read
from it; so what a connection can occupy is bounded. ECDSA and Ed25519 are signed in the turn itself; what a crew signs
(crew.py) is answered when its worker is done. Chain checks, which are long and rare, go to one thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from control.node.identity import IdentityError
from keyserver.crew import MAX_QUEUED, Job
from keyserver.errors import ErrorCode, KeyServerError
from keyserver.listen import Peer
from keyserver.policy import Access, Shape
from keyserver.protocol import (
    Broken,
    CheckChain,
    Event,
    Failed,
    Find,
    GetStaple,
    Hello,
    Malformed,
    Message,
    Ping,
    Pong,
    Sign,
    Signed,
    StapleGiven,
    Tickets,
    Unknown,
    server_side,
)
from keyserver.store import Elsewhere

if TYPE_CHECKING:
    from keyserver.server import KeyServer

log = logging.getLogger(__name__)

TURN_REQUESTS = 64  # about a millisecond of P-256
MAX_CONNECTIONS = 1024
MAX_IN_FLIGHT = 1024  # requests of one connection that crews have
# One client must leave room for others, however many connections it opens: a TLS node has one for each worker process.
MAX_CLIENT_CONNECTIONS = MAX_CONNECTIONS // 4
MAX_CLIENT_IN_FLIGHT = MAX_QUEUED // 2
GREETING_DEADLINE_S = 5.0
REFUSAL_LINGERS_S = 0.5


class Connection(asyncio.Protocol):
    """One client. `identify` says who it is once connected."""

    def __init__(self, server: KeyServer, identify: Callable[[Access, asyncio.Transport], Peer]) -> None:
        self._server = server
        self._service = server.service
        self._identify = identify
        self._wire = server_side(MAX_IN_FLIGHT)
        self._backlog: deque[Event] = deque()
        self._turning = False
        self._refused = False
        self._choked = False  # the client does not read its replies
        self._reading = True
        self._greeting: asyncio.TimerHandle | None = None
        self.client = "?"
        self.serial: int | None = None
        self.in_flight = 0
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self._server.add(self):
            self._refuse("too many connections, or draining", ErrorCode.BUSY)
            self.close()
            return
        try:
            client, serial = self._identify(self._server.access, self.transport)
            if why := self._service.why_not(client, serial):
                raise IdentityError(why)
            self.client, self.serial = client, serial
        except IdentityError as error:
            self._refuse(str(error), ErrorCode.REFUSED_CLIENT)
            if self._server.refusals.take(self._server.loop.time()):
                self._service.record("client_refused", {"why": str(error)})
            # A client that is closed upon while it greets fails to write, and never reads why.
            self._greeting = self._server.loop.call_later(REFUSAL_LINGERS_S, self.close)
            return
        if self._server.clients[client] >= MAX_CLIENT_CONNECTIONS:
            self._refuse(f"{client} has {MAX_CLIENT_CONNECTIONS} connections", ErrorCode.BUSY)
            self._greeting = self._server.loop.call_later(REFUSAL_LINGERS_S, self.close)
            return
        self._server.clients[client] += 1
        self._greeting = self._server.loop.call_later(GREETING_DEADLINE_S, self._greet_late)
        log.info("%s: connected%s", self.client, "" if serial is None else f", certificate {serial:X}")

    def _refuse(self, why: str, code: ErrorCode) -> None:
        self._service.counters[code.name.lower()] += 1
        log.warning("%s: connection refused: %s", self.transport.get_extra_info("peername") or "local", why)
        self._refused = True
        self.reply([Failed(0, code)])

    def _greet_late(self) -> None:
        self._service.counters["greeting_timeout"] += 1
        log.warning("%s: no greeting within %g s", self.client, GREETING_DEADLINE_S)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self.close()
        if self.gone:
            return
        self._wire.receive_data(data)
        self._backlog.extend(self._wire.events())
        if not self._turning:
            self._turn()

    def _turn(self) -> None:
        """Serve some of what has arrived; go on in the loop's next turn if there is more."""
        self._turning = False
        backlog, replies = self._backlog, list[Message]()
        now = self._server.loop.time()
        self._service.begin_turn()
        for _ in range(min(TURN_REQUESTS, len(backlog))):
            event = backlog.popleft()
            reply = self._sign(event, now) if type(event) is Sign else self._other(event, now)
            if reply is not None:
                replies.append(reply)
        self.reply(replies)
        if backlog and not self.gone and not self._choked:
            self._turning = True
            self._server.loop.call_soon(self._turn)
        self._regulate()

    def _sign(self, request: Sign, now: float) -> Message | None:
        service, client = self._service, self.client
        try:
            held, shape = service.admit(client, request, now)
            if isinstance(held, Elsewhere):
                self._hand_over(held, request, shape, now)
                return None
        except KeyServerError as error:
            return service.refuse(client, request, error.code)
        return service.sign(client, request, held, shape)

    def _hand_over(self, held: Elsewhere, request: Sign, shape: Shape, now: float) -> None:
        """Let a crew sign. Raises KeyServerError where there is no room."""

        def done(result: bytes | ErrorCode) -> None:
            self.in_flight -= 1
            self._server.in_flight[self.client] -= 1
            if self.gone:
                return
            service = self._service
            service.begin_turn()
            if isinstance(result, ErrorCode):
                reply: Message = service.refuse(self.client, request, result)
            else:
                reply = service.signed(self.client, request, held.key_type, shape, result)
            self._server.later(self, reply)

        if self.in_flight >= MAX_IN_FLIGHT or self._server.in_flight[self.client] >= MAX_CLIENT_IN_FLIGHT:
            raise KeyServerError(ErrorCode.BUSY)
        if not held.crew.ask(Job(request, now, done, lambda: self.gone)):
            raise KeyServerError(ErrorCode.BUSY)
        self.in_flight += 1
        self._server.in_flight[self.client] += 1

    def _other(self, event: Event, now: float) -> Message | None:
        match event:
            case Ping():
                return Pong(event.request_id)
            case Find():
                return self._service.find(self.client, event, now)
            case Tickets():
                return self._service.ticket_secrets(self.client, event, now)
            case CheckChain():
                return self._check_chain(event, now)
            case GetStaple():
                return self._get_staple(event, now)
            case Hello():
                if self._greeting is not None:
                    self._greeting.cancel()
            case Malformed():
                self._count("malformed", event.why)
                return Failed(event.request_id, ErrorCode.MALFORMED)
            case Unknown():
                self._count("unknown_request", f"tag 0x{event.tag:02x}")
                return Failed(event.request_id, ErrorCode.UNKNOWN_REQUEST)
            case Broken():
                self._count("broken_connection", event.why)
                self._server.loop.call_soon(self.close)
                return Failed(0, event.code)
        return None

    def _get_staple(self, request: GetStaple, now: float) -> Message | None:
        staple = self._service.staple(self.client, request.pem, now)
        return StapleGiven(request.request_id, staple) if staple is not None else self._check_chain(request, now)

    def _check_chain(self, request: CheckChain | GetStaple, now: float) -> Message | None:
        try:
            self._service.admit_chain(self.client, now)
        except KeyServerError as error:
            return Failed(request.request_id, error.code)
        if self._server.check_chain(self, request):
            return None
        return Failed(request.request_id, ErrorCode.BUSY)

    def _count(self, name: str, why: str) -> None:
        self._service.counters[name] += 1
        log.warning("%s: %s", self.client, why)

    def reply(self, replies: list[Message]) -> None:
        """Write replies, their audit lines before them."""
        if not self._server.flush_audit():
            replies = [without_signature(reply) for reply in replies]
        for reply in replies:
            self._wire.send(reply)
        if data := self._wire.data_to_send():
            self.transport.write(data)

    @property
    def admitted(self) -> bool:
        """Whether we know who it is, and let it in."""
        return not (self._refused or self.gone)

    def close(self) -> None:
        """Close once what has been written is out."""
        self.gone = True
        self.transport.close()

    def pause_writing(self) -> None:
        self._choked = True
        self._regulate()

    def resume_writing(self) -> None:
        self._choked = False
        if self._backlog and not self._turning:
            self._turning = True
            self._server.loop.call_soon(self._turn)
        self._regulate()

    def _regulate(self) -> None:
        """Read only while everything that has been read is served and the client takes its replies."""
        wanted = not (self._backlog or self._choked)
        if wanted is self._reading or self.gone:
            return
        self._reading = wanted
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        self._backlog.clear()
        if self._greeting is not None:
            self._greeting.cancel()
        self._server.remove(self)
        if not self._refused:
            self._server.clients[self.client] -= 1
        log.info("%s: connection closed", self.client)


def without_signature(reply: Message) -> Message:
    return Failed(reply.request_id, ErrorCode.INTERNAL) if isinstance(reply, Signed) else reply
