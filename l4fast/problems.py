"""What an operator of an L4 node has to do something about, in words that say what. Pure.

Each text names what is wrong and the remedy. It stands in the report to the control plane and in `paifang status` for
as long as it is true; what merely happens (datagrams that are refused) counts as true for REFUSALS_SHOWN_S.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from typing import Final

from core.endpoints import version as version_of
from core.model import Mode
from core.resolve import L4Service
from l4fast import vip
from l4fast.sync_peer import CLOCK_SKEW_S

log = logging.getLogger(__name__)

REFUSALS_SHOWN_S: Final = 60.0
# Counters of session sync that an operator has to do something about, and what.
REFUSALS: Final = {
    "clock": f"the clocks of two nodes differ by more than {CLOCK_SKEW_S:.0f} s; check NTP",
    "foreign_cluster": "a node with another cluster key uses the group; compare the key files or change --sync",
    "forged": "somebody without the cluster key sends to the group",
    "layout": "a node runs another release, whose sessions are laid out differently; upgrade it",
    "version": "a node runs another release, which speaks another version of the protocol; upgrade it",
    "too_many_peers": "there are more nodes in the group than this one has room for",
}


class Refusals:
    """What session sync refuses, by its counters."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}  # counter → its value, until when it is a problem

    def look(self, counters: Mapping[str, int], now: float) -> None:
        """To be called about once a second. Logs what begins."""
        for name in REFUSALS:
            count = counters[name]
            before, until = self._seen.get(name, (0, 0.0))
            if count > before:
                if until <= now:
                    log.warning("%s", _refusal(name))
                self._seen[name] = (count, now + REFUSALS_SHOWN_S)

    def problems(self, now: float) -> list[str]:
        return [_refusal(name) for name, (_, until) in self._seen.items() if now < until]


def servers_here(services: Sequence[L4Service], local: Sequence[str], excused: Set[str], here: Set[str]) -> list[str]:
    """What is wrong with the VIPs that are addresses of this node, and the servers that are this node itself.

    `local`: the node's addresses, of which VIPs may be those in `excused`; `here`: next hops that are the node itself.
    """
    return [
        *map(_misplaced, vip.misplaced(services, frozenset(local) - excused, here)),
        *map(_missing, vip.missing(services, local, here)),
        *(_unreachable(*each) for each in vip.unreachable(services, here)),
    ]


def _misplaced(address: str) -> str:
    return f"the VIP {address} is configured on this node; remove it there: its traffic has to come by a route"


def _missing(address: str) -> str:
    command = "ip addr add" if version_of(address) == 4 else "ip -6 addr add"
    bits = 32 if version_of(address) == 4 else 128
    return f"this node is a server of the VIP {address} and does not have it: `{command} {address}/{bits} dev lo`"


def _unreachable(listener: str, address: str, mode: Mode) -> str:
    return f"{listener}: its server {address} is this node itself, where mode {mode} does not lead; use mode dr"


def crowded(address: str) -> str:
    return f"there is no room for the interface's address {address}: health checks from it may fail; remove it"


def without_pool(listener: str, ip: int, node: str) -> str:
    why = f"{listener} is of mode fullnat and takes no new connections of IPv{ip} here"
    return f"{why}: give the node {node} a source_pool"


def _refusal(counter: str) -> str:
    return f"session sync refuses datagrams ({counter}): {REFUSALS[counter]}"
