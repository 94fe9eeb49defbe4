"""Listening sockets: several share a port by SO_REUSEPORT, and nothing is lost when one of them is closed.

Whose they are, and who accepts from them: proxy/seats.py.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from contextlib import suppress
from functools import cache
from typing import Final

from core.endpoints import endpoint, version
from core.resolve import L7Listener
from proxy.errors import ApplyError

# By IP version, linux/in.h and linux/in6.h: bind a VIP that this machine does not (yet) have.
FREEBIND: Final = {4: (socket.IPPROTO_IP, 15), 6: (socket.IPPROTO_IPV6, 78)}
EVERYWHERE: Final = ("", "::")
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
BACKLOG: Final = 4096  # the kernel lowers it to net.core.somaxconn
# The L4 tier asks each second and believes the second refusal (core.resolve.L7_NODE_CHECK): a node that drains goes on
# accepting until it has been noticed. Without VIPs there is no L4 tier to wait for.
LAME_DUCK_S: Final = 3.0

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h
_FILTER_LINE: Final = struct.Struct("=HBBI")  # struct sock_filter of linux/filter.h: code, jt, jf, k
_DROP_SYN: Final = ctypes.create_string_buffer(
    _FILTER_LINE.pack(0x30, 0, 0, 13)  # ldb [13]: the flags of the TCP header
    + _FILTER_LINE.pack(0x45, 1, 0, 0x02)  # jset SYN
    + _FILTER_LINE.pack(0x06, 0, 0, 0xFFFFFFFF)  # ret: the whole packet
    + _FILTER_LINE.pack(0x06, 0, 0, 0)  # ret: nothing of it
)

_REMEDIES: Final = {
    errno.EACCES: "give the process CAP_NET_BIND_SERVICE, or choose a port of 1024 and above",
    errno.EADDRINUSE: "another process has it: `ss -ltnp` shows which",
}


@cache
def has_ipv6() -> bool:
    """Whether this machine can listen on IPv6 at all: its kernel may be without."""
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::", 0))
        return True
    return False


def endpoints(listener: L7Listener) -> tuple[tuple[str, int], ...]:
    """Where a listener answers: on its VIPs, or, without any, on every address of both IP versions, "" and "::"."""
    everywhere = EVERYWHERE if has_ipv6() else EVERYWHERE[:1]
    addresses = everywhere if listener.addresses == ("",) else listener.addresses
    return tuple((address, listener.listener.port) for address in addresses)


def bind(address: str, port: int) -> socket.socket:
    """A bound TCP socket that does not listen yet; "" is every IPv4 address. Raises ApplyError with a remedy."""
    family = version(address)
    sock = socket.socket(FAMILIES[family], socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # clients are known by one kind of address
        if address:
            sock.setsockopt(*FREEBIND[family], 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what is accepted
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise ApplyError(f"cannot bind {endpoint(address, port)}: {why}{'; ' + remedy if remedy else ''}") from None
    return sock


def refuse_new(sock: socket.socket) -> None:
    """Begins no new handshake on a listening socket; those under way are finished.

    Whoever is dropped asks again after a second (RFC 6298), when this socket is closed and another one answers. Kernels
    that keep filters from users without privileges go on shaking hands: those who begin as it is closed are refused.
    """
    lines = len(_DROP_SYN.raw) // _FILTER_LINE.size
    with suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", lines, ctypes.addressof(_DROP_SYN)))


def accept_left(sock: socket.socket) -> list[socket.socket]:
    """The connections that wait in a listening socket's queue: closing it would reset them."""
    accepted = []
    while True:
        try:
            accepted.append(sock.accept()[0])
        except (BlockingIOError, ConnectionAbortedError):
            return accepted
