"""Checksums and lengths of what the XDP program sends, recomputed by an independent library (scapy).

The packet tables compare with bytes that tests/packets.py computes; here scapy takes each packet apart, forgets its
checksums and lengths, and has to build the same bytes again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from core.model import Mode
from tests.packets import (
    ACK,
    CLIENT,
    ICMP,
    ICMP6,
    REALS,
    TCP,
    TUNNEL_PROTOCOL,
    UDP,
    VIP,
    Harness,
    Packet,
    as_version,
    icmp,
    icmp_error,
    service,
)

pytestmark = pytest.mark.root

SERVICES = [
    service(port, mode, protocol=protocol, real_port=9000 + port)
    for port, mode in ((80, Mode.NAT), (81, Mode.DR), (82, Mode.TUNNEL))
    for protocol in ("tcp", "udp")
]


@pytest.fixture
def harness(roomy: Harness) -> Harness:
    roomy.reset(SERVICES)
    return roomy


LENGTHS_AND_SUMS = {"len", "plen", "chksum", "cksum"}


def rebuilt(frame: bytes) -> bytes:
    """The frame with every length and checksum made anew, those of quoted and tunnelled packets too."""
    return frame[:14] + rebuilt_ip(frame[14:])


def rebuilt_ip(data: bytes) -> bytes:
    """Quoted packets have to be whole."""
    packet, header, following = (IP(data), 20, data[9]) if data[0] >> 4 == 4 else (IPv6(data), 40, data[6])
    if following == TUNNEL_PROTOCOL[packet.version]:
        packet = type(packet)(data[:header]) / Raw(rebuilt_ip(data[header:]))
    elif following == ICMP and data[header] in (3, 11, 12):
        packet = IP(data[: header + 8]) / Raw(rebuilt_ip(data[header + 8 :]))
    elif following == ICMP6 and data[header] in (1, 2, 3, 4):
        packet = IPv6(data[: header + 8]) / Raw(rebuilt_ip(data[header + 8 :]))
    for part in (packet.getlayer(number) for number in range(len(packet.layers()))):
        for name in LENGTHS_AND_SUMS & part.fields.keys():
            part.delfieldval(name)
    return bytes(packet)


def client_packet(dice: random.Random) -> Packet:
    return Packet(
        source=f"{dice.randrange(1, 127)}.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)}",
        source_port=dice.randrange(1, 65536),
        port=dice.choice((80, 81, 82)),
        protocol=dice.choice((TCP, UDP)),
        flags=ACK,
        sequence=dice.randrange(1 << 32),
        payload=dice.randbytes(dice.randrange(200)),
        ttl=dice.randrange(2, 256),
        tos=dice.randrange(256),
    )


def server_answer(dice: random.Random) -> Packet:
    client = client_packet(dice)
    return replace(
        client, source=dice.choice(REALS), destination=client.source, source_port=9080, port=client.source_port
    )


def echo_request(dice: random.Random) -> Packet:
    return Packet(protocol=ICMP, payload=icmp(8, 0, dice.randbytes(4), dice.randbytes(dice.randrange(99))))


def error(dice: random.Random, about: Packet) -> Packet:
    payload = icmp(dice.choice((3, 11, 12)), 0, bytes(4), about.frame()[14:])
    return Packet(source="203.0.113.1", destination=about.source, protocol=ICMP, payload=payload)


def error_about_an_answer(dice: random.Random) -> Packet:
    client = client_packet(dice)
    return error(
        dice,
        replace(client, source=VIP, destination=client.source, source_port=client.port, port=client.source_port),
    )


def error_about_a_request(dice: random.Random) -> Packet:
    client = replace(client_packet(dice), destination=dice.choice(REALS), port=9080)
    return error(dice, client)


KINDS = {
    "packets": (client_packet, {"tx_new_session", "tx_session", "tx_untracked"}),
    "answers": (server_answer, {"tx_reply"}),
    "echo": (echo_request, {"tx_echo"}),
    "errors about answers": (error_about_an_answer, {"tx_error"}),
    "errors about requests": (error_about_a_request, {"tx_reply_error"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_scapy_builds_the_same(harness: Harness, kind: str) -> None:
    make: Callable[[random.Random], Packet]
    make, verdicts = KINDS[kind]
    dice = random.Random(kind)
    for _ in range(300):
        before = make(dice).frame()
        assert rebuilt(before) == before
        reason, after = harness.run(before)
        assert reason in verdicts
        assert rebuilt(after).hex(" ") == after.hex(" "), before.hex(" ")


@pytest.mark.parametrize("version", [4, 6])
def test_the_oracle_sees_a_wrong_sum(version: int) -> None:
    client, vip, real, router = as_version(version, CLIENT, VIP, REALS[0], "203.0.113.1")
    packet = Packet().as_version(version)
    about = replace(packet, source=vip, destination=client, payload=b"even")
    for frame in (packet.frame(), packet.in_tunnel(real), icmp_error(about, "too big", source=router).frame()):
        assert rebuilt(frame) == frame
        sums = {4: [24, 50], 6: [18, 70]}[version]  # of the outer headers, the length where there is no sum
        for at in (*sums, len(frame) - 1):
            wrong = frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]
            assert rebuilt(wrong) != wrong, at
