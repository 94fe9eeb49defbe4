"""Loads the data plane and its floors, and runs one against the other.

A figure is net of the root program that restores the packets. The two programs run in turns, now one first, now the
other; before each timed run the program goes through its flows once untimed, since the other has driven its tables out
of the CPU's caches meanwhile: with 65,536 flows both together do not fit. The median of the rounds counts.
"""

from __future__ import annotations

import ctypes as ct
import random
import statistics
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from bench.l4.frames import ADDRESSES, FRAME_BYTES, NODE_MAC, real_mac
from core.model import Mode, Scheduler
from core.resolve import L4Service, Real
from l4fast.bpf import syscall
from l4fast.interfaces import Interface
from l4fast.loader import DataPlane, Program
from l4fast.tables import Tables

SOURCES = Path(__file__).parent.parent / "bpf"
NAT_PORT, DR_PORT, WRR_PORT, TUNNEL_PORT, FULLNAT_PORT, LC_PORT = 80, 81, 82, 83, 86, 87
PORTS = {Mode.NAT: NAT_PORT, Mode.DR: DR_PORT, Mode.TUNNEL: TUNNEL_PORT, Mode.FULLNAT: FULLNAT_PORT}
STATELESS = {Mode.NAT: 84, Mode.DR: 85}
NOW_S = 1_000_000
# A test run with more than one repeat costs 14 ms, whatever it runs: rounds are not shorter than a few of those.
QUICK_REPEAT, REPEAT = 200_000, 1_000_000
QUICK_ROUNDS, ROUNDS = 4, 11
# Up to here a run untimed through all flows leaves anything in a cache.
CACHED_FLOWS = 1 << 16

HALF_OPEN = 1 << 15

Figures = tuple[float, float]  # ours, floor: nanoseconds a packet


def services(version: int) -> list[L4Service]:
    """Twelve listeners with sessions and two without, before ten servers."""
    of = ADDRESSES[version]
    kinds = (
        (NAT_PORT, Mode.NAT, Scheduler.MAGLEV),
        (DR_PORT, Mode.DR, Scheduler.MAGLEV),
        (WRR_PORT, Mode.DR, Scheduler.WRR),
        (TUNNEL_PORT, Mode.TUNNEL, Scheduler.MAGLEV),
        (FULLNAT_PORT, Mode.FULLNAT, Scheduler.MAGLEV),
        (LC_PORT, Mode.DR, Scheduler.LC),
    )

    def service(vip: str, port: int, protocol: str, mode: Mode, scheduler: Scheduler, *, stateless: bool) -> L4Service:
        reals = tuple(Real(address, 8000 + port, 100, 80) for address in of.reals)
        return L4Service(f"{protocol}-{port}", vip, port, protocol, mode, scheduler, reals, None, 900, stateless)

    return [
        *(
            service(of.vip, port, protocol, mode, scheduler, stateless=False)
            for port, mode, scheduler in kinds
            for protocol in ("tcp", "udp")
        ),
        *(
            service(of.stateless_vip, port, "tcp", mode, Scheduler.MAGLEV, stateless=True)
            for mode, port in STATELESS.items()
        ),
    ]


def configure(plane: DataPlane, *versions: int) -> Tables:
    """The benchmark's listeners of these IP versions on a loaded data plane, once."""
    of_each = [ADDRESSES[version] for version in versions]
    tables = Tables(plane)
    plane.use(Interface("eth0", 1, NODE_MAC, 1500))
    tables.set_local([of.node for of in of_each])
    tables.set_pools([address for of in of_each for address in of.pool], ())
    tables.set_epoch(NOW_S)
    macs = {address: real_mac(n) for of in of_each for n, address in enumerate(of.reals)}
    macs |= {of.gateway: real_mac(99) for of in of_each}
    tables.apply([service for version in versions for service in services(version)], set(), macs)
    # The flood guard would refuse most of the sessions that a benchmark makes in one second.
    plane.set(unproven_per_cpu_s=1 << 31)
    return tables


class Root:
    """The root program with its frames; runs one target at a time."""

    def __init__(self, version: int, most: int) -> None:
        self._size = FRAME_BYTES[version]
        self._program = Program(SOURCES / "root.c", ("root",), {"MAX_FRAMES": most, "FRAME": self._size})
        self._frames = self._program.map("frames")
        self._state = self._program.map("state")
        self._target = self._program.map("target")
        self._next = 0
        self.count = 0

    def load(self, frames: Sequence[bytes]) -> None:
        """A power of two of them, which are sent in turn."""
        keys = struct.pack(f"={len(frames)}I", *range(len(frames)))
        self._frames.put_many(keys, b"".join(frames), len(frames))
        self.count = len(frames)
        self._next = 0

    def run(self, target: tuple[Program, str] | None, repeat: int) -> int:
        """Nanoseconds a run. Goes on in the frames where the last run has ended."""
        if target is not None:
            program, function = target
            self._target.put(self._target.key(0), ct.c_int(program.fd(function)))
        state = self._state.value(next=self._next, mask=self.count - 1, run=target is not None)
        self._state.put(self._state.key(0), state)
        _, _, duration = syscall.run_program(self._program.fd("root"), bytes(self._size), repeat)
        self._next = (self._next + repeat) % self.count
        return duration

    def close(self) -> None:
        self._program.close()


