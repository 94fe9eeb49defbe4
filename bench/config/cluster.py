"""The processes: a control plane, its L7 nodes, long polls that stand for more; and connections that see a change."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.config.site import FIRST_PORT, VIP
from bench.l7.proxies import children, free_port, wait_for
from control.client import Api
from control.node.identity import Identity

NODES = ("l7-1", "l7-2")
START_S = 60.0
LOOK_S = 0.001
TRIES = 200  # connections until one is found at each node: the kernel chooses by their ports


@dataclass(frozen=True, slots=True)
class Cluster:
    """What runs. `pids` by process: control, and each node with its worker."""

    api: Api
    nodes_url: str
    control: int
    nodes: tuple[int, ...]
    watcher: Path

    @property
    def pids(self) -> dict[str, tuple[int, ...]]:
        """Whose CPU time counts as what; workers may have been started anew."""
        workers = tuple(child for node in self.nodes for child in children(node))
        return {"control plane": (self.control,), "nodes": self.nodes, "workers": workers}


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


@contextlib.contextmanager
def running(argv: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        started = subprocess.Popen(argv, stdout=file, stderr=file)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """A control plane without a configuration, and nodes that follow it."""
    ca = str(directory / "ca")
    subprocess.run(python("certs", "init", ca), check=True, capture_output=True)
    for role, name in (("control", "control"), ("l4", "watcher"), *(("l7", name) for name in NODES)):
        issue = python("certs", "issue", ca, "--role", role, "--name", name, "--out", str(directory / name))
        subprocess.run(issue, check=True, capture_output=True)
    api, nodes = free_port(), free_port()
    state = directory / "state"
    argv = python(
        "control", "--state", str(state), "--api", f"127.0.0.1:{api}", "--nodes", f"127.0.0.1:{nodes}",
        "--identity", str(directory / "control"), "--log-level", "WARNING",
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        control = stack.enter_context(running(argv, directory / "control.log"))
        wait_for(nodes, control)
        url = f"https://127.0.0.1:{nodes}"
        started = [
            stack.enter_context(running(_node(name, url, directory), directory / f"{name}.log")) for name in NODES
        ]
        token = (state / "token").read_text().strip()
        yield Cluster(
            Api(f"http://127.0.0.1:{api}", token, timeout_s=START_S), url, control.pid,
            tuple(each.pid for each in started), directory / "watcher",
        )  # fmt: skip


def _node(name: str, url: str, directory: Path) -> list[str]:
    return python(
        "proxy", "--name", name, "--control", url, "--identity", str(directory / name), "--state",
        str(directory / f"{name}.state"), "--workers", "1", "--ready", f"127.0.0.1:{free_port()}", "--metrics", "off",
        "--access-log", str(directory / f"{name}.access"), "--drain-time", "1", "--log-level", "WARNING",
    )  # fmt: skip


class Eye:
    """A connection to one node, kept open. `number` is what the node answers now."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def get(self, path: str) -> tuple[str, str]:
        """The node that the connection has found, where it says so, and the body."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await self._reader.readexactly(int(lines["content-length"]))
        return lines.get("via", "").rpartition(" ")[2], body.decode()

    async def until(self, number: int) -> float:
        """When this answer has come, in monotonic seconds."""
        while (await self.get("/number"))[1] != str(number):  # noqa: ASYNC110 - nobody tells; that is what is measured
            await asyncio.sleep(LOOK_S)
        return time.monotonic()

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def eyes() -> AsyncIterator[dict[str, Eye]]:
    """One at each node."""
    found: dict[str, Eye] = {}
    try:
        for _ in range(TRIES):
            eye = Eye(*await asyncio.open_connection(VIP, FIRST_PORT))
            node, _body = await eye.get("/")
            if node in found or node not in NODES:
                eye.close()
            else:
                found[node] = eye
            if len(found) == len(NODES):
                break
        else:
            raise RuntimeError(f"of {TRIES} connections none went to some node; found are {', '.join(found)}")
        yield found
    finally:
        for eye in found.values():
            eye.close()


class Polls:
    """Long polls that stand for nodes. `arrived` has when each got a version, `size_bytes` what came."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self._url = f"{cluster.nodes_url}/v1/node/config"
        self._tls: ssl.SSLContext = Identity.load(cluster.watcher).client_context("control")
        self._count = count
        self.arrived: dict[int, list[float]] = {}
        self.size_bytes: dict[int, int] = {}
        self._event = asyncio.Event()

    @contextlib.asynccontextmanager
    async def polling(self, version: int) -> AsyncIterator[None]:
        """From the version after this one on."""
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            tag = (await self._ask(session, 0, ""))[1]
            tasks = [group.create_task(self._poll(session, version, tag)) for _ in range(self._count)]
            yield
            for task in tasks:
                task.cancel()

    async def _poll(self, session: aiohttp.ClientSession, version: int, tag: str) -> None:
        while True:
            version, tag = await self._ask(session, version, tag)
            self.arrived.setdefault(version, []).append(time.monotonic())
            self._event.set()

    async def _ask(self, session: aiohttp.ClientSession, version: int, tag: str) -> tuple[int, str]:
        while True:
            async with session.get(self._url, params={"after": str(version), "tag": tag}) as response:
                if response.status == 200:
                    body = await response.read()
                    break
        match = re.match(rb'{"version": (\d+), "tag": "([^"]+)"', body)
        assert match is not None, body[:100]
        self.size_bytes[int(match[1])] = len(body)
        return int(match[1]), match[2].decode()

    async def until(self, version: int) -> list[float]:
        """When all have got it."""
        while len(self.arrived.get(version, ())) < self._count:
            self._event.clear()
            await self._event.wait()
        return self.arrived[version]


def nice() -> None:
    """The load must not keep what is measured from running: this machine has few cores."""
    os.nice(10)
