"""The XDP program, packet by packet: verdict and exact bytes."""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import replace

import pytest

from core.model import HASH_SCHEDULERS, Mode, Scheduler
from tests.packets import (
    ACK,
    CLIENT,
    FIN,
    INTERFACE,
    MTU,
    NODE,
    NODE_MAC,
    REAL_MACS,
    REALS,
    RST,
    SYN,
    TCP,
    UDP,
    VIP,
    Case,
    Harness,
    Packet,
    checksum,
    maglev_real,
    service,
)

pytestmark = pytest.mark.root

NAT = service(80)
DR = service(81, Mode.DR)
ONE = service(82, reals=REALS[:1], real_port=9000)
UDP_NAT = service(53, protocol="udp", real_port=5353)
UDP_DR = service(54, Mode.DR, protocol="udp")
TUNNEL = service(83, Mode.TUNNEL)
UDP_TUNNEL = service(55, Mode.TUNNEL, protocol="udp")
DEAD = service(90, weights=(0, 0, 0), real_port=9090)
SERVICES = (NAT, DR, ONE, UDP_NAT, UDP_DR, TUNNEL, UDP_TUNNEL, DEAD)

TO_NAT = Packet()
TO_DR = Packet(port=81)
TO_TUNNEL = Packet(port=83)
QUERY = Packet(protocol=UDP, port=53, payload=b"question")
OTHER_VIP = "10.0.0.99"
DF = 0x4000  # flag of the fragment field
FULL = replace(TO_TUNNEL, flags=ACK, fragment=DF, payload=b"x" * (MTU - 60))  # with the outer header it just fits
TOO_BIG = replace(FULL, payload=b"x" * (MTU - 59))
BIG_QUERY = replace(QUERY, port=55, fragment=DF, payload=b"x" * (MTU - 47))


@pytest.fixture
def harness(roomy: Harness) -> Harness:
    roomy.reset(SERVICES)
    return roomy


def nat(packet: Packet) -> bytes:
    of = next(s for s in SERVICES if s.port == packet.port)
    real = maglev_real(packet, of)
    return packet.to_real(real.address, real.port).frame()


def dr(packet: Packet) -> bytes:
    of = next(s for s in SERVICES if s.port == packet.port)
    return packet.to_mac(REAL_MACS[maglev_real(packet, of).address]).frame()


def tunnel(packet: Packet, **changed: int) -> bytes:
    of = next(s for s in SERVICES if s.port == packet.port)
    return packet.in_tunnel(maglev_real(packet, of).address, **changed)  # type: ignore[arg-type]


def row(description: str, packet: Packet, verdict: str, after: bytes | None = None) -> Case:
    return Case(description, packet.frame(), verdict, after)


