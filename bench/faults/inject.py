"""Doing a fault to a lab, and undoing it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from bench.faults import cut
from bench.faults.kinds import Act, Fault
from bench.faults.restart import Restarter
from control.node import admin
from deploy.lab import namespaces
from deploy.lab.lab import Lab
from deploy.lab.topology import DEVICE, VIPS, Host, pool_of, port_of
from l4fast.pins import Pins

BALLAST = "ballast"
PIECE_BYTES = 1 << 16
MOST_BYTES = 256 << 20  # no disk of a campaign's is larger: another one is not filled up by mistake
WAIT_S, LOOK_S = 30.0, 0.05

Undo = Callable[[], None]


class NobodyError(Exception):
    """There is no such process on the host."""


@dataclass
class Injector:
    lab: Lab
    restarter: Restarter

    def strike(self, fault: Fault) -> Undo:
        """Does it; returns what ends it. Raises NobodyError."""
        host = self.lab.host(fault.hosts[0])
        match fault.kind.act:
            case Act.KILL:
                os.kill(self._main(host), signal.SIGKILL)
            case Act.KILL_WORKER:
                os.kill(self._worker(host, fault.pick), signal.SIGKILL)
            case Act.FREEZE_WORKER:
                return self._freeze([self._worker(host, fault.pick)])
            case Act.FREEZE:
                return self._freeze(list(namespaces.inhabitants([host.netns])))
            case Act.KILL_ALL:
                return self._power_off(host)
            case Act.UNPLUG:
                return self._unplug(host)
            case Act.CUT:
                return self._cut(host, self.lab.host(fault.hosts[1]), both=True)
            case Act.CUT_ONE_WAY:
                return self._cut(host, self.lab.host(fault.hosts[1]), both=False)
            case Act.FILL:
                return self._fill(self.lab.directory_of(host.name) / "state")
        return lambda: None

    def _main(self, host: Host) -> int:
        if (pid := self.lab.process_id(host.name)) is None:
            raise NobodyError(f"{host.name} does not run")
        return pid

    def _worker(self, host: Host, pick: float) -> int:
        main = self._main(host)
        workers = sorted(pid for pid in namespaces.inhabitants([host.netns]) if pid != main)
        if not workers:
            raise NobodyError(f"{host.name} has no other process")
        return workers[int(pick * len(workers))]

    def _freeze(self, pids: list[int]) -> Undo:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

        def thaw() -> None:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        return thaw

    def _power_off(self, host: Host) -> Undo:
        self.restarter.held.add(host.name)
        self.lab.kill(host.name)
        if host.role == "l4":  # a machine that is switched on again knows nothing of these
            _ip(host.netns, f"link set {DEVICE} xdp off")
            for address in (*VIPS, *pool_of(host)):
                words = ["ip", "-n", host.netns, "addr", "del", address, "dev", DEVICE]
                subprocess.run(words, capture_output=True, check=False)
            Pins(self.lab.directory_of(host.name) / "state").release()

        def power_on() -> None:
            with self._router_waits(host):
                _ip(self.lab.topology.bridge_netns, f"link set {port_of(host)} up")
                self.restarter.held.discard(host.name)

        return power_on

    @contextlib.contextmanager
    def _router_waits(self, node: Host) -> Iterator[None]:
        """A router with static routes has to be told to leave out a node that knows no sessions yet (docs/vip.md): the
        lab's, which pings, would take it in as soon as its kernel answers."""
        router = self.lab.process_id("router") if node.role == "l4" and self.lab.topology.vip == "static" else None
        if router is not None:
            os.kill(router, signal.SIGSTOP)
        try:
            yield
            deadline = time.monotonic() + WAIT_S
            while router is not None and not self._knows_all(node) and time.monotonic() < deadline:
                time.sleep(LOOK_S)
        finally:
            if router is not None:
                os.kill(router, signal.SIGCONT)

    def _knows_all(self, node: Host) -> bool:
        try:
            found = admin.ask(self.lab.directory_of(node.name) / "state/admin.sock", "status")
        except admin.AdminError:
            return False
        return bool(cast(dict[str, Any], found)["ready"] and cast(dict[str, Any], found)["sync"]["complete"])

    def _unplug(self, host: Host) -> Undo:
        _ip(self.lab.topology.bridge_netns, f"link set {port_of(host)} down")
        return partial(_ip, self.lab.topology.bridge_netns, f"link set {port_of(host)} up")

    def _cut(self, one: Host, other: Host, *, both: bool) -> Undo:
        ends = [(one, other), (other, one)] if both else [(one, other)]
        for sender, receiver in ends:
            cut.cut(self.lab, sender, receiver)

        def join() -> None:
            for _, receiver in ends:
                cut.mend(self.lab, receiver)

        return join

    def _fill(self, directory: Path) -> Undo:
        ballast = directory / BALLAST
        written = 0
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while written < MOST_BYTES:
                written += file.write(bytes(PIECE_BYTES)) or 0
        if written >= MOST_BYTES:
            ballast.unlink()
            raise NobodyError(f"{directory} is no disk of its own")
        return ballast.unlink


def _ip(netns: str, words: str) -> None:
    subprocess.run(["ip", "-n", netns, *words.split()], check=True, capture_output=True)
