"""Nodes with several interfaces, packet by packet: by which of them each packet leaves, and with which bytes.

A test run pretends to come in by the loopback link, which is number 1: an interface of that number is the one that a
packet came in by. Where a packet is redirected to is seen by leaving out one device at a time, without which the
program ends in XDP_ABORTED.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.model import Mode, Scheduler
from l4fast.hops import Hop
from l4fast.interfaces import Interface
from l4fast.tables import CLIENT_GATEWAY, CLIENT_GATEWAY6
from tests.packets import (
    ACK,
    CLIENT,
    DF,
    GATEWAY_MAC,
    HEADER,
    ICMP,
    NODE,
    NODE_MAC,
    REAL_MACS,
    REALS,
    SYN,
    TUNNEL_PROTOCOL,
    UDP,
    VIP,
    XDP_ABORTED,
    XDP_REDIRECT,
    XDP_TX,
    Case,
    Harness,
    Packet,
    addresses_of,
    as_version,
    echo,
    ends,
    icmp_error,
    ip_header,
    service,
    six,
)

pytestmark = pytest.mark.root

CLIENTS_MAC, SERVERS_MAC = NODE_MAC, bytes.fromhex("02000000000b")
POOL = "10.0.9.1"
ONE = REALS[:1]
VERSIONS = pytest.mark.parametrize("version", [4, 6])
SERVICES = [
    of
    for version in (4, 6)
    for of in (
        service(80, reals=ONE, version=version, name=f"nat-{version}"),
        service(53, protocol="udp", reals=ONE, version=version, name=f"dns-{version}"),
        service(81, Mode.DR, reals=ONE, version=version, name=f"dr-{version}"),
        service(83, Mode.TUNNEL, reals=ONE, version=version, name=f"tunnel-{version}"),
        service(84, Mode.FULLNAT, Scheduler.WRR, reals=ONE, version=version, name=f"fullnat-{version}"),
        service(85, Mode.DR, reals=ONE, version=version, stateless=True, vip="10.0.0.101", name=f"hash-{version}"),
    )
]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Harness]:
    harness = Harness(sessions=256, half_open=256)
    yield harness
    harness.close()


@pytest.fixture
def harness(loaded: Harness) -> Harness:
    """Clients are behind eth0, servers behind eth1; packets come in by eth0."""
    loaded.reset()
    put_devices(loaded, 0, 1)
    wire(loaded, arriving="eth0")
    return loaded


def wire(harness: Harness, *, arriving: str, servers_mtu: int = 1400) -> None:
    harness.plane.use(
        Interface("eth0", 1 if arriving == "eth0" else 11, CLIENTS_MAC, 1500),
        Interface("eth1", 1 if arriving == "eth1" else 12, SERVERS_MAC, servers_mtu),
    )
    harness.tables.set_local((NODE, six(NODE)), ("10.0.1.2", six("10.0.1.2")))
    harness.tables.set_pools((POOL, six(POOL)), ())
    harness.macs = {address: Hop(mac, "eth1") for address, mac in REAL_MACS.items()}
    harness.macs |= dict.fromkeys((CLIENT_GATEWAY, CLIENT_GATEWAY6), Hop(GATEWAY_MAC, "eth0"))
    harness.tables.apply(SERVICES, set(), harness.macs)


def put_devices(harness: Harness, *numbers: int) -> None:
    """These interfaces are there to be redirected to, and no others; all lead to the loopback link."""
    for version in (4, 6):
        devices = harness.plane.map("devices", version)
        for number in range(4):
            devices.delete(devices.key(number))
        for number in numbers:
            devices.put(devices.key(number), devices.value(1))


def actions(harness: Harness, packet: Packet | bytes) -> list[int]:
    """What becomes of the packet with all devices but eth0, with all but eth1, and with all."""
    result = []
    for numbers in ((1, 2, 3), (0, 2, 3), (0, 1, 2, 3)):
        put_devices(harness, *numbers)
        result.append(harness.plane.run(packet.frame() if isinstance(packet, Packet) else packet)[0])
    return result


TO_ETH1 = [XDP_REDIRECT, XDP_ABORTED, XDP_REDIRECT]
TO_ETH0 = [XDP_ABORTED, XDP_REDIRECT, XDP_REDIRECT]
BACK = [XDP_TX, XDP_TX, XDP_TX]


def real_of(version: int) -> str:
    return ONE[0] if version == 4 else six(ONE[0])


def sent_by(mac: bytes, packet: Packet) -> bytes:
    """The frame, from this interface of the node."""
    return replace(packet, eth_source=mac).frame()


def in_tunnel(packet: Packet) -> bytes:
    """From the address of eth1."""
    frame = packet.in_tunnel(real_of(packet.version))
    (source,) = as_version(packet.version, "10.0.1.2")
    length = len(packet.frame()) - 14
    outer = ip_header(source, real_of(packet.version), TUNNEL_PROTOCOL[packet.version], length)
    return frame[:6] + SERVERS_MAC + frame[12:14] + outer + frame[14 + len(outer) :]


def to_real(packet: Packet) -> bytes:
    """As the listener of its port forwards it to the only server."""
    real = real_of(packet.version)
    if packet.port in (80, 53):
        return sent_by(SERVERS_MAC, packet.to_real(real))
    if packet.port == 83:
        return in_tunnel(packet)
    return sent_by(SERVERS_MAC, packet.to_mac(REAL_MACS[real]))


@VERSIONS
@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (Packet(), "tx_syn"),
        (Packet(flags=ACK), "tx_new_session"),
        (Packet(port=53, protocol=UDP, payload=b"question"), "tx_new_session"),
        (Packet(port=81, flags=ACK), "tx_new_session"),
        (Packet(port=83, flags=ACK), "tx_new_session"),
        (Packet(destination="10.0.0.101", port=85, flags=ACK), "tx_stateless"),
    ],
)
def test_to_servers_by_their_interface(harness: Harness, version: int, packet: Packet, verdict: str) -> None:
    packet = packet.as_version(version)
    harness.check(Case("the first", packet.frame(), verdict, to_real(packet)))
    if verdict == "tx_new_session":
        harness.check(Case("of its session", packet.frame(), "tx_session", to_real(packet)))
    assert actions(harness, packet) == TO_ETH1


@VERSIONS
def test_answers_by_the_clients_interface(harness: Harness, version: int) -> None:
    wire(harness, arriving="eth1")
    vip, client = as_version(version, VIP, CLIENT)
    answer = Packet(source=real_of(version), destination=client, source_port=8080, port=40000, flags=ACK)
    answer = replace(answer, eth_destination=SERVERS_MAC)
    expected = sent_by(CLIENTS_MAC, answer.to_client(vip, 80))
    harness.check(Case("an answer", answer.frame(), "tx_reply", expected))
    assert actions(harness, answer) == TO_ETH0


@VERSIONS
def test_full_nat_both_ways(harness: Harness, version: int) -> None:
    syn = Packet(port=84).as_version(version)
    reason, after = harness.run(syn)
    pool, server = ends(after)
    assert (reason, after) == ("tx_syn", sent_by(SERVERS_MAC, syn.translated(pool, server)))
    assert pool[0] in (POOL, six(POOL))
    assert actions(harness, syn) == TO_ETH1
    wire(harness, arriving="eth1")
    answer = Packet(server[0], pool[0], server[1], pool[1], flags=SYN | ACK, eth_destination=SERVERS_MAC)
    expected = sent_by(CLIENTS_MAC, answer.translated((syn.destination, 84), (syn.source, syn.source_port)))
    harness.check(Case("the answer", answer.frame(), "tx_reply", expected))
    assert actions(harness, answer) == TO_ETH0


@VERSIONS
def test_back_where_it_came_from(harness: Harness, version: int) -> None:
    """A client on the servers' side; answers of the node itself."""
    wire(harness, arriving="eth1")
    inside = replace(Packet(port=81, flags=ACK).as_version(version), eth_destination=SERVERS_MAC)
    harness.check(Case("dr", inside.frame(), "tx_new_session", to_real(inside)))
    assert actions(harness, inside) == BACK
    request = Packet(protocol=ICMP, payload=echo(4)).as_version(version)
    request = replace(request, payload=echo(version))
    assert harness.run(request)[0] == "tx_echo"
    assert actions(harness, request) == BACK
    wire(harness, arriving="eth0")
    large = replace(Packet(port=83, flags=ACK, fragment=DF).as_version(version), payload=bytes(1400))
    told = large.too_big(1400 - HEADER[version], quoted={4: 28, 6: 56}[version])
    harness.check(Case("larger than eth1 takes", large.frame(), "tx_too_big", told))
    assert actions(harness, large) == BACK


