"""Cookies that keep clients at their servers, and what clients can do to them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.model import StickySession, StickyType
from proxy.actions import Changes
from proxy.head import read_request, read_response
from proxy.message import RequestHead, ResponseHead
from proxy.sticky import COOKIES, Seal, Sticky, merged

A, B, GONE = ("10.0.0.1", 80), ("2001:db8::1", 8080), ("10.0.0.9", 80)
SECRET = bytes(range(32))
COOKIE = StickySession(cookie_timeout_s=100)
PREFIX = StickySession(StickyType.SERVER, "JSESSIONID")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.5

    def __call__(self) -> float:
        return self.now


def made(settings: StickySession = COOKIE, secret: bytes = SECRET, clock: Clock | None = None) -> Sticky:
    sticky = Sticky(Seal(secret, clock or Clock()))
    sticky.update(settings, (A, B))
    return sticky


def request(*cookies: bytes) -> RequestHead:
    fields = b"".join(b"Cookie: %b\r\n" % each for each in cookies)
    head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    assert head is not None
    return head


def answer(*cookies: bytes) -> ResponseHead:
    fields = b"".join(b"Set-Cookie: %b\r\n" % each for each in cookies)
    head = read_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n", b"GET")
    assert head is not None
    return head


def value_for(sticky: Sticky, server: tuple[str, int] = A) -> bytes:
    """What a client's cookie is after an answer of this server."""
    changes = sticky.cookie(server, secure=False)
    assert changes is not None
    found = re.fullmatch(rb"Set-Cookie: SERVERID=([^;]+); Path=/; Max-Age=100; HttpOnly\r\n", changes.lines)
    assert found is not None
    return found[1]


def test_the_first_answer_brings_a_cookie_and_the_next_request_goes_back() -> None:
    sticky = made()
    stay = sticky.stay(request(b"a=1; b=2"))
    assert (stay.server, stay.request) == (None, None)
    changes = stay.answer(answer(), B, secure=True)
    assert changes is not None
    assert changes.lines.endswith(b"; HttpOnly; Secure\r\n")
    assert b"2001" not in changes.lines
    again = sticky.stay(request(b"a=1; SERVERID=%b; b=2" % value_for(sticky, B)))
    assert again.server == B
    assert again.request == Changes(frozenset((b"cookie",)), b"Cookie: a=1; b=2\r\n")  # not for the server
    assert again.answer(answer(), B, secure=True) is None
    moved = again.answer(answer(), A, secure=True)
    assert moved is not None
    assert value_for(sticky, A) in moved.lines


def test_a_server_that_is_a_unix_socket() -> None:
    sticky = made()
    sticky.update(COOKIE, (A, ("unix:/run/ü.sock", 0)))
    assert sticky.stay(request(b"SERVERID=" + value_for(sticky, ("unix:/run/ü.sock", 0)))).server == (
        "unix:/run/ü.sock",
        0,
    )


def test_nothing_is_left_of_a_cookie_field_that_held_ours_alone() -> None:
    sticky = made()
    stay = sticky.stay(request(b"SERVERID=" + value_for(sticky)))
    assert stay.request == Changes(frozenset((b"cookie",)), b"")


def test_a_cookie_is_renewed_at_half_its_time_and_ends() -> None:
    clock = Clock()
    sticky = made(clock=clock)
    asking = request(b"SERVERID=" + value_for(sticky))
    expected = [(0, A, False), (49, A, False), (52, A, True), (99, A, True), (102, None, True)]
    for passed, server, renewed in expected:
        clock.now = 1_000_000.5 + passed
        stay = sticky.stay(asking)
        assert (stay.server, stay.answer(answer(), A, secure=False) is not None) == (server, renewed), passed
    clock.now = 1_000_000.5 - 290  # the node that made it has a clock ahead of ours
    assert sticky.stay(asking).server == A
    clock.now = 1_000_000.5 - 310
    assert sticky.stay(asking).server is None


@given(st.data())
def test_only_what_we_have_issued_is_good(data: st.DataObject) -> None:
    sticky = made()
    good = value_for(sticky)
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.sampled_from(b"0aZ-_.~"))
    forged = good[:at] + bytes((byte,)) + good[at + 1 :]
    stay = sticky.stay(request(b"SERVERID=" + forged))
    assert (stay.server == A) is (forged == good)
    assert stay.request is not None  # it is taken out all the same


