"""Fragments through the XDP program: the later ones follow the first, with the exact bytes that come out."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from core.model import Mode, Scheduler
from tests.packets import (
    ACK,
    CLIENT,
    DF,
    MORE,
    NODE_MAC,
    NOW_S,
    REAL_MACS,
    REALS,
    UDP,
    VIP,
    Case,
    Harness,
    Packet,
    checksum,
    ends,
    icmp,
    maglev_real,
    service,
)

pytestmark = pytest.mark.root

NAT = service(53, protocol="udp", real_port=5353)
RR = service(54, scheduler=Scheduler.RR, protocol="udp", real_port=5454)
DR = service(55, Mode.DR, protocol="udp")
TUNNEL = service(56, Mode.TUNNEL, protocol="udp")
FULLNAT = service(57, Mode.FULLNAT, protocol="udp", real_port=5757)
WEB = service(80)
SERVICES = (NAT, RR, DR, TUNNEL, FULLNAT, WEB)
POOL = "10.0.9.1"
DATAGRAM = Packet(protocol=UDP, port=53, payload=bytes(range(256)) * 4)
SEGMENT = Packet(flags=ACK, payload=bytes(range(256)) * 4)
SIZES = (400, 400)  # the rest is the last one's


@pytest.fixture
def harness(roomy: Harness) -> Harness:
    roomy.reset(SERVICES, [POOL])
    return roomy


def cut(packet: Packet, sizes: Sequence[int] = SIZES) -> list[bytes]:
    return packet.fragments(*sizes)


def single(packet: Packet, *, offset: int = 0, more: bool = True, size: int = 80, fragment: int = 0) -> bytes:
    """One fragment by itself, with the first bytes of what is behind the IP header."""
    field = (MORE if more else 0) | offset | fragment
    return replace(packet, fragment=field).around(packet.l4()[:size])


def pairs(before: Packet, after: Packet, sizes: Sequence[int] = SIZES) -> Iterator[Case]:
    verdicts = ["tx_new_session", *["tx_fragment"] * len(sizes)]
    for n, (sent, left, verdict) in enumerate(zip(cut(before, sizes), cut(after, sizes), verdicts, strict=True)):
        yield Case(f"fragment {n}", sent, verdict, left)


@pytest.mark.parametrize("packet", [DATAGRAM, SEGMENT], ids=["udp", "tcp"])
@pytest.mark.parametrize("sizes", [SIZES, (8,), (1024,), (24, 8, 16)], ids=str)
def test_nat(harness: Harness, packet: Packet, sizes: Sequence[int]) -> None:
    if packet is SEGMENT and sizes[0] < 20:
        sizes = (24, 8)
    real = maglev_real(packet, NAT if packet is DATAGRAM else WEB)
    for case in pairs(packet, packet.to_real(real.address, real.port), sizes):
        harness.check(case)


def test_dr(harness: Harness) -> None:
    packet = replace(DATAGRAM, port=55, ttl=1)
    for case in pairs(packet, packet.to_mac(REAL_MACS[maglev_real(packet, DR).address])):
        harness.check(case)


def test_fullnat(harness: Harness) -> None:
    packet = replace(DATAGRAM, port=57)
    sent = cut(packet)
    reason, first = harness.run(sent[0])
    assert reason == "tx_new_session"
    left = cut(packet.translated(*ends(first)))
    assert first == left[0]
    for before, after in zip(sent[1:], left[1:], strict=True):
        harness.check(Case("later", before, "tx_fragment", after))


def test_tunnel(harness: Harness) -> None:
    packet = replace(DATAGRAM, port=56)
    real = maglev_real(packet, TUNNEL).address
    for case in pairs(packet, replace(packet, ttl=63)):
        reason, after = harness.run(case.before)
        assert reason == case.verdict
        assert after[:14] == REAL_MACS[real] + NODE_MAC + b"\x08\x00"
        assert after[30:34] == socket.inet_aton(real)
        assert checksum(after[14:34]) == 0
        assert after[34:] == (case.after or b"")[14:]


def test_every_packet_of_a_rotating_listener_stays_together(harness: Harness) -> None:
    """Round robin chooses for each new flow; the later fragments must not choose again."""
    seen = set()
    for n in range(6):
        packet = replace(DATAGRAM, port=54, source_port=1000 + n)
        reals = {socket.inet_ntoa(harness.run(fragment)[1][30:34]) for fragment in cut(packet)}
        assert len(reals) == 1
        seen |= reals
    assert seen == set(REALS)


def test_later_fragments_may_change_places_and_come_twice(harness: Harness) -> None:
    first, second, third = cut(DATAGRAM)
    real = maglev_real(DATAGRAM, NAT)
    left = cut(DATAGRAM.to_real(real.address, real.port))
    harness.check(Case("first", first, "tx_new_session", left[0]))
    harness.check(Case("third", third, "tx_fragment", left[2]))
    harness.check(Case("second", second, "tx_fragment", left[1]))
    harness.check(Case("second again", second, "tx_fragment", left[1]))
    harness.check(Case("first again", first, "tx_session", left[0]))


ANSWER = Packet(
    source=REALS[2], source_port=5353, destination=CLIENT, port=40000, protocol=UDP, payload=bytes(range(256)) * 4
)


def test_answers(harness: Harness) -> None:
    sent, left = cut(ANSWER), cut(ANSWER.to_client(VIP, 53))
    harness.check(Case("first", sent[0], "tx_reply", left[0]))
    for before, after in zip(sent[1:], left[1:], strict=True):
        harness.check(Case("later", before, "tx_fragment", after))


def test_identifications_of_different_ends_do_not_mix(harness: Harness) -> None:
    """All packets here have identification 7."""
    harness.run(cut(DATAGRAM)[0])
    for name, other in (
        ("another client", replace(DATAGRAM, source="198.51.100.8")),
        ("another protocol", SEGMENT),
    ):
        harness.check(Case(name, cut(other)[1], "drop_fragment"))
    harness.check(Case("a later answer", cut(ANSWER)[1], "pass_not_for_vip"))


def test_a_new_packet_with_the_same_identification_takes_over(harness: Harness) -> None:
    for port in (40001, 40002, 40003, 40004, 40005):
        packet = replace(DATAGRAM, source_port=port)
        real = maglev_real(packet, NAT)
        for case in pairs(packet, packet.to_real(real.address, real.port)):
            harness.check(case)


REFUSED = [
    Case("before its first", cut(DATAGRAM)[1], "drop_fragment"),
    Case("to another address", cut(replace(DATAGRAM, destination="10.0.0.99"))[1], "pass_not_for_vip"),
    Case("first, to a port without listener", cut(replace(DATAGRAM, port=9))[0], "pass_not_for_vip"),
    Case("of a ping", single(Packet(protocol=1, payload=icmp(8, 0, bytes(4), bytes(300)))), "drop_fragment"),
    Case("ends in the UDP header", single(DATAGRAM, size=0), "drop_bad_fragment"),
    Case("of TCP, ends in the header", single(SEGMENT, size=16), "drop_bad_l4"),
    Case("no multiple of eight", single(DATAGRAM, size=81), "drop_bad_fragment"),
    Case("empty", single(DATAGRAM, offset=2, more=False, size=0), "drop_bad_fragment"),
    Case("hides TCP flags", single(SEGMENT, offset=1), "drop_bad_fragment"),
    Case("beyond 65,535 bytes", single(DATAGRAM, offset=8182, more=False, size=60), "drop_bad_fragment"),
    Case("first, TTL 1", cut(replace(DATAGRAM, ttl=1))[0], "drop_ttl"),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.description) for case in REFUSED])
def test_refused(harness: Harness, case: Case) -> None:
    harness.check(case)


def test_the_last_bytes_of_the_largest_packet(harness: Harness) -> None:
    harness.run(cut(DATAGRAM)[0])
    assert harness.run(single(DATAGRAM, offset=8182, more=False, size=59))[0] == "tx_fragment"


def test_what_was_not_forwarded_is_not_followed(harness: Harness) -> None:
    for first in (replace(DATAGRAM, ttl=1), replace(DATAGRAM, port=9)):
        harness.run(cut(first)[0])
        harness.check(Case("later", cut(DATAGRAM)[1], "drop_fragment"))


def test_the_memory_is_short(harness: Harness) -> None:
    first, second, third = cut(DATAGRAM)
    harness.run(first)
    harness.tables.set_epoch(NOW_S + 3)
    assert harness.run(second)[0] == "tx_fragment"
    harness.tables.set_epoch(NOW_S + 4)
    harness.check(Case("too late", third, "drop_fragment"))


def test_ttl_1_of_a_later_fragment(harness: Harness) -> None:
    harness.run(cut(DATAGRAM)[0])
    harness.check(Case("TTL 1", cut(replace(DATAGRAM, ttl=1))[1], "drop_ttl"))


def test_too_big_for_the_tunnel(harness: Harness) -> None:
    packet = replace(DATAGRAM, port=56, payload=bytes(3000))
    sent = cut(packet, (800, 1480))
    assert harness.run(sent[0])[0] == "tx_new_session"
    harness.check(Case("a full frame", sent[1], "drop_too_big"))
    harness.check(
        Case(
            "with DF: no error about a later fragment",
            single(packet, offset=101, size=1480, fragment=DF),
            "drop_too_big",
        )
    )


def test_fragments_are_counted_for_the_listener(harness: Harness) -> None:
    before = harness.tables.listener_counters()["udp-53"]
    for fragment in (*cut(DATAGRAM), *cut(ANSWER)):
        harness.run(fragment)
    after = harness.tables.listener_counters()["udp-53"]
    gained = {name: after[name] - before[name] for name in after}
    assert gained["packets_in"] == gained["packets_out"] == 3
    assert gained["bytes_in"] == gained["bytes_out"] == 3 * 20 + 8 + 1024


def test_a_flood_of_first_fragments_evicts_the_oldest_only(harness: Harness) -> None:
    for n in range(4000):
        harness.run(single(replace(DATAGRAM, source=f"203.0.{n % 200}.{n // 200 + 1}")))
    first, second, _ = cut(DATAGRAM)
    harness.run(first)
    assert harness.run(second)[0] == "tx_fragment"


@pytest.mark.parametrize("number", [0, 1])
def test_a_frame_cut_short_is_never_forwarded(harness: Harness, number: int) -> None:
    harness.run(cut(DATAGRAM)[0])
    frame = cut(DATAGRAM)[number]
    for length in range(14, len(frame)):
        assert not harness.run(frame[:length])[0].startswith("tx")
