"""What is missing on the peer where the network loses datagrams: requests and repeats too."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from typing import Any

from bench import Row
from bench.l4.rig import NOW_S
from bench.sync.ends import End, full_page, pages, sessions
from l4fast.sync_io import SyncIO

PER_S = 100_000
PIECE = 20  # datagrams in one turn of the loop
GATHER_S = 1.2  # until the nodes know each other
WAIT_S = 1.0
FIRST = 1 << 26  # sessions that no other benchmark has


class Lossy:
    """A socket that loses a share of what is sent."""

    def __init__(self, sock: socket.socket, share: float, seed: int) -> None:
        self._sock = sock
        self._share = share
        self._chance = random.Random(seed)

    def sendto(self, data: bytes, to: tuple[str, int]) -> int:
        return len(data) if self._chance.random() < self._share else self._sock.sendto(data, to)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


async def rows(a: End, b: End, share: float, count: int, *, quick: bool) -> list[Row]:
    """New sessions come at a steady rate; a second after the last one the peer's table is looked at."""
    count = min(count, PER_S) if quick else count
    ios = []
    for seed, (end, other) in enumerate(((a, b), (b, a))):
        wire: Any = Lossy(end.sock, share, seed)
        ios.append(SyncIO(end.sync, end.tables, wire, other.sock.getsockname()))
    for io in ios:
        io.start()
    try:
        await asyncio.sleep(GATHER_S)
        before = dict(a.sync.counters)
        first = FIRST + int(share * 1000) * count
        keys, _ = sessions(b.plane, 4, count, NOW_S + 1000, first)
        await _send(a, count, first)
        await asyncio.sleep(WAIT_S)
        table = b.plane.map("sessions")
        key_size = len(keys) // count
        there = sum(table.get(table.key.from_buffer_copy(keys, at)) is not None for at in range(0, len(keys), key_size))
        sent = a.sync.counters["sent_datagrams"] - before["sent_datagrams"]
        resent = a.sync.counters["resent"] - before["resent"]
        b.tables.end_keys(4, keys, 0xFFFFFFFF)
    finally:
        for io in ios:
            io.stop()
    name = f"{share:.0%} of the datagrams lost, {PER_S:,} sessions a second"
    goal = 1.0 if share <= 0.05 else None
    return [
        Row(f"{name}: there after 1 s", "sessions", there, "sent", count, goal, higher_is_better=True),
        Row(f"{name}: sent again", "datagrams", resent, "sent once", sent),
    ]


async def _send(a: End, count: int, first: int) -> None:
    begun = time.perf_counter()
    for number, page in enumerate(pages(a, 4, count, NOW_S + 1000, first)):
        a.sync.send_sessions(4, *page, time.time_ns() // 1000)
        if number % PIECE == 0:  # which the agent's own timer sends
            await asyncio.sleep(max(0.0, number * full_page(a, 4) / PER_S - (time.perf_counter() - begun)))
