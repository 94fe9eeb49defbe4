"""The desired state of an L4 node as map contents, written by differences; sessions and counters read back.

`apply` takes the whole desired state each time. What the maps hold is mirrored here as bytes, so that applying the same
state twice writes nothing. The order of writes keeps every moment consistent for packets: reals and MAC addresses,
then rings, then the listeners that use them; deletions last. A ring is never written in place: a listener moves to a
new one by a single map update. Indexes of reals and rings that have gone come free at the next `apply`, when no packet
can still be using them.

A listener keeps its index (its counters) while it lives. Sessions remember a MAC address, a listener's index and its
refresh time; when any of these may have changed, or a listener's access list, the generation is raised and each session
looks them up again.

Draining: a real of weight 0, or one that is down, takes no new flow and keeps its sessions. The sessions of a removed
real or listener end with the next sweep of `expiry`.
"""

from __future__ import annotations

import ctypes as ct
import itertools
import logging
import os
import socket
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from core.model import HASH_SCHEDULERS, Mode, Scheduler
from core.resolve import L4Service
from core.schedule import flow_table, smooth_wrr_ring
from l4fast.access import AccessLists
from l4fast.bpf import syscall
from l4fast.errors import TablesError
from l4fast.loader import POOL_ADDRESSES_MOST, DataPlane, reasons
from l4fast.loads import Loads, ServiceKey, counted, places
from l4fast.mirror import Indexes, Mirror
from l4fast.sessions import SessionView, Wanted, view

log = logging.getLogger(__name__)

# The key of `macs` for the next hop towards clients: that of the default route.
CLIENT_GATEWAY = "0.0.0.0"
# Maglev's paper (section 5.3): the more slots per server, the more even; both primes. The size follows from the number
# of configured servers, healthy or not, so that a failing one does not change it.
MAGLEV_SMALL, MAGLEV_LARGE, MAGLEV_SMALL_REALS = 4099, 65537, 40
RING_LIMIT = 65537
PROTOCOLS: Mapping[str, int] = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
# enum mode and scheduler of types.h
MODES: Mapping[Mode, int] = {Mode.NAT: 0, Mode.DR: 1, Mode.TUNNEL: 2, Mode.FULLNAT: 3}
HASH, RING, LEAST = 0, 1, 2
# VIP_* of types.h
VIP_ANY, VIP_STATELESS = 1, 2
# What the hash of a flow is of (listener.hash_flow: client address, ports; listener.hash_service: VIP, protocol). The
# schedulers that do not hash use it for the packets of flows that nobody knows.
_ALL = (1 << 64) - 1
HASHED: Mapping[Scheduler, tuple[int, int]] = {
    Scheduler.SH: (0xFFFFFFFF << 32, 0),
    Scheduler.TCH: (_ALL, 0xFFFFFFFF << 8),
    Scheduler.MAGLEV: (_ALL, _ALL),
}
# How long an UNPROVEN session lives (expiry), and the share of the table that all of them may take.
UNPROVEN_TIMEOUT_S = 10
UNPROVEN_SHARE = 0.5
EVERY = Wanted()

# Echo requests that one CPU answers in a second: plenty for people and monitoring, and a flood gets no more.
ECHO_PER_CPU_S = 1000

# How many computed rings are kept for the next change (a server that fails and returns).
ORDERS_KEPT = 256
# Each open ring is a file descriptor until the kernel has it.
RINGS_AT_ONCE = 256
LISTENER_FIELDS = ("packets_in", "bytes_in", "packets_out", "bytes_out", "sessions_made", "denied")

Endpoint = tuple[str, int, str]  # the same of a real


@dataclass(slots=True)
class Sweep:
    """Where `expiry` stands in its walk over the sessions, and how many it has seen of each listener."""

    blocks: Iterator[tuple[bytes, bytes, int]] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    last_counts: Mapping[str, int] = field(default_factory=dict)


