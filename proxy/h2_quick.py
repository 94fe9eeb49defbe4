"""A stream of HTTP/2 with a fast lane (quick_carrier.py, h2_lane.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.exchange import Exchange
from proxy.h2_lane import answer_block, answer_payload, request_text
from proxy.h2_message import read_request
from proxy.h2_stream import Stream, priority_of
from proxy.hpack import Pair
from proxy.http2 import Http2Client
from proxy.message import CHUNKED
from proxy.quick_carrier import Came, QuickCarrier

if TYPE_CHECKING:
    from proxy.h2_conn import Http2Connection

_PRIORITY: Final = b"\r\npriority: "


class QuickStream(QuickCarrier, Stream):
    """A request with this number, on this connection."""

    __slots__ = ()

    def __init__(self, connection: Http2Connection, number: int, *, ended: bool) -> None:
        super().__init__(connection, number, ended=ended)
        self._open_lane(connection.tail)

    def ask(self, fields: list[Pair], size: int) -> bool:
        """Sends a request without a body by the fast lane; False: it has to go the common way."""
        if self._full or self._site.closing:
            return False
        text = request_text(fields, self._origin.scheme)
        if text is None:
            return False
        self._account.number = self._connection.requests - 1
        if not self._try(fields, size, text):
            return False
        if _PRIORITY in text:
            self.urgency, self.shares = priority_of([value for name, value in fields if name == b"priority"])
        return True

    def upstream_data(self, data: bytes) -> None:
        told = self._told(data) if self._asked is not None else None
        if told is None:
            super().upstream_data(data)
            return
        out, answer = told
        block = answer_block(answer.head)
        payload = answer_payload(out[len(answer.head) :], chunked=answer.length == CHUNKED)
        self._done(answer, len(block) + len(payload))
        self.answer(block, payload)

    def gone(self) -> None:
        self._current()
        super().gone()

    def expire(self) -> None:
        self._current()
        super().expire()

    def drained(self) -> None:
        self._current()
        super().drained()

    def _exchange_of(self, came: Came, size: int, identifier: bytes, hsts: bytes) -> Exchange:
        assert not isinstance(came, bytes)
        hub = self._hub
        head = read_request(came, size, ended=True, new_key=bytes)
        self._client = Http2Client(head, ended=True)
        return Exchange(head, self._origin, self._site.router, identifier, hub.date, hsts=hsts, client=self._client)
