"""What the programs tell peers of sessions and understand of what they tell, byte by byte as l4fast/sync.md has it."""

from __future__ import annotations

import functools
import operator
import os
import random
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.model import Mode, Scheduler
from core.resolve import L4Service
from l4fast import sync_codec
from l4fast.addresses import address_bytes
from l4fast.loader import SOURCES
from l4fast.merging import Merged
from l4fast.sessions import STATES, Wanted
from l4fast.sync_codec import MAX_BODY
from tests.l4fast.told import ANSWER, BODY, END, ENDS, RECORD, Page, Told, of_entry, pages, parsed
from tests.packets import ACK, CLIENT, NOW_S, REALS, UDP, VIP, Harness, Packet, as_version, service

pytestmark = pytest.mark.root
versions = pytest.mark.parametrize("version", [4, 6])
POOL = ("10.0.9.1", "10.0.9.2")
UDP_STATE = 4


@pytest.fixture(scope="module")
def loaded() -> Iterator[tuple[Harness, list[tuple[int, Page]]]]:
    harness = Harness(sessions=1 << 14, half_open=1024)
    heard: list[tuple[int, Page]] = []
    harness.tables.on_sync_page(lambda version, *page: heard.append((version, page)))
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # a page belongs to a CPU
    yield harness, heard
    os.sched_setaffinity(0, allowed)
    harness.close()


class Teller:
    """A node, and the pages that its peers get."""

    def __init__(self, harness: Harness, heard: list[tuple[int, Page]], version: int) -> None:
        self.harness, self.version = harness, version
        self._heard = heard

    def start(self, *services: L4Service) -> None:
        self.harness.reset(services, as_version(self.version, *POOL))
        self.pages()

    def pages(self) -> list[Page]:
        self.harness.tables.flush_sync()
        self.harness.tables.drain_ring(self.version)
        heard, self._heard[:] = list(self._heard), []
        assert {version for version, _ in heard} <= {self.version}
        return [page for _, page in heard]

    def told(self) -> list[Told]:
        return [told for page in self.pages() for told in parsed(self.version, page)]

    def entries(self) -> list[Told]:
        """What there is to tell of the session table."""
        table = self.harness.tables.versions[self.version].session_map
        return [
            of_entry(key, value)
            for keys, values, count in table.blocks(4096)
            for key, value in zip(
                (table.key * count).from_buffer_copy(keys), (table.value * count).from_buffer_copy(values), strict=True
            )
        ]

    def query(self, port: int, number: int, times: int = 3) -> None:
        frame = Packet(protocol=UDP, port=port, source_port=number).as_version(self.version).frame()
        for _ in range(times):
            self.harness.plane.run(frame)


@pytest.fixture
def teller(loaded: tuple[Harness, list[tuple[int, Page]]], request: pytest.FixtureRequest) -> Iterator[Teller]:
    harness, heard = loaded
    yield Teller(harness, heard, request.getfixturevalue("version"))
    harness.reset()
    harness.tables.flush_sync()
    for version in (4, 6):
        harness.tables.drain_ring(version)
    heard.clear()


@versions
def test_the_document_draws_ends_and_records(teller: Teller, version: int) -> None:
    text = Path(sync_codec.__file__).with_name("sync.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\w+) \|", text, re.M)
    column = 0 if version == 4 else 2
    drawn = [(name, int(at), int(size)) for *sizes, name in rows for at, size in [sizes[column : column + 2]]]
    laid_out = [
        (name, getattr(of, name).offset, getattr(of, name).size)
        for of in teller.harness.tables.layouts[version][2:]
        for name, *_ in of._fields_
    ]
    assert drawn == laid_out
    assert (BODY, f"at most {ENDS} ends" in text) == (MAX_BODY, True)
    assert f"#define PAGE_BODY {BODY}\n" in (SOURCES / "types.h").read_text()
    states = re.search(r"\| state \| (.*?) \|", text)
    assert states is not None
    assert [name.lower() for _, name in re.findall(r"(\d) ([\w-]+)", states[1])] == list(STATES)


@versions
def test_the_bytes_of_a_session(teller: Teller, version: int) -> None:
    teller.start(service(80, version=version, weights=(100, 0, 0)))
    vip, client, real = (address_bytes(each) for each in as_version(version, VIP, CLIENT, REALS[0]))
    frame = Packet(flags=ACK, source_port=0x1234).as_version(version).frame()
    teller.harness.run(frame)
    table = teller.harness.tables.versions[version].session_map
    ((keys, values, _),) = table.blocks(16)
    key, value = table.key.from_buffer_copy(keys), table.value.from_buffer_copy(values)
    value.bytes, value.packets, value.sync_due_s = 0xABCD << 32, 0x01020303, 0
    table.put(key, value)
    teller.harness.run(frame)
    ((body, count, ends),) = teller.pages()
    assert body.hex(" ") == b"".join((
        NOW_S.to_bytes(4, "big"), vip, b"\0\x50\6\0", real, b"\x1f\x90\0\0",
        client, b"\1\2\3\4", (len(frame) - 14).to_bytes(4, "big"), b"\xab\xcd\x12\x34\0\1\1\0",
    )).hex(" ")  # fmt: skip
    assert (count, ends) == (1, 2)


