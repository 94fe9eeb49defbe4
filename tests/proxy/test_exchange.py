"""Exchanges as playbooks: every line is an event and the commands that follow."""

from __future__ import annotations

import itertools
import re
from http import HTTPStatus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.model import (
    Condition,
    FixedReply,
    HeaderAction,
    HeaderChange,
    Redirect,
    Rewrite,
    Rule,
    StickySession,
    StickyType,
)
from proxy.commands import Abort, Assign, Command, EndUpstream, Finish, ReleaseUpstream, SendClient, SendUpstream
from proxy.errors import Code, Source
from proxy.exchange import INTERIM_LIMIT, TRIES, Exchange
from proxy.head import read_request, read_response
from proxy.moves import DOWN_MOVES, UP_MOVES, Waits
from proxy.origin import Origin
from proxy.rules import Router
from proxy.sticky import Seal, Sticky
from tests.playbook import Playbook

A, B, C = ("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80)
ORIGIN = Origin(b"192.0.2.1", b"http", b"80", False, b"l7-1")
ANY_DOWN, ANY_UP = SendClient(...), SendUpstream(...)  # type: ignore[arg-type]
WEBSOCKET = (
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
OK = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 5\r\n\r\n"
RELAYED = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 5\r\nVia: 1.1 l7-1\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nDate: d\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = b"HTTP/1.1 200 OK\r\nDate: d\r\n\r\n"


def exchange(line: bytes = b"GET / HTTP/1.1", fields: bytes = b"", rest: bytes = b"", default: str = "app") -> Exchange:
    head = read_request(line + b"\r\nHost: a\r\n" + fields + b"\r\n")
    assert head is not None
    rules = [Rule("r", "web", "api", "", "/api")]
    return Exchange(head, ORIGIN, Router(rules, default), b"id", lambda: b"now", rest=rest)


def assigned(reused: bool = False, **options: bytes) -> Playbook:
    """A playbook in which a request without a body was sent to A."""
    return Playbook(exchange(**options)).on("start").gives(Assign("app", True)).on("assigned", A, reused).gives(ANY_UP)


def posting(fields: bytes = b"Content-Length: 5\r\n", rest: bytes = b"") -> Playbook:
    """A playbook in which the head of a POST was sent to A."""
    return Playbook(exchange(b"POST / HTTP/1.1", fields, rest)).on("start").on("assigned", A, False)


def status_of(playbook: Playbook) -> int:
    head = read_response(playbook.sent(), b"GET")
    assert head is not None
    return head.status


def test_get() -> None:
    play = Playbook(exchange()).on("start").gives(Assign("app", True))
    play.on("assigned", A, False).gives(ANY_UP)
    assert play.sent().startswith(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n")
    assert play.exchange.waits is Waits.UPSTREAM
    play.on("upstream_data", OK + b"hel").gives(SendClient(RELAYED + b"hel"))
    play.on("upstream_data", b"lo").gives(SendClient(b"lo"), ReleaseUpstream(True), Finish(True))
    assert (play.exchange.status, play.exchange.error, play.exchange.upstream) == (200, None, A)
    assert play.exchange.over


def test_the_rule_decides_and_the_path_is_normal() -> None:
    play = Playbook(exchange(b"GET /x/%2e./api/v1 HTTP/1.1")).on("start").gives(Assign("api", True))
    play.on("assigned", A, False)
    assert play.sent().startswith(b"GET /api/v1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("line", "fields", "status", "code"),
    [
        (b"GET /nowhere HTTP/1.1", b"", 404, Code.NO_RULE),
        (b"GET /.. HTTP/1.1", b"", 400, Code.PATH),
        (b"GET /api HTTP/1.1", b"Via: 1.1 l7-1\r\n", 508, Code.LOOP),
        (b"GET /api HTTP/1.1", b"Connection: upgrade\r\nUpgrade: websocket\r\n", 400, Code.UPGRADE),
    ],
)
def test_replies_without_a_server(line: bytes, fields: bytes, status: int, code: Code) -> None:
    play = Playbook(exchange(line, fields, default="")).on("start").gives(ANY_DOWN, Finish(True))
    assert status_of(play) == status
    assert play.exchange.offset == {Code.NO_RULE: None, Code.PATH: len(b"GET ")}.get(code, 0)
    assert (play.exchange.error, play.exchange.source) == (code, code.source)


def test_post_with_a_length() -> None:
    play = posting(rest=b"he")
    play.gives(ANY_UP, SendUpstream(b"he"))
    assert play.exchange.waits is Waits.CLIENT
    play.on("client_data", b"lloGET /next").gives(SendUpstream(b"llo"))
    assert (play.exchange.rest, play.exchange.request_complete) == (b"GET /next", True)
    play.on("client_data", b" HTTP/1.1").gives()
    play.on("upstream_data", OK + b"hello").gives(ANY_DOWN, ReleaseUpstream(True), Finish(True))
    assert play.exchange.rest == b"GET /next HTTP/1.1"


def test_post_in_chunks_is_chunked_anew() -> None:
    play = posting(b"Transfer-Encoding: chunked\r\n")
    play.on("client_data", b"3;x=y\r\nabc\r\n2\r\nd").gives(SendUpstream(b"4\r\nabcd\r\n"))
    play.on("client_data", b"e\r\n0\r\nX-Trailer: 1\r\n\r\nrest").gives(SendUpstream(b"1\r\ne\r\n0\r\n\r\n"))
    assert play.exchange.rest == b"rest"


def test_an_answer_in_chunks_is_chunked_anew_and_its_trailers_dropped() -> None:
    play = assigned()
    play.on("upstream_data", CHUNKED).gives(ANY_DOWN)
    play.on("upstream_data", b"3\r\nabc\r\n").gives(SendClient(b"3\r\nabc\r\n"))
    play.on("upstream_data", b"0\r\nX: y\r\n\r\n").gives(SendClient(b"0\r\n\r\n"), ReleaseUpstream(True), Finish(True))


def test_an_answer_until_close_becomes_chunked() -> None:
    play = assigned()
    play.on("upstream_data", ENDLESS + b"abc").gives(ANY_DOWN)
    assert play.sent().endswith(b"Transfer-Encoding: chunked\r\nVia: 1.1 l7-1\r\n\r\n3\r\nabc\r\n")
    play.on("upstream_closed").gives(SendClient(b"0\r\n\r\n"), ReleaseUpstream(False), Finish(True))


def test_an_http_1_0_client_gets_no_chunks() -> None:
    """RFC 9112 §6.1."""
    play = assigned(line=b"GET / HTTP/1.0", fields=b"Connection: keep-alive\r\n")
    play.on("upstream_data", CHUNKED + b"3\r\nabc\r\n").gives(ANY_DOWN)
    assert play.sent().endswith(b"Connection: close\r\n\r\nabc")
    play.on("upstream_data", b"0\r\n\r\n").gives(ReleaseUpstream(True), Finish(False))


def test_an_http_1_0_client_may_keep_its_connection() -> None:
    play = assigned(line=b"GET / HTTP/1.0", fields=b"Connection: keep-alive\r\n")
    play.on("upstream_data", OK + b"hello").gives(ANY_DOWN, ReleaseUpstream(True), Finish(True))
    assert b"\r\nConnection: keep-alive\r\n" in play.sent()
    assigned(line=b"GET / HTTP/1.0").on("upstream_data", OK + b"hello").gives(
        ANY_DOWN, ReleaseUpstream(True), Finish(False)
    )


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"HEAD / HTTP/1.1", OK),
        (b"GET / HTTP/1.1", b"HTTP/1.1 204 No Content\r\nDate: d\r\n\r\n"),
        (b"GET / HTTP/1.1", b"HTTP/1.1 304 Not Modified\r\nDate: d\r\nContent-Length: 9\r\n\r\n"),
    ],
)
def test_answers_without_a_body(line: bytes, answer: bytes) -> None:
    play = assigned(line=line)
    play.on("upstream_data", answer).gives(ANY_DOWN, ReleaseUpstream(True), Finish(True))


