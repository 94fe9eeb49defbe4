"""Fields on their way through: what is removed, replaced, appended."""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Network, IPv6Network

import pytest

from core.model import Listener, Protocol
from proxy import headers
from proxy.errors import Code, Refused
from proxy.head import read_request, read_response
from proxy.origin import Origin

STRANGER = Origin(b"198.51.100.7", b"https", b"443", False, b"l7-1")
TRUSTED = Origin(b"10.0.0.9", b"http", b"80", True, b"l7-1")
ADDED = [
    b"X-Forwarded-For: 198.51.100.7",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Port: 443",
    b"X-Real-IP: 198.51.100.7",
    b"Via: 1.1 l7-1",
    b"X-Request-Id: id",
]


def up(fields: bytes, origin: Origin = STRANGER, line: bytes = b"GET /x HTTP/1.1", upgrade: bytes = b"") -> list[bytes]:
    """The lines of the head that goes to the server for a request with these fields."""
    head = read_request(line + b"\r\nHost: a\r\n" + fields + b"\r\n")
    assert head is not None
    data = headers.request_head(head, head.target, origin, b"id", upgrade)
    assert data.endswith(b"\r\n\r\n")
    assert read_request(data) is not None
    return data[:-4].split(b"\r\n")


def down(
    fields: bytes, minor: int = 1, keep_alive: bool = True, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"GET"
) -> list[bytes]:
    head = read_response(line + b"\r\n" + fields + b"\r\n", method)
    assert head is not None
    data = headers.response_head(head, minor, keep_alive, b"l7-1", b"now")
    assert data.endswith(b"\r\n\r\n")
    return data[:-4].split(b"\r\n")


def test_a_plain_request() -> None:
    assert up(b"Accept: */*\r\nX-Custom:  v \r\n") == [
        b"GET /x HTTP/1.1", b"Host: a", b"Accept: */*", b"X-Custom: v", *ADDED,
    ]  # fmt: skip


def test_hop_by_hop_fields_end_here() -> None:
    """RFC 9110 §7.6.1."""
    fields = (
        b"Connection: keep-alive, X-Hop, TE\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nTE: trailers\r\n"
        b"Upgrade: h2c\r\nTrailer: x\r\nX-Hop: 1\r\nX-Stays: 1\r\n"
    )
    ours = [b"Connection: TE", b"TE: trailers"]  # RFC 9110 §10.1.4: anew, for our own connection
    assert up(fields) == [b"GET /x HTTP/1.1", b"Host: a", b"X-Stays: 1", *ours, *ADDED]
    assert up(fields.replace(b"TE: trailers", b"TE: gzip")) == [b"GET /x HTTP/1.1", b"Host: a", b"X-Stays: 1", *ADDED]


def test_connection_cannot_remove_what_matters() -> None:
    fields = b"Connection: Host, Content-Length, X-Forwarded-For, Via\r\nContent-Length: 3\r\n"
    assert up(fields) == [b"GET /x HTTP/1.1", b"Host: a", b"Content-Length: 3", *ADDED]


@pytest.mark.parametrize(
    ("fields", "framing"),
    [
        (b"Content-Length: 5\r\nContent-Length: 5\r\n", b"Content-Length: 5"),
        (b"content-length: 005\r\n", b"Content-Length: 5"),
        (b"transfer-encoding: Chunked\r\n", b"Transfer-Encoding: chunked"),
    ],
)
def test_the_framing_is_said_once_and_plainly(fields: bytes, framing: bytes) -> None:
    assert up(fields) == [b"GET /x HTTP/1.1", b"Host: a", framing, *ADDED]


CLAIMS = (
    b"X-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n"
    b"X-Real-IP: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\nX-Forwarded-Port: 8443\r\n"
)


def test_claims_of_strangers_are_replaced() -> None:
    assert up(CLAIMS) == [b"GET /x HTTP/1.1", b"Host: a", *ADDED]


