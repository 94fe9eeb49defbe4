"""ICMP through the XDP program: echo, and errors that follow the flow they quote; the exact bytes that come out."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import replace

import pytest

from core.model import Mode, Scheduler
from core.resolve import L4Service
from tests.packets import (
    ACK,
    CLIENT,
    GATEWAY_MAC,
    ICMP,
    MTU,
    NODE,
    REAL_MACS,
    REALS,
    SYN,
    UDP,
    VIP,
    Case,
    Harness,
    Packet,
    ends,
    icmp,
    ipv4_header,
    maglev_real,
    service,
)

pytestmark = pytest.mark.root

NAT = service(80)
DR = service(81, Mode.DR)
TUNNEL = service(83, Mode.TUNNEL)
UDP_NAT = service(53, protocol="udp", real_port=5353)
WRR = service(84, scheduler=Scheduler.WRR, real_port=8084)
SHARED = tuple(service(port, real_port=8085) for port in (85, 86))
DEAD = service(90, weights=(0, 0, 0), real_port=9090)
SERVICES = (NAT, DR, TUNNEL, UDP_NAT, WRR, *SHARED, DEAD)
ROUTER = "203.0.113.1"

# Answers as they left under the VIP
ANSWER = Packet(source=VIP, source_port=80, destination=CLIENT, port=40000, flags=ACK, payload=b"x" * 200, ttl=61)
DATAGRAM = replace(ANSWER, source_port=53, protocol=UDP)
KINDS = {
    "network unreachable": (3, 0),
    "port unreachable": (3, 3),
    "fragmentation needed": (3, 4),
    "time exceeded": (11, 0),
    "parameter problem": (12, 0),
}


@pytest.fixture
def harness(roomy: Harness) -> Harness:
    roomy.reset(SERVICES)
    return roomy


def error(
    about: Packet, kind: tuple[int, int] = (3, 4), *, quote: int = 68, mtu: int = 1300, source: str = ROUTER
) -> Packet:
    """What a router or the receiver of this packet sends back to its source."""
    payload = icmp(*kind, struct.pack("!HH", 0, mtu), about.frame()[14 : 14 + quote])
    return Packet(source=source, destination=about.source, protocol=ICMP, payload=payload)


def of_client(answer: Packet) -> Packet:
    """The client's own packet in the flow of this answer."""
    return replace(
        answer, source=CLIENT, destination=VIP, source_port=answer.port, port=answer.source_port, payload=b"", ttl=64
    )


def chosen(answer: Packet, of: L4Service) -> tuple[str, int]:
    real = maglev_real(of_client(answer), of)
    return real.address, real.port


def to_real(about: Packet, of: L4Service, *, quote: int = 68, kind: tuple[int, int] = (3, 4)) -> bytes:
    """nat: the error names the real, outside and inside."""
    address, port = chosen(about, of)
    inner = error(replace(about, source=address, source_port=port), kind, quote=quote)
    return replace(inner, destination=VIP).to_real(address).frame()


def row(description: str, packet: Packet, verdict: str, after: bytes | None = None) -> Case:
    return Case(description, packet.frame(), verdict, after)


LIMIT_S = 30.0
PING = Packet(protocol=ICMP, payload=icmp(8, 0, b"\x12\x34\0\1", b"are you there?"), ttl=3)
PONG = replace(PING, source=VIP, destination=CLIENT, payload=icmp(0, 0, b"\x12\x34\0\1", b"are you there?"), ttl=64)
UNQUOTED = error(ANSWER, quote=27)

