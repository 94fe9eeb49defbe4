"""The benchmarks' frames are what they are meant to be, as an independent library reads them."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from bench.l4 import frames
from bench.l4.frames import ADDRESSES, FRAME_BYTES, SYN, frame

LAYERS: dict[int, type[Packet]] = {4: IP, 6: IPv6}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [frames.TCP, frames.UDP])
def test_a_frame(version: int, protocol: int) -> None:
    of = ADDRESSES[version]
    ((client, port),) = of.clients(1)
    raw = frame((client, port), (of.vip, 80), flags=SYN, protocol=protocol)
    assert len(raw) == FRAME_BYTES[version]
    read = Ether(raw)
    ip, l4 = read[LAYERS[version]], read[TCP if protocol == frames.TCP else UDP]
    assert (ip.src, l4.sport, ip.dst, l4.dport) == (client, port, of.vip, 80)
    if protocol == frames.TCP:
        assert (l4.flags, l4.seq) == ("S", 1)
    if version == 4:
        sent, ip.chksum = ip.chksum, None
        assert IP(bytes(ip)).chksum == sent


def test_clients_are_all_different_and_always_the_same() -> None:
    many = ADDRESSES[6].clients(5000)
    assert len(set(many)) == 5000
    assert many == ADDRESSES[6].clients(5000)
    assert many != sorted(many)
