"""One lab: bring it up, look at it, break parts of it, take it down.

Everything that is made is noted in the state file before it is made, so that `down` finds it after any crash; and
`down` goes by who lives in the lab's namespaces, so that nothing which was started in them outlives it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, cast

from control.node.children import Child, ChildError
from control.node.patience import patience
from deploy.lab import model, namespaces, processes, provision, state, xdp_pass
from deploy.lab.api import TIMEOUT_S, Api, Json
from deploy.lab.errors import LabError, UsageError
from deploy.lab.processes import Process
from deploy.lab.report import owners
from deploy.lab.state import Started, State
from deploy.lab.topology import DEFAULT_LAB, VIPS, Host, Topology, cables, port_of, scripts

PROGRAMS = ("ip", "ethtool", "nsenter", "setpriv", "sysctl")
IPV6 = Path("/proc/net/if_inet6")  # there wherever the kernel knows IPv6
READY_S = 60.0
HELD_S = 90.0  # more than l4fast.holding waits for sessions that do not come
GRACE_S = 1.0  # between SIGTERM and SIGKILL on the way down: nobody waits for a lab's L7 nodes to drain

Say = Callable[[str], None]


def interrupted(_number: int, _frame: object) -> NoReturn:
    """A signal handler that makes SIGTERM what Ctrl-C is: what has been built is taken down on the way out."""
    raise KeyboardInterrupt


def preflight() -> None:
    """Raise UsageError unless this machine and user can carry a lab."""
    if os.geteuid() != 0:
        raise UsageError("the lab makes network namespaces and loads XDP programs: run it as root (sudo)")
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        packages = "iproute2 ethtool util-linux procps"
        raise UsageError(f"missing programs: {', '.join(missing)}; install them: apt-get install {packages}")
    if not IPV6.exists():
        raise UsageError("this kernel runs without IPv6, which the lab has beside IPv4: boot it without ipv6.disable=1")


def needs_program_of(topology: Topology) -> None:
    """Raise UsageError unless what announces the VIPs is installed."""
    program, package = {"vrrp": ("keepalived",) * 2, "bgp": ("bird", "bird2")}.get(topology.vip, ("", ""))
    if program and shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") is None:
        raise UsageError(f"--vip {topology.vip} needs {program}: apt-get install {package}")


def command_of(lab: str, command: str) -> str:
    """How a user calls a command on a lab."""
    return f"paifang lab {command}" + ("" if lab == DEFAULT_LAB else f" --name {lab}")


class Lab:
    """A lab that exists. Made by `up` or `find`."""

    def __init__(self, current: State) -> None:
        self._state = current
        self.topology: Topology = current.topology
        self.root = state.directory(self.topology.lab)
        self._processes = processes.of(self.topology, self.root, cast(model.Mode, current.mode))
        self._children: dict[str, Child] = {}

    @classmethod
    def find(cls, name: str) -> Lab:
        """The lab called `name`. Raises LabError if there is none."""
        current = state.load(name)
        if current is None:
            raise LabError(f"there is no lab {name!r}; `{command_of(name, 'up')}` makes one")
        return cls(current)

    @classmethod
    def up(cls, topology: Topology, mode: model.Mode, say: Say, disks: Mapping[str, int] | None = None) -> Lab:
        """Build the network, start every process, apply the default model; returns when all serve. Raises LabError.

        `disks`: hosts whose state directory is a file system of its own, of so many bytes.
        """
        preflight()
        needs_program_of(topology)
        with state.locked(topology.lab):
            clean_up_after_crash(topology.lab, say)
            if foreign := [name for name in topology.namespaces() if namespaces.path_of(name).exists()]:
                raise LabError(f"namespace {foreign[0]} exists and is not the lab's: `ip netns del {foreign[0]}`")
            lab = cls(State(topology, mode, "starting"))
            state.save(lab._state)
            try:
                lab._build(say, disks or {})
            except BaseException:
                lab._tear_down()
                raise
            return lab

    def down(self) -> None:
        """End every process and remove all traces."""
        with state.locked(self.topology.lab):
            self._tear_down()

    @property
    def api(self) -> Api:
        return Api(f"{self.topology.lab}-control", self.root / "control/token")

    def host(self, name: str) -> Host:
        """Raises UsageError for an unknown name."""
        if (host := self.topology.host(name)) is None:
            known = ", ".join(each.name for each in self.topology.hosts())
            raise UsageError(f"no host {name!r}; there are {known}")
        return host

    def process_id(self, name: str) -> int | None:
        """The id of a host's process, or None if it does not run."""
        started = self._state.process_of(name)
        return started.pid if started is not None and started.alive() else None

    def directory_of(self, name: str) -> Path:
        """A host's own directory: identity, state, logs."""
        return self.root / name

    def process_names(self) -> list[str]:
        """Of every process there is to be; most are called as their host is."""
        return list(self._processes)

    def host_of(self, process: str) -> Host:
        return self._processes[process].host

    def launch(self, name: str) -> None:
        """Start a process that has ended, without waiting until it serves. Raises LabError."""
        with state.locked(self.topology.lab):
            self._reap([name])
            self._start([name])

    def kill_process(self, name: str) -> None:
        """SIGKILL to a host's process and to its children; its kernel lives on. Raises LabError if none runs."""
        if (pid := self.process_id(name)) is None:
            raise LabError(f"{name} runs no process")
        os.killpg(pid, signal.SIGKILL)  # each was started in a session of its own
        self._reap([name])

    def end_process(self, name: str) -> None:
        """SIGTERM to a host's process; returns once it has ended. Raises LabError if none runs, or it does not end."""
        if (pid := self.process_id(name)) is None:
            raise LabError(f"{name} runs no process")
        os.kill(pid, signal.SIGTERM)
        self.wait_ended(name)

    def wait_ended(self, name: str) -> None:
        """Returns once a host's process, which was told to end, has. Raises LabError if it does not."""
        deadline = time.monotonic() + READY_S
        while self.process_id(name) is not None:
            if time.monotonic() > deadline:
                raise LabError(f"{name} does not end within {READY_S:.0f} s")
            time.sleep(0.02)
        self._reap([name])

    def kill(self, name: str) -> None:
        """The death of a machine: its cable is dead, all its processes are gone, nobody said goodbye; once or more."""
        host = self.host(name)
        self._cable(host, "down")
        for process in self._living_on(name):
            with contextlib.suppress(LabError):
                self.kill_process(process)
        namespaces.kill([host.netns])  # whatever else they had started there

    def start(self, name: str) -> None:
        """Bring a killed host back; returns when its process serves. Raises LabError."""
        host = self.host(name)
        if name in self._living_on(name):
            raise LabError(f"{name} runs already")
        with state.locked(self.topology.lab):
            self._cable(host, "up")
            names = [each for each in self._processes_on(name) if each not in self._living_on(name)]
            self._start(names)
            self._wait_ready(names)

    def _processes_on(self, host: str) -> list[str]:
        return [name for name, process in self._processes.items() if process.host.name == host]

    def _living_on(self, host: str) -> list[str]:
        return [name for name in self._processes_on(host) if self.process_id(name) is not None]

    def replace_certificate(self) -> None:
        """Give the key servers another key, and the cluster a certificate for it in place of the one it serves."""
        name = f"{model.CERTIFICATE}-{time.time_ns()}"
        chain = provision.leaf(self.topology, self.root, self._processes, name)
        self.api.put("certificates", model.CERTIFICATE, {"name": model.CERTIFICATE, "chain": chain})

    def leave(self) -> None:
        """Let what we have started outlive this command."""
        for child in self._children.values():
            child.leave()
        self._children.clear()

    def status(self) -> dict[str, object]:
        """Hosts, processes and what the control plane knows, ready for JSON."""
        cluster, listeners = self._cluster()
        hosts = []
        for host in self.topology.hosts():
            pid = self.process_id(host.name)
            there = self._processes_on(host.name)
            runs = len(self._living_on(host.name)) == len(there) if there else None
            hosts.append({"name": host.name, "role": host.role, "address": host.address,
                          "address_v6": host.address_v6, "netns": host.netns, "pid": pid, "runs": runs})  # fmt: skip
        return {"lab": self.topology.lab, "phase": self._state.phase, "xdp": self.topology.xdp,
                "vip": self.topology.vip, "hosts": hosts, "listeners": listeners, "cluster": cluster}  # fmt: skip

    def _cluster(self) -> tuple[Json, list[Json]]:
        """What the control plane says about nodes and listeners; an error in place of the nodes if it is away."""
        try:
            with patience(f"paifang-lab: waiting for the control plane ({TIMEOUT_S:.0f} s at most)"):
                return self.api.status(), self.api.listeners()
        except LabError as error:
            return {"error": str(error)}, []

    def _build(self, say: Say, disks: Mapping[str, int]) -> None:
        began = time.monotonic()
        namespaces.create(self.topology.namespaces())
        namespaces.run_scripts([cables(self.topology)])
        namespaces.run_scripts(list(scripts(self.topology)))
        if self.topology.xdp == "native":
            switch_ports = [port_of(host) for host in self.topology.of("l4")]
            xdp_pass.attach(self.topology.bridge_netns, switch_ports)
        say(f"network: {len(self.topology.hosts())} hosts in {time.monotonic() - began:.1f} s")
        provision.identities(self.topology, self.root, self._processes, disks)
        keyless = [name for name, process in self._processes.items() if process.host.role != "keyserver"]
        self._start(["control"])
        self._start(name for name in keyless if name != "control")
        chain = provision.leaf(self.topology, self.root, self._processes)
        self._start(host.name for host in self.topology.of("keyserver"))
        self._wait_ready(["control"])
        self.api.apply(model.default(self.topology, cast(model.Mode, self._state.mode), chain))
        self._wait_ready(name for name in self._processes if name != "control")
        self._wait_held(say)
        self._state = replace(self._state, phase="up")
        state.save(self._state)
        say(f"processes: {len(self._processes)} serve after {time.monotonic() - began:.1f} s")

    def _start(self, names: Iterable[str]) -> None:
        for name in names:
            process = self._processes[name]
            self._children[name] = child = self._spawn(name, process)
            self._state = self._state.with_process(Started(name, child.pid, state.start_ticks(child.pid) or 0))
            state.save(self._state)

    def _spawn(self, name: str, process: Process) -> Child:
        argv = [*namespaces.enter(process.host.netns), *provision.confinement(process), *process.argv]
        try:
            return Child.start(
                name,
                argv,
                log=process.directory / "log",
                notify_dir=self.root,
                env={"HOME": str(process.directory)},
                notify_uid=provision.uid_of(process),
            )
        except ChildError as error:
            raise LabError(str(error)) from None

    def _wait_ready(self, names: Iterable[str]) -> None:
        deadline = time.monotonic() + READY_S
        for name in names:
            try:
                self._children[name].wait_ready(max(1.0, deadline - time.monotonic()))
            except ChildError as error:
                raise LabError(str(error)) from None

    def _wait_held(self, say: Say) -> None:
        """Until each VIP that the nodes announce is somebody's: they learn each other's sessions first."""
        if self.topology.vip == "static":
            return
        began = time.monotonic()
        while missing := set(VIPS) - {address for address, names in owners(self._cluster()[0]).items() if names}:
            if time.monotonic() - began > HELD_S:
                raise LabError(f"no L4 node takes {', '.join(sorted(missing))}; {self.root}/l4-*/log may say why")
            time.sleep(0.1)
        say(f"VIPs: taken after {time.monotonic() - began:.1f} s")

    def _cable(self, host: Host, direction: str) -> None:
        """Plug the host's cable in or out, at the switch; the client hangs on the router instead."""
        netns, port = self.topology.bridge_netns, port_of(host)
        if host.role == "client":
            netns, port = f"{self.topology.lab}-router", "eth1"
        subprocess.run(["ip", "-n", netns, "link", "set", port, direction], check=True)

    def _tear_down(self) -> None:
        names = self.topology.namespaces()
        namespaces.end(names, grace_s=GRACE_S)
        self._reap(list(self._children))
        namespaces.remove(names)
        for maps in self.root.glob("*/state/maps"):
            _unpin(maps)
        provision.unmount(self.root)
        state.forget(self.topology.lab)

    def _reap(self, names: Iterable[str]) -> None:
        """Collect those children that are ours (a later command is not their parent) and have been killed."""
        for name in names:
            if child := self._children.pop(name, None):
                child.terminate(GRACE_S)


def _unpin(link: Path) -> None:
    """What a node that had to be killed has left in bpffs, which knows no type of file that shutil.rmtree would."""
    directory = link.resolve()
    with contextlib.suppress(FileNotFoundError):
        for life in directory.iterdir():
            for pinned in life.iterdir():
                pinned.unlink()
            life.rmdir()
        directory.rmdir()


def clean_up_after_crash(name: str, say: Say) -> None:
    """Remove what an `up` that never finished has left, or one whose processes are all gone. Raises LabError if the
    lab lives. The caller holds the lock."""
    current = state.load(name)
    if current is None:
        return
    if current.phase == "up" and any(started.alive() for started in current.started):
        show, end = command_of(name, "status"), command_of(name, "down")
        raise LabError(f"the lab {name!r} is up already; `{show}` shows it, `{end}` ends it")
    say("cleaning up after a lab that did not end properly")
    Lab(current)._tear_down()