@versions
def test_fullnat_tells_of_both_directions(teller: Teller, version: int) -> None:
    teller.start(service(53, Mode.FULLNAT, protocol="udp", version=version))
    teller.query(53, 2000)
    ((body, count, ends),) = teller.pages()
    there = teller.entries()
    told = parsed(version, (body, count, ends))
    assert [each.state for each in told] == [UDP_STATE, ANSWER]
    assert replace(told[0], state=ANSWER) == told[1]
    assert told[0] in there
    assert replace(told[1], packets=0, bytes=0) in there
    assert (len(there), count, ends) == (2, 2, 3)


def shapes(version: int) -> list[L4Service]:
    """More listeners and servers than ends in a page, of every mode."""
    return [
        service(1000 + n, mode, Scheduler.RR, "udp", real_port=5000 + n, version=version)
        for n, mode in enumerate(list(Mode) * 10)
    ]


@versions
@pytest.mark.parametrize("listeners", [1, 4, 40])
def test_whatever_is_told_is_what_there_is(teller: Teller, version: int, listeners: int) -> None:
    teller.start(*shapes(version)[:listeners])
    chance = random.Random(listeners)
    for number in range(600):
        teller.query(1000 + chance.randrange(listeners), 2000 + number)
    pages = teller.pages()
    told = [each for page in pages for each in parsed(version, page)]
    there = teller.entries()
    sessions = [each for each in there if each.state != ANSWER]
    assert len(sessions) == 600
    assert sorted((each for each in told if each.state != ANSWER), key=repr) == sorted(sessions, key=repr)
    answers = [replace(each, packets=0, bytes=0) for each in told if each.state == ANSWER]
    assert sorted(answers, key=repr) == sorted((each for each in there if each.state == ANSWER), key=repr)
    if listeners == 1:  # of one VIP and three servers
        assert max(ends for _, _, ends in pages) == 4
        assert max(count for _, count, _ in pages) == {4: 67, 6: 40}[version]


@versions
def test_servers_that_share_a_hint(teller: Teller, version: int) -> None:
    """Each makes the other be entered anew, and neither is taken for the other."""
    port = colliding(version, REALS[0], 5000)
    teller.start(*(
        service(to, protocol="udp", real_port=real_port, reals=REALS[:1], weights=(1,), version=version)
        for to, real_port in ((1000, 5000), (1001, port))
    ))  # fmt: skip
    for number in range(200):
        teller.query(1000 + number % 2, 2000 + number)
    pages = teller.pages()
    told = [each for page in pages for each in parsed(version, page)]
    assert sorted(told, key=repr) == sorted(teller.entries(), key=repr)
    assert {each.real[1] for each in told} == {5000, port}
    assert max(ends for _, _, ends in pages) > 20


def colliding(version: int, real: str, port: int) -> int:
    """Another port with which the server's end has the same hint (sync.h: hint_of)."""

    def hint(of: int) -> int:
        words = struct.unpack(f"={len(address_bytes(address)) // 4}I", address_bytes(address))
        return functools.reduce(operator.xor, words, socket.htons(of)) * 0x9E3779B1 % (1 << 32) >> 22

    (address,) = as_version(version, real)
    return next(other for other in range(port + 1, 65536) if hint(other) == hint(port))


@versions
def test_a_page_is_of_one_second(teller: Teller, version: int) -> None:
    teller.start(service(53, protocol="udp", version=version))
    for second in range(3):
        teller.harness.tables.set_epoch(NOW_S + second)
        for number in range(5):
            teller.query(53, 2000 + 10 * second + number)
    pages = teller.pages()
    assert [(count, struct.unpack_from("!I", body)[0] - NOW_S) for body, count, _ in pages] == [(5, 0), (5, 1), (5, 2)]
    assert sorted((each for page in pages for each in parsed(version, page)), key=repr) == sorted(
        teller.entries(), key=repr
    )


