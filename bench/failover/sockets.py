"""What both ends need of the kernel."""

from __future__ import annotations

import resource
import socket
import struct

SO_RCVBUFFORCE = 33  # asm-generic/socket.h
BUFFER_BYTES = 1 << 22  # of a datagram socket: a second in which this process is not run loses nothing
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen when it is known for whom, which is much faster
TCP_INFO_BYTES = 104  # linux/tcp.h, struct tcp_info: to the end of tcpi_total_retrans
_TOTAL_RETRANS = struct.Struct("=100xI")


def raise_limit() -> None:
    """As many open files as this process may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def sent_again(sock: socket.socket) -> int:
    """How many segments of a connection have been sent again."""
    return int(_TOTAL_RETRANS.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES))[0])


def reset(sock: socket.socket) -> None:
    """Its end will be a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
