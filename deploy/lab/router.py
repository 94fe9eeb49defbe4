"""Keeps dead L4 nodes out of the next hops: the lab's stand-in for BFD with BGP, or for VRRP.

Every 50 ms one ICMP echo goes to each L4 node; three unanswered in a row take the node out of the next-hop group on
the router and on every server, two answers bring it back. What is asked is the machine and its link, as BFD would.
The kernel answers, so that a busy node is not mistaken for a dead one; and answers that wait in our socket are read
before a probe is judged, so that a busy router is not mistaken for dead nodes either.

When no node is left the group stays as it is, because a group needs a member and there is nothing better to do.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from control.node import logs
from control.node.notify import notify
from control.node.tasks import Tasks
from core.health import Change, Health, observe
from deploy.lab.topology import group_lines, pool_lines

log = logging.getLogger(__name__)

INTERVAL_S = 0.05
RISE, FALL = 2, 3  # 3 × 50 ms: what BFD is commonly set to
READ_BYTES = 2048
_ECHO_REQUEST, _ECHO_REPLY = 8, 0  # RFC 792
_ICMP_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number


class Watch:
    """The health of every node from the answers to numbered probes. Pure: it neither sends nor reads a clock."""

    def __init__(self, nodes: Mapping[int, str]) -> None:
        self._number = {address: number for number, address in nodes.items()}
        self._health = {number: Health() for number in nodes}
        self._answered: set[int] = set()
        self._begun = False
        self.sequence = 0

    def answered(self, address: str, sequence: int) -> None:
        """An echo reply came; one to an earlier probe is too late to count."""
        if sequence == self.sequence and address in self._number:
            self._answered.add(self._number[address])

    def judge(self, now: float) -> dict[int, Change]:
        """Judge the probes under way and begin new ones with `sequence`. Returns the nodes that changed sides."""
        changes = {}
        for number, health in self._health.items() if self._begun else ():
            self._health[number], change = observe(health, number in self._answered, now, rise=RISE, fall=FALL)
            if change is not None:
                changes[number] = change
        self._answered.clear()
        self._begun = True
        self.sequence = (self.sequence + 1) & 0xFFFF
        return changes

    def live(self) -> list[int]:
        return [number for number, health in self._health.items() if health.healthy]


def echo_request(sequence: int) -> bytes:
    """An ICMP echo request for a ping socket, which fills in identifier and checksum itself (icmp(7))."""
    return _ICMP_ECHO.pack(_ECHO_REQUEST, 0, 0, 0, sequence)


def sequence_of(packet: bytes) -> int | None:
    """The sequence number of an echo reply; None for anything else."""
    if len(packet) < _ICMP_ECHO.size:
        return None
    kind, code, _, _, sequence = _ICMP_ECHO.unpack_from(packet)
    return sequence if (kind, code) == (_ECHO_REPLY, 0) else None


async def set_groups(namespaces: Iterable[str], nodes: int, live: list[int]) -> None:
    """Give every host the next-hop groups of the live ones of these nodes, all hosts at once."""
    lines = (*group_lines("replace", live), *pool_lines("replace", nodes, live))
    await asyncio.gather(*(_ip(netns, line) for netns in namespaces for line in lines))


async def _ip(netns: str, line: str) -> None:
    process = await asyncio.create_subprocess_exec("ip", "-n", netns, *line.split(), stderr=asyncio.subprocess.PIPE)
    _, errors = await process.communicate()
    if process.returncode:
        log.error("%s: ip %s: %s", netns, line, errors.decode(errors="replace").strip())


async def watch_forever(nodes: Mapping[int, str], namespaces: Sequence[str]) -> None:
    """Probe, judge, and change the groups where a node changed sides."""
    watch = Watch(nodes)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP) as sock:
        next_at = time.monotonic()
        while True:
            _read_answers(sock, watch)
            if changes := watch.judge(time.monotonic()):
                for number, change in changes.items():
                    log.warning("L4 node %d at %s: %s", number, nodes[number], change.value)
                if live := watch.live():
                    await set_groups(namespaces, len(nodes), live)
                    log.warning("next hops are now %s", ", ".join(nodes[number] for number in live))
                else:
                    log.error("no L4 node answers; the next hops stay as they are")
            _send_probes(sock, nodes, watch.sequence)
            # A late turn is not made up for: the next probe still has its whole interval to be answered in.
            next_at = max(next_at, time.monotonic()) + INTERVAL_S
            await asyncio.sleep(next_at - time.monotonic())


def _read_answers(sock: socket.socket, watch: Watch) -> None:
    while True:
        try:
            packet, (address, _) = sock.recvfrom(READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:  # an ICMP error that came back, such as "no route to host"
            log.debug("probe: %s", error)
            continue
        if (sequence := sequence_of(packet)) is not None:
            watch.answered(address, sequence)


def _send_probes(sock: socket.socket, nodes: Mapping[int, str], sequence: int) -> None:
    for address in nodes.values():
        try:
            sock.sendto(echo_request(sequence), (address, 0))
        except OSError as error:
            log.debug("%s: %s", address, error)


async def run(options: argparse.Namespace) -> None:
    """Watch until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    failed: list[BaseException] = []

    def died(_name: str, error: BaseException) -> None:
        failed.append(error)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = Tasks(died)
    tasks.spawn(watch_forever(dict(enumerate(options.node, 1)), options.namespace), "watch")
    notify("READY=1")
    await stop.wait()
    await tasks.close()
    if failed:
        raise failed[0]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.lab.router", description=__doc__.split("\n\n")[0])
    parser.add_argument("--node", action="append", required=True, metavar="ADDRESS", help="L4 nodes 1, 2, … in order")
    parser.add_argument(
        "--namespace", action="append", required=True, metavar="NETNS", help="hosts whose next-hop group to keep"
    )
    options = parser.parse_args(argv)
    logs.setup("router")
    try:
        asyncio.run(run(options))
    except OSError as error:
        print(f"paifang-router: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