@versions
def test_telling_changes_no_packets_way(teller: Teller, version: int) -> None:
    """The packet that is told of leaves like those before and after it, tagged or not."""
    teller.start(service(53, protocol="udp", version=version), service(54, Mode.DR, protocol="udp", version=version))
    for port in (53, 54):
        packet = Packet(protocol=UDP, port=port, source_port=2000).as_version(version)
        for frame in (packet.frame(), tagged(packet.frame())):
            teller.query(port, 2000, times=3)
            teller.harness.tables.set_epoch(NOW_S + 1)
            quiet = teller.harness.plane.run(frame)
            teller.pages()
            teller.harness.tables.set_epoch(NOW_S + 30)
            assert teller.harness.plane.run(frame) == quiet
            assert len(teller.told()) == 1
            assert teller.harness.plane.run(frame) == quiet
            assert teller.told() == []
            teller.harness.tables.set_epoch(NOW_S)
            teller.harness.kill(Wanted(client=packet.source))


def tagged(frame: bytes) -> bytes:
    return frame[:12] + b"\x81\0\0\7" + frame[12:]


# Understanding


@versions
@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 40, 67])
def test_a_datagram_of_however_many(teller: Teller, version: int, count: int) -> None:
    teller.start()
    hear = teller.harness.tables.hear_sessions
    some = [record(version, number) for number in range(count)]
    assert sum(hear(version, *page).new for page in pages(version, some)) == count
    assert sorted(teller.entries(), key=repr) == sorted(some, key=repr)
    assert {hear(version, *page) for page in pages(version, some)} == {Merged()}
    for page in pages(version, some):
        assert hear(version, *page, 5) == Merged(newer=page[1])
    assert {each.last_s for each in teller.entries()} == {NOW_S + 5}


def record(version: int, number: int, **fields: Any) -> Told:
    vip, real = (address_bytes(each) for each in as_version(version, VIP, REALS[number % 3]))
    client = number.to_bytes(len(vip), "big")
    return replace(Told((client, 77), (vip, 80), (real, 8080), 6, 0, 0, NOW_S, 3 + number, 100 * number), **fields)


@versions
def test_what_makes_no_sense_is_passed_over(teller: Teller, version: int) -> None:
    """Places without an end, more records than there are, states that nobody knows; the records beside them hold."""
    teller.start()
    hear = teller.harness.tables.hear_sessions
    ((body, count, ends),) = pages(version, [record(version, number) for number in range(20)])
    at = 4 + ends * END[version].size
    size = RECORD[version].size
    for place in (-4, -3, -2):  # of VIP, server and source in a record
        wrong = bytearray(body)
        for number in range(0, 20, 2):
            wrong[at + number * size + size + place] = chance_of(place, ends)
        assert hear(version, bytes(wrong), count, ends).new == 10
        assert sorted(each.packets for each in teller.entries()) == list(range(4, 24, 2))
        teller.harness.reset()
    wrong = bytearray(body)
    wrong[at + size - 1 :: size] = bytes((6, 255) * 10)
    assert hear(version, bytes(wrong), count, ends) == Merged()
    wrong[at + size - 1 :: size] = bytes((ANSWER,) * 20)  # not of fullnat
    assert hear(version, bytes(wrong), count, ends) == Merged()
    assert hear(version, body, 255, ends).new == 20
    assert hear(version, body, 0, ends) == hear(version, b"", 20, ends) == Merged()


def chance_of(place: int, ends: int) -> int:
    return ends if place == -4 else 255


@versions
def test_no_bytes_whatever_do_harm(teller: Teller, version: int) -> None:
    """Who has the cluster key may tell anything; each record is one entry at most, and the node goes on."""
    teller.start(service(53, protocol="udp", version=version))
    chance = random.Random(version)
    hear = teller.harness.tables.hear_sessions
    for _ in range(300):
        count, ends = chance.randrange(256), chance.choice((chance.randrange(256), chance.randrange(20)))
        body = bytearray(chance.randbytes(chance.randrange(4, BODY + 1)))
        size, at = RECORD[version].size, 4 + ends * END[version].size
        for place, most in ((4, ends + 2), (3, ends + 2), (2, ends + 2), (1, 8)):  # some places and states are right
            tail = body[at + size - place :: size]
            body[at + size - place :: size] = bytes(chance.randrange(min(most, 256)) for _ in tail)
        before = len(teller.entries())
        merged = hear(version, bytes(body), count, ends)
        assert merged.new == len(teller.entries()) - before <= count
    assert teller.entries()
    teller.harness.reset([service(53, protocol="udp", version=version)])
    teller.query(53, 2000)
    assert len(teller.told()) == 1


@versions
def test_heard_sessions_count_where_connections_are_limited(teller: Teller, version: int) -> None:
    teller.start(service(80, scheduler=Scheduler.LC, version=version))
    some = [record(version, number) for number in range(30)]
    ended = [record(version, number, state=2, last_s=NOW_S + 1) for number in range(12)]
    for told, left in ((some, 30), (some, 30), (ended, 18)):
        for page in pages(version, told):
            teller.harness.tables.hear_sessions(version, *page)
        assert sum(teller.harness.tables.connections()["tcp-80"].values()) == left