class Tables:
    """Writes the desired state into a data plane's maps. Not thread-safe: one task calls it.

    `sync_period_s`: how often a living session is told to the peers; a third of its idle timeout if that is less.
    """

    def __init__(self, plane: DataPlane, *, sync_period_s: int = 20) -> None:
        self.plane = plane
        self.services: dict[ServiceKey, L4Service] = {}
        self.sweep = Sweep()
        self.session_map = plane.map("sessions")
        self.KEY_SIZE = ct.sizeof(self.session_map.key)
        self.VALUE_SIZE = ct.sizeof(self.session_map.value)
        self.ring_fd = plane.program.map_fd("sync_ring")
        self._sync_period_s = sync_period_s
        self._listeners = Mirror(plane, "listeners")
        self._vips = Mirror(plane, "vips")
        self._reals = Mirror(plane, "reals")
        self._macs = Mirror(plane, "macs")
        self._owners = Mirror(plane, "reverse")
        self._listener_stats = plane.map("listener_stats")
        self._cpu_stats = plane.map("cpu_stats")
        self._cpu_page = plane.map("cpu_page")
        self._rings = plane.map("rings")
        self._chunk = plane.map("ring_template").value
        self._template_fd = plane.program.map_fd("ring_template")
        self._listener_indexes = Indexes(plane.sizes["MAX_LISTENERS"])
        self._real_indexes = Indexes(plane.sizes["MAX_REALS"])
        self._loads = Loads(plane)
        self._takers = Mirror(plane, "takers")
        self._ring_indexes = Indexes(plane.sizes["MAX_RINGS"])
        self._access_lists = AccessLists(plane)
        self._orders: dict[tuple[object, ...], array[int]] = {}
        self._reasons = reasons()
        self._generation = 1
        self._unpinnable: set[int] = set()
        self._pool: tuple[str, ...] = ()
        self._pools: frozenset[str] = frozenset()
        per_s = plane.sizes["MAX_SESSIONS"] * UNPROVEN_SHARE / UNPROVEN_TIMEOUT_S
        plane.set(generation=1, unproven_per_cpu_s=max(1, int(per_s / plane.cpus)), echo_per_cpu_s=ECHO_PER_CPU_S)

    # The desired state

    def apply(self, services: Sequence[L4Service], down: Set[tuple[str, int, str]], macs: Mapping[str, bytes]) -> None:
        """Makes the maps say this and nothing else.

        `down`: (address, port, "tcp" or "udp") of unhealthy reals. `macs`: the MAC address of the next hop by IPv4
        address, for reals and for CLIENT_GATEWAY. Raises TablesError, having changed nothing, when it does not fit.
        """
        wanted = {service_key(service): service for service in services}
        endpoints = {(real.address, real.port) for service in services for real in service.reals}
        reverse = _reverse_of(wanted)
        lists = {service.access.listed for service in services if service.access is not None}
        self._settle()
        self._check_room(wanted, endpoints, reverse)
        self._access_lists.check_room(lists)

        stale = self._write_reals(endpoints, macs)
        listener_index = {key: self._listener_index(key) for key in wanted}
        self._loads.write(
            wanted,
            listener_index,
            self._real_indexes.used,
            {address: address_bytes(address) for address, _ in endpoints},
        )
        rings = {key: self._ring(service, down) for key, service in wanted.items()}
        self._write_rings(set(rings.values()))
        self._access_lists.write(lists)
        shared = {key for keys in reverse.values() if len(keys) > 1 for key in keys}
        listeners = {
            _listener_key(key): self._listener(service, rings[key], key in shared) for key, service in wanted.items()
        }
        owners = {_reverse_key(end): self._reverse(keys, wanted) for end, keys in reverse.items()}
        vips = {address_bytes(vip): struct.pack("=I", n) for vip, n in Counter(key[0] for key in wanted).items()}
        vips |= {address_bytes(address): struct.pack("=I", 0) for address in self._pools}
        gateway = macs.get(CLIENT_GATEWAY, bytes(6))
        takers = self._taking(wanted, down)
        stale |= self._remembered_differs(listeners) | (gateway != bytes(self.plane.settings.gateway_mac))
        vip_filter = self._vip_filter(wanted)
        self._vips.add(vips)
        self.plane.set(
            vip_filter=[old | new for old, new in zip(self.plane.settings.vip_filter, vip_filter, strict=True)],
            pool=self._pool_slots(),
        )
        written = ((self._vips, vips), (self._takers, takers), (self._listeners, listeners), (self._owners, owners))
        for mirror, entries in written:
            mirror.add(entries)
        for mirror, entries in reversed(written):
            mirror.prune(entries)

        self._listener_indexes.keep(wanted.keys())
        self._real_indexes.keep(endpoints)
        self._loads.prune(places(wanted))
        self._ring_indexes.keep(set(rings.values()))
        self._access_lists.keep(lists)
        self.services = wanted
        if stale:  # 0 means "cold"; nobody keeps a generation for 65,535 changes
            self._generation = self._generation % 0xFFFF + 1
        self.plane.set(gateway_mac=gateway, generation=self._generation, vip_filter=vip_filter)

    def set_local(self, addresses: Sequence[str]) -> None:
        """The interface's own addresses, at most eight: what a real sends there is no client's reply (health checks).

        The first is the outer source in tunnel mode.
        """
        size = len(self.plane.settings.local)
        if len(addresses) > size:
            raise TablesError(f"{len(addresses)} local addresses; at most {size} are supported: give those of one link")
        words = [_word(address) for address in addresses]
        self.plane.set(local=words + [0] * (size - len(words)), address=words[0] if words else 0)

    def set_pools(self, own: Sequence[str], everyones: Collection[str]) -> None:
        """The source addresses of fullnat, this node's and all nodes' (those of `own` may be left out), from the next
        `apply` on. Raises TablesError."""
        size = len(self.plane.settings.pool)
        if len(own) > size:
            raise TablesError(f"{len(own)} source addresses; at most {size} are supported")
        if len(everyones) > POOL_ADDRESSES_MOST - size:
            raise TablesError(f"{len(everyones)} source addresses of all nodes; too many for the tables")
        self._pool, self._pools = tuple(own), frozenset(everyones) | frozenset(own)

    def _pool_slots(self) -> list[int]:
        size = len(self.plane.settings.pool)
        words = [_word(address) for address in self._pool]
        return [words[slot % len(words)] for slot in range(size)] if words else [0] * size

    def set_epoch(self, now_s: int) -> None:
        """The wall clock in seconds, called a few times a second: it stamps and ages sessions."""
        self.plane.set(now_s=now_s)

    def _settle(self) -> None:
        rings = self._ring_indexes.settle()
        if rings:
            # Not deleted: the kernel has no batch for that. The template is an inner map of one chunk.
            template = array("I", [self._template_fd] * len(rings))
            self._rings.put_many(array("I", rings).tobytes(), template.tobytes(), len(rings))
        self._access_lists.settle()
        self._real_indexes.settle()
        self._loads.settle()
        self._listener_indexes.settle()

    def _check_room(
        self,
        wanted: Mapping[ServiceKey, L4Service],
        endpoints: Collection[tuple[str, int]],
        reverse: Mapping[Endpoint, Sequence[ServiceKey]],
    ) -> None:
        for what, indexes, things in (
            ("listeners", self._listener_indexes, wanted),
            ("real servers", self._real_indexes, endpoints),
        ):
            if not indexes.room(things):
                raise TablesError(f"{len(things)} {what} do not fit the tables; load them larger")
        kept = sum(len(service.reals) for service in wanted.values() if service.persistence_timeout_s)
        if kept > self._takers.map.max_entries:
            raise TablesError(f"{kept} servers of listeners with persistence do not fit the tables; load them larger")
        if not self._loads.room(places(wanted)):
            raise TablesError(f"{len(places(wanted))} counts of connections do not fit the tables; load them larger")
        most = len(self._owners.map.value().candidates)
        for (address, port, _), keys in reverse.items():
            if len(keys) > most:
                names = ", ".join(f"{vip}:{vip_port}" for vip, vip_port, _ in keys)
                raise TablesError(
                    f"{len(keys)} nat listeners share the server {address}:{port} ({names}); at most {most} may: "
                    "use mode dr, or other ports"
                )

    def _vip_filter(self, services: Mapping[ServiceKey, L4Service]) -> list[int]:
        """select.h: vip_slot."""
        words = [0] * len(self.plane.settings.vip_filter)
        marks = [(service.vip, VIP_ANY | VIP_STATELESS * service.stateless) for service in services.values()]
        for address, mark in (*marks, *((address, VIP_ANY) for address in self._pools)):
            slot = (_word(address) * 0x9E3779B1 & 0xFFFFFFFF) >> 21
            words[slot // 16] |= mark << slot % 16 * 2
        return words

    def _write_reals(self, endpoints: Collection[tuple[str, int]], macs: Mapping[str, bytes]) -> bool:
        """Says whether a MAC address that sessions may remember has changed or gone."""
        entries: dict[bytes, bytes] = {}
        for address, port in endpoints:
            index, _ = self._real_indexes.take((address, port))
            mac = macs.get(address, bytes(6))
            entries[struct.pack("=I", index)] = address_bytes(address) + struct.pack("!H6s4x", port, mac)
        addresses = {address for address, _ in endpoints if address in macs}
        by_address = {address_bytes(address): macs[address] + bytes(2) for address in addresses}
        self._reals.add(entries)
        changed = self._macs.add(by_address)
        return bool(changed | self._macs.prune(by_address))

    def _ring(self, service: L4Service, down: Set[tuple[str, int, str]]) -> bytes:
        """The listener's ring: indexes of reals, slot by slot, 16 bits each. Empty if no real takes new flows."""
        reals = service.reals
        names = tuple(f"{real.address}:{real.port}" for real in reals)
        weights = tuple(min(real.weight, 1) if service.scheduler is Scheduler.RR else real.weight for real in reals)
        unhealthy = tuple(n for n, real in enumerate(reals) if (real.address, real.port, service.protocol) in down)
        indexes = [self._real_indexes.used[real.address, real.port] for real in reals]
        if counted(service):
            key = service_key(service)
            able = (real for n, real in enumerate(reals) if real.weight and n not in unhealthy)
            return array("H", (self._loads.number((key, real.address, real.port)) for real in able)).tobytes()
        order = self._order(service.scheduler in HASH_SCHEDULERS, names, weights, unhealthy)
        return array("H", map(indexes.__getitem__, order)).tobytes()

    def _order(
        self, hashed: bool, names: tuple[str, ...], weights: tuple[int, ...], unhealthy: tuple[int, ...]
    ) -> array[int]:
        key = (hashed, names, weights, unhealthy)
        if key not in self._orders:
            if len(self._orders) >= ORDERS_KEPT:
                self._orders.clear()
            if hashed:
                size = MAGLEV_SMALL if len(names) <= MAGLEV_SMALL_REALS else MAGLEV_LARGE
                self._orders[key] = flow_table(names, weights, unhealthy, size)
            else:
                healthy = [0 if n in unhealthy else weight for n, weight in enumerate(weights)]
                self._orders[key] = smooth_wrr_ring(healthy, RING_LIMIT)
        return self._orders[key]

    def _write_rings(self, contents: Set[bytes]) -> None:
        """Makes those that are new, in few calls: the kernel waits milliseconds (RCU) at the end of each."""
        new = [content for content in contents if content and content not in self._ring_indexes.used]
        for at in range(0, len(new), RINGS_AT_ONCE):
            some = new[at : at + RINGS_AT_ONCE]
            descriptors: list[int] = []
            try:
                descriptors += map(self._new_ring, some)
                indexes = array("I", (self._ring_indexes.take(content)[0] for content in some))
                self._rings.put_many(indexes.tobytes(), array("I", descriptors).tobytes(), len(some))
            finally:
                for fd in descriptors:
                    os.close(fd)

    def _new_ring(self, content: bytes) -> int:
        """An inner map; the caller closes the descriptor."""
        size = ct.sizeof(self._chunk)
        chunks = -(-len(content) // size)
        fd = syscall.create_map(syscall.MAP_TYPE_ARRAY, 4, size, chunks, syscall.F_INNER_MAP, "ring")
        keys = array("I", range(chunks)).tobytes()
        syscall.update_batch(fd, keys, content.ljust(chunks * size, b"\0"), chunks)
        return fd

    def _listener(self, service: L4Service, ring: bytes, shared: bool) -> bytes:
        index = self._listener_indexes.used[service_key(service)]
        scheduler = HASH if service.scheduler in HASH_SCHEDULERS else LEAST if counted(service) else RING
        hash_flow, hash_service = HASHED.get(service.scheduler, HASHED[Scheduler.MAGLEV])
        value = self._listeners.map.value(
            ring=self._ring_indexes.used.get(ring, 0),
            ring_size=len(ring) // 2,
            index=index,
            mode=MODES[service.mode],
            scheduler=scheduler,
            refresh_s=max(1, min(self._sync_period_s, service.idle_timeout_s // 3, 255)),
            track=shared or ((scheduler != HASH or service.persistence_timeout_s > 0) and service.protocol == "tcp"),
            persist_s=service.persistence_timeout_s,
            persist_mask=_mask(service.persistence_prefix),
            stateless=service.stateless,
            hash_flow=hash_flow,
            hash_service=hash_service,
            **self._access_lists.fields(service.access),
        )
        return bytes(value)

    def _taking(self, services: Mapping[ServiceKey, L4Service], down: Set[tuple[str, int, str]]) -> dict[bytes, bytes]:
        """Of listeners that keep clients' reals: those that take new flows."""
        return {
            address_bytes(real.address)
            + struct.pack("!H", real.port)
            + struct.pack("=H", self._listener_indexes.used[key]): struct.pack(
                "=I", self._real_indexes.used[real.address, real.port]
            )
            for key, service in services.items()
            if service.persistence_timeout_s
            for real in service.reals
            if real.weight and (real.address, real.port, service.protocol) not in down
        }

    def _listener_index(self, key: ServiceKey) -> int:
        index, new = self._listener_indexes.take(key)
        if new:
            zero = self._listener_stats.value()
            self._listener_stats.put_per_cpu(self._listener_stats.key(index), [zero] * self.plane.cpus)
        return index

    def _remembered_differs(self, listeners: Mapping[bytes, bytes]) -> bool:
        """Whether sessions remember something of a listener that will be gone or different, or who is admitted."""

        def remembered(entry: bytes) -> tuple[int, ...]:
            value = self._listeners.map.value.from_buffer_copy(entry)
            return value.index, value.refresh_s, value.acl, value.access_list, value.scheduler == LEAST

        return any(
            key not in listeners or remembered(listeners[key]) != remembered(entry)
            for key, entry in self._listeners.held.items()
        )

    def _reverse(self, keys: Sequence[ServiceKey], services: Mapping[ServiceKey, L4Service]) -> bytes:
        value = self._owners.map.value(count=len(keys), stateless=len(keys) == 1 and services[keys[0]].stateless)
        for candidate, (vip, port, protocol) in zip(value.candidates, keys, strict=False):
            candidate.vip = _word(vip)
            candidate.port = socket.htons(port)
            candidate.listener = self._listener_indexes.used[vip, port, protocol]
        return bytes(value)

    # What the node has counted and knows

    def counters(self) -> dict[str, int]:
        """Packets by verdict reason, and events, summed over the CPUs since the program was loaded."""
        total: Counter[str] = Counter(dict.fromkeys(self._reasons, 0))
        for value in self._cpu_stats.get_per_cpu(self._cpu_stats.key(0), self.plane.cpus):
            for name, number in self._reasons.items():
                total[name] += value.count[number]
        return dict(total)

    def listener_counters(self) -> dict[str, dict[str, int]]:
        """By listener name (its VIPs together): packets and bytes in each direction, sessions made since it was added,
        packets denied, sessions held as of the last whole sweep. Answers in dr mode do not pass here: out is zero."""
        result: dict[str, dict[str, int]] = {}
        for key, service in self.services.items():
            index = self._listener_indexes.used[key]
            row = result.setdefault(service.listener, dict.fromkeys((*LISTENER_FIELDS, "sessions"), 0))
            if not row["sessions"]:
                row["sessions"] = self.sweep.last_counts.get(service.listener, 0)
            for value in self._listener_stats.get_per_cpu(self._listener_stats.key(index), self.plane.cpus):
                for name in LISTENER_FIELDS:
                    row[name] += getattr(value, name)
        return result

    def sessions(self, wanted: Wanted = EVERY, *, limit: int = 1000) -> list[SessionView]:
        """Up to `limit` of the sessions wanted; the order is the hash table's."""
        now_s = self.plane.settings.now_s
        found = itertools.islice(self._find(wanted), limit)
        return [view(key, value, now_s, fullnat=value.mode == MODES[Mode.FULLNAT]) for key, value in found]

    def kill(self, wanted: Wanted) -> int:
        """Deletes the sessions wanted, on this node alone; returns how many there were.

        A flow whose packets go on is a new one, of which only the beginning is missing: see docs/l4.md.
        """
        found = list(self._find(wanted))
        answers = [bytes(self.other_direction(key, value)) for key, value in found if value.mode == MODES[Mode.FULLNAT]]
        killed = self.delete_sessions([bytes(key) for key, _ in found])
        self.delete_sessions(answers)
        return killed

    def _find(self, wanted: Wanted) -> Iterator[tuple[Any, Any]]:
        key_type, value_type = self.session_map.key, self.session_map.value
        matches = wanted.matcher().matches
        for keys, values, count in self.session_map.blocks(1024):
            for key, value in zip(
                (key_type * count).from_buffer_copy(keys), (value_type * count).from_buffer_copy(values), strict=True
            ):
                if matches(key, value):
                    yield key, value

    def other_direction(self, key: Any, value: Any) -> Any:
        """The key of a fullnat session's answers, or of the session that an answer's entry belongs to."""
        return self.session_map.key(
            client=value.real, vip=value.source, client_port=value.real_port, vip_port=value.source_port,
            protocol=key.protocol,
        )  # fmt: skip

    # Session sync

    def write_sessions(self, keys: bytes, values: bytes, count: int) -> int:
        """Enters `count` sessions from a peer, whose keys and values stand in two blocks, with one system call.

        Returns how many had room. Raises ValueError if the blocks' lengths do not fit.
        """
        if len(keys) != count * self.KEY_SIZE or len(values) != count * self.VALUE_SIZE:
            raise ValueError(f"{count} sessions are {count * self.KEY_SIZE} and {count * self.VALUE_SIZE} bytes")
        if not self._loads.in_use:
            return self.session_map.put_many(keys, values, count) if count else 0
        each = self.split_keys(keys)
        self._loads.forget(each)
        written = self.session_map.put_many(keys, values, count) if count else 0
        self._loads.adopt(each)
        return written

    def delete_sessions(self, keys: Sequence[bytes]) -> int:
        """Ends these sessions; returns how many there were."""
        if self._loads.in_use:
            self._loads.forget(keys)
        return self.session_map.delete_many(b"".join(keys), len(keys)) if keys else 0

    def count_sessions(self, keys: Sequence[bytes]) -> None:
        """These sessions, which a sweep has found, are to count as connections of their reals."""
        self._loads.adopt(keys)

    def split_keys(self, keys: bytes) -> list[bytes]:
        return [keys[at : at + self.KEY_SIZE] for at in range(0, len(keys), self.KEY_SIZE)]

    def connections(self) -> dict[str, dict[str, int]]:
        """Of listeners with lc or wlc, by name: the connections of each real, "address:port"."""
        result: dict[str, dict[str, int]] = {}
        for (key, address, port), count in self._loads.connections().items():
            if key in self.services:
                row = result.setdefault(self.services[key].listener, {})
                row[f"{address}:{port}"] = row.get(f"{address}:{port}", 0) + count
        return result

    def on_sync_page(self, callback: Callable[[bytes, bytes, int], None]) -> None:
        """Has `callback` called, by `drain_ring`, with (keys, values, count) of each page. Call it once."""
        page = self._cpu_page.value
        keys_at, values_at = page.keys.offset, page.values.offset

        def record(address: int, _size: int) -> None:
            count = ct.c_uint32.from_address(address).value
            callback(
                ct.string_at(address + keys_at, count * self.KEY_SIZE),
                ct.string_at(address + values_at, count * self.VALUE_SIZE),
                count,
            )

        self.plane.program.open_ring("sync_ring", record)

    def drain_ring(self) -> None:
        """Reads what the ring holds; for loop.add_reader(ring_fd, drain_ring)."""
        self.plane.program.consume()

    def flush_sync(self) -> None:
        """Sends the CPUs' partial pages to the ring, by running `flush` on each CPU whose page holds anything."""
        pages = self._cpu_page.get_per_cpu(self._cpu_page.key(0), self.plane.cpus)
        waiting = [cpu for cpu, page in enumerate(pages) if page.count and cpu not in self._unpinnable]
        if not waiting:
            return
        allowed = os.sched_getaffinity(0)
        try:
            for cpu in waiting:
                try:
                    os.sched_setaffinity(0, {cpu})
                except OSError as error:
                    self._unpinnable.add(cpu)
                    log.warning(
                        "cpu %d: session sync sends whole pages only: %s; let this process run there", cpu, error
                    )
                    continue
                self.plane.run(bytes(syscall.SMALLEST_FRAME), "flush")
        finally:
            os.sched_setaffinity(0, allowed)


def address_bytes(address: str) -> bytes:
    return socket.inet_aton(address)


def service_key(service: L4Service) -> ServiceKey:
    return service.vip, service.port, service.protocol


def _word(address: str) -> int:
    """An address as the number that a __be32 field holds on this machine."""
    return int.from_bytes(address_bytes(address), sys.byteorder)


def _mask(prefix: int) -> int:
    """Of so many leading bits, as the number that a __be32 field holds on this machine."""
    return int.from_bytes((0xFFFFFFFF << 32 - prefix & 0xFFFFFFFF).to_bytes(4), sys.byteorder)


def _listener_key(key: ServiceKey) -> bytes:
    vip, port, protocol = key
    return address_bytes(vip) + struct.pack("!HBx", port, PROTOCOLS[protocol])


def _reverse_key(end: Endpoint) -> bytes:
    address, port, protocol = end
    return address_bytes(address) + struct.pack("!HBx", port, PROTOCOLS[protocol])


def _reverse_of(services: Mapping[ServiceKey, L4Service]) -> dict[Endpoint, list[ServiceKey]]:
    """Which nat listeners answer through each real."""
    result: dict[Endpoint, list[ServiceKey]] = {}
    for key, service in services.items():
        if service.mode is Mode.NAT:
            for end in dict.fromkeys((real.address, real.port, service.protocol) for real in service.reals):
                result.setdefault(end, []).append(key)
    return result
