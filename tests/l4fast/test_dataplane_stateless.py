"""Listeners that keep no session: every packet goes by its hash, every answer by its server."""

from __future__ import annotations

import random
import socket
from dataclasses import replace

import pytest

from core.flows import MAGLEV_SMALL
from core.model import HASH_SCHEDULERS, Mode, Scheduler
from core.schedule import flow_table
from l4fast.expiry import expire
from tests.packets import (
    ACK,
    CLIENT,
    FIN,
    NOW_S,
    PSH,
    REAL_MACS,
    REALS,
    RST,
    SYN,
    UDP,
    VIP,
    Case,
    Harness,
    Packet,
    flow_slot,
    maglev_real,
    service,
)

pytestmark = pytest.mark.root

NAT = service(80, stateless=True)
DR = service(81, Mode.DR, Scheduler.TCH, stateless=True)
DNS = service(53, protocol="udp", real_port=5353, stateless=True)
KEPT = service(82, real_port=8082)
DEAD = service(90, weights=(0, 0, 0), real_port=9090, stateless=True)
SERVICES = (NAT, DR, DNS, KEPT, DEAD)
QUERY = Packet(protocol=UDP, port=53, payload=b"q")


@pytest.fixture
def harness(roomy: Harness) -> Harness:
    roomy.reset(SERVICES)
    return roomy


def nat(packet: Packet) -> bytes:
    of = next(s for s in SERVICES if s.port == packet.port)
    real = maglev_real(packet, of)
    return packet.to_real(real.address, real.port).frame()


@pytest.mark.parametrize("flags", [SYN, ACK, ACK | PSH, ACK | FIN, RST])
def test_every_packet_of_a_flow_goes_by_hash_and_leaves_nothing(harness: Harness, flags: int) -> None:
    for _ in range(4):
        packet = Packet(flags=flags)
        harness.check(Case("nat", packet.frame(), "tx_stateless", nat(packet)))
        packet = replace(packet, port=81)
        after = packet.to_mac(REAL_MACS[maglev_real(packet, DR).address]).frame()
        harness.check(Case("dr", packet.frame(), "tx_stateless", after))
        harness.check(Case("udp", QUERY.frame(), "tx_stateless", nat(QUERY)))
    assert held(harness) == 0


def test_in_a_tunnel(harness: Harness) -> None:
    of = service(85, Mode.TUNNEL, stateless=True)
    harness.reset([of])
    packet = Packet(port=85, flags=ACK)
    harness.check(Case("tunnel", packet.frame(), "tx_stateless", packet.in_tunnel(maglev_real(packet, of).address)))
    assert held(harness) == 0


def held(harness: Harness) -> int:
    return harness.half_open() + sum(count for _, _, count in harness.plane.map("sessions").blocks(64))


@pytest.mark.parametrize(
    ("packet", "verdict"),
    [
        (Packet(flags=0), "drop_bad_flags"),
        (Packet(flags=SYN | ACK), "drop_bad_flags"),
        (Packet(source="127.0.0.1"), "drop_bad_source"),
        (Packet(source=VIP), "drop_bad_source"),
        (Packet(port=90), "drop_no_real"),
        (Packet(ttl=1), "drop_ttl"),
        (Packet(port=8), "pass_not_for_vip"),
    ],
)
def test_what_is_not_forwarded(harness: Harness, packet: Packet, verdict: str) -> None:
    harness.check(Case("", packet.frame(), verdict))


def test_an_unresolved_real_is_named(harness: Harness) -> None:
    harness.tables.apply(SERVICES, set(), {})
    harness.check(Case("", Packet().frame(), "drop_no_neighbour"))


def test_a_listener_of_the_same_vip_may_keep_sessions(harness: Harness) -> None:
    packet = Packet(port=82, flags=ACK)
    assert [harness.run(packet)[0] for _ in range(2)] == ["tx_new_session", "tx_session"]


@pytest.mark.parametrize("flags", [SYN | ACK, ACK, ACK | FIN, RST])
def test_answers_need_no_session(harness: Harness, flags: int) -> None:
    answer = Packet(source=REALS[1], source_port=8080, destination=CLIENT, port=40000, flags=flags)
    harness.check(Case("tcp", answer.frame(), "tx_reply", answer.to_client(VIP, 80).frame()))
    answer = replace(answer, source_port=5353, protocol=UDP)
    harness.check(Case("udp", answer.frame(), "tx_reply", answer.to_client(VIP, 53).frame()))


def test_the_peers_are_told_nothing(harness: Harness) -> None:
    events = harness.events(lambda: [harness.run(replace(QUERY, payload=bytes(n))) for n in range(10)])
    assert events == {"tx_stateless": 10}


def test_packets_and_bytes_are_counted_for_the_listener(harness: Harness) -> None:
    before = harness.tables.listener_counters()["tcp-80"]
    for flags in (SYN, ACK):
        harness.run(Packet(flags=flags))
    after = harness.tables.listener_counters()["tcp-80"]
    gained = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert gained == {"packets_in": 2, "bytes_in": 80}


def test_sessions_end_when_their_listener_becomes_stateless(harness: Harness) -> None:
    harness.reset([KEPT])
    packet = Packet(port=82, flags=ACK)
    harness.run(packet)
    harness.tables.apply([replace(KEPT, stateless=True)], set(), harness.macs)
    assert harness.run(packet)[0] == "tx_stateless"
    assert expire(harness.tables, NOW_S, 1 << 20) == 1
    assert harness.session(packet) is None


@pytest.mark.parametrize("scheduler", sorted(HASH_SCHEDULERS))
def test_a_server_that_fails_moves_only_its_own_of_10_000_flows(harness: Harness, scheduler: Scheduler) -> None:
    """As core.schedule's table says; drained, failed, or with another, and back where they were afterwards."""
    reals = [f"10.1.0.{n}" for n in range(1, 21)]
    macs = {real: bytes((2, 0, 0, 1, 0, n)) for n, real in enumerate(reals)}
    of = service(80, scheduler=scheduler, reals=reals, weights=[100] * 20, stateless=True)
    dice = random.Random(7)
    clients = [socket.inet_ntoa(dice.randrange(0x0B000000, 0x7E000000).to_bytes(4)) for _ in range(10_000)]
    flows = [Packet(source=client, source_port=1024 + 5 * n) for n, client in enumerate(clients)]
    slots = [flow_slot(flow, scheduler, MAGLEV_SMALL) for flow in flows]
    frames = [flow.frame() for flow in flows]

    def where(weights: list[int], down: set[int]) -> list[str]:
        """What the program does, once it has been seen to be what the table says."""
        members = tuple(replace(real, weight=weight) for real, weight in zip(of.reals, weights, strict=True))
        harness.tables.apply([replace(of, reals=members)], {(reals[n], 8080, "tcp") for n in down}, macs)
        went = [socket.inet_ntoa(harness.plane.run(frame)[1][30:34]) for frame in frames]
        table = flow_table([f"{real}:8080" for real in reals], weights, down, MAGLEV_SMALL)
        assert went == [reals[table[slot]] for slot in slots]
        return went

    before = where([100] * 20, set())
    without_7 = where([100] * 20, {7})
    assert where([0 if n == 7 else 100 for n in range(20)], set()) == without_7
    without_both = where([100] * 20, {7, 11})
    assert where([100] * 20, set()) == before
    assert {before.count(real) > 300 for real in reals} == {True}
    for old, new, gone in ((before, without_7, 7), (without_7, without_both, 11)):
        assert reals[gone] not in new
        assert all(a == b for a, b in zip(old, new, strict=True) if a != reals[gone])
