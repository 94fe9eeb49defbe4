"""Heads of HTTP/2: what they become, and that they say to a server what the same head of HTTP/1.1 says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import h2_message, head, headers
from proxy.errors import Code, Refused
from proxy.h2_message import read_request, trailer_lines
from proxy.hpack import Pair
from proxy.message import CHUNKED, NO_BODY, Outgoing, RequestHead
from proxy.origin import Origin
from proxy.policy import upgrades_to_websocket
from tests.proxy.h2_support import PLAIN, WEBSOCKET, with_fields

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ORIGINS = [Origin(b"192.0.2.1", b"https", b"443", trusted, b"l7-1") for trusted in (False, True)]


def read(fields: list[Pair], *, ended: bool = True) -> RequestHead:
    return read_request(fields, 10, ended=ended, new_key=lambda: KEY)


@pytest.mark.parametrize(
    ("fields", "ended", "length"),
    [
        ([], True, NO_BODY),
        ([], False, CHUNKED),
        ([(b"content-length", b"0")], True, 0),
        ([(b"content-length", b"5")], False, 5),
        ([(b"content-length", b"5"), (b"content-length", b"5")], False, 5),
    ],
)
def test_how_long_a_body_is(fields: list[Pair], ended: bool, length: int) -> None:
    assert read([*PLAIN, *fields], ended=ended).block.length == length


def test_pieces_of_a_cookie_are_one() -> None:
    got = read([*PLAIN, (b"a", b"1"), (b"cookie", b"x=1"), (b"b", b"2"), (b"cookie", b"y=2"), (b"cookie", b"z=3")])
    assert [(field.lower, field.value) for field in got.block.fields] == [
        (b"host", b"a"), (b"a", b"1"), (b"cookie", b"x=1; y=2; z=3"), (b"b", b"2"),
    ]  # fmt: skip


@pytest.mark.parametrize("hosts", [[], [b"a"], [b"A"]], ids=["none", "the same", "the same by its meaning"])
def test_who_is_asked(hosts: list[bytes]) -> None:
    assert read([*PLAIN, *((b"host", host) for host in hosts)]).host.lower() == b"a"


def test_host_may_stand_for_authority() -> None:
    assert read([*(pair for pair in PLAIN if pair[0] != b":authority"), (b"host", b"b")]).host == b"b"


def test_a_websocket_asks_to_upgrade_by_our_key() -> None:
    got = read([*WEBSOCKET, (b"sec-websocket-key", b"x"), (b"origin", b"y")], ended=False)
    assert (got.method, got.target, got.host, got.block.length) == (b"GET", b"/ws", b"a", NO_BODY)
    assert (got.block.values(b"sec-websocket-key"), got.block.upgrade) == ([KEY], b"websocket")
    assert upgrades_to_websocket(got)
    data = headers.request_head(got, got.target, ORIGINS[0], b"id", got.block.upgrade)
    assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in data
    assert data.count(b"sec-websocket-key: ") == 1


def test_what_is_refused_is_not_remembered() -> None:
    """Nor does what passed make way for it."""
    for _ in range(2):
        assert read([*PLAIN, (b"a", b"1")]).block.values(b"a") == [b"1"]
        with pytest.raises(Refused):
            read([*PLAIN, (b"a", b"1\r")])
    assert (b"a", b"1\r") not in h2_message._fields


def test_memory_is_bounded() -> None:
    for number in range(h2_message._REMEMBERED + 10):
        read([*PLAIN, (b"a", b"%d" % number)])
        assert len(h2_message._blocks) <= h2_message._REMEMBERED
        assert len(h2_message._fields) <= h2_message._REMEMBERED
    read([*PLAIN, (b"long", b"x" * 10_000)])
    assert (b"long", b"x" * 10_000) not in h2_message._fields


@pytest.mark.parametrize("fields", [[(b":status", b"1")], [(b"X", b"1")], [(b"a", b"\n")], [(b"connection", b"x")]])
def test_trailers_are_fields_like_others(fields: list[Pair]) -> None:
    with pytest.raises(Refused):
        trailer_lines(fields)
    assert trailer_lines([(b"x-sum", b"1"), (b"y", b"")]) == b"x-sum: 1\r\ny: \r\n"


NAMES = st.sampled_from(
    [b"accept", b"x-a", b"x_b", b"cookie", b"via", b"expect", b"x-forwarded-for", b"x-request-id", b"date", b"te",
     b"client-cert", b"forwarded", b"x-real-ip", b"content-length", b"user-agent", b"traceparent"]
)  # fmt: skip
VALUES = st.sampled_from(
    [b"", b"1", b"a b", b"a, b", b"trailers", b"100-continue", b"l7-1", b"2.0 l7-1", b"5", b"007", b"x=y; z"]
) | st.binary(max_size=6)
TARGETS = st.sampled_from([b"/", b"/a?b=c", b"*", b"/a%20b", b"/x#y", b"", b"x", b"/a b", b"//"])
METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"OPTIONS", b"TRACE", b"x", b"", b"A B"])
HOSTS = st.sampled_from([b"a", b"A.example:80", b"[::1]:443", b"", b"u@a", b"a b", b"a/b"])


def outgoing(got: RequestHead, origin: Origin) -> Outgoing | Code:
    try:
        return headers.outgoing(got, got.target, origin, b"id", b"")
    except Refused as refused:
        return refused.code


def said(read: str, *args: object, **options: object) -> RequestHead | Code | None:
    try:
        got: RequestHead | None = (head.read_request if read == "1" else h2_message.read_request)(*args, **options)  # type: ignore[arg-type]
    except Refused as refused:
        return refused.code
    return got


@given(METHODS, TARGETS, HOSTS, st.lists(st.tuples(NAMES, VALUES), max_size=5), st.sampled_from(ORIGINS))
def test_both_versions_say_the_same_to_a_server(
    method: bytes, target: bytes, host: bytes, fields: list[Pair], origin: Origin
) -> None:
    """What HTTP/1.1 refuses is refused; what HTTP/2 lets pass reaches a server as it would have by HTTP/1.1."""
    ended = not any(name == b"content-length" for name, _ in fields)
    pairs = with_fields((b":method", method), (b":path", target), (b":authority", host))
    new = said("2", [*pairs, *fields], 0, ended=ended, new_key=lambda: KEY)
    lines = b"".join(b"%b: %b\r\n" % pair for pair in h2_message._with_cookies_joined(fields))
    old = said("1", b"%b %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (method, target, host, lines))
    if not isinstance(old, RequestHead):
        assert isinstance(new, Code), (old, new)
    elif isinstance(new, RequestHead):
        expected, got = outgoing(old, origin), outgoing(new, origin)
        if isinstance(expected, Outgoing):
            assert isinstance(got, Outgoing)
            got = got._replace(ours=got.ours.replace(b"2.0 l7-1\r\nX-Req", b"1.1 l7-1\r\nX-Req"))
        assert got == expected
    else:
        known = {Code.SPACE_AROUND, Code.CONNECTION_FIELD, Code.TARGET, Code.LENGTH_WRONG, Code.CONTROL}
        assert new in known, (new, old)
