"""The interfaces that a data plane is attached to."""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass

_SIOCGIFMTU, _SIOCGIFHWADDR = 0x8921, 0x8927  # <linux/sockios.h>


@dataclass(frozen=True, slots=True)
class Interface:
    """One of them, as it was when the program was attached; `mtu` in bytes."""

    name: str
    index: int
    mac: bytes
    mtu: int


def interface(name: str) -> Interface:
    """What the kernel says of a link (netdevice(7)). Raises OSError."""
    request = struct.pack("256s", name.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        mac = fcntl.ioctl(probe.fileno(), _SIOCGIFHWADDR, request)[18:24]
        (mtu,) = struct.unpack_from("=i", fcntl.ioctl(probe.fileno(), _SIOCGIFMTU, request), 16)
    return Interface(name, socket.if_nametoindex(name), mac, mtu)
