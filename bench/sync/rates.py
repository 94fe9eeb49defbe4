"""Records a second on one core: from the data plane's ring to the socket, and from the socket into the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from bench import Row
from bench.l4.rig import NOW_S
from bench.sync.ends import FULL_PAGE, Clients, End, sessions
from l4fast.sync_codec import records_per_datagram
from l4fast.sync_io import SyncIO

SEND_GOAL, RECEIVE_GOAL = 4_000_000.0, 800_000.0
AT_ONCE = 64  # datagrams between two looks at the clock, as many as the agent takes in one turn
ETHERNET_BYTES = 14 + 20 + 8  # around a datagram, IPv4


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
    before = dict(a.sync.counters)
    for _ in range(rounds):
        clients.send()
        records = a.sync.counters["sent_records"]
        begun = time.process_time()
        a.tables.drain_ring(version)
        took_s = time.process_time() - begun
        records = a.sync.counters["sent_records"] - records
        assert records >= flows * 0.9, f"{records} of {flows} records"
        costs.append(took_s / records)
        a.tables.flush_sync()
        a.tables.drain_ring(version)
        clients.later()
    clients.close()
    empty(b)
    cost_s = statistics.median(costs)
    name = f"IPv{version} records sent"
    yield Row(f"{name} on one core", "1/s", 1 / cost_s, "the goal", SEND_GOAL, 1.0, higher_is_better=True)
    yield Row(f"{name}, CPU each", "ns", cost_s * 1e9)
    sent = {each: a.sync.counters[each] - before[each] for each in ("sent_datagrams", "sent_records")}
    record = sum(_sizes(a, version))
    overhead = (72 + ETHERNET_BYTES) * sent["sent_datagrams"] / sent["sent_records"]
    yield Row(f"{name}, bytes each on the wire", "B", record + overhead, "key and value", record)


def _sizes(end: End, version: int) -> tuple[int, int]:
    tables = end.tables.versions[version]
    return tables.key_size, tables.value_size


def _receiving(a: End, b: End, version: int, flows: int, rounds: int) -> Iterator[Row]:
    """Sessions that are new in the table, and the same again with a later packet."""
    io = b.io(a.sock)
    per = min(FULL_PAGE[version], records_per_datagram(*_sizes(a, version)))
    new: list[float] = []
    again: list[float] = []
    for turn in range(rounds):
        for costs, last_s in ((new, NOW_S), (again, NOW_S + 1)):
            keys, values = sessions(b.plane, version, flows, last_s + 10 * turn)
            costs.append(_received(a, b, io, version, keys, values, per) / flows)
        b.tables.end_keys(version, keys, 0xFFFFFFFF)
    io.stop()
    name = f"IPv{version} records received"
    for what, costs in (("new", new), ("known", again)):
        cost_s = statistics.median(costs)
        yield Row(
            f"{name} on one core, {what}", "1/s", 1 / cost_s, "the goal", RECEIVE_GOAL, 1.0, higher_is_better=True
        )
        yield Row(f"{name}, {what}, CPU each", "ns", cost_s * 1e9)


def _received(a: End, b: End, io: SyncIO, version: int, keys: bytes, values: bytes, per: int) -> float:
    """Seconds of CPU for taking these in, in full datagrams; sending them is not counted."""
    key_size, value_size = _sizes(a, version)
    count = len(keys) // key_size
    took_s, before = 0.0, b.sync.counters["received_records"]
    for at in range(0, count, per * AT_ONCE):
        for first in range(at, min(at + per * AT_ONCE, count), per):
            n = min(per, count - first)
            a.sync.send_sessions(
                version, keys[first * key_size : (first + n) * key_size],
                values[first * value_size : (first + n) * value_size], n, time.time_ns() // 1000,
            )  # fmt: skip
        for datagram in a.sync.data_to_send():
            a.sock.sendto(datagram, b.sock.getsockname())
        begun = time.process_time()
        io._readable()
        took_s += time.process_time() - begun
    b.sync.data_to_send()
    received = b.sync.counters["received_records"] - before
    assert received == count, f"{received} of {count} records"
    return took_s


def empty(end: End) -> None:
    """Throws away what waits in its socket."""
    try:
        while True:
            end.sock.recv(2000)
    except BlockingIOError:
        return
