"""Sessions of the XDP program: when they are made, how their state moves, what peers are told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.model import Mode, Scheduler
from core.resolve import L4Service
from l4fast.sessions import STATES
from tests.l4fast.told import Page, parsed
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
    Harness,
    Packet,
    maglev_real,
    service,
)

pytestmark = pytest.mark.root

MAGLEV = service(80)
WRR = service(81, scheduler=Scheduler.WRR, real_port=8081)
DNS = service(53, protocol="udp", real_port=5353)
SERVICES = (MAGLEV, WRR, DNS)
OPENED = Packet()
ACKED = Packet(flags=ACK, sequence=1001)
DATA = Packet(flags=ACK | PSH, sequence=1001, payload=b"GET /")


class Peer:
    """What the node tells its peers."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.pages: list[Page] = []
        harness.tables.on_sync_page(lambda _, *page: self.pages.append(page))

    def told(self) -> list[Page]:
        self.harness.tables.flush_sync()
        self.harness.tables.drain_ring(4)
        pages, self.pages[:] = list(self.pages), []
        return pages

    def states(self) -> list[str]:
        return [STATES[told.state] for page in self.told() for told in parsed(4, page)]


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[Harness, Peer]]:
    harness = Harness(sessions=256, half_open=1024)
    yield harness, Peer(harness)
    harness.close()


@pytest.fixture
def harness(loaded: tuple[Harness, Peer]) -> Harness:
    loaded[0].reset(SERVICES)
    loaded[1].told()
    return loaded[0]


@pytest.fixture
def peer(harness: Harness, loaded: tuple[Harness, Peer]) -> Peer:
    return loaded[1]


def state_of(harness: Harness, packet: Packet) -> str | None:
    session = harness.session(packet)
    return None if session is None else STATES[session["state"]]


# Making sessions


def test_a_syn_makes_no_session(harness: Harness) -> None:
    for packet in (OPENED, replace(OPENED, port=81)):
        assert harness.run(packet)[0] == "tx_syn"
        assert harness.session(packet) is None


def test_maglev_needs_no_state_for_a_flow(harness: Harness) -> None:
    reals = {harness.real_of(packet) for packet in (OPENED, ACKED, DATA, replace(ACKED, flags=ACK | FIN))}
    assert reals == {maglev_real(OPENED, MAGLEV).address}


def test_the_syn_in_front_makes_an_established_session(harness: Harness) -> None:
    syn, ack = replace(OPENED, port=81), replace(ACKED, port=81)
    real = harness.real_of(syn)
    assert harness.run(ack)[0] == "tx_new_session"
    assert state_of(harness, ack) == "established"
    assert {harness.real_of(replace(ack, payload=b"x" * n)) for n in range(5)} == {real}


def test_a_repeated_syn_goes_to_the_same_real(harness: Harness) -> None:
    syn = replace(OPENED, port=81)
    assert len({harness.real_of(syn) for _ in range(6)}) == 1
    assert len({harness.real_of(replace(syn, sequence=n)) for n in range(6)}) == 3


@pytest.mark.parametrize(
    ("sequence", "state"),
    [(1001, "established"), (1000 + 0x10000, "established"), (1001 + 0x10000, None), (1000, None)],
)
def test_the_handshake_must_be_in_sequence(harness: Harness, sequence: int, state: str | None) -> None:
    harness.run(replace(OPENED, port=81))
    harness.run(replace(ACKED, port=81, sequence=sequence))
    assert state_of(harness, replace(ACKED, port=81)) == state


def test_the_half_open_entry_goes_when_its_session_comes(harness: Harness) -> None:
    for packet, entries in ((replace(OPENED, port=81), 1), (replace(ACKED, port=81), 0)):
        harness.run(packet)
        assert harness.half_open() == entries


def test_sequence_numbers_wrap(harness: Harness) -> None:
    harness.run(replace(OPENED, port=81, sequence=0xFFFFFFFF))
    harness.run(replace(ACKED, port=81, sequence=0))
    assert state_of(harness, replace(ACKED, port=81)) == "established"


def test_an_unknown_wrr_flow_is_forwarded_and_makes_nothing(harness: Harness) -> None:
    packet = replace(ACKED, port=81)
    assert len({harness.real_of(packet) for _ in range(4)}) == 1
    assert harness.session(packet) is None


def test_one_ack_alone_proves_nothing(harness: Harness) -> None:
    harness.run(ACKED)
    assert state_of(harness, ACKED) == "unproven"
    harness.run(DATA)
    assert state_of(harness, ACKED) == "established"


