"""One request and its answer: events in, commands out; no socket, no clock (RFC 9110 §7, 9112 §9).

An exchange begins with a request head. It asks for an upstream (`Assign`), sends the request as it comes in, relays the
answer as it comes back, and ends with `Finish` or `Abort`. Each event is a method that returns the commands to carry
out in order. Two small machines run side by side, one for the request's way up and one for the answer's way down; their
moves stand in tables (moves.py), and `_move_…` is the only place that changes them.

What is kept true:
* A request is sent a second time only if it provably was not processed: the connection could not be made, or it was a
  reused one that closed before any byte of an answer, the method is idempotent, and the request has no body.
* An upstream connection is used again only when both messages ended where their framing said.
* An answer once begun is never patched: when it cannot be ended properly the client connection is cut, so that the
  client sees that it is incomplete.
* Nothing is stored but bytes that cannot be passed on yet: a head in progress, and what a client sent ahead (`rest`),
  which the caller bounds by not reading on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxy import headers
from proxy.actions import Changes, Decision, Forward, Redirect, Reply
from proxy.balance import Address
from proxy.body import LAST_CHUNK, BodyReader, ChunkedReader, chunk, reader
from proxy.commands import Abort, Assign, Command, EndUpstream, Finish, ReleaseUpstream, SendClient, SendUpstream
from proxy.errors import Code, Refused, Source
from proxy.head import read_response
from proxy.message import CHUNKED, UNTIL_CLOSE, Block, Fields, RequestHead, ResponseHead
from proxy.moves import DOWN_MOVES, UP_MOVES, Down, Up, Waits
from proxy.origin import Origin
from proxy.policy import upgrades_to_websocket
from proxy.relay import Relay
from proxy.rules import Router, normal_target
from proxy.sticky import Stay, merged

IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))  # RFC 9110 §9.2.2, less TRACE
TRIES: Final = 3
INTERIM_LIMIT: Final = 16  # 1xx answers to one request
CHUNKS_A_TURN: Final = 1024  # of one client, who may send tens of thousands in one read


def changes_of(
    answer: Fields, rule: Changes | None, stay: Stay | None, server: Address, *, secure: bool
) -> Changes | None:
    """What is changed in an answer's head: as the rule says, and the cookie of a client that stays."""
    return rule if stay is None else merged(rule, stay.answer(answer, server, secure=secure))


