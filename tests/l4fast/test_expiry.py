"""Ageing: exact per state and listener, within its budget, in sweeps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from core.endpoints import endpoint
from l4fast.expiry import CLOSED_TIMEOUT_S, FIN_WAIT_TIMEOUT_S, UNKNOWN_TIMEOUT_S, expire, timeouts
from l4fast.loader import IP_VERSIONS
from l4fast.sessions import STATES
from l4fast.tables import UNPROVEN_TIMEOUT_S
from tests.packets import ACK, FIN, NOW_S, RST, UDP, Harness, Packet, service

LISTENER_S, UDP_S = 600, 30
SERVICES = (
    service(80, idle_timeout_s=LISTENER_S),
    service(53, protocol="udp", idle_timeout_s=UDP_S),
    service(81, idle_timeout_s=8, real_port=8081),
)
WHOLE = 1 << 20


def test_no_state_outlives_the_listener() -> None:
    assert timeouts(600) == (600, 10, 120, 10, 600, 600)
    assert timeouts(8) == (8, 8, 8, 8, 8, 8)


pytestmark = pytest.mark.root


@pytest.fixture
def harness(roomy: Harness) -> Harness:
    roomy.reset(SERVICES)
    return roomy


TCP_ACK = Packet(flags=ACK)
QUERY = Packet(protocol=UDP, port=53)


@pytest.mark.parametrize(
    ("packets", "state", "timeout_s"),
    [
        ([TCP_ACK], "unproven", UNPROVEN_TIMEOUT_S),
        ([TCP_ACK] * 2, "established", LISTENER_S),
        ([TCP_ACK] * 2 + [replace(TCP_ACK, flags=ACK | FIN)], "fin-wait", FIN_WAIT_TIMEOUT_S),
        ([TCP_ACK] * 2 + [replace(TCP_ACK, flags=RST)], "closed", CLOSED_TIMEOUT_S),
        ([QUERY], "udp", UDP_S),
        ([replace(TCP_ACK, port=81)] * 2, "established", 8),
    ],
    ids=["unproven", "established", "fin-wait", "closed", "udp", "short listener"],
)
def test_to_the_second(harness: Harness, packets: list[Packet], state: str, timeout_s: int) -> None:
    for packet in packets:
        harness.run(packet)
    session = harness.session(packets[0])
    assert session
    assert STATES[session["state"]] == state
    assert expire(harness.tables, NOW_S + timeout_s - 1, WHOLE) == 0
    assert expire(harness.tables, NOW_S + timeout_s, WHOLE) == 1
    assert harness.session(packets[0]) is None


def test_a_packet_renews_the_session(harness: Harness) -> None:
    harness.run(QUERY)
    harness.tables.set_epoch(NOW_S + UDP_S - 1)
    harness.run(QUERY)
    assert expire(harness.tables, NOW_S + UDP_S + 5, WHOLE) == 0
    assert expire(harness.tables, NOW_S + 2 * UDP_S - 1, WHOLE) == 1


def test_a_clock_that_steps_back_expires_nothing(harness: Harness) -> None:
    harness.run(QUERY)
    assert expire(harness.tables, NOW_S - 1000, WHOLE) == 0


def flows(harness: Harness, count: int, start: int = 0) -> list[Packet]:
    packets = [replace(QUERY, source=f"203.0.{n >> 8}.{n & 255}") for n in range(start, start + count)]
    for packet in packets:
        harness.plane.run(packet.frame())
    return packets


def test_only_those_that_are_due_go(harness: Harness) -> None:
    old = flows(harness, 500)
    harness.tables.set_epoch(NOW_S + 10)
    young = flows(harness, 500, 500)
    assert expire(harness.tables, NOW_S + UDP_S, WHOLE) == 500
    assert not any(harness.session(packet) for packet in old)
    assert all(harness.session(packet) for packet in young)


@pytest.mark.parametrize("budget", [64, 300, 1000])
def test_a_sweep_in_pieces_finds_the_same(harness: Harness, budget: int) -> None:
    flows(harness, 3000)
    deleted = []
    while not deleted or harness.tables.sweep.blocks is not None:
        deleted.append(expire(harness.tables, NOW_S + UDP_S, budget))
    assert sum(deleted) == 3000
    assert max(deleted) <= 2 * budget
    assert len(deleted) >= 3000 // (2 * budget)


def test_a_whole_sweep_counts_the_sessions(harness: Harness) -> None:
    flows(harness, 100)
    for n in range(20):
        harness.run(replace(TCP_ACK, source_port=3000 + n))
    expire(harness.tables, NOW_S, WHOLE)
    counters = harness.tables.listener_counters()
    assert {name: row["sessions"] for name, row in counters.items()} == {"udp-53": 100, "tcp-80": 20, "tcp-81": 0}
    assert harness.tables.sweep.last_entries.get(4) == 120
    assert expire(harness.tables, NOW_S + UNPROVEN_TIMEOUT_S, WHOLE) == 20
    assert harness.tables.sweep.last_entries.get(4) == 100
    expire(harness.tables, NOW_S + UDP_S, WHOLE)
    expire(harness.tables, NOW_S + UDP_S, WHOLE)
    assert harness.tables.listener_counters()["udp-53"]["sessions"] == 0
    assert harness.tables.sweep.last_entries.get(4, 0) == 0


@pytest.mark.parametrize("version", IP_VERSIONS)
def test_a_whole_sweep_counts_the_sessions_of_each_server(harness: Harness, version: int) -> None:
    of = service(53, protocol="udp", idle_timeout_s=UDP_S, version=version)
    harness.reset([of])
    packets = [replace(QUERY, source=f"203.0.113.{n}").as_version(version) for n in range(90)]
    chosen = Counter(harness.real_of(packet) for packet in packets)
    expected = {endpoint(real.address, real.port): chosen[real.address] for real in of.reals}
    assert min(expected.values()) > 10
    for _ in range(2):  # judged one by one, then by their kinds
        expire(harness.tables, NOW_S, WHOLE)
        servers = harness.tables.server_counters()["udp-53"]
        assert {name: row["sessions"] for name, row in servers.items()} == expected
    expire(harness.tables, NOW_S + UDP_S, WHOLE)
    assert not any(row["sessions"] for row in harness.tables.server_counters()["udp-53"].values())


def test_the_sessions_of_a_removed_listener_go_at_once(harness: Harness) -> None:
    harness.run(QUERY)
    harness.run(TCP_ACK)
    harness.tables.apply(SERVICES[:1], set(), harness.macs)
    assert expire(harness.tables, NOW_S, WHOLE) == 1
    assert harness.session(QUERY) is None
    assert harness.session(TCP_ACK)


def test_the_sessions_of_a_removed_real_go_at_once(harness: Harness) -> None:
    packets = flows(harness, 90)
    reals = {packet.source: harness.real_of(packet) for packet in packets}
    left = [real for real in SERVICES[1].reals if real.address != "10.0.1.2"]
    harness.tables.apply([replace(SERVICES[1], reals=tuple(left))], set(), harness.macs)
    gone = sum(real == "10.0.1.2" for real in reals.values())
    assert gone > 10
    assert expire(harness.tables, NOW_S, WHOLE) == gone
    assert all((harness.session(p) is None) == (reals[p.source] == "10.0.1.2") for p in packets)


def test_what_a_peer_told_of_an_unknown_listener_is_kept_a_while(harness: Harness) -> None:
    """The peer may have its configuration earlier than we."""
    pages: list[tuple[bytes, bytes, int]] = []
    for _ in range(3):
        harness.run(QUERY)
    ((keys, values, count),) = list(harness.tables.versions[4].session_map.blocks(16))
    value = harness.tables.versions[4].session_map.value.from_buffer_copy(values)
    value.generation, value.learnt = 0, 1
    pages.append((keys, bytes(value), count))
    harness.reset(SERVICES[:1])
    assert harness.merge(4, *pages[0]).new == 1
    assert expire(harness.tables, NOW_S + UNKNOWN_TIMEOUT_S - 1, WHOLE) == 0
    assert expire(harness.tables, NOW_S + UNKNOWN_TIMEOUT_S, WHOLE) == 1


def between_sweeps(harness: Harness, now_s: int) -> int:
    """What goes without being looked for: the sweep is at its end."""
    harness.tables.sweep.blocks = iter(())
    return expire(harness.tables, now_s, WHOLE)


def slowly(harness: Harness, now_s: int) -> None:
    """A sweep, as one that comes by every 20 seconds."""
    harness.tables.sweep.begun_s = now_s - 20
    assert expire(harness.tables, now_s, WHOLE) == 0


def test_a_session_goes_in_its_second_though_the_sweep_is_elsewhere(harness: Harness) -> None:
    flows(harness, 100)
    slowly(harness, NOW_S + UDP_S - 15)
    assert between_sweeps(harness, NOW_S + UDP_S - 1) == 0
    assert between_sweeps(harness, NOW_S + UDP_S) == 100
    assert not list(harness.tables.session_blocks(64))


def test_a_packet_saves_a_session_that_was_due(harness: Harness) -> None:
    kept, *_ = flows(harness, 3)
    slowly(harness, NOW_S + UDP_S - 15)
    harness.tables.set_epoch(NOW_S + UDP_S - 1)
    harness.run(kept)
    assert between_sweeps(harness, NOW_S + UDP_S) == 2
    assert harness.session(kept)


def test_a_change_of_state_in_the_same_second_saves_it_too(harness: Harness) -> None:
    harness.run(TCP_ACK)
    slowly(harness, NOW_S)
    harness.run(TCP_ACK)
    assert between_sweeps(harness, NOW_S + UNPROVEN_TIMEOUT_S) == 0
    assert harness.session(TCP_ACK)


def test_a_new_idle_time_holds_for_sessions_that_are_there(harness: Harness) -> None:
    flows(harness, 10)
    assert expire(harness.tables, NOW_S + 9, WHOLE) == 0
    harness.tables.apply([replace(SERVICES[1], idle_timeout_s=10)], set(), harness.macs)
    assert expire(harness.tables, NOW_S + 9, WHOLE) == 0
    assert expire(harness.tables, NOW_S + 10, WHOLE) == 10


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("own", [0, 3], ids=["alone", "among others"])
def test_sessions_of_peers_have_their_listeners_times(harness: Harness, version: int, own: int) -> None:
    """Many of a kind, of two listeners and in two states, none of which (or but each third) has met a packet here."""
    harness.reset(
        [
            service(80, idle_timeout_s=LISTENER_S, version=version),
            service(53, protocol="udp", idle_timeout_s=UDP_S, version=version),
        ]
    )
    packets = [replace(TCP_ACK, source=f"203.0.113.{n}").as_version(version) for n in range(100)]
    packets += [replace(QUERY, source=f"203.0.113.{n}").as_version(version) for n in range(50)]
    for packet in packets:
        harness.run(packet)
    for packet in packets[:40]:
        harness.run(packet)
    ((_, keys, values, count),) = list(harness.tables.session_blocks(512))
    learnt = bytearray()
    layout = harness.tables.versions[version].session_map.value
    for number, value in enumerate((layout * count).from_buffer_copy(values)):
        if not own or number % own:
            value.generation, value.member, value.learnt = 0, 0, 1
        learnt += bytes(value)
    harness.tables.versions[version].session_map.put_many(keys, bytes(learnt), count)
    for _ in range(2):  # judged one by one, then by their kinds
        assert expire(harness.tables, NOW_S + UNPROVEN_TIMEOUT_S - 1, WHOLE) == 0
        assert {name: n for name, n in harness.tables.sweep.last_counts.items() if n} == {"tcp-80": 100, "udp-53": 50}
    assert expire(harness.tables, NOW_S + UNPROVEN_TIMEOUT_S, WHOLE) == 60
    assert expire(harness.tables, NOW_S + UDP_S - 1, WHOLE) == 0
    assert expire(harness.tables, NOW_S + UDP_S, WHOLE) == 50
    assert expire(harness.tables, NOW_S + LISTENER_S - 1, WHOLE) == 0
    assert expire(harness.tables, NOW_S + LISTENER_S, WHOLE) == 40
