"""The listening sockets from which one worker accepts, and the sites that their connections belong to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping
from typing import Final

from proxy.errors import ApplyError
from proxy.hub import Site
from proxy.listen import BACKLOG, accept_left, bind, refuse_new
from proxy.passing import Seat
from proxy.seats import Endpoint

HANDSHAKE_S: Final = 0.3  # for the last packet of a TCP handshake, before a listening socket closes

Accept = Callable[[Site], asyncio.BaseProtocol]


class Opening:
    """One socket and the site that its connections belong to."""

    def __init__(self, accept: Accept, site: Site, sock: socket.socket) -> None:
        self.site = site
        self._accept = accept
        self._sock = sock
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Begins to accept; a duplicate of the socket is kept for what its queue holds at the end."""
        kept = self._sock.dup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=self._sock, backlog=BACKLOG)
        self._sock = kept

    def _protocol(self) -> asyncio.BaseProtocol:
        return self._accept(self.site)

    def leave(self) -> None:
        """Stops accepting from a socket that another process has too: its queue is left to that."""
        assert self._server is not None
        self._server.close()
        self._sock.close()

    async def close(self, patience_s: float = HANDSHAKE_S) -> None:
        """Stops accepting and loses nobody: handshakes under way may finish, and who waits to be accepted is served."""
        assert self._server is not None
        refuse_new(self._sock)
        await asyncio.sleep(patience_s)
        self._server.close()
        left = accept_left(self._sock)
        self._sock.close()
        loop = asyncio.get_running_loop()
        for sock in left:
            await loop.connect_accepted_socket(self._protocol, sock)


class Openings:
    """All of a worker. `accept` makes the protocol of a new connection.

    Sockets come from the supervisor (`give`) and are opened by the next change. Where it gave none for an endpoint,
    the worker binds one itself: one that runs alone.
    """

    def __init__(self, accept: Accept) -> None:
        self._accept = accept
        self._given: dict[Seat, socket.socket] = {}
        self._open: dict[Seat, Opening] = {}

    @property
    def endpoints(self) -> set[Endpoint]:
        return {seat[:2] for seat in self._open}

    def give(self, sockets: Mapping[Seat, socket.socket]) -> None:
        """Takes sockets that the supervisor has sent; those that are here already are not needed."""
        for seat, sock in sockets.items():
            if seat in self._open or seat in self._given:
                sock.close()
            else:
                self._given[seat] = sock

    def prepare(self, wanted: Collection[Endpoint]) -> None:
        """What may fail of a change: has a socket for each endpoint. Raises ApplyError; nothing has changed then."""
        here = self.endpoints | {seat[:2] for seat in self._given}
        try:
            for address, port in sorted(set(wanted) - here):
                self._given[address, port, 0] = bind(address, port)
        except ApplyError:
            self.discard()
            raise

    def discard(self) -> None:
        """Takes back what was prepared."""
        for sock in self._given.values():
            sock.close()
        self._given.clear()

    async def change(self, sites: Mapping[Endpoint, Site]) -> None:
        """Accepts for these, by what was prepared, and no more for others."""
        for seat, opening in self._open.items():
            opening.site = sites.get(seat[:2], opening.site)
        await self.open(sites)
        gone = [self._open.pop(seat) for seat in [*self._open] if seat[:2] not in sites]
        await asyncio.gather(*(each.close() for each in gone))

    async def open(self, sites: Mapping[Endpoint, Site]) -> None:
        """Accepts from what was given, too."""
        given, self._given = self._given, {}
        for seat, sock in given.items():
            site = sites.get(seat[:2])
            if site is None:
                sock.close()
                continue
            self._open[seat] = Opening(self._accept, site, sock)
            await self._open[seat].open()

    @property
    def sites(self) -> dict[Endpoint, Site]:
        return {seat[:2]: opening.site for seat, opening in self._open.items()}

    def leave(self, numbers: Collection[int] | None = None) -> None:
        """Leaves the seats with these numbers, or all, to other processes that have them."""
        for seat in [seat for seat in self._open if numbers is None or seat[2] in numbers]:
            self._open.pop(seat).leave()

    async def close(self, patience_s: float) -> None:
        """Stops accepting anywhere; see `Opening.close`."""
        closing = [*self._open.values()]
        self._open.clear()
        await asyncio.gather(*(each.close(patience_s) for each in closing))
