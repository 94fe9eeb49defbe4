"""What a node tells of session sync: its counters by name, its peers for people, what an operator has to do. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from l4fast.sync_codec import Fault
from l4fast.sync_peers import Peer, PeerState

CLOCK_PROBLEM_S: Final = 5  # sessions that end are forgotten so much later or earlier elsewhere

COUNTERS: Final = (
    "sent_datagrams", "sent_records", "sent_hellos", "resent", "send_queue_full", "send_error",
    "received_datagrams", "received_records", "received_hellos", "received_resends", "received_late", "received_older",
    "missing", "lost", "resend_asked", "sent_ends", "received_ends", "own", *(fault.value for fault in Fault),
    "replayed", "old_boot", "clock", "layout", "unknown_type", "too_many_peers", "write_failed", "snapshots_given",
    "snapshots_refused", "snapshots_broken", "snapshots_taken", "snapshots_failed", "snapshot_records",
)  # fmt: skip


def problems(peers: Collection[Peer], seed: int, now: float) -> list[str]:
    """What is wrong with the peers that are heard; `seed` is the digest of this node's."""
    heard = [peer for peer in peers if peer.state(now) is not PeerState.SILENT]
    seeds = [
        f"{peer.name} has another seed in its cluster key file: flows without session go to other servers there; "
        "copy one file to all L4 nodes and send their agents SIGHUP"
        for peer in heard
        if peer.name and peer.seed != seed
    ]
    clocks = [
        f"the clock of {_name(peer)} is {abs(peer.shift_s)} s "
        f"{'behind' if peer.shift_s > 0 else 'ahead of'} this node's; check NTP on both"
        for peer in heard
        if abs(peer.shift_s) >= CLOCK_PROBLEM_S
    ]
    return [*seeds, *clocks]


def rows(peers: Collection[Peer], now: float) -> list[dict[str, object]]:
    """Each peer, for people and the control plane."""
    return [
        {
            "name": _name(peer),
            "state": peer.state(now).value,
            "heard_s": round(now - peer.heard, 1),
            "sessions": peer.sessions,
            "records": peer.records,
            "delay_ms": round(peer.delay_us / 1000, 1),
            "dropped": peer.dropped,
        }
        for peer in peers
    ]


def _name(peer: Peer) -> str:
    return peer.name or f"{peer.node:016x}"