def test_claims_of_trusted_proxies_are_kept_and_appended_to() -> None:
    assert up(CLAIMS, TRUSTED) == [
        b"GET /x HTTP/1.1", b"Host: a", b"X-Forwarded-Host: evil", b"X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.0.0.9",
        b"X-Forwarded-Proto: https", b"X-Forwarded-Port: 8443", b"X-Real-IP: 1.1.1.1",
        b"Forwarded: for=1.1.1.1, for=10.0.0.9;proto=http", b"Via: 1.1 l7-1", b"X-Request-Id: id",
    ]  # fmt: skip


def test_underscored_names_are_dropped() -> None:
    """A server that maps both to the same variable would take X_Forwarded_For for ours."""
    assert up(b"X_Forwarded_For: 1.1.1.1\r\nA_b: c\r\n") == [b"GET /x HTTP/1.1", b"Host: a", *ADDED]


def test_what_connection_names_in_an_answer_ends_here_with_an_underscore_too() -> None:
    found = down(b"Connection: x_hop, x-hop\r\nX_Hop: 1\r\nX-Hop: 1\r\nX_Stays: 1\r\nContent-Length: 0\r\n")
    assert [line for line in found if line.startswith(b"X")] == [b"X_Stays: 1"]


def test_trust() -> None:
    networks = (IPv4Network("10.0.0.0/8"),)
    assert headers.is_trusted("10.1.2.3", networks)
    assert not headers.is_trusted("11.1.2.3", networks)
    assert not headers.is_trusted("", networks)
    assert not headers.is_trusted("2001:db8::1", networks)
    assert headers.is_trusted("2001:db8::1", (*networks, IPv6Network("2001:db8::/32")))
    assert not headers.is_trusted("10.1.2.3", (IPv6Network("::/0"),))


def test_via_grows_and_finds_loops() -> None:
    """RFC 9110 §7.6.3."""
    assert b"Via: 1.0 a, 1.1 b (c), 1.1 l7-1" in up(b"Via: 1.0 a\r\nVia: 1.1 b (c)\r\n")
    assert b"Via: 1.0 l7-1" in up(b"", line=b"GET / HTTP/1.0")
    assert b"Via: 1.1 l7-10, 1.1 l7-1" in up(b"Via: 1.1 l7-10\r\n")
    with pytest.raises(Refused) as caught:
        up(b"Via: 1.1 other, HTTP/1.1 l7-1 (x)\r\n")
    assert caught.value.code is Code.LOOP


def test_an_expectation_in_http_1_0_is_ignored() -> None:
    """RFC 9110 §10.1.1."""
    expect = b"Expect: 100-continue\r\n"
    assert expect.strip() in up(expect)
    assert expect.strip() not in up(expect, line=b"GET / HTTP/1.0")


def test_upgrades() -> None:
    lines = up(b"Connection: Upgrade\r\nUpgrade: websocket\r\n", upgrade=b"websocket")
    assert lines[2:4] == [b"Connection: upgrade", b"Upgrade: websocket"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"X-Request-Id: abc-123\r\n", b"abc-123"),
        (b"", b""),
        (b"X-Request-Id: a b\r\n", b""),
        (b'X-Request-Id: "}\r\n', b""),
        (b"X-Request-Id: " + b"a" * 129 + b"\r\n", b""),
        (b"X-Request-Id: a\r\nX-Request-Id: b\r\n", b""),
    ],
)
def test_request_ids_are_passed_on_when_they_are_safe(fields: bytes, expected: bytes) -> None:
    head = read_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    assert head is not None
    assert headers.request_id(head.block) == expected