def test_what_follows_an_answer_spoils_the_connection() -> None:
    assigned().on("upstream_data", OK + b"helloHTTP/1.1 200").gives(ANY_DOWN, ReleaseUpstream(False), Finish(True))


@pytest.mark.parametrize("fields", [b"Connection: close\r\n", b""])
def test_connections_that_close_are_not_used_again(fields: bytes) -> None:
    version = b"HTTP/1.1" if fields else b"HTTP/1.0"
    answer = version + b" 200 OK\r\n" + fields + b"Content-Length: 1\r\n\r\nx"
    assigned().on("upstream_data", answer).gives(ANY_DOWN, ReleaseUpstream(False), Finish(True))


def test_interim_answers_are_passed_on() -> None:
    play = posting(b"Content-Length: 5\r\nExpect: 100-continue\r\n")
    assert b"\r\nExpect: 100-continue\r\n" in play.sent()
    assert play.exchange.waits is Waits.UPSTREAM
    play.on("upstream_data", b"HTTP/1.1 100 Continue\r\n\r\n").gives(SendClient(b"HTTP/1.1 100 Continue\r\n\r\n"))
    assert play.exchange.waits is Waits.CLIENT
    play.on("client_data", b"hello").gives(SendUpstream(b"hello"))
    play.on("upstream_data", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\nConnection: y\r\n\r\n" + OK).gives(
        SendClient(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), SendClient(RELAYED)
    )


def test_an_http_1_0_client_gets_no_interim_answer() -> None:
    """RFC 9110 §15.2."""
    play = assigned(line=b"GET / HTTP/1.0")
    play.on("upstream_data", b"HTTP/1.1 103 Early Hints\r\n\r\n").gives()


