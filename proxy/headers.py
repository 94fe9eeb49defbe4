"""Fields on their way through us: what is taken out, what is put in, towards the server and towards the client.

Hop-by-hop fields end here (RFC 9110 §7.6.1): Connection and what it names, Keep-Alive, Proxy-Connection, TE, Upgrade,
Transfer-Encoding; our own follow. What a client claims about where it comes from counts only when its address is
trusted (proxy/origin.py). Names keep their case, fields their order.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from core.model import Listener
from proxy import client_identity
from proxy.changes import Changes
from proxy.errors import Code, Refused, Source, kind
from proxy.message import (
    ACTED_ON,
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    Block,
    Outgoing,
    RequestHead,
    ResponseHead,
    is_acted_on,
)
from proxy.origin import ORIGIN_FIELDS, SLB_FIELDS, Origin
from proxy.pages import PLAIN_FORM, Form, Page, Told, error_body

# What Connection names ends here too, unless a server could be deceived by its absence: these are acted on (see
# message.ACTED_ON) and never pass unseen, whatever Connection says of them (RFC 9110 §7.6.1).
_USUAL_OPTIONS: Final = frozenset((b"close", b"keep-alive", b"upgrade", b"te", b""))
_OURS_IN_ANSWERS: Final = frozenset(
    (
        b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
        b"upgrade",
    )
)  # fmt: skip
_NO_NAMES: Final = frozenset[bytes]()
_INNOCENT: Final = frozenset((b"date", b"strict-transport-security"))  # in requests
# What trailers may not say: how a message is framed and routed, who asks for it, and what is decided before its body is
# read (RFC 9110 §6.5.1). What somebody here acts on is not for them either.
_NOT_TRAILERS: Final = ACTED_ON | frozenset(
    (
        b"age", b"authorization", b"cache-control", b"content-encoding", b"content-range", b"content-type", b"cookie",
        b"expires", b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since",
        b"location", b"max-forwards", b"pragma", b"proxy-authenticate", b"proxy-authorization", b"range",
        b"retry-after", b"set-cookie", b"vary", b"www-authenticate",
    )
)  # fmt: skip
# What belongs to a status, not to the page that tells of it.
_OF_STATUS: Final = frozenset((b"allow", b"proxy-authenticate", b"retry-after", b"www-authenticate"))
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")
_REASONS: Final = {
    400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    408: b"Request Timeout", 413: b"Content Too Large", 414: b"URI Too Long", 417: b"Expectation Failed",
    429: b"Too Many Requests", 431: b"Request Header Fields Too Large",
    501: b"Not Implemented", 502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported", 508: b"Loop Detected",
}  # fmt: skip


def is_trusted(client: str, networks: Collection[IPv4Network | IPv6Network]) -> bool:
    """Whether a peer's word about earlier hops counts."""
    if not networks:
        return False
    try:
        address = ip_address(client)
    except ValueError:
        return False
    return any(address in network for network in networks)


def is_claim(lower: bytes) -> bool:
    """Whether a field of this name (lower case) says where a request comes from, which only those we trust may say."""
    return lower in ORIGIN_FIELDS or _is_of_others(lower) or client_identity.is_ours(lower)


def _is_of_others(lower: bytes) -> bool:
    """Fields about earlier hops, which pass as they are if those are trusted and we do not say them ourselves."""
    return lower.startswith(b"x-forwarded-") or lower in SLB_FIELDS


def passes(lower: bytes, origin: Origin) -> bool:
    """Whether a field with an underscore in its name (lower case) does: not if a server could take it for one that is
    ours to say, or that says how the message is framed, since many read `-` as `_`."""
    alike = lower.replace(b"_", b"-")
    return origin.telling.underscores and alike not in ACTED_ON and not is_claim(alike)


def dropped(block: Block, origin: Origin) -> list[str]:
    """The names of a request's fields that do not pass for their underscore."""
    fields = [field for field in block.acted_on if b"_" in field.lower and not passes(field.lower, origin)]
    return [field.name.decode("ascii") for field in fields]


def _passes(lower: bytes, origin: Origin, block: Block, changes: Changes | None) -> bool:
    """Not either if a rule takes out or says itself what a server could take it for."""
    if b"_" not in lower or not passes(lower, origin) or lower in block.connection:
        return False
    return changes is None or lower.replace(b"_", b"-") not in changes.removed


