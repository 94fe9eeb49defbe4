"""What a SYN chose is found again by its flow alone, and a flood pushes out nothing but that; copies of listeners."""

from __future__ import annotations

import ctypes as ct
import ipaddress
from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.model import Mode, Scheduler
from tests.packets import ACK, SYN, Harness, Packet, ends, service

pytestmark = pytest.mark.root

WAYS = 4
SYN_PACKET = Packet(port=81, sequence=1000)
ACK_PACKET = replace(SYN_PACKET, flags=ACK, sequence=1001)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Harness]:
    harness = Harness(sessions=256, half_open=WAYS, listeners=512, members=2048)
    yield harness
    harness.close()


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def harness(loaded: Harness, version: int) -> Harness:
    """All flows share the one bucket."""
    loaded.reset([service(81, Mode.DR, Scheduler.WRR, version=version)])
    return loaded


def opened(harness: Harness, packet: Packet, **fields: int) -> str:
    return harness.run(replace(packet, flags=SYN, sequence=1000, **fields))[0]


def follows(harness: Harness, packet: Packet, **fields: int) -> bool:
    """Whether the packet after the SYN makes a session."""
    reason, _ = harness.run(replace(packet, flags=ACK, sequence=1001, **fields))
    assert reason in ("tx_new_session", "tx_untracked")
    return reason == "tx_new_session"


def test_one_more_than_has_room_pushes_out_the_oldest(harness: Harness, version: int) -> None:
    packet = SYN_PACKET.as_version(version)
    for port in range(2000, 2000 + WAYS + 1):
        assert opened(harness, packet, source_port=port) == "tx_syn"
    assert harness.half_open(version) == WAYS
    assert [follows(harness, packet, source_port=port) for port in range(2000, 2000 + WAYS + 1)] == [False] + [
        True
    ] * WAYS
    assert harness.half_open(version) == 0


def test_a_syn_that_comes_again_takes_no_second_place(harness: Harness, version: int) -> None:
    packet = SYN_PACKET.as_version(version)
    opened(harness, packet, source_port=2000)
    for _ in range(2 * WAYS):
        opened(harness, packet, source_port=2001)
    assert harness.half_open(version) == 2
    assert follows(harness, packet, source_port=2000)


def test_the_newest_syn_of_a_flow_counts(harness: Harness, version: int) -> None:
    packet = SYN_PACKET.as_version(version)
    macs = [harness.run(replace(packet, sequence=n * 0x100000))[1][:6] for n in range(3)]
    assert len(set(macs)) == 3
    reason, after = harness.run(replace(packet, flags=ACK, sequence=2 * 0x100000 + 1))
    assert (reason, after[:6]) == ("tx_new_session", macs[2])
    assert harness.half_open(version) == 0


def test_flows_are_told_apart_by_every_byte_of_their_addresses(harness: Harness, version: int) -> None:
    packet = SYN_PACKET.as_version(version)
    assert opened(harness, packet) == "tx_syn"
    source = ipaddress.ip_address(packet.source)
    for at in range(0, source.max_prefixlen, 8):
        other = str(type(source)(int(source) ^ 1 << at))
        assert not follows(harness, replace(packet, source=other)), other
    for port in (packet.source_port ^ 1, packet.source_port ^ 0x100):
        assert not follows(harness, packet, source_port=port)
    assert follows(harness, packet)


def test_words_of_two_flows_belong_to_neither(harness: Harness, version: int) -> None:
    """As two CPUs leave them that write one place at the same time."""
    packet = SYN_PACKET.as_version(version)
    for port in (2000, 2001):
        opened(harness, packet, source_port=port)
    syns = harness.plane.map("half_open", version)
    bucket = syns.get(ct.c_int(0))
    assert bucket is not None
    bucket.entry[0], bucket.entry[1] = bucket.entry[1], bucket.entry[0]
    syns.put(ct.c_int(0), bucket)
    assert not follows(harness, packet, source_port=2000)
    assert not follows(harness, packet, source_port=2001)


def test_each_packet_finds_its_own_listener_among_many(harness: Harness, version: int) -> None:
    """More than a CPU keeps copies of."""
    services = [
        service(port, real_port=10000 + port, vip=vip, version=version)
        for vip in ("10.0.0.100", "10.1.0.100")
        for port in range(1000, 1150)
    ]
    harness.reset(services)
    for _ in range(2):
        for of in services:
            packet = Packet(destination="10.0.0.100", port=of.port).as_version(version)
            _, after = harness.run(replace(packet, destination=of.vip))
            assert ends(after)[1][1] == 10000 + of.port


def test_a_copy_of_a_listener_is_good_until_the_next_change(harness: Harness, version: int) -> None:
    packet = Packet(port=81).as_version(version)
    for real_port in (8080, 8081):
        harness.tables.apply([service(81, real_port=real_port, version=version)], set(), harness.macs)
        for _ in range(2):
            assert ends(harness.run(packet)[1])[1][1] == real_port
    harness.tables.apply([], set(), harness.macs)
    assert harness.run(packet)[0] == "pass_not_for_vip"