def test_interim_answers_have_a_limit() -> None:
    play = assigned().on("upstream_data", b"HTTP/1.1 103 Early Hints\r\n\r\n" * (INTERIM_LIMIT + 1))
    play.gives(ANY_DOWN, ReleaseUpstream(False), Finish(True))
    assert status_of(play) == 502


def test_an_answer_instead_of_100() -> None:
    """RFC 9110 §10.1.1: the client may not send its body now; neither connection can be used again."""
    play = posting(b"Content-Length: 5\r\nExpect: 100-continue\r\n")
    play.on("upstream_data", OK + b"no no").gives(ANY_DOWN, ReleaseUpstream(False), Finish(False, linger=True))
    assert b"\r\nConnection: close\r\n" in play.sent()


def test_an_early_answer_does_not_stop_the_request() -> None:
    play = posting(b"Transfer-Encoding: chunked\r\n")
    play.on("client_data", b"1\r\na\r\n").gives(ANY_UP)
    play.on("upstream_data", OK + b"h").gives(ANY_DOWN)
    play.on("client_data", b"0\r\n\r\n").gives(SendUpstream(b"0\r\n\r\n"))
    play.on("upstream_data", b"ello").gives(SendClient(b"ello"), ReleaseUpstream(False), Finish(False))


TRAILERS = (
    b"0\r\nX-Sum:  1 \r\nContent-Length: 9\r\nSet-Cookie: a\r\nX_y: z\r\nConnection: close\r\nServer-Timing: a\r\n\r\n"
)


def test_trailers_for_a_client_that_reads_them() -> None:
    """RFC 9110 §6.5.1: as trailers, never merged into the head; what would change the message's meaning is dropped."""
    play = assigned(fields=b"Connection: TE\r\nTE: gzip;q=0.5, Trailers\r\n")
    assert b"\r\nConnection: TE\r\nTE: trailers\r\n" in play.sent()
    play.on("upstream_data", CHUNKED + b"3\r\nabc\r\n").gives(ANY_DOWN)
    assert b"X-Sum" not in play.sent()
    play.on("upstream_data", TRAILERS).gives(
        SendClient(b"0\r\nX-Sum:  1 \r\nServer-Timing: a\r\n\r\n"), ReleaseUpstream(True), Finish(True)
    )


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (b"GET / HTTP/1.1", b""),
        (b"GET / HTTP/1.1", b"TE: gzip\r\n"),
        (b"GET / HTTP/1.1", b"TE: xtrailers\r\n"),
        (b"GET / HTTP/1.0", b"TE: trailers\r\n"),
    ],
)
def test_trailers_are_dropped_for_others(line: bytes, fields: bytes) -> None:
    play = assigned(line=line, fields=fields)
    assert b"TE:" not in play.sent()
    end = [] if line.endswith(b"0") else [SendClient(b"0\r\n\r\n")]
    play.on("upstream_data", CHUNKED).gives(ANY_DOWN).on("upstream_data", TRAILERS)
    play.gives(*end, ReleaseUpstream(True), Finish(not line.endswith(b"0")))


def test_trailers_of_requests_are_dropped() -> None:
    """A server cannot say beforehand that it reads them."""
    play = posting(b"Transfer-Encoding: chunked\r\nTE: trailers\r\n")
    play.on("client_data", TRAILERS).gives(SendUpstream(b"0\r\n\r\n"))


def test_a_stale_connection_is_replaced() -> None:
    play = assigned(reused=True)
    play.on("upstream_closed").gives(ReleaseUpstream(False), Assign("app", True, fresh=True))
    play.on("assigned", B, False).gives(ANY_UP)
    play.on("upstream_data", OK + b"hello").gives(ANY_DOWN, ReleaseUpstream(True), Finish(True))
    assert play.exchange.upstream == B


