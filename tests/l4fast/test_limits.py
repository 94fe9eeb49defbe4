"""Limits of listeners: what passes and what does not, under which name, in every mode and both IP versions."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from core.endpoints import endpoint
from core.limits import UNLIMITED, Limits
from core.model import Mode, Scheduler
from core.resolve import L4Service
from l4fast.expiry import expire
from l4fast.limits import OVER, TICKS
from l4fast.sessions import ANSWER, STATES, Wanted
from l4fast.version_tables import service_key
from tests.packets import (
    ACK,
    CLIENT,
    FIN,
    NOW_S,
    REALS,
    RST,
    SYN,
    TCP,
    UDP,
    XDP_TX,
    Harness,
    Packet,
    as_version,
    ends,
    icmp_error,
    service,
    six,
    version_of,
)

pytestmark = pytest.mark.root

POOL = ("10.0.2.1", six("10.0.2.1"))
MEASURED_S = 1.5
LISTENERS = 4  # so few that their numbers are used again
CLOCK_S = 0.03  # how far the coarse clock of a busy machine may be behind, at most
COUNTING = ("established", "unproven", "udp")


@pytest.fixture(scope="module")
def loaded() -> Iterator[Harness]:
    harness = Harness(sessions=1024, half_open=1024, listeners=LISTENERS)
    yield harness
    harness.close()


@pytest.fixture
def harness(loaded: Harness) -> Harness:
    loaded.reset()
    return loaded


def start(harness: Harness, *services: L4Service) -> None:
    harness.reset(pool=POOL)  # its listeners are forgotten, and with them what they had taken
    harness.tables.apply(list(services), set(), harness.macs)


def limited(limits: Limits, port: int = 80, **changed: Any) -> L4Service:
    return replace(service(port, **changed), limits=limits)


def flow(n: int, **changed: Any) -> Packet:
    return replace(Packet(source_port=1024 + n), **changed)


def beyond(harness: Harness, of: L4Service) -> dict[str, int]:
    row = harness.tables.listener_counters()[of.listener]
    return {name: row[name] for name in (*OVER, "denied") if row[name]}


INWARDS, OUTWARDS = range(2)


def spending(harness: Harness, of: L4Service) -> tuple[Any, Any, Any]:
    """Map, key and value of what the listener has taken."""
    version = version_of(of.vip)
    table = harness.plane.map("spendings", version)
    key = table.key(harness.tables.versions[version]._listener_indexes.used[service_key(of)])
    return table, key, table.get(key)


def spend_all(harness: Harness, of: L4Service, *directions: int) -> None:
    """For good, so that a stalled machine fills no bucket: everything, or bandwidth in these directions."""
    table, key, value = spending(harness, of)
    for direction in directions or (INWARDS, OUTWARDS):
        value.bandwidth[direction] = 1 << 60
    if not directions:
        value.flows = 1 << 60
    table.put(key, value)


def give_back(harness: Harness, of: L4Service) -> None:
    spend(harness, of, 0)


def spend(harness: Harness, of: L4Service, until: int) -> None:
    """All rates, until this tick."""
    table, key, value = spending(harness, of)
    value.flows = until
    value.bandwidth[:] = [until, until]
    table.put(key, value)


def spent(harness: Harness, of: L4Service) -> int:
    """Until when the bandwidth from clients is."""
    return int(spending(harness, of)[2].bandwidth[INWARDS])


# New connections a second


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", Mode)
def test_so_many_connections_may_begin(harness: Harness, mode: Mode, version: int) -> None:
    of = limited(Limits(new_connections_per_s=3), mode=mode, version=version)
    start(harness, of)
    harness.tables.set_local(as_version(4, "10.0.0.2") + as_version(6, "10.0.0.2"))
    packets = [flow(n).as_version(version) for n in range(5)]
    assert [harness.run(packet)[0] for packet in packets[:3]] == ["tx_syn"] * 3
    spend_all(harness, of)
    for packet in packets[3:]:
        assert harness.run(packet) == ("drop_connection_rate", packet.frame())
    assert harness.run(replace(packets[0], flags=ACK, sequence=1001))[0] == "tx_new_session"  # what has begun goes on
    assert beyond(harness, of) == {"over_connection_rate": 2}


@pytest.mark.parametrize("scheduler", [Scheduler.WRR, Scheduler.LC])
def test_a_syn_sent_again_begins_nothing(harness: Harness, scheduler: Scheduler) -> None:
    """Where the first one is remembered; the same ports and another sequence number are another connection."""
    of = limited(Limits(new_connections_per_s=2), scheduler=scheduler)
    start(harness, of)
    assert [harness.run(flow(0))[0] for _ in range(5)] == ["tx_syn"] * 5
    assert harness.run(flow(0, sequence=7))[0] == "tx_syn"
    spend_all(harness, of)
    assert harness.run(flow(0, sequence=8))[0] == "drop_connection_rate"
    assert harness.run(flow(0, sequence=7))[0] == "tx_syn"


def test_what_was_refused_is_not_remembered(harness: Harness) -> None:
    of = limited(Limits(new_connections_per_s=1), scheduler=Scheduler.WRR)
    start(harness, of)
    harness.run(flow(0))
    assert [harness.run(flow(1))[0] for _ in range(2)] == ["drop_connection_rate"] * 2
    for mode in (Mode.NAT, Mode.FULLNAT):
        of = limited(Limits(new_connections_per_s=1), mode=mode, scheduler=Scheduler.WRR)
        start(harness, of)
        harness.run(flow(0))
        assert [harness.run(flow(1))[0] for _ in range(2)] == ["drop_connection_rate"] * 2


@pytest.mark.parametrize("mode", Mode)
def test_a_datagram_of_a_new_flow_begins_a_connection(harness: Harness, mode: Mode) -> None:
    of = limited(Limits(new_connections_per_s=1), 53, protocol="udp", mode=mode)
    start(harness, of)
    query = flow(0, protocol=UDP, port=53)
    assert harness.run(query)[0] == "tx_new_session"
    other = replace(query, source_port=9)
    assert harness.run(other) == ("drop_connection_rate", other.frame())
    assert harness.run(query)[0] == "tx_session"


@pytest.mark.parametrize("version", [4, 6])
def test_a_stateless_listener_has_a_rate_too(harness: Harness, version: int) -> None:
    of = limited(Limits(new_connections_per_s=1), stateless=True, version=version)
    start(harness, of)
    verdicts = [harness.run(flow(n).as_version(version))[0] for n in range(2)]
    assert verdicts == ["tx_stateless", "drop_connection_rate"]
    assert harness.run(flow(1, flags=ACK).as_version(version))[0] == "tx_stateless"


def test_listeners_do_not_share_a_rate(harness: Harness) -> None:
    one, other = limited(Limits(new_connections_per_s=1)), limited(Limits(new_connections_per_s=2), 81, real_port=8081)
    free = service(82, real_port=8082)
    start(harness, one, other, free)
    assert harness.run(flow(0))[0] == "tx_syn"
    spend_all(harness, one)
    assert [harness.run(flow(n))[0] for n in range(2)] == ["drop_connection_rate"] * 2
    assert [harness.run(flow(n, port=81))[0] for n in range(2)] == ["tx_syn"] * 2
    assert {harness.run(flow(n, port=82))[0] for n in range(9)} == {"tx_syn"}


def test_a_rate_changes_and_goes(harness: Harness) -> None:
    """What has begun is not forgotten by a change; sessions do not notice."""
    of = limited(Limits(new_connections_per_s=2))
    start(harness, of)
    generation = harness.plane.settings[4].generation
    spend_all(harness, of)
    for rate, verdict in ((1, "drop_connection_rate"), (0, "tx_syn"), (3, "drop_connection_rate")):
        harness.tables.apply([replace(of, limits=Limits(new_connections_per_s=rate))], set(), harness.macs)
        assert harness.run(flow(9))[0] == verdict, rate
    assert harness.plane.settings[4].generation == generation


def test_a_new_listener_begins_with_a_full_bucket(harness: Harness) -> None:
    """Whoever had its number before."""
    for port in range(100, 120):
        of = limited(Limits(new_connections_per_s=1), port)
        harness.tables.apply([of], set(), harness.macs)
        assert [harness.run(flow(n, port=port))[0] for n in range(2)] == ["tx_syn", "drop_connection_rate"]
        assert beyond(harness, of) == {"over_connection_rate": 1}


@dataclass
class Sent:
    """What passed, and how long it took: at least from after the first packet until before the last, at most from
    before the first until after the last."""

    passed: int
    least_s: float
    most_s: float


def pressed(harness: Harness, frame: bytes, seconds: float) -> Sent:
    """Sends as fast as may be, from every CPU at once."""
    until = time.monotonic() + seconds
    cpus = sorted(os.sched_getaffinity(0))
    passed = [0] * len(cpus)
    times: list[tuple[float, float, float, float]] = []

    def send(number: int) -> None:
        os.sched_setaffinity(0, {cpus[number]})  # this thread alone
        begins = time.monotonic()
        passed[number] += harness.plane.run(frame)[0] == XDP_TX
        began = time.monotonic()
        while (before := time.monotonic()) < until:
            passed[number] += harness.plane.run(frame)[0] == XDP_TX
            after = time.monotonic()
            last = before
        times.append((begins, began, last, after))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(cpus))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begins, began, before, after = zip(*times, strict=True)
    return Sent(sum(passed), max(before) - min(began), max(after) - min(begins))


@pytest.mark.parametrize("rate", [50, 1000])
def test_the_rate_is_exact_on_all_cpus_together(harness: Harness, rate: int) -> None:
    """Beyond what a full bucket holds, which is a second's."""
    of = limited(Limits(new_connections_per_s=rate), reals=REALS[:1], stateless=True)
    start(harness, of)
    sent = pressed(harness, Packet().frame(), MEASURED_S)
    assert rate * (sent.least_s - CLOCK_S) - 1 <= sent.passed - rate <= rate * (sent.most_s + CLOCK_S) + 1


