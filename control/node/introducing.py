"""Connections that begin with a header of the PROXY protocol (docs/proxy-protocol.md), before TLS if there is any.

The proxy makes them, and its health checks do.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from core.endpoints import UNIX, version
from core.proxy_protocol import LOCAL, End, Header, write

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


async def introduced(address: str, port: int, header: Callable[[socket.socket], bytes]) -> socket.socket:
    """A socket that is connected to a server and has said its header. Raises OSError; the caller limits the time."""
    loop = asyncio.get_running_loop()
    path = address.removeprefix(UNIX) if address.startswith(UNIX) else ""
    sock = socket.socket(socket.AF_UNIX if path else _FAMILIES[version(address)], socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if not path:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, path or (address, port))
        await loop.sock_sendall(sock, header(sock))
    except BaseException:
        sock.close()
        raise
    return sock


def of_a_check(sock: socket.socket, version: int) -> bytes:
    """What a check of ours begins with: LOCAL, which version 1 does not have; there it is the connection's own ends."""
    if version != 1:
        return write(LOCAL)
    return write(Header(1, end(sock.getsockname()), end(sock.getpeername())))


def end(name: object) -> End | None:
    """A socket's name as an end; None: it is no IP address and port."""
    match name:
        case (str(address), int(port), *_):
            return address.partition("%")[0], port
    return None
