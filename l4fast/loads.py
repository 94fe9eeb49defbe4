"""Where the connections of lc and wlc are counted: a number for each real of each listener that asks for it.

The program counts (bpf/least.h); here the numbers are given out, and it is told what user space does to sessions. Such
a number is the index of a count that sessions refer to: it is not given to anybody else before its count is zero again,
which the next sweep of `expiry` sees to once a real or listener has gone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from core.model import LEAST_SCHEDULERS, Scheduler
from core.resolve import L4Service
from l4fast.bpf import syscall
from l4fast.loader import DataPlane
from l4fast.mirror import Indexes, Mirror

ServiceKey = tuple[str, int, str]  # VIP, port, "tcp" or "udp"
Place = tuple[ServiceKey, str, int]  # a listener, and address and port of its real
# enum operation of types.h
FORGET, ADOPT = 0, 1
_NOBODY: Place = (("", 0, ""), "", 0)  # has number 0, which means "not counted"


def counted(service: L4Service) -> bool:
    return service.scheduler in LEAST_SCHEDULERS and not service.stateless


def places(services: Mapping[ServiceKey, L4Service]) -> set[Place]:
    """All that has to be counted."""
    return {
        (key, real.address, real.port)
        for key, service in services.items()
        if counted(service)
        for real in service.reals
    }


class Loads:
    """The maps `members`, `load_numbers` and `loads`, and the program `account`."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._members = Mirror(plane, "members")
        self._numbers = Mirror(plane, "load_numbers")
        self._loads = plane.map("loads")
        self._accounting = plane.map("accounting")
        self._indexes = Indexes(plane.sizes["MAX_LOADS"])
        self._indexes.take(_NOBODY)

    @property
    def in_use(self) -> bool:
        """Whether any session may be counted."""
        return len(self._indexes.used) > 1

    def settle(self) -> None:
        self._indexes.settle()

    def room(self, wanted: Iterable[Place]) -> bool:
        return self._indexes.room(wanted)

    def number(self, place: Place) -> int:
        return self._indexes.take(place)[0]

    def write(
        self,
        services: Mapping[ServiceKey, L4Service],
        listener_index: Mapping[ServiceKey, int],
        real_index: Mapping[tuple[str, int], int],
        address_bytes: Mapping[str, bytes],
    ) -> None:
        """Before the rings that refer to members, and before the listeners."""
        members: dict[bytes, bytes] = {}
        numbers: dict[bytes, bytes] = {}
        for key, service in services.items():
            for real in service.reals if counted(service) else ():
                number = struct.pack("=I", self.number((key, real.address, real.port)))
                weight = real.weight if service.scheduler is Scheduler.WLC else 1
                members[number] = struct.pack("=HH", real_index[real.address, real.port], weight)
                end = address_bytes[real.address] + struct.pack("!H", real.port)
                numbers[end + struct.pack("=H", listener_index[key])] = number
        self._members.add(members)
        self._numbers.add(numbers)
        self._wanted = numbers

    def prune(self, wanted: set[Place]) -> None:
        """After the listeners: what is counted nowhere any more comes free once its count is zero."""
        self._numbers.prune(self._wanted)
        ending = {place for place in self._indexes.used.keys() - wanted if self._count(place)}
        self._indexes.keep(wanted | ending | {_NOBODY})

    def connections(self) -> dict[Place, int]:
        """How many connections each real of a listener has."""
        return {place: self._count(place) for place in self._indexes.used if place != _NOBODY}

    def _count(self, place: Place) -> int:
        load = self._loads.get(self._loads.key(self._indexes.used[place]))
        return int(load.sessions) if load is not None else 0

    def forget(self, keys: Sequence[bytes]) -> None:
        """These sessions will be deleted or written anew: they count no more."""
        self._account(FORGET, keys)

    def adopt(self, keys: Sequence[bytes]) -> None:
        """These sessions have come from elsewhere: they count, if their listener does and they are not at their end."""
        self._account(ADOPT, keys)

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
            self._plane.run(bytes(syscall.SMALLEST_FRAME), "account")
