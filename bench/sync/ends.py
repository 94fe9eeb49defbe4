"""One node's part of session sync, out of its agent: the data plane with its tables, and what sends and receives."""

from __future__ import annotations

import asyncio
import ctypes
import secrets
import socket
import struct
import time

from bench.l4.frames import ADDRESSES, UDP, to_vip
from bench.l4.rig import NAT_PORT, NOW_S, Root, configure
from l4fast.loader import DataPlane
from l4fast.node import REFRESH_S, layouts_of
from l4fast.sync_codec import MAX_BODY
from l4fast.sync_io import SyncIO
from l4fast.sync_keys import ClusterKey
from l4fast.sync_peer import Sync

KEY = ClusterKey(bytes(range(32)))
SOCKET_BYTES = 4 << 20
_SO_RCVBUFFORCE = 33
SERVERS = 10


def udp_socket() -> socket.socket:
    """On loopback, in place of the group."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, SOCKET_BYTES)
    sock.bind(("127.0.0.1", 0))
    return sock


class End:
    """A node; `plane` is closed by the caller. To be made inside a running loop."""

    def __init__(self, name: str, plane: DataPlane, *versions: int) -> None:
        self.plane = plane
        self.tables = configure(plane, *versions)
        self.sync = Sync(
            name=name, keys=(KEY,), boot=time.time_ns(), salt=secrets.randbits(64),
            now=asyncio.get_running_loop().time(),
            layouts=layouts_of(self.tables.layouts),
            refresh_s=REFRESH_S,
        )  # fmt: skip
        self.sock = udp_socket()
        self.now_s = NOW_S

    def io(self, to: socket.socket) -> SyncIO:
        """Sends to that socket and receives from its own."""
        return SyncIO(self.sync, self.tables, self.sock, to.getsockname())

    def close(self) -> None:
        self.sock.close()


class Clients:
    """Datagrams of so many flows (a power of two) to a nat listener, run through a node's program."""

    def __init__(self, end: End, version: int, count: int) -> None:
        of = ADDRESSES[version]
        self.count = count
        self._end = end
        self._root = Root(version, count)
        self._root.load(to_vip(of.clients(count), of.vip, NAT_PORT, 0, UDP))

    def send(self, rounds: int = 1) -> None:
        """A datagram of each flow, so many times."""
        self._root.run((self._end.plane.programs[4], "lb"), rounds * self.count)

    def later(self) -> None:
        """So much later that the peers are to be told of each flow's next packet."""
        self._end.now_s += 60
        self._end.tables.set_epoch(self._end.now_s)

    def close(self) -> None:
        self._root.close()


Page = tuple[bytes, int, int]  # a datagram's body, how many records and ends it has


def sessions(plane: DataPlane, version: int, count: int, last_s: int = NOW_S, first: int = 0) -> tuple[bytes, bytes]:
    """Keys and values of so many sessions, as a peer has them."""
    table = plane.map("sessions", version)
    key, value = (
        table.key(vip_port=socket.htons(NAT_PORT), protocol=UDP),
        table.value(bytes=5000, packets=100, learnt=1),
    )
    value.last_s, value.state, value.real_port = last_s, 4, socket.htons(8080)
    keys = bytearray(bytes(key) * count)
    _number(keys, count, table.key.client.offset + table.key.client.size, first)
    return bytes(keys), bytes(value) * count


def pages(end: End, version: int, count: int, last_s: int = NOW_S, first: int = 0) -> list[Page]:
    """The same sessions with ten servers, as a peer tells of them in full datagrams."""
    _, _, end_type, told_type = end.tables.layouts[version]
    ends = bytes(end_type(port=socket.htons(NAT_PORT), protocol=UDP))
    for server in range(1, SERVERS + 1):
        ends += bytes(end_type(port=socket.htons(8080 + server)))
    told = told_type(packets=socket.htonl(100), bytes_low=socket.htonl(5000), state=4)
    size = ctypes.sizeof(told)
    records = bytearray(bytes(told) * count)
    _number(records, count, told_type.client.offset + told_type.client.size, first)
    for field in (told_type.real, told_type.source):
        records[field.offset :: size] = bytes(1 + n % SERVERS for n in range(count))
    per = full_page(end, version)
    head = struct.pack("!I", last_s) + ends
    return [
        (head + records[at * size : (at + per) * size], min(per, count - at), SERVERS + 1)
        for at in range(0, count, per)
    ]  # fmt: skip


def full_page(end: End, version: int) -> int:
    """Records of that kind in one datagram."""
    layout = end.sync.layouts[version]
    return (MAX_BODY - layout.body_size(0, SERVERS + 1)) // layout.told_size


def _number(block: bytearray, count: int, end_at: int, first: int) -> None:
    """Clients' addresses end there in each record: with numbers far apart, as theirs are."""
    size = len(block) // count
    numbers = struct.pack(f"={count}I", *((n * 2654435761) & 0xFFFFFFFF for n in range(first, first + count)))
    for byte in range(4):
        block[end_at - 4 + byte :: size] = numbers[byte::4]