FORWARDED = [
    row("a SYN, nat", TO_NAT, "tx_syn", nat(TO_NAT)),
    row("a SYN, dr", TO_DR, "tx_syn", dr(TO_DR)),
    row("an odd payload", replace(TO_NAT, payload=b"abc"), "tx_syn", nat(replace(TO_NAT, payload=b"abc"))),
    row("Ethernet padding does not count", replace(TO_NAT, padding=b"x" * 6), "tx_syn",
        nat(replace(TO_NAT, padding=b"x" * 6))),
    row("an ACK of an unknown flow", replace(TO_NAT, flags=ACK), "tx_new_session", nat(replace(TO_NAT, flags=ACK))),
    row("a FIN of an unknown flow", replace(TO_NAT, flags=ACK | FIN), "tx_untracked",
        nat(replace(TO_NAT, flags=ACK | FIN))),
    row("an RST of an unknown flow", replace(TO_DR, flags=RST), "tx_untracked", dr(replace(TO_DR, flags=RST))),
    row("TCP options", replace(TO_NAT, data_offset=6, payload=b"\1\1\1\0"), "tx_syn",
        nat(replace(TO_NAT, data_offset=6, payload=b"\1\1\1\0"))),
    row("UDP, nat", QUERY, "tx_new_session", nat(QUERY)),
    row("UDP, dr", replace(QUERY, port=54), "tx_new_session", dr(replace(QUERY, port=54))),
    row("UDP without checksum keeps none", replace(QUERY, l4_checksum=0), "tx_new_session",
        nat(replace(QUERY, l4_checksum=0))),
    row("an empty datagram", replace(QUERY, payload=b""), "tx_new_session", nat(replace(QUERY, payload=b""))),
    row("TTL 2 is the last that nat forwards", replace(TO_NAT, ttl=2), "tx_syn", nat(replace(TO_NAT, ttl=2))),
    row("dr does not touch the TTL", replace(TO_DR, ttl=1), "tx_syn", dr(replace(TO_DR, ttl=1))),
    row("a SYN, tunnel", TO_TUNNEL, "tx_syn", tunnel(TO_TUNNEL)),
    row("an ACK of an unknown flow, tunnel", replace(TO_TUNNEL, flags=ACK), "tx_new_session",
        tunnel(replace(TO_TUNNEL, flags=ACK))),
    row("UDP, tunnel", replace(QUERY, port=55), "tx_new_session", tunnel(replace(QUERY, port=55))),
    row("tunnel keeps padding out of the outer length", replace(TO_TUNNEL, padding=b"x" * 6), "tx_syn",
        tunnel(replace(TO_TUNNEL, padding=b"x" * 6))),
    row("tunnel copies class and ECN bits", replace(TO_TUNNEL, tos=0xBB), "tx_syn",
        tunnel(replace(TO_TUNNEL, tos=0xBB))),
    row("TTL 2 is the last that tunnel forwards", replace(TO_TUNNEL, ttl=2), "tx_syn",
        tunnel(replace(TO_TUNNEL, ttl=2))),
    row("as large as the MTU allows, tunnel", FULL, "tx_new_session", tunnel(FULL)),
    row("the same without DF", replace(FULL, fragment=0), "tx_new_session", tunnel(replace(FULL, fragment=0))),
    row("one byte more is answered", TOO_BIG, "tx_too_big", TOO_BIG.too_big(MTU - 20)),
    row("a datagram as well", BIG_QUERY, "tx_too_big", BIG_QUERY.too_big(MTU - 20)),
    row("dr takes what the interface takes", replace(TOO_BIG, port=81), "tx_new_session",
        dr(replace(TOO_BIG, port=81))),
]  # fmt: skip

PASSED = [
    row("ARP", replace(TO_NAT, eth_type=0x0806), "pass_not_ip"),
    row("VLAN", replace(TO_NAT, eth_type=0x8100), "pass_not_ip"),
    Case("only an Ethernet header", TO_NAT.frame()[:14], "pass_truncated"),
    Case("ends in the IP header", TO_NAT.frame()[:33], "pass_truncated"),
    row("another machine's MAC address", replace(TO_NAT, eth_destination=b"\2\0\0\0\0\x0b"), "pass_other_host"),
    row("broadcast", replace(TO_NAT, eth_destination=b"\xff" * 6), "pass_other_host"),
    row("another address", replace(TO_NAT, destination=OTHER_VIP), "pass_not_for_vip"),
    row("another port of a VIP", replace(TO_NAT, port=8), "pass_not_for_vip"),
    row("TCP to a UDP listener's port", replace(TO_NAT, port=53), "pass_not_for_vip"),
    row("VRRP to a VIP", replace(TO_NAT, protocol=112, payload=bytes(8)), "pass_other_protocol"),
    row("options to another", replace(TO_NAT, destination=OTHER_VIP, version_length=0x46, options=b"\1\1\1\0"),
        "pass_not_for_vip"),
]  # fmt: skip

