"""The frames that the benchmarks send: the shortest of each IP version, flows that differ in address and port.

The TCP and UDP checksums are made up, since nothing on the way verifies them; those of the IPv4 header are right.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

NODE_MAC = bytes.fromhex("020000000001")
SENDER_MAC = bytes.fromhex("020000000002")
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
ACK, SYN, FIN = 0x10, 0x02, 0x01
# 64 bytes: the least that Ethernet carries, its checksum left out as XDP does not see it; IPv6 and TCP take more.
FRAME_BYTES = {4: 64, 6: 80}

Client = tuple[str, int]  # address and port


@dataclass(frozen=True)
class Addresses:
    """Whose packets these are, in one IP version."""

    version: int
    node: str
    vip: str
    stateless_vip: str
    reals: tuple[str, ...]
    pool: tuple[str, ...]
    gateway: str  # the tables' name for the next hop towards clients

    def clients(self, count: int) -> list[Client]:
        """So many, all different, in an order that has nothing to do with their numbers; the same in every run."""
        chosen = random.Random(1)
        taken: set[tuple[int, int]] = set()
        while len(taken) < count:
            taken.add((chosen.randrange(1 << 24), chosen.randrange(1024, 65536)))
        order = sorted(taken, key=lambda _: chosen.random())
        return [(self._client(number), port) for number, port in order]

    def _client(self, number: int) -> str:
        if self.version == 4:
            return socket.inet_ntoa((0x0B000000 + number).to_bytes(4))
        return f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::7"


ADDRESSES = {
    4: Addresses(
        version=4,
        node="10.0.0.2",
        vip="10.0.0.100",
        stateless_vip="10.0.0.101",
        reals=tuple(f"10.0.1.{n}" for n in range(1, 11)),
        pool=tuple(f"10.0.9.{n}" for n in range(16)),
        gateway="0.0.0.0",
    ),
    6: Addresses(
        version=6,
        node="fd00::2",
        vip="fd00::100",
        stateless_vip="fd00::101",
        reals=tuple(f"fd00:1::{n:x}" for n in range(1, 11)),
        pool=tuple(f"fd00:9::{n:x}" for n in range(16)),
        gateway="::",
    ),
}


def real_mac(number: int) -> bytes:
    return NODE_MAC[:5] + bytes([0x10 + number])


def checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(
    source: Client, destination: Client, *, flags: int = 0, protocol: int = TCP, to_mac: bytes = NODE_MAC
) -> bytes:
    """A frame of FRAME_BYTES; its SYN has sequence number 1, what follows has 2."""
    (source_address, source_port), (address, port) = source, destination
    if protocol == TCP:
        sequence = 1 if flags & SYN else 2
        l4 = struct.pack("!HHIIBBHHH", source_port, port, sequence, 1, 0x50, flags, 512, 0x1234, 0)
    else:
        l4 = struct.pack("!HHHH", source_port, port, 20, 0x1234) + bytes(12)
    if ":" in address:
        ethertype, head = 0x86DD, struct.pack("!IHBB", 0x60000000, len(l4), protocol, 64)
        head += socket.inet_pton(socket.AF_INET6, source_address) + socket.inet_pton(socket.AF_INET6, address)
    else:
        ethertype, head = 0x0800, struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(l4), 0, 0, 64, protocol, 0)
        head += socket.inet_aton(source_address) + socket.inet_aton(address)
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    size = FRAME_BYTES[6 if ":" in address else 4]
    return (to_mac + SENDER_MAC + struct.pack("!H", ethertype) + head + l4).ljust(size, b"\0")


def to_vip(clients: Sequence[Client], vip: str, port: int, flags: int, protocol: int = TCP) -> list[bytes]:
    return [frame(client, (vip, port), flags=flags, protocol=protocol) for client in clients]
