"""The policy of docs/proxy.md on message heads, row by row, and against h11 as a second opinion."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proxy.head
from proxy.errors import Code, Refused
from proxy.head import Limits, read_request, read_response
from proxy.memory import Memory
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE, RequestHead
from proxy.policy import upgrades_to_websocket


def request(fields: bytes = b"", line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + fields + b"\r\n"


def response(fields: bytes = b"", line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


CL, TE = b"Content-Length: ", b"Transfer-Encoding: "
HOSTILE = [
    # RFC 9112 §6.1, §6.3: both ways of framing
    ("CL and TE", request(CL + b"5\r\n" + TE + b"chunked\r\n"), Code.LENGTH_AND_CODING),
    ("TE and CL", request(TE + b"chunked\r\n" + CL + b"5\r\n"), Code.LENGTH_AND_CODING),
    ("CL and TE, case", request(b"content-LENGTH: 5\r\ntransfer-ENCODING: Chunked\r\n"), Code.LENGTH_AND_CODING),
    ("TE in 1.0", request(TE + b"chunked\r\n", b"POST / HTTP/1.0"), Code.CODING_1_0),
    # RFC 9112 §6.1, §6.3, §7: transfer codings
    ("chunked not last", request(TE + b"chunked, gzip\r\n"), Code.CHUNKED_NOT_LAST),
    ("chunked twice", request(TE + b"chunked, chunked\r\n"), Code.CHUNKED_NOT_LAST),
    ("chunked in two fields", request((TE + b"chunked\r\n") * 2), Code.CHUNKED_NOT_LAST),
    ("empty coding", request(TE + b"\r\n"), Code.CHUNKED_NOT_LAST),
    ("unknown coding", request(TE + b"gzip, chunked\r\n"), Code.CODING_UNKNOWN),
    ("identity", request(TE + b"identity\r\n"), Code.CODING_UNKNOWN),
    ("nearly chunked", request(TE + b"xchunked\r\n"), Code.CODING_UNKNOWN),
    ("quoted chunked", request(TE + b'"chunked"\r\n'), Code.CODING_UNKNOWN),
    ("chunked with a vertical tab", request(TE + b"\x0bchunked\r\n"), Code.CONTROL),
    # RFC 9110 §8.6: Content-Length = 1*DIGIT
    *(
        (f"length {text!r}", request(CL + text + b"\r\n"), Code.LENGTH)
        for text in (b"+1", b"-1", b"1_0", b"0x1", b"", b"1,1", b"5, 5", b"1 0", b"\xb2", b"1.0", b"1" * 19)
    ),
    ("lengths differ", request(CL + b"5\r\n" + CL + b"6\r\n"), Code.LENGTHS_DIFFER),
    # RFC 9112 §2.2: line ends; §5.1, §5.2: fields; RFC 9110 §5.5: field values
    ("bare LF", b"GET / HTTP/1.1\nHost: a\n\n", Code.BARE_LF),
    ("bare LF between fields", request(b"A: b\nC: d\r\n"), Code.BARE_LF),
    ("bare CR", request(b"A: b\rC: d\r\n"), Code.BARE_CR),
    ("CR CR LF", request(b"A: b\r\r\n"), Code.BARE_CR),
    ("bare CR in the request line", b"GET /\rX HTTP/1.1\r\nHost: a\r\n\r\n", Code.BARE_CR),
    ("NUL in a value", request(b"A: b\0c\r\n"), Code.CONTROL),
    ("NUL in a name", request(b"A\0: b\r\n"), Code.CONTROL),
    ("DEL in a value", request(b"A: \x7f\r\n"), Code.CONTROL),
    ("escape in a value", request(b"A: \x1b[1m\r\n"), Code.CONTROL),
    ("obs-fold", request(b"A: b\r\n c\r\n"), Code.OBS_FOLD),
    ("obs-fold by tab", request(b"A: b\r\n\tc\r\n"), Code.OBS_FOLD),
    ("first field folded", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Code.OBS_FOLD),
    ("space before the colon", request(b"A : b\r\n"), Code.SPACE_COLON),
    ("tab before the colon", request(b"A\t: b\r\n"), Code.SPACE_COLON),
    ("empty name", request(b": b\r\n"), Code.FIELD_NAME),
    ("no colon", request(b"A\r\n"), Code.FIELD_NAME),
    ("name is no token", request(b"A(b): c\r\n"), Code.FIELD_NAME),
    ("name not ASCII", request(b"\xc3\xa9: c\r\n"), Code.FIELD_NAME),
    # RFC 9112 §3.2: Host and the target
    ("no Host", request(host=b""), Code.HOST_MISSING),
    ("two Hosts", request(b"Host: a\r\n"), Code.HOST_REPEATED),
    ("empty Host", request(host=b"Host:\r\n"), Code.HOST_INVALID),
    *(
        (f"Host {text!r}", request(host=b"Host: " + text + b"\r\n"), Code.HOST_INVALID)
        for text in (b"a b", b"a/b", b"u@a", b"a:b", b"a:1:2", b"a,b", b"[::1", b"a?b", b"a#b", b"a\\b", b"\xe9")
    ),
    ("target without slash", request(line=b"GET x HTTP/1.1"), Code.TARGET),
    ("star for GET", request(line=b"GET * HTTP/1.1"), Code.TARGET),
    ("fragment", request(line=b"GET /a#b HTTP/1.1"), Code.TARGET),
    ("foreign scheme", request(line=b"GET ftp://a/ HTTP/1.1"), Code.TARGET),
    ("user in an absolute target", request(line=b"GET http://u@a/ HTTP/1.1"), Code.HOST_INVALID),
    ("absolute target without host", request(line=b"GET http:///x HTTP/1.1"), Code.HOST_INVALID),
    # RFC 9110 §9.3
    ("CONNECT", request(line=b"CONNECT a:443 HTTP/1.1"), Code.METHOD),
    ("TRACE", request(line=b"TRACE / HTTP/1.1"), Code.METHOD),
    # RFC 9112 §3, RFC 9110 §2.5
    ("version 2.0", request(line=b"GET / HTTP/2.0"), Code.VERSION),
    ("version 9.9", request(line=b"GET / HTTP/9.9"), Code.VERSION),
    ("version 0.9", request(line=b"GET / HTTP/0.9"), Code.VERSION),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Code.VERSION),
    *(
        (f"line {line!r}", request(line=line), Code.REQUEST_LINE)
        for line in (
            b"GET /", b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ", b" GET / HTTP/1.1", b"GET\t/ HTTP/1.1",
            b"GET / http/1.1", b"GET / HTTP/1.10", b"GET / HTTP/01.1", b"GET / HTTP/1,1", b"G(T / HTTP/1.1",
            b"GET /\xff HTTP/1.1", b"GET /a b HTTP/1.1", b"",
        )
    ),
    # RFC 9110 §10.1.1
    ("unknown expectation", request(b"Expect: 200-ok\r\n"), Code.EXPECTATION),
    ("two expectations", request(b"Expect: 100-continue, x\r\n"), Code.EXPECTATION),
]  # fmt: skip


@pytest.mark.parametrize(("data", "code"), [pytest.param(data, code, id=name) for name, data, code in HOSTILE])
def test_hostile_requests_are_refused(data: bytes, code: Code) -> None:
    with pytest.raises(Refused) as caught:
        read_request(data)
    assert caught.value.code is code
    assert 0 <= caught.value.offset <= len(data)


@pytest.mark.parametrize(("data", "code"), [pytest.param(data, code, id=name) for name, data, code in HOSTILE])
def test_hostile_requests_are_refused_byte_by_byte(data: bytes, code: Code) -> None:
    def drip() -> None:
        for size in range(1, len(data) + 1):
            assert read_request(data[:size], size - 1) is None

    with pytest.raises(Refused):
        drip()


def test_a_refusal_says_where() -> None:
    with pytest.raises(Refused, match=r"NUL or other control character \(RFC 9110 §5.5\), byte 29"):
        read_request(request(b"A: b\0c\r\n"))


LINE = b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("before", "culprit", "after"),
    [
        (LINE + b"Host: a\r\nContent-Length: 5\r\n", b"Transfer-Encoding: chunked", b"\r\nX: y\r\n\r\n"),
        (LINE + b"Host: a\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 5", b"\r\n\r\n"),
        (LINE + b"Host: a\r\nX: y\r\n", b"content-length: +1", b"\r\nX: y\r\n\r\n"),
        (LINE + b"Host: a\r\nContent-Length: 5\r\n", b"Content-Length: 6", b"\r\n\r\n"),
        (LINE + b"Host: a\r\n", b"Transfer-Encoding: chunked, gzip", b"\r\n\r\n"),
        (LINE + b"Host: a\r\n", b"Transfer-Encoding: gzip", b"\r\nX: y\r\n\r\n"),
        (b"GET / HTTP/1.0\r\nX: y\r\n", b"Transfer-Encoding: chunked", b"\r\n\r\n"),
        (LINE + b"Host: a\r\nX: y\r\n", b"Host: b", b"\r\n\r\n"),
        (LINE + b"X: y\r\n", b"Host: a b", b"\r\nX: y\r\n\r\n"),
        (LINE + b"Host: a\r\n", b"Expect: x", b"\r\nX: y\r\n\r\n"),
        (LINE + b"Host: a\r\n", b" X: folded", b"\r\n\r\n"),
        (LINE + b"Host: a\r\n", b"X : y", b"\r\n\r\n"),
        (LINE + b"Host: a\r\n", b"(: y", b"\r\n\r\n"),
        (LINE + b"Host: a\r\nX: ", b"\n", b"Y: z\r\n\r\n"),
        (LINE + b"Host: a\r\nX: ", b"\r", b"Y: z\r\n\r\n"),
        (LINE + b"Host: a\r\n" + b"X: y\r\n" * 127, b"X: the 129th", b"\r\n\r\n"),
        (b"GET /", b"\0", b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (b"GET ", b"x HTTP/1.1", b"\r\nHost: a\r\n\r\n"),
        (b"GET http://", b"u@b/", b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (b"GET /x", b"#y", b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (b"GET / ", b"HTTP/3.0", b"\r\nHost: a\r\n\r\n"),
        (b"\r\n", b"GET /", b"\r\nHost: a\r\n\r\n"),
    ],
    ids=lambda part: part.decode("latin-1").strip()[-30:] if len(part) < 40 else None,
)
def test_the_offset_is_that_of_the_culprit(before: bytes, culprit: bytes, after: bytes) -> None:
    for ahead in (b"", b"\r\n" if before.startswith(b"GET") else b""):
        with pytest.raises(Refused) as caught:
            read_request(ahead + before + culprit + after)
        assert caught.value.offset == len(ahead + before)


@pytest.mark.parametrize(
    ("before", "culprit"),
    [
        (b"HTTP/1.1 200 Fine\r\nX: y\r\n", b"Content-Length: 1, 1"),
        (b"HTTP/1.0 200\r\nX: y\r\n", b"Transfer-Encoding: chunked"),
        (b"HTTP/1.1 200 \r\nX: y\r\n", b"X : y"),
    ],
)
def test_the_offset_in_an_answer_is_that_of_the_culprit(before: bytes, culprit: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read_response(before + culprit + b"\r\n\r\n", b"GET")
    assert caught.value.offset == len(before)


def test_where_the_path_stands() -> None:
    assert read(request(line=b"GET /%00 HTTP/1.1")).path_at == 4
    assert read(request(line=b"GET http://b/%00 HTTP/1.1")).path_at == 12


def test_a_bare_lf_is_refused_before_the_head_is_complete() -> None:
    with pytest.raises(Refused) as caught:
        read_request(b"GET / HTTP/1.1\nHo")
    assert (caught.value.code, caught.value.offset) == (Code.BARE_LF, 14)


def test_a_request() -> None:
    data = b"POST /a?b=c HTTP/1.1\r\nHost: Example.com:80\r\nX-a:  b c \t\r\nContent-Length: 5\r\n\r\n"
    head = read_request(data + b"hello")
    assert head is not None
    assert (head.method, head.target, head.host, head.size) == (b"POST", b"/a?b=c", b"Example.com:80", len(data))
    assert tuple(field[:3] for field in head.block.fields) == (
        (b"host", b"Host", b"Example.com:80"),
        (b"x-a", b"X-a", b"b c"),
        (b"content-length", b"Content-Length", b"5"),
    )
    assert head.block.length == 5
    assert head.block.keep_alive


def test_a_request_byte_by_byte() -> None:
    data = request(b"A: b\r\nContent-Length: 5\r\n")
    for size in range(len(data)):
        assert read_request(data[:size], max(0, size - 1)) is None
    assert read_request(data, len(data) - 1) == read_request(data)


def test_an_answer_byte_by_byte() -> None:
    data = response(b"A: b\r\nContent-Length: 5\r\n")
    for size in range(len(data)):
        assert read_response(data[:size], b"GET", max(0, size - 1)) is None
    assert read_response(data, b"GET", len(data) - 1) == read_response(data, b"GET")


def read(data: bytes) -> RequestHead:
    head = read_request(data)
    assert head is not None
    return head


@pytest.mark.parametrize(
    ("line", "host", "target"),
    [
        (b"GET http://b:8080/x?y HTTP/1.1", b"b:8080", b"/x?y"),
        (b"GET HTTPS://b HTTP/1.1", b"b", b"/"),
        (b"GET http://b?q HTTP/1.1", b"b", b"/?q"),
        (b"OPTIONS * HTTP/1.1", b"a", b"*"),
        (b"OPTIONS http://b HTTP/1.1", b"b", b"*"),
        (b"GET //x HTTP/1.1", b"a", b"//x"),
    ],
)
def test_targets(line: bytes, host: bytes, target: bytes) -> None:
    """RFC 9112 §3.2: an absolute target overrides Host."""
    head = read(request(line=line))
    assert (head.host, head.target) == (host, target)


@pytest.mark.parametrize(
    ("minor", "fields", "keep_alive"),
    [
        (1, b"", True),
        (1, b"Connection: close\r\n", False),
        (1, b"Connection: keep-alive, Close\r\n", False),
        (0, b"", False),
        (0, b"Connection: Keep-Alive\r\n", True),
    ],
)
def test_keep_alive(minor: int, fields: bytes, keep_alive: bool) -> None:
    assert read(request(fields, b"GET / HTTP/1.%d" % minor)).block.keep_alive is keep_alive


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (b"", NO_BODY),
        (CL + b"0\r\n", 0),
        (CL + b"007\r\n", 7),
        (CL + b"5\r\n" + CL + b"5\r\n", 5),
        (TE + b"Chunked \r\n", CHUNKED),
    ],
)
def test_framing(fields: bytes, length: int) -> None:
    assert read(request(fields)).block.length == length


def test_limits() -> None:
    """RFC 9112 §3: request lines of 8,000 bytes are supported."""
    assert read(request(line=b"GET /%b HTTP/1.1" % (b"a" * 8000)))
    with pytest.raises(Refused) as caught:
        read_request(b"GET /" + b"a" * 16_380)
    assert caught.value.code is Code.TARGET_LONG
    with pytest.raises(Refused) as caught:
        read_request(request(line=b"GET /%b HTTP/1.1" % (b"a" * 20_000)))
    assert caught.value.code is Code.TARGET_LONG
    with pytest.raises(Refused) as caught:
        read_request(request(b"A: b\r\n" * 128))
    assert caught.value.code is Code.FIELDS_MANY
    for data in (request(b"A: " + b"b" * 70_000 + b"\r\n"), request(b"A: " + b"b" * 70_000)[:-2]):
        with pytest.raises(Refused) as caught:
            read_request(data)
        assert caught.value.code is Code.HEAD_LARGE
    assert read_request(request(b"A: b\r\n" * 2), limits=Limits(fields=3)) is not None


def test_one_empty_line_before_a_request_is_ignored() -> None:
    assert read(b"\r\n" + request()).size == len(request()) + 2
    with pytest.raises(Refused):
        read_request(b"\r\n\r\n" + request())


def test_http_1_0_needs_no_host() -> None:
    assert read(b"GET / HTTP/1.0\r\n\r\n").host == b""


UPGRADE = b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n"
KEY, VERSION = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"Sec-WebSocket-Version: 13\r\n"


def test_websocket_openings() -> None:
    """RFC 6455 §4.1; RFC 9110 §7.8: ignored in HTTP/1.0 and where Connection does not name it."""
    assert upgrades_to_websocket(read(request(UPGRADE + KEY + VERSION)))
    assert not upgrades_to_websocket(read(request(UPGRADE + KEY + VERSION, b"GET / HTTP/1.0")))
    assert not upgrades_to_websocket(read(request(b"Upgrade: websocket\r\n" + KEY + VERSION)))
    assert not upgrades_to_websocket(read(request(b"Connection: upgrade\r\nUpgrade: h2c\r\n")))
    for broken in (
        request(UPGRADE + VERSION),
        request(UPGRADE + KEY),
        request(UPGRADE + KEY + KEY + VERSION),
        request(UPGRADE + VERSION + b"Sec-WebSocket-Key: short\r\n"),
        request(UPGRADE + KEY + VERSION, b"POST / HTTP/1.1"),
        request(UPGRADE + KEY + VERSION + CL + b"3\r\n"),
    ):
        with pytest.raises(Refused) as caught:
            upgrades_to_websocket(read(broken))
        assert caught.value.code is Code.UPGRADE


@pytest.mark.parametrize(
    ("data", "method", "length"),
    [
        (response(CL + b"5\r\n"), b"GET", 5),
        (response(CL + b"5\r\n"), b"HEAD", NO_BODY),
        (response(TE + b"chunked\r\n"), b"GET", CHUNKED),
        (response(), b"GET", UNTIL_CLOSE),
        (response(line=b"HTTP/1.1 204 No Content"), b"GET", NO_BODY),
        (response(CL + b"5\r\n", b"HTTP/1.1 304 Not Modified"), b"GET", NO_BODY),
        (response(line=b"HTTP/1.1 100 Continue"), b"POST", NO_BODY),
    ],
)
def test_what_ends_an_answer(data: bytes, method: bytes, length: int) -> None:
    """RFC 9112 §6.3."""
    head = read_response(data + b"rest", method)
    assert head is not None
    assert (head.length, head.size) == (length, len(data))


def test_status_lines() -> None:
    for line, status, reason in (
        (b"HTTP/1.1 200 OK", 200, b"OK"),
        (b"HTTP/1.0 404 ", 404, b""),
        (b"HTTP/1.1 599", 599, b""),
        (b"HTTP/1.1 200 d\xe9j\xe0 vu", 200, b"d\xe9j\xe0 vu"),
    ):
        head = read_response(response(line=line), b"GET")
        assert head is not None
        assert (head.status, head.reason) == (status, reason)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (response(line=b"HTTP/1.1 20 OK"), Code.STATUS_LINE),
        (response(line=b"HTTP/1.1  200 OK"), Code.STATUS_LINE),
        (response(line=b"HTTP/2.0 200 OK"), Code.STATUS_LINE),
        (response(line=b"HTTP/1.2 200 OK"), Code.STATUS_LINE),
        (response(line=b"HTTP/1.1 099 OK"), Code.STATUS_LINE),
        (response(line=b"ICY 200 OK"), Code.STATUS_LINE),
        (response(line=b"HTTP/1.1 200 O\0K"), Code.CONTROL),
        (response(CL + b"5\r\n" + TE + b"chunked\r\n"), Code.LENGTH_AND_CODING),
        (response(CL + b"5\r\n" + CL + b"6\r\n"), Code.LENGTHS_DIFFER),
        (response(CL + b"-5\r\n"), Code.LENGTH),
        (response(TE + b"gzip\r\n"), Code.CODING_UNKNOWN),
        (response(TE + b"chunked\r\n", b"HTTP/1.0 200 OK"), Code.CODING_1_0),
        (response(b"A: b\r\n c\r\n"), Code.OBS_FOLD),
        (b"HTTP/1.1 200 OK\nA: b\n\n", Code.BARE_LF),
    ],
)
def test_hostile_answers_are_refused(data: bytes, code: Code) -> None:
    with pytest.raises(Refused) as caught:
        read_response(data, b"GET")
    assert caught.value.code is code


def test_a_block_is_judged_once() -> None:
    first, second = read(request(b"X: 1\r\n")), read(request(b"X: 1\r\n", b"HEAD /other HTTP/1.1"))
    assert first.block is second.block


# Pieces that heads are made of, whole and broken, so that random sequences come close to real ones.
PIECES = st.sampled_from(
    [
        b"GET", b"POST", b" ", b"/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b"\t", b":",
        b": ", b"Host", b"a", b"Host: a\r\n", b"Content-Length", b"5", b"Content-Length: 5\r\n", b"Transfer-Encoding",
        b"chunked", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n", b",",
        b"Upgrade", b"\xff", b"GET / HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 200 OK\r\n", b"%00", b"http://b/", b"*",
    ]
)  # fmt: skip
MESSAGES = st.lists(PIECES | st.binary(max_size=3), max_size=20).map(b"".join)


@given(MESSAGES)
@settings(max_examples=600, deadline=None)
def test_only_documented_outcomes(data: bytes) -> None:
    for reading in (lambda: read_request(data), lambda: read_response(data, b"GET")):
        try:
            head = reading()
        except Refused as refused:
            assert 0 <= refused.offset <= len(data)  # noqa: PT017 - most examples raise nothing
        else:
            assert head is None or head.size <= len(data)


@given(MESSAGES.map(lambda data: b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"))
@settings(max_examples=600, deadline=None)
def test_what_we_accept_h11_reads_the_same(data: bytes) -> None:
    """Two readers that disagree on a message are how requests are smuggled: so whatever passes here means the same."""
    try:
        head = read_request(data)
    except Refused:
        return
    assert head is not None
    other = h11.Connection(h11.SERVER)
    other.receive_data(data[: head.size])
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.http_version) == (head.method, b"1.%d" % head.block.minor)
    ours = [(lower, value) for lower, _, value, *_ in head.block.fields if lower != b"transfer-encoding"]
    theirs = [(name, value) for name, value in event.headers if name != b"transfer-encoding"]
    assert list(dict.fromkeys(ours)) == list(dict.fromkeys(theirs))


def verdict(data: bytes, *, common: bool | None = None) -> object:
    """What becomes of a request, on one path (`common`) or on the path that its shape takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy.head, "_requests", Memory())
        if common is not None:
            patch.setattr(proxy.head, "_is_common", lambda *_args, **_named: common)
        try:
            head = read_request(data)
        except Refused as refused:
            return refused.code, refused.offset
    assert head is not None
    once = tuple(dict.fromkeys(head.block.fields))  # h11 gives a repeated Content-Length once
    return head._replace(block=head.block._replace(fields=once, acted_on=()))


