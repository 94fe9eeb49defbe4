"""Listening sockets: several processes share a port by SO_REUSEPORT, and nothing is lost when one closes its own.

The supervisor binds every address without listening: that reserves the port, and tells whether it can be had before
anything is changed, while connections go to the workers' sockets alone.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from proxy.errors import ApplyError

IP_FREEBIND: Final = 15  # linux/in.h: bind a VIP that this machine does not (yet) have
BACKLOG: Final = 4096  # the kernel lowers it to net.core.somaxconn

_REMEDIES: Final = {
    errno.EACCES: "give the process CAP_NET_BIND_SERVICE, or choose a port of 1024 and above",
    errno.EADDRINUSE: "another process has it: `ss -ltnp` shows which",
}


def bind(address: str, port: int) -> socket.socket:
    """A bound TCP socket that does not listen yet; "" is every address. Raises ApplyError with a remedy."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what is accepted
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        why = os.strerror(error.errno).lower() if error.errno else str(error)
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise ApplyError(f"cannot bind {address or '0.0.0.0'}:{port}: {why}{'; ' + remedy if remedy else ''}") from None
    return sock


def accept_left(sock: socket.socket) -> list[socket.socket]:
    """The connections that wait in a listening socket's queue: closing it would reset them."""
    accepted = []
    while True:
        try:
            accepted.append(sock.accept()[0])
        except (BlockingIOError, ConnectionAbortedError):
            return accepted
