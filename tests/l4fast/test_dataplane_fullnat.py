"""fullnat: both ends exchanged, ports that never clash, and what becomes of a flow whose port is gone."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from dataclasses import replace

import pytest

from core.model import Mode, Scheduler
from l4fast.errors import TablesError
from l4fast.expiry import expire
from l4fast.sessions import STATES, Wanted
from l4fast.tables import CLIENT_GATEWAY
from tests.l4fast.told import Page
from tests.packets import (
    ACK,
    CLIENT,
    FIN,
    GATEWAY_MAC,
    NOW_S,
    REALS,
    RST,
    SYN,
    UDP,
    VIP,
    Case,
    End,
    Harness,
    Packet,
    ends,
    maglev_real,
    service,
)

pytestmark = pytest.mark.root

POOL, PEERS_POOL = ("10.0.9.1", "10.0.9.2"), ("10.0.9.129",)
TCP_SERVICE = service(80, Mode.FULLNAT)
WRR_SERVICE = service(81, Mode.FULLNAT, Scheduler.WRR, real_port=8081)
DNS = service(53, Mode.FULLNAT, protocol="udp", real_port=5353)
ONE = service(54, Mode.FULLNAT, protocol="udp", real_port=5454, reals=REALS[:1])
SERVICES = (TCP_SERVICE, WRR_SERVICE, DNS, ONE)
OPENED = Packet()
ACKED = Packet(flags=ACK, sequence=1001)
DATA = replace(ACKED, payload=b"GET /")
QUERY = Packet(protocol=UDP, port=53, payload=b"question")


def start(harness: Harness) -> Harness:
    harness.reset(SERVICES, POOL, PEERS_POOL)
    return harness


@pytest.fixture
def harness(roomy: Harness) -> Harness:
    return start(roomy)


def forwarded(harness: Harness, packet: Packet, verdict: str) -> tuple[End, End]:
    """Source and destination that it was given; all other bytes are as they have to be."""
    reason, after = harness.run(packet)
    assert reason == verdict
    source, real = ends(after)
    assert after.hex(" ") == packet.translated(source, real).frame().hex(" ")
    assert source[0] in POOL
    assert 1024 <= source[1] <= 65535
    return source, real


def answer(source: End, real: End, **fields: object) -> Packet:
    """From the real to the pool."""
    packet = Packet(source=real[0], source_port=real[1], destination=source[0], port=source[1], flags=SYN | ACK)
    return replace(packet, **fields)  # type: ignore[arg-type]


def check_answer(harness: Harness, packet: Packet, client: End = (CLIENT, 40000), vip: End = (VIP, 80)) -> None:
    harness.check(Case("an answer", packet.frame(), "tx_reply", packet.translated(vip, client).frame()))


def entries(harness: Harness, name: str = "sessions") -> int:
    return sum(count for _, _, count in harness.plane.map(name).blocks(1024))


def state_of(harness: Harness, packet: Packet) -> str | None:
    session = harness.session(packet)
    return None if session is None else STATES[session["state"]]


def establish(harness: Harness, **fields: object) -> tuple[End, End]:
    opened, acked = replace(OPENED, **fields), replace(ACKED, **fields)  # type: ignore[arg-type]
    both = forwarded(harness, opened, "tx_syn")
    assert forwarded(harness, acked, "tx_new_session") == both
    return both


def test_a_connection(harness: Harness) -> None:
    source, real = forwarded(harness, OPENED, "tx_syn")
    assert real == (maglev_real(OPENED, TCP_SERVICE).address, 8080)
    check_answer(harness, answer(source, real))
    assert entries(harness) == 0
    assert forwarded(harness, ACKED, "tx_new_session") == (source, real)
    assert (entries(harness), entries(harness, "half_open_fullnat"), entries(harness, "half_open_answers")) == (2, 0, 0)
    assert state_of(harness, ACKED) == "established"
    for n in range(4):
        assert forwarded(harness, replace(DATA, payload=b"x" * n), "tx_session") == (source, real)
        check_answer(harness, answer(source, real, flags=ACK, payload=b"y" * n))
    counters = harness.tables.listener_counters()["tcp-80"]
    assert counters["sessions_made"] == 1
    assert (counters["packets_in"], counters["packets_out"]) == (6, 5)


def test_datagrams(harness: Harness) -> None:
    both = forwarded(harness, QUERY, "tx_new_session")
    assert both[1] == (maglev_real(QUERY, DNS).address, 5353)
    assert forwarded(harness, QUERY, "tx_session") == both
    check_answer(harness, answer(*both, protocol=UDP, payload=b"answer"), vip=(VIP, 53))
    unsummed = replace(QUERY, l4_checksum=0)
    assert forwarded(harness, unsummed, "tx_session") == both
    check_answer(harness, answer(*both, protocol=UDP, l4_checksum=0), vip=(VIP, 53))
    assert state_of(harness, QUERY) == "udp"


def test_the_scheduler_chooses(harness: Harness) -> None:
    chosen = [forwarded(harness, replace(OPENED, port=81, source_port=2000 + n), "tx_syn")[1] for n in range(6)]
    assert sorted(chosen) == sorted((address, 8081) for address in REALS * 2)


def test_least_connections_are_counted(harness: Harness) -> None:
    """Each once, though a session has two entries: made by TCP and UDP, ended from either side, killed, expired."""
    lc, dns = replace(TCP_SERVICE, scheduler=Scheduler.LC), replace(DNS, scheduler=Scheduler.WLC)
    harness.tables.apply([lc, dns], set(), harness.macs)

    def counts(listener: str) -> list[int]:
        return sorted(harness.tables.connections()[listener].values())

    def opened(port: int) -> tuple[End, End]:
        return establish(harness, source_port=port)

    both = [opened(2000 + n) for n in range(6)]
    for n in range(6):
        forwarded(harness, replace(QUERY, source_port=2000 + n), "tx_new_session")
    assert counts("tcp-80") == counts("udp-53") == [2, 2, 2]
    source, real = both[0]
    harness.run(answer(source, real, flags=ACK | FIN))
    harness.run(replace(ACKED, source_port=2000, flags=RST))
    assert counts("tcp-80") == [1, 2, 2]
    assert opened(3000)[1] == real
    assert harness.kill(Wanted(client=f"{CLIENT}:3000")) == 1
    assert counts("tcp-80") == [1, 2, 2]
    assert opened(2001 + 2000)[1] == real
    expire(harness.tables, NOW_S + 100_000, 1 << 20)
    assert counts("tcp-80") == counts("udp-53") == [0, 0, 0]


def test_syns_on_their_way_count_for_least_connections(harness: Harness) -> None:
    """Else all that come before the first handshake has ended would go to one server."""
    harness.tables.apply([replace(TCP_SERVICE, scheduler=Scheduler.LC)], set(), harness.macs)
    busy = establish(harness, source_port=2000)[1]
    chosen = Counter(forwarded(harness, replace(OPENED, source_port=2001 + n), "tx_syn")[1] for n in range(8))
    assert sorted(chosen.values()) == [2, 3, 3]
    assert chosen[busy] == 2


def test_a_client_keeps_its_server(harness: Harness) -> None:
    kept = (replace(WRR_SERVICE, persistence_timeout_s=60), replace(DNS, persistence_timeout_s=60))
    harness.tables.apply(kept, set(), harness.macs)
    for first, verdict in ((replace(OPENED, port=81), "tx_syn"), (QUERY, "tx_new_session")):
        flows = [forwarded(harness, replace(first, source_port=2000 + n), verdict) for n in range(6)]
        assert len({real for _, real in flows}) == 1
        assert len({source for source, _ in flows}) == 6


def test_a_repeated_syn_keeps_its_port_and_a_new_one_frees_it(harness: Harness) -> None:
    first = {forwarded(harness, OPENED, "tx_syn") for _ in range(4)}
    assert len(first) == 1
    again = {forwarded(harness, replace(OPENED, sequence=n), "tx_syn") for n in range(2000, 2010)}
    assert len(again) == 10
    assert entries(harness, "half_open_answers") == 1


@pytest.mark.parametrize("sequence", [1000, 1001 + 0x10000])
def test_the_handshake_must_be_in_sequence(harness: Harness, sequence: int) -> None:
    both = forwarded(harness, OPENED, "tx_syn")
    assert forwarded(harness, replace(ACKED, sequence=sequence), "tx_untracked") == both
    assert entries(harness) == 0


def test_what_ends_a_half_open_flow_is_forwarded(harness: Harness) -> None:
    both = forwarded(harness, OPENED, "tx_syn")
    assert forwarded(harness, replace(ACKED, flags=RST), "tx_untracked") == both
    check_answer(harness, answer(*both, flags=RST | ACK))
    assert entries(harness) == 0


STRAY = answer((POOL[0], 5000), (REALS[0], 8080))
DROPPED = [
    ("an ACK of an unknown flow", ACKED, "drop_no_session"),
    ("a FIN of an unknown flow", replace(ACKED, flags=ACK | FIN), "drop_no_session"),
    ("an answer to nobody", STRAY, "drop_no_session"),
    ("an answer to nobody, at a peer's address", replace(STRAY, destination=PEERS_POOL[0]), "drop_no_session"),
    ("a datagram to nobody", replace(STRAY, protocol=UDP), "drop_no_session"),
    ("an answer to an address of no pool", replace(STRAY, destination="10.0.9.3", source_port=9), "pass_not_for_vip"),
    ("a first fragment to the pool", replace(STRAY, fragment=0x2000, payload=b"data"), "drop_no_session"),
    ("a later fragment to the pool", replace(STRAY, fragment=0x0004), "drop_fragment"),
    ("ICMP to the pool", replace(STRAY, protocol=1, payload=bytes(8)), "pass_icmp"),
    ("TTL 1", replace(OPENED, ttl=1), "drop_ttl"),
]


@pytest.mark.parametrize(("packet", "verdict"), [pytest.param(*row[1:], id=row[0]) for row in DROPPED])
def test_not_forwarded(harness: Harness, packet: Packet, verdict: str) -> None:
    harness.check(Case("", packet.frame(), verdict))


def test_ttl_1_of_a_known_flow_and_its_answer(harness: Harness) -> None:
    both = establish(harness)
    for packet in (replace(DATA, ttl=1), answer(*both, flags=ACK, ttl=1)):
        harness.check(Case("", packet.frame(), "drop_ttl"))


@pytest.mark.parametrize(("flags", "state"), [(ACK, "established"), (ACK | FIN, "fin-wait"), (RST, "closed")])
def test_the_real_moves_the_state(harness: Harness, flags: int, state: str) -> None:
    both = establish(harness)
    check_answer(harness, answer(*both, flags=flags))
    assert state_of(harness, ACKED) == state


def test_answers_renew_a_udp_session(harness: Harness) -> None:
    both = forwarded(harness, QUERY, "tx_new_session")
    harness.tables.set_epoch(NOW_S + 250)
    check_answer(harness, answer(*both, protocol=UDP), vip=(VIP, 53))
    session = harness.session(QUERY)
    assert session
    assert session["last_s"] == NOW_S + 250


def test_a_new_connection_on_old_ports_takes_both_entries_away(harness: Harness) -> None:
    both = establish(harness)
    harness.run(replace(ACKED, flags=RST))
    second = forwarded(harness, replace(OPENED, sequence=77), "tx_syn")
    assert second[0] != both[0]
    assert entries(harness) == 0
    harness.check(Case("", answer(*both, flags=ACK).frame(), "drop_no_session"))
    check_answer(harness, answer(*second))


# Ports


def test_a_killed_session_leaves_no_entry_of_its_answers(harness: Harness) -> None:
    source, _ = establish(harness)
    assert entries(harness) == 2
    (found,) = harness.tables.sessions()
    assert found.source == f"{source[0]}:{source[1]}"
    assert harness.kill(Wanted(client=CLIENT)) == 1
    assert entries(harness) == 0


def test_without_a_pool_there_is_no_port(harness: Harness) -> None:
    harness.tables.set_pools((), PEERS_POOL)
    harness.tables.apply(SERVICES, set(), harness.macs)
    for packet in (OPENED, QUERY):
        assert harness.events(lambda packet=packet: harness.run(packet)) == {"drop_no_port": 1}  # type: ignore[misc]


def test_no_two_flows_share_a_port_towards_a_real(harness: Harness) -> None:
    taken = set()
    for n in range(4000):
        packet = replace(QUERY, port=54, source=f"203.0.{n >> 8}.{n & 255}", flags=0)
        taken.add(forwarded(harness, packet, "tx_new_session"))
    assert len(taken) == 4000
    assert {source[0] for source, _ in taken} == set(POOL)
    assert entries(harness) == 8000


def occupy(harness: Harness, addresses: tuple[str, ...], ports: range, protocol: int, real: End) -> None:
    """Enters answers of other sessions for all these ports."""
    table = harness.tables.versions[4].session_map
    keys = b"".join(
        socket.inet_aton(real[0]) + socket.inet_aton(address) + struct.pack("!HHBxxx", real[1], port, protocol)
        for address in addresses
        for port in ports
    )
    count = len(addresses) * len(ports)
    assert table.put_many(keys, bytes(table.value(mode=3, state=5)) * count, count) == count


@pytest.mark.parametrize(("packet", "real_port"), [(OPENED, 8080), (replace(QUERY, port=54), 5454)])
def test_when_every_port_is_in_use_new_flows_are_dropped_by_name(
    harness: Harness, packet: Packet, real_port: int
) -> None:
    of = replace(TCP_SERVICE, reals=TCP_SERVICE.reals[:1])
    harness.tables.set_pools(POOL[:1], PEERS_POOL)
    harness.tables.apply([of, ONE], set(), harness.macs)
    occupy(harness, POOL[:1], range(1024, 65536), packet.protocol, (REALS[0], real_port))
    assert harness.events(lambda: harness.run(packet)) == {"drop_no_port": 1, "event_no_port": 1}
    assert harness.session(packet) is None
    assert entries(harness, "half_open_answers") == 0
    assert entries(harness) == 64512


def test_the_last_ports_are_found_and_nobody_elses(harness: Harness) -> None:
    harness.tables.set_pools(POOL[:1], PEERS_POOL)
    harness.tables.apply(SERVICES, set(), harness.macs)
    occupy(harness, POOL[:1], range(1024, 52635), UDP, (REALS[0], 5454))  # four of five
    got = set()
    dropped = 0
    for n in range(1000):
        reason, after = harness.run(replace(QUERY, port=54, source_port=2000 + n))
        if reason == "tx_new_session":
            got.add(ends(after)[0][1])
        else:
            dropped += reason == "drop_no_port"
    assert dropped < 20
    assert len(got) == 1000 - dropped
    assert min(got) >= 52635


def test_a_half_open_flow_whose_port_was_taken_is_not_mixed_up(harness: Harness) -> None:
    source, _ = forwarded(harness, OPENED, "tx_syn")
    owners = harness.plane.map("half_open_answers")
    ((key, _, _),) = list(owners.blocks(16))
    other = owners.value(client=((1,),), vip=((2,),), client_port=3, vip_port=4, protocol=6)
    owners.put(owners.key.from_buffer_copy(key), other)
    for packet in (ACKED, replace(ACKED, flags=ACK | FIN)):
        harness.check(Case("", packet.frame(), "drop_no_session"))
    assert forwarded(harness, OPENED, "tx_syn")[0] != source
    assert bytes(owners.get(owners.key.from_buffer_copy(key))) == bytes(other)


def test_a_flood_of_syns_takes_ports_from_half_open_flows_only(harness: Harness) -> None:
    """Every port is half open or a session's; the newcomer gets a half-open flow's."""
    flood = Harness(sessions=1 << 17, half_open=1 << 17)
    try:
        start(flood)
        flood.tables.set_pools(POOL[:1], ())
        flood.tables.apply([replace(TCP_SERVICE, reals=TCP_SERVICE.reals[:1])], set(), flood.macs)
        occupy(flood, POOL[:1], range(1024, 4096), 6, (REALS[0], 8080))
        owners = flood.plane.map("half_open_answers")
        keys = b"".join(
            socket.inet_aton(REALS[0]) + socket.inet_aton(POOL[0]) + struct.pack("!HHBxxx", 8080, port, 6)
            for port in range(4096, 65536)
        )
        owners.put_many(keys, bytes(owners.value(client=((9,),))) * 61440, 61440)
        got = [forwarded(flood, replace(OPENED, source_port=2000 + n), "tx_syn")[0] for n in range(50)]
        assert all(port >= 4096 for _, port in got)
        assert entries(flood) == 3072
    finally:
        flood.close()


def test_a_full_table(harness: Harness) -> None:
    """Connections go on half open; datagrams have nowhere to be remembered."""
    small = Harness(sessions=1, half_open=1024)
    try:
        start(small)
        assert small.events(lambda: small.run(QUERY)) == {"drop_no_port": 1, "event_table_full": 1}
        assert entries(small) == 0
        both = forwarded(small, OPENED, "tx_syn")
        events = small.events(lambda: [forwarded(small, DATA, "tx_untracked") for _ in range(3)])
        assert events == {"tx_untracked": 3, "event_table_full": 3}
        check_answer(small, answer(*both, flags=ACK))
        assert entries(small) == 0
    finally:
        small.close()


# What is remembered of this node, and what the peers are told


def test_a_new_gateway_reaches_living_answers(harness: Harness) -> None:
    both = establish(harness)
    packet = answer(*both, flags=ACK)
    moved = bytes.fromhex("0200000000fd")
    for macs, reason in (({**harness.macs, CLIENT_GATEWAY: moved}, "tx_reply"), (dict(harness.macs), "tx_reply")):
        harness.tables.apply(SERVICES, set(), macs)
        expected = packet.translated((VIP, 80), (CLIENT, 40000), mac=macs[CLIENT_GATEWAY]).frame()
        harness.check(Case("", packet.frame(), reason, expected))
    del harness.macs[CLIENT_GATEWAY]
    harness.tables.apply(SERVICES, set(), harness.macs)
    harness.check(Case("", packet.frame(), "drop_no_gateway"))


def test_a_peer_takes_the_flow_over(harness: Harness) -> None:
    pages: list[Page] = []
    other = Harness(sessions=256, half_open=16)
    try:
        both = {port: establish(harness, source_port=port) for port in range(2000, 2010)}
        other.reset()
        other.tables.set_pools(PEERS_POOL, POOL)
        other.tables.apply([service(443, name="first"), *SERVICES], set(), {**other.macs, CLIENT_GATEWAY: GATEWAY_MAC})
        harness.tables.on_sync_page(lambda _, *page: pages.append(page))
        harness.tables.flush_sync()
        harness.tables.drain_ring(4)
        pages.clear()  # what earlier tests had to tell
        for port in both:
            for _ in range(2):
                forwarded(harness, replace(DATA, source_port=port), "tx_session")
        harness.tables.flush_sync()
        harness.tables.drain_ring(4)
        for page in pages:
            assert other.tables.hear_sessions(4, *page).new == page[1]
        assert sum(count for _, count, _ in pages) == 20
        for port, (source, real) in both.items():
            packet = replace(DATA, source_port=port)
            assert other.run(packet) == ("tx_session", packet.translated(source, real).frame())
            check_answer(other, answer(source, real, flags=ACK), client=(CLIENT, port))
        assert other.tables.counters()["event_warmed"] == 20
        counters = other.tables.listener_counters()["tcp-80"]
        assert (counters["packets_in"], counters["packets_out"]) == (10, 10)
    finally:
        other.close()


def test_a_living_session_is_told_with_its_answers(harness: Harness) -> None:
    both = establish(harness)
    for _ in range(5):
        check_answer(harness, answer(*both, flags=ACK))
    assert harness.events(lambda: [harness.run(DATA) for _ in range(5)])["event_sync_staged"] == 2
    harness.tables.set_epoch(NOW_S + 20)
    check_answer(harness, answer(*both, flags=ACK))
    events = harness.events(lambda: (harness.run(DATA), harness.run(DATA)))
    assert events == {"tx_session": 2, "event_sync_staged": 2}
    fin = harness.events(lambda: harness.run(answer(*both, flags=ACK | FIN)))
    assert fin == {"tx_reply": 1, "event_sync_staged": 2}


def test_sessions_are_listed_once_with_whom_the_real_sees(harness: Harness) -> None:
    source, real = establish(harness)
    (view,) = harness.tables.sessions()
    assert (view.client, view.vip) == (f"{CLIENT}:40000", f"{VIP}:80")
    assert (view.source, view.real) == (f"{source[0]}:{source[1]}", f"{real[0]}:{real[1]}")


# Ageing

WHOLE = 1 << 20


def test_a_session_takes_its_answers_along(harness: Harness) -> None:
    establish(harness)
    assert expire(harness.tables, NOW_S + 899, WHOLE) == 0
    assert expire(harness.tables, NOW_S + 900, WHOLE) == 2
    assert entries(harness) == 0


def test_a_removed_listener_ends_both(harness: Harness) -> None:
    establish(harness)
    harness.tables.apply(SERVICES[1:], set(), harness.macs)
    assert expire(harness.tables, NOW_S, WHOLE) == 2


def test_idle_answers_of_a_living_session_stay(harness: Harness) -> None:
    both = establish(harness)
    harness.tables.set_epoch(NOW_S + 899)
    harness.run(DATA)
    assert expire(harness.tables, NOW_S + 1000, WHOLE) == 0
    check_answer(harness, answer(*both, flags=ACK))


def test_answers_of_no_session_go_when_idle(harness: Harness) -> None:
    establish(harness)
    key = next(
        key
        for keys, values, count in harness.tables.versions[4].session_map.blocks(16)
        for key, value in zip(
            (harness.tables.versions[4].session_map.key * count).from_buffer_copy(keys),
            (harness.tables.versions[4].session_map.value * count).from_buffer_copy(values),
            strict=True,
        )
        if STATES[value.state] == "established"
    )
    harness.tables.versions[4].session_map.delete(key)
    assert expire(harness.tables, NOW_S + 899, WHOLE) == 0
    assert expire(harness.tables, NOW_S + 900, WHOLE) == 1


def test_too_many_addresses_are_refused(harness: Harness) -> None:
    with pytest.raises(TablesError, match="17 source addresses; at most 16"):
        harness.tables.set_pools([f"10.0.9.{n}" for n in range(17)], ())
    with pytest.raises(TablesError, match="1100 source addresses of all nodes"):
        harness.tables.set_pools((), [f"10.1.{n // 100}.{n % 100}" for n in range(1100)])
