"""An exchange between sides that speak no HTTP/1: heads, payload, trailers and ends, and nothing else."""

from __future__ import annotations

import pytest

from proxy.commands import (
    Abort,
    Assign,
    Command,
    EndClient,
    EndUpstream,
    Finish,
    ReleaseUpstream,
    SendClient,
    SendUpstream,
    TellClient,
    TellUpstream,
)
from proxy.dialects import Heard, Piece
from proxy.errors import Code, Refused
from proxy.exchange import REPLAY_BYTES, Exchange
from proxy.head import read_request, read_response
from proxy.http1 import Http1Server
from proxy.message import CHUNKED, Outgoing, ResponseHead
from proxy.origin import Origin
from proxy.rules import Router
from tests.playbook import Playbook

A, B = ("10.0.0.1", 80), ("10.0.0.2", 80)
ORIGIN = Origin(b"192.0.2.1", b"http", b"80", False, b"l7-1")
DATE = b"Date: d\r\n"


class Told:
    """A client that is told everything by commands of its own."""

    def __init__(self, *, done: bool = True) -> None:
        self.done, self.trailers = done, b""

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        self.done = data.endswith(b".")
        return data, b""

    def interim(self, head: ResponseHead) -> list[Command]:
        return [TellClient(head.status, b"")]

    def switch(self, head: ResponseHead, upgrade: bytes, lines: bytes, node: bytes, data: bytes) -> list[Command]:
        return [TellClient(200, lines, tunnel=True), SendClient(data)]

    def framing(self, head: ResponseHead) -> bytes:
        return b""

    def begin(self, head: ResponseHead, lines: bytes, *, keep_alive: bool) -> bool:
        self.begun: list[Command] = [TellClient(head.status, lines)]
        return keep_alive

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        begun, self.begun = self.begun, []
        return [*begun, *([SendClient(payload)] if payload else ()), *([EndClient(trailers)] if ended else ())]

    def reply(self, status: int, lines: bytes, body: bytes, hsts: bytes, *, close: bool) -> list[Command]:
        return [TellClient(status, b"", ended=not body), *([SendClient(body)] if body else ())]


class Asked:
    """A server that is asked by commands of its own."""

    partial, untouched, upgrades = False, True, True

    def request(self, request: Outgoing, *, ended: bool) -> list[Command]:
        return [TellUpstream(request, ended)]

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        return [*([SendUpstream(payload)] if payload else ()), *([EndUpstream(trailers)] if ended else ())]

    def receive(self, data: bytes) -> list[Heard]:
        raise AssertionError("it is heard by parts")

    def close(self) -> Piece | None:
        return None


def exchange(line: bytes = b"GET / HTTP/1.1", fields: bytes = b"", *, done: bool = True) -> Exchange:
    head = read_request(line + b"\r\nHost: a\r\n" + fields + b"\r\n")
    assert head is not None
    return Exchange(head, ORIGIN, Router([], "app"), b"id", lambda: b"d", client=Told(done=done))


def answer(line: bytes, fields: bytes = b"") -> ResponseHead:
    head = read_response(line + b"\r\n" + fields + b"\r\n", b"GET")
    assert head is not None
    return head


OK = answer(b"HTTP/1.1 200 OK", DATE)
TOLD = TellClient(200, DATE + b"Via: 1.1 l7-1\r\n")
REQUEST = Outgoing(
    b"GET", b"/", b"a", b"", ORIGIN.lines + b"Via: 1.1 l7-1\r\nX-Request-Id: id\r\n", -1, b"", trailers=True
)


def asked(line: bytes = b"GET / HTTP/1.1", fields: bytes = b"TE: trailers\r\nConnection: TE\r\n") -> Playbook:
    play = Playbook(exchange(line, fields)).on("start").gives(Assign("app", True))
    return play.on("assigned", A, False, Asked()).gives(TellUpstream(REQUEST, True))


def test_an_answer_with_trailers() -> None:
    play = asked()
    play.on("heard", [answer(b"HTTP/1.1 103 E"), OK]).gives(TellClient(103, b""))
    play.on("heard", [Piece(b"hel")]).gives(TOLD, SendClient(b"hel"))
    play.on("heard", [Piece(b"lo"), Piece(b"", True, b"X-Sum: 1\r\nAge: 1\r\n", True)])
    play.gives(SendClient(b"lo"), EndClient(b"X-Sum: 1\r\n"), ReleaseUpstream(True), Finish(True))