DROPPED = [
    row("IP version 6 in an IPv4 frame", replace(TO_NAT, version_length=0x65), "drop_bad_ip"),
    row("IP header of four words", replace(TO_NAT, version_length=0x44), "drop_bad_ip"),
    row("IP options", replace(TO_NAT, version_length=0x46, options=b"\1\1\1\0"), "drop_ip_options"),
    row("IP options beyond the total length", replace(TO_NAT, version_length=0x4F, total_length=40), "drop_bad_ip"),
    row("total length beyond the frame", replace(TO_NAT, total_length=41), "drop_bad_ip"),
    row("total length below the header", replace(TO_NAT, total_length=19), "drop_bad_ip"),
    row("total length ends in the TCP header", replace(TO_NAT, total_length=39), "drop_bad_l4"),
    row("TCP header of four words", replace(TO_NAT, data_offset=4), "drop_bad_l4"),
    row("TCP header beyond the packet", replace(TO_NAT, data_offset=6), "drop_bad_l4"),
    row("UDP shorter than its header", replace(QUERY, udp_length=7), "drop_bad_l4"),
    row("UDP longer than its packet", replace(QUERY, udp_length=17), "drop_bad_l4"),
    row("total length ends in the UDP header", replace(QUERY, total_length=27), "drop_bad_l4"),
    row("no flags", replace(TO_NAT, flags=0), "drop_bad_flags"),
    row("SYN and FIN", replace(TO_NAT, flags=SYN | FIN), "drop_bad_flags"),
    row("SYN and RST", replace(TO_NAT, flags=SYN | RST), "drop_bad_flags"),
    row("SYN and ACK from a client", replace(TO_NAT, flags=SYN | ACK), "drop_bad_flags"),
    row("FIN alone", replace(TO_NAT, flags=FIN), "drop_bad_flags"),
    row("from 0/8", replace(TO_NAT, source="0.1.2.3"), "drop_bad_source"),
    row("from loopback", replace(TO_NAT, source="127.0.0.1"), "drop_bad_source"),
    row("from multicast", replace(TO_NAT, source="224.0.0.1"), "drop_bad_source"),
    row("from broadcast", replace(TO_NAT, source="255.255.255.255"), "drop_bad_source"),
    row("from the VIP itself", replace(TO_NAT, source=VIP), "drop_bad_source"),
    row("TTL 1, nat", replace(TO_NAT, ttl=1), "drop_ttl"),
    row("TTL 0, nat", replace(TO_NAT, ttl=0), "drop_ttl"),
    row("TTL 1, tunnel", replace(TO_TUNNEL, ttl=1), "drop_ttl"),
    row("too big for the tunnel, fragments allowed", replace(TOO_BIG, fragment=0), "drop_too_big"),
    row("no real takes new flows", replace(TO_NAT, port=90), "drop_no_real"),
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(c, id=c.description) for c in (*FORWARDED, *PASSED, *DROPPED)])
def test_verdict_and_bytes(harness: Harness, case: Case) -> None:
    harness.check(case)


@pytest.mark.parametrize("length", range(14, 54))
def test_a_frame_cut_short_is_never_forwarded(harness: Harness, length: int) -> None:
    reason, after = harness.run(TO_NAT.frame()[:length])
    assert reason == ("pass_truncated" if length < 34 else "drop_bad_ip")
    assert after == TO_NAT.frame()[:length]


def test_a_dropped_packet_does_not_stop_the_next(harness: Harness) -> None:
    harness.check(DROPPED[0])
    harness.check(FORWARDED[0])


ANSWER = Packet(source=REALS[1], source_port=8080, destination=CLIENT, port=40000, flags=SYN | ACK)
UDP_ANSWER = Packet(source=REALS[2], source_port=5353, destination=CLIENT, port=40000, protocol=UDP, payload=b"answer")
REPLIES = [
    row("a SYN-ACK, no session known", ANSWER, "tx_reply", ANSWER.to_client(VIP, 80).frame()),
    row("data", replace(ANSWER, flags=ACK, payload=b"x" * 99), "tx_reply",
        replace(ANSWER, flags=ACK, payload=b"x" * 99).to_client(VIP, 80).frame()),
    row("a datagram", UDP_ANSWER, "tx_reply", UDP_ANSWER.to_client(VIP, 53).frame()),
    row("a datagram without checksum", replace(UDP_ANSWER, l4_checksum=0), "tx_reply",
        replace(UDP_ANSWER, l4_checksum=0).to_client(VIP, 53).frame()),
    row("from a port that no listener uses", replace(ANSWER, source_port=8081), "pass_not_for_vip"),
    row("from a real of a dr listener", replace(ANSWER, source_port=81), "pass_not_for_vip"),
    row("TTL 1", replace(ANSWER, ttl=1), "drop_ttl"),
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(c, id=c.description) for c in REPLIES])
def test_replies(harness: Harness, case: Case) -> None:
    harness.check(case)


def test_a_client_that_the_vip_filter_takes_for_a_vip_gets_its_reply(harness: Harness) -> None:
    def bit(address: str) -> int:
        return (int.from_bytes(socket.inet_aton(address), sys.byteorder) * 0x9E3779B1 & 0xFFFFFFFF) >> 21

    client = next(address for n in range(1 << 16) if bit(address := f"198.51.{n >> 8}.{n & 255}") == bit(VIP))
    answer = replace(ANSWER, destination=client)
    harness.check(row("a reply", answer, "tx_reply", answer.to_client(VIP, 80).frame()))


