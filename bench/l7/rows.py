"""The rows of `bench l7`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import Row
from bench.l7 import proxies
from bench.l7.measures import (
    cpu_s,
    idle_kib,
    interleaved,
    load,
    per_gigabyte_ms,
    per_request_us,
    per_second,
    per_served_us,
    slow_reader_kib,
)
from bench.l7.proxies import Contender, free_port, process

BIG_BYTES = 10 << 20
CONNECTIONS, MANY = 64, 4096


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things are, and how long each measurement takes."""

    directory: Path
    backend: int
    echo: int
    keys: str
    quick: bool

    @property
    def seconds(self) -> int:
        return 1 if self.quick else 4

    def rounds(self, rounds: int) -> int:
        """Of `rounds`, as many as there is time for."""
        return 1 if self.quick else rounds

    def script(self, name: str = "heads") -> str:
        return str(self.directory / f"{name}.lua")

    async def ours(self, stack: AsyncExitStack, *, logs: bool = True, workers: int = 1) -> Contender:
        made = proxies.paifang(self.directory, self.backend, self.echo, self.keys, logs=logs, workers=workers)
        return await stack.enter_async_context(made)

    async def all(self, stack: AsyncExitStack) -> list[Contender]:
        """Ours, nginx, HAProxy, Caddy and, where it is there, Envoy."""
        peers = (
            proxies.nginx(self.directory, self.backend, self.echo),
            proxies.haproxy(self.directory, self.backend, self.echo),
            proxies.caddy(self.directory, self.backend),
            proxies.envoy(self.directory, self.backend),
        )
        return [await self.ours(stack), *filter(None, map(stack.enter_context, peers))]


@contextmanager
def echo_server() -> Iterator[int]:
    """The server behind the WebSocket rows; its port."""
    port = free_port()
    with process([sys.executable, "-m", "bench.l7.echo", "serve", str(port)], port):
        yield port


async def every_row(bench: Bench) -> AsyncIterator[Row]:
    """All of them, in parts. The proxies of a part are up together; one at a time is under load."""
    async with AsyncExitStack() as stack:
        contenders = await bench.all(stack)
        for part in (_memory, _http, _connections, _https, _websocket, _latency):
            for row in await asyncio.to_thread(part, bench, contenders):
                yield row
    async with AsyncExitStack() as stack:
        ours = await bench.ours(stack, logs=False)
        peer = stack.enter_context(proxies.nginx(bench.directory, bench.backend, bench.echo, logs=False))
        yield await asyncio.to_thread(_without_logs, bench, [ours, peer])
    yield await _workers(bench)


def _http(bench: Bench, contenders: list[Contender]) -> list[Row]:
    """Small answers over kept connections, which is the first goal; and 10 MB bodies."""
    seconds, script = bench.seconds, bench.script()
    small = interleaved(contenders, bench.rounds(7), lambda each: per_request_us(each, seconds, script))
    big = interleaved(contenders[:3], bench.rounds(5), lambda each: per_gigabyte_ms(each, seconds))
    best = min(("nginx", "haproxy"), key=lambda name: big[name])
    return [
        *_against(small, "HTTP keep-alive, small body", "µs CPU"),
        Row("HTTP, 10 MB bodies", "ms CPU/GB", big["paifang"], best, big[best], 1.0),
    ]


