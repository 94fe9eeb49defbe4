"""One campaign: a lab comes up, the load begins, fault after fault strikes, all is looked at, the lab goes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from bench.faults import bills, watch
from bench.faults.changes import Changes
from bench.faults.events import Event, Record, Traffic
from bench.faults.inject import Injector, NobodyError
from bench.faults.kinds import Fault, Kind, faults
from bench.faults.promises import BACK_S, Struck, broken
from bench.faults.restart import Restarter
from control.node import admin
from deploy.lab import model
from deploy.lab.errors import LabError
from deploy.lab.lab import Lab
from deploy.lab.namespaces import enter
from deploy.lab.topology import VIPS, Topology

DISK_BYTES = 24 << 20
LOOK_S = 0.1
BEGUN_S = 60.0
SOON = frozenset(Traffic) - {Traffic.DOWNLOAD, Traffic.API}  # of these the load has attempts within seconds
BEHIND = 2  # versions that a node may lack and still be in step: there is one a second

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How much time a campaign takes for things, in seconds."""

    quiet_s: float = 5.0  # of load before the first fault, and after the last
    pause_s: float = 60.0  # at most, between faults
    steady_s: float = 2.5  # all is well for so long before it counts as well: health checks have had their time
    bill_s: float = 40.0  # ledgers are kept every 10 s and delivered then
    left_s: float = 90.0  # sessions of connections that were closed are forgotten by then


@dataclass
class Result:
    """All that a campaign has found."""

    seed: int
    seconds: float
    record: Record
    struck: list[Struck]
    bills: list[bills.Bill]
    lost_changes: list[str]
    samples: list[watch.Sample]
    restarts: dict[str, int]
    left: dict[str, int] = field(default_factory=dict)  # what is there that should be gone
    began: float = 0.0

    def wrong(self) -> list[str]:
        """Every invariant that did not hold, in words."""
        said = broken(self.record, self.struck)
        said += [str(bill) for bill in self.bills if not bill.right]
        said += self.lost_changes
        said += [f"{use} grows" for use in watch.uses(self.samples) if use.grows]
        may_be = lost_connections(self.record) + UNTOLD * sum(each.kind == "l4-node-dead" for each in self.struck)
        said += [f"{count} {what} left behind, of {may_be} that may be" for what, count in self.left.items()
                 if count > may_be]  # fmt: skip
        return said


UNTOLD: Final = 2  # ends of connections that an L4 node has seen in its last 20 ms, and told nobody


def lost_connections(record: Record) -> int:
    """Of those a node may keep a session until it is idle for long: the client was reset by somebody who answers past
    the node (`dr`), and had nothing more to say."""
    return sum(record.attempts(traffic)[1] for traffic in Traffic if traffic not in (Traffic.UDP, Traffic.API))