def test_a_plain_answer() -> None:
    assert down(b"Date: then\r\nContent-Length: 5\r\nX-A: b\r\nConnection: X-A\r\nVia: 1.1 inner\r\n") == [
        b"HTTP/1.1 200 OK", b"Date: then", b"Content-Length: 5", b"Via: 1.1 inner, 1.1 l7-1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "minor", "keep_alive", "tail"),
    [
        (b"Transfer-Encoding: chunked\r\n", 1, True, [b"Transfer-Encoding: chunked", b"Via: 1.1 l7-1"]),
        (b"", 1, True, [b"Transfer-Encoding: chunked", b"Via: 1.1 l7-1"]),
        (b"", 0, False, [b"Via: 1.1 l7-1", b"Connection: close"]),
        (b"Content-Length: 1\r\n", 0, True, [b"Content-Length: 1", b"Via: 1.1 l7-1", b"Connection: keep-alive"]),
        (b"Content-Length: 1\r\n", 1, False, [b"Content-Length: 1", b"Via: 1.1 l7-1", b"Connection: close"]),
    ],
)
def test_framing_towards_the_client(fields: bytes, minor: int, keep_alive: bool, tail: list[bytes]) -> None:
    assert down(fields, minor, keep_alive) == [b"HTTP/1.1 200 OK", b"Date: now", *tail]


def test_lengths_of_answers_without_a_body() -> None:
    assert b"Content-Length: 5" in down(b"Content-Length: 5\r\n", method=b"HEAD")
    assert b"Content-Length: 5" in down(b"Content-Length: 5\r\n", line=b"HTTP/1.1 304 Not Modified")
    assert down(b"Content-Length: 5\r\nDate: d\r\n", line=b"HTTP/1.1 204 No Content") == [
        b"HTTP/1.1 204 No Content", b"Date: d", b"Via: 1.1 l7-1",
    ]  # fmt: skip


