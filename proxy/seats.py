"""The listening sockets of a node. They belong to the supervisor; workers accept from them.

For each endpoint there are as many sockets as seats, all on one port (SO_REUSEPORT), so that the kernel spreads new
connections over them. Each worker has a seat, from whose socket it accepts on every endpoint. Since the supervisor has
the sockets open too, the queue of a worker that dies is not lost: until its successor is there, the worker next to it
minds the seat. For the same reason a node that is replaced by another one loses nothing: the new one has the same
sockets. It may have fewer workers than there are seats, and then some workers have several.

Reserving all endpoints first tells whether they can be had before any worker changes anything.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping

from proxy.errors import ApplyError
from proxy.listen import bind
from proxy.passing import Seat

Endpoint = tuple[str, int]


class Seats:
    """The sockets by address, port and number of the seat. `inherited` are those of the node before."""

    def __init__(self, workers: int, inherited: Mapping[Seat, socket.socket] | None = None) -> None:
        self._sockets = dict(inherited or {})
        self.numbers = range(max([workers, *(number + 1 for _, _, number in self._sockets)]))

    def reserve(self, endpoints: Iterable[Endpoint]) -> set[Seat]:
        """Binds what is missing for these, and returns it. Raises ApplyError, and then nothing has changed."""
        fresh: set[Seat] = set()
        try:
            seats = {(*at, number) for at in endpoints for number in self.numbers}
            for seat in sorted(seats - self._sockets.keys()):
                self._sockets[seat] = bind(seat[0], seat[1])
                fresh.add(seat)
        except ApplyError:
            self.close(fresh)
            raise
        return fresh

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Closes the sockets of all others."""
        self.close([seat for seat in self._sockets if seat[:2] not in endpoints])

    def close(self, seats: Iterable[Seat] | None = None) -> None:
        """Closes these, or all."""
        for seat in [*self._sockets] if seats is None else seats:
            self._sockets.pop(seat).close()

    def of(self, numbers: Collection[int], without: Collection[Seat] = ()) -> dict[Seat, socket.socket]:
        """The sockets of the seats with these numbers."""
        return {seat: each for seat, each in self._sockets.items() if seat[2] in numbers and seat not in without}

    @property
    def all(self) -> dict[Seat, socket.socket]:
        return dict(self._sockets)


def rota(numbers: Iterable[int], workers: int, alive: Collection[int]) -> dict[int, int]:
    """Who accepts from which seat: its own worker, or the next one that is alive; nobody where none is."""
    found: dict[int, int] = {}
    for number in numbers:
        turn = next((turn for step in range(workers) if (turn := (number + step) % workers) in alive), None)
        if turn is not None:
            found[number] = turn
    return found
