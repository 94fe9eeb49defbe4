"""Takes frames apart for tests that must not trust how packets were made: a parser that shares nothing with the XDP
program, nor with the builders of tests/packets.py."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

ICMPS = {4: 1, 6: 58}
TUNNELS = {4: 4, 6: 41}
FRAGMENT_HEADER = 44


def ones_complement(data: bytes) -> int:
    """The sum of 16-bit words; 0 stands for both zeros (RFC 1071)."""
    data += bytes(len(data) % 2)
    return sum(struct.unpack(f"!{len(data) // 2}H", data)) % 0xFFFF


@dataclass(frozen=True)
class Parsed:
    """An IP packet. Raises ValueError if its lengths do not fit what it stands in."""

    version: int
    source: str
    destination: str
    protocol: int
    ttl: int
    rest: bytes  # of the IP headers: all but addresses, TTL, lengths and sum
    fragment: bytes  # of that, what tells fragments apart; empty in a whole packet
    offset: int
    l4: bytes
    trailing: bytes  # Ethernet's padding
    header_sound: bool  # its checksum is right; always in IPv6
    whole: int  # length of headers and data

    @property
    def later(self) -> bool:
        return self.offset > 0

    @property
    def ends(self) -> bytes:
        """Both addresses."""
        return ipaddress.ip_address(self.source).packed + ipaddress.ip_address(self.destination).packed

    @property
    def l4_sound(self) -> bool:
        """Whether the TCP, UDP or ICMP checksum is right, or was not made (UDP)."""
        if self.protocol == 17 and self.l4[6:8] == b"\0\0":
            return True
        pseudo = b""
        if not (self.version == 4 and self.protocol == 1):
            pseudo = self.ends + struct.pack("!II", len(self.l4), self.protocol)
        return ones_complement(pseudo + self.l4) == 0


def parsed(data: bytes) -> Parsed:
    """What stands behind an Ethernet header, or inside another packet."""
    if len(data) >= 20 and data[0] == 0x45:
        length, field = struct.unpack("!2xH2xH", data[:8])
        if not 20 <= length <= len(data):
            raise ValueError(f"length {length} of {len(data)}")
        offset = (field & 0x1FFF) * 8
        is_fragment = bool(field & 0x3FFF)
        return Parsed(
            4, str(ipaddress.ip_address(data[12:16])), str(ipaddress.ip_address(data[16:20])), data[9], data[8],
            data[:2] + data[4:8], data[4:8] if is_fragment else b"", offset, data[20:length], data[length:],
            ones_complement(data[:20]) == 0, length,
        )  # fmt: skip
    if len(data) >= 40 and data[0] >> 4 == 6:
        length = 40 + struct.unpack("!H", data[4:6])[0]
        if length > len(data):
            raise ValueError(f"length {length} of {len(data)}")
        protocol, at, fragment, offset = data[6], 40, b"", 0
        if protocol == FRAGMENT_HEADER:
            fragment, protocol, at = data[40:48], data[40], 48
            offset = struct.unpack("!H", fragment[2:4])[0] & ~7
        return Parsed(
            6, str(ipaddress.ip_address(data[8:24])), str(ipaddress.ip_address(data[24:40])), protocol, data[7],
            data[:4] + fragment, fragment, offset, data[at:length], data[length:], True, length,
        )  # fmt: skip
    raise ValueError("no IP header that is forwarded")


def ip_of(frame: bytes) -> Parsed:
    """The packet of an Ethernet frame, whose type has to be that of its version."""
    packet = parsed(frame[14:])
    if frame[12:14] != {4: b"\x08\x00", 6: b"\x86\xdd"}[packet.version]:
        raise ValueError("wrong Ethernet type")
    return packet