@pytest.mark.parametrize(
    ("reused", "line", "fields", "before"),
    [
        (False, b"GET / HTTP/1.1", b"", b""),  # a new connection: the server has read and hung up
        (True, b"POST / HTTP/1.1", b"", b""),  # not idempotent
        (True, b"PUT / HTTP/1.1", b"Content-Length: 1\r\n", b""),  # its body is gone
        (True, b"GET / HTTP/1.1", b"", b"HTTP/1.1 2"),  # it has begun to answer
        (True, b"GET / HTTP/1.1", b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ],
)
def test_nothing_is_repeated_that_may_have_been_processed(
    reused: bool, line: bytes, fields: bytes, before: bytes
) -> None:
    play = Playbook(exchange(line, fields, b"x" if fields else b"")).on("start").on("assigned", A, reused)
    if before:
        play.on("upstream_data", before)
    play.on("upstream_closed").gives(ANY_DOWN, ReleaseUpstream(False), Finish(True))
    assert status_of(play) == 502
    assert play.exchange.error is Code.UPSTREAM_CLOSED


def test_repeats_have_an_end() -> None:
    play = assigned(reused=True)
    for _ in range(TRIES - 1):
        play.on("upstream_closed").gives(ReleaseUpstream(False), Assign("app", True, fresh=True))
        play.on("assigned", A, True).gives(ANY_UP)
    play.on("upstream_closed").gives(ANY_DOWN, ReleaseUpstream(False), Finish(True))


def test_another_server_is_tried_when_one_does_not_accept() -> None:
    """Nothing was sent, so this holds for any method."""
    play = (
        Playbook(exchange(b"POST / HTTP/1.1", b"Content-Length: 1\r\n", b"x")).on("start").gives(Assign("app", False))
    )
    play.on("connect_failed", A, False).gives(Assign("app", False, frozenset({A})))
    play.on("connect_failed", B, False).gives(Assign("app", False, frozenset({A, B})))
    play.on("assigned", C, False).gives(ANY_UP, SendUpstream(b"x"))


@pytest.mark.parametrize(("timed_out", "status"), [(False, 502), (True, 504)])
def test_no_server_accepts(timed_out: bool, status: int) -> None:
    play = Playbook(exchange()).on("start").on("connect_failed", A, timed_out).on("connect_failed", B, timed_out)
    play.on("connect_failed", C, timed_out).gives(ANY_DOWN, Finish(True))
    assert status_of(play) == status
    assert play.exchange.source is Source.UPSTREAM


def test_no_server_at_all() -> None:
    play = Playbook(exchange()).on("start").on("no_server").gives(ANY_DOWN, Finish(True))
    assert (status_of(play), play.exchange.error) == (503, Code.NO_SERVER)
    play = Playbook(exchange()).on("start").on("connect_failed", A, False).on("no_server").gives(ANY_DOWN, Finish(True))
    assert (status_of(play), play.exchange.error) == (502, Code.CONNECT)


def test_a_reply_before_the_body_was_read_closes() -> None:
    play = Playbook(exchange(b"POST / HTTP/1.1", b"Content-Length: 5\r\n")).on("start")
    play.on("no_server").gives(ANY_DOWN, Finish(False, linger=True))
    assert b"\r\nConnection: close\r\n" in play.sent()


def test_replies_to_head_have_no_body() -> None:
    play = Playbook(exchange(b"HEAD / HTTP/1.1")).on("start").on("no_server")
    assert play.sent().endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\nA: b\n\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n", b"no"]
)
def test_malformed_answers_are_502(answer: bytes) -> None:
    play = assigned().on("upstream_data", answer)
    if answer == b"no":
        play.gives().on("upstream_data", b"\r\n\r\n")
    play.gives(ANY_DOWN, ReleaseUpstream(False), Finish(True))
    assert status_of(play) == 502
    assert play.exchange.source is Source.UPSTREAM


def test_a_malformed_chunk_of_an_answer_cuts_it() -> None:
    play = assigned()
    play.on("upstream_data", CHUNKED + b"zz\r\n").gives(ANY_DOWN, ReleaseUpstream(False), Abort())
    assert (play.exchange.error, play.exchange.source) == (Code.CHUNK_SIZE, Source.UPSTREAM)
    assert play.exchange.status == 200


def test_a_malformed_chunk_of_a_request_is_400() -> None:
    play = posting(b"Transfer-Encoding: chunked\r\n")
    play.on("client_data", b"zz\r\n").gives(ANY_DOWN, ReleaseUpstream(False), Finish(False, linger=True))
    assert status_of(play) == 400
    assert (play.exchange.error, play.exchange.source) == (Code.CHUNK_SIZE, Source.CLIENT)


@pytest.mark.parametrize("answer", [OK + b"hel", CHUNKED + b"3\r\nabc\r\n"])
def test_a_cut_answer_stays_cut(answer: bytes) -> None:
    """RFC 9112 §8: the client must be able to tell."""
    play = assigned().on("upstream_data", answer)
    play.on("upstream_closed").gives(ReleaseUpstream(False), Abort())
    assert play.exchange.error is Code.UPSTREAM_CUT


def test_deadlines() -> None:
    play = assigned().on("timed_out").gives(ANY_DOWN, ReleaseUpstream(False), Finish(True))
    assert (status_of(play), play.exchange.error) == (504, Code.UPSTREAM_TIMEOUT)
    play = posting().on("timed_out").gives(ANY_DOWN, ReleaseUpstream(False), Finish(False, linger=True))
    assert (status_of(play), play.exchange.error) == (408, Code.BODY_TIMEOUT)
    play = assigned().on("upstream_data", OK).on("timed_out").gives(ReleaseUpstream(False), Abort())
    assert play.exchange.error is Code.UPSTREAM_CUT
    play = assigned().on("upstream_data", OK).on("timed_out", client_stalled=True)
    play.gives(ReleaseUpstream(False), Abort())
    assert play.exchange.error is Code.CLIENT_STALLED


def test_a_client_that_goes_away_takes_its_upstream_connection_along() -> None:
    play = assigned().on("client_closed").gives(ReleaseUpstream(False), Abort())
    assert (play.exchange.status, play.exchange.error) == (499, Code.CLIENT_CLOSED)
    Playbook(exchange()).on("start").on("client_closed").gives(Abort())


