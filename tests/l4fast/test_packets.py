"""The builders of tests/packets.py make the frames that an independent library (scapy) makes, for IPv4 and IPv6."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
from scapy.layers import inet, inet6
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from tests.packets import (
    ACK,
    AUTHENTICATION,
    CLIENT,
    DF,
    HOP_BY_HOP,
    ICMP_ERRORS,
    ICMP_PROTOCOL,
    NODE,
    OPTIONS,
    REAL_MACS,
    REALS,
    ROUTING,
    TCP,
    UDP,
    VIP,
    Packet,
    address_bytes,
    addresses_of,
    as_version,
    echo,
    ends,
    icmp_error,
    pseudo_header,
    service,
    six,
    version_of,
)

VERSIONS = pytest.mark.parametrize("version", [4, 6])


def random_packet(dice: random.Random, version: int, protocol: int) -> Packet:
    def address() -> str:
        return f"{dice.randrange(1, 127)}.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)}"

    return Packet(
        source=address(),
        destination=address(),
        source_port=dice.randrange(1, 65536),
        port=dice.randrange(1, 65536),
        protocol=protocol,
        flags=dice.randrange(256),
        sequence=dice.randrange(1 << 32),
        payload=dice.randbytes(dice.randrange(200)),
        ttl=dice.randrange(256),
        tos=dice.randrange(256),
        label=dice.randrange(1 << 20),
        fragment=dice.choice((0, DF)),
        id=dice.randrange(1 << 16),
    ).as_version(version)


def scapy_ip(packet: Packet) -> ScapyPacket:
    ether = Ether(src=packet.eth_source.hex(":"), dst=packet.eth_destination.hex(":"))
    if packet.version == 4:
        flags = "DF" if packet.fragment else 0
        return ether / inet.IP(src=packet.source, dst=packet.destination, tos=packet.tos, ttl=packet.ttl,
                               id=packet.id, flags=flags)  # fmt: skip
    return ether / inet6.IPv6(src=packet.source, dst=packet.destination, tc=packet.tos, hlim=packet.ttl,
                              fl=packet.label)  # fmt: skip


def scapy_l4(packet: Packet) -> ScapyPacket:
    ports = {"sport": packet.source_port, "dport": packet.port}
    if packet.protocol == UDP:
        return inet.UDP(**ports) / Raw(packet.payload)
    ack = 5000 if packet.flags & ACK else 0
    return inet.TCP(**ports, flags=packet.flags, seq=packet.sequence, ack=ack, window=512) / Raw(packet.payload)


@VERSIONS
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_tcp_and_udp(version: int, protocol: int) -> None:
    dice = random.Random(version * 100 + protocol)
    for _ in range(200):
        packet = random_packet(dice, version, protocol)
        assert packet.frame().hex(" ") == bytes(scapy_ip(packet) / scapy_l4(packet)).hex(" ")


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_extension_headers(protocol: int) -> None:
    dice = random.Random(protocol)
    of_scapy: dict[int, Callable[[bytes], ScapyPacket]] = {
        HOP_BY_HOP: lambda data: inet6.IPv6ExtHdrHopByHop(autopad=0, options=[inet6.PadN(optdata=data[2:])]),
        OPTIONS: lambda data: inet6.IPv6ExtHdrDestOpt(autopad=0, options=[inet6.PadN(optdata=data[2:])]),
        # With segments left the checksum would be of the last of them (RFC 8200, section 8.1).
        ROUTING: lambda data: inet6.IPv6ExtHdrRouting(type=4, segleft=0, reserved=0, addresses=[]),
    }
    contents = {
        HOP_BY_HOP: b"\1\4data",
        OPTIONS: b"\1\x0cmore of data",
        ROUTING: b"\4\0\0\0\0\0",
    }
    for _ in range(50):
        kinds = [kind for kind in (HOP_BY_HOP, OPTIONS, ROUTING) if dice.random() < 0.6]
        packet = random_packet(dice, 6, protocol)
        packet = replace(packet, extensions=tuple((kind, contents[kind]) for kind in kinds))
        expected = scapy_ip(packet)
        for kind in kinds:
            expected /= of_scapy[kind](contents[kind])
        assert packet.frame().hex(" ") == bytes(expected / scapy_l4(packet)).hex(" ")


def test_an_authentication_header_counts_its_length_in_words() -> None:
    packet = replace(Packet().as_version(6), extensions=((AUTHENTICATION, bytes(22)),))
    assert packet.frame()[20:21] == bytes([AUTHENTICATION])
    assert packet.frame()[54:56] == bytes([TCP, 4])


def test_ipv4_fragments() -> None:
    packet = Packet(protocol=UDP, payload=bytes(range(250)) * 4)
    whole = inet.IP(src=CLIENT, dst=VIP, id=7) / inet.UDP(sport=40000, dport=80) / Raw(packet.payload)
    expected = [bytes(fragment) for fragment in inet.fragment(whole, 400)]
    assert [frame[14:] for frame in packet.fragments(400, 400)] == expected
    assert packet.fragments() == [packet.frame()]


@pytest.mark.parametrize("hop_by_hop", [False, True])
def test_ipv6_fragments(hop_by_hop: bool) -> None:
    packet = Packet(protocol=UDP, payload=bytes(range(250)) * 4, id=77).as_version(6)
    whole = scapy_ip(packet)
    if hop_by_hop:
        packet = replace(packet, extensions=((HOP_BY_HOP, b"\1\4data"),))
        whole /= inet6.IPv6ExtHdrHopByHop(autopad=0, options=[inet6.PadN(optdata=b"data")])
    whole = whole / inet6.IPv6ExtHdrFragment(id=77) / inet.UDP(sport=40000, dport=80) / Raw(packet.payload)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = inet6.fragment6(whole[inet6.IPv6], 40 + 8 * hop_by_hop + 8 + 400)
    assert [frame[14:] for frame in packet.fragments(400, 400)] == [bytes(fragment) for fragment in expected]


ROUTER = "203.0.113.1"
OF_SCAPY = {
    "no route": inet6.ICMPv6DestUnreach(code=0),
    "port unreachable": inet6.ICMPv6DestUnreach(code=4),
    "too big": inet6.ICMPv6PacketTooBig(mtu=1400),
    "time exceeded": inet6.ICMPv6TimeExceeded(),
    "parameter problem": inet6.ICMPv6ParamProblem(ptr=0),
}


@VERSIONS
@pytest.mark.parametrize("kind", ICMP_ERRORS)
def test_icmp_errors(version: int, kind: str) -> None:
    dice = random.Random(kind)
    (router,) = as_version(version, ROUTER)
    for protocol in (TCP, UDP):
        for behind in (8, 20, 48, 2000):
            about = random_packet(dice, version, protocol)
            error = icmp_error(about, kind, behind=behind, mtu=1400, source=router)
            quoted = about.frame()[14 : 14 + {4: 20, 6: 40}[version] + behind]
            if version == 4:
                type_, code = ICMP_ERRORS[kind][4]
                message = inet.ICMP(type=type_, code=code, nexthopmtu=1400 if kind == "too big" else 0)
            else:
                message = OF_SCAPY[kind]
            assert error.frame().hex(" ") == bytes(scapy_ip(error) / message / Raw(quoted)).hex(" ")


def test_an_icmpv6_error_quotes_no_more_than_every_link_carries() -> None:
    about = Packet(payload=bytes(1400)).as_version(6)
    error = icmp_error(about, "too big", behind=1400, source=six(ROUTER))
    assert len(error.frame()) == 14 + 1280


@VERSIONS
@pytest.mark.parametrize("answer", [False, True])
def test_echo(version: int, answer: bool) -> None:
    packet = Packet(protocol=ICMP_PROTOCOL[version], payload=echo(version, b"\1\2\3\4", b"data", answer=answer))
    packet = packet.as_version(version)
    if version == 4:
        message = inet.ICMP(type=0 if answer else 8, id=0x102, seq=0x304)
    else:
        message = (inet6.ICMPv6EchoReply if answer else inet6.ICMPv6EchoRequest)(id=0x102, seq=0x304)
    assert packet.frame() == bytes(scapy_ip(packet) / message / Raw(b"data"))


@VERSIONS
def test_too_big(version: int) -> None:
    about = replace(Packet(flags=ACK, payload=b"x" * 100).as_version(version), padding=b"y" * 6)
    sent = about.frame()
    ip = scapy_ip(replace(about, source=about.destination, destination=about.source, tos=0xC0, id=0, fragment=DF))
    ip.src, ip.dst = about.eth_destination.hex(":"), about.eth_source.hex(":")
    if version == 4:
        expected = ip / inet.ICMP(type=3, code=4, nexthopmtu=1400) / Raw(sent[14:42])
    else:
        expected = ip / inet6.ICMPv6PacketTooBig(mtu=1400) / Raw(sent[14:70])
        assert about.too_big(1400, quoted=999) == bytes(ip / inet6.ICMPv6PacketTooBig(mtu=1400) / Raw(sent[14:-6]))
    assert about.too_big(1400).hex(" ") == bytes(expected).hex(" ")


@VERSIONS
def test_in_a_tunnel(version: int) -> None:
    packet = replace(
        Packet(tos=0xBB, label=0xABCDE, flags=ACK, payload=b"x" * 100).as_version(version), padding=b"y" * 6
    )
    node, real = as_version(version, NODE, REALS[1])
    aged = replace(packet, ttl=63, padding=b"")
    inner = bytes(scapy_ip(aged) / scapy_l4(aged))[14:]
    outer = Packet(node, real, eth_source=packet.eth_destination, eth_destination=REAL_MACS[real], tos=0xBB,
                   label=0xABCDE, id=0, fragment=DF)  # fmt: skip
    expected = scapy_ip(outer)
    expected.lastlayer().setfieldval("proto" if version == 4 else "nh", 4 if version == 4 else 41)
    assert packet.in_tunnel(real).hex(" ") == (bytes(expected / Raw(inner)) + b"y" * 6).hex(" ")


@VERSIONS
def test_what_each_mode_changes(version: int) -> None:
    packet = Packet(protocol=UDP, payload=b"x").as_version(version)
    client, vip, real, pool = as_version(version, CLIENT, VIP, REALS[0], "10.0.9.1")
    nat = scapy_ip(replace(packet.to_mac(REAL_MACS[real]), destination=real, ttl=63))
    assert packet.to_real(real, 53).frame() == bytes(nat / inet.UDP(sport=40000, dport=53) / Raw(b"x"))
    back = replace(packet, source=real, destination=client, source_port=53, port=40000)
    assert ends(back.to_client(vip, 80).frame()) == ((vip, 80), (client, 40000))
    assert ends(packet.translated((pool, 1), (real, 2)).frame()) == ((pool, 1), (real, 2))
    assert packet.translated((pool, 1), (real, 2)).frame()[:6] == REAL_MACS[real]


def test_lengths_and_sums_given_are_kept() -> None:
    packet = Packet(protocol=UDP, payload=b"xyz").as_version(6)
    assert replace(packet, total_length=9).frame()[18:20] == b"\0\x09"
    assert replace(packet, l4_checksum=0).frame()[60:62] == bytes(2)
    assert replace(packet, udp_length=77).frame()[58:60] == b"\0\x4d"
    assert replace(packet, version_length=0x45).frame()[14:15] == b"\x40"
    assert replace(packet, eth_type=0x8100).frame()[12:14] == b"\x81\x00"
    message = replace(packet, protocol=ICMP_PROTOCOL[6], payload=echo(6), l4_checksum=1)
    assert message.frame()[56:58] == b"\0\1"
    assert len(replace(message, payload=b"abc").frame()) == 57


def test_a_sum_of_zero_is_sent_as_all_ones() -> None:
    """RFC 768, RFC 8200, section 8.1."""
    packet = Packet(protocol=UDP, payload=bytes(2)).as_version(6)
    word = packet.frame()[60:62]
    assert replace(packet, payload=word).frame()[60:62] == b"\xff\xff"


def test_counterparts() -> None:
    addresses = ("10.0.0.1", "10.0.0.2", "10.0.1.1", "198.51.100.7")
    sixes = [address_bytes(six(address)) for address in addresses]
    for four, counterpart in zip(addresses, sixes, strict=True):
        assert counterpart[:8] == bytes.fromhex("20010db8") + address_bytes(four)
    for at in range(8, 16, 2):
        assert len({counterpart[at : at + 2] for counterpart in sixes}) == 4
    assert [version_of(six(address)) for address in ("0.0.0.0", "127.0.0.1", "10.0.0.1")] == [6, 6, 6]
    assert address_bytes(six("224.0.0.1"))[0] == 0xFF
    assert addresses_of(Packet().as_version(6).frame()) == (six(CLIENT), six(VIP))
    of = service(80, version=6)
    assert (of.vip, [real.address for real in of.reals]) == (six(VIP), [six(real) for real in REALS])
    assert len(set(REAL_MACS.values())) == 2 * len(REALS)


def test_the_pseudo_header_sums_up_as_ipv4s() -> None:
    assert pseudo_header("1.2.3.4", "5.6.7.8", 6, 20) == bytes((1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 20, 0, 0, 0, 6))