def is_request_id(value: bytes) -> bool:
    """Whether it is safe to log and pass on."""
    return _REQUEST_ID.fullmatch(value) is not None


def request_id(block: Block) -> bytes:
    """The request id that the client sent, if it sent one that is safe to log and pass on."""
    ids = [each.value for each in block.acted_on if each.lower == b"x-request-id"]
    return ids[0] if len(ids) == 1 and _REQUEST_ID.fullmatch(ids[0]) else b""


def outgoing(
    head: RequestHead, target: bytes, origin: Origin, identifier: bytes, upgrade: bytes,
    host: bytes | None = None, changes: Changes | None = None,
) -> Outgoing:  # fmt: skip
    """The head for the server, in whatever dialect. `target` is in normal form. Raises Refused when the request is in
    a loop.

    `host`: instead of the request's own.
    """
    block = head.block
    vias: list[bytes] = []
    claims: dict[bytes, list[bytes]] = {}
    kept: list[bytes] = []
    claimed = origin.claimed() if origin.trusted else frozenset()
    gone = changes.removed if changes is not None else _NO_NAMES
    for each in block.acted_on:
        lower = each.lower
        if lower == b"via":
            vias.append(each.value)
        elif lower in _INNOCENT or (lower == b"expect" and block.expects_continue):
            kept.append(each.line)  # RFC 9110 §10.1.1: an expectation in HTTP/1.0 is ignored
        elif lower in claimed:
            claims.setdefault(lower, []).append(each.value)
        elif origin.trusted and client_identity.is_ours(lower):
            if origin.identity is None:
                kept.append(each.line)
        elif (origin.trusted and _is_of_others(lower) and lower not in gone) or _passes(lower, origin, block, changes):
            kept.append(each.line)
    fields = passed(block, changes)
    return Outgoing(
        head.method, target, head.host if host is None else host, fields + b"".join(kept) if kept else fields,
        b"%b%bVia: %b\r\nX-Request-Id: %b\r\n" % (
            origin.with_claims(claims) if claims else origin.lines, origin.identity or b"",
            _via(vias, block.version, origin.node), identifier,
        ),
        block.length, upgrade, block.trailers,
    )  # fmt: skip


def request_head(
    head: RequestHead, target: bytes, origin: Origin, identifier: bytes, upgrade: bytes,
    host: bytes | None = None, changes: Changes | None = None,
) -> bytes:  # fmt: skip
    """`outgoing` in HTTP/1.1. Raises Refused as that does."""
    return written(outgoing(head, target, origin, identifier, upgrade, host, changes))


def written(request: Outgoing) -> bytes:
    """A request's head in HTTP/1.1."""
    method, target, host, fields, ours, length, upgrade, trailers = request
    if length == NO_BODY and not upgrade and not trailers:
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n" % (method, target, host, fields, ours)
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b%b%b\r\n" % (
        method, target, host, fields, _request_framing(length), _connection(upgrade, trailers=trailers), ours
    )  # fmt: skip


def _connection(upgrade: bytes, *, trailers: bool) -> bytes:
    """What holds for our connection to the server only. `trailers`: the client reads them (RFC 9110 §10.1.4)."""
    if upgrade:
        return b"Connection: upgrade\r\nUpgrade: %b\r\n" % upgrade
    return b"Connection: TE\r\nTE: trailers\r\n" if trailers else b""


def passed(block: Block, changes: Changes | None = None) -> bytes:
    """The lines that pass as they are, less those that Connection names, and with what changes."""
    named = block.connection - _USUAL_OPTIONS
    if changes is not None:
        return _passed_lines(block, named | changes.removed) + changes.lines
    return _passed_lines(block, named) if named else block.passed


def _passed_lines(block: Block, named: frozenset[bytes]) -> bytes:
    return b"".join(each.line for each in block.fields if not each.acted_on and each.lower not in named)


def _request_framing(length: int) -> bytes:
    if length >= 0:
        return b"Content-Length: %d\r\n" % length
    return b"Transfer-Encoding: chunked\r\n" if length == CHUNKED else b""