class Load:
    """The process of bench/faults/load.py."""

    def __init__(self, lab: Lab, directory: Path, scale: float) -> None:
        rows = model.layer_4("both")
        site = {
            "vips": VIPS, "ca": str(lab.root / "ca.pem"), "scale": scale,
            "tcp": {name: port for name, protocol, port, _ in rows if protocol == "tcp"},
            "udp": {name: port for name, protocol, port, _ in rows if protocol == "udp"},
        }  # fmt: skip
        self._path = directory / "events.jsonl"
        words = [*enter(f"{lab.topology.lab}-client"), sys.executable, "-m", "bench.faults.load", json.dumps(site)]
        with self._path.open("wb") as output:
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=output)

    def wait_begun(self) -> None:
        """Until there has been an attempt of every kind of traffic. Raises LabError."""
        deadline = time.monotonic() + BEGUN_S
        missing = set(SOON)
        while missing and time.monotonic() < deadline:
            time.sleep(LOOK_S)
            seen = {line.split('"', 2)[1] for line in self._path.read_text().splitlines() if line.count('"') > 1}
            missing -= seen
        if missing:
            raise LabError(f"the load sends no {', '.join(missing)}")

    def end(self) -> tuple[list[Event], dict[str, list[float]], dict[str, int]]:
        """What it has seen, when connections were opened, how many were tried. Raises LabError."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LabError("the load does not end") from None
        if code:
            raise LabError(f"the load has ended with code {code}")
        events = []
        last: dict[str, Any] = {}
        for line in self._path.read_text().splitlines():
            told = json.loads(line)
            if isinstance(told, dict):
                last = told
            else:
                events.append(Event(Traffic(told[0]), *told[1:]))
        return events, last["opened"], last["tried"]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def well(lab: Lab) -> str:
    """What is not as it should be; empty if all is."""
    for name in lab.process_names():
        if lab.process_id(name) is None:
            return f"{name} does not run"
    try:
        status = cast(dict[str, Any], lab.api.status())
        for node in status["nodes"]:
            behind = status["version"] - (node["version"] or 0)  # changes are made all the while
            if node["step"] != "in step" and not (node["step"] == "lagging" and 0 <= behind <= BEHIND):
                return f"{node['name']} is {node['step']} at {node['version']} of {status['version']}: {node['why']}"
            if sick := [each["server"] for each in node["facts"].get("health", []) if not each["healthy"]]:
                return f"{node['name']} finds {sick[0]} unhealthy"
            if not node["facts"].get("ready", True):
                return f"{node['name']} is not ready"
        for host in lab.topology.of("l4"):
            found = cast(dict[str, Any], admin.ask(lab.directory_of(host.name) / "state/admin.sock", "status"))
            if not found["sync"]["complete"]:
                return f"{host.name} does not know all sessions"
    except (LabError, admin.AdminError, KeyError) as error:
        return str(error)
    return ""


class Campaign:
    """Of a lab that is up. `directory`: where the events go."""

    def __init__(
        self, lab: Lab, directory: Path, say: Say, *, seed: int, scale: float = 1.0, pace: Pace | None = None
    ) -> None:
        self._pace = pace or Pace()
        self._lab = lab
        self._say = say
        self._seed = seed
        self._directory = directory
        self._scale = scale

    def run(self, kinds: Sequence[Kind], seconds: float, most: int | None = None) -> Result:
        """Faults begin for so many seconds, `most` of them at most. Raises LabError."""
        lab, began = self._lab, time.monotonic()
        restarter, watcher, changes = Restarter(lab, self._say), watch.Watch(lab), Changes(lab.api)
        load = Load(lab, self._directory, self._scale)
        struck: list[Struck] = []
        with contextlib.ExitStack() as stack:
            stack.callback(load.kill)
            for thread in (restarter, watcher, changes):
                thread.start()
                stack.callback(thread.stop)
            load.wait_begun()
            time.sleep(self._pace.quiet_s)
            for fault in self._faults(kinds):
                if time.monotonic() - began > seconds or (most is not None and len(struck) >= most):
                    break
                if one := self._strike(fault, Injector(lab, restarter), began):
                    struck.append(one)
                time.sleep(min(fault.pause_s, self._pace.pause_s))
            time.sleep(self._pace.quiet_s)
            changes.stop()
            events, opened, tried = load.end()
            record = Record([*events, *changes.events])
            found = self._bills(record, struck, opened, tried)
            lost = changes.lost()
            left = self._left(lost_connections(record))
            watcher.stop()
            samples = watcher.samples
        return Result(self._seed, time.monotonic() - began, record, struck, found, lost, samples,
                      restarter.restarts, left, began)  # fmt: skip

    def _faults(self, kinds: Sequence[Kind]) -> Iterator[Fault]:
        hosts: dict[str, list[str]] = {}
        for host in self._lab.topology.hosts():
            hosts.setdefault(host.role, []).append(host.name)
        return faults(self._seed, kinds, hosts)

    def _strike(self, fault: Fault, injector: Injector, began: float) -> Struck | None:
        before = time.monotonic()
        try:
            undo = injector.strike(fault)
        except NobodyError as error:
            self._say(f"{fault.number}. {fault}: {error}")
            return None
        struck = time.monotonic()
        try:
            time.sleep(fault.lasts_s)
        finally:
            undo()
        ended = time.monotonic()
        healed, why = self._until_well(ended)
        after = f"well {healed - ended:.1f} s after" if healed else "NOT WELL"
        after += f" ({why})" if why else ""
        self._say(f"{before - began:6.1f} s  {fault.number}. {fault}: {after}")
        return Struck(fault.number, fault.kind.name, str(fault), before, struck, ended, healed, why,
                      fault.hosts)  # fmt: skip

    def _until_well(self, ended: float) -> tuple[float | None, str]:
        """Since when all has been well, for a while (None: it is not); and what was the last thing that was not."""
        since, why = ended, ""
        while (now := time.monotonic()) < ended + BACK_S:
            if found := well(self._lab):
                since, why = time.monotonic(), found
            elif now - since > self._pace.steady_s:
                return since, why
            time.sleep(LOOK_S)
        return None, why

    def _bills(
        self, record: Record, struck: list[Struck], opened: dict[str, list[float]], tried: dict[str, int]
    ) -> list[bills.Bill]:
        """Waits until they are right, for as long as deliveries may take."""
        deadline = time.monotonic() + self._pace.bill_s
        while True:
            day = time.strftime("%Y-%m-%dT%H:00Z", time.gmtime(time.time() - 7200))
            until = time.strftime("%Y-%m-%dT%H:00Z", time.gmtime(time.time() + 7200))
            answer = cast(dict[str, Any], self._lab.api.request("GET", f"/v1/metering?by=hour&from={day}&to={until}"))
            found = bills.bills(record, struck, bills.metered(answer["rows"]), opened, tried)
            if all(bill.right for bill in found) or time.monotonic() > deadline:
                return found
            time.sleep(1.0)

    def _left(self, may_be: int) -> dict[str, int]:
        """Sessions of closed connections, after the time that nodes keep them for, if there are more than there may."""
        deadline = time.monotonic() + self._pace.left_s
        while True:
            left = {f"established sessions on {host.name}": self._established(host.name)
                    for host in self._lab.topology.of("l4")}  # fmt: skip
            if max(left.values()) <= may_be or time.monotonic() > deadline:
                return left
            time.sleep(1.0)

    def _established(self, node: str) -> int:
        path = self._lab.directory_of(node) / "state/admin.sock"
        sessions = cast(list[dict[str, str]], admin.ask(path, "sessions", limit=100_000))
        return sum(session["state"] == "established" for session in sessions)


def lab_of(topology: Topology, say: Say) -> Lab:
    """A lab for a campaign, with small disks for what keeps state. Raises LabError."""
    disks = {host.name: DISK_BYTES for host in topology.hosts() if host.role in ("control", "l4", "l7")}
    return Lab.up(topology, "both", say, disks)
