"""The interfaces that a data plane is attached to."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
from dataclasses import dataclass

_SIOCGIFFLAGS, _SIOCGIFMTU, _SIOCGIFHWADDR = 0x8913, 0x8921, 0x8927  # <linux/sockios.h>
_IFF_UP, _IFF_RUNNING = 0x1, 0x40  # <linux/if.h>


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


def carries(name: str) -> bool:
    """Whether a link is up and its cable carries (netdevice(7)); not if it is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            answer = fcntl.ioctl(probe.fileno(), _SIOCGIFFLAGS, struct.pack("256s", name.encode()[:15]))
        except OSError:
            return False
    flags = int.from_bytes(answer[16:18], sys.byteorder)
    return flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING
