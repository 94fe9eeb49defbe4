"""Sessions that peers tell of meet what is here: `merge` and `hear` against the rule, and what follows from it."""

from __future__ import annotations

import ctypes as ct
import itertools
import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.model import Scheduler
from core.resolve import L4Service
from l4fast.loader import SOURCES
from l4fast.merging import RECORDS, Merged
from l4fast.sessions import STATES
from tests.l4fast.merging import ANSWER, CLOSED, ESTABLISHED, FIN_WAIT, UDP, UNPROVEN, Entry, merged
from tests.l4fast.told import FULLNAT
from tests.packets import ACK, FIN, NOW_S, REALS, RST, SYN, Harness, Packet, as_version, service

pytestmark = pytest.mark.root
versions = pytest.mark.parametrize("version", [4, 6])
ways = pytest.mark.parametrize("way", ["snapshot", "datagrams"])


@pytest.fixture
def harness(roomy: Harness) -> Iterator[Harness]:
    roomy.reset()
    yield roomy
    roomy.reset()


def told_by(harness: Harness, way: str) -> Callable[[int, bytes, bytes, int], Merged]:
    """How a peer's sessions come."""
    return harness.merge if way == "snapshot" else harness.hear


def key_of(harness: Harness, version: int, number: int) -> bytes:
    key = harness.tables.versions[version].session_map.key(
        client_port=number % 65536, vip_port=socket.htons(80), protocol=6
    )
    ct.memmove(ct.addressof(key), struct.pack("!I", number), 4)
    return bytes(key)


def value_of(harness: Harness, version: int, entry: Entry, mode: int = 0) -> bytes:
    """A session as this node has it: with numbers that mean something here alone."""
    layout = harness.tables.versions[version].session_map.value
    value = layout(
        bytes=entry.packets * 100, packets=entry.packets, last_s=entry.last_s, real_port=entry.way, state=entry.state,
        mode=mode, member=7, generation=9, sync_due_s=5, hop=3, refresh_s=4, learnt=entry.learnt, limited=1,
    )  # fmt: skip
    return bytes(value)


def entry_of(value: Any) -> Entry:
    assert value.bytes == value.packets * 100
    return Entry(value.real_port, value.last_s, value.state, value.packets, bool(value.learnt))


def entries() -> Iterator[Entry]:
    for way, last_s, state, packets in itertools.product(
        (1, 2), (99, 100, 101), range(len(STATES) + 1), (1, 3, 2**32 - 1)
    ):
        yield Entry(way, last_s, state, packets)


def pairs() -> list[tuple[Entry | None, Entry]]:
    """Every way in which a record may differ from what is here, or there is nothing here."""
    here = [entry for entry in entries() if entry.last_s == 100 and entry.way == 1 and entry.state < len(STATES)]
    return [*((None, told) for told in entries()), *itertools.product(here, entries())]


@ways
@versions
def test_every_pair_as_the_rule_has_it(harness: Harness, version: int, way: str) -> None:
    """All of fullnat, which alone has answers. In datagrams these have no counters, which would be the session's."""
    table = harness.tables.versions[version].session_map
    cases = list(enumerate(pairs()))
    keys = {number: key_of(harness, version, number) for number, _ in cases}
    known = [(keys[number], value_of(harness, version, here, FULLNAT)) for number, (here, _) in cases if here]
    assert table.put_many(*map(b"".join, zip(*known, strict=True)), len(known)) == len(known)
    told = [(keys[number], value_of(harness, version, record, FULLNAT)) for number, (_, record) in cases]
    outcome = told_by(harness, way)(version, *map(b"".join, zip(*told, strict=True)), len(told))
    if way == "datagrams":
        cases = [(n, (here, replace(of, packets=0) if of.state == ANSWER else of)) for n, (here, of) in cases]
    new = newer = 0
    for number, (here, record) in cases:
        value = table.get(table.key.from_buffer_copy(keys[number]))
        expected = merged(here, record)
        assert (value and entry_of(value)) == expected, (here, record)
        if value is None or here is None:
            new += value is not None
        else:
            newer += expected != here
        if value is not None:  # what keeps its server keeps what this node knows of it, and nothing else does
            kept = here is not None and here.way == value.real_port
            mine = (value.member, value.generation, value.sync_due_s, value.hop, value.refresh_s, value.limited)
            assert mine == ((7, 9, 5, 3, 4, 1) if kept else (0, 0, 2**32 - 1, 0, 0, 0)), (here, record)
    assert outcome[0] == new
    assert (
        newer
        <= outcome[1]
        <= newer
        + sum(  # of those that say the same in other words
            here is not None and merged(here, record) == here and record.last_s >= here.last_s
            for _, (here, record) in cases
        )
    )
    assert outcome[2:] == (0, 0)