def test_a_flood_of_acks_makes_a_bounded_number_of_sessions(harness: Harness) -> None:
    harness.plane.set(unproven_per_cpu_s=6)
    harness.tables.set_epoch(NOW_S + 1)
    flood = [replace(ACKED, source_port=2000 + n) for n in range(100)]
    events = harness.events(lambda: [harness.run(packet) for packet in flood])
    made = events["tx_new_session"]
    assert 6 <= made <= 6 * harness.plane.cpus
    assert events["event_unproven_limit"] == events["tx_untracked"] == 100 - made
    harness.tables.set_epoch(NOW_S + 2)
    assert harness.run(replace(ACKED, source_port=5000))[0] == "tx_new_session"


def test_a_full_table_still_forwards_and_keeps_its_sessions(harness: Harness) -> None:
    packets = [Packet(protocol=UDP, port=53, source_port=1000 + n) for n in range(300)]
    events = harness.events(lambda: [harness.run(packet) for packet in packets])
    assert events["tx_new_session"] == 256
    assert events["event_table_full"] == events["tx_untracked"] == 44
    assert all(harness.session(packet) for packet in packets[:256])
    assert harness.real_of(packets[299]) == maglev_real(packets[299], DNS).address
    syn, ack = replace(OPENED, port=81), replace(ACKED, port=81)
    assert {harness.real_of(packet) for packet in (syn, ack, ack)} == {harness.real_of(ack)}
    assert harness.session(ack) is None


def test_a_syn_flood_evicts_no_session(harness: Harness) -> None:
    for packet in (replace(OPENED, port=81), replace(ACKED, port=81)):
        harness.run(packet)
    for n in range(3000):
        harness.plane.run(replace(OPENED, port=81, source="203.0.113.1", source_port=1024 + n).frame())
    assert harness.run(replace(DATA, port=81))[0] == "tx_session"


def test_udp_makes_its_session_at_once(harness: Harness) -> None:
    packet = Packet(protocol=UDP, port=53, payload=b"q")
    assert [harness.run(packet)[0] for _ in range(3)] == ["tx_new_session", "tx_session", "tx_session"]
    assert state_of(harness, packet) == "udp"
    assert harness.session(packet) == {
        "bytes": 87, "packets": 3, "last_s": NOW_S, "mode": 0, "state": 4, "learnt": 0, "sync_due_s": NOW_S + 20,
        "generation": harness.plane.settings[4].generation,
    }  # fmt: skip


# The state machine: [state][event], None meaning that the session ends (and, being a SYN, that a new flow begins)

EVENTS = {"ack": ACK, "syn": SYN, "fin": ACK | FIN, "rst": RST}
TABLE = {
    "established": {"ack": "established", "syn": "established", "fin": "fin-wait", "rst": "closed"},
    "unproven": {"ack": "established", "syn": "unproven", "fin": "fin-wait", "rst": "closed"},
    "fin-wait": {"ack": "fin-wait", "syn": None, "fin": "fin-wait", "rst": "closed"},
    "closed": {"ack": "unproven", "syn": None, "fin": "closed", "rst": "closed"},
}
REACHED_BY = {"unproven": [], "established": [ACK], "fin-wait": [ACK, ACK | FIN], "closed": [ACK, RST]}


@pytest.mark.parametrize("state", TABLE)
@pytest.mark.parametrize("event", EVENTS)
def test_state_machine(harness: Harness, state: str, event: str) -> None:
    for flags in (ACK, *REACHED_BY[state]):
        harness.run(replace(ACKED, flags=flags))
    assert state_of(harness, ACKED) == state
    reason, _ = harness.run(replace(ACKED, flags=EVENTS[event]))
    assert state_of(harness, ACKED) == TABLE[state][event]
    assert reason == ("tx_session" if TABLE[state][event] else "tx_syn")


@pytest.mark.parametrize(
    ("flags", "after"), [(ACK, "established"), (SYN | ACK, "established"), (ACK | FIN, "fin-wait"), (RST, "closed")]
)
def test_the_real_moves_the_state_too(harness: Harness, flags: int, after: str) -> None:
    for packet in (ACKED, DATA):
        harness.run(packet)
    real = maglev_real(ACKED, MAGLEV)
    answer = Packet(source=real.address, source_port=8080, destination=CLIENT, port=40000, flags=flags)
    assert harness.run(answer)[0] == "tx_reply"
    assert state_of(harness, ACKED) == after


