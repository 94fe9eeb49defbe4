"""A switch with hosts on it, each in a network namespace, for tests that need real packets."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def sh(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True, text=True)


class Network:
    """Hosts `PREFIX-<name>` on one bridge. A link's end in the host is called `eth0`, the bridge's end by the host."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._stack = ExitStack()
        self._namespace("sw")
        self.ip("sw", "link add br0 type bridge mcast_snooping 0")
        self.ip("sw", "link set br0 up")

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _namespace(self, host: str) -> None:
        name = f"{self.prefix}-{host}"
        sh(f"ip netns add {name}")
        self._stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False, capture_output=True)
        self.ip(host, "link set lo up")

    def host(self, host: str, address: str, *commands: str) -> None:
        """A host with this address (and prefix length); each command is given to `ip` inside it."""
        self._namespace(host)
        self.ip("sw", f"link add {host} mtu 1500 type veth peer name eth0 netns {self.prefix}-{host}")
        for namespace, device in (("sw", host), (host, "eth0")):
            # Packets made here would otherwise cross the veth pair with unfinished checksums.
            sh(f"nsenter --net={self.path(namespace)} ethtool -K {device} tx off")
        self.ip("sw", f"link set {host} master br0 up")
        self.ip(host, f"addr add {address} dev eth0")
        for command in ("link set eth0 up", *commands):
            self.ip(host, command)

    def path(self, host: str) -> str:
        return f"/run/netns/{self.prefix}-{host}"

    def ip(self, host: str, command: str) -> None:
        sh(f"ip -n {self.prefix}-{host} {command}")

    def inside(self, host: str, function: Callable[[], T]) -> T:
        """Calls it in a thread that has entered the host; sockets made there stay there."""
        result: list[T] = []
        failure: list[BaseException] = []

        def run() -> None:
            try:
                with open(self.path(host)) as file:
                    if _libc.setns(file.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                result.append(function())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]


@contextmanager
def listening(network: Network, host: str, address: str) -> Iterator[socket.socket]:
    """A listening TCP socket inside the host, on a port that the kernel chooses."""
    with network.inside(host, lambda: socket.create_server((address, 0))) as sock:
        yield sock