def test_the_end_of_the_drain_time() -> None:
    play = assigned().on("drained").gives(ANY_DOWN, ReleaseUpstream(False), Finish(True))
    assert status_of(play) == 503
    assigned().on("upstream_data", OK).on("drained").gives(ReleaseUpstream(False), Abort())


def test_draining_closes_after_the_answer() -> None:
    play = assigned()
    play.exchange.let_close()
    play.on("upstream_data", OK + b"hello").gives(ANY_DOWN, ReleaseUpstream(True), Finish(False))
    assert b"\r\nConnection: close\r\n" in play.sent()


SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)


def test_websocket() -> None:
    play = assigned(fields=WEBSOCKET)
    assert b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" in play.sent()
    play.on("client_data", b"ahead").gives()
    play.on("upstream_data", SWITCH + b"frame").gives(ANY_DOWN, SendUpstream(b"ahead"))
    play.on("client_data", b"up").gives(SendUpstream(b"up"))
    play.on("upstream_data", b"down").gives(SendClient(b"down"))
    assert play.exchange.waits is Waits.TUNNEL
    play.on("upstream_closed").gives(ReleaseUpstream(False), Finish(False))
    assert (play.exchange.status, play.exchange.error) == (101, None)


def test_the_101_says_what_it_must() -> None:
    play = assigned(fields=WEBSOCKET).on("upstream_data", SWITCH + b"frame")
    assert play.sent() == (
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n"
        b"Connection: upgrade\r\nUpgrade: websocket\r\nVia: 1.1 l7-1\r\n\r\nframe"
    )


def test_a_client_may_close_its_half_of_a_tunnel() -> None:
    play = assigned(fields=WEBSOCKET).on("upstream_data", SWITCH).on("client_ended").gives(EndUpstream())
    play.on("upstream_data", b"bye").gives(SendClient(b"bye"))
    play.on("upstream_closed").gives(ReleaseUpstream(False), Finish(False))


@pytest.mark.parametrize("event", ["client_closed", "timed_out", "drained"])
def test_a_tunnel_ends_on_either_side(event: str) -> None:
    play = assigned(fields=WEBSOCKET).on("upstream_data", SWITCH)
    play.on(event).gives(ReleaseUpstream(False), Finish(False))


def test_websocket_refused_by_the_server() -> None:
    assigned(fields=WEBSOCKET).on("upstream_data", OK + b"hello").gives(ANY_DOWN, ReleaseUpstream(True), Finish(True))


def test_101_unasked_is_502() -> None:
    play = assigned().on("upstream_data", SWITCH).gives(ANY_DOWN, ReleaseUpstream(False), Finish(True))
    assert (status_of(play), play.exchange.error) == (502, Code.UNASKED_UPGRADE)


ANSWERS = st.sampled_from(
    [
        OK + b"hello",
        OK + b"hellosurplus",
        CHUNKED + b"3;x\r\nabc\r\n1\r\nd\r\n0\r\nT: 1\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK + b"hello",
        b"HTTP/1.1 204 No Content\r\nDate: d\r\n\r\n",
        ENDLESS + b"until close",
        CHUNKED + b"3\r\nabcX",
        b"HTTP/1.1 200\nOK\r\n\r\n",
        OK + b"he",
    ]
)
BODIES = st.sampled_from(
    [
        (b"", b""),
        (b"Content-Length: 5\r\n", b"hello"),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nhe\r\n3;a\r\nllo\r\n0\r\n\r\n"),
    ]
)


def payload(commands: list[Command], kind: type[SendClient] | type[SendUpstream]) -> bytes:
    return b"".join(command.data for command in commands if isinstance(command, kind))


def unchunked(data: bytes) -> bytes:
    """Head and payload, whatever the chunks were."""
    head, _, body = data.partition(b"\r\n\r\n")
    if b"Transfer-Encoding: chunked" not in head:
        return data
    parts = []
    while body and (size := int(body.partition(b"\r\n")[0], 16)):
        body = body.partition(b"\r\n")[2]
        parts.append(body[:size])
        body = body[size + 2 :]
    return head + b"|" + b"".join(parts) + (b"|end" if body else b"|cut")


