"""Session sync: what a record costs who sends and who receives it, how late it comes, what is missing where datagrams
are lost, and how fast a node that joins gets the whole table.

Both nodes have real data planes. In place of the group there are two sockets on loopback. The CPU of a sender includes
what the kernel does for a datagram up to the receiver's socket.
"""

from __future__ import annotations

import uvloop

from bench import Row
from bench.sync import delay, loss, rates, snapshot
from bench.sync.ends import End
from l4fast.loader import DataPlane

FLOWS, QUICK_FLOWS = 1 << 18, 1 << 16
ROUNDS, QUICK_ROUNDS = 7, 3
SNAPSHOT, QUICK_SNAPSHOT = 1 << 20, 1 << 19


def run(quick: bool) -> list[Row]:
    """Needs root."""
    return [*uvloop.run(_between_two(quick)), *snapshot.rows(QUICK_SNAPSHOT if quick else SNAPSHOT)]


async def _between_two(quick: bool) -> list[Row]:
    flows = QUICK_FLOWS if quick else FLOWS
    planes = [DataPlane.load(sessions=4 * flows, half_open=1 << 10, sync_ring_bytes=1 << 26) for _ in range(2)]
    ends = [End(name, plane, 4, 6) for name, plane in zip(("a", "b"), planes, strict=True)]
    try:
        rows = list(rates.rows(ends[0], ends[1], flows, QUICK_ROUNDS if quick else ROUNDS))
        rows += await delay.rows(ends[0], ends[1], quick=quick)
        for share in (0.05, 0.2):
            rows += await loss.rows(ends[0], ends[1], share, flows, quick=quick)
        return rows
    finally:
        for end in ends:
            end.close()
        for plane in planes:
            plane.close()