@VERSIONS
def test_the_mtu_of_the_interface_that_a_tunnel_leaves_by(harness: Harness, version: int) -> None:
    wire(harness, arriving="eth0", servers_mtu=1600)
    full = replace(Packet(port=83, flags=ACK).as_version(version), payload=bytes(1600 - 2 * HEADER[version] - 20))
    harness.check(Case("it just fits", full.frame(), "tx_new_session", in_tunnel(full)))
    over = replace(full, payload=full.payload + b"x", fragment=DF)
    assert harness.run(over)[0] == "tx_too_big"


@VERSIONS
def test_fragments_follow_over_to_the_other_interface(harness: Harness, version: int) -> None:
    whole = Packet(port=53, protocol=UDP, payload=bytes(48)).as_version(version)
    first, later = whole.fragments(24)
    assert harness.run(first)[0] == "tx_new_session"
    assert actions(harness, first) == TO_ETH1
    reason, after = harness.run(later)
    assert (reason, after[:12]) == ("tx_fragment", REAL_MACS[real_of(version)] + SERVERS_MAC)
    assert actions(harness, later) == TO_ETH1
    outcome, released = harness.plane.run(later, "release", version)
    assert (outcome, released) == (XDP_TX | 2 << 8, after)  # for the daemon to send by the second interface