TO_REALS = [
    *(row(f"{name}, nat", error(ANSWER, kind), "tx_error", to_real(ANSWER, NAT, kind=kind))
      for name, kind in KINDS.items()),
    *(row(f"{quote} bytes of TCP quoted", error(ANSWER, quote=20 + quote), "tx_error",
          to_real(ANSWER, NAT, quote=20 + quote)) for quote in (8, 9, 16, 18, 19, 20, 220)),
    *(row(f"{quote} bytes of UDP quoted", error(DATAGRAM, quote=20 + quote), "tx_error",
          to_real(DATAGRAM, UDP_NAT, quote=20 + quote)) for quote in (8, 9, 208)),
    row("a datagram without checksum", error(replace(DATAGRAM, l4_checksum=0)), "tx_error",
        to_real(replace(DATAGRAM, l4_checksum=0), UDP_NAT)),
    row("a first fragment quoted", error(replace(DATAGRAM, fragment=0x2000)), "tx_error",
        to_real(replace(DATAGRAM, fragment=0x2000), UDP_NAT)),
    row("dr", error(replace(ANSWER, source_port=81)), "tx_error",
        error(replace(ANSWER, source_port=81)).to_mac(
            REAL_MACS[chosen(replace(ANSWER, source_port=81), DR)[0]]).frame()),
    row("tunnel", error(replace(ANSWER, source_port=83)), "tx_error",
        error(replace(ANSWER, source_port=83)).in_tunnel(chosen(replace(ANSWER, source_port=83), TUNNEL)[0])),
    row("dr does not touch the TTL", replace(error(replace(ANSWER, source_port=81)), ttl=1), "tx_error",
        replace(error(replace(ANSWER, source_port=81)), ttl=1).to_mac(
            REAL_MACS[chosen(replace(ANSWER, source_port=81), DR)[0]]).frame()),
    row("a sum that was wrong stays wrong", replace(error(ANSWER), payload=error(ANSWER).payload[:-1] + b"?"),
        "tx_error", to_real(ANSWER, NAT)[:-1] + b"?"),
]  # fmt: skip

OTHERS = [
    row("an echo request", PING, "tx_echo", PONG.to_mac(PING.eth_source).frame()),
    row("an echo request without data", replace(PING, payload=icmp(8, 0)), "tx_echo",
        replace(PONG, payload=icmp(0, 0)).to_mac(PING.eth_source).frame()),
    row("an echo request to another", replace(PING, destination="10.0.0.99"), "pass_not_for_vip"),
    row("an echo answer", replace(PING, payload=icmp(0, 0)), "pass_icmp"),
    row("a redirect", error(ANSWER, (5, 0)), "pass_icmp"),
    row("about a port without listener", error(replace(ANSWER, source_port=79)), "pass_icmp"),
    row("about an SCTP packet", error(replace(ANSWER, protocol=132)), "pass_icmp"),
    row("about a packet in a tunnel", error(replace(ANSWER, protocol=4)), "pass_icmp"),
    row("about nobody's packet", error(Packet(source="10.0.0.99", destination=CLIENT)), "pass_not_for_vip"),
    row("cut short, to another", replace(UNQUOTED, destination="10.0.0.99"), "pass_not_for_vip"),
    row("ICMP of seven bytes", replace(PING, payload=bytes(7)), "drop_bad_icmp"),
    row("27 bytes quoted", UNQUOTED, "drop_bad_icmp"),
    row("padding is no quotation", replace(UNQUOTED, padding=b"x" * 9), "drop_bad_icmp"),
    row("IP options quoted", error(replace(ANSWER, version_length=0x46, options=b"\1\1\1\0")), "drop_bad_icmp"),
    row("IPv6 quoted", error(replace(ANSWER, version_length=0x65)), "drop_bad_icmp"),
    row("a later fragment quoted", error(replace(ANSWER, fragment=1)), "drop_bad_icmp"),
    row("quotes another sender", replace(error(replace(ANSWER, source="10.0.0.99")), destination=VIP),
        "drop_bad_icmp"),
    row("an error from loopback", error(ANSWER, source="127.0.0.1"), "drop_bad_source"),
    row("an echo request from multicast", replace(PING, source="224.0.0.1"), "drop_bad_source"),
    row("an echo request from the VIP", replace(PING, source=VIP), "drop_bad_source"),
    row("TTL 1, nat", replace(error(ANSWER), ttl=1), "drop_ttl"),
    row("TTL 1, tunnel", replace(error(replace(ANSWER, source_port=83)), ttl=1), "drop_ttl"),
    row("too big for the tunnel", replace(error(replace(ANSWER, source_port=83, payload=b"x" * 1460), quote=1460),
                                          fragment=0x4000), "drop_too_big"),
    row("about a flow to no real", error(replace(ANSWER, source_port=90)), "drop_no_real"),
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(c, id=c.description) for c in (*TO_REALS, *OTHERS)])
def test_verdict_and_bytes(harness: Harness, case: Case) -> None:
    harness.check(case)


