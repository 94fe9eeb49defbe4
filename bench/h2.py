"""HTTP/2 from clients, and gRPC through us, next to nginx, HAProxy and Envoy in the same run.

    h2load ── TLS, HTTP/2 ──► proxy ──► HTTP/1.1: the back end of bench l7
                                   └──► h2c: an nginx that answers as a gRPC server does, status in trailers (grpc.conf)

As in bench l7: one worker each, all log, CPU time of the proxy a request, taken in turns.
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
ANSWER, CALLED = b"hello, world\n", b"an answer"  # of backend.conf and grpc.conf
_DATA = re.compile(r"\((\d+)\) data")
_DONE = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")


def requests(said: str, name: str = "", answer: bytes = ANSWER) -> int:
    """How many `name` has answered with `answer`, by what h2load says. No figure has errors: RuntimeError if others.

    h2load speaks HTTP/1.1 where it is not offered more, and a call that failed may well have the status 200: only its
    body, which is empty then, shows it.
    """
    done, data = _DONE.search(said), _DATA.search(said)
    if "Application protocol: h2\n" not in said or done is None or data is None:
        raise RuntimeError(f"{name}: {said}")
    number, *failed = map(int, done.groups())
    if any(failed) or not number or f"{number} 2xx" not in said or int(data[1]) != number * len(answer):
        raise RuntimeError(f"{name}: {said}")
    return number


def per_request_us(contender: Contender, count: int, *options: str, path: str = "/", answer: bytes = ANSWER) -> float:
    url = f"https://127.0.0.1:{contender.tls_port}{path}"
    before = cpu_s(contender.pids)
    argv = ["h2load", "-t1", f"-n{count}", *options, "-H", "user-agent: h2load", url]
    said = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout
    return (cpu_s(contender.pids) - before) / requests(said, contender.name, answer) * 1e6


def against(figures: dict[str, float], name: str) -> list[Row]:
    ours = figures["paifang"]
    others = [peer for peer in ("haproxy", "envoy") if peer in figures]
    return [
        Row(name, "µs CPU", ours, "nginx", figures["nginx"], GOAL),
        *(Row(f"{name}, next to {peer}", "µs CPU", ours, peer, figures[peer]) for peer in others),
    ]


def grpc(directory: Path) -> tuple[str, ...]:
    """What h2load is told to send calls."""
    call = directory / "call"
    call.write_bytes(CALL)
    return ("-c8", "-m16", "-d", str(call), "-H", "content-type: application/grpc", "-H", "te: trailers")


def rows(contenders: list[Contender], calls: tuple[str, ...], quick: bool) -> list[Row]:
    count, rounds = (6_000, 3) if quick else (40_000, 7)
    found: list[Row] = []
    for name, options, path, answer in (
        ("HTTP/2, 100 streams of one connection", ONE, "/", ANSWER),
        ("HTTP/2, 32 connections of 10 streams", MANY, "/", ANSWER),
        ("gRPC, unary calls on 8 connections", calls, "/grpc.Echo/Say", CALLED),
    ):
        for each in contenders:  # what is taken once is taken
            per_request_us(each, 1_000, *options, path=path, answer=answer)
        figures = interleaved(
            contenders,
            rounds,
            lambda each, to=path, by=options, told=answer: per_request_us(  # type: ignore[misc]
                each, count, *by, path=to, answer=told
            ),
        )
        found += shown(against(figures, name))
    return found


async def measure(directory: Path, quick: bool) -> list[Row]:
    with ExitStack() as stack:
        keys = stack.enter_context(proxies.key_server(directory))
        behind = stack.enter_context(proxies.backend(directory)).port
        server = stack.enter_context(proxies.grpc_server(directory)).port
        async with AsyncExitStack() as running:
            ours = await running.enter_async_context(proxies.paifang(directory, behind, behind, keys, grpc=server))
            peers = (
                proxies.nginx(directory, behind, behind, grpc=server),
                proxies.haproxy(directory, behind, behind, grpc=server),
                proxies.envoy(directory, behind, grpc=server),
            )
            contenders = [ours, *filter(None, map(running.enter_context, peers))]
            return await asyncio.to_thread(rows, contenders, grpc(directory), quick)


def run(quick: bool) -> list[Row]:
    """For `python -m bench h2`."""
    with TemporaryDirectory(prefix="paifang-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        return asyncio.run(measure(directory, quick))
