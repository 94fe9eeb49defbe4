"""The one policy on what a whole head says: how long its body is, whose it is, what it asks for (RFC 9110, 9112).

Where the fields contradict one another, or say something that readers have been known to understand differently, the
message is refused; never repaired, never passed on. Whoever cuts heads into fields (head.py does, in two ways) has them
judged here. Which rule was broken is the refusal's code; `where` finds the line that it is about.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.errors import Code, Refused
from proxy.message import CHUNKED, NO_BODY, UNTIL_CLOSE, Block, Field, RequestHead

_DIGITS = re.compile(rb"[0-9]{1,18}")  # RFC 9110 §8.6: 1*DIGIT; 18 digits fit any machine word
_PORT = rb"(?::[0-9]{0,5})?"
# Narrower than RFC 3986's reg-name: no sub-delims and no percent-encoding, which no host on the Internet has.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])" + _PORT)
_TRAILERS = re.compile(rb"(?i:(?:^|,)[ \t]*trailers[ \t]*(?:$|,))")
_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
# Which fields a refusal of what a whole head says is about.
_ABOUT: Final = {
    Code.LENGTH: (b"content-length",),
    Code.LENGTHS_DIFFER: (b"content-length",),
    Code.LENGTH_AND_CODING: (b"content-length", b"transfer-encoding"),
    Code.CODING_1_0: (b"transfer-encoding",),
    Code.CHUNKED_NOT_LAST: (b"transfer-encoding",),
    Code.CODING_UNKNOWN: (b"transfer-encoding",),
    Code.HOST_REPEATED: (b"host",),
    Code.HOST_INVALID: (b"host",),
    Code.EXPECTATION: (b"expect",),
}


def judge(minor: int, fields: tuple[Field, ...], *, request: bool) -> Block:
    """The policy on what a whole head says. The offsets of refusals are left to the caller."""
    acted_on = tuple(field for field in fields if field.acted_on)
    options = [field.value for field in acted_on if field.lower == b"connection"]
    connection = frozenset(option.strip().lower() for value in options for option in value.split(b","))
    return Block(
        minor=minor,
        fields=fields,
        acted_on=acted_on,
        passed=b"".join([field.line for field in fields if not field.acted_on]),
        length=_length(minor, acted_on),
        keep_alive=b"close" not in connection and (minor == 1 or b"keep-alive" in connection),
        connection=connection,
        host=_host_of(minor, acted_on) if request else b"",
        expects_continue=_expects_continue(acted_on) and minor == 1 if request else False,
        upgrade=_upgrade(minor, acted_on, connection),
        trailers=minor == 1 and any(field.lower == b"te" and _TRAILERS.search(field.value) for field in acted_on),
        underscored=any(b"_" in field.lower for field in acted_on),
        version=b"1.1" if minor else b"1.0",
    )


def where(code: Code, data: bytes) -> int:
    """Where in a block the last of the fields stands that a refusal is about; 0 if it is about none."""
    names, at, found = _ABOUT.get(code, ()), 0, 0
    for line in data.split(b"\r\n"):
        if line.partition(b":")[0].lower() in names:
            found = at
        at += len(line) + 2
    return found


def is_host(value: bytes) -> bool:
    """Whether it may stand in a Host field."""
    return _HOST.fullmatch(value) is not None


def upgrades_to_websocket(head: RequestHead) -> bool:
    """Whether `head` opens a WebSocket as RFC 6455 §4.1 asks. Raises Refused where it means to and does not."""
    block = head.block
    if block.upgrade != b"websocket":
        return False
    keys = block.values(b"sec-websocket-key")
    sound = (
        head.method == b"GET"
        and len(keys) == 1
        and _WEBSOCKET_KEY.fullmatch(keys[0])
        and block.values(b"sec-websocket-version") == [b"13"]
        and block.length in (NO_BODY, 0)
    )
    if not sound:
        raise Refused(Code.UPGRADE)
    return True


def response_length(method: bytes, status: int, block: Block) -> int:
    """RFC 9112 §6.3: what ends the body of an answer."""
    if method == b"HEAD" or status < 200 or status in (204, 304):
        return NO_BODY
    return UNTIL_CLOSE if block.length == NO_BODY else block.length


def _length(minor: int, fields: tuple[Field, ...]) -> int:
    """RFC 9112 §6.3, without the part that knows the method: a length, CHUNKED or NO_BODY."""
    lengths = [field.value for field in fields if field.lower == b"content-length"]
    codings = [field.value for field in fields if field.lower == b"transfer-encoding"]
    if codings:
        if lengths:
            raise Refused(Code.LENGTH_AND_CODING)
        if minor == 0:
            raise Refused(Code.CODING_1_0)
        return _chunked(codings)
    if not lengths:
        return NO_BODY
    for value in lengths:
        if not _DIGITS.fullmatch(value):
            raise Refused(Code.LENGTH)
    if len({int(value) for value in lengths}) > 1:
        raise Refused(Code.LENGTHS_DIFFER)
    return int(lengths[0])


def _chunked(codings: list[bytes]) -> int:
    names = [name.strip(b" \t").lower() for value in codings for name in value.split(b",")]
    if names == [b"chunked"]:
        return CHUNKED
    if b"chunked" in names[:-1] or b"" in names:
        raise Refused(Code.CHUNKED_NOT_LAST)
    raise Refused(Code.CODING_UNKNOWN)


def _host_of(minor: int, fields: tuple[Field, ...]) -> bytes:
    hosts = [field.value for field in fields if field.lower == b"host"]
    if len(hosts) > 1:
        raise Refused(Code.HOST_REPEATED)
    if not hosts:
        if minor == 1:
            raise Refused(Code.HOST_MISSING)
        return b""
    if not _HOST.fullmatch(hosts[0]):
        raise Refused(Code.HOST_INVALID)
    return hosts[0]


def _expects_continue(fields: tuple[Field, ...]) -> bool:
    expectations = [field.value.lower() for field in fields if field.lower == b"expect"]
    if any(value != b"100-continue" for value in expectations):
        raise Refused(Code.EXPECTATION)
    return bool(expectations)


def _upgrade(minor: int, fields: tuple[Field, ...], connection: frozenset[bytes]) -> bytes:
    """The protocol of `Upgrade`, lower case; nothing in HTTP/1.0 (RFC 9110 §7.8) or without the connection option."""
    if minor == 0 or b"upgrade" not in connection:
        return b""
    return b",".join(field.value.lower() for field in fields if field.lower == b"upgrade")
