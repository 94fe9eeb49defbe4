"""How long it takes from a session's third packet to its entry on the peer, both agents' loops running."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence

from bench import Row
from bench.l4.frames import ADDRESSES, UDP, to_vip
from bench.l4.rig import NAT_PORT
from bench.sync.ends import End
from l4fast.merging import Merged

SESSIONS, QUICK_SESSIONS = 1000, 200
GOAL_MS = 30.0
PAUSE_S = (0.002, 0.02)
LIMIT_S = 2.0


async def rows(a: End, b: End, *, quick: bool) -> list[Row]:
    delays = await _delays(a, b, QUICK_SESSIONS if quick else SESSIONS)
    hundredths = statistics.quantiles(delays, n=100)
    return [
        Row("third packet to entry on the peer, median", "ms", statistics.median(delays), "the goal", GOAL_MS, 1.0),
        Row("third packet to entry on the peer, p99", "ms", hundredths[98], "the goal", GOAL_MS, 1.0),
    ]


async def _delays(a: End, b: End, sessions: int) -> Sequence[float]:
    """In milliseconds, one session after another, at times that have nothing to do with the agents' timers."""
    chance = random.Random(1)
    of = ADDRESSES[4]
    senders = [(end, end.io(other.sock)) for end, other in ((a, b), (b, a))]
    written = asyncio.Event()
    at = [0.0]
    hearing = b.tables.hear_sessions

    def hear(version: int, body: bytes, count: int, ends: int, shift_s: int = 0) -> Merged:
        outcome = hearing(version, body, count, ends, shift_s)
        at[0] = time.perf_counter()
        written.set()
        return outcome

    b.tables.hear_sessions = hear  # type: ignore[method-assign]
    for _, io in senders:
        io.start()
    delays: list[float] = []
    try:
        for frame in to_vip(of.clients(sessions + 7)[7:], of.vip, NAT_PORT, 0, UDP):
            await asyncio.sleep(chance.uniform(*PAUSE_S))
            a.plane.run(frame)
            a.plane.run(frame)
            written.clear()
            begun = time.perf_counter()
            a.plane.run(frame)
            async with asyncio.timeout(LIMIT_S):
                await written.wait()
            delays.append((at[0] - begun) * 1000)
    finally:
        b.tables.hear_sessions = hearing  # type: ignore[method-assign]
        for _, io in senders:
            io.stop()
    return delays
