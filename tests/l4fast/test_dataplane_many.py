"""Ten thousand connections at once through one node: opened, used, counted, closed and aged out.

Client and servers are processes of their own (tests/l4fast/held.py): a process may have 20,000 files open.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.model import Mode, Scheduler
from l4fast.expiry import CLOSED_TIMEOUT_S, FIN_WAIT_TIMEOUT_S, expire
from tests.l4fast.site import SERVERS, SOURCES, VIP, Site, site
from tests.packets import service

pytestmark = pytest.mark.root

COUNT, PER_S = 10_000, 5_000
# The last ones, which make up for what a busy machine upsets: the scheduler forgets handshakes that last for seconds.
FEW, FEW_AT_ONCE = 1_500, 8
WAYS = [(Mode.NAT, Scheduler.LC), (Mode.DR, Scheduler.MAGLEV), (Mode.FULLNAT, Scheduler.WRR)]


class Process:
    """held.py in a namespace."""

    def __init__(self, lan: Site, host: str, *arguments: object) -> None:
        command = ["nsenter", f"--net={lan.network.path(host)}", sys.executable, str(Path(__file__).parent / "held.py")]
        self._process = subprocess.Popen(
            [*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str = "") -> Any:
        """Its answer; without a command, its first word."""
        assert self._process.stdin
        assert self._process.stdout
        if command:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "it has ended"
        return json.loads(line)

    def end(self) -> None:
        try:
            self._process.communicate(timeout=10)
        finally:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def lan() -> Iterator[Site]:
    with site(3, sessions=1 << 18, half_open=1 << 15) as lan:
        yield lan


@contextmanager
def ticking(lan: Site) -> Iterator[None]:
    """The node's clock goes on, as its daemon lets it."""
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.1):
            lan.tables.set_epoch(int(time.time()))

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def held(lan: Site) -> int:
    return sum(count for _, _, count in lan.plane.map("sessions", 4).blocks(4096))


def states(lan: Site) -> Counter[str]:
    return Counter(view.state for view in lan.tables.sessions(limit=2 * COUNT))


@pytest.mark.parametrize(("mode", "scheduler"), WAYS, ids=[mode.value for mode, _ in WAYS])
def test_ten_thousand_connections(lan: Site, mode: Mode, scheduler: Scheduler) -> None:
    of = service(80 + WAYS.index((mode, scheduler)), mode, scheduler, name="many", vip=VIP, reals=SERVERS[:3])
    entries = 2 if mode is Mode.FULLNAT else 1  # of a session: fullnat has one of the answers as well
    lan.services.clear()
    lan.apply(of)
    before = lan.tables.counters()
    with ExitStack() as stack:
        at = [VIP if mode is Mode.DR else address for address in SERVERS[:3]]
        processes = [
            Process(lan, name, "server", end, of.reals[0].port) for name, end in zip(lan.names, at, strict=True)
        ]
        processes.append(Process(lan, "client", "client", SOURCES[mode], VIP, of.port))
        for process in processes:
            stack.callback(process.end)
        assert {process.ask() for process in processes} == {"ready"}
        *servers, client = processes

        with ticking(lan):
            for count, at_once in ((COUNT - FEW, 512), (FEW, FEW_AT_ONCE)):
                opened = client.ask(f"open {count} {PER_S} {at_once}")
                assert (opened["open"], opened["silent"]) == (count, 0), opened
            for _ in range(2):
                assert client.ask("round")["answered"] == COUNT
        assert held(lan) == COUNT * entries
        assert states(lan) == {"established": COUNT}
        each = [server.ask("count") for server in servers]
        assert sum(each) == COUNT
        assert min(each) > COUNT / 4
        if scheduler is Scheduler.LC:
            counts = lan.tables.connections()["many"]
            assert [counts[f"{address}:{of.reals[0].port}"] for address in SERVERS[:3]] == each
            assert max(each) - min(each) <= FEW_AT_ONCE + 2, "but for handshakes that have taken longer than a second"
        counters = lan.tables.listener_counters()["many"]
        assert counters["sessions_made"] == COUNT
        now_s = lan.plane.settings[4].now_s
        assert expire(lan.tables, now_s, 1 << 30) == 0
        assert lan.tables.listener_counters()["many"]["sessions"] == COUNT

        client.ask(f"close {PER_S}")
        while any(server.ask("count") for server in servers):
            time.sleep(0.05)
        ended = states(lan)  # a server's kernel resets now and then what both sides have closed
        assert sum(ended.values()) == ended["fin-wait"] + ended["closed"] == COUNT
        assert ended["closed"] < COUNT / 100
        for timeout_s, state in ((CLOSED_TIMEOUT_S, "closed"), (FIN_WAIT_TIMEOUT_S, "fin-wait")):
            assert expire(lan.tables, now_s + timeout_s - 1, 1 << 30) == 0
            assert expire(lan.tables, now_s + timeout_s, 1 << 30) == ended[state] * entries
        assert held(lan) == 0
        if scheduler is Scheduler.LC:
            assert set(lan.tables.connections()["many"].values()) == {0}
    gained = {name: n - before[name] for name, n in lan.tables.counters().items() if n != before[name]}
    assert not [name for name in gained if name.startswith("drop")], gained
