"""The tables of an L4 node: what it shall do with packets is written, what it has counted and knows is read back.

IPv4 and IPv6 have programs and maps of their own (`version_tables`); here they are one. A state is checked for both
before anything is written.

Draining: a real of weight 0, or one that is down, takes no new flow and keeps its sessions. The sessions of a removed
real or listener end with the next sweep of `expiry`.
"""

from __future__ import annotations

import ctypes as ct
import itertools
import logging
import os
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from core.endpoints import endpoint
from core.endpoints import version as version_of
from core.model import Mode
from core.resolve import L4Service
from l4fast.addresses import put_address
from l4fast.bpf import syscall
from l4fast.hops import Hop
from l4fast.limits import OVER, shown
from l4fast.loader import IP_VERSIONS, DataPlane
from l4fast.members import COUNTERS, counted
from l4fast.merging import Merged, Merging
from l4fast.sessions import Matcher, SessionView, Wanted, view
from l4fast.sources import reasons
from l4fast.sweep import Block, Pause, Seen, Sweep
from l4fast.version_tables import MODES, PROTOCOLS, VersionTables

log = logging.getLogger(__name__)

# The keys of `macs` for the next hops towards clients: those of the default routes.
CLIENT_GATEWAY, CLIENT_GATEWAY6 = "0.0.0.0", "::"
GATEWAYS = {4: CLIENT_GATEWAY, 6: CLIENT_GATEWAY6}
# How long an UNPROVEN session lives (expiry), and the share of the table that all of them may take.
UNPROVEN_TIMEOUT_S = 10
UNPROVEN_SHARE = 0.5
FOREVER_S = 0xFFFFFFFF
EVERY = Wanted()
LISTENER_COUNTERS = (*COUNTERS, "denied", *OVER, "sessions")
Record = tuple[type[ct.Structure], type[ct.Structure], type[ct.Structure], type[ct.Structure]]
ServerCounters = dict[str, dict[str, dict[str, int]]]  # listener name → "address:port" → COUNTERS

# Echo requests that one CPU answers in a second: plenty for people and monitoring, and a flood gets no more.
ECHO_PER_CPU_S = 1000
_PAGE = struct.Struct("=II")  # how struct page begins: records, ends