class Rig:
    """Floors and root of one IP version, with room for `most` flows (a power of two), beside the data plane."""

    def __init__(self, version: int, plane: DataPlane, most: int, *, quick: bool) -> None:
        self.version = version
        self.addresses = ADDRESSES[version]
        self.repeat = QUICK_REPEAT if quick else REPEAT
        self.rounds = QUICK_ROUNDS if quick else ROUNDS
        self.root = Root(version, most)
        self.plane = plane
        self.ours = (self.plane.programs[4], "lb")
        size = plane.sizes["sessions"]
        floors = {tunnel: self._floor(size, tunnel) for tunnel in (False, True)}
        no_nat = self._floor(size, tunnel=False, nat=False)
        self.floors = {
            Mode.NAT: floors[False], Mode.FULLNAT: floors[False], Mode.TUNNEL: floors[True], Mode.DR: no_nat,
        }  # fmt: skip

    def _floor(self, flows: int, tunnel: bool, nat: bool = True) -> Program:
        defines = {"NAT": int(nat and not tunnel), "TUNNEL": int(tunnel)}
        return Program(SOURCES / "floor.c", ("floor_xdp",), {**defines, "MAX_FLOWS": flows, "IP_VERSION": self.version})

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.root.close()
        for floor in set(self.floors.values()):
            floor.close()

    def forget(self, *, floors: bool = True) -> None:
        """Empties the session table, and the floors'."""
        tables = [self.plane.map("sessions", self.version)]
        tables += [floor.map("flows") for floor in set(self.floors.values())] if floors else []
        for table in tables:
            for keys, _, count in list(table.blocks(4096)):
                table.delete_many(keys, count)

    def established(self, frames: list[bytes], mode: Mode, before: list[bytes] | None = None) -> Figures:
        """For flows that both know; `before` are the packets that come first."""
        floor = (self.floors[mode], "floor_xdp")
        self.forget()
        for at in range(0, len(before or ()), HALF_OPEN // 4):  # half-open flows are not to evict each other
            for packets in (before or [])[at : at + HALF_OPEN // 4], frames[at : at + HALF_OPEN // 4]:
                self.root.load(packets)
                self.root.run(self.ours, len(packets))
        # In another order than that of the measurement, lest the entries stand in memory in the order of their use.
        self.root.load(random.Random(2).sample(frames, len(frames)))
        for _ in range(4):
            self.root.run(floor, len(frames))
            self.root.run(self.ours, len(frames))
        self.root.load(frames)
        return self._compare(floor, lambda: None, self.repeat, warm=True)

    def first(self, frames: list[bytes], before: list[bytes] | None, repeat: int) -> Figures:
        """Ours has no session of these flows, the floor knows them; `before` are the packets that come first, in each
        round."""
        floor = (self.floors[Mode.NAT], "floor_xdp")
        self.forget()
        self.root.load(frames)
        for _ in range(2):
            self.root.run(floor, len(frames))

        def prepare() -> None:
            self.forget(floors=False)
            if before is not None:
                self.root.load(before)
                self.root.run(self.ours, len(before))
                self.root.load(frames)

        return self._compare(floor, prepare, repeat, warm=repeat > len(frames))

    def _compare(self, floor: tuple[Program, str], prepare: Callable[[], None], repeat: int, *, warm: bool) -> Figures:
        ours: list[int] = []
        floors: list[int] = []

        def run_floor(root: int) -> None:
            self._warm(floor)
            floors.append(self.root.run(floor, self.repeat) - root)

        def run_ours(root: int) -> None:
            prepare()
            if warm:
                self._warm(self.ours)
            ours.append(self.root.run(self.ours, repeat) - root)

        for turn in range(self.rounds):
            root = self.root.run(None, self.repeat)
            for run in (run_floor, run_ours) if turn % 2 else (run_ours, run_floor):
                run(root)
        return statistics.median(ours), statistics.median(floors)

    def _warm(self, target: tuple[Program, str]) -> None:
        if 1024 < self.root.count <= CACHED_FLOWS:  # fewer are warm after the first hundredth of a run
            self.root.run(target, self.root.count)