def test_a_full_bucket_holds_a_second(harness: Harness) -> None:
    of = limited(Limits(new_connections_per_s=50))
    start(harness, of)
    began = time.monotonic()
    passed = sum(harness.run(flow(n))[0] == "tx_syn" for n in range(60))
    assert 50 <= passed <= 50 + 50 * (time.monotonic() - began) + 1


# Connections at a time


def connections(harness: Harness, of: L4Service) -> int:
    """How many the listener has, which is what the session table says, and the sum of its servers'."""
    count = harness.tables.listener_counters()[of.listener]["connections"]
    assert count == sum(
        view.state in COUNTING for view in harness.tables.sessions(Wanted(vip=endpoint(of.vip, of.port)))
    )
    assert count == sum(harness.tables.connections()[of.listener].values())
    return count


def established(n: int, **changed: Any) -> Packet:
    return replace(flow(n, flags=ACK, sequence=1001), **changed)


def opened(harness: Harness, packet: Packet) -> list[str]:
    return [harness.run(replace(packet, flags=SYN, sequence=1000))[0], harness.run(packet)[0]]


def test_limits_are_shown_beside_what_is_taken(harness: Harness) -> None:
    """Of all VIPs together; of what has no limit, nothing."""
    of = limited(Limits(7, 5, 20, 30), reals=REALS[:1])
    start(harness, of, replace(of, vip="10.0.0.101"), service(81, real_port=8081))
    opened(harness, established(0))
    rows = harness.tables.listener_counters()
    assert {name: n for name, n in rows["tcp-80"].items() if name.startswith("limit_") or name == "connections"} == {
        "limit_new_connections_per_s": 14, "limit_connections": 10, "limit_bandwidth_in_mbit_s": 40,
        "limit_bandwidth_out_mbit_s": 60, "connections": 1,
    }  # fmt: skip
    assert not [name for name in rows["tcp-81"] if name.startswith("limit_") or name == "connections"]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", Mode)
