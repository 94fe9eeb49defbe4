"""`/ready`: whether new connections should come to this node, for the health checks of the L4 tier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.errors import Refused
from proxy.head import read_request


class ReadyProtocol(asyncio.Protocol):
    """Answers `/ready` with 200 or 503, once a connection; 404 elsewhere."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are of no class of asyncio's
        self._timer = asyncio.get_running_loop().call_later(5.0, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            head = read_request(self._buffer)
        except Refused as refused:
            self._answer(refused.code.status, b"")
            return
        if head is None:
            return
        if head.target != b"/ready" or head.method not in (b"GET", b"HEAD"):
            self._answer(404, b"")
        else:
            ready = self._is_ready()
            text = b"ready\n" if ready else b"not ready\n"
            self._answer(200 if ready else 503, text if head.method == b"GET" else b"")

    def _answer(self, status: int, text: bytes) -> None:
        head = b"HTTP/1.1 %d -\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        self._transport.write(head % (status, len(text)) + text)
        self._transport.close()
