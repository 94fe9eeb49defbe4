"""Next hops, asked of a real kernel in namespaces of its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest
from pyroute2 import netns

from l4fast.hops import HERE, Hop
from l4fast.links import Vlan
from l4fast.neighbours import Neighbours
from l4fast.tables import CLIENT_GATEWAY, CLIENT_GATEWAY6

pytestmark = pytest.mark.root

NODE, FAR = "10.78.0.1", "10.78.0.2"
NODE6, FAR6 = "2001:db8:78::1", "2001:db8:78::2"
_serial = itertools.count()


def sh(*commands: str) -> str:
    outputs = [subprocess.run(each.split(), check=True, capture_output=True, text=True).stdout for each in commands]
    return outputs[-1]


@pytest.fixture
def far() -> Iterator[str]:
    """We are in one namespace with the link e0; the other end, whose name this is, answers for FAR and 10.78.0.3, and
    for FAR6, 2001:db8:78::3 and fe80::2."""
    near, far = (f"pftb{os.getpid()}nb{next(_serial)}" for _ in range(2))
    try:
        sh(
            f"ip netns add {near}",
            f"ip netns add {far}",
            # No waiting for addresses to be found unique.
            *(f"ip netns exec {name} sysctl -qw net.ipv6.conf.default.accept_dad=0" for name in (near, far)),
            f"ip -n {near} link add e0 type veth peer name e0 netns {far}",
            f"ip -n {near} link add e1 type veth peer name e1 netns {far}",
            f"ip -n {near} addr add {NODE}/24 dev e0",
            f"ip -n {near} addr add 10.79.0.1/24 dev e1",
            f"ip -n {far} link set e0 address 02:00:00:00:00:aa",
            f"ip -n {far} link set e1 address 02:00:00:00:00:ee",
            f"ip -n {far} addr add {FAR}/24 dev e0",
            f"ip -n {far} addr add 10.78.0.3/24 dev e0",
            f"ip -n {far} addr add 10.79.0.2/24 dev e1",
            f"ip -n {near} addr add {NODE6}/64 dev e0",
            f"ip -n {near} addr add 2001:db8:79::1/64 dev e1",
            *(f"ip -n {far} addr add {address}/64 dev e0" for address in (FAR6, "2001:db8:78::3", "fe80::2")),
            *(f"ip -n {name} link set {link} up" for name in (near, far) for link in ("e0", "e1")),
        )
        netns.pushns(near)
        try:
            yield far
        finally:
            netns.popns()
    finally:
        for name in (near, far):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


MAC = bytes.fromhex("0200000000aa")
HOP = Hop(MAC, "e0")


async def test_next_hops_on_the_link_and_behind_gateways(far: str) -> None:
    sh(f"ip route add default via {FAR}", "ip route add 192.0.2.0/24 via 10.78.0.3")
    hops = Neighbours("e0")
    assert hops.hops() == {}
    await hops.watch({FAR, "192.0.2.9"})
    assert hops.hops() == {FAR: HOP, "192.0.2.9": HOP, CLIENT_GATEWAY: HOP}
    await hops.watch(set())
    assert hops.hops() == {CLIENT_GATEWAY: HOP}


async def test_the_way_to_clients_may_be_named(far: str) -> None:
    sh("ip route add 198.51.100.0/24 via 10.78.0.3")
    hops = Neighbours("e0", clients="198.51.100.1")
    await hops.watch(set())
    assert hops.hops() == {CLIENT_GATEWAY: HOP}


async def test_ipv6_on_the_link_and_behind_link_local_gateways(far: str) -> None:
    sh("ip -6 route add default via fe80::2 dev e0", "ip -6 route add 2001:db8:5::/48 via 2001:db8:78::3")
    sh(f"ip route add default via {FAR}")
    hops = Neighbours("e0")
    await hops.watch({FAR6, "2001:db8:5::9"})
    assert hops.hops() == {FAR6: HOP, "2001:db8:5::9": HOP, CLIENT_GATEWAY6: HOP}
    await hops.watch({FAR6, FAR})
    assert hops.hops() == {FAR6: HOP, FAR: HOP, CLIENT_GATEWAY: HOP, CLIENT_GATEWAY6: HOP}


async def test_the_way_to_ipv6_clients_may_be_named(far: str) -> None:
    sh("ip -6 route add 2001:db8:6::/48 via fe80::2 dev e0")
    hops = Neighbours("e0", clients6="2001:db8:6::1")
    await hops.watch({FAR6})
    assert hops.hops() == {FAR6: HOP, CLIENT_GATEWAY6: HOP}


async def test_each_hop_by_the_interface_of_its_route(far: str) -> None:
    sh("ip route add default via 10.79.0.2", "ip -6 route add default via fe80::2 dev e0")
    other = Hop(bytes.fromhex("0200000000ee"), "e1")
    hops = Neighbours("e0", "e1")
    await hops.watch({FAR, "10.79.0.2", FAR6})
    assert hops.hops() == {FAR: HOP, "10.79.0.2": other, FAR6: HOP, CLIENT_GATEWAY: other, CLIENT_GATEWAY6: HOP}
    sh(f"ip route replace 10.79.0.2/32 via {FAR}")
    assert await hops.refresh()
    assert hops.hops()["10.79.0.2"] == HOP


async def test_vlans(far: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel here knows no VLANs: e1 stands for the link of one on e0."""
    index = {name: socket.if_nametoindex(name) for name in ("e0", "e1")}
    monkeypatch.setattr("l4fast.neighbours.vlans", lambda links: {index["e1"]: Vlan(index["e0"], 20)})
    hops = Neighbours("e0")
    with caplog.at_level(logging.WARNING):
        await hops.watch({FAR, "10.79.0.2"})
    assert hops.hops() == {FAR: HOP, "10.79.0.2": Hop(bytes.fromhex("0200000000ee"), "e0", 20)}
    assert "e0 takes the tags of VLANs off before XDP sees them: `ethtool -K e0 rxvlan off`" in caplog.text
    caplog.clear()
    sh("ethtool -K e0 rxvlan off")
    await hops.refresh()
    sh("ethtool -K e0 rxvlan on")
    with caplog.at_level(logging.WARNING):
        await hops.refresh()
    assert caplog.text.count("takes the tags") == 1