def test_a_full_listener_takes_no_more(harness: Harness, mode: Mode, version: int) -> None:
    of = limited(Limits(connections=2), mode=mode, version=version)
    start(harness, of)
    packets = [established(n).as_version(version) for n in range(5)]
    assert [harness.run(replace(packet, flags=SYN, sequence=1000))[0] for packet in packets[:4]] == ["tx_syn"] * 4
    # More handshakes than there is room for: those that complete first have it.
    assert [harness.run(packet)[0] for packet in packets[:2]] == ["tx_new_session"] * 2
    assert harness.run(packets[2]) == ("drop_connections", packets[2].frame())
    syn = replace(packets[4], flags=SYN)
    assert harness.run(syn) == ("drop_connections", syn.frame())
    assert harness.run(packets[0])[0] == "tx_session"
    assert connections(harness, of) == 2
    assert beyond(harness, of) == {"over_connections": 2}
    harness.run(replace(packets[0], flags=RST))  # who came too late has not come in vain
    assert harness.run(packets[2])[0] == "tx_new_session"
    assert connections(harness, of) == 2


@pytest.mark.parametrize("scheduler", [Scheduler.WRR, Scheduler.LC])
def test_whatever_the_scheduler(harness: Harness, scheduler: Scheduler) -> None:
    of = limited(Limits(connections=2), scheduler=scheduler)
    start(harness, of)
    assert [opened(harness, established(n)) for n in range(2)] == [["tx_syn", "tx_new_session"]] * 2
    assert opened(harness, established(2))[0] == "drop_connections"
    assert connections(harness, of) == 2


