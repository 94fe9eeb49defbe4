"""Persistence: a client keeps its server from one flow to the next, for a time, while the server takes new flows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.model import Mode, Scheduler
from core.resolve import L4Service
from l4fast.errors import TablesError
from l4fast.sessions import STATES
from tests.packets import ACK, FIN, NOW_S, REALS, SYN, UDP, Harness, Packet, maglev_real, service

pytestmark = pytest.mark.root

KEPT_S = 60
WRR = service(80, scheduler=Scheduler.WRR, persistence=(KEPT_S, 32))
WIDE = service(81, scheduler=Scheduler.RR, real_port=8081, persistence=(KEPT_S, 20))
DNS = service(53, protocol="udp", scheduler=Scheduler.RR, real_port=5353, persistence=(KEPT_S, 32))
FREE = service(82, scheduler=Scheduler.RR, real_port=8082)
SERVICES = (WRR, WIDE, DNS, FREE)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Harness]:
    harness = Harness(sessions=256, half_open=4096, clients=256, members=32)
    yield harness
    harness.close()


@pytest.fixture
def harness(loaded: Harness) -> Harness:
    loaded.reset(SERVICES)
    return loaded


def flows(harness: Harness, count: int, start: int = 2000, **fields: object) -> list[str]:
    """Where so many new flows go, one after the other."""
    first = Packet(**fields)  # type: ignore[arg-type]
    return [harness.real_of(replace(first, source_port=start + n)) for n in range(count)]


@pytest.mark.parametrize("scheduler", Scheduler)
def test_a_client_keeps_its_server_under_every_scheduler(harness: Harness, scheduler: Scheduler) -> None:
    of = service(80, scheduler=scheduler, persistence=(KEPT_S, 32))
    harness.reset([of])
    chosen = set()
    for client in range(1, 31):
        (real,) = set(flows(harness, 4, source=f"203.0.{client * 7}.{client}"))
        chosen.add(real)
    assert chosen == set(REALS)


def test_the_first_choice_is_the_schedulers(harness: Harness) -> None:
    of = service(80, persistence=(KEPT_S, 32))
    harness.reset([of])
    for n in range(20):
        packet = Packet(source=f"203.0.113.{n + 1}", source_port=2000 + n)
        assert harness.real_of(packet) == maglev_real(packet, of).address


def test_without_it_nothing_is_kept(harness: Harness) -> None:
    assert len(set(flows(harness, 3, port=82))) == 3
    assert not list(harness.plane.map("clients").blocks(64))


def test_datagrams_too(harness: Harness) -> None:
    assert len(set(flows(harness, 9, port=53, protocol=UDP))) == 1


def test_to_the_second_after_the_last_new_flow(harness: Harness) -> None:
    (real,) = flows(harness, 1)
    for later in (KEPT_S - 1, 2 * KEPT_S - 2):
        harness.tables.set_epoch(NOW_S + later)
        assert flows(harness, 1, start=3000 + later) == [real]
    harness.tables.set_epoch(NOW_S + 3 * KEPT_S - 2)
    assert flows(harness, 1, start=9000) != [real], "the turn was another's"


def test_packets_of_a_session_do_not_renew_it(harness: Harness) -> None:
    (real,) = flows(harness, 1)
    for later in range(0, KEPT_S + 10, 10):
        harness.tables.set_epoch(NOW_S + later)
        harness.run(Packet(source_port=2000, flags=ACK, sequence=1001))
    assert flows(harness, 1, start=5000) != [real]


def test_a_prefix_is_one_client(harness: Harness) -> None:
    inside = {real for n in (0, 1, 15) for real in flows(harness, 2, source=f"203.0.{112 + n}.9", port=81)}
    assert len(inside) == 1
    assert set(flows(harness, 1, source="203.0.128.9", port=81)) != inside


def test_listeners_keep_apart(harness: Harness) -> None:
    (first,) = set(flows(harness, 2))
    harness.real_of(Packet(source="203.0.113.200", port=81))  # so that the turns differ
    (second,) = set(flows(harness, 2, port=81))
    assert first != second


def test_listeners_that_share_their_servers_keep_apart_too(harness: Harness) -> None:
    one, other = (service(port, Mode.DR, Scheduler.RR, name=f"{port}", persistence=(KEPT_S, 32)) for port in (90, 91))
    other = replace(other, reals=one.reals)
    harness.reset([one, other])
    harness.run(Packet(port=90))
    harness.run(Packet(source="203.0.113.200", port=91))  # so that the turns differ
    (second,) = {harness.run(Packet(source_port=3000 + n, port=91))[1][:6] for n in range(2)}
    assert second != harness.run(Packet(source_port=4000, port=90))[1][:6]


@pytest.mark.parametrize("how", ["down", "weight 0", "removed"])
def test_a_server_that_takes_nothing_new_is_kept_by_nobody(harness: Harness, how: str) -> None:
    (real,) = set(flows(harness, 2))
    index = REALS.index(real)
    gone: dict[str, tuple[L4Service, set[tuple[str, int, str]]]] = {
        "down": (WRR, {(real, 8080, "tcp")}),
        "weight 0": (
            replace(WRR, reals=tuple(replace(r, weight=0 if n == index else 100) for n, r in enumerate(WRR.reals))),
            set(),
        ),
        "removed": (replace(WRR, reals=tuple(r for n, r in enumerate(WRR.reals) if n != index)), set()),
    }
    of, down = gone[how]
    harness.tables.apply([of, *SERVICES[1:]], down, harness.macs)
    (other,) = set(flows(harness, 6, start=3000))
    assert other != real
    harness.tables.apply(SERVICES, set(), harness.macs)
    assert set(flows(harness, 6, start=4000)) == {other}, "who has moved stays"


def test_the_handshake_makes_a_session_where_the_client_is_kept(harness: Harness) -> None:
    """A hash would find another server at the next packet: the SYN is remembered, and no ACK alone makes a session."""
    of = service(80, persistence=(KEPT_S, 32))
    harness.reset([of])
    kept = harness.real_of(Packet(source_port=2000))
    packet = next(p for n in range(100) if maglev_real(p := Packet(source_port=3000 + n), of).address != kept)
    assert harness.real_of(packet) == kept
    assert harness.real_of(replace(packet, flags=ACK, sequence=1001)) == kept
    session = harness.session(packet)
    assert session
    assert STATES[session["state"]] == "established"
    unknown = replace(packet, source_port=packet.source_port + 1, flags=ACK)
    assert harness.run(unknown)[0] == "tx_untracked"
    assert harness.real_of(unknown) == kept


def test_a_lone_fin_neither_keeps_nor_renews(harness: Harness) -> None:
    harness.run(Packet(flags=ACK | FIN))
    assert not list(harness.plane.map("clients").blocks(64))


def test_connections_kept_are_counted(harness: Harness) -> None:
    of = service(80, scheduler=Scheduler.LC, persistence=(KEPT_S, 32))
    harness.reset([of])
    for n in range(5):
        for flags, sequence in ((SYN, 1000), (ACK, 1001)):
            harness.run(Packet(source_port=2000 + n, flags=flags, sequence=sequence))
    assert sorted(harness.tables.connections()["tcp-80"].values()) == [0, 0, 5]


def test_more_clients_than_there_is_room_for(harness: Harness) -> None:
    for n in range(2000):
        harness.plane.run(Packet(source=f"203.{n >> 8}.{n & 255}.1").frame())
    assert sum(count for _, _, count in harness.plane.map("clients").blocks(64)) <= 256
    assert len(set(flows(harness, 3, source="203.7.200.1"))) == 1


def test_servers_that_do_not_fit_are_refused(harness: Harness) -> None:
    many = [service(1000 + n, persistence=(KEPT_S, 32)) for n in range(11)]
    with pytest.raises(TablesError, match="33 pairs of a listener and a server do not fit the tables"):
        harness.tables.apply(many, set(), harness.macs)
