"""The TLS node's end: signatures from whichever key server answers in time.

A connection to *every* endpoint is kept open, so that failing over costs no handshake. Requests go to the first open
endpoint in the order given, pipelined; the others stand by. A request moves on to the next one, inside its own
deadline, when

* its connection is lost,
* the server answers with a code that says nothing about the request itself (`_TRY_ELSEWHERE`), or
* the server has been silent for its share of the deadline while requests were outstanding; it then counts as hung and
  its connection is cut, so that later requests do not wait for it either.

An endpoint whose signature has turned out to be wrong (`distrust`) is asked last for a minute: a node finds out from
its clients, since verifying each signature would cost more than the rest of the request.

A signature may be asked for twice, so moving on is always safe. With no endpoint open, requests wait for one until
their deadline. Everything happens in the loop's thread; a request's callback is called exactly once, never from within
`sign_soon`. This module is all of the key server that a TLS node imports.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import cast

from certs.report import ChainReport, Staple
from control.node.identity import Identity
from control.node.tasks import Tasks
from keyserver.errors import ErrorCode, KeyServerError, WireError
from keyserver.link import Chains, Endpoint, Link, Pending, Request, Result, Secrets
from keyserver.protocol import (
    MAX_REQUEST_ID,
    CheckChain,
    Find,
    GetStaple,
    Sign,
    Tickets,
)

log = logging.getLogger(__name__)

MAX_OUTSTANDING = 8192  # handshakes waiting for a signature; beyond it a node is better off refusing
MAX_CHAINS = 4  # chain checks and look-ups at a time; each may hold 256 KiB
MAX_ATTEMPTS = 4  # a request that kills servers must not visit them until its deadline
CONNECT_TIMEOUT_S = 3.0  # TCP, TLS and greeting
BACKOFF_S = (0.05, 2.0)  # the first delay and the longest
TICKS_PER_DEADLINE = 40  # how finely deadlines are kept
DISTRUST_S = 60.0  # a handshake a minute is what an endpoint that lies may cost while there are others

_TRY_ELSEWHERE = frozenset({ErrorCode.UNKNOWN_KEY, ErrorCode.BUSY, ErrorCode.INTERNAL})


class KeyClient:
    """Signatures and chain checks from the first key server of `endpoints` that answers.

    endpoints: "unix:/path" or "host:port", in order of preference; the latter need `identity`, and the peer's role has
    to be `keyserver`. `deadline_s` bounds each request, failing over included. Raises ValueError for an endpoint that
    cannot be used. Every method belongs to the loop's thread.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        identity: Identity | None = None,
        deadline_s: float = 2.0,
        max_outstanding: int = MAX_OUTSTANDING,
    ) -> None:
        if not endpoints:
            raise ValueError("no key server is given: give unix:PATH or HOST:PORT")
        self._endpoints = [Endpoint.parse(text) for text in endpoints]
        if identity is None and any(endpoint.host for endpoint in self._endpoints):
            raise ValueError("a key server at HOST:PORT needs a node identity (mutual TLS)")
        self._tls = identity.client_context("keyserver") if identity is not None else None
        self._deadline_s = deadline_s
        self._silence_s = deadline_s / min(len(self._endpoints) + 1, 4)
        self._max_outstanding = max_outstanding
        self._open: list[Link | None] = [None] * len(self._endpoints)
        self._pending: dict[int, Pending] = {}  # in the order of their deadlines, since all wait equally long
        self._waiting: list[Pending] = []  # those of them for which no endpoint is open
        self._last_id = 0
        self._distrusted: dict[int, float] = {}  # until when, by the endpoint's index
        self._chains = asyncio.Semaphore(MAX_CHAINS)
        self._tasks = Tasks()
        self._ticking = False
        self._closed = False
        self._opened = asyncio.Event()

    async def start(self) -> None:
        """Connect to every endpoint, and go on doing so; returns when one is open, or after the deadline without."""
        self._loop = asyncio.get_running_loop()
        for index, endpoint in enumerate(self._endpoints):
            self._tasks.spawn(self._keep_open(index, endpoint), f"key server {endpoint.text}")
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._opened.wait()
        except TimeoutError:
            log.warning("no key server answers yet: %s", ", ".join(e.text for e in self._endpoints))

    async def close(self) -> None:
        """Cut all connections; what is outstanding fails with CLOSED."""
        self._closed = True
        await self._tasks.close()
        for pending in list(self._pending.values()):
            self._finish(pending, KeyServerError(ErrorCode.CLOSED))

    @property
    def connected(self) -> bool:
        """Whether any endpoint is open now."""
        return self._first_open(()) is not None

    def states(self) -> dict[str, bool]:
        """Each endpoint, and whether its connection is open."""
        return {e.text: link is not None for e, link in zip(self._endpoints, self._open, strict=True)}

    def sign_soon(
        self, key_id: bytes, scheme: int, content: bytes, sni: str, done: Callable[[bytes | KeyServerError], None]
    ) -> object:
        """Have `content` signed by key `key_id` (SHA-256 of its SubjectPublicKeyInfo); `done` gets the signature.

        scheme: TLS SignatureScheme code point. content: all the bytes to be signed; the server checks their shape.
        Returns what `distrust` is given if the signature proves wrong.
        """
        return self._ask(Sign(self.next_id(), key_id, scheme, sni, content), cast("Callable[[Result], None]", done))

    def distrust(self, asked: object) -> None:
        """Ask the endpoint that gave a wrong signature last for a minute. `asked` is what `sign_soon` returned."""
        link = asked.link if isinstance(asked, Pending) else None
        if link is None:
            return
        log.error("key server %s: gave a wrong signature; the others are asked first", link.endpoint.text)
        self._distrusted[link.index] = self._loop.time() + DISTRUST_S

    async def sign(self, key_id: bytes, scheme: int, content: bytes, sni: str) -> bytes:
        """`sign_soon` for coroutines. Raises KeyServerError."""
        return cast(bytes, await self._answer(Sign(self.next_id(), key_id, scheme, sni, content)))

    async def check_chain(self, chain_pem: str) -> ChainReport:
        """Whether a chain may be served, and whether its key is held. Raises KeyServerError."""
        async with self._chains:
            return cast(ChainReport, await self._answer(CheckChain(self.next_id(), chain_pem)))

    async def find(self, name: str) -> Chains:
        """The keys for a server name, each with its chain. Raises KeyServerError: UNKNOWN_KEY where there is none."""
        async with self._chains:
            return cast(Chains, await self._answer(Find(self.next_id(), name)))

    async def staple(self, chain_pem: str) -> Staple:
        """The OCSP answer to be stapled with a chain, as far as there is one now. Raises KeyServerError."""
        async with self._chains:
            return cast(Staple, await self._answer(GetStaple(self.next_id(), chain_pem)))

    async def ticket_secrets(self) -> Secrets:
        """What to make the keys of session tickets of: three periods, oldest first. Raises KeyServerError."""
        return cast(Secrets, await self._answer(Tickets(self.next_id())))

    async def _answer(self, message: Request) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(result: Result) -> None:
            if not future.cancelled():
                future.set_result(result)

        self._ask(message, done)
        result = await future
        if isinstance(result, KeyServerError):
            raise result
        return result

    def next_id(self) -> int:
        """Ids are unique among what is outstanding, and are never 0, which stands for a whole connection."""
        self._last_id = self._last_id % MAX_REQUEST_ID + 1
        return self._last_id

    def _ask(self, message: Request, done: Callable[[Result], None]) -> Pending:
        now = self._loop.time()
        pending = Pending(message, done, now + self._deadline_s)
        if self._closed or len(self._pending) >= self._max_outstanding:
            code = ErrorCode.CLOSED if self._closed else ErrorCode.OVERLOADED
            self._loop.call_soon(done, KeyServerError(code))
            return pending
        self._pending[message.request_id] = pending
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(self._deadline_s / TICKS_PER_DEADLINE, self._tick)
        self._dispatch(pending, now)
        return pending

    def _first_open(self, tried: Sequence[Link]) -> Link | None:
        """In the order of preference; those that are not trusted after all others."""
        last = None
        for index, link in enumerate(self._open):
            if link is None or link in tried:
                continue
            if not self._distrusted or not self._is_distrusted(index):
                return link
            last = last or link
        return last

    def _is_distrusted(self, index: int) -> bool:
        until = self._distrusted.get(index)
        if until is not None and until <= self._loop.time():
            del self._distrusted[index]
            until = None
        return until is not None

    def _dispatch(self, pending: Pending, now: float, because: KeyServerError | None = None) -> None:
        """Send it to the next open endpoint; with none left, fail with the last answer or wait for one to open."""
        link = self._first_open(pending.tried) if len(pending.tried) < MAX_ATTEMPTS else None
        if link is not None:
            try:
                link.ask(pending, now)
            except WireError as error:  # no frame can hold it: the caller's mistake
                self._loop.call_soon(self._finish, pending, error)
        elif because is not None:
            self._finish(pending, because)
        elif len(pending.tried) >= MAX_ATTEMPTS:
            self._finish(pending, KeyServerError(ErrorCode.UNAVAILABLE, "lost each connection it was sent on"))
        else:
            self._waiting.append(pending)

    def _finish(self, pending: Pending, result: Result) -> None:
        if self._pending.pop(pending.message.request_id, None) is None:
            return
        if pending.link is not None:
            pending.link.forget(pending)
        try:
            pending.done(result)
        except Exception:
            log.exception("the callback of request %d failed", pending.message.request_id)

    def _tick(self) -> None:
        """Fail what is late, cut connections that have gone silent, move what waits."""
        now = self._loop.time()
        for pending in list(self._pending.values()):
            if pending.deadline > now:
                break
            code = ErrorCode.DEADLINE if pending.tried else ErrorCode.UNAVAILABLE
            self._finish(pending, KeyServerError(code, f"no answer within {self._deadline_s:g} s"))
        self._waiting = [pending for pending in self._waiting if pending.message.request_id in self._pending]
        for link in self._open:
            if link is not None and link.silent_since < now - self._silence_s:
                link.cut("it does not answer")
        self._ticking = bool(self._pending)
        if self._ticking:
            self._loop.call_later(self._deadline_s / TICKS_PER_DEADLINE, self._tick)

    def answered(self, request_id: int, result: Result) -> None:
        """For links: a reply has come in. One that came too late, or was given twice, is ignored."""
        pending = self._pending.get(request_id)
        if pending is None:
            return
        if isinstance(result, KeyServerError) and result.code in _TRY_ELSEWHERE:
            if pending.link is not None:
                pending.link.forget(pending)
                pending.link = None
            self._dispatch(pending, self._loop.time(), because=result)
        else:
            self._finish(pending, result)

    def opened(self, index: int, link: Link) -> None:
        """For links: the greeting is done."""
        self._open[index] = link
        self._opened.set()
        waiting, self._waiting = self._waiting, []
        now = self._loop.time()
        for pending in waiting:
            self._dispatch(pending, now)

    def retired(self, index: int, link: Link) -> None:
        """For links: the endpoint wants nothing new (GOODBYE), or its connection is gone."""
        if self._open[index] is link:
            self._open[index] = None

    def orphaned(self, orphans: Sequence[Pending]) -> None:
        """For links: requests whose connection is gone move on."""
        now = self._loop.time()
        for pending in orphans:
            pending.link = None
            if not self._closed:
                self._dispatch(pending, now)

    async def _keep_open(self, index: int, endpoint: Endpoint) -> None:
        """Connect again and again, with growing and randomly shortened delays."""
        delay_s, reported = BACKOFF_S[0], ""
        while True:
            link = Link(self, index, endpoint)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._connect(link, endpoint)
                log.info("key server %s: connected", endpoint.text)
                delay_s, reported = BACKOFF_S[0], ""
                await link.serve()
            except (OSError, ssl.SSLError, KeyServerError) as error:
                why = str(error) or type(error).__name__
                if why != reported:  # once per cause, not once per attempt
                    log.warning("key server %s: %s; trying again", endpoint.text, why)
                reported = why
            finally:
                link.abort()
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
            delay_s = min(delay_s * 2, BACKOFF_S[1])

    async def _connect(self, link: Link, endpoint: Endpoint) -> None:
        connecting: Coroutine[None, None, object]
        if endpoint.path:
            connecting = self._loop.create_unix_connection(lambda: link, endpoint.path)
        else:
            connecting = self._loop.create_connection(lambda: link, endpoint.host, endpoint.port, ssl=self._tls)
        await connecting
        await link.greeted
