"""HTTP/2 from clients, and gRPC through us, next to nginx and HAProxy in the same run.

    h2load ── TLS, HTTP/2 ──► proxy ──► HTTP/1.1: the back end of bench l7
                                   └──► h2c: an nginx that answers as a gRPC server does, status in trailers (grpc.conf)

As in bench l7: one worker each, all log, CPU time of the proxy a request, taken in turns. Envoy is in no package of
Debian, PyPI or npm that holds its program.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import Row, shown
from bench.l7 import proxies
from bench.l7.measures import cpu_s, interleaved
from bench.l7.proxies import Contender

GOAL = 2.0  # of nginx's CPU: half of its throughput
# A unary call: not compressed, five bytes of message (the gRPC protocol, "Length-Prefixed-Message").
CALL = b"\0\0\0\0\x05hello"
ONE, MANY = ("-c1", "-m100"), ("-c32", "-m10")
_DONE = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")


def requests(said: str, name: str = "") -> int:
    """How many `name` has answered, by what h2load says. Raises RuntimeError if some failed: no figure has errors."""
    match = _DONE.search(said)
    if match is None or any(map(int, match.groups()[1:])) or not int(match[1]) or f"{match[1]} 2xx" not in said:
        raise RuntimeError(f"{name}: {said}")
    return int(match[1])


def per_request_us(contender: Contender, count: int, *options: str, path: str = "/") -> float:
    url = f"https://127.0.0.1:{contender.tls_port}{path}"
    before = cpu_s(contender.pids)
    argv = ["h2load", "-t1", f"-n{count}", *options, "-H", "user-agent: h2load", url]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout
    return (cpu_s(contender.pids) - before) / requests(said, contender.name) * 1e6


def against(figures: dict[str, float], name: str) -> list[Row]:
    ours = figures["paifang"]
    return [
        Row(name, "µs CPU", ours, "nginx", figures["nginx"], GOAL),
        Row(f"{name}, next to haproxy", "µs CPU", ours, "haproxy", figures["haproxy"]),
    ]


def rows(contenders: list[Contender], call: Path, quick: bool) -> list[Row]:
    count, rounds = (6_000, 3) if quick else (40_000, 7)
    grpc = ("-c8", "-m16", "-d", str(call), "-H", "content-type: application/grpc", "-H", "te: trailers")
    found: list[Row] = []
    for name, options, path in (
        ("HTTP/2, 100 streams of one connection", ONE, "/"),
        ("HTTP/2, 32 connections of 10 streams", MANY, "/"),
        ("gRPC, unary calls on 8 connections", grpc, "/grpc.Echo/Say"),
    ):
        for each in contenders:  # what is taken once is taken
            per_request_us(each, 1_000, *options, path=path)
        figures = interleaved(
            contenders,
            rounds,
            lambda each, to=path, by=options: per_request_us(each, count, *by, path=to),  # type: ignore[misc]
        )
        found += shown(against(figures, name))
    return found


async def measure(directory: Path, quick: bool) -> list[Row]:
    call = directory / "call"
    call.write_bytes(CALL)
    with ExitStack() as stack:
        keys = stack.enter_context(proxies.key_server(directory))
        behind = stack.enter_context(proxies.backend(directory)).port
        server = stack.enter_context(proxies.grpc_server(directory)).port
        async with AsyncExitStack() as running:
            ours = await running.enter_async_context(proxies.paifang(directory, behind, behind, keys, grpc=server))
            peers = (
                proxies.nginx(directory, behind, behind, grpc=server),
                proxies.haproxy(directory, behind, behind, grpc=server),
            )
            contenders = [ours, *map(running.enter_context, peers)]
            return await asyncio.to_thread(rows, contenders, call, quick)


def run(quick: bool) -> list[Row]:
    """For `python -m bench h2`."""
    with TemporaryDirectory(prefix="paifang-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        return asyncio.run(measure(directory, quick))
