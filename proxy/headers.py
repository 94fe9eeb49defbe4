"""Fields on their way through us: what is taken out, what is put in, towards the server and towards the client.

Hop-by-hop fields end here (RFC 9110 §7.6.1): Connection and what it names, Keep-Alive, Proxy-Connection, TE, Upgrade,
Transfer-Encoding; our own follow. What a client claims about where it comes from counts only when its address is
trusted: otherwise X-Forwarded-*, X-Real-IP and Forwarded are replaced. Names keep their case, fields their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address
from typing import Final

from proxy.errors import Code, Refused
from proxy.head import CHUNKED, UNTIL_CLOSE, Block, Field, RequestHead, ResponseHead

HOP_BY_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade", b"transfer-encoding")
)
# RFC 9110 §7.6.1: a Connection option must not remove these, or a client could strip what we or the server rely on.
NEVER_REMOVED: Final = frozenset((b"host", b"content-length", b"via", b"x-request-id", b"x-real-ip", b"forwarded"))
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")
_REASONS: Final = {
    400: b"Bad Request", 404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout",
    414: b"URI Too Long", 417: b"Expectation Failed", 431: b"Request Header Fields Too Large",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported", 508: b"Loop Detected",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a client connection comes from and where it arrived: the peer, our scheme and port, our name in Via."""

    client: bytes
    scheme: bytes
    port: bytes
    trusted: bool
    node: bytes


def is_trusted(client: str, networks: Iterable[IPv4Network]) -> bool:
    """Whether a peer's word about earlier hops counts."""
    try:
        address = ip_address(client)
    except ValueError:
        return False
    return any(address in network for network in networks)


def request_id(block: Block) -> bytes:
    """The request id that the client sent, if it sent one that is safe to log and pass on."""
    ids = block.values(b"x-request-id")
    return ids[0] if len(ids) == 1 and _REQUEST_ID.fullmatch(ids[0]) else b""


def request_head(head: RequestHead, target: bytes, origin: Origin, identifier: bytes, upgrade: bytes) -> bytes:
    """The head that goes to the server. `target` is in normal form. Raises Refused when the request is in a loop."""
    block = head.block
    lines = [b"%b %b HTTP/1.1\r\nHost: %b" % (head.method, target, head.host)]
    vias: list[bytes] = []
    claims: dict[bytes, list[bytes]] = {}
    removed = _removed(block)
    for lower, name, value in block.fields:
        if lower in removed or lower in (b"host", b"content-length", b"x-request-id") or b"_" in lower:
            continue
        if lower == b"via":
            vias.append(value)
        elif lower.startswith(b"x-forwarded-") or lower in (b"x-real-ip", b"forwarded"):
            if origin.trusted:
                claims.setdefault(lower, []).append(value)
                if lower not in _ORIGIN_FIELDS:
                    lines.append(b"%b: %b" % (name, value))
        else:
            lines.append(b"%b: %b" % (name, value))
    if block.length >= 0:
        lines.append(b"Content-Length: %d" % block.length)
    elif block.length == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked")
    if upgrade:
        lines.append(b"Connection: upgrade\r\nUpgrade: %b" % upgrade)
    _add_origin(lines, claims, origin)
    lines.append(b"Via: " + _via(vias, block.minor, origin.node))
    lines.append(b"X-Request-Id: %b\r\n\r\n" % identifier)
    return b"\r\n".join(lines)