def _via(values: list[bytes], version: bytes, node: bytes) -> bytes:
    """RFC 9110 §7.6.3: the received protocol and our name, after those of earlier hops."""
    if not values:
        return b"%b %b" % (version, node)
    entries = [entry.split() for value in values for entry in value.split(b",")]
    if any(len(entry) > 1 and entry[1] == node for entry in entries):
        raise Refused(Code.LOOP)
    return b", ".join([*values, b"%b %b" % (version, node)])


def answer_lines(
    head: ResponseHead, framing: bytes, node: bytes, date: bytes, hsts: bytes = b"", changes: Changes | None = None
) -> bytes:
    """The lines of an answer's head for the client, in whatever dialect; `framing` is what this says of the length.

    `hsts` is a whole line, which takes the place of the server's own (RFC 6797 §7.1: there is to be one).
    """
    block = head.block
    vias: list[bytes] = []
    kept: list[bytes] = []
    dated = False
    for each in block.acted_on:
        if each.lower == b"via":
            vias.append(each.value)
        elif b"_" in each.lower and each.lower in block.connection:
            continue  # nobody here acts on it: it ends here as Connection says
        elif each.lower not in _OURS_IN_ANSWERS and not (hsts and each.lower == b"strict-transport-security"):
            dated = dated or each.lower == b"date"
            kept.append(each.line)
    if not dated:
        kept.append(b"Date: %b\r\n" % date)  # RFC 9110 §6.6.1
    before = b"".join([via + b", " for via in vias]) if vias else b""
    return b"%b%b%b%bVia: %b%b %b\r\n" % (
        passed(block, changes), b"".join(kept), hsts, framing, before, block.version, node
    )  # fmt: skip


def response_head(
    head: ResponseHead, client_minor: int, keep_alive: bool, node: bytes, date: bytes, hsts: bytes = b"",
    changes: Changes | None = None,
) -> bytes:  # fmt: skip
    """The head that goes to a client of HTTP/1; chunked where the length is unknown and the client can read it."""
    lines = answer_lines(head, framing(head, client_minor), node, date, hsts, changes)
    return answer_head(head, lines, client_minor, keep_alive)


def answer_head(
    head: ResponseHead, lines: bytes, client_minor: int, keep_alive: bool, payload: bytes = b""
) -> bytes:  # fmt: skip
    """The head of an answer in HTTP/1, and what follows it."""
    connection = b""
    if not keep_alive:
        connection = b"Connection: close\r\n"
    elif client_minor == 0:
        connection = b"Connection: keep-alive\r\n"
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n%b" % (head.status, head.reason, lines, connection, payload)


def length_line(head: ResponseHead) -> bytes:
    """Content-Length where the server gave one (also to HEAD and 304: it is the length of the answer not sent)."""
    length = head.block.length
    if length >= 0 and head.length not in (CHUNKED, UNTIL_CLOSE) and head.status >= 200 and head.status != 204:
        return b"Content-Length: %d\r\n" % length
    return b""


def framing(head: ResponseHead, client_minor: int) -> bytes:
    """What a client of HTTP/1 is told of the length."""
    if head.length in (CHUNKED, UNTIL_CLOSE) and client_minor == 1:
        return b"Transfer-Encoding: chunked\r\n"
    return length_line(head)


def trailer_lines(lines: bytes) -> bytes:
    """Those of a body's trailers that go on. `lines` have been checked."""
    kept = []
    for line in lines.splitlines(keepends=True):
        lower = line.partition(b":")[0].lower()
        if lower not in _NOT_TRAILERS and not is_acted_on(lower):
            kept.append(line)
    return b"".join(kept)


def without(lines: bytes, names: frozenset[bytes]) -> bytes:
    """Whole field lines, less those of these names (lower case)."""
    each = lines.splitlines(keepends=True)
    return b"".join([line for line in each if line.partition(b":")[0].lower() not in names])


def informational_head(head: ResponseHead) -> bytes:
    """An answer of 1xx in HTTP/1, but for 101."""
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (head.status, head.reason, passed(head.block))


def switching_head(head: ResponseHead, lines: bytes, upgrade: bytes, node: bytes) -> bytes:
    """The 101 that opens a tunnel, in HTTP/1."""
    return b"HTTP/1.1 %d %b\r\n%bConnection: upgrade\r\nUpgrade: %b\r\nVia: %b %b\r\n\r\n" % (
        head.status, head.reason, lines, upgrade, head.block.version, node
    )  # fmt: skip


