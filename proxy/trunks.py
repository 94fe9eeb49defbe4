"""The connections of one service to its servers that requests share (HTTP/2), in one worker.

A request goes on the first connection to its server that has room; where none has, one is made, and those who come
meanwhile wait for the same one, as many as a connection usually takes. Which server it is has been decided before, by
the pool, for each request anew: one connection carries requests of many clients, and a client's requests go to many
servers.

A connection counts as made when the server's settings have come: before that it is not known whether the server speaks
HTTP/2 at all, nor how many requests it takes. It costs the first request a round trip, and no request is lost by it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from control.node.tasks import Tasks
from proxy.balance import Address
from proxy.trunk import NotHttp2, Stream, Trunk
from proxy.upstream import Secured, connect

WAITERS: Final = 100  # for a connection that is being made; RFC 9113 §6.5.2 asks for room for as many


@dataclass(eq=False, slots=True)
class _Opening:
    """A connection that is being made; `done` when it is, with what went wrong, if anything did."""

    done: asyncio.Future[OSError | None]
    secured: Secured
    waiters: int = 0


@dataclass(slots=True)
class _Server:
    trunks: list[Trunk] = field(default_factory=list)  # that take requests, or will when they have room
    openings: list[_Opening] = field(default_factory=list)


class Trunks:
    """`tell` is for what somebody has to look into."""

    def __init__(self, tell: Callable[[Address, str], None]) -> None:
        self._tell = tell
        self._servers: dict[Address, _Server] = {}

    def __len__(self) -> int:
        """How many connections there are that take requests."""
        return len(self.all)

    @property
    def all(self) -> list[Trunk]:
        """The connections that take requests."""
        return [trunk for at in self._servers.values() for trunk in at.trunks]

    def free(self, server: Address, method: bytes) -> Stream | None:
        """A place for a request; None if no connection has one."""
        found = self._servers.get(server)
        if found is not None:
            for trunk in found.trunks:
                if trunk.takes:
                    return Stream(trunk, method)
        return None

    async def join(self, server: Address, method: bytes, secured: Secured, tasks: Tasks, timeout_s: float) -> Stream:
        """A place for a request, on a new connection if need be. Raises OSError. The caller limits the time too."""
        while (stream := self.free(server, method)) is None:
            at = self._servers.setdefault(server, _Server())
            opening = next((each for each in at.openings if each.waiters < WAITERS and each.secured is secured), None)
            if opening is None:
                opening = _Opening(asyncio.get_running_loop().create_future(), secured)
                at.openings.append(opening)
                tasks.spawn(self._open(server, opening, timeout_s), "connect to upstream by HTTP/2")
            opening.waiters += 1
            error = await asyncio.shield(opening.done)
            if error is not None:
                raise error
        return stream

    async def _open(self, server: Address, opening: _Opening, timeout_s: float) -> None:
        loop, at, tell = asyncio.get_running_loop(), self._servers[server], partial(self._tell, server)
        trunk: Trunk | None = None
        error: OSError | None = NotHttp2("the attempt was given up")
        try:
            async with asyncio.timeout(timeout_s):
                trunk = await connect(loop, partial(Trunk, server, self._left, tell), server, opening.secured)
                await trunk.ready
                if not trunk.takes:
                    raise NotHttp2("it takes no requests by HTTP/2")
                error = None
        except (OSError, ssl.SSLError) as failed:
            error = failed
        finally:
            at.openings.remove(opening)
            if error is None and trunk is not None and self._servers.get(server) is at:
                at.trunks.append(trunk)
            elif trunk is not None:
                error = error or ConnectionError("the server is gone")
                trunk.abort()
            if not opening.done.done():
                opening.done.set_result(error)

    def _left(self, trunk: Trunk) -> None:
        at = self._servers.get(trunk.server)
        if at is not None and trunk in at.trunks:
            at.trunks.remove(trunk)

    # -- changes

    def keep(self, servers: Collection[Address]) -> None:
        """The connections to other servers take no more requests."""
        self.retire(self._servers.keys() - set(servers))

    def retire(self, servers: Collection[Address] | None = None) -> None:
        """The connections to these servers, or to all, take no more requests, and close after their last ones."""
        for server in list(self._servers if servers is None else servers):
            at = self._servers.pop(server, None)
            for trunk in list(at.trunks) if at is not None else ():
                trunk.retire()

    def tick(self, now: float) -> None:
        """Does what has become due; to be called a few times a second."""
        for trunk in self.all:
            trunk.tick(now)
