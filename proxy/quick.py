"""A client connection with a fast lane.

Where a request comes whole in one read, is of a common shape, goes as it is to a service that has an idle connection
for it, and its answer comes whole in one read, then the exchange is two calls: one write up, one write down, no
commands, no exchange. What has to be remembered between the two is one tuple.

Nothing uncommon is dealt with here. A request that is not common is left to `ClientConnection` untouched, before
anything is done. Once one is on its way, whatever happens but its whole answer (more from the client, part of an
answer, an end of either side, a deadline, a drain) first asks `_current` for the exchange, which is then made in the
very state that it would be in had it sent the request itself; and that goes on.

What goes through a tunnel is passed on without asking the exchange either.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from proxy.actions import Forward
from proxy.carrier import State
from proxy.conn import ClientConnection
from proxy.exchange import IDEMPOTENT, Exchange
from proxy.head import read_request
from proxy.hub import Hub, Site
from proxy.journal import SETTLE_AT
from proxy.lane import Answers
from proxy.lane import read_request as read_common_request
from proxy.pool import Reuse

# The request as it came, method, target, host, where it goes, request id, and who reads its answer.
_Asked = tuple[bytes, bytes, bytes, bytes, Forward, bytes, Answers]


class QuickConnection(ClientConnection):
    """One client's connection to a listener."""

    __slots__ = ("_answers", "_asked", "_tail")

    def __init__(self, hub: Hub, site: Site) -> None:
        super().__init__(hub, site)
        self._answers = hub.answers(site.hsts)
        self._asked: _Asked | None = None  # the request that is on its way by the fast lane
        self._tail = b""  # of each head that goes to a server, up to the request id

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        origin = self._origin
        self._tail = b"%b%bVia: 1.1 %b\r\nX-Request-Id: " % (origin.lines, origin.identity or b"", origin.node)

    def data_received(self, data: bytes) -> None:
        if self._full:
            super().data_received(data)
        elif self._state is State.IDLE:
            if not self._ask(data):
                super().data_received(data)
        elif self._exchange is not None and self._exchange.tunnels and self._upstream is not None:
            self._bytes_in += len(data)
            self._upstream.write(data)
            self.deadline = self._hub.now() + self._site.tunnel_timeout_s
        else:
            super().data_received(data)

    def _ask(self, data: bytes) -> bool:
        """Sends a request by the fast lane; False: it has to go the common way, and at most a server is chosen yet."""
        request, site = read_common_request(data), self._site
        if request is None or self._retiring or site.closing:
            return False
        method, target, shape, line, lines, body, identifier = request
        host, _, _, claims, keeps, _ = shape
        hub, origin = self._hub, self._origin
        router = site.router
        forward = (not router.stickies and router.always) or router.forward(host, target)
        if forward is None:
            return False
        service = hub.services.get(forward.service)
        if service is None or service.total_timeout_s or service.key or (claims and origin.trusted):
            return False
        now = monotonic()
        choice = service.pool.assign(origin.client, now, repeatable=not body and method in IDEMPOTENT)
        if not isinstance(choice, Reuse) or not choice.handle.usable:
            self._chosen = choice
            return False
        upstream = choice.handle
        upstream.client = self
        self._upstream, self._service = upstream, service
        if self._answers.hsts != site.hsts:
            self._answers = hub.answers(site.hsts)
        identifier = identifier or hub.new_request_id()
        answers = self._answers if keeps else hub.answers(site.hsts, keeps=False)
        self._asked = data, method, target, host, forward, identifier, answers
        self._state = State.EXCHANGE
        self._started_at = now
        self.deadline = now + (service.first_byte_timeout_s or site.request_timeout_s)
        upstream.write(b"".join((line, lines, self._tail, identifier, b"\r\n\r\n", body)))
        return True

    def upstream_data(self, data: bytes) -> None:
        asked = self._asked
        if asked is None:
            exchange = self._exchange
            if exchange is not None and exchange.tunnels and not self._full and not self._eof:
                self._bytes_out += len(data)
                self._transport.write(data)
                self.deadline = self._hub.now() + self._site.tunnel_timeout_s
            else:
                super().upstream_data(data)
            return
        request, method, target, host, forward, identifier, answers = asked
        answer = answers.read(data, method)
        upstream, service = self._upstream, self._service
        assert upstream is not None
        assert service is not None
        if answer is None or answer[1] >= 500 or service.pool.attentive:  # the server is judged by it
            super().upstream_data(data)
            return
        self._asked = None
        out, status = answer
        now = monotonic()
        if service.pool.timed:
            service.pool.answered(upstream.server, now - self._started_at, now)
        self._give_back(upstream, service, reuse=True)
        self._state = State.IDLE
        self.deadline = now + self._site.idle_timeout_s
        self._transport.write(out)
        if self._paused:
            self.balance()
        if not answers.keeps:
            self._close()
        journal = self._hub.journal
        journal.visits.append(
            (
                now, self._visitor, method, host, target, status, len(request), len(out), now - self._started_at,
                upstream.name, identifier, forward.way,
            )
        )  # fmt: skip
        if len(journal.visits) >= SETTLE_AT:
            journal.settle()

    def _current(self) -> Exchange | None:
        asked = self._asked
        if asked is not None:
            self._asked = None
            request, _, _, _, forward, identifier, answers = asked
            head, upstream, hub = read_request(request), self._upstream, self._hub
            assert head is not None
            assert upstream is not None
            self._head = head
            self._bytes_in, self._bytes_out, self._assigned_at = len(request), 0, self._started_at
            self._first_at = 0.0
            self._exchange = Exchange(
                head, self._origin, self._site.router, identifier, hub.date, rest=request[head.size :],
                hsts=answers.hsts,
            )  # fmt: skip
            self._exchange.resume(forward, upstream.server)
        return self._exchange
