"""The fast lane as a client's connection of HTTP/1 and a stream of HTTP/2 have it in common.

Where a request comes whole, is of a common shape, goes as it is to a service that has an idle connection for it, and
its answer comes whole in one read, then the exchange is two calls: one write up, one write down, no commands, no
exchange. What has to be remembered between the two is one tuple.

Nothing uncommon is dealt with here. A request that is not common is left to the common way untouched, before anything
is done. Once one is on its way, whatever happens but its whole answer (more from the client, part of an answer, an end
of either side, a deadline, a drain) first asks `_current` for the exchange, which is then made in the very state that
it would be in had it sent the request itself; and that goes on.
"""

from __future__ import annotations

from abc import abstractmethod
from time import monotonic
from typing import Final

from proxy.actions import Forward
from proxy.answering import Answering
from proxy.carrier import NEVER, State
from proxy.compression import case_of
from proxy.errors import Refused
from proxy.exchange import IDEMPOTENT, Exchange, changes_of
from proxy.hpack import Pair
from proxy.journal import SETTLE_AT
from proxy.lane import Answer, Answers, Request, Requests, reader
from proxy.pool import Reuse
from proxy.rules import Router, normal_target
from proxy.served import ServingCarrier
from proxy.sticky import Stay, merged
from proxy.tracing import FIELD

_EXCHANGE: Final = State.EXCHANGE  # a member of an enumeration is three times as dear to name
Came = bytes | list[Pair]
# The request as it came, its bytes, and as it was read; what was decided; its id; who reads its answer.
_Asked = tuple[Came, int, Request, Forward, Stay | None, bytes, Answers]


