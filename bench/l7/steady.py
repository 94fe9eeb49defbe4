"""Latency at a steady rate: requests leave when they are due, whether or not earlier ones have been answered.

`python -m bench.l7.steady PORT RATE SECONDS CONNECTIONS` prints p50 and p99 in µs, counted from when each request was
due (else a proxy that stalls would be asked less while it does). A request that finds no connection free waits for one.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from time import perf_counter
from typing import cast

import uvloop

from bench.l7.heads import requests

TICK_S = 0.001


class Load:
    """Connections, and the times that requests took, in seconds."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.free: list[Connection] = []
        self.due: deque[tuple[float, bytes]] = deque()
        self.took: list[float] = []

    def send(self) -> None:
        """As many of those that are due as there are connections."""
        while self.due and self.free:
            self.free.pop().ask(*self.due.popleft())

    async def run(self, seconds: float) -> None:
        messages = requests()
        began, sent = perf_counter(), 0
        while (now := perf_counter()) < began + seconds:
            while began + sent / self.rate <= now:
                self.due.append((began + sent / self.rate, messages[sent % len(messages)]))
                sent += 1
            self.send()
            await asyncio.sleep(TICK_S / 2)


class Connection(asyncio.Protocol):
    """One request at a time; answers have a length and come in one piece or several."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._asked = 0.0
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._load.free.append(self)

    def ask(self, due: float, message: bytes) -> None:
        self._asked = due
        self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = int(head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._data = b""
            self._load.took.append(perf_counter() - self._asked)
            self._load.free.append(self)
            self._load.send()


async def measure(port: int, rate: float, seconds: float, connections: int) -> tuple[float, float]:
    """p50 and p99 in seconds; the first tenth of the time is not counted."""
    loop, load = asyncio.get_running_loop(), Load(rate)
    opened = [await loop.create_connection(lambda: Connection(load), "127.0.0.1", port) for _ in range(connections)]
    await load.run(seconds)
    for transport, _ in opened:
        transport.abort()
    took = sorted(load.took[len(load.took) // 10 :])
    return took[len(took) // 2], took[len(took) * 99 // 100]


def main(argv: list[str]) -> None:
    port, rate, seconds, connections = int(argv[0]), float(argv[1]), float(argv[2]), int(argv[3])
    p50, p99 = uvloop.run(measure(port, rate, seconds, connections))
    print(f"{p50 * 1e6:.1f} {p99 * 1e6:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
