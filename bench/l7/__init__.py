"""The L7 proxy next to nginx, HAProxy, Envoy and, for scale, Caddy, in the same run.

    wrk ── 5,000 requests of browsers and API clients (requests.http) ──► proxy ──► one nginx as back end

Proxies take turns (A B A B …) and the median counts. CPU time per unit of work decides, since the load generator and
the back end share the machine's cores (measures.py). All log every request, keep connections alive on both sides and
have one worker; their configurations are the files in this folder, filled in by proxies.py.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import Row, shown
from bench.l7.heads import requests, script
from bench.l7.proxies import backend, key_server
from bench.l7.rows import BIG_BYTES, Bench, echo_server, every_row


async def measure(directory: Path, quick: bool) -> list[Row]:
    """All rows, each printed as it comes. One proxy at a time is under load."""
    with ExitStack() as stack:
        keys = stack.enter_context(key_server(directory))
        behind = stack.enter_context(backend(directory))
        echo = stack.enter_context(echo_server())
        bench = Bench(directory, behind.port, echo, keys, quick)
        return [row async for each in every_row(bench) for row in shown([each])]


def _files(directory: Path) -> None:
    """Scripts and what is served; the back end's own user has to read it."""
    directory.chmod(0o755)
    (directory / "heads.lua").write_text(script(requests()))
    (directory / "close.lua").write_text(script(requests(fields="Connection: close\r\n")))
    with (directory / "big").open("wb") as file:
        file.truncate(BIG_BYTES)


def run(quick: bool) -> list[Row]:
    """For `python -m bench l7`."""
    with TemporaryDirectory(prefix="paifang-bench-") as name:
        directory = Path(name)
        _files(directory)
        return asyncio.run(measure(directory, quick))
