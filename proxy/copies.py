"""Copies of requests, sent to a backend service whose answers nobody gets (the `mirror` of a rule).

A copy is what the server gets, with `X-Mirrored: 1` besides, sent once the request's body is whole. It is an exchange
as any other (exchange.py), with a client that is nobody: what would be sent to it is dropped. Whatever becomes of it,
the original does not notice: MOST copies are under way in a worker at a time, each for TAKES_S at most, and one that
would be more, or whose body is longer than the rule says, is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from proxy.carrier import Carrier, State
from proxy.commands import Copy, Finish
from proxy.dialects import Heard
from proxy.errors import Code
from proxy.exchange import Exchange
from proxy.hub import Hub
from proxy.introducing import Nowhere
from proxy.message import RequestHead
from proxy.origin import Origin
from proxy.rules import Router
from proxy.unheard import Unheard

MOST: Final = 256
TAKES_S: Final = 60.0  # where the service does not say how long its answers may take altogether


class Copies:
    """Those of a worker."""

    def __init__(self, hub: Hub, most: int = MOST) -> None:
        self._hub, self._most = hub, most
        self.under_way = 0

    def send(self, head: RequestHead, origin: Origin, copy: Copy) -> None:
        """Sends a copy, if there is room for one."""
        hub = self._hub
        service = hub.services.get(copy.forward.service)
        if service is None or self.under_way >= self._most:
            hub.count("mirrors_dropped")
            return
        self.under_way += 1
        hub.count("mirrored_requests")
        Copied(hub, origin, self._over).go(head, copy, service.total_timeout_s or TAKES_S)

    def _over(self, answered: bool) -> None:
        self.under_way -= 1
        if not answered:
            self._hub.count("mirrors_failed")


class _Nobody(Unheard):
    """The client of a copy, which has all of its body at hand."""

    def __init__(self, body: bytes) -> None:
        self.done = not body

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        self.done = True
        return data, b""


class Copied(Carrier):
    """One copy on its way. `over` is told once whether it was answered, with less than 500."""

    __slots__ = ("_over", "_timer")
    _timer: asyncio.TimerHandle

    def __init__(self, hub: Hub, origin: Origin, over: Callable[[bool], None]) -> None:
        super().__init__(hub)
        self._origin, self._over = origin, over
        self._transport = cast(asyncio.Transport, Nowhere())

    def go(self, head: RequestHead, copy: Copy, takes_s: float) -> None:
        hub = self._hub
        exchange = self._exchange = Exchange(
            head, self._origin, Router((), copy.forward.service), copy.identifier, hub.date, rest=copy.body,
            client=_Nobody(copy.body),
        )  # fmt: skip
        self._state = State.EXCHANGE
        self._timer = hub.loop.call_later(takes_s, self._expire)
        self._run(exchange.start(copy.forward))

    def _expire(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if self._waiting is not None:
            self._leave_queue()
            self._run(exchange.no_server(Code.QUEUE_TIMEOUT))
        else:
            self._run(exchange.timed_out(whole=True))

    def upstream_data(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._time(exchange)
        self._run(exchange.upstream_data(data))

    def upstream_heard(self, heard: list[Heard]) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._time(exchange)
        self._run(exchange.heard(heard))

    def upstream_lost(self, *, unprocessed: bool = False) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._run(exchange.upstream_closed(unprocessed=unprocessed))

    def _record(self) -> None:
        """Is the end of it."""
        exchange = self._exchange
        assert exchange is not None
        self._timer.cancel()
        self._over(exchange.error is None and exchange.status < 500)

    def _finish(self, finish: Finish) -> None:
        self._exchange, self._state = None, State.CLOSED

    def balance(self) -> None:
        """There is nobody who could send too much."""

    def _touch(self) -> None:
        """The time is bounded as a whole."""
