"""A client's connection of HTTP/1 with a fast lane (quick_carrier.py).

What goes through a tunnel is passed on without asking the exchange either.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.carrier import State
from proxy.conn import ClientConnection
from proxy.exchange import Exchange
from proxy.head import read_request
from proxy.hub import Hub, Site
from proxy.quick_carrier import Came, QuickCarrier

_IDLE: Final = State.IDLE  # a member of an enumeration is three times as dear to name


class QuickConnection(QuickCarrier, ClientConnection):
    """One client's connection to a listener."""

    __slots__ = ()

    def __init__(self, hub: Hub, site: Site) -> None:
        super().__init__(hub, site)
        self._open_lane()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._tail = self._origin.tail(b"1.1")

    def data_received(self, data: bytes) -> None:
        if self._full:
            super().data_received(data)
        elif self._state is _IDLE:
            if self._retiring or self._site.closing or not self._try(data, len(data), data):
                super().data_received(data)
        elif self._exchange is not None and self._exchange.tunnels and self._upstream is not None:
            self._account.bytes_in += len(data)
            self._upstream.write(data)
            self.deadline = self._hub.now() + self._site.tunnel_timeout_s
        else:
            super().data_received(data)

    def upstream_data(self, data: bytes) -> None:
        asked = self._asked
        if asked is None:
            exchange = self._exchange
            if exchange is not None and exchange.tunnels and not self._full and not self._eof:
                self._account.bytes_out += len(data)
                self._transport.write(data)
                self.deadline = self._hub.now() + self._site.tunnel_timeout_s
            else:
                super().upstream_data(data)
            return
        told = self._told(data)
        if told is None:
            super().upstream_data(data)
            return
        out, answer = told
        now = self._done(answer, len(out))
        self._state = _IDLE
        self.deadline = now + self._site.idle_timeout_s
        self._transport.write(out)
        if self._paused:
            self.balance()
        if not asked[-1].keeps:
            self._close()

    def _exchange_of(self, came: Came, size: int, identifier: bytes, hsts: bytes) -> Exchange:
        assert isinstance(came, bytes)
        head, hub = read_request(came), self._hub
        assert head is not None
        return Exchange(head, self._origin, self._site.router, identifier, hub.date, rest=came[head.size :], hsts=hsts)
