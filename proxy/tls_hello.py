"""Whether a connection begins with the handshake of an ACME CA (tls-alpn-01, RFC 8737). Pure.

The CA's ClientHello offers one application protocol, `acme-tls/1`, which nobody else does. All that is decided here is
whether to lead the connection elsewhere: whatever is in doubt is OpenSSL's to judge. So a ClientHello is looked into
only when it is whole, and in one record, as a validator's is; and only if that name stands in it at all.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

PROTOCOL: Final = b"acme-tls/1"
RECORD_LIMIT: Final = 16_384  # RFC 8446 §5.1
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ALPN = 0, 16
_ONLY: Final = bytes([0, len(PROTOCOL) + 1, len(PROTOCOL)]) + PROTOCOL  # RFC 7301 §3.1: a list of this one name


class Look(Enum):
    MORE = auto()  # cannot be told yet
    OTHER = auto()  # any other client, or no TLS at all
    ACME = auto()


def look(data: bytes) -> Look:
    """What the first bytes of a connection are. At most RECORD_LIMIT + 5 of them leave it open."""
    if not data:
        return Look.MORE
    if data[0] != _HANDSHAKE or (len(data) > 1 and data[1] != 3):
        return Look.OTHER
    if len(data) < 5:
        return Look.MORE
    length = int.from_bytes(data[3:5])
    if not 4 <= length <= RECORD_LIMIT:
        return Look.OTHER
    if len(data) < 5 + length:
        return Look.MORE
    if PROTOCOL not in data:
        return Look.OTHER
    return Look.ACME if _extensions(data[5 : 5 + length]).get(_ALPN) == _ONLY else Look.OTHER


def server_name(data: bytes) -> str:
    """The name that a ClientHello asks for (RFC 6066 §3), for the log; empty where there is none that can be read."""
    value = _extensions(data[5:]).get(_SERVER_NAME, b"")
    size = int.from_bytes(value[3:5])
    name = value[5:]
    return name.decode("ascii", "replace") if value[2:3] == b"\0" and size == len(name) else ""


def _extensions(message: bytes) -> dict[int, bytes]:
    """The extensions of a ClientHello (RFC 8446 §4.1.2); none where its lengths do not add up."""
    try:
        end = 4 + int.from_bytes(message[1:4])
        if message[0] != _CLIENT_HELLO or end > len(message):
            return {}
        at = 4 + 2 + 32  # header, version, random
        for size_bytes in (1, 2, 1):  # session id, cipher suites, compression methods
            at += size_bytes + int.from_bytes(message[at : at + size_bytes])
        if at + 2 + int.from_bytes(message[at : at + 2]) != end:
            return {}
        at += 2
        found: dict[int, bytes] = {}
        while at < end:
            kind, size = int.from_bytes(message[at : at + 2]), int.from_bytes(message[at + 2 : at + 4])
            at += 4 + size
            if at > end:
                return {}
            found[kind] = message[at - size : at]
    except IndexError:
        return {}
    return found
