"""When a node takes VIPs, and when it keeps them. Pure.

    WAITING ──ready, or waited long enough──► HOLDING ──told to stop──► RELEASED

A node that takes a VIP before it knows the peers' sessions would break what they have kept; one that takes it before
its servers have been probed would send clients to dead ones. So it waits for both (`lacking`). It does not wait for
ever: a peer that never tells its sessions, or a server that never answers a probe, must not keep a cluster from
serving.

What is held is kept: a peer that falls behind later is no reason for all nodes to drop the VIPs at once. A change of
the addresses waits for the probes of what is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

TAKE_ANYHOW_S: Final = 60.0
PROBES_LIMIT_S: Final = 10.0  # for what is new on a node that holds VIPs already


class Stage(StrEnum):
    WAITING = "waiting"
    HOLDING = "holding"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready`: a configuration runs and the first round of probes is over. `probed`: so is that of its last change.
    `complete`: the peers' sessions are known here."""

    ready: bool
    probed: bool
    complete: bool


def lacking(readiness: Readiness) -> str:
    """What a node has to wait for before it may take a VIP; empty: nothing."""
    if not readiness.ready:
        return "the configuration or the first round of health checks"
    if not readiness.complete:
        return "the peers' sessions"
    return "" if readiness.probed else "the health checks of new servers"


class Holding:
    """`now` is monotonic. Whoever wants other addresses announced calls `ask`, then `may_change` until it is true."""

    def __init__(self, now: float) -> None:
        self.stage = Stage.WAITING
        self.lacks = ""  # what is waited for
        self.hurried = ""  # what was still missing when the VIPs were taken, while it is
        self._asked = now

    def go_on(self) -> None:
        """An earlier agent of this node has taken the VIPs already."""
        self.stage = Stage.HOLDING

    def ask(self, now: float) -> None:
        self._asked = now

    def may_change(self, readiness: Readiness, now: float) -> bool:
        """Whether what is wanted may be announced now."""
        if self.stage is Stage.RELEASED:
            return False
        waited = now - self._asked
        if not readiness.ready:
            self.lacks = lacking(readiness)
            return False
        if self.stage is Stage.HOLDING:
            self.lacks = "" if readiness.probed or waited >= PROBES_LIMIT_S else lacking(Readiness(True, False, True))
            return not self.lacks
        self.lacks = lacking(readiness)
        if self.lacks and waited < TAKE_ANYHOW_S:
            return False
        self.stage, self.hurried, self.lacks = Stage.HOLDING, self.lacks, ""
        return True

    def look(self, readiness: Readiness) -> None:
        """Forgets what was missing once it is there."""
        if self.hurried and not lacking(readiness):
            self.hurried = ""

    def release(self) -> None:
        self.stage, self.lacks, self.hurried = Stage.RELEASED, "", ""
