"""Fragments that come before the first of their packet."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.model import Mode
from l4fast.early import FIRST_LOOK_S, LIMIT_S, MOST, EarlyFragments, Fragment, Waiting, Wire
from l4fast.hop_tables import WAY_VLAN_SHIFT
from l4fast.hops import Hop
from tests.l4fast.netns import Network
from tests.packets import (
    MTU,
    NOW_S,
    UDP,
    Harness,
    Packet,
    maglev_real,
    service,
    six,
    version_of,
)

SIZES = (400, 400)


def held(came: float = 0.0, frame: bytes = b"") -> Fragment:
    return Fragment(4, frame, came)


# Who waits


def test_one_is_looked_at_sooner_then_later_and_then_given_up() -> None:
    waiting = Waiting()
    assert waiting.next_look() is None
    assert waiting.add(held(10.0))
    looks = []
    while (now := waiting.next_look()) is not None:
        assert waiting.due(now - 0.0001) == []
        (fragment,) = waiting.due(now)
        looks.append(now - 10.0)
        if not waiting.again(fragment, now):
            break
    assert looks[0] == pytest.approx(FIRST_LOOK_S)
    assert looks[-1] == pytest.approx(LIMIT_S)
    for sooner, later in itertools.pairwise(looks):
        assert later == pytest.approx(min(2 * sooner, LIMIT_S))


@given(st.lists(st.integers(0, 10), max_size=40))
def test_the_sooner_is_looked_at_first(times: list[int]) -> None:
    waiting = Waiting()
    for time in times:
        waiting.add(held(time))
    assert [fragment.came for fragment in waiting.due(100.0)] == sorted(times)


def test_there_is_an_end_to_the_room() -> None:
    waiting = Waiting()
    assert all(waiting.add(held(n)) for n in range(MOST))
    assert not waiting.add(held())
    assert waiting.due(0.5)
    assert waiting.add(held())


# With the program


@pytest.fixture(scope="module")
def loaded() -> Iterator[Harness]:
    harness = Harness(sessions=1024, half_open=1024, fragments=1024)
    yield harness
    harness.close()


class Held:
    """Where `EarlyFragments` sends to."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.sent: list[bytes] = []
        self.ways: set[int] = set()
        self.forwarded: list[bytes] = []
        self.early = EarlyFragments(harness.plane, self._send, lambda _, packet: self.forwarded.append(packet))

    def _send(self, way: int, frame: bytes) -> None:
        self.sent.append(frame)
        self.ways.add(way)

    async def settled(self) -> None:
        await asyncio.sleep(0.05)


@pytest.fixture
async def waiting(loaded: Harness) -> AsyncIterator[Held]:
    services = [
        service(53 + n, mode, protocol="udp", version=version, real_port=5353)
        for n, mode in enumerate((Mode.NAT, Mode.DR, Mode.TUNNEL, Mode.FULLNAT))
        for version in (4, 6)
    ]
    loaded.reset(services, ["10.0.9.1", six("10.0.9.1")])
    result = Held(loaded)
    result.early.start()
    yield result
    result.early.close()


def datagram(port: int, version: int) -> Packet:
    """Of an identification of its own: what tests before have left is another packet's."""
    packet = Packet(protocol=UDP, port=port, payload=bytes(range(256)) * 4, id=random.randrange(1, 1 << 16))
    return packet.as_version(version)


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", [53, 54, 55, 56], ids=["nat", "dr", "tunnel", "fullnat"])
@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0), (2, 0, 1)], ids=str)
async def test_what_overtakes_the_first_is_sent_as_if_it_had_not(
    waiting: Held, version: int, port: int, order: tuple[int, ...]
) -> None:
    harness, packet = waiting.harness, datagram(port, version)
    fragments = packet.fragments(*SIZES)
    left: dict[int, bytes] = {}
    for n in order:
        reason, after = harness.run(fragments[n])
        if 0 in left or n == 0:
            left[n] = after
            assert reason in ("tx_new_session", "tx_fragment")
        else:
            assert reason == "drop_held_fragment"
    await waiting.settled()
    again = packet.fragments(*SIZES)
    in_order = {}
    for n in range(3):
        reason, in_order[n] = harness.run(again[n])
        assert reason.startswith("tx_")
    assert sorted(waiting.sent) == sorted(in_order[n] for n in order[: order.index(0)])
    assert waiting.early.counters == {"held": order.index(0), "sent": order.index(0), "expired": 0, "forwarded": 0}


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
async def test_they_leave_by_the_way_of_their_next_hop(waiting: Held, version: int) -> None:
    """Here a VLAN."""
    harness = waiting.harness
    hops = {address: Hop(mac, vlan=7) for address, mac in harness.macs.items()}
    services = [of for tables in harness.tables.versions.values() for of in tables.services.values()]
    harness.tables.apply(services, set(), hops)
    first, *later = datagram(53, version).fragments(*SIZES)
    for fragment in later:
        assert harness.run(fragment)[0] == "drop_held_fragment"
    assert harness.run(first)[0] == "tx_new_session"
    await waiting.settled()
    assert len(waiting.sent) == 2
    assert waiting.ways == {7 << WAY_VLAN_SHIFT}


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
async def test_answers_of_a_nat_real_too(waiting: Held, version: int) -> None:
    harness, packet = waiting.harness, datagram(53, version)
    of = service(53, protocol="udp", version=version, real_port=5353)
    real = maglev_real(packet, of)
    answer = replace(packet, source=real.address, source_port=5353, destination=packet.source, port=packet.source_port)
    first, *later = answer.fragments(*SIZES)
    for fragment in later:
        assert harness.run(fragment)[0] == "drop_held_fragment"
    assert harness.run(first)[0] == "tx_reply"
    await waiting.settled()
    expected = answer.to_client(packet.destination, 53).fragments(*SIZES)[1:]
    assert sorted(waiting.sent) == sorted(expected)


