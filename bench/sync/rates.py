"""Records a second on one core: from the data plane's ring to the socket, and from the socket into the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

from bench import Row
from bench.l4.rig import NOW_S
from bench.sync.ends import Clients, End, Page, pages, sessions
from l4fast.sync_codec import parse_header
from l4fast.sync_io import SyncIO

SEND_GOAL, RECEIVE_GOAL = 4_000_000.0, 800_000.0
AT_ONCE = 64  # datagrams between two looks at the clock, as many as the agent takes in one turn
ETHERNET_BYTES = 14 + 20 + 8  # before a datagram's bytes, IPv4


def rows(a: End, b: End, flows: int, rounds: int) -> Iterator[Row]:
    for version in (4, 6):
        yield from _sending(a, b, version, flows, rounds)
        yield from _receiving(a, b, version, flows, rounds)


def _sending(a: End, b: End, version: int, flows: int, rounds: int) -> Iterator[Row]:
    """What it costs the agent to empty the ring, page by page; nobody takes the datagrams out of the other socket."""
    clients = Clients(a, version, flows)
    io = a.io(b.sock)
    a.tables.on_sync_page(io._on_page)
    clients.send(2)
    costs: list[float] = []
    for _ in range(rounds):
        clients.send()
        records = a.sync.counters["sent_records"]
        begun = time.process_time()
        io._empty_ring(version)
        took_s = time.process_time() - begun
        records = a.sync.counters["sent_records"] - records
        assert records >= flows * 0.9, f"{records} of {flows} records"
        costs.append(took_s / records)
        a.tables.flush_sync()
        io._empty_ring(version)
        clients.later()
    clients.close()
    wire = [each for each in _in(b) if parse_header(each).ip == version]
    cost_s = statistics.median(costs)
    name = f"IPv{version} records sent"
    yield Row(f"{name} on one core", "1/s", 1 / cost_s, "the goal", SEND_GOAL, 1.0, higher_is_better=True)
    yield Row(f"{name}, CPU each", "ns", cost_s * 1e9)
    layout = a.sync.layouts[version]
    on_wire = (sum(map(len, wire)) + ETHERNET_BYTES * len(wire)) / sum(parse_header(each).count for each in wire)
    yield Row(f"{name}, bytes each on the wire", "B", on_wire, "key and value", layout.key_size + layout.value_size)


def _receiving(a: End, b: End, version: int, flows: int, rounds: int) -> Iterator[Row]:
    """Sessions that are new in the table, and the same again with a later packet."""
    io = b.io(a.sock)
    keys, _ = sessions(b.plane, version, flows)
    new: list[float] = []
    again: list[float] = []
    for turn in range(rounds):
        for costs, last_s in ((new, NOW_S), (again, NOW_S + 1)):
            costs.append(_received(a, b, io, version, pages(a, version, flows, last_s + 10 * turn)) / flows)
        b.tables.end_keys(version, keys, 0xFFFFFFFF)
    io.stop()
    name = f"IPv{version} records received"
    for what, costs in (("new", new), ("known", again)):
        cost_s = statistics.median(costs)
        yield Row(
            f"{name} on one core, {what}", "1/s", 1 / cost_s, "the goal", RECEIVE_GOAL, 1.0, higher_is_better=True
        )
        yield Row(f"{name}, {what}, CPU each", "ns", cost_s * 1e9)


def _received(a: End, b: End, io: SyncIO, version: int, told: Sequence[Page]) -> float:
    """Seconds of CPU for taking these in; sending them is not counted."""
    took_s, before = 0.0, b.sync.counters["received_records"]
    for at in range(0, len(told), AT_ONCE):
        for page in told[at : at + AT_ONCE]:
            a.sync.send_sessions(version, *page, time.time_ns() // 1000)
        for datagram in a.sync.data_to_send():
            a.sock.sendto(datagram, b.sock.getsockname())
        begun = time.process_time()
        io._readable()
        took_s += time.process_time() - begun
    b.sync.data_to_send()
    received, count = b.sync.counters["received_records"] - before, sum(count for _, count, _ in told)
    assert received == count, f"{received} of {count} records"
    return took_s


def _in(end: End) -> list[bytes]:
    """What waits in its socket."""
    waiting = []
    try:
        while True:
            waiting.append(end.sock.recv(2000))
    except BlockingIOError:
        return waiting
