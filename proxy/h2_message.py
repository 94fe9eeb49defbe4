"""Heads of HTTP/2: fields in, a checked head or a refusal out (RFC 9113 §8, RFC 8441).

The policy is that of HTTP/1 (policy.py), which judges these fields too; what is refused here besides are the ways in
which a request of HTTP/2 can say what one of HTTP/1 cannot, and what a server of HTTP/1 would read in another way than
it was sent: line ends and NUL in fields, upper case, fields about connections, a second opinion on host or length.

A head becomes what it would have been in HTTP/1.1: `:authority` its Host, pieces of a cookie one field, a body of which
nobody has said how long it is a chunked one, an extended CONNECT for a WebSocket a GET that asks to upgrade.

Fields and whole blocks are remembered once they have passed, as those of HTTP/1 are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from proxy.errors import Code, Refused
from proxy.head import DEFAULT_LIMITS, TOKEN
from proxy.hpack import Pair
from proxy.message import CHUNKED, NO_BODY, Block, Field, RequestHead, field_of
from proxy.policy import is_host, judge

VERSION: Final = b"2.0"
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_TOKEN = re.compile(TOKEN)
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_TARGET = re.compile(rb"[!-~]+")
_OF_CONNECTIONS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings")
)
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_WEBSOCKET: Final = b"websocket"
_REMEMBERED: Final = 4096
_BLOCK_BYTES: Final = 2048  # of one that is remembered
_FIELD_BYTES: Final = 512

_fields: dict[Pair, Field] = {}
_blocks: dict[tuple[bytes, bool, tuple[Pair, ...]], Block] = {}


def read_request(fields: Sequence[Pair], size: int, *, ended: bool, new_key: Callable[[], bytes]) -> RequestHead:
    """The head that these fields are. `ended`: no body follows. `new_key`: for a WebSocket's opening. Raises Refused.

    `size`: bytes that it took, for the account.
    """
    pseudo, plain = _parted(fields)
    method, authority = pseudo.get(b":method", b""), pseudo.get(b":authority", b"")
    protocol = pseudo.get(b":protocol")
    if not _TOKEN.fullmatch(method) or (protocol is not None and method != b"CONNECT"):
        raise Refused(Code.PSEUDO)
    if method == b"TRACE" or (method == b"CONNECT" and protocol is None):
        raise Refused(Code.METHOD)
    target = _target(method, pseudo)
    block = _block(authority, plain, ended=ended or protocol is not None)
    if protocol is None:
        return RequestHead(method, target, block.host, block, size)
    if protocol.lower() != _WEBSOCKET:
        raise Refused(Code.PROTOCOL)
    return RequestHead(b"GET", target, block.host, _opening(block, new_key()), size)


def trailer_lines(fields: Sequence[Pair]) -> bytes:
    """A body's trailers as lines. Raises Refused."""
    if any(name[:1] == b":" for name, _ in fields):
        raise Refused(Code.PSEUDO)
    return b"".join([field_in(pair).line for pair in fields])


def _parted(fields: Sequence[Pair]) -> tuple[dict[bytes, bytes], list[Pair]]:
    """Pseudo-header fields, which come first, each at most once (RFC 9113 §8.3); and the others."""
    pseudo: dict[bytes, bytes] = {}
    at = 0
    for name, value in fields:
        if name[:1] != b":":
            break
        if name in pseudo or name not in _PSEUDO:
            raise Refused(Code.PSEUDO)
        pseudo[name] = value
        at += 1
    return pseudo, list(fields[at:])


def _target(method: bytes, pseudo: dict[bytes, bytes]) -> bytes:
    """`:scheme` says nothing that we do not know; it has to be there, and one of the two (RFC 9113 §8.3.1)."""
    scheme, target = pseudo.get(b":scheme"), pseudo.get(b":path")
    if scheme is None or target is None:
        raise Refused(Code.PSEUDO)
    if scheme not in (b"http", b"https"):
        raise Refused(Code.TARGET)
    if len(target) > DEFAULT_LIMITS.line_bytes:
        raise Refused(Code.TARGET_LONG)
    starred = target == b"*" and method == b"OPTIONS"
    if not _TARGET.fullmatch(target) or b"#" in target or not (target.startswith(b"/") or starred):
        raise Refused(Code.TARGET)
    return target


def _block(authority: bytes, plain: list[Pair], *, ended: bool) -> Block:
    key = authority, ended, tuple(plain)
    found = _blocks.get(key)
    if found is not None:
        return found
    if len(plain) > DEFAULT_LIMITS.fields:
        raise Refused(Code.FIELDS_MANY)
    fields = [field_in(pair) for pair in _with_cookies_joined(plain)]
    hosts = [field.value for field in fields if field.lower == b"host"]
    if authority:
        if not is_host(authority):
            raise Refused(Code.HOST_INVALID)
        if any(host.lower() != authority.lower() for host in hosts):
            raise Refused(Code.AUTHORITY)
        if not hosts:
            fields.insert(0, field_of(b"host", authority))
    block = judge(1, tuple(fields), request=True)
    if block.length > 0 and ended:
        raise Refused(Code.LENGTH_WRONG)
    length = CHUNKED if block.length == NO_BODY and not ended else block.length
    block = block._replace(length=length, version=VERSION)
    if sum(len(name) + len(value) for name, value in plain) <= _BLOCK_BYTES:
        if len(_blocks) >= _REMEMBERED:
            _blocks.clear()
        _blocks[key] = block
    return block


def field_in(pair: Pair) -> Field:
    """A field that may be in a message of HTTP/2, and in one of HTTP/1. Raises Refused."""
    found = _fields.get(pair)
    if found is not None:
        return found
    name, value = pair
    if not _NAME.fullmatch(name):
        if name[:1] == b":":
            raise Refused(Code.PSEUDO)
        raise Refused(Code.UPPER_CASE if _TOKEN.fullmatch(name) else Code.FIELD_NAME)
    if name in _OF_CONNECTIONS or (name == b"te" and value.lower() != b"trailers"):
        raise Refused(Code.CONNECTION_FIELD)
    if not _VALUE.fullmatch(value):
        raise Refused(Code.CONTROL)
    if value.strip(b" \t") != value:
        raise Refused(Code.SPACE_AROUND)
    field = field_of(name, value)
    if len(name) + len(value) <= _FIELD_BYTES:
        if len(_fields) >= _REMEMBERED:
            _fields.clear()
        _fields[pair] = field
    return field


def _with_cookies_joined(plain: list[Pair]) -> list[Pair]:
    """RFC 9113 §8.2.3: before it goes elsewhere a cookie is one field again; where its first piece stood."""
    pieces = [value for name, value in plain if name == b"cookie"]
    if len(pieces) < 2:
        return plain
    at = next(number for number, (name, _) in enumerate(plain) if name == b"cookie")
    others = [pair for pair in plain[at:] if pair[0] != b"cookie"]
    return [*plain[:at], (b"cookie", b"; ".join(pieces)), *others]


def _opening(block: Block, key: bytes) -> Block:
    """RFC 8441 §5: what a WebSocket's opening says in HTTP/1.1 besides. A key of the client's means nothing."""
    kept = tuple(field for field in block.fields if field.lower != b"sec-websocket-key")
    if any(field.lower == b"content-length" for field in kept):
        raise Refused(Code.UPGRADE)
    opened = judge(1, (*kept, field_of(b"sec-websocket-key", key)), request=True)
    return opened._replace(upgrade=_WEBSOCKET, version=VERSION)