@pytest.mark.parametrize("mode", Mode)
def test_of_udp_the_first_datagram_is_dropped(harness: Harness, mode: Mode) -> None:
    of = limited(Limits(connections=1), 53, protocol="udp", mode=mode)
    start(harness, of)
    query = flow(0, protocol=UDP, port=53)
    assert harness.run(query)[0] == "tx_new_session"
    other = replace(query, source_port=9)
    assert harness.run(other) == ("drop_connections", other.frame())
    assert harness.run(query)[0] == "tx_session"
    assert connections(harness, of) == 1
    expire(harness.tables, NOW_S + of.idle_timeout_s, 1 << 20)
    assert connections(harness, of) == 0
    assert harness.run(other)[0] == "tx_new_session"


Ending = Callable[[Harness, L4Service], object]
ENDINGS: dict[str, Ending] = {
    "FIN": lambda harness, of: harness.run(established(0, flags=FIN | ACK)),
    "RST": lambda harness, of: harness.run(established(0, flags=RST)),
    "expiry": lambda harness, of: expire(harness.tables, NOW_S + of.idle_timeout_s, 1 << 20),
    "kill": lambda harness, of: harness.tables.kill(Wanted(client=CLIENT)),
    "a new connection": lambda harness, of: harness.run(established(0, flags=FIN | ACK)) and harness.run(flow(0)),
    "a peer": lambda harness, of: told(harness, STATES.index("closed")),
    "its server": lambda harness, of: (
        harness.tables.apply([replace(of, reals=())], set(), harness.macs),
        expire(harness.tables, NOW_S, 1 << 20),
        harness.tables.apply([of], set(), harness.macs),
    ),
}


def told(harness: Harness, state: int) -> None:
    """A peer tells of every session that it is in this state now."""
    for version, keys, values, count in list(harness.tables.session_blocks(1024)):
        session = harness.tables.versions[version].session_map.value
        records = (session * count).from_buffer_copy(values)
        for record in records:
            record.state, record.learnt = record.state if record.state == ANSWER else state, 1
            record.generation = record.counted = record.member = record.hop = 0
        harness.merge(version, keys, bytes(records), count)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("mode", [Mode.NAT, Mode.FULLNAT])
def test_a_connection_that_ends_makes_room(harness: Harness, mode: Mode, ending: str) -> None:
    of = limited(Limits(connections=1), mode=mode, reals=REALS[:1])
    start(harness, of)
    assert opened(harness, established(0)) == ["tx_syn", "tx_new_session"]
    assert harness.run(flow(1))[0] == "drop_connections"
    ENDINGS[ending](harness, of)
    assert connections(harness, of) == 0
    assert opened(harness, established(1)) == ["tx_syn", "tx_new_session"]
    assert connections(harness, of) == 1
    assert harness.run(flow(2))[0] == "drop_connections"