def _memory(bench: Bench, contenders: list[Contender]) -> list[Row]:
    ours, peer = contenders[:2]
    for each in (ours, peer):  # caches fill, and memory that is taken once is taken
        load(each, 1, CONNECTIONS, script=bench.script())
    number = 1000 if bench.quick else 4000
    idle = {each.name: idle_kib(each, number) for each in (ours, peer)}
    secure = {each.name: idle_kib(each, number // 4, tls=True) for each in (ours, peer)}
    stuck = slow_reader_kib(ours, 50)
    return [
        Row("idle HTTP connection", "KiB", idle["paifang"], "bound", 8.0, 1.0),
        Row("idle HTTP connection, nginx", "KiB", idle["nginx"]),
        Row("idle HTTPS connection", "KiB", secure["paifang"], "bound", 40.0, 1.0),
        Row("idle HTTPS connection, nginx", "KiB", secure["nginx"]),
        Row("client that reads nothing", "KiB", stuck, "bound", 256.0, 1.0),
    ]


def _against(figures: dict[str, float], name: str, unit: str, goal: float | None = 1.0) -> list[Row]:
    """Our figure against nginx's, which has the goal, and against the others."""
    ours = figures["paifang"]
    rows = [Row(name, unit, ours, "nginx", figures["nginx"], goal)]
    others = [peer for peer in ("haproxy", "envoy", "caddy") if peer in figures]
    rows += [Row(f"{name}, next to {peer}", unit, ours, peer, figures[peer]) for peer in others]
    return rows


def _without_logs(bench: Bench, contenders: list[Contender]) -> Row:
    load(contenders[0], 1, CONNECTIONS, script=bench.script())
    figures = interleaved(contenders, bench.rounds(5), lambda each: per_request_us(each, bench.seconds, bench.script()))
    ours, peer = (figures[each.name] for each in contenders)
    return Row("HTTP keep-alive, small body, no access log", "µs CPU", ours, "nginx", peer)


def _connections(bench: Bench, contenders: list[Contender]) -> list[Row]:
    """A connection for each request, and very many connections."""
    seconds, rounds, two = bench.seconds, bench.rounds(3), contenders[:2]
    closing = interleaved(two, rounds, lambda each: per_request_us(each, seconds, bench.script("close")))
    rows = _against(closing, "HTTP, a connection for each request", "µs CPU", None)
    if bench.quick:  # there is no time: in a second, thousands of connections are made and little else
        return rows
    many = interleaved(
        two, rounds, lambda each: per_served_us(each, bench.backend, 2 * seconds, bench.script(), connections=MANY)
    )
    return [*rows, *_against(many, f"HTTP keep-alive, {MANY:,} connections", "µs CPU", None)]


def _https(bench: Bench, contenders: list[Contender]) -> list[Row]:
    seconds, script = bench.seconds, bench.script()
    load(contenders[0], 1, CONNECTIONS, script=script, tls=True)
    secure = [each for each in contenders if each.name != "caddy"]
    small = interleaved(secure, bench.rounds(5), lambda each: per_request_us(each, seconds, script, tls=True))
    big = interleaved(contenders[:2], bench.rounds(5), lambda each: per_gigabyte_ms(each, seconds, tls=True))
    return [
        *_against(small, "HTTPS keep-alive, small body", "µs CPU"),
        Row("HTTPS, 10 MB bodies", "ms CPU/GB", big["paifang"], "nginx", big["nginx"], 0.85),
    ]


def _websocket(bench: Bench, contenders: list[Contender]) -> list[Row]:
    figures = interleaved(contenders[:3], bench.rounds(5), lambda each: _per_message_us(each, bench.seconds))
    return _against(figures, "WebSocket echo, a message there and back", "µs CPU", 1.2)


def _per_message_us(contender: Contender, seconds: int) -> float:
    before = cpu_s(contender.pids)
    argv = [sys.executable, "-m", "bench.l7.echo", "ask", str(contender.port), str(CONNECTIONS), str(seconds)]
    messages = int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    return (cpu_s(contender.pids) - before) / messages * 1e6


def _latency(bench: Bench, contenders: list[Contender]) -> list[Row]:
    """Both at the same rate: half of what the slower one can do here, between wrk and the back end."""
    rate = min(per_second(each, bench.seconds, bench.script()) for each in contenders[:2]) / 2
    seconds = 1 if bench.quick else 8
    p50: dict[str, float] = {}
    p99 = {}
    for each in contenders[:2]:
        argv = [sys.executable, "-m", "bench.l7.steady", str(each.port), str(rate), str(seconds), str(CONNECTIONS)]
        told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
        p50[each.name], p99[each.name] = float(told[0]), float(told[1])
    return [
        Row(f"p50 at half load, {rate:,.0f} requests a second", "µs", p50["paifang"], "nginx", p50["nginx"]),
        Row("p99 at half load", "µs", p99["paifang"], "nginx", p99["nginx"], 1.2),
    ]


async def _workers(bench: Bench) -> Row:
    """What two workers can do: two cores' time by the CPU of a request, since wrk and the back end need cores too."""
    figures = {}
    for number in (1, 2):
        async with AsyncExitStack() as stack:
            ours = await bench.ours(stack, workers=number)
            await asyncio.to_thread(load, ours, 1, CONNECTIONS, script=bench.script())
            cpu_us = await asyncio.to_thread(per_request_us, ours, bench.seconds, bench.script())
            figures[number] = number * 1e6 / cpu_us
    return Row("two workers, by CPU", "requests/s", figures[2], "one", figures[1], 1.8, higher_is_better=True)
