"""The handshakes of a worker: which are under way, which may begin, when they are given up, how they ended.

Decisions are `tls_admission`'s; here are the event loop, its one timer, and the counters.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from proxy.tls_admission import Clients, InFlight, Terms, Turns, client_of
from proxy.tls_failures import Failure
from proxy.tls_handshake import Handshake

# ClientHellos a turn of the loop: 4 take 1 to 2 ms, which is what others may have to wait for.
A_TURN: Final = 4
# In line for their turn: 0.1 to 0.2 s of work, so that whoever is served has not given up.
MOST_WAITING: Final = 256
# Not the client's doing, or it has had its place for the whole time: free at once.
FREE_AT_ONCE: Final = frozenset((None, Failure.KEYSERVER, Failure.NO_CERTIFICATE, Failure.CROWDED_OUT, Failure.TIMEOUT))


def _nobody(*_: object) -> None:
    """Where nobody counts."""


class Gatekeeper:
    """`most`: handshakes under way at once. For one thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        self._loop = loop
        self._most = most
        self._in_flight: InFlight[Handshake] = InFlight()
        self._clients = Clients()
        self._turns: Turns[Handshake] = Turns(A_TURN, MOST_WAITING)
        self._turning = False
        self._timer: asyncio.TimerHandle | None = None
        names = ("ok", "acme_led", *(f"failed_{each}" for each in Failure))
        self._counts: Counter[str] = Counter(dict.fromkeys(names, 0))
        # By listener: a handshake has ended (proxy/meters.py has the words), the key server has answered after so long.
        self.on_end: Callable[[str, str], None] = _nobody
        self.on_signature: Callable[[str, float], None] = _nobody

    def counters(self) -> dict[str, int]:
        return {**self._counts, "in_flight": len(self._in_flight)}

    def close(self) -> None:
        for handshake in self._in_flight.all():
            handshake.expire(Failure.CLOSED)
        if self._timer is not None:
            self._timer.cancel()

    def admit(self, handshake: Handshake, address: str, terms: Terms) -> bool:
        """False: too many, of this client or at all; counted as refused."""
        now = self._loop.time()
        client = client_of(address, terms)
        if client and not self._clients.take(client, terms.per_client, now):
            self._count(handshake, Failure.REFUSED_CLIENT)
            return False
        if len(self._in_flight) >= self._most:
            oldest = self._in_flight.oldest(lambda each: not each.busy)
            if oldest is None:
                if client:
                    self._clients.give_back(client)
                self._count(handshake, Failure.REFUSED)
                return False
            oldest.expire(Failure.CROWDED_OUT)
        handshake.client = client
        self._in_flight.add(handshake, terms.timeout_s, now)
        if self._timer is None or self._timer.when() > now + terms.timeout_s:
            self._wake(now + terms.timeout_s)
        return True

    def left(self, handshake: Handshake, failure: Failure | None) -> None:
        """An admitted handshake has ended; counted once."""
        self._count(handshake, failure)
        self._leave(handshake, failure in FREE_AT_ONCE)

    def led(self, handshake: Handshake) -> None:
        """An admitted handshake was the ACME issuer's. Its place stays taken: a CA comes a few times only."""
        self._counts["acme_led"] += 1
        self._leave(handshake, free_at_once=False)

    def _leave(self, handshake: Handshake, free_at_once: bool) -> None:
        deadline = self._in_flight.remove(handshake)
        if not handshake.client:
            return
        if free_at_once:
            self._clients.give_back(handshake.client)
        else:
            self._clients.keep(handshake.client, deadline)

    def begin(self, handshake: Handshake) -> bool:
        """Whether a handshake may go on now; if not, `go_on` is called when it is its turn."""
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._next_turn)
        if self._turns.take(handshake):
            return True
        leaver = self._turns.leaver()
        if leaver is not None:
            leaver.expire(Failure.CROWDED_OUT)
        return False

    def _next_turn(self) -> None:
        chosen = self._turns.next_turn()
        self._turning = bool(chosen)
        if chosen:
            self._loop.call_soon(self._next_turn)
        for handshake in chosen:
            handshake.go_on()

    def _count(self, handshake: Handshake, failure: Failure | None) -> None:
        self._counts["ok" if failure is None else f"failed_{failure}"] += 1
        self.on_end(handshake.listener, handshake.session if failure is None else f"failed {failure}")

    def signed(self, handshake: Handshake, took_s: float) -> None:
        """The key server has answered."""
        self.on_signature(handshake.listener, took_s)

    def _wake(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        """One timer for all: it is set for the deadline that was the first when it was set."""
        self._timer = None
        now = self._loop.time()
        for handshake in self._in_flight.due(now):
            if handshake.held_up:
                self._in_flight.again(handshake, now)
            else:
                handshake.expire(Failure.TIMEOUT)
        until = self._in_flight.next_due
        if until is not None:
            self._wake(until)