# The client's packets as nat has forwarded them, and what their errors become
REQUEST = Packet(flags=ACK, payload=b"x" * 200, ttl=63)
QUERY = replace(REQUEST, protocol=UDP, port=53)


def forwarded(packet: Packet, port: int = 8080) -> Packet:
    return replace(packet, destination=REALS[1], port=port)


def to_client(packet: Packet, **changed: int) -> bytes:
    """The client's own packet quoted, by the VIP."""
    return error(packet, source=VIP, **changed).to_mac(GATEWAY_MAC).frame()


def aged(packet: Packet) -> Packet:
    """One hop more before it arrives here, so that what leaves has the default TTL."""
    return replace(packet, ttl=65)


TO_CLIENTS = [
    row("from a router", aged(error(forwarded(REQUEST))), "tx_reply_error", to_client(REQUEST)),
    row("from the real", aged(error(forwarded(QUERY, 5353), source=REALS[1])), "tx_reply_error", to_client(QUERY)),
    row("8 bytes of TCP quoted", aged(error(forwarded(REQUEST), quote=28)), "tx_reply_error",
        to_client(REQUEST, quote=28)),
    row("all of a datagram quoted", aged(error(forwarded(QUERY, 5353), quote=228)), "tx_reply_error",
        to_client(QUERY, quote=228)),
    row("about another port of the real", error(forwarded(REQUEST, 22)), "pass_not_for_vip"),
    row("about a dr flow", error(replace(REQUEST, destination=REALS[0], port=81)), "pass_not_for_vip"),
    row("quotes another sender", replace(error(forwarded(REQUEST)), destination="198.51.100.9"), "pass_not_for_vip"),
    row("27 bytes quoted", error(forwarded(REQUEST), quote=27), "pass_not_for_vip"),
    row("an echo answer", replace(error(forwarded(REQUEST)), payload=icmp(0, 0)), "pass_not_for_vip"),
    row("about a health check", error(replace(forwarded(REQUEST), source=NODE)), "pass_local"),
    row("TTL 1", replace(error(forwarded(REQUEST)), ttl=1), "drop_ttl"),
    row("two listeners use the port, nobody knows the flow", error(forwarded(REQUEST, 8085)), "drop_reply_ambiguous"),
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(c, id=c.description) for c in TO_CLIENTS])
def test_errors_about_what_clients_sent(harness: Harness, case: Case) -> None:
    harness.check(case)


def test_errors_towards_clients_need_the_gateway(harness: Harness) -> None:
    harness.tables.apply(SERVICES, set(), REAL_MACS)
    harness.check(row("nat", error(forwarded(REQUEST)), "drop_no_gateway"))
    harness.check(row("tunnel", tunnel_error(), "drop_no_gateway"))


def test_an_error_follows_the_session_and_leaves_it_alone(harness: Harness) -> None:
    """With wrr nothing but the session or the SYN's entry says which real it was."""
    answers = [replace(ANSWER, source_port=84, port=41000 + n) for n in range(6)]
    for step in ("half open", "established"):
        for answer in answers:
            client = replace(of_client(answer), flags=SYN)
            real = harness.real_of(client if step == "half open" else replace(client, flags=ACK, sequence=1001))
            before = harness.session(client)
            reason, after = harness.run(error(answer))
            assert (reason, socket.inet_ntoa(after[30:34])) == ("tx_error", real), step
            assert after[54:58] == socket.inet_aton(real)
            assert after[62:64] == (8084).to_bytes(2)
            assert harness.session(client) == before


