"""One request and its answer: events in, commands out; no socket, no clock (RFC 9110 §7, 9112 §9).

An exchange begins with a request head. What its rule demands of it comes first (admission.py): it may end there, or
wait (`Pause`). Then it asks for an upstream (`Assign`), sends the request as it comes in, relays the answer as it comes
back, and ends with `Finish` or `Abort`. Each event is a method that returns the commands to carry out in order. Two
small machines run side by side, one for the request's way up and one for the answer's way down; their moves stand in
tables (moves.py), and `_move_…` is the only place that changes them. What either side speaks is no business of theirs:
that is what dialects are for (dialects.py), one towards the client, one towards each server tried.

What is kept true:
* A request is sent a second time only if it provably was not processed: the connection could not be made, or it was a
  reused one that closed before any byte of an answer, the method is idempotent, and the request has no body. Or the
  server has said so, as one of HTTP/2 can (RFC 9113 §8.7): then a body that was sent is sent again, of which as much as
  REPLAY_BYTES is kept for that until an answer begins.
* An upstream connection is used again only when both messages ended where their framing said.
* An answer once begun is never patched: when it cannot be ended properly the client connection is cut, so that the
  client sees that it is incomplete.
* Nothing is stored but bytes that cannot be passed on yet: a head in progress, and what a client sent ahead (`rest`),
  which the caller bounds by not reading on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from core.model import Mirror
from proxy import grpc, headers
from proxy.actions import Changes, Decision, Forward, Redirect, Reply, Sent, joined
from proxy.admission import Await, Case, Delay, Means, Refusal, Verdict, retry_after
from proxy.answering import Answering
from proxy.balance import Address
from proxy.browsers import Browsers
from proxy.commands import (
    Abort,
    Ask,
    Assign,
    Command,
    Copy,
    EndUpstream,
    Finish,
    Pause,
    ReleaseUpstream,
    SendClient,
    SendUpstream,
)
from proxy.compression import Case as CompressionCase
from proxy.compression import case_of
from proxy.demands import Mirroring
from proxy.dialects import ClientDialect, Heard, Piece, ServerDialect
from proxy.encoded import EncodedClient, encoded
from proxy.encoders import Encoder
from proxy.errors import LATER, Code, Refused, Source
from proxy.http1 import Http1Client, Http1Server
from proxy.message import Block, Fields, Outgoing, RequestHead, ResponseHead
from proxy.moves import DOWN_MOVES, UP_MOVES, Down, Up, Waits
from proxy.origin import Origin
from proxy.pages import Form, Page, Pages
from proxy.policy import upgrades_to_websocket
from proxy.rules import Router, normal_target
from proxy.sticky import Stay, merged

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))  # RFC 9110 §9.2.2, less TRACE
TRIES: Final = 3
REPLAY_BYTES: Final = 16_384
INTERIM_LIMIT: Final = 16  # 1xx answers to one request
MARK: Final = Changes(frozenset((b"x-mirrored",)), b"X-Mirrored: 1\r\n")  # of copies
# A member of an enumeration is three times as dear to name.
_BODY: Final = Down.BODY
_SENT, _SENDING, _TUNNEL, _ENDED = Up.SENT, Up.SENDING, Up.TUNNEL, Up.ENDED
# Nor is a frozen object cheap to make.
_REUSED, _DROPPED = ReleaseUpstream(True), ReleaseUpstream(False)
_KEPT = Finish(True)


def changes_of(
    answer: Fields, rule: Changes | None, stay: Stay | None, server: Address, *, secure: bool
) -> Changes | None:
    """What is changed in an answer's head: as the rule says, and the cookie of a client that stays."""
    return rule if stay is None else merged(rule, stay.answer(answer, server, secure=secure))


class _Copied:
    """A request that is to be copied: its body, as far as it has come."""

    __slots__ = ("_left", "_means", "mirror", "parts")

    def __init__(self, mirror: Mirror, means: Means) -> None:
        self.mirror, self._means = mirror, means
        self._left = mirror.max_body_bytes
        self.parts: list[bytes] = []

    @classmethod
    def of(cls, mirroring: Mirroring, means: Means) -> _Copied | None:
        """None: it is not this one's turn."""
        return cls(mirroring.mirror, means) if mirroring.next() else None

    def take(self, payload: bytes) -> bool:
        """False: it is too long to be copied."""
        self._left -= len(payload)
        if self._left < 0:
            self._means.count("mirrors_dropped")
            return False
        self.parts.append(payload)
        return True


