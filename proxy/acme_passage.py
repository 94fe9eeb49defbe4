"""A CA's handshake led to the ACME issuer, byte by byte (tls-alpn-01, RFC 8737).

    CA ── ClientHello, ALPN acme-tls/1 ──► L7 node ══ the same bytes ══► issuer, which has the challenge's certificate

The node holds neither certificate nor key for it, and nothing has to reach it before the CA looks. Whoever sends such a
ClientHello gets to the issuer, so that each passage is bounded: LIMIT_BYTES in each direction, the listener's handshake
timeout and place (it counts as a handshake under way until it ends), MOST at a time in a worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from core.endpoints import endpoint
from proxy.balance import Address
from proxy.hub import Hub, Site
from proxy.pool import Open
from proxy.service import Service
from proxy.tls_hello import server_name
from proxy.upstream import CLOSE_S

log = logging.getLogger(__name__)

LIMIT_BYTES: Final = 65_536  # a handshake with one small certificate has 2 to 4 KiB
MOST: Final = 64
TRIES: Final = 3  # servers of the issuer's backend service
LOG_EVERY_S: Final = 1.0  # anybody can ask for a passage, and must not fill the log

Ended = Callable[[str], None]  # the reason why the CA was not led to the issuer; empty: it was


class Passages:
    """The passages of one worker."""

    def __init__(self, hub: Hub, most: int = MOST) -> None:
        self._hub = hub
        self._open: set[Passage] = set()
        self._most = most
        self._next_logged = 0.0

    def lead(self, site: Site, client: asyncio.Transport, hello: bytes, ended: Ended) -> bool:
        """Lead a connection that began with `hello` to the site's issuer; False where it has none.

        `ended` is called once, before the sockets are closed. Whoever aborts the client's transport ends the passage.
        """
        if not site.acme_service:
            return False
        told = partial(self._ended, site, client, server_name(hello), ended)
        passage = Passage(client, hello, told, self._hub)
        service = self._hub.services.get(site.acme_service)
        if service is None or len(self._open) >= self._most:
            passage.end("there is no such backend service" if service is None else f"{self._most} are under way")
            return True
        self._open.add(passage)
        passage.forget = partial(self._open.discard, passage)
        client.set_protocol(passage)
        client.pause_reading()
        self._hub.tasks.spawn(self._connect(passage, service), "connect to the ACME issuer")
        return True

    async def _connect(self, passage: Passage, service: Service) -> None:
        """To a server of the issuer's, the next one if it does not answer."""
        tried: list[Address] = []
        why = "no server of it is healthy"
        while len(tried) < TRIES and not passage.over:
            choice = service.pool.assign(passage.source, self._hub.now(), repeatable=True, tried=tried, fresh=True)
            if not isinstance(choice, Open):  # none: tcp services have no limit that could be met
                break
            tried.append(choice.server)
            passage.server = choice.server
            passage.release = partial(service.pool.failed, choice.server)  # its connections are used once
            try:
                async with asyncio.timeout(service.connect_timeout_s):
                    await self._hub.loop.create_connection(passage.far_side, *choice.server)
            except OSError as error:
                passage.free()
                why = f"{endpoint(*choice.server)}: {os.strerror(error.errno) if error.errno else 'no answer in time'}"
                self._hub.count("connect_failures")
            else:
                return
        passage.end(why)

    def _ended(
        self, site: Site, client: asyncio.Transport, name: str, ended: Ended, passage: Passage, why: str
    ) -> None:
        now = self._hub.now()
        if now >= self._next_logged:
            self._next_logged = now + LOG_EVERY_S
            (address, *_) = client.get_extra_info("peername") or ("a client that has gone",)
            if why:
                log.warning("%s: the CA at %s asked for %r and was not led on: %s", site.name, address, name, why)
            else:
                log.info(
                    "%s: the CA at %s asked for %r and was led to %s: %d bytes there, %d back",
                    site.name, address, name, endpoint(*passage.server), passage.there, passage.back,
                )  # fmt: skip
        ended(why)


def _nothing() -> None:
    pass


class Passage(asyncio.BufferedProtocol):
    """One connection of a CA, and the issuer's side of it. The protocol of the CA's transport."""

    __slots__ = (
        "_buffer", "_client", "_ended", "_hello", "_issuer", "_loop", "back", "forget", "over", "release", "server",
        "source", "there",
    )  # fmt: skip

    def __init__(
        self,
        client: asyncio.Transport,
        hello: bytes,
        ended: Callable[[Passage, str], None],
        hub: Hub,
    ) -> None:
        peer = client.get_extra_info("peername")
        self.source = str(peer[0]).encode() if peer else b""
        self.server: Address = ("", 0)
        self.there = self.back = 0  # bytes
        self.over = False
        self.forget = self.release = _nothing
        self._client = client
        self._issuer: asyncio.Transport | None = None
        self._hello = hello
        self._ended = ended
        self._loop, self._buffer = hub.loop, hub.buffer

    def far_side(self) -> asyncio.Protocol:
        """The protocol of the connection to the issuer."""
        return _FarSide(self)

    # -- the CA

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._forward(bytes(memoryview(self._buffer)[:nbytes]))

    def eof_received(self) -> None:
        self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()

    # -- the issuer

    def reached(self, issuer: asyncio.Transport) -> None:
        if self.over:
            issuer.abort()
            return
        self._issuer = issuer
        self._forward(self._hello)
        if not self._client.is_closing():
            self._client.resume_reading()

    def answered(self, data: bytes) -> None:
        self.back += len(data)
        if self.back > LIMIT_BYTES:
            self.end("the issuer sends too much")
        elif not self.over:
            self._client.write(data)

    # -- both

    def _forward(self, data: bytes) -> None:
        self.there += len(data)
        if self.there > LIMIT_BYTES:
            self.end("it sends too much")
        elif self._issuer is not None and not self.over:
            self._issuer.write(data)

    def end(self, why: str = "") -> None:
        """One side has ended, or cannot go on: what is on its way goes out, for a while, and both are closed."""
        if self.over:
            return
        if not why and self._issuer is None:
            why = "it went away before the issuer was reached"
        self.over = True
        self.forget()
        self.free()
        self._ended(self, why)
        for transport in (self._client, self._issuer):
            if transport is not None and not transport.is_closing():
                if transport.get_write_buffer_size():
                    self._loop.call_later(CLOSE_S, transport.abort)
                transport.close()

    def free(self) -> None:
        """The server that was chosen has one connection less."""
        release, self.release = self.release, _nothing
        release()


class _FarSide(asyncio.Protocol):
    __slots__ = ("_passage",)

    def __init__(self, passage: Passage) -> None:
        self._passage = passage

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._passage.reached(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._passage.answered(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._passage.end()
