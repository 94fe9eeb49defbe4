"""A request of our own to a backend service: one GET without a body, one answer, bounded in time and size.

It is an exchange as any other (exchange.py), with its servers balanced, checked and ejected and its connections shared;
only its client is nobody's connection, but this: what would be sent is kept. So errands speak what their servers do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple, cast

from proxy.actions import Changes, Forward
from proxy.carrier import Carrier, State
from proxy.commands import Command, Finish
from proxy.dialects import Heard
from proxy.errors import Code, Refused
from proxy.exchange import Exchange
from proxy.head import read_request
from proxy.hub import Hub
from proxy.introducing import Nowhere
from proxy.message import Block, ResponseHead
from proxy.origin import Origin
from proxy.rules import Router
from proxy.unheard import Unheard

_NOTHING_REMOVED: Final = frozenset[bytes]()


class Answer(NamedTuple):
    """What a service has said, its body whole."""

    status: int
    block: Block
    body: bytes


class Failure(NamedTuple):
    """It has said nothing that is of use."""

    why: str


class _Kept(Unheard):
    """The client of an errand: keeps the answer."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self.head: ResponseHead | None = None
        self.too_long = False
        self.whole = False

    def begin(self, head: ResponseHead, lines: bytes, *, keep_alive: bool) -> bool:
        self.head = head
        return False

    def send(self, payload: bytes, *, ended: bool, trailers: bytes = b"") -> list[Command]:
        self._size += len(payload)
        if self._size > self._most_bytes:
            self.too_long = True
        else:
            self._pieces.append(payload)
        self.whole = ended and not self.too_long
        return []

    def answer(self) -> Answer | None:
        """None: it is not whole."""
        if self.head is None or not self.whole:
            return None
        return Answer(self.head.status, self.head.block, b"".join(self._pieces))


class Errand(Carrier):
    """One. `origin` is what servers are told of whoever it is for."""

    __slots__ = ("_kept", "_said")

    def __init__(self, hub: Hub, service: str, origin: Origin, most_bytes: int) -> None:
        super().__init__(hub)
        self._origin = origin
        self._transport = cast(asyncio.Transport, Nowhere())
        self._kept = _Kept(most_bytes)
        self._said: asyncio.Future[Answer | Failure] = hub.loop.create_future()

    async def ask(
        self, service: str, host: bytes, target: bytes, fields: Sequence[bytes], lines: bytes, timeout_s: float
    ) -> Answer | Failure:
        """`fields` are whole lines of a client's; `lines` pass whatever their names are."""
        text = b"GET %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, host, b"".join(fields))
        try:
            head = read_request(text)
        except Refused as refused:
            return Failure(str(refused))
        assert head is not None
        hub = self._hub
        exchange = self._exchange = Exchange(
            head, self._origin, Router((), service), hub.new_request_id(), hub.date, client=self._kept
        )
        self._state = State.EXCHANGE
        timer = hub.loop.call_later(timeout_s, self._expire)
        try:
            forward = Forward(service, request=Changes(_NOTHING_REMOVED, lines) if lines else None)
            self._run(exchange.start(forward))
            return await self._said
        finally:
            timer.cancel()

    def _expire(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if self._waiting is not None:
            self._leave_queue()
            self._run(exchange.no_server(Code.QUEUE_TIMEOUT))
        else:
            self._run(exchange.timed_out())

    def upstream_data(self, data: bytes) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._time(exchange)
        self._run(exchange.upstream_data(data))
        self._look(exchange)

    def upstream_heard(self, heard: list[Heard]) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._time(exchange)
        self._run(exchange.heard(heard))
        self._look(exchange)

    def upstream_lost(self, *, unprocessed: bool = False) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._run(exchange.upstream_closed(unprocessed=unprocessed))

    def _look(self, exchange: Exchange) -> None:
        """Whether it is too long."""
        if self._exchange is exchange and self._kept.too_long:
            self._run(exchange.client_closed())

    def _record(self) -> None:
        """Is the end of it."""
        exchange = self._exchange
        assert exchange is not None
        answer = self._kept.answer() if exchange.error is None else None
        if not self._said.done():
            why = (
                exchange.error.label
                if exchange.error is not None and not self._kept.too_long
                else "the answer is too long"
            )
            self._said.set_result(answer or Failure(why))

    def _finish(self, finish: Finish) -> None:
        self._exchange, self._state = None, State.CLOSED

    def balance(self) -> None:
        """There is nobody who could send too much."""

    def _touch(self) -> None:
        """The time is bounded as a whole."""
