"""A whole table from one node to another, over TLS: each is a process of its own, with a data plane of its own.

The rate that counts is that of the CPU which the slower of the two takes, as with the others: both run on this machine,
which has other work. That by the clock is from the request until the table is in.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench import Row
from bench.l4.rig import NOW_S
from bench.sync.ends import End, sessions
from certs.authority import Authority
from control.node.identity import Identity
from control.node.tasks import Tasks
from l4fast.loader import IP_VERSIONS, DataPlane
from l4fast.snapshot_io import Snapshots, listener

GOAL = 1_000_000.0
LIMIT_S = 60.0


def rows(count: int) -> Iterator[Row]:
    for version in IP_VERSIONS:
        with tempfile.TemporaryDirectory() as directory:
            authority = Authority.init(Path(directory) / "ca")
            for name in ("giver", "taker"):
                authority.issue_node("l4", name).write(Path(directory) / name)
            yield from _rows(Path(directory), version, count)


def _rows(directory: Path, version: int, count: int) -> Iterator[Row]:
    script = f"from bench.sync.snapshot import give; give({str(directory)!r}, {version}, {count})"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as giver:
        assert giver.stdin is not None
        assert giver.stdout is not None
        try:
            took_s, cpu_s = uvloop.run(_take(directory, version, count, giver.stdout.readline()))
            giver.stdin.write("\n")
            giver.stdin.flush()
            given_s = json.loads(giver.stdout.readline())["cpu_s"]
        finally:
            giver.stdin.close()
    name = f"IPv{version} snapshot of {count:,} sessions"
    rate = count / max(cpu_s, given_s)
    yield Row(f"{name}, by CPU", "1/s", rate, "the goal", GOAL, 1.0, higher_is_better=True)
    yield Row(f"{name}, by the clock", "1/s", count / took_s)
    yield Row(f"{name}, CPU each, giver", "ns", given_s / count * 1e9)
    yield Row(f"{name}, CPU each, taker", "ns", cpu_s / count * 1e9)


async def _take(directory: Path, version: int, count: int, hello: str) -> tuple[float, float]:
    """Seconds that it took, and of CPU, until this node was complete."""
    plane = DataPlane.load(sessions=count * 5 // 4, half_open=1 << 10)
    try:
        taker = End("taker", plane, version)
        tasks = Tasks()
        snapshots = Snapshots(taker.sync, taker.tables, Identity.load(directory / "taker"), tasks)
        listening = listener("lo", 4, 0)
        snapshots.start(listening)
        loop = asyncio.get_running_loop()
        taker.sync.receive_data(
            bytes.fromhex(json.loads(hello)["hello"]), loop.time(), time.time_ns() // 1000, "127.0.0.1"
        )
        cpu = time.process_time()
        async with asyncio.timeout(LIMIT_S):
            await snapshots.complete.wait()
        cpu_s = time.process_time() - cpu
        assert taker.sync.counters["snapshot_records"] == count
        assert taker.sync.catching_up.last_taken is not None
        await tasks.close()
        listening.close()
        taker.close()
        return taker.sync.catching_up.last_taken[1], cpu_s
    finally:
        plane.close()


async def _give(directory: Path, version: int, count: int) -> None:
    """The other process: tells its hello, and in the end the CPU that it took since."""
    plane = DataPlane.load(sessions=count * 5 // 4, half_open=1 << 10)
    try:
        giver = End("giver", plane, version)
        keys, values = sessions(plane, version, count, NOW_S)
        assert plane.map("sessions", version).put_many(keys, values, count) == count
        tasks = Tasks()
        snapshots = Snapshots(giver.sync, giver.tables, Identity.load(directory / "giver"), tasks)
        listening = listener("lo", 4, 0)
        snapshots.start(listening)
        giver.sync.sessions = count
        giver.sync.tick(asyncio.get_running_loop().time(), time.time_ns() // 1000)
        (hello,) = giver.sync.data_to_send()
        cpu = time.process_time()
        print(json.dumps({"hello": hello.hex()}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps({"cpu_s": time.process_time() - cpu}), flush=True)
        await tasks.close()
        listening.close()
    finally:
        plane.close()


def give(directory: str, version: int, count: int) -> None:
    """The whole life of the other process."""
    uvloop.run(_give(Path(directory), version, count))
