"""VLANs, packet by packet: whose tag a frame gets, and that frames without one are not concerned."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.limits import Limits
from core.model import Mode, Scheduler
from l4fast.early import tagged
from l4fast.hops import HERE, Hop
from l4fast.interfaces import Interface
from l4fast.tables import CLIENT_GATEWAY, CLIENT_GATEWAY6
from tests.packets import (
    ACK,
    CLIENT,
    DF,
    GATEWAY_MAC,
    HEADER,
    ICMP_PROTOCOL,
    INTERFACE,
    NODE_MAC,
    REAL_MACS,
    REALS,
    SYN,
    UDP,
    VIP,
    XDP_REDIRECT,
    XDP_TX,
    Case,
    Harness,
    Packet,
    as_version,
    echo,
    ends,
    service,
    six,
)

pytestmark = pytest.mark.root

VERSIONS = pytest.mark.parametrize("version", [4, 6])
PLAIN, TAGGED, MINE = REALS  # the first is in no VLAN, the second in 20, the third is the node
CLIENTS_VLAN, SERVERS_VLAN = 10, 20
PRIORITY = 0xB000  # priority 5, drop eligible
POOL = "10.0.9.1"
SERVICES = [
    of
    for version in (4, 6)
    for of in (
        service(80, reals=[TAGGED], version=version, name=f"nat-{version}"),
        service(81, Mode.DR, reals=[TAGGED], version=version, name=f"dr-{version}"),
        service(82, Mode.DR, Scheduler.LC, reals=[PLAIN], version=version, name=f"plain-{version}"),
        service(83, Mode.TUNNEL, reals=[TAGGED], version=version, name=f"tunnel-{version}"),
        service(84, Mode.FULLNAT, reals=[TAGGED], version=version, name=f"fullnat-{version}"),
        service(85, Mode.DR, reals=[MINE], version=version, name=f"here-{version}"),
        service(53, Mode.DR, protocol="udp", reals=[TAGGED], version=version, name=f"dns-{version}"),
    )
]


@pytest.fixture(scope="module")
def loaded() -> Iterator[Harness]:
    harness = Harness(sessions=256, half_open=256)
    yield harness
    harness.close()


@pytest.fixture
def harness(loaded: Harness) -> Harness:
    loaded.plane.use(INTERFACE)
    loaded.reset(pool=(POOL, six(POOL)))
    use(loaded)
    return loaded


def use(harness: Harness, interface: str = "") -> None:
    """Servers are reached by this interface."""
    hops: dict[str, Hop | bytes] = dict(harness.macs)
    for version in (4, 6):
        plain, tagged, mine = as_version(version, PLAIN, TAGGED, MINE)
        hops |= {
            plain: Hop(REAL_MACS[plain], interface),
            tagged: Hop(REAL_MACS[tagged], interface, SERVERS_VLAN),
            mine: HERE,
        }
    hops |= dict.fromkeys((CLIENT_GATEWAY, CLIENT_GATEWAY6), Hop(GATEWAY_MAC, "", CLIENTS_VLAN))
    harness.tables.apply(SERVICES, set(), hops)


def in_vlan(frame: Packet | bytes, number: int, priority: int = PRIORITY) -> bytes:
    raw = frame if isinstance(frame, bytes) else frame.frame()
    return raw[:12] + struct.pack("!HH", 0x8100, priority | number) + raw[12:] if number else raw


def forwarded(packet: Packet) -> Packet | bytes:
    """As the listener of its port forwards it, untagged."""
    (real,) = as_version(packet.version, PLAIN if packet.port == 82 else TAGGED)
    if packet.port == 80:
        return packet.to_real(real)
    return packet.in_tunnel(real) if packet.port == 83 else packet.to_mac(REAL_MACS[real])


@VERSIONS
@pytest.mark.parametrize("came", [0, CLIENTS_VLAN, SERVERS_VLAN, 4094], ids="came-{}".format)
@pytest.mark.parametrize("port", [80, 81, 82, 83])
def test_each_frame_gets_the_tag_of_its_hop(harness: Harness, version: int, came: int, port: int) -> None:
    """Pushed, changed, kept or taken off; the priority stays."""
    syn = Packet(port=port, payload=b"odd").as_version(version)
    goes = 0 if port == 82 else SERVERS_VLAN
    priority = PRIORITY if came else 0
    for packet, verdict in (
        (syn, "tx_syn"),
        (replace(syn, flags=ACK, sequence=1001), "tx_new_session"),
        (replace(syn, flags=ACK, sequence=1002), "tx_session"),
    ):
        expected = in_vlan(forwarded(packet), goes, priority)
        harness.check(Case(verdict, in_vlan(packet, came), verdict, expected))


@VERSIONS
def test_a_priority_without_a_vlan(harness: Harness, version: int) -> None:
    syn = Packet(port=81).as_version(version)
    tagged = syn.frame()[:12] + struct.pack("!HH", 0x8100, PRIORITY) + syn.frame()[12:]
    harness.check(Case("priority-tagged", tagged, "tx_syn", in_vlan(forwarded(syn), SERVERS_VLAN)))


@VERSIONS
def test_answers_get_the_clients_vlan(harness: Harness, version: int) -> None:
    vip, client, real = as_version(version, VIP, CLIENT, TAGGED)
    answer = Packet(real, client, 8080, 40000, flags=ACK)
    expected = in_vlan(answer.to_client(vip, 80), CLIENTS_VLAN)
    harness.check(Case("nat", in_vlan(answer, SERVERS_VLAN), "tx_reply", expected))
    syn = Packet(port=84).as_version(version)
    reason, after = harness.run(in_vlan(syn, CLIENTS_VLAN))
    assert (reason, after[12:16]) == ("tx_syn", struct.pack("!HH", 0x8100, PRIORITY | SERVERS_VLAN))
    pool, server = ends(after[:12] + after[16:])
    back = Packet(server[0], pool[0], server[1], pool[1], flags=SYN | ACK)
    there = back.translated((syn.destination, 84), (syn.source, syn.source_port))
    harness.check(Case("fullnat", in_vlan(back, SERVERS_VLAN), "tx_reply", in_vlan(there, CLIENTS_VLAN)))


@VERSIONS
def test_what_the_node_says_goes_back_under_the_tag_that_came(harness: Harness, version: int) -> None:
    protocol = ICMP_PROTOCOL[version]
    vip, client = as_version(version, VIP, CLIENT)
    request = Packet(client, vip, protocol=protocol, payload=echo(version, data=b"data"))
    answer = Packet(
        vip, client, protocol=protocol, payload=echo(version, data=b"data", answer=True),
        eth_source=NODE_MAC, eth_destination=request.eth_source,
    )  # fmt: skip
    harness.check(Case("echo", in_vlan(request, 77), "tx_echo", in_vlan(answer, 77)))
    large = Packet(port=83, flags=ACK, fragment=DF, payload=bytes(1500 - 20 - HEADER[version])).as_version(version)
    told = large.too_big(1500 - HEADER[version], quoted={4: 28, 6: 56}[version])
    harness.check(Case("too big", in_vlan(large, 77), "tx_too_big", in_vlan(told, 77)))
    harness.check(Case("too big, untagged", large.frame(), "tx_too_big", told))


def nobodys(version: int) -> Packet:
    return replace(Packet().as_version(version), destination=as_version(version, "10.0.0.99")[0])


@VERSIONS
def test_what_goes_up_keeps_its_tag(harness: Harness, version: int) -> None:
    harness.check(Case("for nobody here", in_vlan(nobodys(version), 77), "pass_not_for_vip"))
    harness.check(Case("a server here", in_vlan(Packet(port=85).as_version(version), 77), "pass_served_here"))
    stranger = replace(Packet(port=81).as_version(version), eth_destination=bytes.fromhex("0200000000ee"))
    harness.check(Case("another host", in_vlan(stranger, 77), "pass_other_host"))
    harness.check(Case("ARP", in_vlan(replace(Packet(), eth_type=0x0806), 77), "pass_not_ip"))
    inner = in_vlan(Packet(port=81).as_version(version), 77)
    harness.check(Case("a VLAN in a VLAN", in_vlan(inner, 78), "pass_not_ip"))
    for length in range(14, 18):
        harness.check(Case("a piece of a tag", in_vlan(Packet(port=81), 77)[:length], "pass_truncated"))
    header = in_vlan(Packet(port=81).as_version(version), 77)[: 18 + HEADER[version] - 1]
    harness.check(Case("a piece of a header", header, "pass_truncated"))


@VERSIONS
def test_a_tag_is_no_other_frames(harness: Harness, version: int) -> None:
    """Whatever became of the frame before."""
    plain = Packet(port=82, flags=ACK).as_version(version)
    to_vlan = Packet(port=81, flags=ACK).as_version(version)
    harness.run(replace(plain, flags=SYN, sequence=999))
    assert harness.run(plain)[0] == "tx_new_session"
    for before in (
        in_vlan(replace(plain, ttl=1), 77),
        in_vlan(replace(to_vlan, source_port=1), 77),
        in_vlan(replace(Packet(port=80, ttl=1).as_version(version)), 77),
        in_vlan(Packet(port=82, source_port=9).as_version(version), 77),
    ):
        harness.run(before)
        assert harness.run(plain) == ("tx_session", forwarded(plain).frame())  # type: ignore[union-attr]
        harness.run(before)
        harness.check(Case("for nobody here", nobodys(version).frame(), "pass_not_for_vip"))
    drops = harness.run(in_vlan(replace(Packet(port=80, ttl=1).as_version(version)), 77))
    assert drops[0] == "drop_ttl"


@VERSIONS
def test_nor_is_that_of_a_frame_beyond_the_bandwidth(harness: Harness, version: int) -> None:
    """Which another program drops."""
    of = service(80, Mode.DR, reals=[PLAIN], version=version, name=f"narrow-{version}")
    harness.tables.apply([replace(of, limits=Limits(in_mbit_s=1))], set(), REAL_MACS)
    packet = Packet(flags=ACK, payload=bytes(1000)).as_version(version)
    frame = in_vlan(packet, 77)
    for _ in range(50):
        for _ in range(100):  # far more than the bucket holds, and faster than it fills however slow the machine
            harness.plane.run(frame)
        if harness.run(frame)[0] == "drop_bandwidth_in":
            break
    else:
        pytest.fail("no frame was beyond the bandwidth")
    harness.check(Case("for nobody here", nobodys(version).frame(), "pass_not_for_vip"))


@VERSIONS
def test_fragments(harness: Harness, version: int) -> None:
    whole = Packet(port=53, protocol=UDP, payload=bytes(48)).as_version(version)
    first, later = whole.fragments(24)
    sent = [replace(whole, eth_source=NODE_MAC, eth_destination=REAL_MACS[as_version(version, TAGGED)[0]])]
    expected = [in_vlan(frame, SERVERS_VLAN) for frame in sent[0].fragments(24)]
    harness.check(Case("the first", in_vlan(first, CLIENTS_VLAN), "tx_new_session", expected[0]))
    harness.check(Case("a later one", in_vlan(later, CLIENTS_VLAN), "tx_fragment", expected[1]))
    outcome, frame = harness.plane.run(later, "release", version)
    assert (outcome, frame) == (XDP_TX | SERVERS_VLAN << 16, sent[0].fragments(24)[1])
    assert tagged(SERVERS_VLAN, frame) == in_vlan(frame, SERVERS_VLAN, 0)
    assert tagged(0, frame) == frame


@VERSIONS
def test_over_to_another_interface(harness: Harness, version: int) -> None:
    other = bytes.fromhex("02000000000b")
    harness.plane.use(INTERFACE, Interface("eth1", 12, other, 1500))
    for each in (4, 6):
        devices = harness.plane.map("devices", each)
        devices.put(devices.key(1), devices.value(1))
    use(harness, "eth1")
    syn = Packet(port=81).as_version(version)
    expected = in_vlan(replace(forwarded(syn), eth_source=other), SERVERS_VLAN)  # type: ignore[type-var]
    harness.check(Case("redirected", in_vlan(syn, CLIENTS_VLAN), "tx_syn", expected))
    assert harness.plane.run(in_vlan(syn, CLIENTS_VLAN))[0] == XDP_REDIRECT
