"""What the kernel says of interfaces, ports and multicast, for `paifang doctor`; without privileges as far as possible.

Interfaces are asked by ioctl, which is of this network namespace, also where /sys is another one's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

# <linux/sockios.h>, <linux/ethtool.h>, <linux/if.h>
_GIFFLAGS, _GIFMTU, _ETHTOOL = 0x8913, 0x8921, 0x8946
_GDRVINFO, _GFLAGS, _GGRO = 0x03, 0x25, 0x2B
_LRO, _RXVLAN = 1 << 15, 1 << 8
_UP_AND_RUNNING = 0x1 | 0x40
_LISTENS, _UDP_OPEN = "0A", "07"  # include/net/tcp_states.h
MULTICAST_S: Final = 1.0


def interface(name: str) -> dict[str, Any]:
    """As control/doctor.py judges it."""
    found: dict[str, Any] = {"name": name, "exists": False}
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return found
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", name.encode()[:15])
        flags = int.from_bytes(fcntl.ioctl(probe, _GIFFLAGS, request)[16:18], sys.byteorder)
        (mtu,) = struct.unpack_from("=i", fcntl.ioctl(probe, _GIFMTU, request), 16)
        driver = _ethtool(probe, name, struct.pack("=I192x", _GDRVINFO))[4:36].split(b"\0")[0].decode()
        of = struct.unpack_from("=II", _ethtool(probe, name, struct.pack("=II", _GFLAGS, 0)))[1]
        gro = struct.unpack_from("=II", _ethtool(probe, name, struct.pack("=II", _GGRO, 0)))[1]
    sys_net = Path("/sys/class/net") / name
    mine = _text(sys_net / "ifindex") == str(index)
    return found | {
        "exists": True, "up": flags & _UP_AND_RUNNING == _UP_AND_RUNNING, "mtu": mtu, "driver": driver,
        "lro": bool(of & _LRO), "rxvlan": bool(of & _RXVLAN), "gro": bool(gro), "gro_hw": _gro_hw(name),
        "vlans": [p.parent.name for p in sys_net.parent.glob(f"*/lower_{name}")] if mine else [],
        "queues": len(list(sys_net.glob("queues/rx-*"))) if mine else 0, "cores": len(os.sched_getaffinity(0)),
    }  # fmt: skip


def _ethtool(probe: socket.socket, name: str, command: bytes) -> bytes:
    """The answer; zeroes where the driver has none."""
    value = ctypes.create_string_buffer(command, len(command))
    with contextlib.suppress(OSError):
        fcntl.ioctl(probe, _ETHTOOL, struct.pack("16sP16x", name.encode()[:15], ctypes.addressof(value)))
        return value.raw
    return bytes(len(command))


def _gro_hw(name: str) -> bool:
    """Of the features that only ethtool(8) tells by name."""
    program = shutil.which("ethtool")
    if program is None:
        return False
    done = subprocess.run([program, "-k", name], capture_output=True, text=True, check=False)
    return "rx-gro-hw: on" in done.stdout


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def listening() -> list[tuple[str, int, str]]:
    """Protocol, port and process of each socket that takes what comes; the process is empty where we may not see it."""
    inodes: dict[str, tuple[str, int]] = {}
    for protocol, state in (("tcp", _LISTENS), ("udp", _UDP_OPEN)):
        for file in (protocol, f"{protocol}6"):
            for line in _text(Path("/proc/net") / file).splitlines()[1:]:
                words = line.split()
                if words[3] == state:
                    inodes[words[9]] = (protocol, int(words[1].rpartition(":")[2], 16))
    holders = dict(_holders(inodes.keys()))
    return sorted({(*at, holders.get(inode, "")) for inode, at in inodes.items()})


def _holders(inodes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Which process has each of these sockets."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for entry in os.scandir(directory / "fd"):
                with contextlib.suppress(OSError):
                    if inode := wanted.get(os.readlink(entry.path)):
                        words = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                        yield inode, f"{directory.name} {words.strip()[:120]}"


def multicast(group: str, interface: str) -> str:
    """Why a datagram to the group does not come back to this machine; empty: it does."""
    six = ipaddress.ip_address(group).version == 6
    family = socket.AF_INET6 if six else socket.AF_INET
    try:
        index = socket.if_nametoindex(interface) if interface else 0
        with socket.socket(family, socket.SOCK_DGRAM) as receiver, socket.socket(family, socket.SOCK_DGRAM) as sender:
            receiver.bind(("", 0))
            if six:
                member = struct.pack("16sI", socket.inet_pton(family, group), index)
                receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            else:
                member = struct.pack("4s4si", socket.inet_aton(group), bytes(4), index)
                receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
            receiver.settimeout(MULTICAST_S)
            sender.sendto(b"paifang doctor", (group, receiver.getsockname()[1]))
            return "" if receiver.recv(64) == b"paifang doctor" else "another one came"
    except TimeoutError:
        return f"nothing came within {MULTICAST_S:g} s"
    except OSError as error:
        return error.strerror or str(error)


def missing_here(addresses: Iterable[str]) -> list[str]:
    """Those that are no addresses of this machine."""
    missing = []
    for address in dict.fromkeys(addresses):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((address, 0))
            except OSError as error:
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    missing.append(address)
    return missing