def test_an_error_warms_a_cold_session(harness: Harness) -> None:
    client = replace(of_client(ANSWER), flags=ACK)
    real = harness.real_of(client)
    macs = {**harness.macs, real: bytes.fromhex("0200000001ff")}
    harness.tables.apply(SERVICES, set(), macs)
    reason, after = harness.run(error(ANSWER))
    assert (reason, after[:6]) == ("tx_error", macs[real])


def test_listeners_that_share_a_port_are_told_apart_by_the_flow(harness: Harness) -> None:
    for port in (85, 86):
        client = Packet(port=port, source_port=42000 + port, flags=SYN)
        real = harness.real_of(client)
        sent = replace(client, flags=ACK)
        about = replace(sent, destination=real, port=8085)
        harness.check(row(f"{port}", aged(error(about)), "tx_reply_error", to_client(sent)))


def test_errors_need_the_neighbour(harness: Harness) -> None:
    harness.tables.apply(SERVICES, set(), {})
    harness.check(row("no MAC address", error(ANSWER), "drop_no_neighbour"))


def test_echo_has_a_limit_each_second(harness: Harness) -> None:
    """Of the kernel's clock: that of the agent stands still."""
    harness.plane.set(echo_per_cpu_s=3)
    begun = time.monotonic()
    reasons = [harness.run(PING)[0] for _ in range(100)]
    seconds = int(time.monotonic() - begun) + 2  # it touches
    while reasons.count("tx_echo") <= 3 * seconds:
        reasons.append(harness.run(PING)[0])
        assert reasons.count("tx_echo") <= 3 * (int(time.monotonic() - begun) + 2)
        assert time.monotonic() - begun < LIMIT_S, "no ping is answered any more"
    assert set(reasons) == {"tx_echo", "drop_echo_limit"}


def test_errors_are_counted_for_the_listener(harness: Harness) -> None:
    before = harness.tables.listener_counters()["tcp-80"]
    harness.run(error(ANSWER))
    harness.run(error(forwarded(REQUEST)))
    after = harness.tables.listener_counters()["tcp-80"]
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "packets_in": 1, "bytes_in": 96, "packets_out": 1, "bytes_out": 96,
    }  # fmt: skip


POOL = "10.0.9.1"
FULLNAT_TCP = service(80, Mode.FULLNAT)
FULLNAT_UDP = service(53, Mode.FULLNAT, protocol="udp", real_port=5353)


def fullnat_error(about: Packet, source: str, destination: str, to: bytes) -> bytes:
    """About the packet as its sender knows it; both outer addresses are given new ones too."""
    inner = error(about)
    return replace(inner, source=source, destination=destination, ttl=63).to_mac(to).frame()


@pytest.mark.parametrize("step", ["half open", "established", "udp"])
def test_fullnat_exchanges_both_ends_of_errors(harness: Harness, step: str) -> None:
    harness.reset([FULLNAT_TCP, FULLNAT_UDP], [POOL])
    sent = QUERY if step == "udp" else replace(REQUEST, flags=SYN, payload=b"")
    reason, after = harness.run(sent)
    assert reason.startswith("tx")
    if step == "established":
        sent = replace(sent, flags=ACK, sequence=sent.sequence + 1, payload=b"x" * 80)
        assert harness.run(sent)[0] == "tx_new_session"
    (pool, pool_port), (real, real_port) = ends(after)
    answer = replace(sent, source=VIP, destination=CLIENT, source_port=sent.port, port=sent.source_port, flags=ACK)
    as_left = replace(answer, source=real, destination=pool, source_port=real_port, port=pool_port)
    harness.check(
        row("about an answer", error(answer), "tx_error", fullnat_error(as_left, pool, real, REAL_MACS[real]))
    )
    as_arrived = replace(sent, source=pool, destination=real, source_port=pool_port, port=real_port)
    if step == "half open":
        harness.check(row("about the SYN", error(as_arrived), "pass_icmp"))
    else:
        after = fullnat_error(sent, VIP, CLIENT, GATEWAY_MAC)
        harness.check(row("about the client's packet", error(as_arrived), "tx_reply_error", after))
        harness.check(row("TTL 1", replace(error(as_arrived), ttl=1), "drop_ttl"))


