"""Upstream connections of one backend service: which server is next, and which connection is used again.

Pure: `assign` decides between reuse and open and counts the request as active; the caller opens and closes. A handle
is whatever the caller keeps for a connection. Invariant: each assignment is matched by one `released` or `failed`.

A server may close an idle connection at any time, also while our request is on its way. A request that may be sent
again (see exchange.py) takes any idle connection; one that may not takes only a connection used in the last
FRESH_S seconds, shorter than any common server's keep-alive time, and a new one otherwise.

Which servers take requests, and what each weighs, is the balance's to say (balance.py); here is a copy of what it says,
taken when that changes, so that `assign` looks in one place and at no clock.

Where connections to a server are limited, a server that has its number is passed over; when all have, requests wait
in one queue for whichever is free first (`wait`, `next_in_turn`; core/line.py). Who comes new goes behind those who
wait.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import takewhile
from typing import Final, Generic, TypeVar

from core.budget import Budget
from core.ejection import Outcome
from core.latency import PENALTY_S, Latency
from core.line import Line
from core.model import BackendService, Server
from core.schedule import Picker
from core.zones import Locality
from proxy.balance import Address, Balance

Handle = TypeVar("Handle")
Waiter = TypeVar("Waiter")

FRESH_S: Final = 1.0  # gunicorn closes after 2 s, node.js and Apache after 5 s, nginx after 75 s
IDLE_S: Final = 60.0
IDLE_PER_SERVER: Final = 128  # or as many as were in use at once lately: requests may come in bursts
LATELY_S: Final = 10.0


@dataclass(slots=True)  # not frozen: one is made for each request, and freezing makes that three times as dear
class Reuse(Generic[Handle]):
    """Send the request on this idle connection."""

    handle: Handle
    server: Address


@dataclass(frozen=True, slots=True)
class Open(Generic[Handle]):
    """Connect to this server; first close `surplus`, an idle connection to it, which makes room."""

    server: Address
    surplus: Handle | None = None


class Full:
    """All servers that take requests have as many connections as they may."""


FULL: Final = Full()


class _Member(Generic[Handle]):
    """A server's connections and counts in this pool."""

    __slots__ = (
        "active", "address", "ejections", "errors", "failures", "idle", "latency", "most", "most_before", "most_since",
        "open", "requests", "told",
    )  # fmt: skip

    def __init__(self, address: Address) -> None:
        self.address = address
        self.open: Open[Handle] = Open(address)
        self.active = 0  # while it is not in the list of servers; of the others the pool has the counts
        self.idle: dict[Handle, float] = {}  # since when; the youngest last
        self.most = self.most_before = 0  # requests at once, since `most_since` and before that
        self.most_since = 0.0
        self.requests = self.failures = self.errors = self.ejections = 0
        self.latency = Latency()
        self.told: dict[str, float] = {}

    def keeps(self, now: float) -> int:
        """How many idle connections are worth keeping."""
        if now >= self.most_since + LATELY_S:
            self.most_before, self.most, self.most_since = self.most, 0, now
        return max(IDLE_PER_SERVER, self.most, self.most_before)