class Exchange:
    """A request whose head is `head`. `rest`: bytes from the client that are not consumed (yet). `client`: what it
    speaks, HTTP/1 if nothing is said.

    `hsts` is a line for the answer's head, or empty; `means`: what admission has at hand. `rule` and `service`, which
    it names, `status`, `error`, `source`, `offset`, `upstream` and `target` say how it went, for the log.
    """

    __slots__ = (
        "_admitted", "_again_after", "_answering", "_body_left", "_call", "_case", "_changes", "_client",
        "_continued", "_copied", "_copy", "_date", "_decision", "_down", "_early", "_head", "_hsts", "_interim",
        "_keep_alive", "_leave", "_means", "_origin", "_repeatable", "_request", "_reused", "_router", "_server",
        "_sheddable", "_stay", "_traced", "_tried", "_tries", "_up", "_upgrade", "answer", "browsers", "error",
        "grpc_status", "identifier", "offset", "replaced", "rest", "rule", "service", "source", "status", "target",
        "upstream", "user",
    )  # fmt: skip

    def __init__(
        self,
        head: RequestHead,
        origin: Origin,
        router: Router,
        identifier: bytes,
        date: Callable[[], bytes],
        *,
        rest: bytes = b"",
        closing: bool = False,
        hsts: bytes = b"",
        client: ClientDialect | None = None,
        means: Means | None = None,
    ) -> None:
        self._head, self._origin, self._router, self._date = head, origin, router, date
        self._hsts, self._means = hsts, means
        self.identifier = identifier
        self.rest = rest
        self.status = 0
        self._call = grpc.is_call(head)
        self.grpc_status: int | None = None  # what a call of gRPC was told
        self.error: Code | None = None
        self.source: Source | None = None
        self.offset: int | None = None
        self.upstream: Address | None = None
        self.answer: Block | None = None  # the fields of the server's answer
        self.replaced = False  # by a page of ours
        self.target = head.target
        self._keep_alive = head.block.keep_alive and not closing
        self._up, self._down = Up.ASSIGNING, Down.WAITING
        self._client: ClientDialect = Http1Client(head.block) if client is None else client
        self._server: ServerDialect | None = None  # of the connection that the request is sent on
        self._repeatable = self._client.done and head.method in IDEMPOTENT
        self._copy: bytes | None = None  # of the body that was sent, as long as the server may say that it is no matter
        self._tried: frozenset[Address] = frozenset()
        self._tries = 0
        self._again_after = Code.CONNECT  # why the request is to be sent again
        self._interim = 0
        self._continued = False
        self._early = False  # the answer began before the request had ended
        self._reused = False
        self._upgrade = b""
        self._request: Outgoing | None = None
        self._sheddable = False
        self._copied: _Copied | None = None  # what a copy of the request needs, while it comes
        self.rule = ""
        self.service = ""
        self._changes: Changes | None = None
        self._stay: Stay | None = None
        self._traced: Changes | None = None
        self._admitted: Changes | None = None  # what the server is told of whoever was admitted
        self._decision: Decision = None
        self._case: Case | None = None  # while it is not admitted
        self.browsers: Browsers | None = None  # what they are told
        self._leave: list[Callable[[], None]] = []  # what it has a place in
        self._body_left: int | None = None  # bytes that may still come; None: any number
        self._answering = router.answering  # what is done about the answer
        self.user = ""

    # -- what the caller may ask

    @property
    def over(self) -> bool:
        return self._up is _ENDED

    @property
    def tunnels(self) -> bool:
        return self._up is _TUNNEL

    @property
    def pausing(self) -> bool:
        """Whether it waits to be admitted: then no server is waited for yet."""
        return self._case is not None

    @property
    def request_complete(self) -> bool:
        """Whether nothing more of the request is to come from the client."""
        return self._client.done and not self.tunnels

    @property
    def head(self) -> RequestHead:
        """The request's."""
        return self._head

    @property
    def stage(self) -> str:
        """How far it is, for people."""
        return f"request {self._up.name.lower()}, answer {self._down.name.lower()}"

    @property
    def more(self) -> bool:
        """Whether the rest of a body is here that waits for its turn: then `go_on` is due."""
        return self._up is _SENDING and bool(self.rest)

    @property
    def reads_head(self) -> bool:
        """Whether an answer's head is here in part."""
        return self._server is not None and self._server.partial

    @property
    def what_answers_become(self) -> Answering | None:
        """What is done about the answer of the server."""
        return self._answering

    @property
    def compression_case(self) -> CompressionCase:
        """What of the request matters for the compression of its answer."""
        return case_of(self._head, self._head.block.minor, self._stay, certified=bool(self._origin.identity))

    @property
    def encoder(self) -> Encoder | None:
        """What has compressed the answer, if anything has."""
        return self._client.encoder if isinstance(self._client, EncodedClient) else None

    @property
    def answering(self) -> bool:
        """Whether the answer's head has been passed on."""
        return self._down is _BODY

    @property
    def converses(self) -> bool:
        """Whether the body comes as it will, and the answer beside it: a call of gRPC."""
        return self._call

    @property
    def allowed_s(self) -> float:
        """How long a call of gRPC may take, as its client says; 0: it does not."""
        return grpc.timeout_s(self._head) if self._call else 0.0

    @property
    def waits(self) -> Waits:
        if self._up is Up.ASSIGNING:
            return Waits.CONNECT
        if self._up is _TUNNEL:
            return Waits.TUNNEL
        if self._up is _SENDING and (self._continued or not self._head.block.expects_continue):
            return Waits.CLIENT
        return Waits.UPSTREAM

    # -- events

    def start(self, decided: Decision = None, traced: Changes | None = None) -> list[Command]:
        """The head was read. `decided`: what the router has said already, if it was asked; `traced`: what the server is
        told of the span that this is (proxy/tracing.py)."""
        head, self._traced = self._head, traced
        try:
            self._upgrade = head.block.upgrade if upgrades_to_websocket(head) else b""
            self.target = normal_target(head.target)
            decision = decided or self._router.route(head, self.target, self._origin.client)
            self._decision, self.rule = decision, decision.rule if decision is not None else ""
            if isinstance(decision, Forward):
                self._answering = decision.answering
            demands = decision.demands if decision is not None else self._router.demands
            if demands is not None:
                self.browsers = demands.browsers
                self._case = Case(demands, head, self.target, self._origin, self._means or Means())
                self._leave = self._case.leave
                self._body_left = demands.body_bytes or None
                return self.go_on_admitting()
            return self._proceed(decision)
        except Refused as refused:
            return self._refused(refused)

    def go_on_admitting(self) -> list[Command]:
        """Takes what steps of the admission are left."""
        assert self._case is not None
        return self.decided(self._case.go())

    def decided(self, verdict: Verdict) -> list[Command]:
        """A step of the admission has said this, which had taken its time."""
        case = self._case
        assert case is not None
        if verdict is None:
            verdict = case.go()
        self.user = case.user
        if isinstance(verdict, Delay):
            return [Pause(verdict.seconds)]
        if isinstance(verdict, Await):
            return [Ask(verdict.work)]
        self._case = None
        if isinstance(verdict, Refusal):
            return self._reply(verdict.code, lines=verdict.lines, pages=verdict.pages)
        if verdict is not None:
            return self._reply_as(verdict)
        try:
            return self._proceed(self._decision, case)
        except Refused as refused:
            return self._refused(refused)

    def _refused(self, refused: Refused) -> list[Command]:
        self.offset = refused.offset + (self._head.path_at if refused.code is Code.PATH else 0)
        return self._reply(refused.code)

    def _proceed(self, decision: Decision, case: Case | None = None) -> list[Command]:
        """Does what was decided. `case`: what it was admitted as. Raises Refused."""
        if not isinstance(decision, Forward):
            return self._reply_as(decision)
        if case is not None:
            self._admitted = case.request
        self._prepare(decision)
        if case is not None and case.demands.mirroring is not None and not self._upgrade:
            self._copied = _Copied.of(case.demands.mirroring, case.means)
        if case is not None and case.response is not None:
            self._changes = case.response if self._changes is None else joined(self._changes, case.response)
        if self._copied is not None and self._client.done:
            return [self._mirror(), self._assign()]
        return [self._assign()]

    def _mirror(self) -> Copy:
        """What was forwarded, to where copies go."""
        copied, forward, self._copied = self._copied, self._decision, None
        assert copied is not None
        assert isinstance(forward, Forward)
        changes = MARK
        for more in (forward.request, self._admitted):
            changes = changes if more is None else joined(more, changes)
        service = copied.mirror.backend_service
        return Copy(Forward(service, forward.rewrite, changes), self.identifier, b"".join(copied.parts))

    def _prepare(self, forward: Forward) -> None:
        """Makes the request's head for the server. Raises Refused."""
        host, target = None, self.target
        if forward.rewrite is not None:
            host, target = forward.rewrite.apply(self._head.host, target)
            target = normal_target(target)
        changes, sticky = forward.request, self._router.stickies.get(forward.service)
        if sticky is not None:
            self._stay = sticky.stay(self._head)
            changes = merged(changes, self._stay.request)
        if self._traced is not None:
            changes = merged(changes, self._traced)
        if self._admitted is not None:
            changes = self._admitted if changes is None else joined(changes, self._admitted)
        self._request = headers.outgoing(
            self._head, target, self._origin, self.identifier, self._upgrade, host, changes
        )
        self.service, self._changes, self._answering = forward.service, forward.response, forward.answering
        self._sheddable = forward.sheddable

    def _assign(self, *, fresh: bool = False) -> Assign:
        prefer = self._stay.server if self._stay is not None else None
        return Assign(self.service, self._repeatable, self._tried, fresh, prefer, self._sheddable)

    def resume(self, forward: Forward, server: Address) -> None:
        """The fast lane has sent this request, which is complete, on a reused connection to `server`."""
        self.target = normal_target(self._head.target)
        self.rule = forward.rule
        self._prepare(forward)
        self.assigned(server, reused=True)

    def assigned(self, server: Address, reused: bool, dialect: ServerDialect | None = None) -> list[Command]:
        """An upstream connection is ours, on which `dialect` is spoken, HTTP/1 if none is given."""
        assert self._request is not None
        self.upstream, self._reused = server, reused
        self._tries += 1
        again = self._copy
        if dialect is None:
            dialect = Http1Server(self._request.method, trailers=self._request.trailers)
            self._copy = None
        elif again is None:
            self._copy = b""
        self._server = dialect
        if self._client.done:
            self._move_up(_SENT)
            if self._upgrade and not dialect.upgrades:
                return self._fail(Code.NO_WEBSOCKET)
            if not again:
                return dialect.request(self._request, ended=True)
            return [*dialect.request(self._request, ended=False), *self._send_last(again)]
        self._move_up(_SENDING)
        data, self.rest = self.rest, b""
        sent = dialect.request(self._request, ended=False)
        if again:
            sent = [*sent, *dialect.send(again, ended=False)]
        return [*sent, *self._send_body(data)] if data else sent

    def connect_failed(self, server: Address, timed_out: bool, tls: bool = False) -> list[Command]:
        """No connection to `server` came about: nothing was sent, so another server may have it. `tls`: there was one,
        but TLS did not come about."""
        self.upstream = server
        self._tried |= {server}
        self._again_after = Code.CONNECT_TIMEOUT if timed_out else Code.UPSTREAM_TLS if tls else Code.CONNECT
        if len(self._tried) < TRIES:
            return [self._assign()]
        return self._reply(self._again_after)

    def denied(self) -> list[Command]:
        """The request may not be sent again: too many are."""
        return self._reply(self._again_after)

    def no_server(self, code: Code = Code.NO_SERVER) -> list[Command]:
        """No server is left to assign; `code`: why none was to be had."""
        return self._reply(self._again_after if self._tried and code is Code.NO_SERVER else code)

    def client_data(self, data: bytes) -> list[Command]:
        """Bytes came from the client: body, tunnel, or a request ahead of its turn."""
        if self._up is _SENDING and not self.rest:
            return self._send_body(data)
        if self._up is _TUNNEL:
            return [SendUpstream(data)]
        self.rest += data
        return []

    def go_on(self) -> list[Command]:
        """It is the turn again of a body in many chunks; see `more`."""
        data, self.rest = self.rest, b""
        return self._send_body(data)

    def overloaded(self) -> list[Command]:
        """What waits here is too much."""
        return self._fail(Code.OVERLOADED)

    def flush(self) -> list[Command]:
        """The moment of `FlushSoon` is over."""
        return self._client.flush() if isinstance(self._client, EncodedClient) and self._down is _BODY else []

    def refused(self, code: Code) -> list[Command]:
        """What came of the request's body is not to be passed on."""
        return self._fail(code)

    def client_ended(self) -> list[Command]:
        """The client closed its half of a tunnel: the server is told, and may still say what it has to say."""
        return [EndUpstream()]

    def upstream_data(self, data: bytes) -> list[Command]:
        """Bytes came from the server."""
        if self._down is Down.TUNNEL:
            return [SendClient(data)]
        assert self._server is not None
        return self.heard(self._server.receive(data))

    def heard(self, parts: Sequence[Heard]) -> list[Command]:
        """The server has said this."""
        commands: list[Command] = []
        try:
            for part in parts:
                if isinstance(part, Piece):
                    commands += self._pass_on(part) if self._down is _BODY else [SendClient(part.payload)]
                elif isinstance(part, Refused):
                    raise part
                elif part.status >= 400 and (page := self._page_for(part)) is not None:
                    return [*commands, *self._replace(part, page, parts[-1])]
                elif part.status >= 200:
                    self._answer(part)
                elif part.status == 101:
                    return [*commands, *self._switch(part, parts[-1])]
                else:
                    commands += self._interim_answer(part)
        except Refused as refused:
            self.offset = refused.offset
            if self._down is not _BODY:
                return self._fail(refused.code, Source.UPSTREAM)  # instead of everything that came with it
            commands += [*self._client.send(b"", ended=False), *self._fail(refused.code, Source.UPSTREAM)]
        return commands

    def upstream_closed(self, *, unprocessed: bool = False) -> list[Command]:
        """The server closed the connection. `unprocessed`: it has said that it did nothing about this request."""
        if self._down is Down.TUNNEL:
            return self._end(keep_alive=False)
        assert self._server is not None
        if self._down is _BODY:
            last = self._server.close()
            return self._fail(Code.UPSTREAM_CUT) if last is None else self._pass_on(last)
        untouched = self._reused and self._repeatable and self._server.untouched
        if (untouched or (unprocessed and self._copy is not None)) and self._tries < TRIES:
            self._move_up(Up.ASSIGNING)
            self._again_after = Code.UPSTREAM_CLOSED
            return [_DROPPED, self._assign(fresh=True)]
        return self._fail(Code.UPSTREAM_CLOSED)

    def client_closed(self) -> list[Command]:
        """The client is gone."""
        if self.tunnels:
            return self._end(keep_alive=False)
        return self._cut(Code.CLIENT_CLOSED)

    def timed_out(self, *, client_stalled: bool = False, whole: bool = False) -> list[Command]:
        """What `waits` names did not come in time; `client_stalled`: because the client does not read; `whole`: the
        time is over that the exchange had altogether."""
        if self.tunnels:
            return self._end(keep_alive=False)
        if whole:
            return self._fail(Code.TOTAL_TIMEOUT)
        if client_stalled:
            return self._cut(Code.CLIENT_STALLED)
        if self.waits is Waits.CLIENT and not self._call:
            return self._fail(Code.BODY_TIMEOUT)
        if self.waits is Waits.CONNECT:
            return self._reply(Code.CONNECT_TIMEOUT)
        return self._fail(Code.UPSTREAM_CUT if self._down is _BODY else Code.UPSTREAM_TIMEOUT)

    def drained(self) -> list[Command]:
        """The drain time is over: whatever is not finished ends now."""
        return self._end(keep_alive=False) if self.tunnels else self._fail(Code.DRAINED)

    def let_close(self) -> None:
        """The client connection is to close after this exchange."""
        self._keep_alive = False

    # -- the request's way up

    def _send_body(self, data: bytes) -> list[Command]:
        client = self._client
        try:
            payload, self.rest = client.receive(data)
        except Refused as refused:
            self.offset = refused.offset
            return self._fail(refused.code)
        assert self._server is not None
        self._continued = True
        if self._body_left is not None:
            self._body_left -= len(payload)
            if self._body_left < 0:
                return self._fail(Code.BODY_LARGE)
        if self._copy is not None:
            fits = len(self._copy) + len(payload) <= REPLAY_BYTES and self._down is not _BODY
            self._copy = self._copy + payload if fits else None
        if self._copied is not None and not self._copied.take(payload):
            self._copied = None
        if not client.done:
            return self._server.send(payload, ended=False)
        self._move_up(_SENT)
        sent = self._send_last(payload)
        return sent if self._copied is None else [*sent, self._mirror()]

    def _send_last(self, payload: bytes) -> list[Command]:
        assert self._server is not None
        trailers = self._client.trailers
        return self._server.send(payload, ended=True, trailers=headers.trailer_lines(trailers) if trailers else b"")

    # -- the answer's way down

    def _interim_answer(self, head: ResponseHead) -> list[Command]:
        self._interim += 1
        if self._interim > INTERIM_LIMIT:
            raise Refused(Code.STATUS_LINE)
        self._continued = self._continued or head.status == 100
        return self._client.interim(head)

    def _switch(self, head: ResponseHead, first: Heard) -> list[Command]:
        """101: a tunnel begins, if the client asked for one. `first`: what the server has sent in it already."""
        if not self._upgrade or head.block.upgrade != self._upgrade:
            raise Refused(Code.UNASKED_UPGRADE)
        data = first.payload if isinstance(first, Piece) else b""
        lines = headers.passed(head.block, self._changes_in(head))
        opened = self._client.switch(head, self._upgrade, lines, self._origin.node, data)
        self.status, self.answer = 101, head.block
        self._move_up(_TUNNEL)
        self._move_down(Down.TUNNEL)
        ahead, self.rest = self.rest, b""
        return [*opened, *([SendUpstream(ahead)] if ahead else ())]

    def _answer(self, head: ResponseHead) -> None:
        """The answer's head. What changes it, or its payload, has its place here, and in `_pass_on`."""
        # An answer before the request's end: what the client still sends can only be dropped (RFC 9112 §9.6). Nor does
        # the upstream connection go on: its server may read the rest of the body, or may not.
        self._early = self._up is _SENDING
        self.status, self.answer = head.status, head.block
        self._move_down(_BODY)
        if self._call:
            self.grpc_status = grpc.said(head.block)
        changes = self._changes_in(head)
        if self._answering is not None and self._answering.compressing is not None:
            compressing, case = self._answering.compressing, self.compression_case
            self._client, head, changes = encoded(self._client, compressing, case, head, changes)
        client = self._client
        lines = headers.answer_lines(head, client.framing(head), self._origin.node, self._date(), self._hsts, changes)
        self._keep_alive = client.begin(head, lines, keep_alive=self._keep_alive and not self._early)

    def _page_for(self, head: ResponseHead) -> Page | None:
        """What goes in place of a server's answer, if anything does."""
        pages = self._answering.pages if self._answering is not None else None
        return None if pages is None else pages.page(head.status, self._head.values(b"accept"), of_server=True)

    def _replace(self, head: ResponseHead, page: Page, last: Heard) -> list[Command]:
        """A page in place of a server's answer. `last` of what came with its head: if that is its end, its connection
        goes on."""
        self.status, self.answer, self.replaced = head.status, head.block, True
        lines, text = headers.instead_lines(
            head, page, self.identifier, self._origin.node, self._date(), self._head.host
        )
        sound = isinstance(last, Piece) and last.ended and last.sound and self._up is _SENT
        return self._reply_with(lines, text, reuse=sound)

    def _changes_in(self, answer: ResponseHead) -> Changes | None:
        changes = self._changes
        if self._stay is not None and self.upstream is not None:
            changes = changes_of(answer, changes, self._stay, self.upstream, secure=self._origin.secure)
        if self.browsers is None:
            return changes
        told = Changes(self.browsers.removed, self.browsers.lines(self._head, answer))
        return told if changes is None else joined(told, changes)

    def _pass_on(self, piece: Piece) -> list[Command]:
        """Passes on payload, and ends the answer where its framing says."""
        payload, ended, trailers, sound = piece
        if not ended:
            return self._client.send(payload, ended=False)
        if self._call:
            self.grpc_status = grpc.said_in(trailers) if trailers else self.grpc_status
        kept = headers.trailer_lines(trailers) if trailers and self._head.block.trailers else b""
        sent = self._client.send(payload, ended=True, trailers=kept)
        reuse = sound and self._up is _SENT and not self._early
        return [*sent, *self._end(keep_alive=self._keep_alive, reuse=reuse)]

    # -- ends

    def _end(self, *, keep_alive: bool, reuse: bool = False) -> list[Command]:
        linger = not self._client.done
        finish = _KEPT if keep_alive and not linger else Finish(False, linger)
        assigned = self._up is not Up.ASSIGNING
        self._over()
        return [_REUSED if reuse else _DROPPED, finish] if assigned else [finish]

    def _reply(
        self, code: Code, source: Source | None = None, lines: bytes = b"", pages: Pages | None = None
    ) -> list[Command]:
        """A reply of our own in place of the answer. A message rule that the server broke is a 502."""
        self.error, self.source = code, source or code.source
        self.status = 502 if self.source is not code.source else code.status
        more = lines + retry_after(1) if code in LATER else lines
        if self._call:
            return self._reply_to_call(code, more)
        form = self._form
        if pages is not None and pages.page(self.status, form.accepts) is not None:
            form = form._replace(pages=pages)
        lines, text = headers.error_lines(
            code, self.status, self.identifier, self._origin.node, self._date(), self.offset, form
        )
        return self._reply_with(lines + more, text)

    def _reply_to_call(self, code: Code, more: bytes) -> list[Command]:
        """What clients of gRPC understand: an answer that is a head alone."""
        self.grpc_status, self.status = grpc.status_of(code, self.status), 200
        said = code.said(self.offset)
        return self._reply_with(
            grpc.reply_lines(self.grpc_status, said, self.identifier, self._origin.node, self._date(), more), b""
        )

    def _reply_as(self, decision: Redirect | Sent | Reply | None) -> list[Command]:
        """What a rule says instead of a server."""
        head, origin = self._head, self._origin
        if decision is None:
            return self._reply(Code.NO_RULE)
        if not isinstance(decision, Reply):
            if not head.host:  # HTTP/1.0
                return self._reply(Code.HOST_MISSING)
            self.status = decision.status(head.method)
            location = decision.location(origin.scheme, head.host, self.target)
            lines, body = decision.lines + headers.redirect_lines(location), b""
        else:
            self.status = decision.status
            lines, body = decision.lines, decision.body
        return self._reply_with(headers.plain_lines(lines, self.identifier, origin.node, self._date()), body)

    @property
    def _form(self) -> Form:
        pages = self._answering.pages if self._answering is not None else None
        return Form(pages, self._head.values(b"accept"), self._head.host)

    def _reply_with(self, lines: bytes, body: bytes, *, reuse: bool = False) -> list[Command]:
        """There is no body after HEAD."""
        if self.browsers is not None:
            lines += self.browsers.lines(self._head)
        close = not (self._keep_alive and self._client.done)
        body = b"" if self._head.method == b"HEAD" else body
        said = self._client.reply(self.status, lines, body, self._hsts, close=close)
        return [*said, *self._end(keep_alive=not close, reuse=reuse)]

    def _fail(self, code: Code, source: Source | None = None) -> list[Command]:
        """The exchange cannot go on: a reply if nothing was answered yet, a cut otherwise. The end of a call of gRPC
        can say that it is none."""
        if self._down is Down.WAITING:
            return self._reply(code, source)
        if not self._call or self._down is not _BODY:
            return self._cut(code, source)
        self.error, self.source = code, source or code.source
        self.grpc_status = grpc.status_of(code, code.status)
        told = self._client.send(b"", ended=True, trailers=grpc.lines(self.grpc_status, code.said(self.offset)))
        return [*told, *self._end(keep_alive=False)]

    def _cut(self, code: Code, source: Source | None = None) -> list[Command]:
        self.error, self.source = code, source or code.source
        self.status = self.status or code.status
        commands: list[Command] = [_DROPPED] if self._up is not Up.ASSIGNING else []
        self._over()
        return [*commands, Abort()]

    def _over(self) -> None:
        self._move_up(_ENDED)
        self._move_down(Down.ENDED)
        for leave in self._leave:
            leave()

    def _move_up(self, state: Up) -> None:
        assert state in UP_MOVES[self._up], f"{self._up} → {state}"
        self._up = state

    def _move_down(self, state: Down) -> None:
        assert state in DOWN_MOVES[self._down], f"{self._down} → {state}"
        self._down = state
