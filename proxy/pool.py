"""Upstream connections of one backend service: which server is next, and which connection is used again.

Pure: `assign` decides between reuse and open and counts the request as active; the caller opens and closes. A handle
is whatever the caller keeps for a connection. Invariant: each assignment is matched by one `released` or `failed`.

A server may close an idle connection at any time, also while our request is on its way. A request that may be sent
again (see exchange.py) takes any idle connection; one that may not takes only a connection used in the last
FRESH_S seconds, shorter than any common server's keep-alive time, and a new one otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from core.endpoints import endpoint
from core.model import Scheduler, Server
from core.schedule import Picker, picker

Address = tuple[str, int]
Handle = TypeVar("Handle")

FRESH_S: Final = 1.0  # gunicorn closes after 2 s, node.js and Apache after 5 s, nginx after 75 s
IDLE_S: Final = 60.0
IDLE_PER_SERVER: Final = 128


@dataclass(frozen=True, slots=True)
class Reuse(Generic[Handle]):
    """Send the request on this idle connection."""

    handle: Handle
    server: Address


@dataclass(frozen=True, slots=True)
class Open:
    """Connect to this server."""

    server: Address


class Pool(Generic[Handle]):
    """The connections and the balance of one backend service in one worker."""

    def __init__(self, turn: int = 0) -> None:
        self._turn = turn  # so that the workers of a node do not all begin with the same server
        self._servers: tuple[Address, ...] = ()
        self._weights: tuple[int, ...] = ()
        self._picker: Picker | None = None
        self._scheduler: Scheduler | None = None
        self._active: dict[Address, int] = {}
        self._counts: list[int] = []
        self._index: dict[Address, int] = {}
        self._down: AbstractSet[Address] = frozenset()
        self._idle: dict[Address, list[tuple[float, Handle]]] = {}

    def update(self, servers: Sequence[Server], scheduler: Scheduler) -> list[Handle]:
        """Takes a new set of servers; returns the idle connections to servers that are gone, to be closed."""
        addresses = tuple((server.address, server.port) for server in servers)
        weights = tuple(server.weight for server in servers)
        if (addresses, weights, scheduler) != (self._servers, self._weights, self._scheduler):
            self._servers, self._weights, self._scheduler = addresses, weights, scheduler
            names = [endpoint(address, port) for address, port in addresses]
            self._picker = picker(scheduler, weights, names=names, start=self._turn)
            self._index = {address: index for index, address in enumerate(addresses)}
            self._counts = [self._active.get(address, 0) for address in addresses]
        gone = [address for address in self._idle if address not in self._index]
        return [handle for address in gone for _, handle in self._idle.pop(address)]

    def set_down(self, down: AbstractSet[Address]) -> list[Handle]:
        """Takes the set of unhealthy servers; returns the idle connections to them, to be closed."""
        self._down = down
        gone = [address for address in self._idle if address in down]
        return [handle for address in gone for _, handle in self._idle.pop(address)]

    def is_down(self, server: Address) -> bool:
        return server in self._down

    @property
    def any_down(self) -> bool:
        return bool(self._down)

    def assign(
        self, source: bytes, now: float, *, repeatable: bool, tried: Iterable[Address] = (), fresh: bool = False
    ) -> Reuse[Handle] | Open | None:
        """A connection for a request from `source`; None when no healthy server has weight.

        Servers in `tried` are avoided; `fresh` asks for a new connection.
        """
        if self._picker is None:
            return None
        index = self._picker.pick(self._eligible(frozenset(tried)), self._counts, source)
        if index is None:
            return None
        server = self._servers[index]
        self._active[server] = self._active.get(server, 0) + 1
        self._counts[index] += 1
        idle = self._idle.get(server)
        if not fresh and idle and (repeatable or now - idle[-1][0] <= FRESH_S):
            return Reuse(idle.pop()[1], server)
        return Open(server)

    def _eligible(self, tried: AbstractSet[Address]) -> Callable[[int], bool]:
        servers, weights, down = self._servers, self._weights, self._down
        if not tried and not down:
            return lambda index: weights[index] > 0
        return lambda index: weights[index] > 0 and servers[index] not in down and servers[index] not in tried

    def released(self, server: Address, handle: Handle, now: float) -> bool:
        """A request is over and its connection sound; False: the connection is not wanted and has to be closed."""
        self.failed(server)
        if server not in self._index or server in self._down:
            return False
        idle = self._idle.setdefault(server, [])
        if len(idle) >= IDLE_PER_SERVER:
            return False
        idle.append((now, handle))
        return True

    def failed(self, server: Address) -> None:
        """A request is over, or its connection could not be opened; the connection is not used again."""
        left = self._active.get(server, 0) - 1
        if left > 0:
            self._active[server] = left
        else:
            self._active.pop(server, None)
        index = self._index.get(server)
        if index is not None:
            self._counts[index] = max(left, 0)

    def closed(self, server: Address, handle: Handle) -> None:
        """A connection that nobody uses was closed by the server."""
        if idle := self._idle.get(server):
            self._idle[server] = [pair for pair in idle if pair[1] != handle]

    def expire(self, now: float) -> list[Handle]:
        """The connections that have been idle for too long, to be closed."""
        expired: list[Handle] = []
        for server, idle in self._idle.items():
            keep = next((i for i, (since, _) in enumerate(idle) if now - since < IDLE_S), len(idle))
            expired += [handle for _, handle in idle[:keep]]
            self._idle[server] = idle[keep:]
        return expired

    def drop(self) -> list[Handle]:
        """Every idle connection, to be closed: the backend service is gone. Those in use are not wanted back."""
        return self.update((), Scheduler.RR)

    @property
    def active(self) -> dict[Address, int]:
        return dict(self._active)