class QuickCarrier(ServingCarrier):
    """A carrier that tries the fast lane first."""

    __slots__ = ()  # these are ServingCarrier's, since no class has two bases that have some
    _answers: Answers
    _asked: _Asked | None  # the request that is on its way by the fast lane
    _asked_at: float
    _requests: Requests
    _router: Router
    _tail: bytes  # of each head that goes to a server, up to the request id

    def _open_lane(self, tail: bytes = b"") -> None:
        """To be called before anything else; `tail` may come later."""
        site = self._site
        self._answers = self._hub.answers(site.hsts)
        self._router, self._requests = site.router, reader(site.router.varied)
        self._asked = None
        self._asked_at = 0.0
        self._tail = tail

    @abstractmethod
    def _exchange_of(self, came: Came, size: int, identifier: bytes, hsts: bytes) -> Exchange:
        """The exchange of a request that the fast lane has sent."""

    def _try(self, came: Came, size: int, text: bytes) -> bool:
        """Sends a request by the fast lane; False: it has to go the common way, and at most a server is chosen yet.

        `text`: what it is, or would be, in HTTP/1.1.
        """
        site = self._site
        router = site.router
        if router is not self._router:
            self._router, self._requests = router, reader(router.varied)
        request = self._requests.read(text)
        if request is None or (request.shape.claims and self._origin.trusted):
            return False
        tracer, traced = self._hub.tracer, None
        if tracer is not None:
            traced = tracer.chooses(request.values(FIELD), self._origin.trusted)
            if traced:
                self._traced = True
                return False
        decided = router.route(request, request.target, self._origin.client)
        if isinstance(decided, Forward) and self._ask(came, size, request, decided):
            return True
        self._decided, self._traced = decided, traced
        return False

    def _ask(self, came: Came, size: int, request: Request, forward: Forward) -> bool:
        hub, site = self._hub, self._site
        service = hub.services.get(forward.service)
        demands = forward.demands
        if service is None or (demands is not None and size > demands.quick_bytes):
            return False
        method, _, _, shape, line, host_line, _, cut, body, identifier = request
        stay, prefer = None, None
        if forward.plain and not site.router.stickies:
            lines = shape.lines % shape.pick(cut)
        else:
            sticky = site.router.stickies.get(forward.service)
            if sticky is not None:
                stay = sticky.stay(request)
                prefer = stay.server
            changed = self._changed(request, forward, stay)
            if changed is None:
                return False
            line, host_line, lines = changed
        key, now = self._origin.client, monotonic()
        if service.key is not None:
            key = service.key(request, request.target) or key
        repeatable = not body and method in IDEMPOTENT
        if service.introduces:
            choice = service.pool.assign(key, now, repeatable=repeatable, prefer=prefer, label=self._label(service))
        else:
            choice = service.pool.assign(key, now, repeatable=repeatable, prefer=prefer)
        if not isinstance(choice, Reuse) or not choice.handle.usable:
            self._chosen = choice
            return False
        upstream = choice.handle
        upstream.client = self
        self._upstream, self._service = upstream, service
        if self._answers.hsts != site.hsts:
            self._answers = hub.answers(site.hsts)
        identifier = identifier or hub.new_request_id()
        answers = self._answers if shape.keeps else hub.answers(site.hsts, keeps=False)
        self._asked = came, size, request, forward, stay, identifier, answers
        self._state = _EXCHANGE
        self._asked_at = now
        self._account.number += 1
        self.deadline = now + (service.first_byte_timeout_s or site.request_timeout_s)
        if service.total_timeout_s:
            self._ends_at = now + service.total_timeout_s
            self.deadline = min(self.deadline, self._ends_at)
        upstream.write(b"".join((line, host_line, lines, self._tail, identifier, b"\r\n\r\n", body)))
        return True

    def _changed(self, request: Request, forward: Forward, stay: Stay | None) -> tuple[bytes, bytes, bytes] | None:
        """Request line, the host's line and all others but our own, with what a rule and a client's cookie change in
        them; None: not by the fast lane."""
        line, host_line, shape = request.line, request.host_line, request.shape
        if forward.rewrite is not None:
            host, target = forward.rewrite.apply(request.host, request.target)
            try:
                line = b"%b %b HTTP/1.1\r\n" % (request.method, normal_target(target))
            except Refused:
                return None
            host_line = b"Host: %b\r\n" % host
        changes = merged(forward.request, stay.request) if stay is not None else forward.request
        if changes is None:
            return line, host_line, shape.lines % shape.pick(request.cut)
        lines = self._requests.changed_lines(request, changes)
        return None if lines is None else (line, host_line, lines)

    def _told(self, data: bytes) -> tuple[bytes, Answer] | None:
        """What goes to the client, in HTTP/1.1, for the server's answer to the request on its way; None: the exchange
        has to deal with it."""
        assert self._asked is not None
        _, _, request, forward, stay, _, answers = self._asked
        told = answers.read(data, request.method)
        upstream, service = self._upstream, self._service
        assert upstream is not None
        assert service is not None
        if told is not None and (stay is not None or forward.response is not None):
            changes = changes_of(told[1], forward.response, stay, upstream.server, secure=self._origin.secure)
            told = answers.read(data, request.method, changes)
        if (
            told is None or told[1].status >= 500 or service.pool.attentive  # the server is judged by it
            or (forward.answering is not None and self._concerns(forward.answering, request, stay, told[1]))
        ):  # fmt: skip
            return None
        return told

    def _concerns(self, answering: Answering, request: Request, stay: Stay | None, answer: Answer) -> bool:
        """Whether something is done about an answer besides the changes of a rule."""
        if answering.pages is not None and answer.status >= 400:
            return True
        compressing = answering.compressing
        if compressing is None:
            return False
        case = case_of(request, 1, stay, certified=bool(self._origin.identity))
        return compressing.fate(case, answer.status, answer.length, answer) is not None

    def _done(self, answer: Answer, bytes_out: int) -> float:
        """The request on its way is answered. When that was."""
        upstream, service, asked = self._upstream, self._service, self._asked
        assert asked is not None
        assert upstream is not None
        assert service is not None
        self._asked = None
        _, size, request, forward, _, identifier, _ = asked
        now = monotonic()
        took_s = now - self._asked_at
        if service.pool.timed:
            service.pool.answered(upstream.server, took_s, now)
        self._give_back(upstream, service, reuse=True)
        self._ends_at = NEVER
        wanted, journal = self._hub.log_fields, self._hub.journal
        journal.visits.append(
            (
                now, self._visitor, request.method, request.host, request.target, answer.status, size, bytes_out,
                took_s, upstream.name, identifier, forward.way,
                tuple([each.value(request, answer, forward.way) for each in wanted]) if wanted else (),
            )
        )  # fmt: skip
        if len(journal.visits) >= SETTLE_AT:
            journal.settle()
        return now

    def _current(self) -> Exchange | None:
        asked = self._asked
        if asked is not None:
            self._asked = None
            came, size, _, forward, _, identifier, answers = asked
            upstream, account = self._upstream, self._account
            assert upstream is not None
            account.bytes_in, account.bytes_out = size, 0
            account.started_at = account.assigned_at = self._asked_at
            account.first_at = 0.0
            self._exchange = self._exchange_of(came, size, identifier, answers.hsts)
            self._exchange.resume(forward, upstream.server)
        return self._exchange
