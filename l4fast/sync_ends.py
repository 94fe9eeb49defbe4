"""Sessions that were ended by hand, remembered so that they do not come back (pure).

A session that expires or ends by FIN or RST does so on each node by itself: its state and its last packet travel. One
that is killed goes on every node that is told; but a record of it may be under way just then, and a node that was not
there, or a snapshot that was taken before, still has it. So an end has a time, and is carried out

  - when it is told or heard;
  - again `AGAIN_S` later, when what was under way has come;
  - after each snapshot that this node took, which was read before or by a node that had not heard;

and snapshots that this node gives tell it too. A session whose last packet is later than its end has begun anew and
stays. An end is forgotten after `KEEP_S`, by when a session without packets is gone for its idle time, or when there
are too many: `MOST_BYTES` of keys.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

AGAIN_S: Final = 1.0  # six requests for a lost datagram take 0.6 s
KEEP_S: Final = 930.0  # the longest idle time of a listener is 900 s; and clocks differ
MOST_BYTES: Final = 4 << 20
# Blocks of one datagram each, 5 ms of work: whoever kills a million sessions must not hold up the loop.
AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class Ended:
    """Sessions of one IP version that have ended, by their keys, which stand in a block: all whose last packet came no
    later than `until_s`, of the wall clock."""

    ip: int
    keys: bytes
    count: int
    until_s: int


class Ends:
    """What has ended lately. `wall_s`: the wall clock, by which ends are forgotten on all nodes alike."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: dict[Ended, None] = {}
        self._again: deque[tuple[float, Ended]] = deque()

    def add(self, ended: Ended, now: float, wall_s: int) -> None:
        if ended in self._kept:  # told by another node's snapshot
            return
        self._kept[ended] = None
        self._again.append((now + AGAIN_S, ended))
        self._bytes += len(ended.keys)
        while self._kept:
            oldest = next(iter(self._kept))
            if self._bytes <= self._most_bytes and oldest.until_s + KEEP_S >= wall_s:
                break
            del self._kept[oldest]
            self._bytes -= len(oldest.keys)

    def next_timer(self) -> float | None:
        return self._again[0][0] if self._again else None

    def due(self, now: float, most: int = AT_ONCE) -> list[Ended]:
        """Those to carry out again now, up to so many; the others are due at once."""
        due: list[Ended] = []
        while self._again and self._again[0][0] <= now and len(due) < most:
            due.append(self._again.popleft()[1])
        return due

    def kept(self, wall_s: int) -> list[Ended]:
        """All that are remembered: for a snapshot, or after one."""
        return [ended for ended in self._kept if ended.until_s + KEEP_S >= wall_s]
