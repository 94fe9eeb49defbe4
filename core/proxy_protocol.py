"""The PROXY protocol, versions 1 and 2: a header in front of a connection's bytes that says whose they are. Pure.

    v1   "PROXY TCP4 203.0.113.9 192.0.2.10 51000 443\\r\\n", of at most 107 bytes
    v2   12 bytes of signature, version and command, family, length; then two addresses and any number of TLVs

Everything has a bound: a header of v2 has at most MOST_BYTES with its TLVs, which have to fill it. What breaks a
rule is `Malformed`, with the offset, as early as it is seen; TLVs of unknown types are passed over. A checksum is
verified where there is one. LOCAL, UNKNOWN, and families that are no IP addresses (UNIX, UNSPEC) tell no ends: the
connection's own count.

IPv4 addresses in the form of IPv6 (::ffff:192.0.2.1) are read as IPv4: else nobody's list of IPv4 networks would know
them. Datagram sockets are told of by proxies that speak HTTP/3; their ends are as good as any.

Source: haproxy/doc/proxy-protocol.txt (2020). Of 2.2, "the receiver must also reject … partial protocol headers" is not
done: a header may come in pieces, which the caller bounds in time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import Struct
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
WORD: Final = b"PROXY "
LINE_BYTES: Final = 107  # 2.1: the worst case of version 1
MOST_BYTES: Final = 4096  # of version 2. 2.2: "always smaller than an MSS"; the addresses take 52, or 232
AUTHORITY_BYTES: Final = 255
UNIQUE_ID_BYTES: Final = 128  # 2.2.5

_FIXED: Final = Struct("!12sBBH")
_TLV: Final = Struct("!BH")
_SSL: Final = Struct("!BI")
_ENDS: Final = {1: Struct("!4s4sHH"), 2: Struct("!16s16sHH"), 3: Struct("!108s108s")}  # by family
_LOCAL, _PROXY = 0, 1
_STREAM: Final = 1
_UNIX: Final = 3
_ALPN, _AUTHORITY, _CRC32C, _NOOP, _UNIQUE_ID, _TLS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20
_TLS_VERSION, _TLS_NAME, _TLS_CIPHER = 0x21, 0x22, 0x23
_CLIENT_TLS, _CLIENT_CERTIFICATE, _SESSION_CERTIFICATE = 1, 2, 4
_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}")
_IPV6: Final = re.compile(rb"[0-9A-Fa-f:.]{2,45}")  # no zone

End = tuple[str, int]


class Malformed(ValueError):
    """No header of the PROXY protocol: why, and at which byte."""

    def __init__(self, why: str, offset: int) -> None:
        super().__init__(f"{why}, at byte {offset}")
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Tls:
    """That the client spoke TLS. `certificate`: it has shown one; `verified`: which was sound; `name` is its CN."""

    version: str = ""
    cipher: str = ""
    certificate: bool = False
    verified: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """What is told of a connection. Without `source` and `destination` (IP address and port) its own ends count."""

    version: int
    source: End | None = None
    destination: End | None = None
    alpn: bytes = b""
    authority: str = ""
    unique_id: bytes = b""
    tls: Tls | None = None


LOCAL: Final = Header(2)


def begins(data: bytes) -> bool | None:
    """Whether a connection that begins with `data` begins with a header; None: that is not known yet."""
    for start in (WORD, SIGNATURE):
        if data.startswith(start):
            return True
        if start.startswith(data):
            return None
    return False


def read(data: bytes) -> tuple[Header, int] | None:
    """The header that a connection begins with, and its length; None: more has to come. Raises Malformed."""
    if data[:1] == WORD[:1]:
        return _read_line(data)
    for at, (got, wanted) in enumerate(zip(data, SIGNATURE, strict=False)):
        if got != wanted:
            raise Malformed("neither version 1 nor 2 begins so", at)
    return _read_block(data) if len(data) >= _FIXED.size else None


def write(header: Header) -> bytes:
    """The header as bytes. Without ends: UNKNOWN, or LOCAL."""
    ends = _common(header.source, header.destination)
    if header.version == 1:
        if ends is None:
            return b"PROXY UNKNOWN\r\n"
        source, destination = ends
        assert header.source is not None
        assert header.destination is not None
        line = f"PROXY TCP{source.version} {source} {destination} {header.source[1]} {header.destination[1]}\r\n"
        return line.encode("ascii")
    if ends is None:
        return _FIXED.pack(SIGNATURE, 2 << 4 | _LOCAL, 0, 0)
    source, destination = ends
    assert header.source is not None
    assert header.destination is not None
    family = 1 if source.version == 4 else 2
    block = _ENDS[family].pack(source.packed, destination.packed, header.source[1], header.destination[1])
    block += b"".join(_said(header))
    return _FIXED.pack(SIGNATURE, 2 << 4 | _PROXY, family << 4 | _STREAM, len(block)) + block


# -- version 1


def _read_line(data: bytes) -> tuple[Header, int] | None:
    start = data[: len(WORD)]
    if not WORD.startswith(start):
        raise Malformed("no line of version 1 begins so", next(i for i, byte in enumerate(start) if byte != WORD[i]))
    end = data.find(b"\n", 0, LINE_BYTES)
    if end < 0:
        if len(data) >= LINE_BYTES:
            raise Malformed(f"the line does not end within {LINE_BYTES} bytes", LINE_BYTES)
        return None
    line = data[: end - 1]
    if data[end - 1] != 0x0D or any(not 0x20 <= byte < 0x7F for byte in line):
        raise Malformed("the line ends otherwise than by CR LF", end)
    protocol, _, rest = line[len(WORD) :].partition(b" ")
    if protocol == b"UNKNOWN":
        return Header(1), end + 1
    parts = rest.split(b" ")
    if protocol not in (b"TCP4", b"TCP6") or len(parts) != 4:
        raise Malformed("neither TCP4, TCP6 nor UNKNOWN with what belongs to it", len(WORD))
    kind = IPv4Address if protocol == b"TCP4" else IPv6Address
    source, destination = (_address(part, kind) for part in parts[:2])
    ports = [_port(part) for part in parts[2:]]
    return Header(1, (source, ports[0]), (destination, ports[1])), end + 1


def _address(text: bytes, kind: type[IPv4Address] | type[IPv6Address]) -> str:
    try:
        if kind is IPv6Address and not _IPV6.fullmatch(text):
            raise ValueError
        return _plain(kind(text.decode("ascii")))
    except ValueError:
        raise Malformed(f"an address that is not of IPv{kind.version}", len(WORD) + 5) from None


def _plain(address: IPv4Address | IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _port(text: bytes) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise Malformed("a port that is none", len(WORD) + 5)
    return int(text)


# -- version 2


def _read_block(data: bytes) -> tuple[Header, int] | None:
    _, what, family, length = _FIXED.unpack_from(data)
    if what >> 4 != 2 or what & 15 not in (_LOCAL, _PROXY):
        raise Malformed("neither LOCAL nor PROXY of version 2", 12)
    size = _FIXED.size + length
    if size > MOST_BYTES:
        raise Malformed(f"a header of {size} bytes; at most {MOST_BYTES} are taken", 14)
    if what & 15 == _LOCAL:
        return (LOCAL, size) if len(data) >= size else None
    if family >> 4 > _UNIX or family & 15 > 2:
        raise Malformed("a family or protocol that is not assigned", 13)
    layout = _ENDS.get(family >> 4)
    if layout is None or not family & 15:  # UNSPEC: nobody knows what follows
        return (LOCAL, size) if len(data) >= size else None
    if length < layout.size:
        raise Malformed("too short for its addresses", 14)
    if len(data) < size:
        return None
    block = data[:size]
    source: End | None = None
    destination: End | None = None
    if family >> 4 != _UNIX:
        here, there, port_here, port_there = layout.unpack_from(block, _FIXED.size)
        source, destination = (_plain(ip_address(here)), port_here), (_plain(ip_address(there)), port_there)
    return _told(block, _FIXED.size + layout.size, source, destination), size


def _told(block: bytes, at: int, source: End | None, destination: End | None) -> Header:
    """The header with what its TLVs say."""
    found: dict[int, bytes] = {}
    tls: Tls | None = None
    for kind, start, value in _tlvs(block, at, len(block)):
        if kind in found and kind in (_ALPN, _AUTHORITY, _CRC32C, _UNIQUE_ID, _TLS):
            raise Malformed(f"a second TLV of type {kind:#04x}", start)
        found[kind] = value
        if kind == _CRC32C:
            _verify(block, start, value)
        elif kind == _UNIQUE_ID and len(value) > UNIQUE_ID_BYTES:
            raise Malformed(f"a unique id of {len(value)} bytes; at most {UNIQUE_ID_BYTES} are one", start)
        elif kind == _AUTHORITY and len(value) > AUTHORITY_BYTES:
            raise Malformed(f"an authority of {len(value)} bytes; at most {AUTHORITY_BYTES} are taken", start)
        elif kind == _TLS:
            tls = _tls(block, start, len(value))
    authority = _text(found.get(_AUTHORITY, b""), at)
    return Header(2, source, destination, found.get(_ALPN, b""), authority, found.get(_UNIQUE_ID, b""), tls)


def _tlvs(block: bytes, at: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """Type, where the value begins, value."""
    while at < end:
        if end - at < _TLV.size:
            raise Malformed("bytes that are no TLV", at)
        kind, size = _TLV.unpack_from(block, at)
        at += _TLV.size
        if size > end - at:
            raise Malformed("a TLV that goes beyond its end", at)
        yield kind, at, block[at : at + size]
        at += size


def _tls(block: bytes, start: int, size: int) -> Tls | None:
    """None: the client spoke no TLS."""
    if size < _SSL.size:
        raise Malformed("too short to say anything of TLS", start)
    client, verify = _SSL.unpack_from(block, start)
    parts = {
        kind: _text(value, at) for kind, at, value in _tlvs(block, start + _SSL.size, start + size)
        if kind in (_TLS_VERSION, _TLS_NAME, _TLS_CIPHER)
    }  # fmt: skip
    if not client & _CLIENT_TLS:
        return None
    shown = bool(client & (_CLIENT_CERTIFICATE | _SESSION_CERTIFICATE))
    name = parts.get(_TLS_NAME, "")
    return Tls(parts.get(_TLS_VERSION, ""), parts.get(_TLS_CIPHER, ""), shown, shown and not verify, name)


def _text(value: bytes, at: int) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("a text that is not of UTF-8", at) from None
    if not text.isprintable():
        raise Malformed("a text that cannot be printed", at)
    return text


def _verify(block: bytes, start: int, value: bytes) -> None:
    if len(value) != 4:
        raise Malformed("a checksum of other than 4 bytes", start)
    if crc32c(block[:start] + bytes(4) + block[start + 4 :]) != int.from_bytes(value, "big"):
        raise Malformed("the checksum is wrong", start)


def _said(header: Header) -> Iterator[bytes]:
    """The TLVs."""
    if header.alpn:
        yield _tlv(_ALPN, header.alpn)
    if header.authority:
        yield _tlv(_AUTHORITY, header.authority.encode())
    if header.unique_id:
        yield _tlv(_UNIQUE_ID, header.unique_id)
    tls = header.tls
    if tls is not None:
        client = _CLIENT_TLS | (_CLIENT_CERTIFICATE | _SESSION_CERTIFICATE if tls.certificate else 0)
        texts = ((_TLS_VERSION, tls.version), (_TLS_NAME, tls.name), (_TLS_CIPHER, tls.cipher))
        parts = b"".join(_tlv(kind, text.encode()) for kind, text in texts if text)
        yield _tlv(_TLS, _SSL.pack(client, not tls.verified) + parts)


def _tlv(kind: int, value: bytes) -> bytes:
    return _TLV.pack(kind, len(value)) + value


def _common(
    source: End | None, destination: End | None
) -> tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address] | None:
    """Both addresses in one family; one of IPv4 beside one of IPv6 is written as IPv6 writes it."""
    if source is None or destination is None:
        return None
    here, there = ip_address(source[0]), ip_address(destination[0])
    if isinstance(here, IPv4Address) and isinstance(there, IPv4Address):
        return here, there
    return _mapped(here), _mapped(there)


def _mapped(address: IPv4Address | IPv6Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)


# -- the checksum (RFC 4960, appendix B: Castagnoli's polynomial, reflected)


def _row(number: int) -> int:
    for _ in range(8):
        number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
    return number


_TABLE: Final = tuple(_row(number) for number in range(256))


def crc32c(data: bytes) -> int:
    """CRC-32C of `data`."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