@given(BODIES, ANSWERS, st.data())
@settings(max_examples=300, deadline=None)
def test_recutting_the_input_changes_nothing(body: tuple[bytes, bytes], answer: bytes, data: st.DataObject) -> None:
    """However the bytes of both sides arrive, the same bytes leave, and the exchange ends the same way.

    Only an answer that is cut because it is malformed may be cut a few bytes sooner.
    """
    fields, request = body

    def play(up: list[bytes], down: list[bytes]) -> object:
        one = exchange(b"POST / HTTP/1.1", fields)
        commands = [*one.start(), *one.assigned(A, False)]
        for part in up:
            commands += one.client_data(part)
        for part in down:
            if not one.over:
                commands += one.upstream_data(part)
        if not one.over:
            commands += one.upstream_closed()
        ends = [command for command in commands if isinstance(command, Finish | Abort)]
        assert commands[-1] is ends[0]
        down_bytes = unchunked(payload(commands, SendClient))
        if ends == [Abort()]:
            down_bytes = down_bytes.partition(b"|")[0]
        return unchunked(payload(commands, SendUpstream)), down_bytes, ends, one.error

    def cut(text: bytes) -> list[bytes]:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
        return [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)]) if a < b]

    assert play(cut(request), cut(answer)) == play([request] if request else [], [answer])


def test_ended_is_the_end_and_is_reached_from_everywhere() -> None:
    for moves in (UP_MOVES, DOWN_MOVES):
        ended = next(state for state, targets in moves.items() if not targets)
        assert all(ended in targets for state, targets in moves.items() if state is not ended)


def redirecting(line: bytes, fields: bytes = b"Host: a.test:80\r\n", rest: bytes = b"") -> Playbook:
    head = read_request(line + b"\r\n" + fields + b"\r\n")
    assert head is not None
    router = Router([Rule("r", "web", "acme", "", "/.well-known/acme-challenge/")], "", 443)
    return Playbook(Exchange(head, ORIGIN, router, b"id", lambda: b"now", rest=rest)).on("start")


@pytest.mark.parametrize(("method", "status"), [(b"GET", 301), (b"HEAD", 301), (b"POST", 308), (b"DELETE", 308)])
def test_redirected_to_https(method: bytes, status: int) -> None:
    play = redirecting(method + b" /a/../b?c HTTP/1.1").gives(ANY_DOWN, Finish(True))
    assert b"\r\nLocation: https://a.test/b?c\r\n" in play.sent()
    assert (play.exchange.status, play.exchange.error, play.exchange.source) == (status, None, None)
    assert status_of(play) == status


def test_rules_go_before_the_redirect() -> None:
    """As http-01 of ACME needs it (RFC 8555 §8.3)."""
    redirecting(b"GET /.well-known/acme-challenge/x HTTP/1.1").gives(Assign("acme", True))


def by_rule(line: bytes, rule: Rule, fields: bytes = b"Host: a.test:80\r\n", **options: object) -> Playbook:
    head = read_request(line + b"\r\n" + fields + b"\r\n")
    assert head is not None
    made = Exchange(head, ORIGIN, Router([rule], "app"), b"id", lambda: b"now", **options)  # type: ignore[arg-type]
    return Playbook(made).on("start")


def test_a_rule_redirects() -> None:
    rule = Rule("r", "web", url="/old", redirect=Redirect(307, host="new.test", path="/x${rest}"))
    play = by_rule(b"POST /old/a/./b?c HTTP/1.1", rule, hsts=b"Strict-Transport-Security: max-age=1\r\n")
    play.gives(ANY_DOWN, Finish(True))
    assert play.sent() == (
        b"HTTP/1.1 307 Temporary Redirect\r\nDate: now\r\nLocation: http://new.test/x/a/b?c\r\nContent-Length: 0\r\n"
        b"Via: 1.1 l7-1\r\nX-Request-Id: id\r\nStrict-Transport-Security: max-age=1\r\n\r\n"
    )
    assert (play.exchange.status, play.exchange.error, play.exchange.target) == (307, None, b"/old/a/b?c")


@pytest.mark.parametrize(
    ("method", "reply", "lines", "body"),
    [
        (b"GET", FixedReply(503, "a/b", "<p>soon"), b"Content-Type: a/b\r\nContent-Length: 7\r\n", b"<p>soon"),
        (b"HEAD", FixedReply(503, "a/b", "<p>soon"), b"Content-Type: a/b\r\nContent-Length: 7\r\n", b""),
        (b"GET", FixedReply(404), b"Content-Length: 0\r\n", b""),
        (b"GET", FixedReply(204), b"", b""),
    ],
)  # fmt: skip
def test_a_rule_replies(method: bytes, reply: FixedReply, lines: bytes, body: bytes) -> None:
    play = by_rule(method + b" / HTTP/1.1", Rule("r", "web", fixed_reply=reply)).gives(ANY_DOWN, Finish(True))
    first, _, rest = play.sent().partition(b"\r\n")
    assert first == b"HTTP/1.1 %d %b" % (reply.status, HTTPStatus(reply.status).phrase.encode())
    assert rest == b"Date: now\r\n" + lines + b"Via: 1.1 l7-1\r\nX-Request-Id: id\r\n\r\n" + body
    assert (play.exchange.status, play.exchange.error, play.exchange.source) == (reply.status, None, None)


def test_a_reply_by_rule_does_not_wait_for_a_body() -> None:
    fields = b"Host: a\r\nContent-Length: 5\r\n"
    play = by_rule(b"POST / HTTP/1.1", Rule("r", "web", fixed_reply=FixedReply()), fields)
    play.gives(ANY_DOWN, Finish(False, True))
    assert b"\r\nConnection: close\r\n" in play.sent()