PROXY_ERRORS = """
    dns_timeout dns_error destination_not_found destination_unavailable destination_ip_prohibited
    destination_ip_unroutable connection_refused connection_terminated connection_timeout connection_read_timeout
    connection_write_timeout connection_limit_reached tls_protocol_error tls_certificate_error tls_alert_received
    http_request_error http_request_denied http_response_incomplete http_response_header_section_size
    http_response_header_size http_response_body_size http_response_trailer_section_size http_response_trailer_size
    http_response_transfer_coding http_response_content_coding http_response_timeout http_upgrade_failed
    http_protocol_error proxy_internal_response proxy_internal_error proxy_configuration_error proxy_loop_detected
"""  # RFC 9209 §2.3


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_reply(code: Code) -> None:
    if code.status == 499:
        return
    data = headers.error_reply(code, code.status, b"id-1", b"l7-1", b"now", close=True, body=True)
    head = read_response(data, b"GET")
    assert head is not None
    assert head.status == code.status
    assert len(data) - head.size == head.length
    document = json.loads(data[head.size :])
    assert document.keys() == {"status", "source", "error", "detail", "request_id"}
    assert (document["error"], document["source"], document["request_id"]) == (code.label, code.source, "id-1")
    assert head.block.values(b"x-request-id") == [b"id-1"]
    (told,) = head.block.values(b"proxy-status")
    match = re.fullmatch(rb'"l7-1"; error=([a-z_]+); details="([a-z0-9_]+)"', told)
    assert match is not None
    assert match[1].decode() in PROXY_ERRORS.split()
    assert match[2].decode() == code.label
    by_server = headers.error_reply(code, 502, b"i", b"l7-1", b"d", close=True, body=True)
    assert (b'"source": "upstream"' in by_server) == (code.status != 502 or code.source == "upstream")
    assert (b"Allow: " in data) == (code.status == 405)
    assert headers.error_reply(code, code.status, b"i", b"n", b"d", close=False, body=False).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, b""),
        ({"hsts_include_subdomains": True}, b""),
        ({"hsts_max_age_s": 600}, b"max-age=600"),
        ({"hsts_max_age_s": 600, "hsts_include_subdomains": True}, b"max-age=600; includeSubDomains"),
        (
            {"hsts_max_age_s": 63072000, "hsts_include_subdomains": True, "hsts_preload": True},
            b"max-age=63072000; includeSubDomains; preload",
        ),
    ],
)
def test_strict_transport_security_is_said_once(options, line) -> None:
    """RFC 6797 §6.1 and 7.1: where the listener says it, the server's own is replaced; else it passes."""
    listener = Listener("web", "main", Protocol.HTTPS, 443, **options)
    hsts = headers.hsts_line(listener)
    assert hsts == (b"Strict-Transport-Security: %b\r\n" % line if line else b"")
    theirs = b"strict-transport-security: max-age=1"
    head = read_response(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: d\r\n%b\r\n\r\n" % theirs, b"GET")
    assert head is not None
    sent = headers.response_head(head, 1, True, b"l7-1", b"now", hsts)
    assert [each for each in sent.split(b"\r\n") if each.lower().startswith(b"strict")] == [hsts[:-2] or theirs]
    code = Code.NO_RULE
    data = headers.error_reply(code, code.status, b"i", b"n", b"d", close=False, body=False, hsts=hsts)
    reply = read_response(data, b"HEAD")
    assert reply is not None
    assert reply.block.values(b"strict-transport-security") == ([line] if line else [])


def test_strict_transport_security_in_a_request_passes() -> None:
    assert b"Strict-Transport-Security: x" in up(b"Strict-Transport-Security: x\r\n")


@pytest.mark.parametrize(("close", "hsts"), [(False, b""), (True, b"Strict-Transport-Security: max-age=1\r\n")])
def test_a_redirect_has_no_body(close, hsts) -> None:
    lines = headers.redirect_lines(b"https://a/")
    data = headers.plain_reply(308, lines, b"", b"id-1", b"l7-1", b"now", close=close, hsts=hsts)
    head = read_response(data, b"POST")
    assert head is not None
    assert (head.status, head.reason, head.length, head.size) == (308, b"Permanent Redirect", 0, len(data))
    assert head.block.keep_alive is not close
    assert head.block.values(b"location") == [b"https://a/"]
    assert head.block.values(b"x-request-id") == [b"id-1"]
    assert head.block.values(b"strict-transport-security") == ([b"max-age=1"] if hsts else [])


def test_a_reply_of_any_status() -> None:
    data = headers.plain_reply(599, b"Content-Length: 2\r\n", b"ok", b"id-1", b"l7-1", b"now", close=False, hsts=b"")
    head = read_response(data, b"GET")
    assert head is not None
    assert (head.status, head.reason, head.length, data[head.size :]) == (599, b"", 2, b"ok")


FORGED = (
    b"Client-Cert: :AAAA:\r\nclient-cert-chain: :AAAA:\r\nX-Forwarded-Client-Cert: By=me\r\n"
    b"x-forwarded-client-cert-subject: CN=root\r\nX-SSL-Client-Verify: SUCCESS\r\nx-ssl-client-dn: CN=root\r\n"
    b"Client_Cert: :AAAA:\r\nX_SSL_Client_DN: CN=root\r\n"
)
VERIFIED = b"Client-Cert: :TRUE:\r\nX-Forwarded-Client-Cert-Subject: CN=me\r\n"


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("identity", [None, b"", VERIFIED])
@pytest.mark.parametrize("connection", [b"", b"Connection: Client-Cert, X-Forwarded-Client-Cert-Subject\r\n"])
def test_nobody_can_forge_who_the_client_is(trusted, identity, connection) -> None:
    """Whom we trust may say it of his clients, unless we ask them ourselves."""
    origin = Origin(b"10.0.0.9", b"https", b"443", trusted, b"l7-1", identity)
    sent = [line for line in up(FORGED + connection, origin) if b"client" in line.lower()]
    if trusted and identity is None:
        assert sent == FORGED.split(b"\r\n")[:6]
    else:
        assert sent == (identity or b"").split(b"\r\n")[:-1]


def test_an_identity_stands_beside_claims() -> None:
    origin = Origin(b"10.0.0.9", b"https", b"443", True, b"l7-1", VERIFIED)
    sent = up(b"X-Forwarded-For: 1.2.3.4\r\n", origin)
    assert b"X-Forwarded-For: 1.2.3.4, 10.0.0.9" in sent
    assert sent[-4:-2] == VERIFIED.split(b"\r\n")[:-1]
