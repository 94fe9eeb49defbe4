"""Session sync on the network: one multicast socket, the data plane's ring and the timers, on the event loop.

Nothing here waits. A page from the ring becomes a datagram and is sent at once; what the socket does not take goes to a
bounded queue, and what the queue does not take is dropped, counted, and asked for again by the peers, who see the gap.
A datagram from a peer becomes one run of the program that merges. FLUSH_S bounds how long a record lies in a page that
is not full.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from core.endpoints import version
from l4fast.merging import Merged
from l4fast.sync_codec import MAX_DATAGRAM
from l4fast.sync_ends import Ended
from l4fast.sync_peer import Sync
from l4fast.sync_records import Records

log = logging.getLogger(__name__)

FLUSH_S: Final = 0.015  # the design allows a record 20 ms in a page
QUEUE_LIMIT: Final = 1024  # datagrams: 1.4 MB, up to 65,000 records
SEND_BATCH: Final = 32  # datagrams that are sealed before they are sent, 0.2 ms: either is quicker when repeated
RECEIVE_BATCH: Final = 64  # datagrams taken in one turn of the loop, so that nothing else starves
BUFFER_BYTES: Final = 4 << 20  # what the kernel may hold while one turn of the loop takes long
LOG_EVERY_S: Final = 10.0

_IP_MULTICAST_ALL: Final = 49  # linux/in.h; not in Python's socket module
_IPV6_MULTICAST_ALL: Final = 29  # linux/in6.h
_SOL_UDP: Final = 17
_UDP_NO_CHECK6_TX: Final = 101  # linux/udp.h
_UDP_NO_CHECK6_RX: Final = 102
_SO_NO_CHECK: Final = 11  # asm-generic/socket.h
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_IP_MREQN: Final = struct.Struct("=4s4si")
_IPV6_MREQ: Final = struct.Struct("=16si")


class SessionTable(Protocol):
    """What session sync needs of the data plane (`l4fast.tables.Tables`)."""

    @property
    def ring_fds(self) -> Mapping[int, int]: ...
    def on_sync_page(self, callback: Callable[[int, bytes, int, int], None]) -> None: ...
    def drain_ring(self, version: int) -> None: ...
    def flush_sync(self) -> None: ...
    def hear_sessions(self, version: int, body: bytes, count: int, ends: int, shift_s: int = 0) -> Merged: ...
    def set_lacking(self, lacking: bool) -> None: ...
    def end_keys(self, version: int, keys: bytes, until_s: int) -> int: ...


def multicast_socket(group: str, port: int, interface: str) -> socket.socket:
    """A socket that sends to and receives from the group on this interface alone. Raises OSError.

    Datagrams carry no UDP checksum: they are authenticated, and a packet made on this machine would otherwise cross a
    veth pair with an unfinished one, which the XDP program at the far end turns into a wrong one. (IPv6 allows this
    where both ends agree: RFC 6935, 6936.)
    """
    family = socket.AF_INET6 if version(group) == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        index = socket.if_nametoindex(interface)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in (_SO_RCVBUFFORCE, _SO_SNDBUFFORCE):
            with contextlib.suppress(PermissionError):  # then the system's default size has to do
                sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        if family == socket.AF_INET6:
            _join_v6(sock, group, index)
            sock.bind((group, port, 0, index))
        else:
            _join(sock, group, index)
            sock.bind((group, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _join(sock: socket.socket, group: str, index: int) -> None:
    member = _IP_MREQN.pack(socket.inet_aton(group), bytes(4), index)
    sock.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, 1)
    sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)


def _join_v6(sock: socket.socket, group: str, index: int) -> None:
    member = _IPV6_MREQ.pack(socket.inet_pton(socket.AF_INET6, group), index)
    sock.setsockopt(_SOL_UDP, _UDP_NO_CHECK6_TX, 1)
    sock.setsockopt(_SOL_UDP, _UDP_NO_CHECK6_RX, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)


def address_of(source: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """With its zone, of an address of one link."""
    return f"{source[0]}%{source[3]}" if len(source) == 4 and source[3] else source[0]


class SyncIO:
    """Runs a `Sync` between the data plane and a socket. `start` and `close` are for the loop's thread."""

    def __init__(
        self, sync: Sync, table: SessionTable, sock: socket.socket, group: tuple[str, int], *,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:  # fmt: skip
        self._sync = sync
        self._table = table
        self._sock = sock
        self._group = group
        self._queue: deque[bytes] = deque()
        self._queue_limit = queue_limit
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._waiting = False
        self._log_after: dict[str, float] = {}
        self._lacking: bool | None = None

    def start(self) -> None:
        self._table.on_sync_page(self._on_page)
        for ip_version, fd in self._table.ring_fds.items():
            self._loop.add_reader(fd, self._empty_ring, ip_version)
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self._flush()
        self._tick()

    def close(self) -> None:
        """Sends what still lies in the pages, as far as the socket takes it, and ends."""
        self.stop()
        self._sock.close()

    def stop(self) -> None:
        """The same, but for the socket."""
        for timer in self._timers.values():
            timer.cancel()
        with contextlib.suppress(OSError):
            self._table.flush_sync()
            for ip_version in self._table.ring_fds:
                self._empty_ring(ip_version)
        for fd in self._table.ring_fds.values():
            self._loop.remove_reader(fd)
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())

    # Out

    def _empty_ring(self, ip_version: int) -> None:
        self._table.drain_ring(ip_version)
        self._send()

    def _on_page(self, ip_version: int, body: bytes, count: int, ends: int) -> None:
        self._sync.send_sessions(ip_version, body, count, ends, time.time_ns() // 1000)
        if self._sync.datagrams_to_send >= SEND_BATCH:
            self._send()

    def _flush(self) -> None:
        self._timers["flush"] = self._loop.call_later(FLUSH_S, self._flush)
        try:
            self._table.flush_sync()
        except OSError as error:  # the records stay in their pages
            self._log(self._loop.time(), "session records cannot be collected: %s", error)
        if self._sync.datagrams_to_send:  # that somebody else has put there
            self._send()

    def _tick(self) -> None:
        now = self._loop.time()
        self._sync.tick(now, time.time_ns() // 1000)
        for ended in self._sync.ended_again(now):
            self._end(ended, now)
        self._send()
        self._note_lacking(now)
        self._schedule_tick()

    def _note_lacking(self, now: float) -> None:
        if (lacking := self._sync.lacking(now)) is not self._lacking:
            self._lacking = lacking
            self._table.set_lacking(lacking)

    def _schedule_tick(self) -> None:
        if "tick" in self._timers:
            self._timers["tick"].cancel()
        self._timers["tick"] = self._loop.call_at(self._sync.next_timer(), self._tick)

    def _send(self) -> None:
        """Takes what the state machine wants sent; never blocks, never keeps more than the queue's limit."""
        for datagram in self._sync.data_to_send():
            if self._waiting and len(self._queue) >= self._queue_limit:
                self._drop(1, "send_queue_full")
            elif self._waiting or not self._sent(datagram):
                self._queue.append(datagram)
                self._wait(True)

    def _drain(self) -> None:
        while self._queue and self._sent(self._queue[0]):
            self._queue.popleft()
        self._wait(bool(self._queue))

    def _sent(self, datagram: bytes) -> bool:
        """Whether it is done with: sent, or dropped."""
        try:
            self._sock.sendto(datagram, self._group)
        except BlockingIOError:
            return False
        except OSError as error:  # no route, the link is down, no buffers: later datagrams may do better
            self._drop(1, "send_error", error)
        return True

    def _wait(self, waiting: bool) -> None:
        if waiting and not self._waiting:
            self._loop.add_writer(self._sock.fileno(), self._drain)
        elif self._waiting and not waiting:
            self._loop.remove_writer(self._sock.fileno())
        self._waiting = waiting

    def _drop(self, count: int, reason: str, error: OSError | None = None) -> None:
        now = self._loop.time()
        self._sync.dropped(count, reason, now)
        self._log(now, "session sync cannot send: %s", error or "the queue is full")

    def _log(self, now: float, message: str, what: object) -> None:
        if now >= self._log_after.get(message, 0.0):
            self._log_after[message] = now + LOG_EVERY_S
            log.warning(message, what)

    # In

    def _readable(self) -> None:
        now, wall_us = self._loop.time(), time.time_ns() // 1000
        for _ in range(RECEIVE_BATCH):
            try:
                datagram, source = self._sock.recvfrom(MAX_DATAGRAM + 1)
            except BlockingIOError:
                break
            except OSError as error:
                self._log(now, "session sync cannot receive: %s", error)
                break
            told = self._sync.receive_data(datagram, now, wall_us, address_of(source))
            if isinstance(told, Records):
                self._write(told, now)
            elif told is not None:
                self._end(told, now)
        self._send()
        self._note_lacking(now)
        self._schedule_tick()

    def _end(self, ended: Ended, now: float) -> None:
        try:
            self._table.end_keys(ended.ip, ended.keys, ended.until_s)
        except OSError as error:
            self._log(now, "sessions that were ended stay: %s", error)

    def _write(self, records: Records, now: float) -> None:
        try:
            merged = self._table.hear_sessions(records.ip, records.body, records.count, records.ends, records.shift_s)
        except OSError as error:
            merged, why = Merged(full=records.count), str(error)
        else:
            why = "the session table is full"
        if merged.full:
            self._sync.counters["write_failed"] += merged.full
            self._log(now, "sessions of a peer are not taken over: %s", why)
        self._sync.counters["received_older"] += records.count - merged.new - merged.newer - merged.full
