"""The members of listeners, each a real of one listener: the numbers by which rings, sessions and counters know them.

A number is not given to another member while anything may still refer to it: a packet that reads an old ring (one
`settle`), or sessions that are counted as connections (lc, wlc: until the count is zero, which the next sweep of
`expiry` sees to once a real or listener has gone). Number 0 is nobody's; what is counted there has no known member.
"""

from __future__ import annotations

import ctypes as ct
import socket
import struct
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from itertools import compress
from typing import Any

from core.flows import takes
from core.model import LEAST_SCHEDULERS, Mode, Scheduler
from core.resolve import L4Service
from l4fast.addresses import address_bytes, text_of
from l4fast.bpf import syscall
from l4fast.bpf.syscall import Map
from l4fast.loader import DataPlane
from l4fast.mirror import RESTORED_AT_ONCE, Indexes, Mirror
from l4fast.sweep import Seen

ServiceKey = tuple[str, int, str]  # VIP, port, "tcp" or "udp"
Member = tuple[ServiceKey, str, int]  # a listener, and address and port of its real
# enum operation of types.h
ADOPT, END = 0, 1
# Fields of struct member_stats, all of them, in their order
COUNTERS = ("packets_in", "bytes_in", "packets_out", "bytes_out", "sessions_made")
NOBODY: Member = (("", 0, ""), "", 0)  # has number 0


def least(service: L4Service) -> bool:
    """Whether its scheduler asks for connections."""
    return service.scheduler in LEAST_SCHEDULERS and not service.stateless


def counted(service: L4Service) -> bool:
    """Whether its sessions count as connections."""
    return least(service) or service.limits.connections > 0


def members_of(services: Mapping[ServiceKey, L4Service]) -> set[Member]:
    return {(key, real.address, real.port) for key, service in services.items() for real in service.reals}


