"""What ageing costs: the share of a core that sweeping the session table takes, paced as the agent does it.

Sessions are entered as if packets had made them, idle for anything up to two thirds of their listener's time, so that
none goes: what takes time is looking at them. The same for sessions learnt from peers that carry no packets here.
"""

from __future__ import annotations

import random
import statistics
import struct
import time
from collections.abc import Iterator

from bench import Row
from bench.l4.frames import ACK, ADDRESSES, to_vip
from bench.l4.rig import NAT_PORT, NOW_S, Root, configure
from l4fast.agent import EXPIRY_S
from l4fast.expiry import expire
from l4fast.loader import IP_VERSIONS, DataPlane
from l4fast.node import EXPIRY_BUDGET
from l4fast.tables import Tables

QUICK_SESSIONS, SESSIONS = 1 << 17, 1 << 20
QUICK_SWEEPS, SWEEPS = 3, 5
SHARE_GOAL = 0.05
IDLE_MOST_S = 600
# Sessions that packets make, from which the others are copied; and how many are entered at once.
PATTERNS, BLOCK = 64, 1 << 14


def rows(*, quick: bool) -> Iterator[Row]:
    sessions = QUICK_SESSIONS if quick else SESSIONS
    for version in (4,) if quick else IP_VERSIONS:
        plane = DataPlane.load(sessions=sessions * 17 // 16, half_open=1 << 10)
        try:
            tables = configure(plane, version)
            for learnt in (False, True):
                _fill(tables, plane, version, sessions, learnt=learnt)
                whose = "learnt from peers" if learnt else "of this node"
                yield _row(f"ageing IPv{version} sessions {whose}", tables, sessions, QUICK_SWEEPS if quick else SWEEPS)
        finally:
            plane.close()


def _fill(tables: Tables, plane: DataPlane, version: int, count: int, *, learnt: bool) -> None:
    """Empties the table and enters copies of sessions that packets have made, with other clients."""
    of, of_version = ADDRESSES[version], tables.versions[version]
    sessions = of_version.session_map
    for old, _, n in list(sessions.blocks(4096)):
        sessions.delete_many(old, n)
    root = Root(version, PATTERNS)
    root.load(to_vip(of.clients(PATTERNS), of.vip, NAT_PORT, ACK))
    root.run((plane.programs[4], "lb"), 3 * PATTERNS)
    root.close()
    ((keys, values, patterns),) = sessions.blocks(2 * PATTERNS)
    chosen = random.Random(3)
    # The last four bytes of the client's address tell the sessions apart.
    number_at = sessions.key.client.offset + sessions.key.client.size - 4
    for at in range(0, count, BLOCK):
        new_keys, new_values = bytearray(), bytearray()
        for number in range(at, min(at + BLOCK, count)):
            n = number % patterns
            key = bytearray(keys[n * of_version.key_size : (n + 1) * of_version.key_size])
            struct.pack_into("=I", key, number_at, number)
            value = sessions.value.from_buffer_copy(values, n * of_version.value_size)
            value.last_s = NOW_S - chosen.randrange(IDLE_MOST_S)
            if learnt:
                value.generation, value.member, value.hop, value.learnt = 0, 0, 0, 1
            new_keys += key
            new_values += bytes(value)
        made = len(new_keys) // of_version.key_size
        assert sessions.put_many(bytes(new_keys), bytes(new_values), made) == made


def _row(name: str, tables: Tables, count: int, sweeps: int) -> Row:
    """The agent looks at EXPIRY_BUDGET sessions every EXPIRY_S."""
    shares: list[float] = []
    for _ in range(sweeps):
        before = time.process_time()
        calls = 0
        while not calls or tables.sweep.blocks is not None:
            expire(tables, NOW_S, EXPIRY_BUDGET)
            calls += 1
        cost_s = (time.process_time() - before) / count
        shares.append(cost_s * EXPIRY_BUDGET / EXPIRY_S)
    period_s = 1_000_000 / EXPIRY_BUDGET * EXPIRY_S
    title = f"{name}, a million swept in {period_s:.0f} s"
    return Row(title, "% of a core", statistics.median(shares) * 100, "a core", 100.0, SHARE_GOAL)