class Tables:
    """Writes the desired state into a data plane's maps. Not thread-safe: one task calls it.

    `sync_period_s`: how often a living session is told to the peers; a third of its idle timeout if that is less.
    """

    def __init__(self, plane: DataPlane, *, sync_period_s: int = 20) -> None:
        self.plane = plane
        self.sweep = Sweep()
        self.versions = {version: VersionTables(plane, version, sync_period_s) for version in IP_VERSIONS}
        self._merging = {
            version: Merging(
                plane.programs[version].fd("merge"),
                plane.programs[version].fd("hear"),
                version,
                of.key_size,
                of.value_size,
            )
            for version, of in self.versions.items()
        }
        self._cpu_stats = {version: plane.map("cpu_stats", version) for version in IP_VERSIONS}
        self._cpu_pages = {version: plane.map("cpu_page", version) for version in IP_VERSIONS}
        self._reasons = reasons()
        self._unpinnable: set[int] = set()
        per_s = plane.sizes["sessions"] * UNPROVEN_SHARE / UNPROVEN_TIMEOUT_S
        plane.set(unproven_per_cpu_s=max(1, int(per_s / plane.cpus)), echo_per_cpu_s=ECHO_PER_CPU_S)

    @property
    def idle(self) -> frozenset[tuple[str, int, str]]:
        """(address, port, protocol) of the reals that took no new flows when an agent before ended."""
        return frozenset().union(*(tables.idle for tables in self.versions.values()))

    def resume(self, now_s: int) -> None:
        """The maps are those of an agent that has ended; its clock stands in them."""
        from_s = self.plane.settings[4].now_s
        self.sweep.paused = Pause(from_s, max(0, now_s - from_s))

    # The desired state

    def apply(
        self, services: Sequence[L4Service], down: Set[tuple[str, int, str]], next_hops: Mapping[str, Hop | bytes]
    ) -> None:
        """Makes the maps say this and nothing else.

        `down`: (address, port, "tcp" or "udp") of unhealthy reals. `next_hops`: by address, for reals and for
        CLIENT_GATEWAY and CLIENT_GATEWAY6; a MAC address alone is one on the first interface. Raises TablesError,
        having changed nothing, when it does not fit.
        """
        of_version = {version: [s for s in services if version_of(s.vip) == version] for version in IP_VERSIONS}
        for version, tables in self.versions.items():
            tables.prepare(of_version[version])
        for version, tables in self.versions.items():
            tables.apply(of_version[version], down, next_hops, GATEWAYS[version])

    def set_local(self, *addresses: Sequence[str]) -> tuple[str, ...]:
        """The addresses of each interface: what a real sends there is no client's reply (health checks). There is room
        for eight of each version, the first ones of each interface before the second ones; returns the others.

        The first of an interface in each version is the outer source of what it sends in tunnel mode.
        """
        return tuple(
            address
            for version, tables in self.versions.items()
            for address in tables.set_local(*(_of(version, of) for of in addresses))
        )

    def set_pools(self, own: Sequence[str], everyones: Collection[str]) -> None:
        """The source addresses of fullnat, this node's and all nodes' (those of `own` may be left out), from the next
        `apply` on. Raises TablesError."""
        for version, tables in self.versions.items():
            tables.set_pools(_of(version, own), _of(version, everyones))

    def set_seed(self, seed: int) -> None:
        """What the flows' hash begins with from the next `apply` on: 64 bits, the same on every node.

        Flows that have a session keep their real.
        """
        for tables in self.versions.values():
            tables.seed = seed

    def set_vips_here(self, here: bool) -> None:
        """Whether VIPs may be addresses of this node: its kernel then gets nothing that it would answer for them."""
        self.plane.set(vips_here=int(here))

    def set_lacking(self, lacking: bool) -> None:
        """Whether peers may know sessions that are not here: packets that only these could place are dropped then."""
        self.plane.set(lacking=int(lacking))

    def set_epoch(self, now_s: int) -> None:
        """The wall clock in seconds, called a few times a second: it stamps and ages sessions."""
        self.plane.set(now_s=now_s)

    # What the node has counted and knows

    def counters(self) -> dict[str, int]:
        """Packets by verdict reason, and events, summed over versions and CPUs since the programs were loaded."""
        total: Counter[str] = Counter(dict.fromkeys(self._reasons, 0))
        for stats in self._cpu_stats.values():
            for value in stats.get_per_cpu(stats.key(0), self.plane.cpus):
                for name, number in self._reasons.items():
                    total[name] += value.count[number]
        return dict(total)

    def listener_counters(self, servers: ServerCounters | None = None) -> dict[str, dict[str, int]]:
        """By listener name (its VIPs together): packets and bytes in each direction and sessions made, since it was
        added; packets denied and beyond a limit; sessions held as of the last whole sweep. Answers in dr and tunnel
        mode do not pass here: out is zero. Where there are such, `connections` now (counted for lc, wlc and a limit)
        and the limits themselves, `limit_…`.

        `servers`: what `server_counters` has just said, to save the asking.
        """
        result: dict[str, dict[str, int]] = {}
        for tables in self.versions.values():
            refused = tables.refused()
            for key, service in tables.services.items():
                row = result.setdefault(service.listener, dict.fromkeys(LISTENER_COUNTERS, 0))
                row["sessions"] = self.sweep.last_counts.get(service.listener, 0)
                own = {"connections": tables.connections(key)} if counted(service) else {}
                for counts in (refused[key], tables.members.past(key), own, shown(service.limits)):
                    for name, number in counts.items():
                        row[name] = row.get(name, 0) + number
        for listener, members in (self.server_counters() if servers is None else servers).items():
            for counts in members.values():
                for name in COUNTERS:
                    result[listener][name] += counts[name]
        return result

    def server_counters(self) -> ServerCounters:
        """By listener name and server ("address:port"): packets and bytes in each direction, sessions made since it was
        added; sessions whose packets pass here, as of the last whole sweep."""
        result: ServerCounters = {}
        for tables in self.versions.values():
            for (key, address, port), counts in tables.members.counters().items():
                if key not in tables.services:
                    continue
                servers = result.setdefault(tables.services[key].listener, {})
                server = endpoint(address, port)
                held = self.sweep.last_servers.get((tables.services[key].listener, server), 0)
                row = servers.setdefault(server, {**dict.fromkeys(COUNTERS, 0), "sessions": held})
                for name in COUNTERS:
                    row[name] += counts[name]
        return result

    def sessions(self, wanted: Wanted = EVERY, *, limit: int = 1000) -> list[SessionView]:
        """Up to `limit` of the sessions wanted; the order is the hash tables'."""
        now_s = self.plane.settings[4].now_s
        found = itertools.chain.from_iterable(self._find(tables, wanted) for tables in self.versions.values())
        return [
            view(key, value, now_s, fullnat=value.mode == MODES[Mode.FULLNAT])
            for key, value in itertools.islice(found, limit)
        ]

    def kill(self, wanted: Wanted) -> dict[int, bytes]:
        """Deletes the sessions wanted; returns their keys, a block for each IP version, for the peers.

        A flow whose packets go on is a new one, of which only the beginning is missing: see docs/l4.md.
        """
        killed: dict[int, bytes] = {}
        for version, tables in self.versions.items():
            killed[version] = b"".join(bytes(key) for key, _ in self._find(tables, wanted))
            self.end_keys(version, killed[version], FOREVER_S)
        return killed

    def _find(self, tables: VersionTables, wanted: Wanted) -> Iterator[tuple[Any, Any]]:
        key_type, value_type = tables.session_map.key, tables.session_map.value
        matcher = wanted.matcher()
        matches = matcher.matches
        if matcher.names_one_flow:  # a table of a million would be read through for seconds
            for protocol in PROTOCOLS.values():
                key = _key_of(key_type, matcher, protocol)
                value = tables.session_map.get(key) if key is not None else None
                if value is not None and matches(key, value):
                    yield key, value
            return
        for keys, values, count in tables.session_map.blocks(1024):
            for key, value in zip(
                (key_type * count).from_buffer_copy(keys), (value_type * count).from_buffer_copy(values), strict=True
            ):
                if matches(key, value):
                    yield key, value

    def session_blocks(self, size: int) -> Iterator[Block]:
        """The whole table, as (version, keys, values, count)."""
        for version, tables in self.versions.items():
            for keys, values, count in tables.session_map.blocks(size):
                yield version, keys, values, count

    # Session sync

    def merge_sessions(self, version: int, body: bytes, count: int, shift_s: int = 0) -> Merged:
        """Enters `count` sessions of a peer, whose keys stand in a block before their values, unless what is here
        holds. `shift_s`: of this node's clock, ahead of the peer's.

        Raises ValueError if the block's length does not fit.
        """
        return self._merging[version].enter(body, count, shift_s, counted=self.versions[version].members.any_counted)

    def hear_sessions(self, version: int, body: bytes, count: int, ends: int, shift_s: int = 0) -> Merged:
        """The same with what a datagram tells: `ends` ends and `count` records."""
        counted = self.versions[version].members.any_counted
        return self._merging[version].hear(body, count, ends, shift_s, counted=counted)

    @property
    def layouts(self) -> Mapping[int, Record]:
        """Of what peers are told: a session's key and value; an end and a record of a datagram."""
        result: dict[int, Record] = {}
        for version, of in self.versions.items():
            page = {name: kind for name, kind, *_ in self._cpu_pages[version].value._fields_}
            result[version] = (of.session_map.key, of.session_map.value, page["end"]._type_, page["told"]._type_)
        return result

    def end_keys(self, version: int, keys: bytes, until_s: int) -> int:
        """The sessions of these keys end, if their last packet came no later; returns how many they were."""
        return self._merging[version].end(keys, until_s)

    def end_sessions(self, sessions: Iterable[Seen]) -> int:
        """These go, if nothing has happened to them since they were seen; returns how many entries were deleted."""
        of_version: dict[int, list[Seen]] = {}
        for session in sessions:
            of_version.setdefault(session.version, []).append(session)
        return sum(self.versions[version].members.end(those) for version, those in of_version.items())

    def count_sessions(self, version: int, keys: Sequence[bytes]) -> None:
        """These sessions, which a sweep has found, are to count as connections of their reals."""
        self.versions[version].members.adopt(keys)

    def connections(self) -> dict[str, dict[str, int]]:
        """Of listeners with lc or wlc, by name: the connections of each real, "address:port"."""
        result: dict[str, dict[str, int]] = {}
        for tables in self.versions.values():
            for (key, address, port), count in tables.members.connections().items():
                if key in tables.services:
                    row = result.setdefault(tables.services[key].listener, {})
                    name = endpoint(address, port)
                    row[name] = row.get(name, 0) + count
        return result

    def on_sync_page(self, callback: Callable[[int, bytes, int, int], None]) -> None:
        """Has `callback` called, by `drain_ring`, with (version, body, records, ends) of each page: a datagram's body.
        Call it once."""
        for version in self.versions:
            self._open_ring(version, callback)

    def _open_ring(self, version: int, callback: Callable[[int, bytes, int, int], None]) -> None:
        page = self._cpu_pages[version].value
        body_at, ends_at, told_at = page.last_s.offset, page.end.offset, page.told.offset
        end_size, told_size = (ct.sizeof(each) for each in self.layouts[version][2:])

        def record(address: int, size: int) -> None:
            whole = ct.string_at(address, size)
            count, ends = _PAGE.unpack_from(whole)
            body = whole[body_at : ends_at + ends * end_size] + whole[told_at : told_at + count * told_size]
            callback(version, body, count, ends)

        self.plane.programs[version].open_ring("sync_ring", record)

    @property
    def ring_fds(self) -> dict[int, int]:
        """By IP version, for loop.add_reader(fd, drain_ring, version)."""
        return {version: program.map_fd("sync_ring") for version, program in self.plane.programs.items()}

    def drain_ring(self, version: int) -> None:
        """Reads what the ring holds."""
        self.plane.programs[version].consume()

    def flush_sync(self) -> None:
        """Sends the CPUs' partial pages to the rings, by running `flush` on each CPU whose page holds anything."""
        waiting = [
            (version, cpu)
            for version, pages in self._cpu_pages.items()
            for cpu, page in enumerate(pages.get_per_cpu(pages.key(0), self.plane.cpus))
            if page.count and cpu not in self._unpinnable
        ]
        if not waiting:
            return
        allowed = os.sched_getaffinity(0)
        try:
            for version, cpu in waiting:
                try:
                    os.sched_setaffinity(0, {cpu})
                except OSError as error:
                    self._unpinnable.add(cpu)
                    log.warning(
                        "cpu %d: session sync sends whole pages only: %s; let this process run there", cpu, error
                    )
                    continue
                self.plane.run(bytes(syscall.SMALLEST_FRAME), "flush", version)
        finally:
            os.sched_setaffinity(0, allowed)


def other_direction(key: Any, value: Any) -> Any:
    """The key of a fullnat session's answers, or of the session that an answer's entry belongs to."""
    other = type(key)(client_port=value.real_port, vip_port=value.source_port, protocol=key.protocol)
    put_address(other, "client", bytes(value.real))
    put_address(other, "vip", bytes(value.source))
    return other


def _of(version: int, addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(address for address in addresses if version_of(address) == version)


def _key_of(key_type: Any, wanted: Matcher, protocol: int) -> Any:
    """The key of the one flow that is wanted; None where its addresses are not of this table's version."""
    client, vip = wanted.client.address, wanted.vip.address
    assert client is not None
    assert vip is not None
    if {len(client), len(vip)} != {key_type.client.size}:
        return None
    key = key_type(client_port=wanted.client.port, vip_port=wanted.vip.port, protocol=protocol)
    put_address(key, "client", client)
    put_address(key, "vip", vip)
    return key
