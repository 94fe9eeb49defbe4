"""Desired state to map contents: only differences are written, indexes live as long as their listeners."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from core.model import Mode, Scheduler
from core.resolve import L4Service
from l4fast.errors import TablesError
from l4fast.loader import DataPlane
from l4fast.sessions import Wanted
from l4fast.tables import CLIENT_GATEWAY, LISTENER_COUNTERS, Tables
from tests.packets import (
    ACK,
    GATEWAY_MAC,
    NOW_S,
    REAL_MACS,
    REALS,
    UDP,
    VIP,
    Harness,
    Packet,
    service,
)

MACS = {**REAL_MACS, CLIENT_GATEWAY: GATEWAY_MAC}


pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def loaded() -> Iterator[Harness]:
    harness = Harness(sessions=512, half_open=64, listeners=16, members=64)
    yield harness
    harness.close()


@pytest.fixture
def harness(loaded: Harness) -> Harness:
    loaded.reset()
    loaded.tables.apply([], set(), loaded.macs)
    return loaded


MAPS = ("listeners", "vips", "members", "hop_numbers", "reverse", "rings", "sessions", "half_open")


class Writes:
    """Counts what a Tables object writes, map by map."""

    def __init__(self, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        four = tables.versions[4]
        for mirror in (
            four._listeners, four._vips, four._hops._hops, four._hops._by_address, four._owners,
            four.members._members, four.members._numbers,
        ):  # fmt: skip
            for method in ("put_many", "delete"):
                self._spy(mirror.map, method, monkeypatch)
        self._spy(four._rings._rings, "put_many", monkeypatch)

    def _spy(self, target: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
        call = getattr(target, method)

        def spied(*arguments: Any) -> Any:
            count = arguments[-1] if method.endswith("_many") else 1
            self.seen += [f"{method.removesuffix('_many')} {target.name}"] * count
            return call(*arguments)

        monkeypatch.setattr(target, method, spied)

    def during(self) -> list[str]:
        seen, self.seen = self.seen, []
        return seen


def test_applying_the_same_state_again_writes_nothing(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(harness.tables, monkeypatch)
    services = [service(80), service(53, Mode.DR, Scheduler.WRR, "udp")]
    for expected in (True, False, False):
        harness.tables.apply(services, set(), MACS)
        assert bool(writes.during()) is expected


def test_only_the_difference_is_written(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(harness.tables, monkeypatch)
    many = [service(port) for port in range(80, 88)]
    harness.tables.apply(many, set(), MACS)
    writes.during()

    steps: list[tuple[list[L4Service], set[tuple[str, int, str]], list[str]]] = [
        (many, {(REALS[0], 8080, "tcp")}, ["put member_numbers", "put rings", "put listeners"] * 8),
        # The rings before are dropped.
        (many, {(REALS[0], 8080, "udp")}, ["put member_numbers", "put rings", "put rings", "put listeners"] * 8),
        ([*many, service(90, Mode.DR)], set(),
         [*["put rings"] * 8, *["put members", "put member_numbers"] * 3, "put rings", "put vips", "put listeners"]),
        (many, set(), ["delete listeners", "put vips", *["delete member_numbers"] * 3]),
    ]  # fmt: skip
    for services, down, expected in steps:
        harness.tables.apply(services, down, MACS)
        assert sorted(writes.during()) == sorted(expected)


def test_nothing_is_left_of_what_was_removed(harness: Harness) -> None:
    harness.tables.apply([service(80), service(53, protocol="udp")], set(), MACS)
    harness.tables.apply([], set(), MACS)
    harness.tables.apply([], set(), MACS)
    for name in ("listeners", "vips", "member_numbers", "hop_numbers", "reverse"):
        assert not list(harness.plane.map(name).blocks(64)), name
    rings, template = harness.plane.map("rings"), harness.plane.map("ring_template")
    ids = [ring.value for n in range(3 * 16) if (ring := rings.get(rings.key(n)))]
    assert len(set(ids)) <= 1, "only the template is left"
    assert template.max_entries == 1


def test_a_listener_keeps_its_index_while_it_lives(harness: Harness) -> None:
    first, second = service(80), service(81)
    harness.tables.apply([first, second], set(), MACS)
    for _ in range(3):
        harness.run(Packet(port=81))
    harness.tables.apply([second, service(82)], set(), MACS)
    harness.tables.apply([replace(second, scheduler=Scheduler.RR)], set(), MACS)
    harness.run(Packet(port=81))
    assert harness.tables.listener_counters()["tcp-81"]["packets_in"] == 4


def test_a_new_listener_begins_at_zero(harness: Harness) -> None:
    for n in range(40):
        of = service(1000 + n)
        harness.tables.apply([of], set(), MACS)
        assert harness.tables.listener_counters() == {of.listener: dict.fromkeys(LISTENER_COUNTERS, 0)}
        harness.run(Packet(port=of.port))


def test_what_a_listener_has_counted_does_not_fall_when_a_server_goes(harness: Harness) -> None:
    def total() -> int:
        return harness.tables.listener_counters()["tcp-80"]["packets_in"]

    whole = service(80)
    left = replace(whole, reals=whole.reals[:1])
    harness.tables.apply([whole], set(), MACS)
    for n in range(60):
        harness.run(Packet(source_port=2000 + n))
    assert total() == 60
    assert sum(row["packets_in"] for row in harness.tables.server_counters()["tcp-80"].values()) == 60
    harness.tables.apply([left], set(), MACS)
    assert total() == 60
    assert harness.tables.server_counters()["tcp-80"].keys() == {"10.0.1.1:8080"}
    harness.tables.apply([whole], set(), MACS)
    assert total() == 60
    assert harness.tables.server_counters()["tcp-80"]["10.0.1.2:8080"]["packets_in"] == 0
    harness.tables.apply([replace(whole, reals=())], set(), MACS)
    assert total() == 60
    harness.tables.apply([], set(), MACS)
    harness.tables.apply([whole], set(), MACS)
    assert total() == 0


def test_the_vips_of_a_listener_are_counted_together(harness: Harness) -> None:
    other = "10.0.0.101"
    both = [service(80, name="web"), service(80, name="web", vip=other, real_port=8081)]
    harness.tables.apply(both, set(), MACS)
    harness.run(Packet())
    harness.run(Packet(destination=other))
    assert harness.tables.listener_counters()["web"]["packets_in"] == 2


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ([service(1000 + n) for n in range(17)], "17 listeners do not fit"),
        (
            [service(80, reals=[f"10.1.0.{n}" for n in range(65)], weights=[1] * 65)],
            "65 pairs of a listener and a server do not fit",
        ),
        (
            [service(1000 + n) for n in range(12)],
            r"12 nat listeners share the server 10.0.1.1:8080 \(10.0.0.100:1000, .*, 10.0.0.100:1007, …\); at most 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused_whole(harness: Harness, services: list[L4Service], message: str) -> None:
    harness.tables.apply([service(80, name="old")], set(), MACS)
    with pytest.raises(TablesError, match=message):
        harness.tables.apply(services, set(), MACS)
    assert set(harness.tables.listener_counters()) == {"old"}
    assert harness.run(Packet())[0] == "tx_syn"


def test_a_full_table_can_be_replaced_in_two_steps(harness: Harness) -> None:
    first = [service(1000 + n, Mode.DR, real_port=0) for n in range(10)]
    harness.tables.apply(first, set(), MACS)
    harness.tables.apply(first[:6], set(), MACS)
    harness.tables.apply([service(2000 + n, Mode.DR) for n in range(4)], set(), MACS)
    assert len(harness.tables.listener_counters()) == 4


def test_the_generation_rises_only_when_sessions_must_look_again(harness: Harness) -> None:
    def generation() -> int:
        return int(harness.plane.settings[4].generation)

    one, two = service(80), service(81)
    harness.tables.apply([one], set(), MACS)
    steps: list[tuple[list[L4Service], set[tuple[str, int, str]], dict[str, bytes], bool]] = [
        ([one], set(), MACS, False),
        ([one, two], set(), MACS, False),
        ([one, two], {(REALS[0], 8080, "tcp")}, MACS, False),
        ([one, two], set(), {**MACS, REALS[0]: b"\2\0\0\0\0\x55"}, False),
        ([one, two], set(), {**MACS, REALS[0]: b"\2\0\0\0\0\x55"}, False),
        ([replace(one, idle_timeout_s=30), two], set(), {**MACS, REALS[0]: b"\2\0\0\0\0\x55"}, True),
        ([two], set(), {**MACS, REALS[0]: b"\2\0\0\0\0\x55"}, True),
        ([two], set(), {CLIENT_GATEWAY: GATEWAY_MAC}, False),
        ([replace(two, reals=two.reals[1:])], set(), MACS, True),
        ([two], set(), MACS, True),
    ]
    for services, down, macs, rises in steps:
        before = generation()
        harness.tables.apply(services, down, macs)
        assert (generation() > before) is rises, (services, down, macs)


def test_every_vip_passes_the_filter(harness: Harness) -> None:
    """However many there are, and none that has gone is left in it."""
    vips = [f"10.{n}.{n * 7 % 256}.{n * 13 % 256}" for n in range(1, 17)]
    harness.tables.apply([service(80, vip=vip, real_port=8000 + n) for n, vip in enumerate(vips)], set(), MACS)
    for vip in vips:
        assert harness.run(Packet(destination=vip))[0] == "tx_syn"
    assert 14 <= sum(word.bit_count() for word in harness.plane.settings[4].vip_filter) <= 16
    harness.tables.apply([], set(), MACS)
    assert not any(harness.plane.settings[4].vip_filter)


def test_local_addresses_without_room_are_the_last_ones_of_their_interfaces(harness: Harness) -> None:
    first, second = [f"10.0.0.{n}" for n in range(1, 10)], ["10.0.1.1", "10.0.1.2"]
    six = [f"2001:db8::{n}" for n in range(1, 9)]
    try:
        assert harness.tables.set_local([*first, *six], second) == tuple(first[-3:])
        local = [bytes(address) for address in harness.plane.settings[4].local]
        assert local == [socket.inet_aton(a) for a in (first[0], second[0], first[1], second[1], *first[2:6])]
        assert [bytes(each) for each in harness.plane.settings[6].local] == [
            socket.inet_pton(socket.AF_INET6, address) for address in six
        ]
        assert harness.tables.set_local(first[:1]) == ()
        assert [bytes(address) for address in harness.plane.settings[4].local[1:]] == [bytes(4)] * 7
    finally:
        harness.reset()


def test_sessions_can_be_listed_by_client_and_up_to_a_limit(harness: Harness) -> None:
    harness.tables.apply([service(53, protocol="udp")], set(), MACS)
    for n in range(50):
        harness.run(Packet(protocol=UDP, port=53, source_port=2000 + n, source=f"198.51.100.{1 + n % 2}"))
    harness.tables.set_epoch(NOW_S + 7)
    assert len(harness.tables.sessions()) == 50
    assert len(harness.tables.sessions(limit=7)) == 7
    of_one = harness.tables.sessions(Wanted(client="198.51.100.1"))
    assert {view.client.split(":")[0] for view in of_one} == {"198.51.100.1"}
    assert len(of_one) == 25
    view = of_one[0]
    assert (view.vip, view.protocol, view.state, view.packets, view.bytes) == (f"{VIP}:53", "udp", "udp", 1, 28)
    assert view.real in {f"{address}:8080" for address in REALS}
    assert (view.idle_s, view.synced) == (7, False)


def test_sessions_are_found_and_killed_by_their_ends_and_state(harness: Harness) -> None:
    harness.tables.apply(
        [service(53, protocol="udp"), service(80, scheduler=Scheduler.WRR, real_port=9000)], set(), MACS
    )
    for n in range(20):
        harness.run(Packet(protocol=UDP, port=53, source_port=2000 + n))
        for packet in (Packet(source_port=2000 + n), Packet(flags=ACK, sequence=1001, source_port=2000 + n)):
            harness.run(packet)
    everything = harness.tables.sessions()
    real = f"{REALS[1]}:9000"
    for wanted, parts in (
        (Wanted(), {}),
        (Wanted(client="198.51.100.7:2003"), {"client": "198.51.100.7:2003"}),
        (Wanted(client="198.51.100.8"), {"client": "198.51.100.8:1"}),
        (Wanted(vip=f"{VIP}:53"), {"vip": f"{VIP}:53"}),
        (Wanted(state="established"), {"state": "established"}),
        (Wanted(real=real, state="established", vip=VIP), {"real": real}),
        (Wanted(real=real, state="udp"), {"real": real, "state": "udp"}),
    ):
        expected = [each for each in everything if all(getattr(each, name) == part for name, part in parts.items())]
        assert harness.tables.sessions(wanted) == expected, wanted
    assert harness.kill(Wanted(real=real)) == sum(each.real == real for each in everything) > 0
    assert [each for each in everything if each.real != real] == harness.tables.sessions()
    assert harness.kill(Wanted(state="udp")) == 20
    assert harness.kill(Wanted(state="udp")) == 0


def test_unproven_sessions_get_half_the_table() -> None:
    plane = DataPlane.load(sessions=4000, half_open=16)
    try:
        Tables(plane)
        assert plane.settings[4].unproven_per_cpu_s == 200 // plane.cpus
    finally:
        plane.close()


def test_a_large_group_changes_under_traffic_without_a_stray_packet(harness: Harness) -> None:
    """Rings are replaced while packets pass: each finds a real of the old or the new state, and none falls through."""
    reals = [f"10.1.0.{n}" for n in range(30)]
    macs = {address: b"\2\0\0\1\0" + bytes([n]) for n, address in enumerate(reals)}
    for n in range(60):
        members = reals[n % 20 : n % 20 + 10]
        of = service(
            80, scheduler=Scheduler.MAGLEV if n % 2 else Scheduler.WRR, reals=members, weights=[1 + n % 5] * 10
        )
        harness.tables.apply([of], set(), macs)
        for client in range(5):
            reason, after = harness.run(Packet(source=f"203.0.113.{client + 1}", source_port=1024 + n, flags=ACK | 1))
            assert reason == "tx_untracked"
            assert after[:6] in {macs[member] for member in members}


def test_sessions_of_both_versions_and_more_than_a_block_are_found(harness: Harness) -> None:
    many = [service(53, protocol="udp", real_port=5353), service(54, protocol="udp", real_port=5454, version=6)]
    harness.reset(many)
    for n in range(200):
        harness.plane.run(Packet(protocol=UDP, port=53, source_port=2000 + n).frame())
        harness.plane.run(Packet(protocol=UDP, port=54, source_port=2000 + n).as_version(6).frame())
    found = harness.tables.sessions()
    assert len(found) == len({view.client for view in found}) == 400
    assert not any(view.source for view in found), "of fullnat alone"
    assert harness.kill(Wanted(state="udp")) == 400
    assert harness.tables.sessions() == []
