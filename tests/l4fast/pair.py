"""Two nodes that announce VIPs by real programs, and a router that hears them, without a data plane.

router ── 10.77.0.1, fd77::1
n1, n2 ── 10.77.0.11 and .12, fd77::11 and ::12
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploy.lab import namespaces
from l4fast.announcing import Program
from l4fast.keepalived import take_off_leftovers
from l4fast.keeper import end_old
from l4fast.shares import shares
from tests.l4fast.netns import Network, sh

NODES = ("n1", "n2")
LAST = {"router": 1, "n1": 11, "n2": 12}
TRIES = 3  # of what has to be quick: a busy machine may be late once


class Pair:
    """Two nodes that announce, and a router that listens."""

    def __init__(self, network: Network, directory: Path, make: Callable[[str, Path, str], Program]) -> None:
        self.network, self.directory, self._make = network, directory, make
        self.nodes: dict[str, Program] = {}
        self.pools: dict[str, Sequence[str]] = {}
        for host, last in LAST.items():
            network.host(host, f"10.77.0.{last}/24", "link set eth0 down", "link set eth0 addrgenmode none",
                         f"addr add fe80::{last}/64 dev eth0 nodad", f"addr add fd77::{last}/64 dev eth0 nodad",
                         "link set eth0 up")  # fmt: skip
            network.inside(host, lambda: sh("sysctl -qw net.ipv6.conf.eth0.accept_dad=0"))
        for node in NODES:
            self.begin(node)

    def begin(self, node: str) -> None:
        """As an agent that starts: what an earlier one has left goes first."""
        home = self.directory / node
        home.mkdir(exist_ok=True)
        end_old(home)
        self.network.inside(node, lambda: take_off_leftovers(home))
        self.nodes[node] = self.network.inside(node, lambda: self._make(node, home, f"10.77.0.{LAST[node]}"))

    def put(self, node: str, vips: Sequence[str]) -> None:
        everyones = frozenset(address for pool in self.pools.values() for address in pool)
        found = shares(vips, self.pools, NODES, node)
        self.run(node, lambda program: program.put(found, everyones))

    def run(self, node: str, call: Callable[[Program], Any]) -> None:
        """Calls a method of the node's program in its namespace and waits for it."""

        async def wait() -> None:
            await call(self.nodes[node])

        self.network.inside(node, lambda: asyncio.run(wait()))

    def states(self, node: str) -> dict[str, str]:
        program = self.nodes[node]
        program.renew()
        self.run(node, lambda program: program.poll())
        return {str(each["address"]): str(each["state"]) for each in program.states.report()}

    def held(self, node: str) -> set[str]:
        return {address for address, state in self.states(node).items() if state in ("master", "announced")}

    def transitions(self) -> dict[tuple[str, str], object]:
        return {
            (node, str(each["address"])): each["transitions"]
            for node in NODES
            for each in self.nodes[node].states.report()
        }

    def ip(self, host: str, *words: str) -> str:
        command = ["ip", "-n", f"{self.network.prefix}-{host}", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def here(self, node: str) -> set[str]:
        """The single hosts' addresses that the node has: VIPs."""
        shown = self.ip(node, "-o", "addr", "show", "dev", "eth0").split()
        return {word.partition("/")[0] for word in shown if word.endswith(("/32", "/128"))}

    def mac(self, node: str) -> str:
        return self.ip(node, "-o", "link", "show", "dev", "eth0").split("link/ether ")[1].split()[0]

    def die(self, node: str) -> None:
        """The death of a machine: nothing of it does anything any more, not even on its link's end."""
        inside = [f"{self.network.prefix}-{node}"]
        for pid in namespaces.inhabitants(inside):
            os.kill(pid, signal.SIGSTOP)
        self.network.ip("sw", f"link set {node} down")
        namespaces.kill(inside)
        process = self.nodes[node]._keeper._process  # type: ignore[attr-defined]
        if process is not None:
            process.wait(10)

    def close(self) -> None:
        for node, program in self.nodes.items():
            if program.runs():
                self.run(node, lambda program: program.end())
            end_old(self.directory / node)
            program.close()
        namespaces.end([f"{self.network.prefix}-{host}" for host in LAST], grace_s=3.0)


def ping(address: str) -> socket.socket:
    """A socket that asks an address for echoes; in the namespace of the calling thread."""
    family, protocol = (socket.AF_INET6, 58) if ":" in address else (socket.AF_INET, 1)
    sock = socket.socket(family, socket.SOCK_DGRAM, protocol)
    sock.settimeout(0.02)
    sock.connect((address, 0))
    return sock


def longest_silence_s(pair: Pair, address: str, meanwhile: Callable[[], None], for_s: float = 2.0) -> float:
    """How long the address did not answer the router, while something happened to its owner."""
    kind = 128 if ":" in address else 8
    sock = pair.network.inside("router", lambda: ping(address))
    worker = threading.Thread(target=meanwhile)
    began = last = time.monotonic()
    longest = 0.0
    started = False
    with sock:
        while time.monotonic() - began < for_s + 0.5:
            if not started and time.monotonic() - began > 0.3:
                worker.start()
                started = True
            try:
                sock.send(struct.pack("!BBHHH", kind, 0, 0, 0, 1))
                sock.recv(100)
            except OSError:
                pass
            else:
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
            time.sleep(0.01)
    worker.join()
    return max(longest, time.monotonic() - last)