def test_a_reply_to_this_node_is_its_own(harness: Harness) -> None:
    harness.tables.set_local(["10.0.0.10", CLIENT])
    harness.check(row("a health check's answer", ANSWER, "pass_local"))


def test_replies_need_the_gateway(harness: Harness) -> None:
    harness.tables.apply(SERVICES, set(), REAL_MACS)
    harness.check(row("no gateway", ANSWER, "drop_no_gateway"))


def test_a_tunnel_needs_an_address_of_its_own(harness: Harness) -> None:
    harness.tables.set_local(())
    harness.check(row("no address", TO_TUNNEL, "drop_no_address"))
    harness.tables.set_local((NODE, "10.0.0.3"))
    harness.check(row("the first address", TO_TUNNEL, "tx_syn", tunnel(TO_TUNNEL)))


@pytest.mark.parametrize("mtu", [1400, 3000])
def test_the_mtu_is_the_interfaces(harness: Harness, mtu: int) -> None:
    full = replace(FULL, payload=b"x" * (mtu - 60))
    over = replace(FULL, payload=b"x" * (mtu - 59))
    harness.plane.use(replace(INTERFACE, mtu=mtu))
    harness.check(row("fits", full, "tx_new_session", tunnel(full)))
    harness.check(row("one byte more", over, "tx_too_big", over.too_big(mtu - 20)))


def test_a_tunnels_session_goes_on_inside_the_tunnel(harness: Harness) -> None:
    ack = replace(TO_TUNNEL, flags=ACK)
    harness.run(ack)
    for n in range(3):
        data = replace(ack, payload=b"y" * n)
        harness.check(row("data", data, "tx_session", tunnel(data)))
    session = harness.session(ack)
    assert session
    assert session["mode"] == 2
    counters = harness.tables.listener_counters()["tcp-83"]
    before = counters["packets_in"], counters["bytes_in"]
    harness.check(row("not forwarded", TOO_BIG, "tx_too_big", TOO_BIG.too_big(MTU - 20)))
    harness.run(replace(ack, payload=b"z"))
    counters = harness.tables.listener_counters()["tcp-83"]
    assert (counters["packets_in"], counters["bytes_in"]) == (before[0] + 1, before[1] + 41)


@pytest.mark.parametrize("node", ["0.0.0.1", "255.255.255.254", "10.0.255.255", "192.168.0.0"])
def test_the_outer_checksum_at_the_edges_of_ones_complement(harness: Harness, node: str) -> None:
    harness.tables.set_local((node,))
    for length in (0, 1, 215, 1000):
        reason, after = harness.run(replace(TO_TUNNEL, payload=b"x" * length))
        assert reason == "tx_syn"
        assert after[26:30] == socket.inet_aton(node)
        assert checksum(after[14:34]) == checksum(after[34:54]) == 0


def test_an_unresolved_real_is_named(harness: Harness) -> None:
    harness.tables.apply(SERVICES, set(), {})
    harness.check(row("no MAC address", TO_NAT, "drop_no_neighbour"))


@pytest.mark.parametrize(
    ("vip", "real"),
    [
        ("10.0.255.255", "10.0.0.0"),
        ("10.255.0.0", "10.0.1.1"),
        ("10.0.1.1", "10.0.1.1"),
        ("192.0.2.1", "255.255.255.254"),
    ],
)
@pytest.mark.parametrize("port", [53, 0xFFFF])
def test_checksums_at_the_edges_of_ones_complement(harness: Harness, vip: str, real: str, port: int) -> None:
    """Words of 0 and 0xffff, and a UDP checksum that comes out as zero, which goes out as 0xffff (RFC 768)."""
    mac = bytes.fromhex("0200000001aa")
    harness.reset()
    harness.tables.apply([service(port, protocol="udp", vip=vip, reals=[real], real_port=9)], set(), {real: mac})
    plain = replace(QUERY, destination=vip, port=port, payload=bytes(2))
    (to_zero,) = struct.unpack("!H", plain.to_real(real, 9, mac=mac).frame()[40:42])
    for word in (0, 1, 0xFFFE, 0xFFFF, to_zero):
        packet = replace(plain, payload=word.to_bytes(2), source_port=40000)
        after = packet.to_real(real, 9, mac=mac).frame()
        assert word != to_zero or after[40:42] == b"\xff\xff"
        reason, actual = harness.run(packet)
        assert actual.hex(" ") == after.hex(" ")
        assert reason in ("tx_new_session", "tx_session")