def error_lines(
    code: Code, status: int, identifier: bytes, node: bytes, date: bytes, offset: int | None = None,
    form: Form = PLAIN_FORM,
) -> tuple[bytes, bytes]:  # fmt: skip
    """A reply of our own: its lines, and its body, which says what happened and the request id to look for in the log.

    Proxy-Status (RFC 9209) says it too, and that it is we who say it.
    """
    source = code.source if status == code.status else Source.UPSTREAM
    told = Told(
        status, source.value, code.label, code.said(offset), identifier.decode("ascii"), form.host.decode("latin-1")
    )
    media_type, text = error_body(form, told)
    lines = _page_lines(media_type, text, identifier, node, date)
    lines += b'Proxy-Status: "%b"; error=%b; details="%b"\r\n' % (
        node, kind(code, source).encode(), code.label.encode()
    )  # fmt: skip
    if status == 405:
        lines += b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"  # RFC 9110 §15.5.6
    return lines, text


def _page_lines(media_type: bytes, text: bytes, identifier: bytes, node: bytes, date: bytes) -> bytes:
    return b"".join((
        b"Date: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n" % (date, media_type, len(text)),
        b"Cache-Control: no-store\r\nVia: 1.1 %b\r\nX-Request-Id: %b\r\n" % (node, identifier),
    ))  # fmt: skip


def instead_lines(
    answer: ResponseHead, page: Page, identifier: bytes, node: bytes, date: bytes, host: bytes
) -> tuple[bytes, bytes]:
    """The lines and the body of a page in place of a server's answer, of which stays what its status needs."""
    told = Told(
        answer.status, Source.UPSTREAM.value, "server_error", "", identifier.decode("ascii"), host.decode("latin-1")
    )
    text = page.filled(told)
    kept = b"".join([each.line for each in answer.block.fields if each.lower in _OF_STATUS])
    return _page_lines(page.kind, text, identifier, node, date) + kept, text


def error_reply(
    code: Code,
    status: int,
    identifier: bytes,
    node: bytes,
    date: bytes,
    *,
    close: bool,
    body: bool,
    hsts: bytes = b"",
    offset: int | None = None,
    form: Form = PLAIN_FORM,
) -> bytes:
    """`error_lines` as a whole answer of HTTP/1; there is no body after HEAD."""
    lines, text = error_lines(code, status, identifier, node, date, offset, form)
    return own_reply(status, lines, text if body else b"", hsts, close=close)


def hsts_line(listener: Listener) -> bytes:
    """Strict-Transport-Security as this listener says it (RFC 6797 §6.1), or nothing."""
    if not listener.hsts_max_age_s:
        return b""
    subdomains = b"; includeSubDomains" if listener.hsts_include_subdomains else b""
    preload = b"; preload" if listener.hsts_preload else b""
    return b"Strict-Transport-Security: max-age=%d%b%b\r\n" % (listener.hsts_max_age_s, subdomains, preload)


def plain_lines(lines: bytes, identifier: bytes, node: bytes, date: bytes) -> bytes:
    """The lines of a reply of our own that a rule asks for. `lines` say what it is, its length among them."""
    return b"Date: %b\r\n%bVia: 1.1 %b\r\nX-Request-Id: %b\r\n" % (date, lines, node, identifier)


def plain_reply(
    status: int, lines: bytes, body: bytes, identifier: bytes, node: bytes, date: bytes, *, close: bool, hsts: bytes
) -> bytes:
    """`plain_lines` as a whole answer of HTTP/1."""
    return own_reply(status, plain_lines(lines, identifier, node, date), body, hsts, close=close)


def own_reply(status: int, lines: bytes, body: bytes, hsts: bytes, *, close: bool) -> bytes:
    """A whole answer of HTTP/1 that is not a server's."""
    closing = b"Connection: close\r\n" if close else b""
    return b"HTTP/1.1 %d %b\r\n%b%b%b\r\n%b" % (status, reason_of(status), lines, closing, hsts, body)


def redirect_lines(location: bytes) -> bytes:
    return b"Location: %b\r\nContent-Length: 0\r\n" % location


def reason_of(status: int) -> bytes:
    """A status need not have one (RFC 9112 §4)."""
    if status in _REASONS:
        return _REASONS[status]
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""
