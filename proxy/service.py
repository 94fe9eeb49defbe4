"""A backend service as the connections of a worker see it: its pool, its queue, how long to wait for its servers."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from core.ejection import Outcome
from core.endpoints import endpoint
from core.model import MULTIPLEXED, BackendProtocol, BackendService
from proxy.balance import Address
from proxy.keys import key_of
from proxy.pool import Pool
from proxy.trunks import Trunks
from proxy.upstream import Secured, UpstreamConnection

TELL_S: Final = 10.0

log = logging.getLogger(__name__)


class Waiter(Protocol):
    """A connection whose request waits for a server."""

    def resume(self) -> None:
        """It is its turn: there is a server, or none will take it."""

    def shed(self) -> None:
        """It has waited too long while others came."""


def _nobody(*_: object) -> None:
    """Where no other worker is."""


class Service:
    """Changed in place when the configuration changes. `call_soon` is the loop's.

    `fallback` takes the requests that no server of this one takes; following fallbacks comes to an end. Timeouts of 0
    are not this service's to say: the listener has its own. `key` None: hashes go by the client's address.
    """

    __slots__ = (
        "_call_soon", "_next_told", "_serving", "connect_timeout_s", "fallback", "first_byte_timeout_s",
        "idle_timeout_s", "introduces", "key", "multiplexed", "name", "on_ejected", "pool", "queue_timeout_s",
        "secured", "total_timeout_s", "trunks",
    )  # fmt: skip

    def __init__(
        self, name: str, pool: Pool[UpstreamConnection, Waiter], call_soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self.name, self.pool = name, pool
        self.fallback: Service | None = None
        self.multiplexed = False  # requests share connections, those of `trunks`, and the pool has none
        self.trunks = Trunks(self._tell_now)
        self.secured: Secured = (None, "")
        self.configure(_DEFAULTS)
        self.on_ejected: Callable[[str, Address, float], None] = _nobody  # so that the other workers hear of it
        self._call_soon = call_soon
        self._serving = False
        self.introduces = 0  # by which version of the PROXY protocol servers are told whose a connection is; 0: by none
        self._next_told = 0.0
        pool.on_room = self._serve_soon

    def configure(self, service: BackendService) -> None:
        """Takes the times; servers and fallback are the caller's."""
        self.key = key_of(service.hash_key)
        self.connect_timeout_s = service.connect_timeout_s
        self.first_byte_timeout_s = service.first_byte_timeout_s
        self.idle_timeout_s = service.idle_timeout_s
        self.total_timeout_s = service.total_timeout_s
        self.queue_timeout_s = service.queue_timeout_s
        if (service.protocol in MULTIPLEXED) is not self.multiplexed:
            self.multiplexed = not self.multiplexed
            self._change(self.secured)

    def begin_by(self, context: ssl.SSLContext | None, service: BackendService) -> None:
        """Takes how connections to the servers begin: by TLS, None for not at all, and by a header (`proxy_protocol`).

        Idle connections made otherwise are closed.
        """
        secured, version = (context, service.tls_server_name), service.proxy_protocol.version
        if (secured, version) != (self.secured, self.introduces):
            self.introduces = version
            self._change(secured)

    def _change(self, secured: Secured) -> None:
        """Connections are made otherwise from now on; those that are in use are not used again (`secured` is another
        object than theirs)."""
        self.secured = secured[0], secured[1]
        self.trunks.retire()
        for upstream in self.pool.forget_idle():
            upstream.close()

    def _tell_now(self, server: Address, why: str) -> None:
        self.tell(server, why, asyncio.get_running_loop().time())

    def tell(self, server: Address, why: str, now: float) -> None:
        """Logs a failure that somebody has to look into, not more often than every TELL_S."""
        if now >= self._next_told:
            self._next_told = now + TELL_S
            log.warning("%s: %s: %s", self.name, endpoint(*server), why)

    def note(self, server: Address, outcome: Outcome, now: float) -> None:
        """How a request went; see `Pool.note`."""
        out_s = self.pool.note(server, outcome, now)
        if out_s:
            log.warning("%s: %s is ejected for %g s: its requests fail", self.name, endpoint(*server), out_s)
            self.on_ejected(self.name, server, out_s)

    def _serve_soon(self) -> None:
        if not self._serving:
            self._serving = True
            self._call_soon(self._serve)

    def _serve(self) -> None:
        """Those whose turn it is. In a turn of its own: whoever released a server is done by then."""
        self._serving = False
        now = monotonic()
        for late in self.pool.shed(now):
            late.shed()
        for _ in range(self.pool.waiting):
            waiter = self.pool.next_in_turn(now)
            if waiter is None:
                return
            waiter.resume()


_DEFAULTS = BackendService("", BackendProtocol.HTTP)
