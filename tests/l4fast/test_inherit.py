"""An agent goes on from the maps of one before: what it forwards, counts and remembers does not change by that.

`ancestor` is the agent before, with listeners of every kind and flows through them; `heir` has loaded its own programs
over the same maps, as after a kill: nothing was handed over but descriptors, contract and seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from core.limits import Limits
from core.model import Acl, Mode, Scheduler
from core.prefixes import Prefixes
from core.resolve import Access, L4Service
from l4fast.expiry import expire
from l4fast.loader import DataPlane
from l4fast.members import NOBODY
from l4fast.pins import Pins
from l4fast.sessions import Wanted
from l4fast.tables import Tables
from tests.packets import ACK, INTERFACE, NOW_S, REALS, UDP, VIP, Harness, Packet, service, six

pytestmark = pytest.mark.root

SIZES = {"sessions": 1024, "half_open": 256, "listeners": 64, "members": 256, "access_lists": 4}
POOL = ("10.0.0.200", six("10.0.0.200"))
STRANGER = "198.51.100.200"


def of(port: int, *arguments: object, version: int, **changed: object) -> L4Service:
    return service(port, *arguments, version=version, **changed)  # type: ignore[arg-type]


def kinds(version: int) -> list[L4Service]:
    denied = Access(Acl.BLACK, Prefixes.of([STRANGER if version == 4 else six(STRANGER)]))
    return [
        of(80, version=version),
        of(81, Mode.DR, Scheduler.WRR, version=version),
        of(82, Mode.NAT, Scheduler.LC, real_port=8082, version=version),
        of(83, Mode.FULLNAT, real_port=8083, version=version),
        of(84, Mode.TUNNEL, Scheduler.RR, version=version),
        of(85, Mode.NAT, Scheduler.WRR, "udp", real_port=8085, version=version),
        replace(of(86, Mode.NAT, real_port=8086, version=version), limits=Limits(connections=3)),
        of(87, Mode.NAT, Scheduler.RR, real_port=8087, persistence=(300, 32), version=version),
        of(88, Mode.NAT, real_port=8088, access=denied, version=version),
        of(89, Mode.NAT, real_port=8089, weights=(100, 0, 100), version=version),
    ]


SERVICES = [*kinds(4), *kinds(6)]
PORTS = [(service.port, service.protocol) for service in kinds(4)]


def packet(port: int, protocol: str, version: int, n: int = 0, **changed: object) -> Packet:
    base = Packet(port=port, source_port=40000 + n, **({"protocol": UDP} if protocol == "udp" else {}))
    return replace(base, **changed).as_version(version)  # type: ignore[arg-type]


def data(of: Packet) -> Packet:
    return of if of.protocol == UDP else replace(of, flags=ACK, sequence=1001)


OPENED = [packet(port, protocol, version) for port, protocol in PORTS for version in (4, 6)]


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[Harness, Harness]]:
    first = Harness(**SIZES)
    second = Harness(left=first.plane.estate, **SIZES)
    assert second.plane.inherited
    yield first, second
    second.close()
    first.close()


def succeed(harness: Harness, *, macs: Mapping[str, bytes]) -> Harness:
    """This one now goes on from what stands in the maps."""
    plane = harness.plane
    harness.plane = DataPlane(plane.programs, plane.sizes, plane.estate, inherited=True)
    harness.plane.use(INTERFACE)
    harness.tables = Tables(harness.plane)
    harness.macs = dict(macs)
    harness.plane.set(unproven_per_cpu_s=1 << 30)
    return harness


@pytest.fixture
def ancestor(loaded: tuple[Harness, Harness]) -> Harness:
    harness = succeed(loaded[0], macs={})
    harness.reset(SERVICES, pool=POOL)
    for syn in OPENED:
        harness.run(syn)
        harness.run(data(syn))
    return harness


@pytest.fixture
def heir(loaded: tuple[Harness, Harness], ancestor: Harness) -> Harness:
    return succeed(loaded[1], macs=ancestor.macs)


def go_on(harness: Harness, services: list[L4Service] = SERVICES) -> None:
    """What an agent does when its configuration has come."""
    harness.tables.set_pools(POOL, ())
    harness.tables.apply(services, set(), harness.macs)


def forwarded(harness: Harness, packets: list[Packet]) -> list[tuple[str, bytes]]:
    return [harness.run(packet) for packet in packets]


@pytest.mark.parametrize("configured", [False, True], ids=["at once", "configured"])
def test_known_flows_go_on(ancestor: Harness, heir: Harness, configured: bool) -> None:
    known = [data(syn) for syn in OPENED]
    before = forwarded(ancestor, known)
    assert {reason for reason, _ in before} == {"tx_session"}
    if configured:
        go_on(heir)
    assert forwarded(heir, known) == before


def test_new_flows_are_let_in_before_there_is_a_configuration(heir: Harness) -> None:
    new = [packet(port, protocol, version, 1) for port, protocol in PORTS for version in (4, 6)]
    assert Counter(reason for reason, _ in forwarded(heir, new)) == {"tx_syn": 18, "tx_new_session": 2}
    assert {heir.run(data(syn))[0] for syn in new} == {"tx_new_session", "tx_session"}


@pytest.mark.parametrize("version", [4, 6])
def test_half_open_flows_find_their_server(ancestor: Harness, heir: Harness, version: int) -> None:
    """Under the seed of the agent before."""
    syns = [packet(81, "tcp", version, n) for n in range(1, 9)]
    chosen = [after[:6] for _, after in forwarded(ancestor, syns)]
    go_on(heir)
    assert [after[:6] for _, after in forwarded(heir, [data(syn) for syn in syns])] == chosen
    assert len(set(chosen)) == 3


def test_a_client_keeps_its_server(ancestor: Harness, heir: Harness) -> None:
    real = ancestor.real_of(packet(87, "tcp", 4, 1))
    go_on(heir)
    assert {heir.real_of(packet(87, "tcp", 4, n)) for n in range(2, 8)} == {real}


def test_who_was_denied_is_denied(heir: Harness) -> None:
    syn = replace(packet(88, "tcp", 4, 1), source=STRANGER)
    assert heir.run(syn)[0] == "drop_denied"
    go_on(heir)
    assert heir.run(syn)[0] == "drop_denied"


def test_connections_stay_exact(ancestor: Harness, heir: Harness) -> None:
    for n in range(1, 5):
        syn = packet(82, "tcp", 4, n)
        assert ancestor.run(syn)[0] == "tx_syn"
        ancestor.run(data(syn))
    before = ancestor.tables.connections()
    go_on(heir)
    assert heir.tables.connections() == before
    assert sum(before["tcp-82"].values()) == 6
    assert heir.kill(Wanted.of({"vip": f"{VIP}:82"})) == 5
    assert sum(heir.tables.connections()["tcp-82"].values()) == 1  # that of IPv6


def test_a_limit_of_connections_goes_on(heir: Harness) -> None:
    go_on(heir)
    for n in (1, 2):
        syn = packet(86, "tcp", 4, n)
        assert [heir.run(syn)[0], heir.run(data(syn))[0]] == ["tx_syn", "tx_new_session"]
    assert heir.run(packet(86, "tcp", 4, 3))[0] == "drop_connections"


def test_counters_go_on(ancestor: Harness, heir: Harness) -> None:
    before = ancestor.tables.counters(), ancestor.tables.listener_counters(), ancestor.tables.server_counters()
    assert before[1]["tcp-80"]["packets_in"] == 4
    go_on(heir)
    assert (heir.tables.counters(), heir.tables.listener_counters(), heir.tables.server_counters()) == before


def test_the_same_configuration_writes_no_listener_anew_but_for_its_ring(ancestor: Harness, heir: Harness) -> None:
    def numbers(tables: Tables) -> list[object]:
        return [
            (of._listener_indexes.used, of.members._indexes.used, dict(of._hops.numbers))
            for of in tables.versions.values()
        ]

    go_on(heir)
    assert numbers(heir.tables) == numbers(ancestor.tables)


def test_what_listeners_use_is_not_written_over(ancestor: Harness, heir: Harness) -> None:
    """Before they use something else: rings and access lists of the agent before have no other names than numbers."""

    def numbers(harness: Harness) -> list[set[object]]:
        entries = [
            of._listeners.map.value.from_buffer_copy(entry)
            for of in harness.tables.versions.values()
            for entry in of._listeners.held.values()
        ]
        return [{entry.ring for entry in entries}, {entry.access_list for entry in entries if entry.acl}]

    go_on(heir)
    assert [before & after for before, after in zip(numbers(ancestor), numbers(heir), strict=True)] == [set(), set()]


def test_who_drained_or_was_down_takes_nobody(ancestor: Harness, heir: Harness) -> None:
    """What the agent is told by `idle`."""
    assert heir.tables.idle == {(REALS[1], 8089, "tcp"), (six(REALS[1]), 8089, "tcp")}
    ancestor.tables.apply(SERVICES, {(REALS[0], 8080, "tcp")}, ancestor.macs)
    before = heir.tables.idle
    assert succeed(heir, macs={}).tables.idle == before | {(REALS[0], 8080, "tcp")}


def test_next_hops_that_are_not_resolved_yet_are_those_of_before(ancestor: Harness, heir: Harness) -> None:
    known = [data(syn) for syn in OPENED]
    before = forwarded(ancestor, known)
    heir.tables.set_pools(POOL, ())
    heir.tables.apply(SERVICES, set(), {})
    assert forwarded(heir, known) == before
    moved = dict.fromkeys(heir.macs, bytes.fromhex("02000000beef"))
    heir.tables.apply(SERVICES, set(), moved)
    assert {after[:6] for _, after in forwarded(heir, known)} == {bytes.fromhex("02000000beef")}
    heir.tables.apply(SERVICES, set(), {})
    assert heir.run(known[0])[0] == "drop_no_neighbour"


def test_what_was_removed_meanwhile_goes(ancestor: Harness, heir: Harness) -> None:
    """A listener that counts connections, and of another the server of a flow, which others still have."""
    to = ancestor.real_of(data(OPENED[0]))
    left = [
        replace(of, reals=tuple(real for real in of.reals if real.address != to)) if of.port == 80 else of
        for of in SERVICES
        if of.port != 82
    ]
    go_on(heir, left)
    assert heir.run(packet(82, "tcp", 4))[0] == "pass_no_listener"
    assert heir.events(lambda: heir.run(data(OPENED[0])))["event_warmed"] == 1  # it is nobody's connection any more
    for second in range(2):
        expire(heir.tables, NOW_S + second, 1 << 20)
    assert heir.real_of(data(OPENED[0])) != to
    assert {view.vip.rpartition(":")[2] for view in heir.tables.sessions()} == {str(port) for port, _ in PORTS} - {"82"}
    numbers = {of: of.members._busy() for of in heir.tables.versions.values()}
    assert [len(busy) for busy in numbers.values()] == [1, 1]  # of the listener with a limit of connections
    go_on(heir, left)
    go_on(heir, left)
    for of in heir.tables.versions.values():
        assert all(name[0][0] for name in of.members._indexes.used if name != NOBODY), "names of what has gone"


def test_numbers_of_connections_that_are_left_are_given_to_nobody(ancestor: Harness, heir: Harness) -> None:
    """The agent before was killed just after it had taken the listener away."""
    without = [of for of in SERVICES if of.port != 82]
    ancestor.tables.apply(without, set(), ancestor.macs)
    of_four = succeed(heir, macs=ancestor.macs).tables.versions[4].members
    busy = of_four._busy()
    assert len(busy) == 2  # that listener's connection, and that of the one with a limit
    go_on(heir, [*without, *(of(port, version=4, real_port=port) for port in range(1000, 1040))])
    more = {number for member, number in of_four._indexes.used.items() if member[0][1] in range(1000, 1040)}
    assert len(more) == 120
    assert more.isdisjoint(busy)


def test_sizes_that_differ_are_another_contract(ancestor: Harness) -> None:
    harness = Harness(left=ancestor.plane.estate, **(SIZES | {"sessions": 2048}))
    try:
        assert not harness.plane.inherited
        assert harness.tables.sessions() == []
        assert harness.plane.estate.seed != ancestor.plane.estate.seed
    finally:
        harness.close()


def test_time_without_an_agent_does_not_count(ancestor: Harness, heir: Harness) -> None:
    """The clock stood still for an hour, in which packets left no trace: sessions get what was left of their time."""
    ancestor.tables.set_epoch(NOW_S + 300)
    ancestor.run(data(OPENED[0]))
    succeed(heir, macs=ancestor.macs)
    begins = NOW_S + 300 + 3600
    heir.tables.resume(begins)
    heir.tables.set_epoch(begins)
    go_on(heir)
    last: dict[str, int] = {}
    for second in range(0, 1000, 5):
        expire(heir.tables, begins + second, 1 << 20)
        last |= dict.fromkeys((f"{view.protocol} {view.vip}" for view in heir.tables.sessions()), second)
    assert last.pop(f"tcp {VIP}:80") == 895
    assert set(last.values()) == {595}


def test_what_is_pinned_is_found(ancestor: Harness, tmp_path: Path) -> None:
    """By the life that left it; of another life nothing, nor of one that has ended in order."""
    pins, estate = Pins(tmp_path), ancestor.plane.estate
    pins.hold(ancestor.plane, 7)
    try:
        with pins.left(7, estate.contract, estate.seed) as left:
            assert left is not None
            assert {version: maps.keys() for version, maps in left.maps.items()} == {
                version: maps.keys() - {"stages"} for version, maps in estate.maps.items()
            }
            heir = Harness(left=left, **SIZES)
        assert heir.plane.inherited
        assert len(heir.tables.sessions()) == len(ancestor.tables.sessions())
        heir.close()
        with pins.left(8, estate.contract, estate.seed) as left:
            assert left is None
    finally:
        pins.release()
    with pins.left(7, estate.contract, estate.seed) as left:
        assert left is None
