"""WebSocket messages to and fro: an echo server, and clients that count what comes back.

`python -m bench.l7.echo serve PORT` and `python -m bench.l7.echo ask PORT CONNECTIONS SECONDS`, which prints a number.
Each connection has one message of PAYLOAD bytes on its way at any time. Frames are read whole: RFC 6455 §5.2, one short
frame a message, masked by the client.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import sys
from typing import cast

import uvloop

PAYLOAD = 64
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
_OPENING = (
    b"GET /echo HTTP/1.1\r\nHost: www.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)
_HEAD, _MASK = 2, 4


def frame(payload: bytes, mask: bytes = b"") -> bytes:
    """A text frame of fewer than 126 bytes."""
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if mask else payload
    return bytes((0x81, len(payload) | (0x80 if mask else 0))) + mask + masked


class _Peer(asyncio.Protocol):
    """What both ends share: the head of the handshake first, then frames of one size."""

    size = 0

    def __init__(self) -> None:
        self._data = b""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._open:
            head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            self._data, self._open = rest, True
            self.opened(head)
        while len(self._data) >= self.size:
            message, self._data = self._data[: self.size], self._data[self.size :]
            self.message(message)

    def opened(self, head: bytes) -> None:
        raise NotImplementedError

    def message(self, message: bytes) -> None:
        raise NotImplementedError


class Server(_Peer):
    size = _HEAD + _MASK + PAYLOAD

    def opened(self, head: bytes) -> None:
        match = re.search(rb"\r\nsec-websocket-key: ([^\r]+)", head, re.IGNORECASE)
        assert match is not None, head
        accept = base64.b64encode(hashlib.sha1(match[1] + _GUID, usedforsecurity=False).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
        )

    def message(self, message: bytes) -> None:
        mask, masked = message[2:6] * (PAYLOAD // 4), message[6:]
        plain = int.from_bytes(mask, "big") ^ int.from_bytes(masked, "big")
        self.transport.write(bytes((0x81, PAYLOAD)) + plain.to_bytes(PAYLOAD, "big"))


class Client(_Peer):
    size = _HEAD + PAYLOAD
    messages = 0
    failed = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        payload = os.urandom(PAYLOAD // 2).hex().encode()
        self._frame, self._expected = frame(payload, os.urandom(_MASK)), frame(payload)
        self.transport.write(_OPENING % base64.b64encode(os.urandom(16)))

    def opened(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 101 "):
            Client.failed = head.decode()
        self.transport.write(self._frame)

    def message(self, message: bytes) -> None:
        if message != self._expected:
            Client.failed = "not the message that was sent"
        Client.messages += 1
        self.transport.write(self._frame)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


async def ask(port: int, connections: int, seconds: float) -> int:
    """How many messages came back."""
    loop = asyncio.get_running_loop()
    opened = [await loop.create_connection(Client, "127.0.0.1", port) for _ in range(connections)]
    await asyncio.sleep(seconds)
    for transport, _ in opened:
        transport.abort()
    if Client.failed or not Client.messages:
        raise RuntimeError(Client.failed or "nothing came back")
    return Client.messages


def main(argv: list[str]) -> None:
    if argv[0] == "serve":
        uvloop.run(serve(int(argv[1])))
    else:
        print(uvloop.run(ask(int(argv[1]), int(argv[2]), float(argv[3]))))


if __name__ == "__main__":
    main(sys.argv[1:])
