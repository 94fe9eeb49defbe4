"""The data plane: nanoseconds a packet, against a floor program loaded the same way and run in turns with it.

Every figure is net of the root program that restores the packets. Frames are of 64 bytes; flows differ in address and
port and come in another order than that in which the tables learnt them. Sessions are made by the packets themselves.
The floor always knows the flow: what a first packet costs is held against an established one's least.
"""

from __future__ import annotations

import ctypes as ct
import random
import socket
import statistics
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import Row
from core.model import Mode, Scheduler
from core.resolve import L4Service, Real
from l4fast.bpf import syscall
from l4fast.loader import DataPlane, Program
from l4fast.tables import CLIENT_GATEWAY, Tables

SOURCES = Path(__file__).parent / "bpf"
VIP = "10.0.0.100"
MAC = bytes.fromhex("020000000001")
NAT_PORT, DR_PORT, WRR_PORT, TUNNEL_PORT, FULLNAT_PORT, LC_PORT = 80, 81, 82, 83, 86, 87
STATELESS_VIP = "10.0.0.101"
STATELESS = {Mode.NAT: 84, Mode.DR: 85}
ACK, SYN, FIN = 0x10, 0x02, 0x01
# As multiples of the floor.
ESTABLISHED, SYN_GOAL, FIRST_GOAL, SESSION_GOAL, STATELESS_GOAL = 1.6, 2.0, 3.0, 8.0, 2.0


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(client: str, port: int, vip: str, vip_port: int, *, flags: int, protocol: int = socket.IPPROTO_TCP) -> bytes:
    """64 bytes to a VIP (or, with the roles exchanged, from a real)."""
    if protocol == socket.IPPROTO_TCP:
        sequence = 1 if flags & SYN else 2
        l4 = struct.pack("!HHIIBBHHH", port, vip_port, sequence, 1, 0x50, flags, 512, 0x1234, 0)
    else:
        l4 = struct.pack("!HHHH", port, vip_port, 20, 0x1234) + bytes(12)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(l4), 0, 0, 64, protocol, 0)
    head += socket.inet_aton(client) + socket.inet_aton(vip)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return (MAC + bytes.fromhex("020000000002") + b"\x08\x00" + head + l4).ljust(64, b"\0")


def clients(count: int) -> list[tuple[str, int]]:
    chosen = random.Random(1)
    taken: set[tuple[int, int]] = set()
    while len(taken) < count:
        taken.add((0x0B000000 + chosen.randrange(1 << 24), chosen.randrange(1024, 65536)))
    return [
        (socket.inet_ntoa(address.to_bytes(4)), port) for address, port in sorted(taken, key=lambda _: chosen.random())
    ]


class Root:
    """The root program with its frames; runs one target at a time."""

    def __init__(self, most: int) -> None:
        self.program = Program(SOURCES / "root.c", ("root",), {"MAX_FRAMES": most})
        self._frames = self.program.map("frames")
        self._state = self.program.map("state")
        self._target = self.program.map("target")
        self._count = 0

    def load(self, frames: list[bytes]) -> None:
        keys = b"".join(struct.pack("=I", index) for index in range(len(frames)))
        self._frames.put_many(keys, b"".join(frames), len(frames))
        self._count = len(frames)

    def run(self, target: Program | None, function: str, repeat: int) -> int:
        """Nanoseconds a run."""
        if target is not None:
            self._target.put(self._target.key(0), ct.c_int(target.fd(function)))
        state = self._state.value(next=0, mask=self._count - 1, run=target is not None)
        self._state.put(self._state.key(0), state)
        _, _, duration = syscall.run_program(self.program.fd("root"), bytes(64), repeat)
        return duration


