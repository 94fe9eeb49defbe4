"""lc and wlc in the kernel: who is chosen, by core.schedule's picker; and connections that stay exact."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.model import Scheduler
from core.resolve import L4Service
from core.schedule import LeastConnections, Picker, RoundRobin, WeightedLeastConnections
from l4fast.addresses import put_address
from l4fast.expiry import expire
from l4fast.sessions import STATES
from l4fast.tables import FOREVER_S
from tests.packets import ACK, CLIENT, FIN, NOW_S, REALS, RST, SYN, UDP, Harness, Packet, service

pytestmark = pytest.mark.root

LC = service(80, scheduler=Scheduler.LC)
WLC = service(81, scheduler=Scheduler.WLC, weights=(3, 2, 1), real_port=8081)
DNS = service(53, protocol="udp", scheduler=Scheduler.LC, real_port=5353)
SERVICES = (LC, WLC, DNS)
MANY = [f"10.1.0.{n}" for n in range(1, 81)]
MANY_MACS = {real: bytes((2, 0, 0, 1, 0, n)) for n, real in enumerate(MANY)}


@pytest.fixture(scope="module")
def loaded() -> Iterator[Harness]:
    harness = Harness(sessions=1024, half_open=4096, members=256)
    yield harness
    harness.close()


@pytest.fixture
def harness(loaded: Harness) -> Harness:
    loaded.reset()
    expire(loaded.tables, NOW_S, 1 << 20)
    loaded.tables.apply([], set(), loaded.macs)
    loaded.reset(SERVICES)
    return loaded


def listed(harness: Harness) -> dict[str, dict[str, int]]:
    """What the counts have to be, from the session table itself."""
    counts: Counter[tuple[str, str]] = Counter()
    names = {(f"{of.vip}:{of.port}", of.protocol): of.listener for of in harness.tables.versions[4].services.values()}
    for view in harness.tables.sessions(limit=1 << 20):
        if view.state in ("established", "unproven", "udp"):
            counts[names[view.vip, view.protocol], view.real] += 1
    return {name: {real: counts[name, real] for real in reals} for name, reals in harness.tables.connections().items()}


def exact(harness: Harness) -> dict[str, dict[str, int]]:
    counts = harness.tables.connections()
    assert counts == listed(harness)
    return counts


def opened(harness: Harness, packet: Packet) -> str:
    """SYN and ACK, or a datagram; the real that it went to."""
    if packet.protocol == UDP:
        return harness.real_of(packet)
    real = harness.real_of(replace(packet, flags=SYN, sequence=1000))
    assert harness.real_of(replace(packet, flags=ACK, sequence=1001)) == real
    return real


def reference(of: L4Service) -> Picker:
    weights = [real.weight for real in of.reals]
    if of.scheduler is Scheduler.LC:
        return LeastConnections(weights)
    return WeightedLeastConnections(weights, among_equals=RoundRobin(weights))


EQUALS = replace(WLC, reals=tuple(replace(real, weight=100) for real in WLC.reals))
UNEQUALS = replace(
    LC, reals=tuple(replace(real, weight=weight) for real, weight in zip(LC.reals, (3, 2, 1), strict=True))
)


@pytest.mark.parametrize("of", [*SERVICES, EQUALS, UNEQUALS])
def test_it_chooses_as_the_picker_does(harness: Harness, of: L4Service) -> None:
    """While sessions come and go at random."""
    harness.reset([of])
    dice, picker = random.Random(3), reference(of)
    open_: list[tuple[Packet, int]] = []
    active = [0] * len(of.reals)
    for n in range(300):
        packet = Packet(port=of.port, source_port=2000 + n, protocol=UDP if of.protocol == "udp" else 6)
        chosen = picker.pick(lambda _: True, active, b"")
        assert chosen is not None
        assert opened(harness, packet) == of.reals[chosen].address, n
        active[chosen] += 1
        open_.append((packet, chosen))
        for _ in range(dice.choice((0, 0, 1, 2))):
            if open_ and of.protocol == "tcp":
                packet, index = open_.pop(dice.randrange(len(open_)))
                harness.run(replace(packet, flags=RST, sequence=1001))
                active[index] -= 1
    assert exact(harness) == {of.listener: {f"{r.address}:{r.port}": n for r, n in zip(of.reals, active, strict=True)}}
    assert sum(active) > 10


def test_32_servers_are_all_compared(harness: Harness) -> None:
    of = service(80, scheduler=Scheduler.LC, reals=MANY[:32], weights=[1] * 32)
    harness.tables.apply([of], set(), MANY_MACS)
    went = Counter(harness_real(harness, n) for n in range(96))
    assert went == dict.fromkeys(MANY[:32], 3)


def harness_real(harness: Harness, n: int) -> str:
    return opened(harness, Packet(source_port=2000 + n))


def test_of_more_the_better_of_two_is_taken(harness: Harness) -> None:
    """Among n of which each has more than the one before, the k-th best is taken with chance 2(n-k)/(n(n-1))."""
    few = [service(80, scheduler=Scheduler.LC, reals=[real], weights=[1]) for real in MANY[:33]]
    made = 0
    for rank, of in enumerate(few):
        harness.tables.apply([replace(of, reals=tuple(r for f in few for r in f.reals))], set(), MANY_MACS)
        down = {(real, 8080, "tcp") for real in MANY[:33] if real != MANY[rank]}
        harness.tables.apply([replace(of, reals=tuple(r for f in few for r in f.reals))], down, MANY_MACS)
        for _ in range(rank):
            harness_real(harness, made)
            made += 1
    harness.tables.apply([replace(few[0], reals=tuple(r for f in few for r in f.reals))], set(), MANY_MACS)
    counts = exact(harness)["tcp-80"]
    assert [counts[f"{real}:8080"] for real in MANY[:33]] == list(range(33))
    tries = 1500
    went: Counter[str] = Counter()
    for n in range(tries):  # a new second each: SYNs of the same would count
        harness.tables.set_epoch(NOW_S + n)
        went[harness.real_of(Packet(source="203.0.113.5", source_port=2000 + n))] += 1
    assert went[MANY[32]] == 0
    best, middle = (sum(went[real] for real in MANY[a:b]) / tries for a, b in ((0, 11), (11, 22)))
    assert 0.48 < best < 0.63  # 0.5625
    assert 0.26 < middle < 0.41  # 0.3333


def test_syns_on_their_way_count_for_a_second(harness: Harness) -> None:
    for n in range(2):
        opened(harness, Packet(source_port=1024 + n))
    idle = next(real for real in REALS if not exact(harness)["tcp-80"][f"{real}:8080"])
    went = Counter(harness.real_of(Packet(source_port=2000 + n)) for n in range(28))
    assert went[idle] == 10
    assert sum(exact(harness)["tcp-80"].values()) == 2
    harness.tables.set_epoch(NOW_S + 1)
    assert harness.real_of(Packet(source_port=5000)) == idle
    assert {harness.real_of(Packet(source_port=5001 + n)) for n in range(3)} == set(REALS)


def test_a_syn_that_becomes_a_session_is_counted_once(harness: Harness) -> None:
    assert Counter(harness_real(harness, n) for n in range(30)) == dict.fromkeys(REALS, 10)


ENDS = {
    "client's FIN": lambda packet, real: replace(packet, flags=ACK | FIN),
    "client's RST": lambda packet, real: replace(packet, flags=RST),
    "server's FIN": lambda packet, real: Packet(
        source=real, source_port=8080, destination=CLIENT, port=packet.source_port, flags=ACK | FIN
    ),
    "server's RST": lambda packet, real: Packet(
        source=real, source_port=8080, destination=CLIENT, port=packet.source_port, flags=RST
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_who_has_ended_counts_no_more_and_never_twice(harness: Harness, end: str) -> None:
    packet = Packet(source_port=3000)
    real = opened(harness, packet)
    assert exact(harness)["tcp-80"][f"{real}:8080"] == 1
    for _ in range(2):
        for last in (end, *ENDS):
            harness.run(ENDS[last](replace(packet, sequence=1001), real))
            assert sum(exact(harness)["tcp-80"].values()) == 0
    harness.run(replace(packet, flags=SYN, sequence=77))
    harness.run(replace(packet, flags=ACK, sequence=78))
    assert sum(exact(harness)["tcp-80"].values()) == 1


def test_a_session_that_an_rst_did_not_end_counts_again(harness: Harness) -> None:
    packet = Packet(source_port=3000)
    opened(harness, packet)
    for flags, count in ((RST, 0), (ACK, 1), (ACK, 1)):
        harness.run(replace(packet, flags=flags, sequence=1001))
        assert sum(exact(harness)["tcp-80"].values()) == count


def test_those_that_expire_or_are_deleted_count_no_more(harness: Harness) -> None:
    for n in range(30):
        opened(harness, Packet(source_port=2000 + n))
    keys = next(iter(harness.tables.versions[4].session_map.blocks(1024)))[0]
    assert harness.tables.end_keys(4, keys[: 7 * harness.tables.versions[4].key_size], FOREVER_S) == 7
    assert sum(exact(harness)["tcp-80"].values()) == 23
    assert expire(harness.tables, NOW_S + 900, 1 << 20) == 23
    assert sum(exact(harness)["tcp-80"].values()) == 0


def test_a_full_table_counts_nobody_who_is_not_in_it(harness: Harness) -> None:
    for n in range(1100):
        harness.plane.run(Packet(protocol=UDP, port=53, source_port=2000 + n).frame())
    assert sum(exact(harness)["udp-53"].values()) == 1024


def records(harness: Harness, change: dict[str, int]) -> tuple[bytes, bytes, int]:
    """Every session as a peer would tell it."""
    tables = harness.tables
    keys = values = b""
    for some, held, count in tables.versions[4].session_map.blocks(1024):
        keys += some
        for at in range(0, count * tables.versions[4].value_size, tables.versions[4].value_size):
            value = tables.versions[4].session_map.value.from_buffer_copy(held, at)
            value.generation = value.member = value.counted = 0
            value.learnt = 1
            for name, number in change.items():
                setattr(value, name, number)
            values += bytes(value)
    return keys, values, len(keys) // tables.versions[4].key_size


@pytest.mark.parametrize("state", ["established", "fin-wait"])
def test_sessions_of_peers_count_too(harness: Harness, state: str) -> None:
    """New ones, those written over our own, and those that tell that ours has ended."""
    for n in range(50):
        opened(harness, Packet(source_port=2000 + n))
    told = records(harness, {"state": STATES.index(state)})
    expected = exact(harness) if state == "established" else None
    for _ in range(3):
        assert harness.merge(4, *told).full == 0
        counts = exact(harness)
        assert sum(counts["tcp-80"].values()) == (50 if state == "established" else 0)
        assert expected in (None, counts)
    harness.tables.end_keys(4, told[0], FOREVER_S)
    assert sum(exact(harness)["tcp-80"].values()) == 0
    harness.merge(4, *told)
    for n in range(50):  # and the first packet here changes nothing
        harness.run(Packet(source_port=2000 + n, flags=ACK, sequence=1001))
    assert sum(exact(harness)["tcp-80"].values()) == (50 if state == "established" else 0)


def test_datagrams_of_peers_count_too(harness: Harness) -> None:
    for n in range(20):
        opened(harness, Packet(protocol=UDP, port=53, source_port=2000 + n))
    told = records(harness, {})
    harness.tables.end_keys(4, told[0], FOREVER_S)
    assert sum(exact(harness)["udp-53"].values()) == 0
    harness.merge(4, *told)
    assert sum(exact(harness)["udp-53"].values()) == 20


def test_a_peer_that_says_another_real_moves_the_count(harness: Harness) -> None:
    packet = Packet(source_port=3000)
    real = opened(harness, packet)
    keys, values, _ = records(harness, {})
    opened(harness, Packet(source_port=3001))
    other = next(view.real for view in harness.tables.sessions() if view.client.endswith(":3001"))
    assert other != f"{real}:8080"
    value = harness.tables.versions[4].session_map.value.from_buffer_copy(values)
    put_address(value, "real", socket.inet_aton(other.split(":")[0]))
    harness.merge(4, keys, bytes(value), 1)
    assert exact(harness)["tcp-80"][other] == 1, "of the same second: nothing says that the peer's is the newer"
    value.last_s += 1
    harness.merge(4, keys, bytes(value), 1)
    assert exact(harness)["tcp-80"][other] == 2


# Changes


def test_a_listener_that_begins_to_count_knows_its_sessions(harness: Harness) -> None:
    of = service(90, scheduler=Scheduler.WRR, real_port=9090)
    harness.reset([of])
    for n in range(30):
        opened(harness, Packet(port=90, source_port=2000 + n))
    harness.tables.apply([replace(of, scheduler=Scheduler.LC)], set(), harness.macs)
    for n in range(10):  # some by their next packet, the others by the sweep
        harness.run(Packet(port=90, source_port=2000 + n, flags=ACK, sequence=1001))
    assert sum(harness.tables.connections()["tcp-90"].values()) == 10
    expire(harness.tables, NOW_S, 1 << 20)
    assert sum(exact(harness)["tcp-90"].values()) == 30
    harness.tables.apply([of], set(), harness.macs)
    for n in range(30):
        harness.run(Packet(port=90, source_port=2000 + n, flags=RST, sequence=1001))
    harness.tables.apply([replace(of, scheduler=Scheduler.LC)], set(), harness.macs)
    assert sum(exact(harness)["tcp-90"].values()) == 0


def test_a_server_that_returns_finds_its_connections(harness: Harness) -> None:
    """Drained, down, or removed and added again before the sweep; nobody else has got its count meanwhile."""
    for n in range(30):
        opened(harness, Packet(source_port=2000 + n))
    left = replace(LC, reals=LC.reals[1:])
    weak = replace(LC, reals=(replace(LC.reals[0], weight=0), *LC.reals[1:]))
    for services, down in (([weak], set()), ([LC], {(REALS[0], 8080, "tcp")}), ([left], set()), ([left, WLC], set())):
        harness.tables.apply(services, down, harness.macs)
        assert harness.real_of(Packet(source_port=4000, sequence=len(services))) != REALS[0]
    harness.tables.apply(SERVICES, set(), harness.macs)
    assert exact(harness)["tcp-80"] == dict.fromkeys((f"{real}:8080" for real in REALS), 10)


def test_the_count_of_a_removed_server_comes_free_with_its_sessions(harness: Harness) -> None:
    """256 counts are enough for any number of changes."""
    harness.tables.apply([], set(), MANY_MACS)
    for n in range(20):
        of = service(80, scheduler=Scheduler.LC, reals=MANY[n * 3 : n * 3 + 20], weights=[1] * 20)
        harness.tables.apply([of], set(), MANY_MACS)
        for client in range(10):
            opened(harness, Packet(source="203.0.113.9", source_port=2000 + n * 10 + client))
        expire(harness.tables, NOW_S, 1 << 20)
        exact(harness)


def test_counts_that_do_not_fit_are_refused(harness: Harness) -> None:
    many = [service(1000 + n, scheduler=Scheduler.LC, reals=MANY, weights=[1] * 80) for n in range(4)]
    with pytest.raises(Exception, match="320 pairs of a listener and a server do not fit the tables; load them larger"):
        harness.tables.apply(many, set(), MANY_MACS)
    opened(harness, Packet())


def test_two_cpus_and_the_daemon_at_once_lose_no_count(harness: Harness) -> None:
    """Both directions of the same flows end at once, peers' records are written and sessions swept meanwhile."""
    cpus = sorted(os.sched_getaffinity(os.getpid()) | set(range(os.cpu_count() or 1)))[:2]
    flows = [Packet(source_port=2000 + n) for n in range(60)]

    def traffic(cpu: int, seed: int) -> None:
        os.sched_setaffinity(0, {cpu})
        dice = random.Random(seed)
        for _ in range(4000):
            packet = dice.choice(flows)
            kind = dice.randrange(6)
            if kind < 3:
                harness.plane.run(replace(packet, flags=SYN, sequence=1000).frame())
                harness.plane.run(replace(packet, flags=ACK, sequence=1001).frame())
            else:
                flags = (ACK | FIN, RST, ACK)[kind - 3]
                harness.plane.run(replace(packet, flags=flags, sequence=1001).frame())
                answer = Packet(
                    source=dice.choice(REALS), source_port=8080, destination=CLIENT, port=packet.source_port
                )
                harness.plane.run(replace(answer, flags=flags).frame())

    threads = [threading.Thread(target=traffic, args=(cpu, seed)) for seed, cpu in enumerate(cpus)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        expire(harness.tables, NOW_S, 1 << 20)
    for thread in threads:
        thread.join()
    exact(harness)
