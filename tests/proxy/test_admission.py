"""What has to be passed before a request is forwarded, as playbooks of exchanges: sizes, lists, limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.model import (
    AccessList,
    Acl,
    FixedReply,
    Instance,
    Listener,
    Model,
    Protocol,
    RateLimit,
    Redirect,
    Rule,
)
from core.resolve import l7_listeners
from proxy.admission import Means
from proxy.commands import Abort, Assign, Command, Finish, Pause, ReleaseUpstream, SendClient, SendUpstream
from proxy.crowds import Crowds
from proxy.crowds import names as crowds_of
from proxy.demands import Demands
from proxy.errors import Code, Source
from proxy.exchange import Exchange
from proxy.head import read_request
from proxy.ledger import Ledger
from proxy.origin import Origin
from proxy.rates import Rates
from proxy.rates import names as rate_names
from proxy.rules import Router
from tests.playbook import Playbook

A = ("10.0.0.1", 80)
ORIGIN = Origin(b"192.0.2.1", b"http", b"80", False, b"l7-1")
ANY_DOWN, ANY_UP = SendClient(...), SendUpstream(...)  # type: ignore[arg-type]
OK = b"HTTP/1.1 200 OK\r\nDate: d\r\nContent-Length: 5\r\n\r\n"


def limited(*limits: RateLimit, now: float = 5.0, **options: object) -> Callable[[], Playbook]:
    """Exchanges by a rule with these limits, at one moment."""
    rule = Rule("r", "web", "api", rate_limits=limits, **options)  # type: ignore[arg-type]
    made = Model(listeners={"web": Listener("web", "main", Protocol.HTTP, 80)}, rules={"r": rule})
    means = Means(lambda: now, rates=Rates())
    assert means.rates is not None
    means.rates.update(made, {name: row for row, name in enumerate(rate_names(made))})
    router = Router([rule], "app")

    def playbook() -> Playbook:
        head = read_request(b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head is not None
        return Playbook(Exchange(head, ORIGIN, router, b"id", lambda: b"now", means=means)).on("start")

    return playbook


def test_what_is_beyond_a_limit_is_refused_and_the_connection_goes_on() -> None:
    playbook = limited(RateLimit(1))
    playbook().gives(Assign("api", True))
    refused = playbook().gives(ANY_DOWN, Finish(True))
    head = refused.on("client_data", b"next").exchange
    assert (head.status, head.error, head.source, head.rest) == (429, Code.RATE, Source.CLIENT, b"next")


def test_a_refusal_says_when_to_come_again() -> None:
    playbook = limited(RateLimit(0.1))
    playbook()
    sent = playbook().sent()
    assert sent.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nRetry-After: 10\r\n" in sent
    assert b'"error": "rate_limited"' in sent


def test_what_has_to_wait_goes_on_after_its_pause() -> None:
    playbook = limited(RateLimit(2, burst=1, max_delay_s=1))
    playbook()
    waiting = playbook().gives(Pause(pytest.approx(0.5, rel=0.01)))
    assert waiting.exchange.pausing
    waiting.on("go_on_admitting").gives(Assign("api", True))
    assert not waiting.exchange.pausing


@pytest.mark.parametrize(
    ("event", "commands"),
    [("client_closed", (Abort(),)), ("overloaded", (ANY_DOWN, Finish(True))), ("drained", (ANY_DOWN, Finish(True)))],
)
def test_what_waits_for_its_turn_may_end_at_any_time(event: str, commands: tuple[Command, ...]) -> None:
    playbook = limited(RateLimit(2, burst=1, max_delay_s=1))
    playbook()
    playbook().on(event).gives(*commands)


def test_redirects_replies_and_what_no_rule_is_for_are_limited_too() -> None:
    for options in ({"redirect": Redirect(path="/x")}, {"fixed_reply": FixedReply(body="x")}):
        rule = {"backend_service": "", **options}
        made = Rule("r", "web", rate_limits=(RateLimit(1),), **rule)  # type: ignore[arg-type]
        demands = Demands.of(made, None)
        decision = Router([made], "").route(read_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), b"/")  # type: ignore[arg-type]
        assert decision is not None
        assert decision.demands == demands
    listener = Demands.of_listener(Listener("web", "main", Protocol.HTTP, 80, rate_limits=(RateLimit(1),)))
    means = Means(lambda: 5.0, rates=Rates())
    assert means.rates is not None
    means.rates.update(
        Model(listeners={"web": Listener("web", "main", Protocol.HTTP, 80, rate_limits=(RateLimit(1),))}),
        {"listener web rate 0": 0},
    )
    statuses = []
    for _ in range(2):
        head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head is not None
        nowhere = Exchange(head, ORIGIN, Router((), "", demands=listener), b"id", lambda: b"now", means=means)
        nowhere.start()
        statuses.append(nowhere.status)
    assert statuses == [404, 429]


def sized(line: bytes, fields: bytes, most: int, rest: bytes = b"") -> Playbook:
    """An exchange by a rule whose bodies may have so many bytes."""
    rule = Rule("r", "web", "api", max_body_bytes=most)
    head = read_request(line + b" HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    assert head is not None
    return Playbook(Exchange(head, ORIGIN, Router([rule], ""), b"id", lambda: b"now", rest=rest)).on("start")


@pytest.mark.parametrize(("length", "passes"), [(0, True), (9, True), (10, True), (11, False), (10**15, False)])
def test_a_body_that_says_it_is_too_long_gets_no_server(length: int, passes: bool) -> None:
    playbook = sized(b"POST /", b"Content-Length: %d\r\n" % length, 10)
    if passes:
        playbook.gives(Assign("api", False))
        return
    playbook.gives(ANY_DOWN, Finish(False, linger=True))
    assert (playbook.exchange.status, playbook.exchange.error) == (413, Code.BODY_LARGE)


def test_a_body_that_turns_out_too_long_is_given_up_where_it_does() -> None:
    playbook = sized(b"POST /", b"Transfer-Encoding: chunked\r\n", 10)
    playbook.gives(Assign("api", False)).on("assigned", A, False).gives(ANY_UP)
    playbook.on("client_data", b"5\r\nhello\r\n5\r\nworld\r\n").gives(ANY_UP)
    playbook.on("client_data", b"1\r\n!\r\n").gives(ANY_DOWN, ReleaseUpstream(False), Finish(False, linger=True))
    assert (playbook.exchange.status, playbook.exchange.error) == (413, Code.BODY_LARGE)


def test_a_body_too_long_behind_an_answer_that_has_begun_cuts_it() -> None:
    playbook = sized(b"POST /", b"Transfer-Encoding: chunked\r\n", 10).on("assigned", A, False)
    playbook.on("upstream_data", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
    playbook.on("client_data", b"b\r\nhello world\r\n").gives(ReleaseUpstream(False), Abort())
    assert (playbook.exchange.status, playbook.exchange.error) == (200, Code.BODY_LARGE)


def test_a_body_of_just_the_size_passes_whole() -> None:
    playbook = sized(b"POST /", b"Transfer-Encoding: chunked\r\n", 10).on("assigned", A, False)
    playbook.on("client_data", b"a\r\nhelloworld\r\n0\r\n\r\n").gives(ANY_UP)
    assert playbook.exchange.request_complete


def test_a_head_may_be_as_long_as_the_listener_says() -> None:
    demands = Demands.of_listener(Listener("web", "main", Protocol.HTTP, 80, max_head_bytes=1024))
    for size, error in ((1024, None), (1025, Code.HEAD_LARGE)):
        lines = b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n"
        head = read_request(lines % (b"x" * (size - len(lines) + 2)))
        assert head is not None
        assert head.size == size
        made = Exchange(head, ORIGIN, Router((), "app", demands=demands), b"id", lambda: b"now")
        made.start()
        assert made.error is error


@pytest.mark.parametrize(
    ("acl", "client", "trusted", "fields", "admitted"),
    [
        (Acl.WHITE, b"192.0.2.1", False, b"", True),
        (Acl.WHITE, b"198.51.100.1", False, b"", False),
        (Acl.BLACK, b"192.0.2.1", False, b"", False),
        (Acl.BLACK, b"198.51.100.1", False, b"", True),
        (Acl.WHITE, b"2001:db8::1", False, b"", True),
        (Acl.WHITE, b"2001:db9::1", False, b"", False),
        (Acl.WHITE, b"198.51.100.1", False, b"X-Forwarded-For: 192.0.2.1\r\n", False),
        (Acl.WHITE, b"198.51.100.1", True, b"X-Forwarded-For: 192.0.2.1\r\n", True),
        (Acl.BLACK, b"198.51.100.1", True, b"X-Forwarded-For: 192.0.2.1\r\n", False),
        (Acl.BLACK, b"198.51.100.1", True, b"X-Forwarded-For: unknown\r\n", False),
        (Acl.WHITE, b"198.51.100.1", True, b"X-Forwarded-For: a:b\r\n", False),
    ],
)
def test_a_rule_answers_those_that_its_list_admits(
    acl: Acl, client: bytes, trusted: bool, fields: bytes, admitted: bool
) -> None:
    rule = Rule("r", "web", "api", acl=acl, access_list="some", rate_limits=(RateLimit(1),))
    made = Model(
        access_lists={"some": AccessList("some", ("192.0.2.0/24", "2001:db8::/32"))},
        instances={"main": Instance("main")},
        listeners={"web": Listener("web", "main", Protocol.HTTP, 80)},
        rules={"r": rule},
    )
    (each,) = l7_listeners(made)
    head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    assert head is not None
    router = Router(each.rules, "", guards=each.guards)
    exchange = Exchange(head, Origin(client, b"http", b"80", trusted, b"l7-1"), router, b"id", lambda: b"now")
    exchange.start()
    assert (exchange.error, exchange.status) == ((None, 0) if admitted else (Code.ACCESS, 403))


class Many:
    """Exchanges that are under way, by a listener and a rule with these limits of requests at a time."""

    def __init__(self, rule: tuple[int, int] = (0, 0), listener: tuple[int, int] = (0, 0)) -> None:
        names = ("max_requests", "max_requests_per_client")
        made = Rule("r", "web", "api", **dict(zip(names, rule, strict=True)))  # type: ignore[arg-type]
        web = Listener("web", "main", Protocol.HTTP, 80, **dict(zip(names, listener, strict=True)))  # type: ignore[arg-type]
        self.model = Model(listeners={"web": web}, rules={"r": made})
        self.means = Means(lambda: 5.0, crowds=Crowds(Ledger()))
        assert self.means.crowds is not None
        self.means.crowds.update(self.model, {name: row for row, name in enumerate(crowds_of(self.model))})
        self.router = Router([made], "", demands=Demands.of_listener(web))

    def begin(self, client: bytes = b"192.0.2.1") -> Exchange:
        head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head is not None
        origin = Origin(client, b"http", b"80", False, b"l7-1")
        exchange = Exchange(head, origin, self.router, b"id", lambda: b"now", means=self.means)
        exchange.start()
        return exchange


END = {
    "answered": lambda one: (one.assigned(A, False), one.upstream_data(OK + b"hello")),
    "cut": lambda one: one.client_closed(),
    "refused": lambda one: one.no_server(),
    "drained": lambda one: (one.assigned(A, False), one.drained()),
}


@pytest.mark.parametrize("limits", [{"rule": (2, 0)}, {"listener": (2, 0)}, {"rule": (2, 9), "listener": (3, 0)}])
@pytest.mark.parametrize("end", END)
def test_so_many_requests_at_a_time(limits: dict[str, tuple[int, int]], end: str) -> None:
    many = Many(**limits)
    first, second, third = (many.begin() for _ in range(3))
    assert [each.error for each in (first, second, third)] == [None, None, Code.REQUESTS_FULL]
    assert third.status == 503
    END[end](first)
    assert first.over
    assert [many.begin().error for _ in range(2)] == [None, Code.REQUESTS_FULL]


@pytest.mark.parametrize("end", END)
def test_so_many_requests_of_a_client_at_a_time(end: str) -> None:
    many = Many(rule=(3, 1))
    first = many.begin()
    again = many.begin()
    assert (again.status, again.error) == (429, Code.CLIENT_FULL)
    assert many.begin(b"192.0.2.2").error is None
    assert many.begin(b"2001:db8::1").error is None
    assert many.begin(b"192.0.2.3").error is Code.REQUESTS_FULL
    END[end](first)
    assert many.begin().error is None


def test_a_place_in_the_listener_is_given_back_where_the_rule_has_none() -> None:
    many = Many(rule=(1, 0), listener=(2, 0))
    first = many.begin()
    for _ in range(9):
        assert many.begin().error is Code.REQUESTS_FULL
    END["cut"](first)
    assert many.begin().error is None


def test_a_change_of_limits_keeps_count_of_who_is_under_way() -> None:
    many = Many(rule=(1, 0))
    first = many.begin()
    rows = {name: row for row, name in enumerate(crowds_of(many.model))}
    wider = Rule("r", "web", "api", max_requests=2)
    assert many.means.crowds is not None
    many.means.crowds.update(Model(listeners=many.model.listeners, rules={"r": wider}), rows)
    assert [many.begin().error for _ in range(2)] == [None, Code.REQUESTS_FULL]
    many.means.crowds.update(Model(listeners=many.model.listeners), {})
    END["cut"](first)  # its limit is gone


def test_the_fast_lane_may_have_what_is_short_enough_and_nothing_that_is_counted() -> None:
    def quick(**options: object) -> int:
        demands = Demands.of_listener(Listener("web", "main", Protocol.HTTP, 80, **options))  # type: ignore[arg-type]
        assert demands is not None
        return demands.quick_bytes

    assert quick(max_body_bytes=5000) == 5000
    assert quick(max_body_bytes=5000, max_head_bytes=2000) == 2000
    assert quick(max_head_bytes=2000) == 2000
    assert quick(max_body_bytes=5000, max_requests=1) == -1
    assert quick(rate_limits=(RateLimit(1),)) == -1
    assert quick(max_requests_per_client=1) == -1
