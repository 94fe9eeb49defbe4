"""Limits of listeners: what passes and what does not, under which name, in every mode and both IP versions."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from core.model import Mode, Scheduler
from core.resolve import L4Service, Limits
from l4fast.limits import OVER
from l4fast.version_tables import service_key
from tests.packets import ACK, REALS, UDP, Harness, Packet, as_version, service, six, version_of

pytestmark = pytest.mark.root

POOL = ("10.0.2.1", six("10.0.2.1"))
MEASURED_S = 1.5


@pytest.fixture(scope="module")
def loaded() -> Iterator[Harness]:
    harness = Harness(sessions=1024, half_open=1024)
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


def spend_all(harness: Harness, of: L4Service) -> None:
    """For good, so that a stalled machine fills no bucket; until then it holds what it held."""
    tables = harness.tables.versions[version_of(of.vip)]
    table = harness.plane.map("spendings", version_of(of.vip))
    key = table.key(tables._listener_indexes.used[service_key(of)])
    value = table.get(key)
    assert value is not None
    for name, _ in value._fields_:
        setattr(value, name, 1 << 60)
    table.put(key, value)


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


def begun(harness: Harness, seconds: float, cpus: list[int]) -> tuple[int, float]:
    """Sends SYNs as fast as may be, from each of these CPUs at once; how many passed, in which time."""
    frame = Packet().frame()
    until = time.monotonic() + seconds
    passed = [0] * len(cpus)

    def send(number: int) -> None:
        os.sched_setaffinity(0, {cpus[number]})  # this thread alone
        while time.monotonic() < until:
            for _ in range(20):
                passed[number] += harness.plane.run(frame)[0] == 3

    began = time.monotonic()
    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(cpus))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(passed), time.monotonic() - began


@pytest.mark.parametrize("rate", [50, 1000])
def test_the_rate_is_exact_on_all_cpus_together(harness: Harness, rate: int) -> None:
    """Beyond what a full bucket holds, which is a second's."""
    of = limited(Limits(new_connections_per_s=rate), reals=REALS[:1], stateless=True)
    start(harness, of)
    passed, took_s = begun(harness, MEASURED_S, sorted(os.sched_getaffinity(0)))
    assert passed - rate == pytest.approx(rate * took_s, rel=0.03, abs=2)


def test_a_full_bucket_holds_a_second(harness: Harness) -> None:
    of = limited(Limits(new_connections_per_s=50))
    start(harness, of)
    began = time.monotonic()
    passed = sum(harness.run(flow(n))[0] == "tx_syn" for n in range(60))
    assert 50 <= passed <= 50 + 50 * (time.monotonic() - began) + 1