class Exchange:
    """A request whose head is `head`. `rest`: bytes from the client that are not consumed (yet).

    `hsts` is a line for the answer's head, or empty. `rule` and `service`, which it names, `status`, `error`, `source`,
    `offset`, `upstream` and `target` say how it went, for the log.
    """

    __slots__ = (
        "_again_after", "_buffer", "_changes", "_continued", "_date", "_down", "_head", "_hsts",
        "_interim",
        "_keep_alive", "_origin", "_reader_up", "_relay", "_repeatable", "_request", "_reused",
        "_router", "_scanned", "_stay", "_traced", "_tried", "_tries", "_up", "_upgrade", "_upstream_keeps",
        "answer", "error",
        "identifier", "offset", "rest", "rule", "service", "source", "status", "target", "upstream",
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
    ) -> None:
        self._head, self._origin, self._router, self._date = head, origin, router, date
        self._hsts = hsts
        self.identifier = identifier
        self.rest = rest
        self.status = 0
        self.error: Code | None = None
        self.source: Source | None = None
        self.offset: int | None = None
        self.upstream: Address | None = None
        self.answer: Block | None = None  # the fields of the server's answer
        self.target = head.target
        self._keep_alive = head.block.keep_alive and not closing
        self._up, self._down = Up.ASSIGNING, Down.WAITING
        chunked = head.block.length == CHUNKED
        self._reader_up: BodyReader = ChunkedReader(most=CHUNKS_A_TURN) if chunked else reader(head.block.length)
        self._relay: Relay | None = None  # of the answer's body
        self._repeatable = head.method in IDEMPOTENT and self._reader_up.done
        self._tried: frozenset[Address] = frozenset()
        self._tries = 0
        self._again_after = Code.CONNECT  # why the request is to be sent again
        self._buffer = b""
        self._scanned = 0
        self._interim = 0
        self._continued = False
        self._upstream_keeps = False
        self._reused = False
        self._upgrade = b""
        self._request = b""
        self.rule = ""
        self.service = ""
        self._changes: Changes | None = None
        self._stay: Stay | None = None
        self._traced: Changes | None = None

    # -- what the caller may ask

    @property
    def over(self) -> bool:
        return self._up is Up.ENDED

    @property
    def tunnels(self) -> bool:
        return self._up is Up.TUNNEL

    @property
    def request_complete(self) -> bool:
        """Whether nothing more of the request is to come from the client."""
        return self._reader_up.done and not self.tunnels

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
        return self._up is Up.SENDING and bool(self.rest)

    @property
    def reads_head(self) -> bool:
        """Whether an answer's head is here in part."""
        return bool(self._buffer)

    @property
    def answering(self) -> bool:
        """Whether the answer's head has been passed on."""
        return self._down is Down.BODY

    @property
    def waits(self) -> Waits:
        if self._up is Up.ASSIGNING:
            return Waits.CONNECT
        if self._up is Up.TUNNEL:
            return Waits.TUNNEL
        if self._up is Up.SENDING and (self._continued or not self._head.block.expects_continue):
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
            decision = decided or self._router.route(head, self.target)
            self.rule = decision.rule if decision is not None else ""
            if not isinstance(decision, Forward):
                return self._reply_as(decision)
            self._prepare(decision)
        except Refused as refused:
            self.offset = refused.offset + (head.path_at if refused.code is Code.PATH else 0)
            return self._reply(refused.code)
        return [self._assign()]

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
        self._request = headers.request_head(
            self._head, target, self._origin, self.identifier, self._upgrade, host, changes
        )
        self.service, self._changes = forward.service, forward.response

    def _assign(self, *, fresh: bool = False) -> Assign:
        prefer = self._stay.server if self._stay is not None else None
        return Assign(self.service, self._repeatable, self._tried, fresh, prefer)

    def resume(self, forward: Forward, server: Address) -> None:
        """The fast lane has sent this request, which is complete, on a reused connection to `server`."""
        self.target = normal_target(self._head.target)
        self.rule = forward.rule
        self._prepare(forward)
        self.assigned(server, reused=True)

    def assigned(self, server: Address, reused: bool) -> list[Command]:
        """An upstream connection is ours."""
        self.upstream, self._reused = server, reused
        self._tries += 1
        if self._reader_up.done:
            self._move_up(Up.SENT)
            return [SendUpstream(self._request)]
        self._move_up(Up.SENDING)
        data, self.rest = self.rest, b""
        return [SendUpstream(self._request), *(self._send_body(data) if data else ())]

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
        if self._up is Up.SENDING and not self.rest:
            return self._send_body(data)
        if self._up is Up.TUNNEL:
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

    def client_ended(self) -> list[Command]:
        """The client closed its half of a tunnel: the server is told, and may still say what it has to say."""
        return [EndUpstream()]

    def upstream_data(self, data: bytes) -> list[Command]:
        """Bytes came from the server."""
        try:
            if self._down is Down.BODY:
                return self._pass_on(b"", data)
            if self._down is Down.TUNNEL:
                return [SendClient(data)]
            return self._read_answer(data)
        except Refused as refused:
            self.offset = refused.offset
            return self._fail(refused.code, Source.UPSTREAM)

    def upstream_closed(self) -> list[Command]:
        """The server closed the connection."""
        if self._down is Down.TUNNEL:
            return self._end(keep_alive=False)
        if self._down is Down.BODY:
            assert self._relay is not None
            last = self._relay.close()
            if last is None:
                return self._fail(Code.UPSTREAM_CUT)
            return [*([SendClient(last)] if last else ()), *self._end(keep_alive=self._keep_alive)]
        untouched = self._reused and not self._buffer and not self._interim
        if untouched and self._repeatable and self._tries < TRIES:
            self._move_up(Up.ASSIGNING)
            self._again_after = Code.UPSTREAM_CLOSED
            return [ReleaseUpstream(False), self._assign(fresh=True)]
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
        if self.waits is Waits.CLIENT:
            return self._fail(Code.BODY_TIMEOUT)
        if self.waits is Waits.CONNECT:
            return self._reply(Code.CONNECT_TIMEOUT)
        return self._fail(Code.UPSTREAM_CUT if self._down is Down.BODY else Code.UPSTREAM_TIMEOUT)

    def drained(self) -> list[Command]:
        """The drain time is over: whatever is not finished ends now."""
        return self._end(keep_alive=False) if self.tunnels else self._fail(Code.DRAINED)

    def let_close(self) -> None:
        """The client connection is to close after this exchange."""
        self._keep_alive = False

    # -- the request's way up

    def _send_body(self, data: bytes) -> list[Command]:
        try:
            payload, rest = self._reader_up.receive(data)
        except Refused as refused:
            self.offset = refused.offset
            return self._fail(refused.code)
        self._continued = True
        if self._head.block.length == CHUNKED:
            payload = chunk(payload) if payload else b""
            if self._reader_up.done:
                payload += LAST_CHUNK
        self.rest = rest
        if self._reader_up.done:
            self._move_up(Up.SENT)
        return [SendUpstream(payload)] if payload else []

    # -- the answer's way down

    def _read_answer(self, data: bytes) -> list[Command]:
        commands: list[Command] = []
        data = self._buffer + data if self._buffer else data
        while (head := read_response(data, self._head.method, self._scanned)) is not None:
            data, self._scanned, self._buffer = data[head.size :], 0, b""
            if head.status == 101:
                return [*commands, *self._switch(head, data)]
            if head.status >= 200:
                return [*commands, *self._answer(head, data)]
            self._interim += 1
            if self._interim > INTERIM_LIMIT:
                raise Refused(Code.STATUS_LINE)
            self._continued = self._continued or head.status == 100
            if self._head.block.minor == 1:  # RFC 9110 §15.2: no 1xx to HTTP/1.0
                commands.append(SendClient(headers.informational_head(head, self._origin.node)))
        self._buffer, self._scanned = data, len(data)
        return commands

    def _switch(self, head: ResponseHead, data: bytes) -> list[Command]:
        """101: a tunnel begins, if the client asked for one."""
        if not self._upgrade or head.block.upgrade != self._upgrade:
            raise Refused(Code.UNASKED_UPGRADE)
        self.status, self.answer = 101, head.block
        self._move_up(Up.TUNNEL)
        self._move_down(Down.TUNNEL)
        ahead, self.rest = self.rest, b""
        opened = headers.informational_head(head, self._origin.node, self._upgrade, self._changes_in(head))
        return [SendClient(opened + data), *([SendUpstream(ahead)] if ahead else ())]

    def _answer(self, head: ResponseHead, data: bytes) -> list[Command]:
        minor = self._head.block.minor
        self._relay = Relay(head.length, minor, trailers=self._head.block.trailers)
        # An answer before the request's end: what the client still sends can only be dropped (RFC 9112 §9.6).
        if self._up is Up.SENDING or self._relay.ends_connection:
            self._keep_alive = False
        self.status, self.answer = head.status, head.block
        # Nor does the upstream connection go on: its server may read the rest of the body, or may not.
        self._upstream_keeps = head.block.keep_alive and head.length != UNTIL_CLOSE and self._up is not Up.SENDING
        self._move_down(Down.BODY)
        node, date = self._origin.node, self._date()
        return self._pass_on(
            headers.response_head(head, minor, self._keep_alive, node, date, self._hsts, self._changes_in(head)), data
        )

    def _changes_in(self, answer: ResponseHead) -> Changes | None:
        if self._stay is None or self.upstream is None:
            return self._changes
        return changes_of(answer, self._changes, self._stay, self.upstream, secure=self._origin.secure)

    def _pass_on(self, prefix: bytes, data: bytes) -> list[Command]:
        """Passes on payload, after `prefix`, and ends the answer where its framing says."""
        assert self._relay is not None
        try:
            payload, surplus = self._relay.receive(data)
        except Refused as refused:
            self.offset = refused.offset
            return [*([SendClient(prefix)] if prefix else ()), *self._fail(refused.code, Source.UPSTREAM)]
        out = prefix + payload
        commands: list[Command] = [SendClient(out)] if out else []
        if surplus is not None:
            reuse = self._upstream_keeps and self._up is Up.SENT and not surplus
            commands += self._end(keep_alive=self._keep_alive, reuse=reuse)
        return commands

    # -- ends

    def _end(self, *, keep_alive: bool, reuse: bool = False) -> list[Command]:
        commands: list[Command] = [ReleaseUpstream(reuse)] if self._up is not Up.ASSIGNING else []
        linger = not self._reader_up.done
        self._move_up(Up.ENDED)
        self._move_down(Down.ENDED)
        return [*commands, Finish(keep_alive and not linger, linger)]

    def _reply(self, code: Code, source: Source | None = None) -> list[Command]:
        """A reply of our own in place of the answer. A message rule that the server broke is a 502."""
        self.error, self.source = code, source or code.source
        self.status = 502 if self.source is not code.source else code.status
        close = not (self._keep_alive and self._reader_up.done)
        reply = headers.error_reply(
            code, self.status, self.identifier, self._origin.node, self._date(),
            close=close, body=self._head.method != b"HEAD", hsts=self._hsts, offset=self.offset,
        )  # fmt: skip
        return [SendClient(reply), *self._end(keep_alive=not close)]

    def _reply_as(self, decision: Redirect | Reply | None) -> list[Command]:
        """What a rule says instead of a server."""
        head, origin = self._head, self._origin
        if decision is None:
            return self._reply(Code.NO_RULE)
        if isinstance(decision, Redirect):
            if not head.host:  # HTTP/1.0
                return self._reply(Code.HOST_MISSING)
            self.status = decision.status(head.method)
            location = decision.location(origin.scheme, head.host, self.target)
            lines, body = decision.lines + headers.redirect_lines(location), b""
        else:
            self.status = decision.status
            lines, body = decision.lines, b"" if head.method == b"HEAD" else decision.body
        close = not (self._keep_alive and self._reader_up.done)
        reply = headers.plain_reply(
            self.status, lines, body, self.identifier, origin.node, self._date(), close=close, hsts=self._hsts
        )
        return [SendClient(reply), *self._end(keep_alive=not close)]

    def _fail(self, code: Code, source: Source | None = None) -> list[Command]:
        """The exchange cannot go on: a reply if nothing was answered yet, a cut otherwise."""
        return self._reply(code, source) if self._down is Down.WAITING else self._cut(code, source)

    def _cut(self, code: Code, source: Source | None = None) -> list[Command]:
        self.error, self.source = code, source or code.source
        self.status = self.status or code.status
        commands: list[Command] = [ReleaseUpstream(False)] if self._up is not Up.ASSIGNING else []
        self._move_up(Up.ENDED)
        self._move_down(Down.ENDED)
        return [*commands, Abort()]

    def _move_up(self, state: Up) -> None:
        assert state in UP_MOVES[self._up], f"{self._up} → {state}"
        self._up = state

    def _move_down(self, state: Down) -> None:
        assert state in DOWN_MOVES[self._down], f"{self._down} → {state}"
        self._down = state