def test_flows_are_spread_as_the_maglev_table_says(harness: Harness) -> None:
    chosen = set()
    for n in range(400):
        packet = replace(TO_NAT, source=f"203.0.{n % 7}.{n % 251 + 1}", source_port=1024 + 91 * n)
        chosen.add(harness.real_of(packet))
        assert harness.real_of(packet) == maglev_real(packet, NAT).address
    assert chosen == set(REALS)


SPREAD = [
    Packet(source=f"203.0.{n % 7}.{n % 251 + 1}", source_port=1024 + n % 13, protocol=UDP if n % 2 else TCP, flags=SYN)
    for n in range(400)
]


@pytest.mark.parametrize("scheduler", sorted(HASH_SCHEDULERS))
def test_a_hash_is_of_what_its_scheduler_says(harness: Harness, scheduler: Scheduler) -> None:
    """On two ports, TCP and UDP, SYN and what follows it: always where core.schedule's table sends the hash."""
    services = [
        service(port, scheduler=scheduler, protocol=protocol, real_port=port * 100, name=f"{protocol}-{port}")
        for port in (80, 81)
        for protocol in ("tcp", "udp")
    ]
    harness.reset(services)
    by_listener = {(of.port, of.protocol): of for of in services}
    chosen = set()
    for packet in (replace(packet, port=port) for packet in SPREAD for port in (80, 81)):
        of = by_listener[packet.port, "udp" if packet.protocol == UDP else "tcp"]
        real = maglev_real(packet, of).address
        assert {harness.real_of(packet), harness.real_of(replace(packet, flags=ACK))} == {real}
        chosen.add(real)
    assert chosen == set(REALS)


def test_a_client_has_one_server_by_sh_whatever_its_port(harness: Harness) -> None:
    of = service(80, scheduler=Scheduler.SH)
    harness.reset([of])
    for client in ("203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "203.0.113.5"):
        packets = [Packet(source=client, source_port=1024 + 17 * n) for n in range(20)]
        assert len({harness.real_of(packet) for packet in packets}) == 1


def test_a_four_tuple_has_one_server_by_tch_for_tcp_and_udp(harness: Harness) -> None:
    harness.reset([service(443, scheduler=Scheduler.TCH), service(443, scheduler=Scheduler.TCH, protocol="udp")])
    flows = [Packet(port=443, source_port=1024 + n) for n in range(60)]
    assert {harness.real_of(flow) for flow in flows} == set(REALS)
    assert all(harness.real_of(flow) == harness.real_of(replace(flow, protocol=UDP)) for flow in flows)


@pytest.mark.parametrize("scheduler", sorted(HASH_SCHEDULERS))
def test_a_server_that_fails_disturbs_only_its_own_flows(harness: Harness, scheduler: Scheduler) -> None:
    of = service(80, scheduler=scheduler)
    harness.reset([of])
    flows = [replace(packet, protocol=TCP) for packet in SPREAD]
    before = [harness.real_of(flow) for flow in flows]
    harness.tables.apply([of], {(REALS[1], 8080, "tcp")}, harness.macs)
    after = [harness.real_of(flow) for flow in flows]
    assert REALS[1] not in after
    assert all(old == new for old, new in zip(before, after, strict=True) if old != REALS[1])


def test_wrr_takes_turns_by_weight(harness: Harness) -> None:
    harness.reset([service(80, scheduler=Scheduler.WRR, weights=(3, 2, 1))])
    turns = [harness.real_of(replace(TO_NAT, source_port=1024 + n)) for n in range(12)]
    assert sorted(turns) == sorted([REALS[0]] * 6 + [REALS[1]] * 4 + [REALS[2]] * 2)
    assert turns[:6] == turns[6:]


def test_packets_and_bytes_are_counted_for_the_listener(harness: Harness) -> None:
    before = harness.tables.listener_counters()["tcp-80"]
    harness.run(TO_NAT)
    harness.run(replace(TO_NAT, padding=b"x" * 6, payload=b"y" * 10))
    harness.run(ANSWER)
    after = harness.tables.listener_counters()["tcp-80"]
    gained = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert gained == {"packets_in": 2, "bytes_in": 90, "packets_out": 1, "bytes_out": 40}


def test_the_node_mac_is_the_source_of_what_it_sends(harness: Harness) -> None:
    _, after = harness.run(TO_NAT)
    assert after[6:12] == NODE_MAC
