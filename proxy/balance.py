"""Which servers of a backend service take requests, what each weighs at the moment, and who picks among them. Pure.

A server takes requests unless it has no weight, an active check has found it unhealthy, or it was ejected (see
core/ejection.py). What it weighs is its configured weight, less what a slow start holds back (core/weights.py) and what
a preference for the own zone moves (core/zones.py). Picking is the schedulers' (core/schedule.py); a new picker is made
when the servers, their weights or the scheduler differ from those that the last one was made for, so that requests pay
for none of this. What changes with time alone, the end of an ejection and the steps of a slow start, is done by `tick`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from core import weights, zones
from core.bounded import BoundedHash
from core.ejection import Ejector, Outcome
from core.endpoints import endpoint
from core.latency import Latency, TwoChoices
from core.model import BackendService, Scheduler, Server
from core.schedule import Picker, picker
from core.zones import Locality

Address = tuple[str, int]

WITHOUT_ZONES: Final = frozenset({Scheduler.SH, Scheduler.CH})  # all nodes are to find the same server


class Balance:
    """The servers of one backend service, as worker number `turn` of a node sees them.

    `index` is a server's number, which pickers go by; `out` has the numbers of those that are unhealthy or ejected.
    `picker` is None before the first `update`; `elsewhere`, if there is one, knows all zones, for what those preferred
    do not take. `timed`: the scheduler goes by latencies. Nothing happens by itself before `next_tick`.
    """

    def __init__(self, turn: int = 0) -> None:
        self._turn = turn  # so that the workers of a node do not all begin with the same server
        self.service: BackendService | None = None
        self.servers: tuple[Server, ...] = ()
        self.index: dict[Address, int] = {}
        self.down: AbstractSet[Address] = frozenset()
        self.out: frozenset[int] = frozenset()
        self.picker: Picker | None = None
        self.elsewhere: Picker | None = None
        self.timed = False
        self.next_tick = weights.NEVER
        self._names: tuple[str, ...] = ()
        self._latencies: Sequence[Latency] = ()
        self._here: Locality | None = None
        self._ejector: Ejector[Address] = Ejector()
        self._warming: dict[Address, float] = {}  # since when
        self._picks: tuple[Scheduler, tuple[int, ...], tuple[str, ...]] | None = None  # what the picker was made for

    def update(
        self, servers: Sequence[Server], service: BackendService, latencies: Sequence[Latency],
        new: Iterable[Address], now: float, here: Locality | None = None,
    ) -> None:  # fmt: skip
        """Takes a new set of servers, with a latency of each, and how to treat them. `new`: those that start slowly.
        `here`: where servers of the own zone are preferred."""
        self._here = here
        self.servers, self.service = tuple(servers), service
        addresses = [(server.address, server.port) for server in servers]
        self.index = {address: index for index, address in enumerate(addresses)}
        self._names = tuple(endpoint(*address) for address in addresses)
        self._latencies = latencies
        self._ejector.update(service.ejection, self.index.keys())
        self._warming = {address: since for address, since in self._warming.items() if address in self.index}
        self._warm(new, now)
        self._settle(now)

    def set_down(self, down: AbstractSet[Address], now: float) -> None:
        """Takes the set of unhealthy servers."""
        healed = [address for address in self.down if address not in down and address in self.index]
        self.down = down
        for address in healed:
            self._ejector.forgive(address)
        self._warm(healed, now)
        self._settle(now)

    @property
    def takers(self) -> list[int]:
        """The servers that take requests."""
        return [index for index, server in enumerate(self.servers) if server.weight and index not in self.out]

    @property
    def takes_requests(self) -> bool:
        """Whether some server with weight is neither unhealthy nor ejected."""
        return any(server.weight and index not in self.out for index, server in enumerate(self.servers))

    @property
    def ejected(self) -> AbstractSet[Address]:
        return self._ejector.ejected.keys()

    @property
    def attentive(self) -> bool:
        """Whether it matters that a request was answered."""
        return self._ejector.attentive

    def note(self, server: Address, outcome: Outcome, now: float) -> float:
        """How a request went that this server had. Returns for how many seconds that ejects it; 0: it does not."""
        out_s = self._ejector.observe(server, outcome, now, room=self._room(self.index[server]))
        if out_s:
            self._settle(now)
        return out_s

    def follow(self, server: Address, out_s: float, now: float) -> bool:
        """Another worker has ejected this server for so long. False: that changes nothing."""
        followed = self._ejector.follow(server, out_s, now, room=self._room(self.index[server]))
        if followed:
            self._settle(now)
        return followed

    def _room(self, index: int) -> bool:
        """Whether this server may be ejected too."""
        rules = self._ejector.rules
        if rules is None:
            return False
        out = sum(1 for each in self.out | {index} if self.servers[each].weight)
        return out * 100 <= rules.max_percent * sum(1 for server in self.servers if server.weight)

    def tick(self, now: float) -> list[Address]:
        """Does what has become due. Returns the servers that are back from ejection.

        (Not those that an active check holds for unhealthy besides: they come back by the check.)
        """
        back = [address for address in self._ejector.returning(now) if address not in self.down]
        self._warm(back, now)
        self._settle(now)
        return back

    def _warm(self, servers: Iterable[Address], now: float) -> None:
        if self.service is not None and self.service.slow_start_s:
            self._warming |= dict.fromkeys(servers, now)

    def _settle(self, now: float) -> None:
        """Takes note of who is out and who weighs what, and makes a new picker where that differs."""
        service = self.service
        if service is None:
            return
        slow_s = service.slow_start_s
        ejected = self._ejector.ejected
        self.out = frozenset(i for address, i in self.index.items() if address in self.down or address in ejected)
        scheduler, shares = service.scheduler, tuple(server.weight for server in self.servers)
        self._warming = {a: since for a, since in self._warming.items() if slow_s and now < since + slow_s}
        if self._warming:
            flat = scheduler in weights.WITH_WEIGHTS
            base = [min(weight, 1) for weight in shares] if flat else shares
            shares = weights.warming(tuple(self.index), base, self._warming, now, slow_s)
            scheduler = weights.WITH_WEIGHTS.get(scheduler, scheduler)
        self.timed = scheduler is Scheduler.P2C
        self.next_tick = min(weights.next_step(self._warming, now, slow_s), self._ejector.next_return())
        scheduler, zoned = self._prefer(service, scheduler, shares)
        if self._picks != (scheduler, zoned, self._names):
            self._picks = scheduler, zoned, self._names
            self.picker = self._make_picker(scheduler, zoned)
            self.elsewhere = None if zoned is shares else self._make_picker(scheduler, shares)

    def _prefer(
        self, service: BackendService, scheduler: Scheduler, shares: tuple[int, ...]
    ) -> tuple[Scheduler, tuple[int, ...]]:
        """The weights with the own zone preferred, and a scheduler that knows weights."""
        if self._here is None or scheduler in WITHOUT_ZONES:
            return scheduler, shares
        base = [each.weight for each in self.servers]
        if service.scheduler in weights.WITH_WEIGHTS:
            base = [min(weight, 1) for weight in base]
        now = base if scheduler in weights.WITH_WEIGHTS else shares
        zoned = zones.weighed(self._here, [each.zone for each in self.servers], base, now, self.out)
        return (scheduler, shares) if zoned is None else (weights.WITH_WEIGHTS.get(scheduler, scheduler), zoned)

    def _make_picker(self, scheduler: Scheduler, shares: Sequence[int]) -> Picker:
        if scheduler is Scheduler.P2C:
            return TwoChoices(shares, self._latencies, self._turn)
        if scheduler is Scheduler.CH:
            return BoundedHash(shares, self._names)
        return picker(scheduler, shares, names=self._names, start=self._turn)