@versions
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 30, 31, 32, 53, 54, 55, 500])
def test_however_many(harness: Harness, version: int, count: int) -> None:
    keys = b"".join(key_of(harness, version, number) for number in range(count))
    values = value_of(harness, version, Entry(1, 100)) * count
    assert harness.merge(version, keys, values, count) == Merged(new=count)
    assert harness.merge(version, keys, values, count) == Merged()
    values = value_of(harness, version, Entry(1, 101)) * count
    assert harness.merge(version, keys, values, count) == Merged(newer=count)
    assert harness.tables.end_keys(version, keys, 100) == 0
    assert harness.tables.end_keys(version, keys, 101) == count
    assert harness.tables.sessions() == []


@versions
@pytest.mark.parametrize("shift_s", [-20, -1, 3])
def test_a_record_is_as_old_as_it_is_by_our_clock(harness: Harness, version: int, shift_s: int) -> None:
    keys = b"".join(key_of(harness, version, number) for number in range(50))
    body = keys + value_of(harness, version, Entry(1, 100)) * 50
    assert harness.tables.merge_sessions(version, body, 50, shift_s) == Merged(new=50)
    assert harness.tables.merge_sessions(version, body, 50, shift_s) == Merged()
    assert harness.tables.merge_sessions(version, body, 50, shift_s + 1) == Merged(newer=50)
    table = harness.tables.versions[version].session_map
    assert {table.get(table.key.from_buffer_copy(keys, 0)).last_s} == {101 + shift_s}


def test_frames_hold_what_they_say() -> None:
    lines = (SOURCES / "merge.h").read_text().splitlines()
    sizes = [int(line.split()[2]) for line in lines if line.startswith("#define MERGE_RECORDS")]
    assert sizes == [RECORDS[4], RECORDS[6]]


def test_a_full_table_says_so() -> None:
    small = Harness(sessions=64, half_open=16)
    try:
        keys = b"".join(key_of(small, 4, number) for number in range(200))
        outcome = small.merge(4, keys, value_of(small, 4, Entry(1, 100)) * 200, 200)
        assert (outcome.new + outcome.full, outcome.full >= 100) == (200, True)
        assert len(small.tables.sessions()) == outcome.new
    finally:
        small.close()


# What follows from the rule

STEADY = st.sampled_from([ESTABLISHED, FIN_WAIT, CLOSED, UDP])
HISTORIES = st.lists(st.builds(Entry, st.integers(1, 3), st.integers(1, 4), STEADY, st.integers(3, 9)), max_size=8)