class Pool(Generic[Handle, Waiter]):
    """The connections and the balance of one backend service in one worker, which is number `turn` of `workers`.

    `on_room` is called when it may be the turn of one who waits.
    """

    def __init__(self, turn: int = 0, workers: int = 1) -> None:
        self.on_room: Callable[[], None] = _nobody
        self._turn = turn
        self._workers = workers
        self._limit = 0  # connections to a server; 0: any number
        self._line: Line[Waiter] = Line()
        self._waiting = self._line.waiting
        self._members: list[_Member[Handle]] = []
        self._leaving: dict[Address, _Member[Handle]] = {}  # not in the list any more, with requests in flight
        self._counts: list[int] = []
        self._balance = Balance(turn)
        self._index: dict[Address, int] = {}  # this and what follows is the balance's
        self._picker: Picker | None = None
        self._elsewhere: Picker | None = None
        self._out: frozenset[int] = frozenset()
        self._budget: Budget | None = None
        self._assigned = self._retried = 0
        self._labelled: dict[bytes, dict[Handle, None]] = {}  # connections that are for some requests alone
        self.attentive = False  # whether `note` wants to hear of answers too
        self.timed = False  # whether `answered` wants to hear how long they take

    def update(
        self, servers: Sequence[Server], service: BackendService, now: float, here: Locality | None = None
    ) -> list[Handle]:
        """Takes a new set of servers and how to treat them; returns the idle connections to servers that are gone,
        to be closed. `here`: where servers of the own zone are preferred."""
        first = self._balance.service is None
        before = {member.address: member for member in self._members}
        for address, index in self._index.items():
            before[address].active = self._counts[index]
        before |= self._leaving
        addresses = [(server.address, server.port) for server in servers]
        new = [address for address in addresses if address not in before]
        self._members = [before.pop(address) if address in before else _Member(address) for address in addresses]
        self._counts = [member.active for member in self._members]
        gone = [handle for member in before.values() for handle in member.idle]
        for member in before.values():
            member.idle.clear()
        self._leaving = {address: member for address, member in before.items() if member.active}
        if self._budget is None:
            self._budget = Budget(service.retry_percent, service.retry_min_per_s / self._workers, now)
        self._budget.percent, self._budget.min_per_s = service.retry_percent, service.retry_min_per_s / self._workers
        latencies = [member.latency for member in self._members]
        self._balance.update(servers, service, latencies, () if first else new, now, here)
        self._settle()
        return gone

    def set_down(self, down: AbstractSet[Address], now: float) -> list[Handle]:
        """Takes the set of unhealthy servers; returns the idle connections to them, to be closed."""
        self._balance.set_down(down, now)
        self._settle()
        gone = [member for member in self._members if member.address in down]
        handles = [handle for member in gone for handle in member.idle]
        for member in gone:
            member.idle.clear()
        return handles

    def is_down(self, server: Address) -> bool:
        return server in self._balance.down

    @property
    def any_down(self) -> bool:
        return bool(self._balance.down)

    @property
    def takes_requests(self) -> bool:
        """Whether some server with weight is neither unhealthy nor ejected."""
        return self._balance.takes_requests

    # -- requests

    def assign(
        self, key: bytes, now: float, *, repeatable: bool, tried: Collection[Address] = (), fresh: bool = False,
        in_turn: bool = False,
        prefer: Address | None = None, label: bytes = b"",
    ) -> Reuse[Handle] | Open[Handle] | Full | None:  # fmt: skip
        """A connection for a request; None when no server takes it, FULL when one may later.

        `key` is what hashes go by, the client's address as a rule. Servers in `tried` are avoided, and never waited
        for; `fresh` asks for a new connection; `in_turn`: the request has waited. `prefer`: this server, whatever its
        weight, if it takes the request now. `label`: only a connection that was given back with the same one is used.
        """
        picker = self._picker
        if picker is None:
            return None
        if self._waiting and not in_turn and not tried and self.takes_requests:
            return FULL
        free = self._eligible(tried) if tried or self._out or self._limit else _anyone
        index = self._index.get(prefer) if prefer is not None else None
        if index is None or not free(index):
            index = picker.pick(free, self._counts, key)
            if index is None and self._elsewhere is not None:
                index = self._elsewhere.pick(free, self._counts, key)
        if index is None:
            return FULL if self._limit and not tried and self.takes_requests else None
        self._counts[index] += 1
        self._assigned += 1
        member = self._members[index]
        member.requests += 1
        idle = member.idle
        if label:
            own = None if fresh else self._own(idle, label, now, repeatable)
            if own is not None:
                return Reuse(own, member.address)
        elif idle and not fresh and (repeatable or now - idle[next(reversed(idle))] <= FRESH_S):
            return Reuse(idle.popitem()[0], member.address)
        if self._limit and idle and self._counts[index] + len(idle) > self._limit:
            oldest = next(iter(idle))
            del idle[oldest]
            return Open(member.address, oldest)
        return member.open

    def _own(self, idle: dict[Handle, float], label: bytes, now: float, repeatable: bool) -> Handle | None:
        """Takes an idle connection with this label."""
        handles = self._labelled.get(label, {})
        for handle in handles:
            if handle in idle and (repeatable or now - idle[handle] <= FRESH_S):
                del idle[handle], handles[handle]
                return handle
        return None

    def _eligible(self, tried: Collection[Address]) -> Callable[[int], bool]:
        out, counts, limit = self._out, self._counts, self._limit
        if tried:
            out |= {self._index[address] for address in tried if address in self._index}
        if limit:
            return lambda index: counts[index] < limit and index not in out
        return lambda index: index not in out

    def may_retry(self, now: float) -> bool:
        """Whether a request may be sent a second time; see core/budget.py."""
        if self._budget is None or not self._budget.spend(self._assigned - self._retried, now):
            return False
        self._retried += 1
        return True

    # -- the queue

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def wait(self, waiter: Waiter, now: float, *, sheddable: bool = False) -> bool:
        """Takes one into the queue whose request met FULL. False: there is no room, or none for what may be shed."""
        return self._line.join(waiter, now, sheddable=sheddable)

    @property
    def queue_full(self) -> bool:
        """Whether there is no room for anybody."""
        return len(self._waiting) >= self._line.most

    def shed(self, now: float) -> list[Waiter]:
        """Takes those out of the queue that are not to wait any longer."""
        return self._line.shed(now) if self._waiting else []

    def leave(self, waiter: Waiter) -> None:
        """One waits no longer."""
        self._line.leave(waiter)

    def next_in_turn(self, now: float) -> Waiter | None:
        """Takes out the one whose turn it is, if a server is free or none takes requests any more."""
        limit, counts = self._limit, self._counts
        takers = self._balance.takers
        if not self._waiting or (limit and takers and all(counts[index] >= limit for index in takers)):
            return None
        return self._line.next(now)

    def released(self, server: Address, handle: Handle, now: float, label: bytes = b"") -> bool:
        """A request is over and its connection sound; False: the connection is not wanted and has to be closed.

        A connection with a `label` is for requests with the same one.
        """
        self.failed(server)
        index = self._index.get(server)
        if index is None or server in self._balance.down:
            return False
        member = self._members[index]
        idle, active = member.idle, self._counts[index] + 1
        if active > member.most:
            member.most = active
        if len(idle) >= IDLE_PER_SERVER and len(idle) >= member.keeps(now):
            return False
        idle[handle] = now
        if label:
            self._labelled.setdefault(label, {})[handle] = None
        return True

    def failed(self, server: Address) -> None:
        """A request is over, or its connection could not be opened; the connection is not used again."""
        index = self._index.get(server)
        if index is not None:
            self._counts[index] -= 1
            if self._waiting:
                self.on_room()
            return
        member = self._leaving[server]
        member.active -= 1
        if not member.active:
            del self._leaving[server]

    def note(self, server: Address, outcome: Outcome, now: float) -> float:
        """How a request went that this server had. Returns for how many seconds that ejects it; 0: it does not.

        To be told of every outcome but ANSWERED, and of that too while the pool is `attentive`.
        """
        index = self._index.get(server)
        if index is None:
            return 0.0
        member = self._members[index]
        if self.timed and outcome is not Outcome.ANSWERED:
            member.latency.observe(PENALTY_S, now)
        if outcome is Outcome.FAILED:
            member.failures += 1
        elif outcome is Outcome.ERROR:
            member.errors += 1
        out_s = self._balance.note(server, outcome, now)
        self.attentive = self._balance.attentive
        if out_s:
            member.ejections += 1
            self._settle()
        return out_s

    def follow(self, server: Address, out_s: float, now: float) -> None:
        """Another worker has ejected this server for so long."""
        if server in self._index and self._balance.follow(server, out_s, now):
            self.attentive = self._balance.attentive
            self._settle()

    def answered(self, server: Address, seconds: float, now: float) -> None:
        """An answer's head came so long after the request was assigned. To be told while the pool is `timed`."""
        index = self._index.get(server)
        if index is not None:
            self._members[index].latency.observe(seconds, now)

    # -- time

    def tick(self, now: float) -> list[Address]:
        """Does what has become due; to be called a few times a second. Returns the servers that are back from ejection.

        (Not those that an active check holds for unhealthy besides: they come back by the check.)
        """
        if self.timed:
            for member in self._members:
                member.latency.fade(now)
        if now < self._balance.next_tick:
            return []
        back = self._balance.tick(now)
        self._settle()
        return back

    def _settle(self) -> None:
        """Goes by the balance as it is now."""
        balance, service = self._balance, self._balance.service
        if service is None:
            return
        self._index, self._out, self.timed = balance.index, balance.out, balance.timed
        self._picker, self._elsewhere = balance.picker, balance.elsewhere
        self._limit = _part(service.server_max_connections, self._turn, self._workers)
        self._line.target_s = service.queue_target_s
        self._line.most = len(balance.takers) * _part(service.server_max_queue, self._turn, self._workers)
        if self._waiting:
            self.on_room()

    # -- idle connections

    def closed(self, server: Address, handle: Handle) -> None:
        """A connection that nobody uses was closed by the server."""
        index = self._index.get(server)
        if index is not None:
            member = self._members[index]
            member.idle.pop(handle, None)

    def expire(self, now: float) -> list[Handle]:
        """The connections that have been idle for too long, to be closed."""
        expired: list[Handle] = []
        for member in self._members:
            old = list(takewhile(lambda pair: now - pair[1] >= IDLE_S, member.idle.items()))
            for handle, _ in old:
                del member.idle[handle]
                expired.append(handle)
        return expired

    def dismiss(self, unwanted: Callable[[Handle], bool]) -> list[Handle]:
        """Those of the idle connections with labels that are unwanted, to be closed; forgets the labels of all that
        are gone."""
        gone: list[Handle] = []
        whose = {handle: member for member in self._members for handle in member.idle}
        for handles in self._labelled.values():
            for handle in [*handles]:
                if handle not in whose:
                    del handles[handle]
                elif unwanted(handle):
                    del handles[handle], whose[handle].idle[handle]
                    gone.append(handle)
        self._labelled = {label: handles for label, handles in self._labelled.items() if handles}
        return gone

    def forget_idle(self) -> list[Handle]:
        """The idle connections, to be closed: new ones are made otherwise."""
        handles = [handle for member in self._members for handle in member.idle]
        for member in self._members:
            member.idle.clear()
        self._labelled.clear()
        return handles

    def drop(self) -> list[Handle]:
        """Every idle connection, to be closed: the backend service is gone. Those in use are not wanted back."""
        service = self._balance.service
        return self.update((), service, 0.0) if service is not None else []

    # -- what there is to tell

    @property
    def active(self) -> dict[Address, int]:
        """Requests in flight, by server."""
        counts = {address: self._counts[index] for address, index in self._index.items() if self._counts[index]}
        return counts | {address: member.active for address, member in self._leaving.items()}

    def news(self) -> Iterator[tuple[Address, dict[str, float]]]:
        """Each server's numbers, of servers where they have changed since this was last asked.

        requests, failures (no connection, or none that lasted), errors (5xx), ejections: since the server was added;
        active, ejected (0 or 1), idle, with p2c latency_ms: now.
        """
        for index, member in enumerate(self._members):
            numbers: dict[str, float] = {
                "requests": member.requests, "failures": member.failures, "errors": member.errors,
                "ejections": member.ejections, "active": self._counts[index], "idle": len(member.idle),
                "ejected": int(member.address in self._balance.ejected),
            }  # fmt: skip
            if self.timed:
                numbers["latency_ms"] = round(member.latency.value_s * 1000, 1)
            if numbers != member.told:
                member.told = numbers
                yield member.address, numbers


def _anyone(_: int) -> bool:
    return True


def _nobody() -> None:
    """Nobody waits."""


def _part(limit: int, turn: int, workers: int) -> int:
    """A worker's part of a node's limit, one at least; 0 stays 0."""
    return max(limit // workers + (turn < limit % workers), 1) if limit else 0