class Bench:
    """The data plane and its floors, with twelve listeners before ten servers."""

    def __init__(self, quick: bool) -> None:
        self.flows = (1, 1024, 65536) if quick else (1, 1024, 65536, 1 << 20)
        self.repeat = 400_000 if quick else 3_000_000
        self.rounds = 7 if quick else 11
        most = self.flows[-1]
        self.root = Root(most)
        self.plane = DataPlane.load(sessions=4 * most, half_open=2 * most)
        self.tables = Tables(self.plane)
        self.floors = {
            mode: Program(
                SOURCES / "floor.c",
                ("floor_xdp",),
                {
                    "NAT": int(mode in (Mode.NAT, Mode.FULLNAT)),
                    "TUNNEL": int(mode is Mode.TUNNEL),
                    "MAX_FLOWS": 4 * most,
                },
            )
            for mode in Mode
        }
        services = [
            L4Service(
                f"{protocol}-{port}", VIP, port, protocol, mode, scheduler,
                tuple(Real(f"10.0.1.{n}", 8000 + port, 100, 80) for n in range(1, 11)), None, 900,
            )
            for port, mode, scheduler in (
                (NAT_PORT, Mode.NAT, Scheduler.MAGLEV), (DR_PORT, Mode.DR, Scheduler.MAGLEV),
                (WRR_PORT, Mode.DR, Scheduler.WRR), (TUNNEL_PORT, Mode.TUNNEL, Scheduler.MAGLEV),
                (FULLNAT_PORT, Mode.FULLNAT, Scheduler.MAGLEV),
                (LC_PORT, Mode.DR, Scheduler.LC),
            )
            for protocol in ("tcp", "udp")
        ]  # fmt: skip
        services += [
            L4Service(
                f"stateless-{mode}", STATELESS_VIP, port, "tcp", mode, Scheduler.MAGLEV,
                tuple(Real(f"10.0.1.{n}", 8000 + port, 100, 80) for n in range(1, 11)), None, 900, stateless=True,
            )
            for mode, port in STATELESS.items()
        ]  # fmt: skip
        macs = {f"10.0.1.{n}": MAC[:5] + bytes([n]) for n in range(1, 11)}
        self.plane.set(mac=MAC, mtu=1500)
        self.tables.set_local(("10.0.0.2",))
        self.tables.set_pools([f"10.0.9.{n}" for n in range(16)], ())
        self.tables.set_epoch(1_000_000)
        self.tables.apply(services, set(), macs | {CLIENT_GATEWAY: MAC})
        # The flood guard would refuse most of the sessions that a benchmark makes in one second.
        self.plane.set(unproven_per_cpu_s=1 << 31)

    def clear(self) -> None:
        for table in (self.plane.map("sessions"), *(floor.map("flows") for floor in self.floors.values())):
            for keys, _, count in list(table.blocks(4096)):
                table.delete_many(keys, count)

    def established(self, frames: list[bytes], mode: Mode, before: list[bytes] | None = None) -> tuple[float, float]:
        """(ours, floor) for flows that both know; `before` are the packets that come first."""
        floor = self.floors[mode]
        self.clear()
        if before is not None:
            self.root.load(before)
            self.root.run(self.plane.programs[4], "lb", len(before))
        # In another order than that of the measurement, lest the entries stand in memory in the order of their use.
        self.root.load(random.Random(2).sample(frames, len(frames)))
        for _ in range(4):
            self.root.run(floor, "floor_xdp", len(frames))
            self.root.run(self.plane.programs[4], "lb", len(frames))
        self.root.load(frames)
        return self.compare(floor, lambda: None, self.repeat)

    def compare(self, floor: Program, prepare: Callable[[], None], repeat: int) -> tuple[float, float]:
        """Medians of runs in turns, each net of the root that ran beside it."""
        ours: list[int] = []
        floors: list[int] = []
        for _ in range(self.rounds):
            floors.append(self.root.run(floor, "floor_xdp", self.repeat) - self.root.run(None, "", self.repeat))
            prepare()
            ours.append(self.root.run(self.plane.programs[4], "lb", repeat) - self.root.run(None, "", repeat))
        return statistics.median(ours), statistics.median(floors)

    def first(self, frames: list[bytes], before: list[bytes] | None, repeat: int) -> tuple[float, float]:
        """(ours without a session, floor with one); `before` are the packets that come first, in each round."""
        floor = self.floors[Mode.NAT]
        self.clear()
        self.root.load(frames)
        for _ in range(2):
            self.root.run(floor, "floor_xdp", len(frames))

        def prepare() -> None:
            for keys, _, count in list(self.tables.versions[4].session_map.blocks(4096)):
                self.tables.versions[4].session_map.delete_many(keys, count)
            if before is not None:
                self.root.load(before)
                self.root.run(self.plane.programs[4], "lb", len(before))
                self.root.load(frames)

        return self.compare(floor, prepare, repeat)


