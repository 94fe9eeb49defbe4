"""One connection of a TLS node to one key server: greeting, requests on their way, pings, goodbye."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from certs.report import ChainReport, Staple
from keyserver.errors import ErrorCode, KeyServerError, WireError
from keyserver.protocol import (
    Broken,
    ChainChecked,
    CheckChain,
    Event,
    Failed,
    Find,
    Found,
    GetStaple,
    Goodbye,
    Malformed,
    Message,
    Ping,
    Sign,
    Signed,
    StapleGiven,
    Tickets,
    TicketSecrets,
    Unknown,
    Welcome,
    client_side,
)

if TYPE_CHECKING:
    from keyserver.client import KeyClient

log = logging.getLogger(__name__)

Chains = tuple[tuple[bytes, str], ...]  # (key id, PEM text)
Secrets = tuple[tuple[int, bytes], ...]  # (beginning of the period in seconds since 1970, secret)
Request = Sign | CheckChain | Find | GetStaple | Tickets
Result = bytes | ChainReport | Chains | Staple | Secrets | KeyServerError

PING_EVERY_S = 5.0  # on an idle connection, so that a dead peer is found before a handshake needs it


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a key server listens: a unix socket's `path`, or `host` and `port`."""

    text: str
    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From "unix:/path", "host:port" or "[ipv6]:port". Raises ValueError with the remedy."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(text, path=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
            return cls(text, host=host.removeprefix("[").removesuffix("]"), port=int(port))
        raise ValueError(f"key server {text!r}: give unix:PATH or HOST:PORT")


@dataclass(slots=True, eq=False)
class Pending:
    """A request that has not been answered. `tried` are the connections that it was sent on."""

    message: Request
    done: Callable[[Result], None]
    deadline: float
    tried: list[Link] = field(default_factory=list)
    link: Link | None = None


class Link(asyncio.Protocol):
    """One connection to one endpoint, from greeting to loss."""

    def __init__(self, client: KeyClient, index: int, endpoint: Endpoint) -> None:
        self._client = client
        self.index = index
        self.endpoint = endpoint
        self._wire = client_side()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._asked: dict[int, Pending] = {}
        self._flushing = False
        self._retired = False
        self._pinged = 0.0
        self._heard = 0.0
        self._waits_since = float("inf")
        self._why = KeyServerError(ErrorCode.UNAVAILABLE, "the connection was lost")
        self.greeted: asyncio.Future[None] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @property
    def silent_since(self) -> float:
        """When the wait for any answer at all began; infinity while nothing is owed."""
        return max(self._waits_since, self._heard)

    async def serve(self) -> None:
        """Ping while idle, until the connection is lost. Raises KeyServerError with the reason."""
        while not self.lost.done():
            await asyncio.wait((self.lost,), timeout=PING_EVERY_S)
            if self.lost.done():
                break
            if self._heard < self._pinged:
                self.cut("it does not answer pings")
            elif not self._asked:
                self._pinged = self._loop.time()
                self._send(Ping(self._client.next_id()))
        raise self._why

    def ask(self, pending: Pending, now: float) -> None:
        """Send a request. Raises WireError for one that no frame can hold."""
        self._send(pending.message)
        pending.link = self
        pending.tried.append(self)
        if not self._asked:
            self._waits_since = now
        self._asked[pending.message.request_id] = pending

    def forget(self, pending: Pending) -> None:
        self._asked.pop(pending.message.request_id, None)
        if not self._asked:
            self._waits_since = float("inf")
            if self._retired:
                self.abort()  # this was the last answer after a GOODBYE

    def cut(self, why: str) -> None:
        """Give the connection up; what it owes moves on to other endpoints."""
        self._why = KeyServerError(ErrorCode.UNAVAILABLE, why)
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._wire.data_to_send())

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._wire.receive_data(data)
        for event in self._wire.events():
            self._handle(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.retired(self.index, self)
        orphans = list(self._asked.values())
        self._asked.clear()
        if not self.greeted.done():
            self.greeted.set_exception(KeyServerError(ErrorCode.UNAVAILABLE, str(exc or self._why.detail)))
            self.greeted.exception()  # read here as well: whoever waited may have given up
        self.lost.set_result(None)
        self._client.orphaned(orphans)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Signed):
            self._client.answered(event.request_id, event.signature)
        elif isinstance(event, Failed) and event.request_id:
            self._client.answered(event.request_id, KeyServerError(event.code))
        elif isinstance(event, ChainChecked):
            self._client.answered(event.request_id, event.report)
        elif isinstance(event, Found):
            self._client.answered(event.request_id, event.chains)
        elif isinstance(event, StapleGiven):
            self._client.answered(event.request_id, event.staple)
        elif isinstance(event, TicketSecrets):
            self._client.answered(event.request_id, event.secrets)
        elif isinstance(event, Malformed):
            self._client.answered(event.request_id, WireError(event.why))
        elif isinstance(event, Welcome):
            self.greeted.set_result(None)
            self._client.opened(self.index, self)
        elif isinstance(event, Goodbye):
            log.info("key server %s: says goodbye", self.endpoint.text)
            self._why = KeyServerError(ErrorCode.UNAVAILABLE, "it is about to end")
            self._retired = True
            self._client.retired(self.index, self)
            if not self._asked:
                self.abort()
        elif isinstance(event, Failed):
            self.cut(event.code.name.lower())
        elif isinstance(event, Broken):
            self.cut(event.why)
        elif isinstance(event, Unknown):
            log.debug("key server %s: unknown reply 0x%02x", self.endpoint.text, event.tag)

    def _send(self, message: Message) -> None:
        """Queue a message; all of one turn of the loop leave in one write."""
        self._wire.send(message)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._transport is not None:
            self._transport.write(self._wire.data_to_send())
