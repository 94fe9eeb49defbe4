"""What the packet-rate benchmark counts is what it has sent."""

from __future__ import annotations

import pytest

from bench import veth
from bench.l4.frames import ACK, ADDRESSES, to_vip
from bench.l4.rig import NAT_PORT
from l4fast.loader import XDP_FLAGS

pytestmark = pytest.mark.root
PACKETS = 640


@pytest.mark.parametrize("function", ["drop", "echo"])
def test_every_frame_is_counted(function: str) -> None:
    of = ADDRESSES[4]
    with veth.namespace():
        pair = veth.Pair(PACKETS)
        try:
            pair.load(to_vip(of.clients(veth.FLOWS), of.vip, NAT_PORT, ACK))
            pair.ends.attach(veth.NODE, function, XDP_FLAGS["native"])
            before = pair.count()
            assert pair.rate(1) > 0
            assert pair.count() - before == PACKETS
        finally:
            pair.ends.close()