async def test_this_nodes_own_addresses(far: str) -> None:
    sh("ip link set lo up", "ip addr add 10.80.0.1/32 dev lo")
    hops = Neighbours("e0")
    own = {NODE, NODE6, "127.0.0.1", "::1", "10.80.0.1", "10.79.0.1"}
    await hops.watch(own | {FAR})
    assert hops.hops() == dict.fromkeys(own, HERE) | {FAR: HOP}
    sh("ip addr del 10.80.0.1/32 dev lo", "ip route add 10.80.0.1/32 via 10.78.0.3")
    async with asyncio.timeout(5):
        while not await hops.refresh():  # until it is resolved
            await asyncio.sleep(0.02)
    assert hops.hops()["10.80.0.1"] == HOP


async def test_the_better_of_two_default_routes(far: str) -> None:
    sh("ip route add default via 10.79.0.2 metric 10", f"ip route add default via {FAR} metric 5")
    hops = Neighbours("e1", "e0")
    await hops.watch(set())
    assert hops.hops() == {CLIENT_GATEWAY: HOP}
    sh(f"ip route del default via {FAR} metric 5")
    async with asyncio.timeout(5):
        while not await hops.refresh():  # until it is resolved
            await asyncio.sleep(0.02)
    assert hops.hops()[CLIENT_GATEWAY].interface == "e1"


async def test_ipv4_behind_a_gateway_of_ipv6(far: str) -> None:
    """RFC 9229"""
    sh("ip route add 192.0.2.0/24 via inet6 fe80::2 dev e0")
    hops = Neighbours("e0", clients="192.0.2.1")
    await hops.watch({"192.0.2.9"})
    assert hops.hops() == {"192.0.2.9": HOP, CLIENT_GATEWAY: HOP}


async def test_a_neighbour_of_ipv6_is_kept_resolved(far: str) -> None:
    hops = Neighbours("e0")
    await hops.watch({FAR6})
    sh(f"ip neigh del {FAR6} dev e0")
    assert not await hops.refresh()  # known as before, and asked for anew
    async with asyncio.timeout(5):
        while "lladdr 02:00:00:00:00:aa" not in sh(f"ip -6 neigh show {FAR6} dev e0"):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (CLIENT_GATEWAY, "e0: no next hop towards clients: no default route leaves by the interface"),
        ("10.79.0.2", "e0: no next hop to 10.79.0.2: its route leaves by e1"),
        ("203.0.113.1", "e0: no next hop to 203.0.113.1: no route"),
        (
            FAR6,
            "e0: no next hop towards clients of IPv6: no default route leaves by the interface; add one by `ip -6",
        ),
        ("2001:db8:79::2", "e0: no next hop to 2001:db8:79::2: its route leaves by e1"),
        ("2001:db8:1::1", "e0: no next hop to 2001:db8:1::1: no route"),
    ],
)
async def test_what_has_no_next_hop_is_said_once(
    far: str, caplog: pytest.LogCaptureFixture, address: str, why: str
) -> None:
    hops = Neighbours("e0")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await hops.watch({address} - {CLIENT_GATEWAY})
    assert [record.message for record in caplog.records if why in record.message] != []
    assert len(caplog.records) == len({record.message for record in caplog.records})
    assert address == FAR6 or address not in hops.hops()


async def test_a_missing_interface_is_said(far: str, caplog: pytest.LogCaptureFixture) -> None:
    hops = Neighbours("e7")
    with caplog.at_level(logging.WARNING):
        assert not await hops.refresh()
    assert "e7: there is no interface e7" in caplog.text


async def test_a_silent_address_does_not_hide_the_others(far: str) -> None:
    hops = Neighbours("e0")
    await hops.watch({FAR, "10.78.0.99"})
    assert hops.hops() == {FAR: HOP}


async def test_a_moved_address_is_noticed_and_a_lost_one_kept(far: str) -> None:
    sh(f"ip route add default via {FAR}")
    hops = Neighbours("e0")
    await hops.watch({FAR})
    moved = bytes.fromhex("0200000000bb")
    sh(f"ip neigh replace {FAR} lladdr 02:00:00:00:00:bb dev e0")
    assert await hops.refresh()
    assert hops.hops()[FAR] == Hop(moved, "e0")
    assert not await hops.refresh()
    sh(f"ip neigh del {FAR} dev e0", f"ip -n {far} link set e0 down")
    assert not await hops.refresh()
    assert hops.hops()[FAR] == Hop(moved, "e0")


async def test_keep_reports_changes_only(far: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l4fast.neighbours.REFRESH_S", 0.01)
    sh(f"ip route add default via {FAR}")
    hops = Neighbours("e0")
    await hops.watch({FAR})
    changed = asyncio.Event()
    keeper = asyncio.create_task(hops.keep(changed.set))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(changed.wait(), 0.1)
    sh(f"ip neigh replace {FAR} lladdr 02:00:00:00:00:cc dev e0")
    await asyncio.wait_for(changed.wait(), 5)
    keeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeper
    assert hops.hops()[FAR] == Hop(bytes.fromhex("0200000000cc"), "e0")