def test_a_rule_may_ask_for_more_than_the_path() -> None:
    rule = Rule("r", "web", "api", url="/", methods=("GET",), headers=(Condition("X-Beta", ("yes",)),))
    by_rule(b"GET / HTTP/1.1", rule, b"Host: a\r\nx-beta: yes\r\n").gives(Assign("api", True))
    by_rule(b"GET / HTTP/1.1", rule, b"Host: a\r\nx-beta: no\r\n").gives(Assign("app", True))
    by_rule(b"PUT / HTTP/1.1", rule, b"Host: a\r\nx-beta: yes\r\n").gives(Assign("app", True))


def test_what_is_forwarded_and_answered_is_changed() -> None:
    rule = Rule(
        "r", "web", "api", url="/old", rewrite=Rewrite("inner.test", "/new${rest}", "v=2&${query}"),
        request_headers=(HeaderChange("X-A", value="ours"), HeaderChange("x-b", HeaderAction.REMOVE)),
        response_headers=(HeaderChange("Server", HeaderAction.REMOVE), HeaderChange("X-A", HeaderAction.ADD, "more")),
    )  # fmt: skip
    fields = b"Host: a\r\nx-a: theirs\r\nX-B: 1\r\nX-C: 2\r\nConnection: x-d\r\nX-D: 3\r\nX-A: again\r\n"
    play = by_rule(b"GET /old/./x?y HTTP/1.1", rule, fields).gives(Assign("api", True))
    play.on("assigned", A, False)
    first, *lines = play.sent().split(b"\r\n")
    assert first == b"GET /new/x?v=2&y HTTP/1.1"
    assert lines[:4] == [b"Host: inner.test", b"X-C: 2", b"X-A: ours", b"X-Forwarded-For: 192.0.2.1"]
    answer = b"HTTP/1.1 200 OK\r\nServer: s/1\r\nX-A: one\r\nDate: d\r\nContent-Length: 0\r\n\r\n"
    play.on("upstream_data", answer).gives(ANY_DOWN, ReleaseUpstream(True), Finish(True))
    assert play.sent() == (
        b"HTTP/1.1 200 OK\r\nX-A: one\r\nX-A: more\r\nDate: d\r\nContent-Length: 0\r\nVia: 1.1 l7-1\r\n\r\n"
    )
    assert play.exchange.target == b"/old/x?y"  # for the log: as the client asked


def test_a_rewritten_path_is_brought_into_normal_form_again() -> None:
    """What a client puts into Host is part of the path then: it leads nowhere else, and not above the root."""
    rule = Rule("r", "web", "api", rewrite=Rewrite(path="/x/${host}${path}"))
    play = by_rule(b"GET /b HTTP/1.1", rule, b"Host: ..\r\n").gives(Assign("api", True)).on("assigned", A, False)
    assert play.sent().startswith(b"GET /x/b HTTP/1.1\r\n")
    rule = Rule("r", "web", "api", rewrite=Rewrite(path="/${host}${path}"))
    play = by_rule(b"GET /b HTTP/1.1", rule, b"Host: ...\r\n").gives(ANY_DOWN, Finish(True))
    assert play.exchange.error is Code.PATH


def test_what_the_stars_stand_for() -> None:
    rule = Rule("r", "web", "api", url="/u", pattern="/u/*/p/**", rewrite=Rewrite(path="/${2}/of/${1}", query="u=${1}"))
    play = by_rule(b"GET /u/a%2fb/p/c/d?e HTTP/1.1", rule).gives(Assign("api", True)).on("assigned", A, False)
    assert play.sent().startswith(b"GET /c/d/of/a%2Fb?u=a%2Fb HTTP/1.1\r\n")
    by_rule(b"GET /u/a/q/c HTTP/1.1", rule).gives(Assign("app", True))
    moved = Rule("r", "web", pattern="/u/*", redirect=Redirect(path="/v/${1}", query=""))
    assert b"\r\nLocation: http://a.test:80/v/x\r\n" in by_rule(b"GET /u/x?y HTTP/1.1", moved).sent()