def test_an_established_connection_is_never_touched(harness: Harness) -> None:
    """Neither by a limit that falls below what there is, nor when an RST was forged and its packets go on."""
    of = limited(Limits(connections=3), reals=REALS[:1])
    start(harness, of)
    for n in range(3):
        assert opened(harness, established(n))[1] == "tx_new_session"
    harness.tables.apply([replace(of, limits=Limits(connections=1))], set(), harness.macs)
    harness.run(established(0, flags=RST))
    assert connections(harness, of) == 2
    assert [harness.run(established(n))[0] for n in (0, 0, 1, 2)] == ["tx_session"] * 4
    assert connections(harness, of) == 3
    assert harness.run(flow(4))[0] == "drop_connections"


def test_what_a_peer_tells_of_counts_beyond_the_limit(harness: Harness) -> None:
    of = limited(Limits(connections=1), reals=REALS[:1])
    start(harness, replace(of, limits=UNLIMITED))
    for n in range(3):
        harness.run(established(n))
    told(harness, STATES.index("established"))
    harness.tables.apply([of], set(), harness.macs)
    expire(harness.tables, NOW_S, 1 << 20)
    assert connections(harness, of) == 3
    assert harness.run(flow(4))[0] == "drop_connections"
    told(harness, STATES.index("established"))
    assert connections(harness, of) == 3


def test_a_limit_given_later_finds_those_that_are_there(harness: Harness) -> None:
    """Each by its next packet, or by the sweep; and not twice when it is taken away and given again."""
    of = limited(Limits(connections=3), reals=REALS[:1])
    free = replace(of, limits=UNLIMITED)
    start(harness, free)
    for n in range(3):
        harness.run(established(n))
    harness.tables.apply([of], set(), harness.macs)
    harness.run(established(0))
    assert harness.tables.listener_counters()[of.listener]["connections"] == 1
    expire(harness.tables, NOW_S, 1 << 20)
    assert connections(harness, of) == 3
    harness.tables.apply([free], set(), harness.macs)
    harness.run(established(1, flags=RST))
    assert harness.run(flow(9))[0] == "tx_syn"
    harness.tables.apply([of], set(), harness.macs)
    expire(harness.tables, NOW_S, 1 << 20)
    assert connections(harness, of) == 2


def test_a_listener_that_goes_takes_its_count_along(harness: Harness) -> None:
    for port in range(100, 120):
        expire(harness.tables, NOW_S, 1 << 20)
        of = limited(Limits(connections=1), port, reals=REALS[:1])
        harness.tables.apply([of], set(), harness.macs)
        assert opened(harness, established(0, port=port)) == ["tx_syn", "tx_new_session"]
        assert connections(harness, of) == 1
        assert harness.run(flow(1, port=port))[0] == "drop_connections"
        assert beyond(harness, of) == {"over_connections": 1}


def test_a_listeners_number_is_its_own_while_it_has_connections(harness: Harness) -> None:
    """Also when the listener has gone: who got the number would lose what it had not."""
    gone = limited(Limits(connections=5), 100, reals=REALS[:1])
    harness.tables.apply([gone], set(), harness.macs)
    assert opened(harness, established(0, port=100)) == ["tx_syn", "tx_new_session"]
    for port in range(101, 101 + 2 * LISTENERS):
        of = limited(Limits(connections=1), port, reals=REALS[:1])
        harness.tables.apply([of], set(), harness.macs)
    assert opened(harness, established(0, port=of.port)) == ["tx_syn", "tx_new_session"]
    expire(harness.tables, NOW_S, 1 << 20)
    assert connections(harness, of) == 1
    assert harness.run(flow(1, port=of.port))[0] == "drop_connections"