def test_udp_answers_keep_the_session_alive(harness: Harness) -> None:
    packet = Packet(protocol=UDP, port=53)
    real = harness.real_of(packet)
    harness.tables.set_epoch(NOW_S + 250)
    harness.run(Packet(source=real, source_port=5353, destination=CLIENT, port=40000, protocol=UDP))
    session = harness.session(packet)
    assert session
    assert session["last_s"] == NOW_S + 250


def test_a_new_connection_on_old_ports_may_get_another_real(harness: Harness) -> None:
    syn, ack = replace(OPENED, port=81), replace(ACKED, port=81)
    first = harness.real_of(syn)
    harness.run(ack)
    harness.run(replace(ack, flags=RST))
    assert harness.real_of(replace(syn, sequence=77)) != first
    assert harness.run(replace(ack, sequence=78))[0] == "tx_new_session"


# Telling the peers


def test_a_session_is_told_once_it_has_carried_three_packets(harness: Harness, peer: Peer) -> None:
    for packet, told in ((ACKED, []), (DATA, []), (DATA, ["established"]), (DATA, []), (DATA, [])):
        harness.run(packet)
        assert peer.states() == told


def test_a_change_of_state_is_told_at_once(harness: Harness, peer: Peer) -> None:
    for packet in (ACKED, DATA, DATA):
        harness.run(packet)
    peer.told()
    harness.run(replace(ACKED, flags=ACK | FIN))
    assert peer.states() == ["fin-wait"]
    harness.run(replace(ACKED, flags=RST))
    assert peer.states() == ["closed"]


def test_a_flow_that_ends_before_three_packets_is_not_told(harness: Harness, peer: Peer) -> None:
    harness.run(ACKED)
    harness.run(replace(ACKED, flags=RST))
    assert peer.states() == []


def test_a_living_session_is_told_again_every_period(harness: Harness, peer: Peer) -> None:
    for _ in range(3):
        harness.run(DATA)
    peer.told()
    for later, told in ((19, 0), (20, 1), (21, 0), (39, 0), (40, 1)):
        harness.tables.set_epoch(NOW_S + later)
        harness.run(DATA)
        assert len(peer.states()) == told, later


def test_a_full_page_goes_out_by_itself(harness: Harness, peer: Peer) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # a page belongs to a CPU
    try:
        for n in range(67):
            for _ in range(3):
                harness.plane.run(Packet(protocol=UDP, port=53, source_port=3000 + n).frame())
    finally:
        os.sched_setaffinity(0, allowed)
    harness.tables.drain_ring(4)
    assert [(count, ends) for _, count, ends in peer.pages] == [(67, 1 + len(REALS))]
    peer.pages.clear()
    assert peer.told() == []


def test_a_full_ring_is_counted_and_blocks_nothing(harness: Harness, peer: Peer) -> None:
    small = Harness(sessions=4096, half_open=16, sync_ring_bytes=4096)
    try:
        small.reset(SERVICES)

        def load() -> None:
            for n in range(400):
                for _ in range(3):
                    small.plane.run(Packet(protocol=UDP, port=53, source_port=3000 + n).frame())

        events = small.events(load)
        assert events["event_sync_staged"] == 400
        assert events["event_sync_lost"] >= 60
        assert events["tx_session"] == 800
    finally:
        small.close()


def test_a_peer_goes_on_with_what_it_was_told(harness: Harness, peer: Peer) -> None:
    """Another node: other listener indexes, other MAC addresses, no Maglev table to fall back on."""
    packets = [replace(DATA, port=81, source_port=2000 + n) for n in range(30)]
    reals = []
    for packet in packets:
        harness.run(replace(packet, flags=SYN, sequence=1000, payload=b""))
        reals.append({harness.real_of(packet) for _ in range(3)}.pop())
    pages = peer.told()
    other = Harness(sessions=256, half_open=16)
    try:
        other.reset([service(443, name="first"), *SERVICES[1:]])
        for page in pages:
            assert other.tables.hear_sessions(4, *page).new == page[1]
        views = other.tables.sessions()
        assert len(views) == 30
        assert all(view.synced and view.packets == 3 for view in views)
        for packet, real in zip(packets, reals, strict=True):
            reason, after = other.run(packet)
            assert (reason, after) == ("tx_session", packet.to_real(real, 8081).frame())
            assert other.run(packet)[0] == "tx_session"
        assert other.tables.counters()["event_warmed"] == 30
        assert other.tables.listener_counters()["tcp-81"]["packets_in"] == 60
        assert other.tables.listener_counters()["first"]["packets_in"] == 0
    finally:
        other.close()


