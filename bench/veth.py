"""Packets a second through a veth pair, by one core and one queue, and by two of each.

`BPF_PROG_TEST_RUN` makes live frames and sends them into one end; the program at the other end sends them back, and
what comes back is counted. One core does all of it: making a frame and sending it, receiving and running the program,
sending back and counting. The peers do the same: a program that only exchanges the MAC addresses, one that drops, and
the kernel's own forwarding. With two queues two threads do so on two cores; a machine that has others at work on them
shows less.

Everything happens in a network namespace of its own and ends with it.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import netns

from bench import Row
from bench.l4.frames import ACK, ADDRESSES, FRAME_BYTES, NODE_MAC, SENDER_MAC, frame, to_vip
from bench.l4.rig import DR_PORT, NAT_PORT, configure
from l4fast.bpf import syscall
from l4fast.loader import XDP_FLAGS, DataPlane, Program

SOURCES = Path(__file__).parent / "bpf"
SENDER, NODE = "sender", "node"
FLOWS = 1024
QUEUES = 2
PEERS = {"XDP_DROP": None, "XDP_TX": "XDP_DROP"}  # of the others: XDP_TX
FORWARDED = "198.18.0.0/15"  # RFC 2544: where the kernel is to forward
# Frames of one round and core: about a second.
QUICK_PACKETS, PACKETS = 500_000, 4_000_000
QUICK_ROUNDS, ROUNDS = 3, 7
SETTLE_S = 0.05  # what is still on its way when the sender is done


@contextmanager
def namespace() -> Iterator[None]:
    """A namespace with a veth pair of two queues; this thread is in it meanwhile."""
    name = f"pfbench{os.getpid()}"
    netns.create(name)
    try:
        netns.pushns(name)
        try:
            _lay_out()
            yield
        finally:
            netns.popns()
    finally:
        netns.remove(name)


def _lay_out() -> None:
    def run(command: str) -> None:
        subprocess.run(command.split(), check=True)

    # Routers would be looked for, with frames that nobody has ordered.
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    queues = f"numtxqueues {QUEUES} numrxqueues {QUEUES}"
    run(f"ip link add {SENDER} {queues} type veth peer name {NODE} {queues}")
    for link, mac in ((SENDER, SENDER_MAC), (NODE, NODE_MAC)):
        run(f"ip link set {link} address {mac.hex(':')} up")
    # Without a program there, what is sent to a link from XDP arrives only if it has GRO.
    run(f"ethtool -K {NODE} gro on")
    run(f"ip addr add 10.0.0.2/24 dev {NODE}")
    run(f"ip neigh add 10.0.0.1 lladdr {SENDER_MAC.hex(':')} dev {NODE}")
    run(f"ip route add {FORWARDED} via 10.0.0.1")
    for setting, value in (("ip_forward", "1"), ("conf/all/rp_filter", "0"), (f"conf/{NODE}/rp_filter", "0")):
        Path("/proc/sys/net/ipv4", setting).write_text(value)


class Pair:
    """The two ends with their programs."""

    def __init__(self, packets: int) -> None:
        self._packets = packets
        self.ends = Program(
            SOURCES / "veth.c", ("generate", "count", "echo", "drop"), {"FRAME": FRAME_BYTES[4], "FRAMES": FLOWS}
        )
        self._frames = self.ends.map("frames")
        self._counted = self.ends.map("counted")
        self.ends.attach(SENDER, "count", XDP_FLAGS["native"])
        self._ifindex = socket.if_nametoindex(SENDER)

    def load(self, frames: list[bytes]) -> None:
        self._frames.put_many(struct.pack(f"={len(frames)}I", *range(len(frames))), b"".join(frames), len(frames))

    def rate(self, cores: int) -> float:
        """Millions of packets a second that came back (or that `drop` has counted)."""
        before = self.count()
        start = time.perf_counter()
        threads = [threading.Thread(target=self._send, args=(cpu,)) for cpu in range(cores)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - start
        time.sleep(SETTLE_S)
        return (self.count() - before) / elapsed / 1e6

    def _send(self, cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        syscall.run_live(self.ends.fd("generate"), bytes(FRAME_BYTES[4]), self._packets, self._ifindex)

    def count(self) -> int:
        return sum(count.value for count in self._counted.get_per_cpu(self._counted.key(0), os.cpu_count() or 1))


def run(quick: bool) -> list[Row]:
    """Needs root."""
    with namespace():
        pair = Pair(QUICK_PACKETS if quick else PACKETS)
        plane = DataPlane.load(sessions=4 * FLOWS, half_open=FLOWS)
        try:
            return list(_rows(pair, plane, quick))
        finally:
            pair.ends.close()
            plane.close()


@dataclass(frozen=True)
class Contender:
    name: str
    program: Program | None  # of the node's end; None: the kernel
    function: str
    frames: list[bytes]


def _contenders(pair: Pair, plane: DataPlane) -> list[Contender]:
    of = ADDRESSES[4]
    configure(plane, 4)
    clients = of.clients(FLOWS)
    to_nat = to_vip(clients, of.vip, NAT_PORT, ACK)
    forwarded = [frame(client, (f"198.18.{n >> 8}.{n & 255}", 80), flags=ACK) for n, client in enumerate(clients)]
    return [
        Contender("XDP_DROP", pair.ends, "drop", to_nat),
        Contender("XDP_TX", pair.ends, "echo", to_nat),
        Contender("nat", plane.programs[4], "lb", to_nat),
        Contender("dr", plane.programs[4], "lb", to_vip(clients, of.vip, DR_PORT, ACK)),
        Contender("ip_forward of the kernel", None, "", forwarded),
    ]


def _rows(pair: Pair, plane: DataPlane, quick: bool) -> Iterator[Row]:
    contenders = _contenders(pair, plane)
    cores = range(1, min(QUEUES, len(os.sched_getaffinity(0))) + 1)
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        for contender in contenders:
            pair.load(contender.frames)
            with _attached(contender):
                for queues in cores:
                    rates[contender.name, queues].append(pair.rate(queues))
    medians = {key: statistics.median(values) for key, values in rates.items()}
    for queues in cores:
        for contender in contenders:
            against = PEERS.get(contender.name, "XDP_TX")
            yield Row(
                f"veth, {contender.name}, {queues} queue{'s' * (queues > 1)}",
                "Mpackets/s",
                medians[contender.name, queues],
                against,
                medians[against, queues] if against else None,
                higher_is_better=True,
            )


@contextmanager
def _attached(contender: Contender) -> Iterator[None]:
    """Its program is that of the node's end."""
    if contender.program is None:
        yield
        return
    contender.program.attach(NODE, contender.function, XDP_FLAGS["native"])
    try:
        yield
    finally:
        contender.program.detach(NODE, XDP_FLAGS["native"])