def test_the_answer_to_an_upgrade_is_changed_too() -> None:
    rule = Rule("r", "web", "api", response_headers=(HeaderChange("X-A", value="1"),))
    play = by_rule(b"GET / HTTP/1.1", rule, b"Host: a\r\n" + WEBSOCKET).on("assigned", A, False)
    play.on("upstream_data", b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nX-A: 0\r\n\r\n")
    assert b"\r\nX-A: 1\r\n" in play.sent()
    assert b"X-A: 0" not in play.sent()


def test_a_rules_reply_and_redirect_have_its_fields() -> None:
    changes = (HeaderChange("X-A", value="1"), HeaderChange("X-B", HeaderAction.REMOVE))
    reply = Rule("r", "web", fixed_reply=FixedReply(204), response_headers=changes)
    assert b"\r\nX-A: 1\r\nVia: " in by_rule(b"OPTIONS / HTTP/1.1", reply).sent()
    redirect = Rule("r", "web", redirect=Redirect(host="b"), response_headers=changes)
    assert b"\r\nX-A: 1\r\nLocation: http://b/\r\n" in by_rule(b"GET / HTTP/1.1", redirect).sent()


def staying(
    settings: StickySession, fields: bytes = b"", scheme: bytes = b"http", rule: Rule | None = None
) -> Playbook:
    sticky = Sticky(Seal(bytes(32), lambda: 1e9))
    sticky.update(settings, (A, B))
    head = read_request(b"GET /x HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    assert head is not None
    router = Router([rule] if rule else [], "app", stickies={"app": sticky})
    origin = Origin(b"192.0.2.1", scheme, b"80", False, b"l7-1")
    return Playbook(Exchange(head, origin, router, b"id", lambda: b"now")).on("start")


def cookie_of(playbook: Playbook) -> bytes:
    found = re.search(rb"\r\nSet-Cookie: (\w+=[^;\r]+)", playbook.sent())
    assert found is not None
    return found[1]


def test_a_client_stays_with_its_server() -> None:
    play = staying(StickySession(), scheme=b"https").gives(Assign("app", True)).on("assigned", B, False).gives(ANY_UP)
    play.on("upstream_data", OK + b"hello").gives(ANY_DOWN, ReleaseUpstream(True), Finish(True))
    assert b"; Path=/; Max-Age=3600; HttpOnly; Secure\r\nDate: " in play.sent()
    back = b"Cookie: x=1; %b\r\n" % cookie_of(play)
    play = staying(StickySession(), back).gives(Assign("app", True, prefer=B)).on("assigned", B, True)
    assert b"\r\nCookie: x=1\r\n" in play.sent()
    assert b"SERVERID" not in play.sent()
    play.on("upstream_data", OK + b"hello")
    assert b"Set-Cookie" not in play.sent()


def test_a_client_whose_server_does_not_answer_moves() -> None:
    play = staying(StickySession()).on("assigned", B, False)
    play.on("upstream_data", OK + b"hello")
    back = b"Cookie: %b\r\n" % cookie_of(play)
    play = staying(StickySession(), back).gives(Assign("app", True, prefer=B))
    play.on("connect_failed", B, False).gives(Assign("app", True, frozenset({B}), prefer=B))
    play.on("assigned", A, False).on("upstream_data", OK + b"hello")
    moved = b"Cookie: %b\r\n" % cookie_of(play)
    assert moved != back
    staying(StickySession(), moved).gives(Assign("app", True, prefer=A))


def test_a_client_gets_no_cookie_for_the_server_of_a_fallback() -> None:
    play = staying(StickySession()).on("assigned", C, False).on("upstream_data", OK + b"hello")
    assert b"Set-Cookie" not in play.sent()


def test_an_application_sees_its_own_cookie_only() -> None:
    settings = StickySession(StickyType.SERVER, "sid")
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=abc; HttpOnly\r\nContent-Length: 0\r\n\r\n"
    play = staying(settings).on("assigned", B, False).on("upstream_data", answer)
    assert re.search(rb"\r\nSet-Cookie: sid=[\w-]{16}~abc; HttpOnly\r\n", play.sent())
    play = staying(settings, b"Cookie: %b\r\n" % cookie_of(play)).gives(Assign("app", True, prefer=B))
    play.on("assigned", B, False)
    assert b"\r\nCookie: sid=abc\r\n" in play.sent()


def test_a_websocket_stays_too() -> None:
    play = staying(StickySession(), WEBSOCKET).on("assigned", A, False)
    play.on("upstream_data", b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert cookie_of(play).startswith(b"SERVERID=")


def test_a_rule_changes_what_stickiness_leaves() -> None:
    rule = Rule("r", "web", "app", request_headers=(HeaderChange("X", value="1"),),
                response_headers=(HeaderChange("Y", value="2"),))  # fmt: skip
    play = staying(StickySession(), rule=rule).on("assigned", A, False)
    assert b"\r\nX: 1\r\n" in play.sent()
    play.on("upstream_data", OK + b"hello")
    assert b"\r\nY: 2\r\nSet-Cookie: SERVERID=" in play.sent()


def test_a_redirected_body_is_not_waited_for() -> None:
    play = redirecting(b"POST / HTTP/1.1", b"Host: a.test\r\nContent-Length: 5\r\n").gives(
        ANY_DOWN, Finish(False, True)
    )
    assert b"\r\nConnection: close\r\n" in play.sent()


def test_without_a_host_there_is_nowhere_to_redirect_to() -> None:
    play = redirecting(b"GET / HTTP/1.0", b"").gives(ANY_DOWN, Finish(False))
    assert play.exchange.error is Code.HOST_MISSING
    assert status_of(play) == 400