def test_merging_wants_whole_records(harness: Harness) -> None:
    with pytest.raises(ValueError, match="2 sessions are 128 bytes"):
        harness.merge(4, bytes(32), bytes(48), 2)


# Changes under living sessions


def test_a_real_of_weight_0_or_down_keeps_its_sessions_and_gets_no_more(harness: Harness) -> None:
    harness.run(ACKED)
    real = harness.real_of(DATA)
    index = REALS.index(real)
    weights = [0 if n == index else 100 for n in range(3)]
    for services, down in (
        ([service(80, weights=weights)], set()),
        ([service(80, scheduler=Scheduler.RR, weights=weights)], set()),
        ([MAGLEV], {(real, 8080, "tcp")}),
    ):
        harness.tables.apply(services, down, harness.macs)
        assert harness.real_of(DATA) == real
        new = {harness.real_of(replace(OPENED, source_port=1024 + n)) for n in range(64)}
        assert new == set(REALS) - {real}


def test_a_changed_mac_address_reaches_living_sessions(harness: Harness) -> None:
    harness.run(ACKED)
    real = harness.real_of(DATA)
    moved = bytes.fromhex("0200000099ee")
    harness.tables.apply(SERVICES, set(), {**harness.macs, real: moved})
    assert harness.run(DATA)[1] == DATA.to_real(real, mac=moved).frame()
    harness.tables.apply(SERVICES, set(), {k: v for k, v in harness.macs.items() if k != real})
    assert harness.run(DATA)[0] == "drop_no_neighbour"


def test_a_session_of_a_removed_listener_is_the_kernels(harness: Harness) -> None:
    harness.run(ACKED)
    harness.tables.apply(SERVICES[1:], set(), harness.macs)
    assert harness.run(DATA)[0] == "pass_no_listener"


def test_a_change_elsewhere_does_not_disturb_a_session(harness: Harness) -> None:
    harness.run(ACKED)
    harness.run(DATA)
    events = harness.events(
        lambda: (harness.tables.apply([*SERVICES, service(8443)], set(), harness.macs), harness.run(DATA))
    )
    assert events == {"tx_session": 1, "event_sync_staged": 1}


# Several listeners before one real's port


SHARED = (service(80), service(8000, name="other"), service(80, vip="10.0.0.101", name="third"))


@pytest.mark.parametrize("of", SHARED, ids=lambda of: of.listener)
def test_an_ambiguous_answer_goes_by_its_session_or_half_open_entry(harness: Harness, of: L4Service) -> None:
    harness.reset(SHARED)
    first = Packet(destination=of.vip, port=of.port)
    real = harness.real_of(first)
    answer = Packet(source=real, source_port=8080, destination=CLIENT, port=40000, flags=SYN | ACK)
    expected = answer.to_client(first.destination, first.port).frame()
    assert harness.run(answer) == ("tx_reply", expected)
    assert harness.run(replace(first, flags=ACK, sequence=1001))[0] == "tx_new_session"
    assert harness.run(answer) == ("tx_reply", expected)
    assert harness.run(replace(answer, port=40001))[0] == "drop_reply_ambiguous"


def test_one_client_port_at_two_listeners_is_told_apart_by_the_real(harness: Harness) -> None:
    harness.reset(SHARED)
    ports = range(40000, 40200)
    for first, second in ((SHARED[0], SHARED[1]), (SHARED[1], SHARED[0])):
        one = next(
            packet
            for packet in (Packet(flags=ACK, source_port=port) for port in ports)
            if maglev_real(packet, first) != maglev_real(replace(packet, port=second.port), second)
        )
        for of in (first, second):
            packet = replace(one, port=of.port)
            harness.run(packet)
            answer = Packet(
                source=maglev_real(packet, of).address,
                source_port=8080,
                destination=CLIENT,
                port=one.source_port,
                flags=ACK,
            )
            assert harness.run(answer) == ("tx_reply", answer.to_client(packet.destination, of.port).frame())


def test_dr_sessions_go_by_mac_only(harness: Harness) -> None:
    of = service(81, Mode.DR, Scheduler.RR)
    harness.reset([of])
    syn = Packet(port=81)
    _, after = harness.run(syn)
    mac = after[:6]
    assert mac in REAL_MACS.values()
    for packet in (Packet(port=81, flags=ACK, sequence=1001), Packet(port=81, flags=ACK, sequence=1001, payload=b"x")):
        assert harness.run(packet)[1] == packet.to_mac(mac).frame()
    assert state_of(harness, syn) == "established"