def run(quick: bool) -> list[Row]:
    """Needs root."""
    bench = Bench(quick)
    try:
        return [*_established(bench), *_first(bench)]
    finally:
        bench.plane.close()


def _row(name: str, figures: tuple[float, float], goal: float | None) -> Row:
    return Row(name, "ns/packet", figures[0], "floor, established", figures[1], goal)


def _established(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    for count in bench.flows:
        for mode, port in ((Mode.NAT, NAT_PORT), (Mode.DR, DR_PORT), (Mode.TUNNEL, TUNNEL_PORT)):
            frames = [frame(client, source, VIP, port, flags=ACK) for client, source in clients(count)]
            rows.append(_row(f"established tcp {mode}, {count:,} flows", bench.established(frames, mode), ESTABLISHED))
        for mode, port in STATELESS.items():
            frames = [frame(client, source, STATELESS_VIP, port, flags=ACK) for client, source in clients(count)]
            rows.append(_row(f"stateless tcp {mode}, {count:,} flows", bench.established(frames, mode), STATELESS_GOAL))
        frames, opened = (
            [frame(client, source, VIP, FULLNAT_PORT, flags=flags) for client, source in clients(count)]
            for flags in (ACK, SYN)
        )
        figures = bench.established(frames, Mode.FULLNAT, opened)
        rows.append(_row(f"established tcp fullnat, {count:,} flows", figures, ESTABLISHED))
    answers = [frame("10.0.1.5", 8000 + NAT_PORT, client, port, flags=ACK) for client, port in clients(1024)]
    rows.append(_row("answer tcp nat, 1,024 flows", bench.established(answers, Mode.NAT), ESTABLISHED))
    return rows


def _frames(who: list[tuple[str, int]], port: int, flags: int, protocol: int = socket.IPPROTO_TCP) -> list[bytes]:
    return [frame(client, source, VIP, port, flags=flags, protocol=protocol) for client, source in who]


def _first(bench: Bench) -> list[Row]:
    """With 1,024 flows the tables are in the cache and instructions count; with 65,536 memory does.

    Sessions can be made but once in a round, for which 1,024 are too few to be timed.
    """
    rows: list[Row] = []
    for count in (1024, 65536):
        frames = partial(_frames, clients(count))

        cases: tuple[tuple[str, list[bytes], list[bytes] | None, int, float], ...] = (
            ("SYN, maglev", frames(NAT_PORT, SYN), None, bench.repeat, SYN_GOAL),
            ("SYN, wrr, half-open kept", frames(WRR_PORT, SYN), None, bench.repeat, SYN_GOAL),
            ("first packet without session, maglev", frames(NAT_PORT, ACK | FIN), None, bench.repeat, FIRST_GOAL),
            ("session made by an ACK, maglev", frames(NAT_PORT, ACK), None, count, SESSION_GOAL),
            ("session made after a SYN, wrr", frames(WRR_PORT, ACK), frames(WRR_PORT, SYN), count, SESSION_GOAL),
            (
                "session made by UDP, lc of ten servers",
                frames(LC_PORT, 0, socket.IPPROTO_UDP),
                None,
                count,
                SESSION_GOAL,
            ),
            ("session made by UDP, maglev", frames(NAT_PORT, 0, socket.IPPROTO_UDP), None, count, SESSION_GOAL),
        )
        for name, now, before, repeat, goal in cases:
            if repeat == count == 1024:
                continue
            rows.append(_row(f"{name}, {count:,} flows", bench.first(now, before, repeat), goal))
    return rows