@pytest.mark.root
@pytest.mark.parametrize("version", [4, 6])
async def test_what_nobody_claims_is_gone_or_the_kernels(waiting: Held, version: int) -> None:
    harness, packet = waiting.harness, datagram(53, version)
    real = maglev_real(packet, service(53, protocol="udp", version=version)).address
    foreign = six("192.0.2.9") if version == 6 else "192.0.2.9"
    _, lost, _ = packet.fragments(*SIZES)
    _, not_ours, _ = replace(packet, source=real, destination=foreign).fragments(*SIZES)
    assert harness.run(lost)[0] == harness.run(not_ours)[0] == "drop_held_fragment"
    await asyncio.sleep(LIMIT_S * 2)
    assert waiting.sent == []
    assert waiting.forwarded == [not_ours[14:]]
    assert waiting.early.counters == {"held": 2, "sent": 0, "expired": 1, "forwarded": 1}


@pytest.mark.root
async def test_strangers_fragments_are_the_kernels_at_once(waiting: Held) -> None:
    _, later, _ = replace(datagram(53, 4), destination="192.0.2.9").fragments(*SIZES)
    assert waiting.harness.run(later)[0] == "pass_not_for_vip"


@pytest.mark.root
async def test_a_flood_is_held_in_bounds(waiting: Held) -> None:
    waiting.harness.plane.set(held_per_cpu_s=10)
    waiting.harness.tables.set_epoch(NOW_S + 1)
    reasons = [waiting.harness.run(replace(datagram(53, 4), id=n + 1).fragments(*SIZES)[1])[0] for n in range(30)]
    assert reasons == ["drop_held_fragment"] * 10 + ["drop_fragment"] * 20


@pytest.mark.root
async def test_frames_of_any_length(waiting: Held) -> None:
    """Byte by byte as they came, up to what there is room for."""
    for size in (*range(8, 30, 1), 1479, 1480, 1993, 2000):
        waiting.sent.clear()
        packet = replace(datagram(54, 4), payload=bytes(n % 251 for n in range(64 + size)), id=size)
        fragments = packet.fragments(72)
        assert harness_runs(waiting.harness, fragments[1]) == "drop_held_fragment"
        assert harness_runs(waiting.harness, fragments[0]).startswith("tx_")
        await asyncio.sleep(0.02)
        assert [frame[12:] for frame in waiting.sent] == [fragments[1][12:]]


def harness_runs(harness: Harness, frame: bytes) -> str:
    return harness.run(frame)[0]


# Real packets


@pytest.mark.root
@pytest.mark.parametrize("mode", [Mode.NAT, Mode.DR])
@pytest.mark.parametrize("version", [4, 6])
async def test_datagrams_sent_backwards_arrive_whole(mode: Mode, version: int) -> None:
    """A client sends the last fragment first; the server's kernel puts the datagram together."""
    client, node, server, vip = ("10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.1.1")
    if version == 6:
        client, node, server, vip = "fd00:9::1", "fd00:9::2", "fd00:9::3", "fd00:9:1::1"
    length = 64 if version == 6 else 24
    flags = " nodad" if version == 6 else ""
    with Network(f"pft{uuid.uuid4().hex[:6]}") as network, contextlib.ExitStack() as stack:
        for host, address in (("client", client), ("node", node), ("server", server)):
            network.host(host, "127.0.0.2/8", f"addr add {address}/{length} dev eth0{flags}")
        network.ip("server", f"addr add {vip}/{128 if version == 6 else 32} dev lo{flags}")
        macs = {host: mac_of(network, host) for host in ("client", "node", "server")}
        harness = Harness(sessions=64, half_open=64)
        stack.callback(harness.close)
        of = service(53, mode, protocol="udp", vip="192.0.2.1", reals=["192.0.2.2"], weights=[1], real_port=53)
        of = replace(of, vip=vip, reals=(replace(of.reals[0], address=server, port=53),))
        network.inside("node", lambda: harness.plane.attach("eth0", "generic"))
        stack.callback(network.inside, "node", harness.plane.detach)
        harness.tables.set_epoch(NOW_S)
        harness.tables.set_local((node,))
        harness.tables.apply([of], set(), {server: macs["server"], "0.0.0.0": macs["client"], "::": macs["client"]})
        wire = network.inside("node", lambda: Wire("eth0"))
        stack.callback(wire.close)
        early = EarlyFragments(harness.plane, wire.send, wire.forward)
        early.start()
        stack.callback(early.close)

        received = network.inside("server", lambda: udp_socket(vip if mode is Mode.DR else server, 53))
        stack.callback(received.close)
        raw = network.inside("client", lambda: packet_socket("eth0"))
        stack.callback(raw.close)
        packet = Packet(
            source=client, destination=vip, source_port=5000, port=53, protocol=UDP, payload=bytes(range(250)) * 8,
            eth_source=macs["client"], eth_destination=macs["node"], id=77,
        )  # fmt: skip
        assert version_of(packet.source) == version
        assert len(packet.payload) > MTU
        for fragment in reversed(packet.fragments(800, 800)):
            raw.send(fragment)
        loop = asyncio.get_running_loop()
        data = await asyncio.wait_for(loop.sock_recv(received, 4096), 5)
        assert data == packet.payload
        assert early.counters["sent"] == 2


def mac_of(network: Network, host: str) -> bytes:
    from l4fast.interfaces import interface

    return network.inside(host, lambda: interface("eth0")).mac


def packet_socket(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((device, 0))
    return sock


def udp_socket(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, port))
    sock.setblocking(False)
    return sock
