"""Fragments that came before the first of their packet: they wait here until it has come, for a quarter of a second.

XDP cannot hold a packet. The program hands an early fragment over (bpf/fragment.h: hold), so many a second at most; the
program `release` is asked about it, at growing intervals, and it is sent once the first has passed. What nobody's first
has claimed by then is gone if it was for a VIP; from a real it may be no answer at all, and the kernel gets it
(docs/decisions/0015).

`Waiting` decides and touches nothing; `EarlyFragments` does the rest.
"""

from __future__ import annotations

import asyncio
import ctypes as ct
import heapq
import itertools
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from l4fast.addresses import text_of
from l4fast.bpf import syscall
from l4fast.hop_tables import WAY_HERE, WAY_INTERFACE, WAY_VLAN_SHIFT
from l4fast.loader import DataPlane

log = logging.getLogger(__name__)

FIRST_LOOK_S: Final = 0.002  # fragments that overtake are microseconds apart; then twice as long each time
LIMIT_S: Final = 0.25
MOST: Final = 1024  # fragments, of at most 2 KiB
HELD_PER_CPU_S: Final = 500  # of them a second: the daemon's work, and a flood's share of it, are bounded
XDP_PASS, XDP_TX = 2, 3
_ETHERNET = 14
_IP_HDRINCL, _IPV6_HDRINCL = 3, 36  # linux/in.h, linux/in6.h
_FORWARDING = {
    4: Path("/proc/sys/net/ipv4/ip_forward"),
    6: Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}


@dataclass(frozen=True, slots=True)
class Fragment:
    version: int
    frame: bytes
    came: float  # loop time


class Waiting:
    """Who waits and when to look. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Fragment]] = []
        self._number = itertools.count()

    def add(self, fragment: Fragment) -> bool:
        """Whether there is room."""
        if len(self._queue) >= MOST:
            return False
        self._push(fragment, fragment.came + FIRST_LOOK_S)
        return True

    def _push(self, fragment: Fragment, when: float) -> None:
        heapq.heappush(self._queue, (when, next(self._number), fragment))

    def next_look(self) -> float | None:
        return self._queue[0][0] if self._queue else None

    def due(self, now: float) -> list[Fragment]:
        """Those to look at now. The caller gives back what still waits."""
        due = []
        while self._queue and self._queue[0][0] <= now:
            due.append(heapq.heappop(self._queue)[2])
        return due

    def again(self, fragment: Fragment, now: float) -> bool:
        """Lets it wait on, twice as long as it has; False: its time is over."""
        waited = now - fragment.came
        if waited >= LIMIT_S:
            return False
        self._push(fragment, fragment.came + min(2 * waited, LIMIT_S))
        return True


class EarlyFragments:
    """Holds the fragments of one data plane. For the loop's thread.

    `send`: puts a frame on the wire by a next hop's `way` (bpf/types.h); `forward`: gives an IP packet of the version
    to the kernel.
    """

    def __init__(
        self, plane: DataPlane, send: Callable[[int, bytes], None], forward: Callable[[int, bytes], None]
    ) -> None:
        self.counters: Counter[str] = Counter(held=0, sent=0, expired=0, forwarded=0)
        self._plane = plane
        self._send = send
        self._forward = forward
        self._waiting = Waiting()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._vips = {version: plane.map("vips", version) for version in plane.programs}
        self._fds: dict[int, int] = {}

    def start(self) -> None:
        for version, program in self._plane.programs.items():
            self._open(version)
            self._fds[version] = program.map_fd("early_fragments")
            self._loop.add_reader(self._fds[version], program.consume)
        self._plane.set(held_per_cpu_s=HELD_PER_CPU_S)

    def close(self) -> None:
        self._plane.set(held_per_cpu_s=0)
        for fd in self._fds.values():
            self._loop.remove_reader(fd)
        if self._timer is not None:
            self._timer.cancel()

    def _open(self, version: int) -> None:
        held = self._plane.map("held_frame", version).value

        def record(address: int, _size: int) -> None:
            length = ct.c_uint64.from_address(address + held.length.offset).value
            self._take(version, ct.string_at(address + held.frame.offset, length))

        self._plane.programs[version].open_ring("early_fragments", record)

    def _take(self, version: int, frame: bytes) -> None:
        fragment = Fragment(version, frame, self._loop.time())
        self.counters["held"] += 1
        if self._waiting.add(fragment):
            self._schedule()
        else:
            self._give_up(fragment)

    def _schedule(self) -> None:
        when = self._waiting.next_look()
        if when is not None and self._timer is None:
            self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for fragment in self._waiting.due(now):
            program = self._plane.programs[fragment.version]
            outcome, frame, _ = syscall.run_program(program.fd("release"), fragment.frame)
            if outcome == XDP_PASS:
                if not self._waiting.again(fragment, now):
                    self._give_up(fragment)
            elif outcome & 0xFF == XDP_TX:
                self.counters["sent"] += 1
                self._send(outcome >> 8, frame)
        self._schedule()

    def _give_up(self, fragment: Fragment) -> None:
        packet = fragment.frame[_ETHERNET:]
        destination = packet[16:20] if fragment.version == 4 else packet[24:40]
        vips = self._vips[fragment.version]
        if vips.get(vips.key.from_buffer_copy(destination)) is None:
            self.counters["forwarded"] += 1
            self._forward(fragment.version, packet)
        else:
            self.counters["expired"] += 1


class Wire:
    """Where fragments go: frames onto the interfaces, packets to the kernel. Raises OSError when it is made."""

    def __init__(self, *interfaces: str) -> None:
        self._frames = [_frames(interface) for interface in interfaces]
        self._packets = {4: _raw(4), 6: _raw(6)}

    def close(self) -> None:
        for sock in (*self._frames, *self._packets.values()):
            sock.close()

    def send(self, way: int, frame: bytes) -> None:
        if way & WAY_HERE:
            self._up(frame[_ETHERNET:])
            return
        number = max(1, way & WAY_INTERFACE) - 1  # 0: there is only one
        with suppress(OSError):  # the interface is down or its queue full: lost as on any way
            self._frames[number].send(tagged(way >> WAY_VLAN_SHIFT, frame))

    def forward(self, version: int, packet: bytes) -> None:
        """As the kernel would have, had it got the packet: if it forwards at all."""
        ttl_at, address = (8, packet[16:20]) if version == 4 else (7, packet[24:40])
        if not _FORWARDING[version].read_text().startswith("1") or packet[ttl_at] <= 1:
            return
        older = bytearray(packet)
        older[ttl_at] -= 1  # the kernel makes IPv4's checksum anew (raw(7))
        with suppress(OSError):
            self._packets[version].sendto(older, (text_of(address), 0))

    def _up(self, packet: bytes) -> None:
        """To an address of this node."""
        version, address = (4, packet[16:20]) if packet[0] >> 4 == 4 else (6, packet[24:40])
        with suppress(OSError):
            self._packets[version].sendto(packet, (text_of(address), 0))


def tagged(vlan: int, frame: bytes) -> bytes:
    """The frame in a VLAN (IEEE 802.1Q); 0: in none."""
    return frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:] if vlan else frame


def _frames(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
    sock.bind((interface, 0))
    return sock


def _raw(version: int) -> socket.socket:
    family, level, option = {
        4: (socket.AF_INET, socket.IPPROTO_IP, _IP_HDRINCL),
        6: (socket.AF_INET6, socket.IPPROTO_IPV6, _IPV6_HDRINCL),
    }[version]
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
    sock.setsockopt(level, option, 1)
    return sock