@given(MESSAGES.map(lambda data: b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"))
@settings(max_examples=600, deadline=None)
def test_both_paths_come_to_the_same_verdict(data: bytes) -> None:
    assert verdict(data, common=True) == verdict(data, common=False)


def verdict_on_answer(data: bytes, *, common: bool) -> object:
    """What becomes of an answer to a GET on one path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxy.head, "_responses", Memory())
        patch.setattr(proxy.head, "_is_common", lambda *_args, **_named: common)
        try:
            head = read_response(data, b"GET")
        except Refused as refused:
            return refused.code, refused.offset
    assert head is not None
    once = tuple(dict.fromkeys(head.block.fields))
    return head._replace(block=head.block._replace(fields=once, acted_on=()))


STATUSES = st.sampled_from([b"200 OK", b"204 No Content", b"304 Not Modified", b"101 Go on", b"103 Hints", b"599"])


@given(STATUSES, st.sampled_from([b"0", b"1"]), MESSAGES)
@settings(max_examples=400, deadline=None)
def test_both_paths_come_to_the_same_verdict_on_answers(status: bytes, minor: bytes, data: bytes) -> None:
    answer = b"HTTP/1." + minor + b" " + status + b"\r\nA: b\r\n" + data + b"\r\n\r\n"
    assert verdict_on_answer(answer, common=True) == verdict_on_answer(answer, common=False)


@given(STATUSES, st.sampled_from([b"GET", b"HEAD"]), MESSAGES)
@settings(max_examples=400, deadline=None)
def test_what_we_accept_of_answers_h11_frames_the_same(status: bytes, method: bytes, data: bytes) -> None:
    """RFC 9112 §6.3: both end the body at the same byte."""
    answer = b"HTTP/1.1 " + status + b"\r\nA: b\r\n" + data + b"\r\n\r\n"
    try:
        head = read_response(answer, method)
    except Refused:
        return
    assert head is not None
    if head.status < 200:  # h11 takes 101 for an error where nobody asked for it
        return
    other = h11.Connection(h11.CLIENT)
    other.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    other.send(h11.EndOfMessage())
    body = answer[head.size :]
    other.receive_data(answer[: head.size])
    event = other.next_event()
    assert isinstance(event, h11.Response)
    assert event.status_code == head.status
    length = 0 if head.length == NO_BODY else head.length
    if length == UNTIL_CLOSE:
        assert other.next_event() is h11.NEED_DATA
        other.receive_data(b"x" * 100)
        assert isinstance(other.next_event(), h11.Data)
        assert other.next_event() is h11.NEED_DATA
    elif length == CHUNKED:
        other.receive_data(b"1\r\nx\r\n0\r\n\r\n")
        assert isinstance(other.next_event(), h11.Data)
        assert isinstance(other.next_event(), h11.EndOfMessage)
    elif length < 1 << 20:
        other.receive_data(b"x" * length + body)
        if length:
            assert isinstance(other.next_event(), h11.Data)
        assert isinstance(other.next_event(), h11.EndOfMessage)


UNCOMMON = [
    (b"Transfer-Encoding: chunked\r\n", b"GET / HTTP/1.1"),
    (b"Expect: 100-continue\r\n", b"POST / HTTP/1.1"),
    (b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"GET / HTTP/1.1"),
    (b"X-Name: \xe9\r\n", b"GET / HTTP/1.1"),
    (b"", b"GET / HTTP/1.0"),
]


@pytest.mark.parametrize(("fields", "line"), UNCOMMON)
def test_what_h11_does_not_read_is_refused(fields: bytes, line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_connection: h11.Connection) -> None:
        raise h11.RemoteProtocolError("not for me")

    assert isinstance(verdict(request(fields, line)), RequestHead)
    monkeypatch.setattr(h11.Connection, "next_event", refuse)
    assert verdict(request(fields, line)) == (Code.SECOND_READER, line.index(b"HTTP"))
    assert isinstance(verdict(request()), RequestHead)  # the common shape is not its business


def test_answers_of_uncommon_shape_are_read_by_h11(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy.head, "_responses", Memory())
    data = response(b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"HTTP/1.1 101 Switching Protocols")
    head = read_response(data, b"GET")
    assert head is not None
    assert (head.status, head.block.upgrade) == (101, b"websocket")


@given(MESSAGES, st.integers(0, 200))
@settings(max_examples=300, deadline=None)
def test_cutting_a_head_in_two_changes_nothing(data: bytes, cut: int) -> None:
    def outcome(*sizes: int) -> object:
        scanned = 0
        try:
            for size in sizes:
                head = read_request(data[:size], scanned)
                scanned = min(size, len(data))
                if head is not None:
                    return head.method, head.target, head.host, head.block, head.size
        except Refused:
            return "refused"
        return None

    assert outcome(cut, len(data)) == outcome(len(data))