def test_fullnat_drops_errors_about_flows_that_nobody_knows(harness: Harness) -> None:
    harness.reset([FULLNAT_TCP], [POOL])
    harness.check(row("an answer", error(ANSWER), "drop_no_session"))


# A router between the node and a real: the outer packet of a tunnel is too big for it
INSIDE = Packet(port=83, flags=ACK, fragment=0x4000, payload=b"x" * 1000, ttl=63)


def tunnel_error(
    inside: Packet = INSIDE, *, quote: int = 48, mtu: int = 1300, kind: tuple[int, int] = (3, 4), source: str = NODE
) -> Packet:
    outer = ipv4_header(source, REALS[0], 4, len(inside.frame()) - 14) + inside.frame()[14:]
    payload = icmp(*kind, struct.pack("!HH", 0, mtu), outer[:quote])
    return Packet(source=ROUTER, destination=source, protocol=ICMP, payload=payload)


def told(inside: Packet, mtu: int) -> bytes:
    return GATEWAY_MAC + INSIDE.eth_destination + inside.too_big(mtu)[12:]


UDP_INSIDE = replace(INSIDE, protocol=UDP, port=55)
RELAYED = [
    row("the client learns what is left", tunnel_error(), "tx_too_big", told(INSIDE, 1280)),
    row("all quoted", tunnel_error(quote=548), "tx_too_big", told(INSIDE, 1280)),
    row("the smallest MTU", tunnel_error(mtu=88), "tx_too_big", told(INSIDE, 68)),
    row("an MTU that cannot be", tunnel_error(mtu=87), "pass_not_for_vip"),
    row("a router that does not say which MTU", tunnel_error(mtu=0), "pass_not_for_vip"),
    row("47 bytes quoted", tunnel_error(quote=47), "pass_not_for_vip"),
    row("47 bytes quoted, and padding", replace(tunnel_error(quote=47), padding=b"x" * 30), "pass_not_for_vip"),
    row("host unreachable", tunnel_error(kind=(3, 1)), "pass_not_for_vip"),
    row("for another node", tunnel_error(source="10.0.0.3"), "pass_not_for_vip"),
    row("about a dr flow", tunnel_error(replace(INSIDE, port=81)), "pass_not_for_vip"),
    row("about a datagram that no listener takes", tunnel_error(UDP_INSIDE), "pass_not_for_vip"),
    row("options inside", tunnel_error(replace(INSIDE, version_length=0x46, options=b"\1\1\1\0")), "pass_not_for_vip"),
    row("a client that counts on fragments", tunnel_error(replace(INSIDE, fragment=0)), "drop_too_big"),
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(c, id=c.description) for c in RELAYED])
def test_errors_about_tunnel_packets(harness: Harness, case: Case) -> None:
    harness.check(case)


@pytest.mark.parametrize("case", [TO_REALS[0], TO_CLIENTS[0], RELAYED[0]], ids=["real", "client", "tunnel"])
def test_a_frame_cut_short_is_never_forwarded(harness: Harness, case: Case) -> None:
    for length in range(14, len(case.before)):
        reason, after = harness.run(case.before[:length])
        assert not reason.startswith("tx"), length
        assert after == case.before[:length]


def test_the_table_fits_an_mtu() -> None:
    assert max(len(case.before) for case in (*TO_REALS, *OTHERS)) <= MTU + 14