def test_two_cpus_never_pass_the_limit(harness: Harness) -> None:
    of = limited(Limits(connections=300), reals=REALS[:1])
    start(harness, of)
    cpus = sorted(os.sched_getaffinity(0))

    def send(number: int) -> None:
        os.sched_setaffinity(0, {cpus[number % len(cpus)]})  # this thread alone
        for frame in frames[number::2]:
            harness.plane.run(frame)

    frames = [established(n).frame() for n in range(900)]
    threads = [threading.Thread(target=send, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert connections(harness, of) == 300


# Bandwidth

DATA = Packet(flags=ACK, sequence=1001, payload=b"x" * 960)  # 1,000 bytes of IP
REPLY = Packet(source=REALS[0], source_port=8080, destination=CLIENT, port=40000, flags=ACK)
BOTH = Limits(in_mbit_s=20, out_mbit_s=20)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", Mode)
def test_flows_without_bandwidth(harness: Harness, mode: Mode, version: int) -> None:
    """Those that are known and those that are not; nothing comes of what is dropped."""
    of = limited(Limits(in_mbit_s=20), mode=mode, reals=REALS[:1], version=version)
    start(harness, of)
    data = DATA.as_version(version)
    assert opened(harness, data) == ["tx_syn", "tx_new_session"]
    assert harness.run(data)[0] == "tx_session"
    half_open = replace(data, source_port=5)
    assert harness.run(replace(half_open, flags=SYN, sequence=1000))[0] == "tx_syn"
    before = harness.session(data)
    spend_all(harness, of)
    for packet in (
        data,
        replace(data, flags=ACK | FIN),
        replace(half_open, flags=SYN, sequence=1000),
        half_open,
        replace(data, flags=SYN, source_port=6),
    ):
        assert harness.run(packet) == ("drop_bandwidth_in", packet.frame())
    assert harness.session(data) == before
    assert beyond(harness, of) == {"over_bandwidth_in": 5}
    give_back(harness, of)
    assert harness.run(half_open)[0] == "tx_new_session"
    assert harness.run(data)[0] == "tx_session"
    assert beyond(harness, of) == {"over_bandwidth_in": 5}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", Mode)
def test_a_flow_of_udp_stays_what_it_is(harness: Harness, mode: Mode, version: int) -> None:
    of = limited(Limits(in_mbit_s=20), 53, protocol="udp", mode=mode, version=version)
    start(harness, of)
    query = flow(0, protocol=UDP, port=53).as_version(version)
    assert [harness.run(query)[0] for _ in range(3)] == ["tx_new_session", "tx_session", "tx_session"]
    session = harness.session(query)
    assert session is not None
    assert (session["state"], session["packets"]) == (STATES.index("udp"), 3)
    spend_all(harness, of)
    for packet in (query, replace(query, source_port=7)):
        assert harness.run(packet) == ("drop_bandwidth_in", packet.frame())


@pytest.mark.parametrize("stateless", [False, True])
@pytest.mark.parametrize("version", [4, 6])
def test_each_direction_has_its_own(harness: Harness, version: int, stateless: bool) -> None:
    of = limited(BOTH, reals=REALS[:1], version=version, stateless=stateless)
    start(harness, of)
    data, answer = DATA.as_version(version), REPLY.as_version(version)
    harness.run(data)
    spend_all(harness, of, INWARDS)
    assert harness.run(data) == ("drop_bandwidth_in", data.frame())
    assert harness.run(answer)[0] == "tx_reply"
    give_back(harness, of)
    spend_all(harness, of, OUTWARDS)
    assert harness.run(data)[0] == ("tx_stateless" if stateless else "tx_session")
    for packet in (answer, replace(answer, flags=FIN | ACK)):
        assert harness.run(packet) == ("drop_bandwidth_out", packet.frame())
    if not stateless:
        assert STATES[(harness.session(data) or {})["state"]] in ("established", "unproven")
    assert beyond(harness, of) == {"over_bandwidth_in": 1, "over_bandwidth_out": 2}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_fullnats_answers_too(harness: Harness, protocol: str, version: int) -> None:
    of = limited(BOTH, mode=Mode.FULLNAT, protocol=protocol, reals=REALS[:1], version=version)
    start(harness, of)
    number = UDP if protocol == "udp" else TCP
    data = replace(DATA, protocol=number).as_version(version)
    _, after = harness.run(replace(data, flags=SYN, sequence=1000))
    source, real = ends(after)
    answer = Packet(*(real[0], source[0]), source_port=real[1], port=source[1], protocol=number, flags=SYN | ACK)
    spend_all(harness, of, INWARDS)
    assert harness.run(answer)[0] == "tx_reply"
    give_back(harness, of)
    spend_all(harness, of, OUTWARDS)
    assert harness.run(answer) == ("drop_bandwidth_out", answer.frame())
    assert harness.run(data)[0] == ("tx_session" if protocol == "udp" else "tx_new_session")
    answer = replace(answer, flags=ACK)
    assert harness.run(answer) == ("drop_bandwidth_out", answer.frame())
    assert harness.run(data)[0] == "tx_session"
    assert beyond(harness, of) == {"over_bandwidth_out": 2}


@pytest.mark.parametrize("version", [4, 6])
def test_later_fragments_too(harness: Harness, version: int) -> None:
    of = limited(BOTH, 53, protocol="udp", reals=REALS[:1], version=version)
    start(harness, of)
    query = replace(DATA, protocol=UDP, port=53).as_version(version)
    answer = replace(REPLY, protocol=UDP, payload=b"y" * 960).as_version(version)
    for packet, direction in ((query, INWARDS), (answer, OUTWARDS)):
        first, later = packet.fragments(400)
        assert harness.run(first)[0].startswith("tx_")
        assert harness.run(later)[0] == "tx_fragment"
        spend_all(harness, of, direction)
        assert harness.run(later) == (("drop_bandwidth_in", "drop_bandwidth_out")[direction], later)
        give_back(harness, of)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("mode", [Mode.NAT, Mode.DR])
def test_errors_too(harness: Harness, mode: Mode, known: bool) -> None:
    """ICMP about a packet of the listener, in both directions."""
    of = limited(Limits(20, 20, 20, 20 if mode is Mode.NAT else 0), mode=mode, reals=REALS[:1])
    start(harness, of)
    if known:
        harness.run(DATA)
    sent = Packet(source=of.vip, source_port=80, destination=CLIENT, port=40000, flags=ACK)
    inwards = icmp_error(sent, "too big", source="203.0.113.9")
    assert harness.run(inwards)[0] == "tx_error"
    spend_all(harness, of, INWARDS)
    assert harness.run(inwards) == ("drop_bandwidth_in", inwards.frame())
    if mode is Mode.NAT:
        outwards = icmp_error(DATA.to_real(REALS[0]), "too big", source=REALS[0])
        assert harness.run(outwards)[0] == "tx_reply_error"
        spend_all(harness, of, OUTWARDS)
        assert harness.run(outwards) == ("drop_bandwidth_out", outwards.frame())


@pytest.mark.parametrize(("mbit_s", "cost_ns"), [(1, 8_000_000), (20, 400_000), (1000, 8_000), (5120, 1_562.5)])
def test_what_a_packet_spends(harness: Harness, mbit_s: int, cost_ns: float) -> None:
    """1,000 bytes, from a bucket that is neither full nor empty; tried again if the machine stalls meanwhile."""
    of = limited(Limits(in_mbit_s=mbit_s))
    start(harness, of)
    harness.run(DATA)
    for _ in range(20):
        until = (time.monotonic_ns() - 25_000_000) * TICKS
        spend(harness, of, until)
        assert harness.run(DATA)[0] == "tx_session"
        if spent(harness, of) - until == cost_ns * TICKS:
            return
    raise AssertionError(f"{(spent(harness, of) - until) / TICKS} ns")


@pytest.mark.parametrize("scheduler", [Scheduler.MAGLEV, Scheduler.WRR, Scheduler.LC])
def test_a_packet_pays_once_and_takes_one_turn(harness: Harness, scheduler: Scheduler) -> None:
    """Although the program begins anew with it, and for lc once more."""
    of = limited(Limits(in_mbit_s=20), scheduler=scheduler)
    start(harness, of)
    for attempt in range(20):
        until = (time.monotonic_ns() - 100_000_000) * TICKS
        spend(harness, of, until)
        reals = Counter(harness.real_of(flow(6 * attempt + n)) for n in range(6))
        if spent(harness, of) - until == 6 * 40 * 400 * TICKS:
            break
    else:
        raise AssertionError(f"{(spent(harness, of) - until) / TICKS} ns")
    if scheduler is not Scheduler.MAGLEV:
        assert reals == dict.fromkeys(REALS, 2)


@pytest.mark.parametrize("version", [4, 6])
def test_listeners_share_their_instances_bandwidth(harness: Harness, version: int) -> None:
    """All of them stop when it is spent, and one that has spent its own leaves the others theirs."""
    both = Limits(in_mbit_s=1, instance="i", instance_in_mbit_s=2)
    one = limited(both, 80, version=version)
    two = limited(replace(both, in_mbit_s=0), 81, version=version)
    start(harness, one, two)
    packets = [replace(DATA, port=port).as_version(version) for port in (80, 81)]

    def verdicts() -> list[str]:
        return [harness.run(packet)[0] for packet in packets]

    assert verdicts() == ["tx_new_session"] * 2
    assert verdicts() == ["tx_session"] * 2
    spend_all(harness, one, INWARDS)
    assert verdicts() == ["drop_bandwidth_in", "tx_session"]
    give_back(harness, one)
    table = harness.plane.map("spendings", version)
    key = table.key(harness.tables.versions[version]._listener_indexes.used["i", 0, "instance"])
    value = table.get(key)
    assert value.bandwidth[INWARDS] > 0, "packets have been paid for"
    value.bandwidth[INWARDS] = 1 << 60
    table.put(key, value)
    assert verdicts() == ["drop_bandwidth_in"] * 2
    assert [beyond(harness, of) for of in (one, two)] == [{"over_bandwidth_in": 2}, {"over_bandwidth_in": 1}]


def test_a_full_bucket_holds_a_quarter_of_a_second(harness: Harness) -> None:
    of = limited(Limits(in_mbit_s=1))
    start(harness, of)
    harness.run(DATA)
    spend(harness, of, 0)
    before = time.monotonic_ns()
    harness.run(DATA)
    after = time.monotonic_ns()
    full = spent(harness, of) / TICKS - 8_000_000 + 250_000_000
    assert before - CLOCK_S * 1e9 <= full <= after


def test_a_limit_of_flows_spends_no_bandwidth(harness: Harness) -> None:
    of = limited(Limits(new_connections_per_s=9, connections=9), reals=REALS[:1])
    start(harness, of)
    spend_all(harness, of, INWARDS, OUTWARDS)
    assert [harness.run(packet)[0] for packet in (DATA, DATA, REPLY)] == ["tx_new_session", "tx_session", "tx_reply"]


def test_sessions_learn_that_they_are_limited_and_that_they_are_not(harness: Harness) -> None:
    of = limited(BOTH, reals=REALS[:1])
    free = replace(of, limits=UNLIMITED)
    start(harness, free)
    harness.run(DATA)
    for service_, verdict in ((of, "drop_bandwidth_in"), (free, "tx_session"), (of, "drop_bandwidth_in")):
        harness.tables.apply([service_], set(), harness.macs)
        spend_all(harness, of)
        assert harness.run(DATA)[0] == verdict
        assert harness.run(REPLY)[0] == ("drop_bandwidth_out" if service_ is of else "tx_reply")
    told(harness, STATES.index("established"))  # a session from a peer
    assert harness.run(DATA)[0] == "drop_bandwidth_in"


def test_a_bandwidth_that_changes_is_one_write(harness: Harness) -> None:
    of = limited(BOTH, reals=REALS[:1])
    start(harness, of)
    harness.run(DATA)
    generation = harness.plane.settings[4].generation
    spend_all(harness, of)
    harness.tables.apply([replace(of, limits=Limits(in_mbit_s=30, out_mbit_s=1))], set(), harness.macs)
    assert harness.run(DATA)[0] == "drop_bandwidth_in"
    assert harness.plane.settings[4].generation == generation


def test_bandwidth_is_exact_on_all_cpus_together(harness: Harness) -> None:
    """Beyond what a full bucket holds."""
    mbit_s = 8  # a thousand packets a second
    of = limited(Limits(in_mbit_s=mbit_s), reals=REALS[:1])
    start(harness, of)
    harness.run(DATA)
    sent = pressed(harness, DATA.frame(), MEASURED_S)
    assert 1000 * (sent.least_s - CLOCK_S) - 1 <= sent.passed - 250 <= 1000 * (sent.most_s + CLOCK_S) + 2
