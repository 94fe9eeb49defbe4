"""Ports for our own processes on this machine."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOWEST = 15000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody uses at the moment, below those that the kernel gives to connections.

    A port that the kernel chooses itself (bind to 0) is of that range: by the time that a child has started, some
    connection of this machine may have it.
    """
    highest = int(_EPHEMERAL.read_text().split()[0]) - 1
    if highest <= LOWEST:
        return _bound(0)
    while True:
        try:
            return _bound(random.randint(LOWEST, highest))  # noqa: S311 - not a secret
        except OSError:
            continue


def _bound(port: int) -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
        found: int = sock.getsockname()[1]
        return found
