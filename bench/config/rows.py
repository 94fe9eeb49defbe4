"""The rows of `python -m bench config`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import Row
from bench.config import l4
from bench.config.cluster import Cluster, Polls, cluster, eyes, nice
from bench.config.site import FIRST_PORT, VIP, WATCHED, site, watched
from bench.l7.measures import cpu_s
from bench.l7.proxies import backend
from control.client import Answer

CHANGES = {True: 20, False: 100}
POLLS = {True: 20, False: 100}
BETWEEN_S = 0.3  # from one change to the next, in which copies are written and reports made
LOAD_CONNECTIONS = 16
LIMIT_S = 60.0


def percentile(values: list[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _version(answer: Answer) -> int:
    """Of the configuration: an object's ETag is its own."""
    return int(answer.document["version"])  # type: ignore[index]


@contextlib.asynccontextmanager
async def load(errors: list[str]) -> AsyncIterator[None]:
    """Requests through both nodes all the while; what wrk counts as failed is appended."""
    url = f"http://{VIP}:{FIRST_PORT}/"
    process = await asyncio.create_subprocess_exec(
        "wrk", "-t1", f"-c{LOAD_CONNECTIONS}", "-d600s", "--timeout", "10s", url,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=nice,
    )  # fmt: skip
    try:
        yield
    finally:
        process.send_signal(2)  # it prints what it has counted
        told = (await process.communicate())[0].decode()
        errors += [line.strip() for line in told.splitlines() if "Non-2xx" in line or "Socket errors" in line]
        match = re.search(r"(\d+) requests in", told)
        if match is None or int(match[1]) == 0:
            errors.append(f"no request was made: {told!r}")


async def until(it: Cluster, there: Callable[[Mapping[str, Any]], bool]) -> None:
    """Until this is so of every node."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            status: Any = (await asyncio.to_thread(it.api.request, "GET", "/v1/status")).document
            if [there(node) for node in status["nodes"]] == [True] * len(it.nodes):
                return
            await asyncio.sleep(0.02)


async def loading(it: Cluster, document: object) -> list[Row]:
    """From nothing to everything, on nodes that run."""
    await until(it, lambda node: node["facts"].get("workers") == 1)
    began = time.monotonic()
    before = {name: cpu_s(pids) for name, pids in it.pids.items()}
    await asyncio.to_thread(it.api.request, "PUT", "/v1/config", document)
    answered = time.monotonic()
    await until(it, lambda node: node["version"] == 1)
    running = time.monotonic()
    spent = {name: cpu_s(pids) - before[name] for name, pids in it.pids.items()}
    return [
        Row("10,000 objects: checked, stored and answered", "ms", (answered - began) * 1e3, "bound", 2000.0, 1.0),
        Row(
            "10,000 objects: running on both nodes, from the request",
            "ms",
            (running - began) * 1e3,
            "bound",
            2000.0,
            1.0,
        ),
        Row("the same, CPU of the control plane", "ms CPU", spent["control plane"] * 1e3),
        Row("the same, CPU of a node", "ms CPU", (spent["nodes"] + spent["workers"]) / len(it.nodes) * 1e3),
    ]


async def changing(it: Cluster, changes: int, polls: int) -> list[Row]:
    """One rule after the other, each on every node."""
    version = _version(it.api.request("GET", "/v1/healthz"))
    far, errors = Polls(it, polls), list[str]()
    on_nodes: list[float] = []
    on_polls: list[float] = []
    answers: list[float] = []
    async with eyes() as at, far.polling(version), load(errors):
        before = {name: cpu_s(pids) for name, pids in it.pids.items()}
        for number in range(1, changes + 1):
            await asyncio.sleep(BETWEEN_S)
            seen = [asyncio.ensure_future(eye.until(number)) for eye in at.values()]
            began = time.monotonic()
            answer = await asyncio.to_thread(it.api.request, "PUT", f"/v1/rules/{WATCHED}", watched(number))
            answered = time.monotonic()
            async with asyncio.timeout(LIMIT_S):
                on_nodes += [max(0.0, when - answered) for when in await asyncio.gather(*seen)]
                on_polls += [max(0.0, when - answered) for when in await far.until(_version(answer))]
            answers.append(answered - began)
        spent = {name: cpu_s(pids) - before[name] for name, pids in it.pids.items()}
    if errors:
        raise RuntimeError(f"requests were lost: {'; '.join(errors)}")
    size = statistics.median(far.size_bytes[each] for each in far.arrived)
    whole = max(far.size_bytes.values())
    return [
        Row("a change of one: answered, median", "ms", statistics.median(answers) * 1e3),
        Row("running on a node after the answer, p50", "ms", percentile(on_nodes, 0.5) * 1e3, "bound", 200.0, 1.0),
        Row("running on a node after the answer, p99", "ms", percentile(on_nodes, 0.99) * 1e3, "bound", 200.0, 1.0),
        Row(f"at {polls} more that listen, p99", "ms", percentile(on_polls, 0.99) * 1e3, "bound", 200.0, 1.0),
        Row("bytes to each node", "bytes", size, "the whole", float(whole)),
        Row("CPU of the control plane, a change", "ms CPU", spent["control plane"] / changes * 1e3),
        Row("CPU of a supervisor, a change and reports", "ms CPU", spent["nodes"] / changes / 2 * 1e3),
        Row("requests lost meanwhile", "requests", 0.0),
    ]  # fmt: skip


async def measure(directory: Path, quick: bool) -> list[Row]:
    with backend(directory) as behind, cluster(directory) as it:
        rows = await loading(it, json.loads(json.dumps(site(behind.port))))
        return rows + await changing(it, CHANGES[quick], POLLS[quick])


def run(quick: bool) -> list[Row]:
    """For `python -m bench config`. Needs root, for the L4 node's tables."""
    with TemporaryDirectory(prefix="paifang-bench-") as name:
        Path(name).chmod(0o755)
        return asyncio.run(measure(Path(name), quick)) + l4.rows(quick)
