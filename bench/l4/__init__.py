"""The data plane: nanoseconds a packet, against a floor program loaded the same way and run in turns with it; and what
ageing costs.

Flows come in another order than that in which the tables learnt them. Sessions are made by the packets themselves. The
floor always knows the flow: what a first packet costs is held against an established one's least, with the same flows.
"""

from __future__ import annotations

from bench import Row, shown
from bench.l4 import ageing, packets
from bench.l4.rig import HALF_OPEN, Rig, configure
from l4fast.loader import IP_VERSIONS, DataPlane


def run(quick: bool) -> list[Row]:
    """Needs root."""
    rows: list[Row] = []
    most = 1 << 16 if quick else 1 << 20
    plane = DataPlane.load(sessions=4 * most, half_open=HALF_OPEN)
    try:
        configure(plane, *IP_VERSIONS)
        for version in IP_VERSIONS:
            with Rig(version, plane, most, quick=quick) as rig:
                rows += shown(packets.rows(rig, quick=quick))
    finally:
        plane.close()
    return [*rows, *shown(ageing.rows(quick=quick))]
