"""What others notice of a flood of half handshakes: p99 of requests and of whole handshakes, with and without it.

    flood, one process ─── TCP, ClientHello, silence, 300 a second, each from another address ──► TLS node (first core)
    others, this process ─ a request each 5 ms on one connection, a handshake each 20 ms ────────►   │
                                                                                  key server (second core) ◄─┘

Turns with and without the flood follow one another; a figure is the median of the turns' 99th percentiles. Both clients
share the second core with the key server, so that their own work is in the figure too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import ssl
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter, sleep

import uvloop

from bench import Row

RATE = 300  # half handshakes a second
GOAL = 2.0
SETTLE_S = 1.0  # a thousand connections that end at once hold the node up for 30 ms, which is not the quiet turn's
REQUEST_EVERY_S, HANDSHAKE_EVERY_S = 0.005, 0.02
REQUEST = b"GET / HTTP/1.1\r\nHost: web.test\r\n\r\n"


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context().wrap_bio(incoming, outgoing, server_hostname="web.test").do_handshake()
    return outgoing.read()


async def flood(port: int) -> None:
    """Until it is ended; says so when it runs. Connections are kept for longer than the node allows."""
    first, loop = hello(), asyncio.get_running_loop()
    kept: deque[asyncio.Transport] = deque()
    begun = loop.time()
    for number in itertools.count():
        source = f"127.{1 + number % 200}.{number // 200 % 200}.1"
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port, local_addr=(source, 0))
        transport.write(first)
        kept.append(transport)
        if number == RATE:
            print("running", flush=True)
        if len(kept) > 20 * RATE:
            kept.popleft().close()
        await asyncio.sleep(max(0.0, begun + number / RATE - loop.time()))


@contextmanager
def flooding(port: int) -> Iterator[None]:
    """A flood that is in full swing. Raises RuntimeError if it did not last."""
    process = subprocess.Popen([sys.executable, "-m", "bench.tls_flood", str(port)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        if process.poll() is not None:
            raise RuntimeError("the flood ended by itself")
    finally:
        process.kill()
        process.communicate()
        sleep(SETTLE_S)


async def others(port: int, seconds: float) -> tuple[float, float]:
    """The 99th percentiles of requests and of handshakes, in ms."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    requests, handshakes = [], []

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context())
        while loop.time() < until:
            since = perf_counter()
            writer.write(REQUEST)
            await reader.readuntil(b"hello\n")
            requests.append(perf_counter() - since)
            await asyncio.sleep(REQUEST_EVERY_S)
        writer.close()

    async def connect() -> None:
        fresh = context()
        while loop.time() < until:
            since = perf_counter()
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=fresh)
            handshakes.append(perf_counter() - since)
            writer.close()
            del reader
            await asyncio.sleep(HANDSHAKE_EVERY_S)

    await asyncio.gather(ask(), connect())
    return p99_ms(requests), p99_ms(handshakes)


def p99_ms(samples: list[float]) -> float:
    return statistics.quantiles(samples, n=100)[98] * 1000


def rows(port: int, turns: int, seconds: float) -> list[Row]:
    """`port`: of a TLS node that says hello to requests."""
    quiet, loud = [], []
    for _ in range(turns):
        quiet.append(uvloop.run(others(port, seconds)))
        with flooding(port):
            loud.append(uvloop.run(others(port, seconds)))
    found = []
    for index, name in enumerate(("request", "handshake")):
        alone, flooded = (statistics.median(turn[index] for turn in each) for each in (quiet, loud))
        found.append(Row(f"{name}-p99-in-a-flood-of-{RATE}/s", "ms", flooded, "without the flood", alone, GOAL))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.tls_flood", description="The flood alone.")
    parser.add_argument("port", type=int)
    uvloop.run(flood(parser.parse_args().port))