@given(HISTORIES, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_late_and_repeated_records_change_nothing_newer(records: list[Entry], chance: random.Random) -> None:
    """Whatever comes in whatever order and however often: the second of the last packet never goes back."""
    here: Entry | None = None
    for record in chance.choices(records, k=20) if records else []:
        before, here = here, merged(here, record)
        assert before is None or (here is not None and here.last_s >= before.last_s)
        assert merged(here, record) in (here, merged(merged(here, record), record))


@given(HISTORIES, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_nodes_that_hear_the_same_agree_on_the_last_server(records: list[Entry], chance: random.Random) -> None:
    """As long as no two servers were spoken to in the last second."""
    last = [record for record in records if record.last_s == max(each.last_s for each in records)]
    if not last or len({record.way for record in last}) > 1:
        return
    for _ in range(3):
        here: Entry | None = None
        for record in chance.sample(records, len(records)):
            here = merged(here, record)
        assert here is not None
        assert (here.way, here.last_s) == (last[0].way, last[0].last_s)
        assert here.state in {record.state for record in last}


# Counts of lc, and packets that go on


def served(version: int) -> list[L4Service]:
    return [service(80, scheduler=Scheduler.LC, version=version), service(90, scheduler=Scheduler.WRR, version=version)]


def opened(harness: Harness, version: int, port: int, number: int) -> tuple[Packet, str]:
    """A connection with three packets, and its server."""
    packet = Packet(port=port, source_port=number, flags=ACK, sequence=1001).as_version(version)
    harness.run(replace(packet, flags=SYN, sequence=1000))
    return packet, {harness.real_of(packet) for _ in range(3)}.pop()


def table_of(harness: Harness, version: int) -> tuple[bytes, bytes, int]:
    ((keys, values, count),) = harness.tables.versions[version].session_map.blocks(1024)
    return keys, values, count


def changed(harness: Harness, version: int, **fields: int) -> tuple[bytes, bytes, int]:
    """The table as a peer would tell it, with these fields."""
    keys, values, count = table_of(harness, version)
    layout = harness.tables.versions[version].session_map.value
    records = (layout * count).from_buffer_copy(values)
    for record in records:
        for name, number in fields.items():
            setattr(record, name, number)
    return keys, bytes(records), count


@ways
@versions
def test_counts_stay_exact_whatever_peers_tell(harness: Harness, version: int, way: str) -> None:
    harness.reset(served(version))
    for number in range(2000, 2060):
        opened(harness, version, 80, number)
    chance = random.Random(version)
    for turn in range(40):
        keys, values, count = table_of(harness, version)
        layout = harness.tables.versions[version].session_map.value
        records = (layout * count).from_buffer_copy(values)
        for record in records:
            record.last_s += chance.choice((-1, 0, 0, 1))
            record.state = chance.choice((ESTABLISHED, FIN_WAIT, CLOSED))
            record.packets += chance.choice((-1, 0, 1))
            record.real = chance.choice(records).real
        told_by(harness, way)(version, keys, bytes(records), count)
        assert counted(harness) == living(harness), turn
        for number in chance.sample(range(2000, 2060), 5):
            flags = chance.choice((ACK, ACK, ACK | FIN, RST))
            harness.run(Packet(source_port=number, flags=flags, sequence=1001).as_version(version))
        assert counted(harness) == living(harness), turn
    harness.tables.end_keys(version, table_of(harness, version)[0], NOW_S + 100)
    assert set(counted(harness).values()) == {0}


def counted(harness: Harness) -> dict[str, int]:
    return harness.tables.connections()["tcp-80"]


def living(harness: Harness) -> dict[str, int]:
    views = harness.tables.sessions()
    living = [view.real for view in views if view.state in ("established", "unproven")]
    return {real: living.count(real) for real in counted(harness)}


@ways
@versions
def test_a_flow_whose_packets_pass_here_keeps_its_server(harness: Harness, version: int, way: str) -> None:
    """A peer that had it before, with another server, cannot take it away; one that has it now can."""
    harness.reset(served(version))
    packet, real = opened(harness, version, 90, 3000)
    keys, values, count = table_of(harness, version)
    value = harness.tables.versions[version].session_map.value.from_buffer_copy(values)
    other = next(each for each in as_version(version, *REALS) if each != real)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    ct.memmove(ct.addressof(value) + type(value).real.offset, socket.inet_pton(family, other), type(value).real.size)
    for last_s, expected in ((NOW_S - 1, real), (NOW_S, real), (NOW_S + 1, other)):
        value.last_s = last_s
        told_by(harness, way)(version, keys, bytes(value), count)
        assert harness.real_of(packet) == expected


@versions
def test_what_has_ended_stays_ended(harness: Harness, version: int) -> None:
    """A datagram from before the end that comes after it."""
    harness.reset(served(version))
    packet, _ = opened(harness, version, 90, 3000)
    before = changed(harness, version, learnt=1)
    harness.run(replace(packet, flags=FIN | ACK))
    assert harness.merge(version, *before) == Merged()
    assert [view.state for view in harness.tables.sessions()] == ["fin-wait"]
    assert harness.merge(version, *changed(harness, version, state=CLOSED)) == Merged(newer=1)
    assert [view.state for view in harness.tables.sessions()] == ["closed"]
    assert harness.merge(version, *before) == Merged()


def test_one_ack_is_told_to_nobody(harness: Harness) -> None:
    harness.reset([service(80)])
    harness.run(Packet(flags=ACK))
    record = changed(harness, 4)
    assert [view.state for view in harness.tables.sessions()] == [STATES[UNPROVEN]]
    harness.tables.end_keys(4, record[0], NOW_S)
    assert harness.merge(4, *record) == Merged()
    assert harness.tables.sessions() == []


def test_an_end_takes_fullnats_answer_along(harness: Harness) -> None:
    keys = [key_of(harness, 4, 1), key_of(harness, 4, 2)]
    layout = harness.tables.versions[4].session_map.value
    session = layout(last_s=100, mode=3, source_port=9, real_port=8)
    table = harness.tables.versions[4].session_map
    answer_key = table.key(client_port=8, vip_port=9, protocol=6)
    table.put(table.key.from_buffer_copy(keys[0]), session)
    table.put(answer_key, layout(last_s=100, mode=3, state=ANSWER))
    assert harness.tables.end_keys(4, b"".join(keys), 99) == 0
    assert harness.tables.end_keys(4, b"".join(keys), 100) == 1
    assert list(table.blocks(16)) == []