@pytest.mark.parametrize("value", [b"", b".", b"..", b"a.b", b"a.b.c", b"a.-1.c", b"\xff.1.\xff", b"~", b"x" * 5000])
@pytest.mark.parametrize("settings", [COOKIE, PREFIX], ids=["insert", "server"])
def test_nonsense_counts_as_no_cookie(value: bytes, settings: StickySession) -> None:
    name = settings.cookie.encode()
    assert made(settings).stay(request(name + b"=" + value)).server is None


def test_another_secret_or_a_server_that_is_gone() -> None:
    sticky = made()
    assert made(secret=bytes(32)).stay(request(b"SERVERID=" + value_for(sticky))).server is None
    asking = request(b"SERVERID=" + value_for(sticky))
    sticky.update(COOKIE, (B,))
    assert sticky.stay(asking).server is None
    assert sticky.cookie(GONE, secure=False) is None  # of a fallback, say: nothing is promised for it


def test_two_nodes_with_one_secret_know_each_others_cookies() -> None:
    one, two = made(), made()
    assert two.stay(request(b"SERVERID=" + value_for(one, B))).server == B
    late = made(secret=bytes(32))
    late._seal.replace(SECRET)
    late.reseal()
    assert late.stay(request(b"SERVERID=" + value_for(one, B))).server == B


def test_of_several_the_first_that_is_good_counts() -> None:
    sticky = made()
    a, b = value_for(sticky, A), value_for(sticky, B)
    stay = sticky.stay(request(b"SERVERID=old; xSERVERID=1", b"SERVERID=%b;SERVERID=%b;x" % (b, a)))
    assert stay.server == B
    assert stay.request == Changes(frozenset((b"cookie",)), b"Cookie: xSERVERID=1; x\r\n")


def test_no_more_than_a_few_are_looked_at() -> None:
    sticky = made()
    many = b"; ".join([b"SERVERID=x"] * COOKIES)
    assert sticky.stay(request(many + b"; SERVERID=" + value_for(sticky))).server is None


def test_the_servers_cookie_gets_a_prefix_and_loses_it() -> None:
    sticky = made(PREFIX)
    stay = sticky.stay(request(b"JSESSIONID=before"))
    assert (stay.server, stay.request) == (None, None)  # set before stickiness was: passed on as it is
    changes = stay.answer(answer(b"lang=de; Path=/", b"JSESSIONID=ab~c=; Path=/app; HttpOnly"), A, secure=True)
    assert changes is not None
    assert changes.removed == frozenset((b"set-cookie",))
    found = re.fullmatch(
        rb"Set-Cookie: lang=de; Path=/\r\nSet-Cookie: (JSESSIONID=[\w-]{16}~ab~c=); Path=/app; HttpOnly\r\n",
        changes.lines,
    )
    assert found is not None
    again = sticky.stay(request(b"a=1; " + found[1]))
    assert again.server == A
    assert again.request == Changes(frozenset((b"cookie",)), b"Cookie: a=1; JSESSIONID=ab~c=\r\n")
    assert again.answer(answer(b"lang=en"), A, secure=True) is None
    sticky.update(PREFIX, (B,))
    gone = sticky.stay(request(found[1]))
    assert gone.server is None
    assert gone.request == Changes(frozenset((b"cookie",)), b"Cookie: JSESSIONID=ab~c=\r\n")


@pytest.mark.parametrize("cookie", [b"XJSESSIONID=1", b"jsessionid=1", b"JSESSIONID", b"a=JSESSIONID=1"])
def test_other_cookies_of_servers_stay(cookie: bytes) -> None:
    assert made(PREFIX).stay(request()).answer(answer(cookie), A, secure=False) is None


def test_what_a_rule_takes_out_is_not_put_back() -> None:
    lines = Changes(frozenset((b"cookie",)), b"Cookie: a=1\r\n")
    gone, other = Changes(frozenset((b"cookie",)), b""), Changes(frozenset((b"x",)), b"Y: 1\r\n")
    assert merged(gone, lines) is gone
    assert merged(other, lines) == Changes(frozenset((b"x", b"cookie")), b"Y: 1\r\nCookie: a=1\r\n")
    assert merged(None, lines) is lines
    assert merged(other, None) is other


def test_the_secret_is_not_shown() -> None:
    assert SECRET.hex() not in repr(Seal(SECRET, Clock()))
    assert repr(SECRET)[2:-1] not in repr(Seal(SECRET, Clock()))