def test_trailers_stay_where_nobody_reads_them() -> None:
    play = Playbook(exchange()).on("start").on("assigned", A, False, Asked())
    play.on("heard", [OK, Piece(b"", True, b"X-Sum: 1\r\n", True)])
    play.gives(TOLD, EndClient(), ReleaseUpstream(True), Finish(True))


def test_a_body_and_its_trailers() -> None:
    one = exchange(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked\r\n", done=False)
    play = Playbook(one).on("start").on("assigned", A, False, Asked())
    assert play.sent() == b""
    play.on("client_data", b"abc").gives(SendUpstream(b"abc"))
    one._client.trailers = b"X-Sum: 1\r\nHost: b\r\n"  # type: ignore[misc]
    play.on("client_data", b"d.").gives(SendUpstream(b"d."), EndUpstream(b"X-Sum: 1\r\n"))


def test_a_refusal_in_the_midst_ends_the_answer() -> None:
    play = asked().on("heard", [OK, Refused(Code.CHUNK_SIZE, 7)])
    play.gives(TOLD, ReleaseUpstream(False), Abort())
    assert (play.exchange.error, play.exchange.offset) == (Code.CHUNK_SIZE, 7)


def test_a_tunnel() -> None:
    websocket = (
        b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    play = Playbook(exchange(fields=websocket)).on("start").on("assigned", A, False, Asked())
    head = answer(b"HTTP/1.1 101 S", b"Connection: upgrade\r\nUpgrade: websocket\r\nX: y\r\n")
    play.on("heard", [head, Piece(b"early")]).gives(TellClient(200, b"X: y\r\n", tunnel=True), SendClient(b"early"))
    play.on("heard", [Piece(b"down")]).gives(SendClient(b"down"))
    play.on("client_data", b"up").gives(SendUpstream(b"up"))


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST / HTTP/1.1"])
def test_what_was_not_processed_is_sent_again(line: bytes) -> None:
    """RFC 9113 §8.7: whatever the method is. Without that word a POST is not."""
    play = Playbook(exchange(line)).on("start").on("assigned", A, False, Asked())
    play.on("upstream_closed", unprocessed=True)
    play.gives(ReleaseUpstream(False), Assign("app", line.startswith(b"GET"), fresh=True))
    play.on("assigned", B, False, Asked()).on("upstream_closed")
    assert play.exchange.error is Code.UPSTREAM_CLOSED


def posted(data: bytes) -> Playbook:
    """A request of which so much was sent."""
    play = Playbook(exchange(b"POST / HTTP/1.1", b"Content-Length: 99999\r\n", done=False)).on("start")
    return play.on("assigned", A, False, Asked()).on("client_data", data)


@pytest.mark.parametrize("data", [b"be", b"whole."])
def test_a_body_that_the_server_has_not_touched_is_sent_again(data: bytes) -> None:
    ended = data.endswith(b".")
    play = posted(data).on("upstream_closed", unprocessed=True)
    play.gives(ReleaseUpstream(False), Assign("app", False, fresh=True))
    if not ended:
        play.on("client_data", b" ahead").gives()
    play.on("assigned", B, False, Asked())
    told, *sent = play._commands
    assert isinstance(told, TellUpstream)
    assert not told.ended
    assert sent == [SendUpstream(data), EndUpstream() if ended else SendUpstream(b" ahead")]


def test_a_body_beyond_what_is_kept_is_not_sent_again() -> None:
    play = posted(b"x" * REPLAY_BYTES).on("client_data", b"x").on("upstream_closed", unprocessed=True)
    assert play.exchange.error is Code.UPSTREAM_CLOSED


def test_a_request_is_sent_three_times_at_most() -> None:
    play = posted(b"be")
    for _ in range(2):
        play.on("upstream_closed", unprocessed=True).on("assigned", A, False, Asked())
    play.on("upstream_closed", unprocessed=True)
    assert play.exchange.error is Code.UPSTREAM_CLOSED


@pytest.mark.parametrize(("ended", "sent"), [(True, b"0\r\n\r\n"), (False, b"")])
def test_an_empty_body_of_unknown_length_ends_in_http_1_too(ended: bool, sent: bytes) -> None:
    """Its end has come before its server was found."""
    request = REQUEST._replace(length=CHUNKED)
    commands = Http1Server(b"POST", trailers=False).request(request, ended=ended)
    assert len(commands) == 1
    assert isinstance(commands[0], SendUpstream)
    assert commands[0].data.endswith(b"\r\n\r\n" + sent)