class Members:
    """The maps `members`, `member_numbers`, `member_stats` and `loads`, and the program `account`."""

    def __init__(self, plane: DataPlane, version: int) -> None:
        self._plane = plane
        self._version = version
        self._members = Mirror(plane, "members", version)
        self._numbers = Mirror(plane, "member_numbers", version)
        self._stats = plane.map("member_stats", version)
        assert tuple(name for name, *_ in self._stats.value._fields_) == COUNTERS
        self._loads = plane.map("loads", version)
        self._accounting = plane.map("accounting", version)
        self._indexes = Indexes(plane.sizes["members"])
        self._indexes.take(NOBODY)
        self._counted: set[Member] = set()
        self._past: dict[ServiceKey, Counter[str]] = {}

    def restore(self, listeners: Mapping[int, ServiceKey], counting: Set[int]) -> dict[ServiceKey, int]:
        """What an agent before has left; `listeners` by index, and those of them that count connections.

        Returns the indexes of listeners that are gone, but for connections of theirs, by names of their own.
        """
        self._numbers.restore()
        used: dict[Member, int] = {}
        ended: dict[ServiceKey, int] = {}
        for raw, value in self._numbers.held.items():
            key = self._numbers.map.key.from_buffer_copy(raw)
            member = (
                listeners.get(key.listener, _gone(key.listener)),
                text_of(bytes(key.real)),
                socket.ntohs(key.port),
            )
            used[member] = self._numbers.map.value.from_buffer_copy(value).member
            if key.listener in counting:
                self._counted.add(member)
        for number in self._busy() - set(used.values()):
            left = self._members.map.entry(number)
            member = (_gone(left.listener), text_of(bytes(left.real)), socket.ntohs(left.port))
            used[member] = number
            self._counted.add(member)
            ended[member[0]] = left.listener
        self._indexes.restore(used)
        return ended

    def _busy(self) -> set[int]:
        """Numbers of members with connections."""
        busy: set[int] = set()
        layout = self._loads.value
        for keys, values, _ in self._loads.blocks(RESTORED_AT_ONCE):
            sessions = memoryview(values).cast("Q")[layout.sessions.offset // 8 :: ct.sizeof(layout) // 8].tolist()
            busy.update(compress(memoryview(keys).cast("I").tolist(), sessions))
        return busy

    def idle(self, listeners: Mapping[int, ServiceKey]) -> set[tuple[str, int, str]]:
        """Of an agent before: (address, port, protocol) of reals that take no new flows from any listener."""
        takes: Counter[tuple[str, int, str]] = Counter()
        for raw, value in self._numbers.held.items():
            key = self._numbers.map.key.from_buffer_copy(raw)
            _, _, protocol = listeners.get(key.listener, _gone(key.listener))
            real = text_of(bytes(key.real)), socket.ntohs(key.port), protocol
            takes[real] += self._numbers.map.value.from_buffer_copy(value).takes
        return {real for real, listeners in takes.items() if not listeners}

    @property
    def any_counted(self) -> bool:
        """Whether any session may be counted as a connection."""
        return bool(self._counted)

    def settle(self) -> None:
        self._indexes.settle()

    def room(self, wanted: Iterable[Member]) -> bool:
        return self._indexes.room(wanted)

    def number(self, member: Member) -> int:
        return self._indexes.used[member]

    def write(
        self,
        services: Mapping[ServiceKey, L4Service],
        down: Set[tuple[str, int, str]],
        listener_index: Mapping[ServiceKey, int],
        hops: Mapping[str, int],
        here: Set[str],
    ) -> None:
        """Before the rings that refer to members, and before the listeners.

        `here`: this node's own addresses, where mode dr alone leads; in others they have no next hop.
        """
        members: dict[bytes, bytes] = {}
        numbers: dict[bytes, bytes] = {}
        for key, service in services.items():
            if counted(service):
                self._counted.update((key, real.address, real.port) for real in service.reals)
            for real in service.reals:
                number = self._take((key, real.address, real.port))
                weight = real.weight if service.scheduler is Scheduler.WLC else 1
                end = address_bytes(real.address) + struct.pack("!H", real.port)
                hop = hops[real.address] if service.mode is Mode.DR or real.address not in here else 0
                members[struct.pack("=I", number)] = end + struct.pack(
                    "=HHBB", hop, listener_index[key], weight, service.limits.of_bandwidth
                )
                numbers[end + struct.pack("=H", listener_index[key])] = struct.pack(
                    "=HBx", number, takes(service, real, down)
                )
        self._members.add(members)
        self._numbers.add(numbers)
        self._wanted = numbers

    def _take(self, member: Member) -> int:
        number, new = self._indexes.take(member)
        if new:
            self._stats.put_per_cpu(self._stats.key(number), [self._stats.value()] * self._plane.cpus)
        return number

    def prune(self, services: Mapping[ServiceKey, L4Service]) -> set[ServiceKey]:
        """After the listeners: what is counted nowhere any more comes free once its count is zero.

        Returns the listeners that have members with connections left.
        """
        self._numbers.prune(self._wanted)
        wanted = members_of(services)
        gone = self._indexes.used.keys() - wanted - {NOBODY}
        ending = {member for member in gone & self._counted if self._connections(member)}
        self._past = {key: counts for key, counts in self._past.items() if key in services}
        for member in gone - ending:
            if member[0] in services:
                self._past.setdefault(member[0], Counter()).update(self._counters(member))
        self._counted -= gone - ending
        self._indexes.keep(wanted | ending | {NOBODY})
        return {key for key, _, _ in ending}

    def connections(self) -> dict[Member, int]:
        """How many connections each real has of a listener that counts them."""
        return {member: self._connections(member) for member in self._counted}

    def _connections(self, member: Member) -> int:
        load = self._loads.get(self._loads.key(self._indexes.used[member]))
        return int(load.sessions) if load is not None else 0

    def counters(self) -> dict[Member, dict[str, int]]:
        """COUNTERS of each member since it was added, summed over the CPUs."""
        cpus, fields = self._plane.cpus, len(COUNTERS)
        words = self._stats.first_per_cpu(max(self._indexes.used.values()) + 1, cpus)
        size = cpus * fields
        return {
            member: {
                name: sum(words[at : (number + 1) * size : fields]) for at, name in enumerate(COUNTERS, number * size)
            }
            for member, number in self._indexes.used.items()
            if member != NOBODY
        }

    def listeners(self) -> dict[int, ServiceKey]:
        """The listener of each number that a member has."""
        return {number: member[0] for member, number in self._indexes.used.items() if member != NOBODY}

    def past(self, key: ServiceKey) -> Mapping[str, int]:
        """COUNTERS of the members that the listener has lost: what it has counted does not fall when a real goes."""
        return self._past.get(key, {})

    def _counters(self, member: Member) -> dict[str, int]:
        values = self._stats.get_per_cpu(self._stats.key(self._indexes.used[member]), self._plane.cpus)
        return {name: sum(getattr(value, name) for value in values) for name in COUNTERS}

    def adopt(self, keys: Sequence[bytes]) -> None:
        """These sessions have come from elsewhere: they count, if their listener does and they are not at their end."""
        self._account(ADOPT, keys)

    def end(self, sessions: Sequence[Seen]) -> int:
        """These sessions go, if they are as they were seen; returns how many entries were deleted."""
        size = len(self._accounting.value().keys)
        return sum(self._end(sessions[at : at + size]) for at in range(0, len(sessions), size))

    def _end(self, sessions: Sequence[Seen]) -> int:
        zero, layout = self._accounting.key(0), self._accounting.value
        request = layout(operation=END, count=len(sessions))
        for field, raw in (
            (layout.keys, b"".join([session.key for session in sessions])),
            (layout.last_s, array("I", [session.last_s for session in sessions]).tobytes()),
            (layout.state, bytes([session.state for session in sessions])),
        ):
            ct.memmove(ct.addressof(request) + field.offset, raw, len(raw))
        self._accounting.put(zero, request)
        self._plane.run(bytes(syscall.SMALLEST_FRAME), "account", self._version)
        answer = self._accounting.get(zero)
        return int(answer.ended) if answer is not None else 0

    def _account(self, operation: int, keys: Sequence[bytes]) -> None:
        request = self._accounting.value(operation=operation)
        size = len(request.keys)
        for at in range(0, len(keys), size):
            some = keys[at : at + size]
            request.count = len(some)
            type(request.keys).from_buffer(request, type(request).keys.offset)[: len(some)] = [
                type(request.keys[0]).from_buffer_copy(key) for key in some
            ]
            self._accounting.put(self._accounting.key(0), request)
            self._plane.run(bytes(syscall.SMALLEST_FRAME), "account", self._version)


def billed(stats: Map[Any, Any], numbers: Collection[int], cpus: int) -> dict[int, tuple[int, int, int]]:
    """Bytes in, bytes out and sessions made of the members with these numbers, summed over the CPUs."""
    numbers = [number for number in numbers if number < stats.max_entries]
    if not numbers:
        return {}
    words, fields = stats.first_per_cpu(max(numbers) + 1, cpus), len(COUNTERS)
    size = cpus * fields
    places = [COUNTERS.index(name) for name in ("bytes_in", "bytes_out", "sessions_made")]
    return {
        number: tuple(sum(words[number * size + place : (number + 1) * size : fields]) for place in places)  # type: ignore[misc]
        for number in numbers
    }


def _gone(listener: int) -> ServiceKey:
    """A name for a listener of which only its index is left."""
    return "", listener, "gone"
