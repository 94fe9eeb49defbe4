"""Carries out what an exchange commands: bytes to both sides; upstream connections taken, made and given back."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from enum import IntEnum, auto
from time import monotonic
from typing import Final

from control.node import backend_tls
from core.ejection import Outcome
from proxy import grpc
from proxy.account import Account
from proxy.admission import Refusal, Verdict
from proxy.balance import Address
from proxy.commands import (
    Abort,
    Ask,
    Assign,
    Command,
    Copy,
    EndUpstream,
    Finish,
    FlushSoon,
    Pause,
    ReleaseUpstream,
    SendClient,
    SendUpstream,
    TellUpstream,
)
from proxy.dialects import Heard
from proxy.errors import Code, Source
from proxy.exchange import Exchange
from proxy.hub import Hub
from proxy.introducing import introduction
from proxy.origin import Origin
from proxy.pool import Full, Open, Reuse
from proxy.service import Service
from proxy.trunk import NotHttp2, Stream
from proxy.upstream import UpstreamConnection, connect

NEVER: Final = float("inf")
FLUSH_S: Final = 0.02  # so long an encoder may hold back what a server has sent


class State(IntEnum):
    """What a client connection is at."""

    IDLE = auto()  # between requests
    HEAD = auto()  # the first bytes of a head are here
    EXCHANGE = auto()
    LINGER = auto()  # the last answer is out; what the client still sends is dropped
    CLOSED = auto()  # by us; what the client has not taken yet may still be on its way


class Carrier(ABC, asyncio.Protocol):
    """The part of a client connection that works for its exchange. `_run` is the way in."""

    __slots__ = (
        "_account", "_attempt", "_chosen", "_ends_at", "_exchange", "_full", "_hub", "_introduction",
        "_origin", "_service", "_state", "_transport", "_upstream", "_waiting", "deadline",
    )  # fmt: skip
    _transport: asyncio.Transport
    _origin: Origin

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._state = State.IDLE
        self._exchange: Exchange | None = None
        self._upstream: UpstreamConnection | Stream | None = None
        self._service: Service | None = None  # the one that was asked last
        # For the exchange, before it has asked.
        self._chosen: Reuse[UpstreamConnection] | Open[UpstreamConnection] | Full | None = None
        self._attempt: tuple[Address, asyncio.Timeout] | None = None  # to connect
        self._waiting: Assign | None = None  # in the queue of `_service`
        self._ends_at = NEVER  # the exchange's whole time
        self.deadline = NEVER
        self._full = False  # our transport towards the client is
        self._account = Account()
        self._introduction = (0, b"")  # version, header

    @abstractmethod
    def balance(self) -> None:
        """Reads from the client only as long as what it sends can be passed on."""

    @abstractmethod
    def upstream_data(self, data: bytes) -> None:
        """Bytes came on our upstream connection."""

    @abstractmethod
    def upstream_heard(self, heard: list[Heard]) -> None:
        """The server has said this on our upstream stream."""

    @abstractmethod
    def upstream_lost(self, *, unprocessed: bool = False) -> None:
        """Our upstream connection is gone. `unprocessed`: the server has not touched the request."""

    @abstractmethod
    def _finish(self, finish: Finish) -> None: ...

    @abstractmethod
    def _record(self) -> None:
        """Logs the exchange, which is over."""

    @abstractmethod
    def _touch(self) -> None:
        """Something moved: the exchange has its whole time again."""

    def _run(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, SendClient):
                self._account.bytes_out += len(command.data)
                self._transport.write(command.data)
            elif isinstance(command, SendUpstream):
                assert self._upstream is not None
                self._upstream.write(command.data)
            elif isinstance(command, EndUpstream):
                assert self._upstream is not None
                self._upstream.write_eof(command.trailers)
            elif isinstance(command, TellUpstream):
                assert isinstance(self._upstream, Stream)
                self._upstream.tell(command.request, command.ended)
            elif isinstance(command, ReleaseUpstream):
                self._release(command.reuse)
            elif isinstance(command, Finish):
                self._record()
                self._finish(command)
            elif isinstance(command, Assign):
                self._assign(command)
            elif isinstance(command, Copy):
                assert self._exchange is not None
                self._hub.mirror(self._exchange.head, self._origin, command)
            elif isinstance(command, Pause):
                self._pause(command.seconds)
            elif isinstance(command, FlushSoon):
                assert self._exchange is not None
                self._hub.loop.call_later(FLUSH_S, self._flush, self._exchange)
            elif isinstance(command, Ask):
                self._inquire(command)
            else:
                assert isinstance(command, Abort)
                self._record()
                self._exchange, self._state = None, State.CLOSED
                self._transport.abort()

    def _pause(self, seconds: float) -> None:
        """The exchange is not admitted yet."""
        exchange = self._exchange
        assert exchange is not None
        self.deadline = NEVER
        self._hub.loop.call_later(seconds, self._admit, exchange)

    def _inquire(self, command: Ask) -> None:
        """The exchange is not admitted yet: somebody is asked first, in a time that is his to bound."""
        exchange = self._exchange
        assert exchange is not None
        self.deadline = NEVER
        self._hub.tasks.spawn(self._decide(exchange, command), "find out who sends a request")

    async def _decide(self, exchange: Exchange, command: Ask) -> None:
        verdict: Verdict = Refusal(Code.AUTHENTICATION)
        try:
            verdict = await command.work()
        finally:  # whatever goes wrong admits nobody, and keeps nobody waiting
            if self._exchange is exchange and exchange.pausing:
                self._run(exchange.decided(verdict))
                self._touch()
                self.balance()

    def _admit(self, exchange: Exchange) -> None:
        if self._exchange is exchange and exchange.pausing:
            self._run(exchange.go_on_admitting())
            self._touch()
            self.balance()

    def _flush(self, exchange: Exchange) -> None:
        """What the exchange's encoder holds back goes out, so that nobody waits for it."""
        if self._exchange is exchange:
            self._run(exchange.flush())

    def _assign(self, command: Assign) -> None:
        exchange, hub = self._exchange, self._hub
        assert exchange is not None
        service = hub.services.get(command.service)
        self._account.assigned_at, self._account.first_at = monotonic(), 0.0
        if service is None:
            self._run(exchange.no_server())
            return
        if service.total_timeout_s and self._ends_at == NEVER:
            self._ends_at = hub.now() + service.total_timeout_s
        if exchange.converses and not command.tried and not command.fresh:
            allowed_s = exchange.allowed_s
            if allowed_s:
                self._ends_at = min(self._ends_at, hub.now() + allowed_s)
        if command.tried or command.fresh:
            if not service.pool.may_retry(hub.now()):
                hub.count("retries_denied")
                self._run(exchange.denied())
                return
            hub.count("retries")
        self._choose(exchange, service, command, in_turn=False)

    def _choose(self, exchange: Exchange, service: Service, command: Assign, *, in_turn: bool) -> None:
        """Has a server of the service take the request, or one of its fallbacks'; or waits, or gives up."""
        hub = self._hub
        choice, self._chosen = self._chosen, None
        if choice is None:
            choice = service.pool.assign(
                self._key(exchange, service),
                hub.now(),
                repeatable=command.repeatable,
                tried=command.tried,
                fresh=command.fresh,
                in_turn=in_turn,
                prefer=command.prefer,
                label=self._label(service),
            )
        while choice is None and service.fallback is not None:
            hub.count("fallback_requests")
            service = service.fallback
            choice = service.pool.assign(
                self._key(exchange, service), hub.now(), repeatable=command.repeatable, tried=command.tried,
                fresh=command.fresh, label=self._label(service),
            )  # fmt: skip
        self._service = service
        if choice is None:
            self._run(exchange.no_server())
        elif isinstance(choice, Full):
            self._queue(exchange, service, command)
        elif isinstance(choice, Reuse):
            if choice.handle.usable:
                self._adopt(exchange, choice.handle, reused=True)
            else:
                hub.tasks.spawn(self._open(exchange, service, choice.server), "connect to upstream")
        else:
            if choice.surplus is not None:
                choice.surplus.close()
            if service.multiplexed and (stream := service.trunks.free(choice.server, exchange.head.method)) is not None:
                self._adopt(exchange, stream, reused=True)
                return
            hub.tasks.spawn(self._open(exchange, service, choice.server), "connect to upstream")

    def _key(self, exchange: Exchange, service: Service) -> bytes:
        """What the service's hash goes by."""
        client = self._origin.client
        return client if service.key is None else service.key(exchange.head, exchange.target) or client

    def _label(self, service: Service) -> bytes:
        """What connections begin with that are the client's alone; empty: they are everybody's."""
        if not service.introduces:
            return b""
        if self._introduction[0] != service.introduces:
            self._introduction = service.introduces, introduction(self._transport, service.introduces)
        return self._introduction[1]

    def _queue(self, exchange: Exchange, service: Service, command: Assign) -> None:
        """All servers have as many connections as they may."""
        if not service.pool.wait(self, monotonic(), sheddable=command.sheddable):
            self._run(exchange.no_server(Code.QUEUE_FULL if service.pool.queue_full else Code.SHED))
            return
        self._hub.count("queued_requests")
        self._waiting = command
        self.deadline = min(self._hub.now() + service.queue_timeout_s, self._ends_at)

    def _leave_queue(self) -> None:
        if self._waiting is not None and self._service is not None:
            self._waiting = None
            self._service.pool.leave(self)

    def shed(self) -> None:
        """We have waited too long in the queue, where others go first now."""
        self._waiting = None
        assert self._exchange is not None
        self._run(self._exchange.no_server(Code.SHED))
        self._touch()
        self.balance()

    def resume(self) -> None:
        """It is our turn in the queue."""
        command, self._waiting = self._waiting, None
        assert self._exchange is not None
        assert self._service is not None
        assert command is not None
        self._account.assigned_at = monotonic()
        self._choose(self._exchange, self._service, command, in_turn=True)
        self._touch()
        self.balance()

    async def _open(self, exchange: Exchange, service: Service, server: Address) -> None:
        """Connects for an exchange; one that has ended meanwhile leaves the connection to the pool.

        A connection that the server has ended already is as good as none: nothing was sent on it.
        """
        pool = service.pool
        upstream: UpstreamConnection | Stream | None = None
        timed_out = tls = False
        try:
            async with asyncio.timeout(service.connect_timeout_s) as timeout:
                self._attempt = attempt = server, timeout
                upstream = await self._connect(exchange, service, server)
        except OSError as error:
            timed_out, tls = isinstance(error, TimeoutError), isinstance(error, ssl.SSLError)
            if isinstance(error, ssl.SSLError):
                service.tell(server, backend_tls.why(error), self._hub.now())
            elif isinstance(error, NotHttp2):
                service.tell(server, str(error), self._hub.now())
        finally:
            if self._attempt is attempt:
                self._attempt = None
        sound = upstream if upstream is not None and upstream.usable else None
        if sound is None:
            pool.failed(server)
            service.note(server, Outcome.FAILED, self._hub.now())
            self._hub.count("connect_failures")
        if self._exchange is not exchange:
            if sound is not None:
                self._put_back(service, sound)
            return
        if sound is None:
            self._run(exchange.connect_failed(server, timed_out, tls))
        else:
            self._adopt(exchange, sound, reused=False)
        self._touch()
        self.balance()

    async def _connect(self, exchange: Exchange, service: Service, server: Address) -> UpstreamConnection | Stream:
        """Raises OSError."""
        hub, pool = self._hub, service.pool
        if service.multiplexed:
            return await service.trunks.join(
                server, exchange.head.method, service.secured, hub.tasks, service.connect_timeout_s
            )
        label, make = self._label(service), lambda: UpstreamConnection(pool, server, hub.buffer)
        upstream = await connect(hub.loop, make, server, service.secured, label)
        if label:
            upstream.introduction, upstream.owner = label, self._transport
        return upstream

    def _adopt(self, exchange: Exchange, upstream: UpstreamConnection | Stream, *, reused: bool) -> None:
        upstream.client = self
        self._upstream = upstream
        if self._full:
            upstream.pause_reading()
        self._run(exchange.assigned(upstream.server, reused, upstream.dialect))

    def _release(self, reuse: bool) -> None:
        upstream, service, exchange = self._upstream, self._service, self._exchange
        assert upstream is not None
        assert service is not None
        assert exchange is not None
        if exchange.status >= 500 or exchange.grpc_status or service.pool.attentive:
            self._judge(exchange, service, upstream.server)
        self._give_back(upstream, service, reuse)

    def _give_back(self, upstream: UpstreamConnection | Stream, service: Service, reuse: bool) -> None:
        self._upstream = upstream.client = None
        if self._full:
            upstream.resume_reading()
        if upstream.bulk:
            upstream.read_plainly()
        if reuse:
            self._put_back(service, upstream)
            return
        service.pool.failed(upstream.server)
        upstream.close()

    def _put_back(self, service: Service, upstream: UpstreamConnection | Stream) -> None:
        """Has a sound connection used again. A stream is not, and its trunk needs nobody's word for it."""
        if isinstance(upstream, UpstreamConnection) and upstream.usable and upstream.secured is service.secured:
            if not service.pool.released(upstream.server, upstream, self._hub.now(), upstream.introduction):
                upstream.close()
            return
        service.pool.failed(upstream.server)
        upstream.close()

    def _time(self, exchange: Exchange) -> None:
        """Notes how long the server has taken to answer, and tells the pool, if it wants to know."""
        service, upstream = self._service, self._upstream
        if exchange.status:
            return
        account = self._account
        account.first_at = account.first_at or monotonic()
        if service is not None and service.pool.timed and upstream is not None:
            service.pool.answered(upstream.server, monotonic() - account.assigned_at, self._hub.now())

    def _judge(self, exchange: Exchange, service: Service, server: Address) -> None:
        """Tells the pool how the server has served; nothing where it is not known, or not the server's doing."""
        if exchange.source is Source.UPSTREAM:
            outcome = Outcome.FAILED
        elif exchange.error is not None or not exchange.status:
            return
        else:
            failed = exchange.status >= 500 or exchange.grpc_status in grpc.FAULTS
            outcome = Outcome.ERROR if failed else Outcome.ANSWERED
        service.note(server, outcome, self._hub.now())