@VERSIONS
def test_errors_about_tunnel_packets_go_to_the_clients_interface(harness: Harness, version: int) -> None:
    wire(harness, arriving="eth1")
    client = Packet(port=83, flags=ACK, fragment=DF, payload=bytes(64)).as_version(version)
    source, router = as_version(version, "10.0.1.2", "10.0.5.5")
    error = icmp_error(Packet(source, real_of(version), protocol=TUNNEL_PROTOCOL[version], payload=client.frame()[14:]),
                       "too big", behind=100, mtu=1400, source=router)  # fmt: skip
    error = replace(error, eth_destination=SERVERS_MAC)
    reason, after = harness.run(error)
    assert (reason, after[:12]) == ("tx_too_big", GATEWAY_MAC + CLIENTS_MAC)
    assert addresses_of(after) == (client.destination, client.source)
    assert actions(harness, error) == TO_ETH0


@VERSIONS
def test_the_addresses_of_all_interfaces_are_the_nodes(harness: Harness, version: int) -> None:
    to_servers_side = replace(Packet(port=81, flags=ACK).as_version(version), eth_destination=SERVERS_MAC)
    assert harness.run(to_servers_side)[0] == "tx_new_session"
    elsewhere = replace(to_servers_side, eth_destination=bytes.fromhex("02000000000c"))
    harness.check(Case("no interface's MAC address", elsewhere.frame(), "pass_other_host"))
    (own,) = as_version(version, "10.0.1.2")
    check = Packet(real_of(version), own, 8080, 40000, flags=ACK, eth_destination=SERVERS_MAC)
    harness.check(Case("a health check's answer", check.frame(), "pass_local"))


def test_a_hop_that_moves_to_another_interface(harness: Harness) -> None:
    packet = Packet(port=81, flags=ACK)
    harness.run(packet)
    harness.macs[ONE[0]] = Hop(REAL_MACS[ONE[0]], "eth0")
    harness.tables.apply(SERVICES, set(), harness.macs)
    expected = packet.to_mac(REAL_MACS[ONE[0]]).frame()
    harness.check(Case("its session", packet.frame(), "tx_session", expected))
    assert actions(harness, packet) == BACK


def test_one_interface_needs_no_comparison(harness: Harness) -> None:
    """A node with one interface sends by it whatever its number."""
    harness.plane.use(Interface("eth0", 7, NODE_MAC, 1500))
    harness.tables.apply(SERVICES, set(), {ONE[0]: REAL_MACS[ONE[0]]})
    assert actions(harness, Packet(port=81, flags=ACK)) == BACK