_ORIGIN_FIELDS: Final = frozenset(
    (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-port", b"x-real-ip", b"forwarded")
)


def _add_origin(lines: list[bytes], claims: dict[bytes, list[bytes]], origin: Origin) -> None:
    """X-Forwarded-For and Forwarded grow by a hop; the others keep what the first trusted hop said."""
    if not claims:
        lines.append(
            b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Port: %b\r\nX-Real-IP: %b"
            % (origin.client, origin.scheme, origin.port, origin.client)
        )
        return
    hops = [*claims.get(b"x-forwarded-for", ()), origin.client]
    lines.append(b"X-Forwarded-For: " + b", ".join(hops))
    for lower, name, ours in (
        (b"x-forwarded-proto", b"X-Forwarded-Proto", origin.scheme),
        (b"x-forwarded-port", b"X-Forwarded-Port", origin.port),
        (b"x-real-ip", b"X-Real-IP", origin.client),
    ):
        lines.append(b"%b: %b" % (name, claims.get(lower, [ours])[0]))
    if b"forwarded" in claims:  # RFC 7239 §4
        hop = b"for=%b;proto=%b" % (origin.client, origin.scheme)
        lines.append(b"Forwarded: " + b", ".join([*claims[b"forwarded"], hop]))


def _removed(block: Block) -> frozenset[bytes]:
    return HOP_BY_HOP | (block.connection - NEVER_REMOVED) if block.connection else HOP_BY_HOP


def _via(values: list[bytes], minor: int, node: bytes) -> bytes:
    """RFC 9110 §7.6.3: the received protocol and our name, after those of earlier hops."""
    entries = [entry.split() for value in values for entry in value.split(b",")]
    if any(len(entry) > 1 and entry[1] == node for entry in entries):
        raise Refused(Code.LOOP)
    return b", ".join([*values, b"1.%d %b" % (minor, node)])


def response_head(head: ResponseHead, client_minor: int, keep_alive: bool, node: bytes, date: bytes) -> bytes:
    """The head that goes to the client; chunked where the length is unknown and the client can read it."""
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    removed = _removed(head.block)
    vias: list[bytes] = []
    dated = False
    for lower, name, value in head.block.fields:
        if lower in removed or lower == b"content-length":
            continue
        if lower == b"via":
            vias.append(value)
        else:
            dated = dated or lower == b"date"
            lines.append(b"%b: %b" % (name, value))
    if not dated:
        lines.append(b"Date: " + date)  # RFC 9110 §6.6.1
    lines += _framing(head, client_minor)
    lines.append(b"Via: " + b", ".join([*vias, b"1.%d %b" % (head.block.minor, node)]))
    if not keep_alive:
        lines.append(b"Connection: close")
    elif client_minor == 0:
        lines.append(b"Connection: keep-alive")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _framing(head: ResponseHead, client_minor: int) -> list[bytes]:
    """Content-Length where the server gave one (also to HEAD and 304: it is the length of the answer not sent)."""
    if head.block.length >= 0 and head.status >= 200 and head.status != 204:
        return [b"Content-Length: %d" % head.block.length]
    if head.length in (CHUNKED, UNTIL_CLOSE) and client_minor == 1:
        return [b"Transfer-Encoding: chunked"]
    return []


def informational_head(head: ResponseHead, node: bytes, upgrade: bytes = b"") -> bytes:
    """A 1xx answer; with `upgrade`, the 101 that opens a tunnel."""
    removed = _removed(head.block) | {b"content-length"}
    kept: list[Field] = [field for field in head.block.fields if field[0] not in removed]
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason), *(b"%b: %b" % (name, value) for _, name, value in kept)]
    if upgrade:
        lines.append(b"Connection: upgrade\r\nUpgrade: " + upgrade)
        lines.append(b"Via: 1.%d %b" % (head.block.minor, node))
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def error_reply(
    code: Code, status: int, identifier: bytes, node: bytes, date: bytes, *, close: bool, body: bool
) -> bytes:
    """A reply of our own; its body says what happened and the request id to look for in the log."""
    text = b'{"status": %d, "error": "%b", "detail": "%b", "request_id": "%b"}\n' % (
        status, code.label.encode(), code.what.encode(), identifier,
    )  # fmt: skip
    lines = [
        b"HTTP/1.1 %d %b" % (status, _REASONS[status]),
        b"Date: " + date,
        b"Content-Type: application/json\r\nContent-Length: %d" % len(text),
        b"Cache-Control: no-store",
        b"Via: 1.1 " + node,
        b"X-Request-Id: " + identifier,
    ]
    if status == 405:
        lines.append(b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")  # RFC 9110 §15.5.6
    if close:
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + (text if body else b"")
