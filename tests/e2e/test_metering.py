"""Metering of an L7 node to the byte, while everything that can be killed is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from control.node.children import Child
from core.config import to_dict
from proxy import cells
from proxy.metering import DIRECTORY
from tests.control.conftest import Authority
from tests.proxy.processes import asked, state_of
from tests.proxy.support import WEBSOCKET, Backend, Client, Request, free_port, model
from tests.waiting import until

READY_S = 40.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ca")


async def answer(request: Request) -> None:
    """/SIZE: so many bytes; /chat: an echo; what else is asked for is not there."""
    body = await request.body()
    if request.path == "/chat":
        request.writer.write(WEBSOCKET)
        while data := await request.reader.read(1 << 16):
            request.writer.write(data)
        return
    found = request.path[1:].isdigit()
    body = bytes(int(request.path[1:])) if found else b""
    status = b"200 OK" if found else b"404 Not Found"
    request.writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


class Site:
    """A control plane and an L7 node by their command lines, and all that was sent through it and came back."""

    def __init__(self, authority: Authority, directory: Path, backend: int) -> None:
        self.directory = directory
        self.port, self.ready = free_port(), free_port()
        self.api, self.nodes = free_port(), free_port()
        self.model = model(self.port, [backend])
        self.identities = {role: authority.issue(role, name) for role, name in (("control", "c"), ("l7", "l7-1"))}
        self.identity = directory / "id"
        self.identities["l7"].rename(self.identity)
        self.children: list[Child] = []
        self.sent: Counter[str] = Counter()

    async def control(self) -> Child:
        state = self.directory / "control"
        words = ["control", "--state", str(state), "--api", f"127.0.0.1:{self.api}"]
        words += ["--nodes", f"127.0.0.1:{self.nodes}", "--identity", str(self.identities["control"])]
        return await self._start(*words)

    async def node(self, *more: str) -> Child:
        words = ["proxy", "--name", "l7-1", "--control", f"https://127.0.0.1:{self.nodes}", "--workers", "2"]
        words += ["--identity", str(self.identity), "--state", str(state_of(self.identity)), "--metrics", "off"]
        return await self._start(*words, "--ready", f"127.0.0.1:{self.ready}", "--drain-time", "5", *more)

    async def _start(self, *words: str) -> Child:
        log = self.directory / f"{words[0]}-{len(self.children)}.log"
        child = Child.start(words[0], [sys.executable, "-m", *words], log=log, notify_dir=self.directory)
        self.children.append(child)
        await asyncio.to_thread(child.wait_ready, READY_S)
        return child

    async def kill(self, child: Child) -> None:
        child.signal(signal.SIGKILL)
        await asyncio.to_thread(child.terminate, READY_S)

    async def ask(self, path: str, method: str = "GET", **more: Any) -> Any:
        token = (self.directory / "control" / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, f"http://127.0.0.1:{self.api}{path}", **more) as response,
        ):
            text = await response.text()
            assert response.status == 200, text
            return text if response.content_type == "text/csv" else await response.json()

    async def use(self, *paths: str, body: bytes = b"") -> None:
        """One connection, a request each; everything is counted here, too."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.sent["connections"] += 1
        for path in paths:
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            client.writer.write(head + body)
            status, answered, received = await client.whole_answer()
            self.sent[f"requests_{status // 100}xx"] += 1
            self.sent["bytes_in"] += len(head) + len(body)
            self.sent["bytes_out"] += len(answered) + len(received)
        await client.close()

    async def use_all(self) -> None:
        """Requests of all kinds; when this returns, the workers have written down all of it."""
        before, sent = self.held(), self.sent.copy()
        for size in (0, 3, 70_000, 900_000):
            await self.use(f"/{size}", "/1", "/nothing", body=bytes(size // 3))
        moved = [self.sent[name] - sent[name] for name in ("bytes_in", "bytes_out")]
        await until(lambda: [now - was for now, was in zip(self.held(), before, strict=True)] == moved, READY_S)

    def held(self) -> list[int]:
        """The bytes in the files of workers that live."""
        total = [0, 0]
        for file in cells.found(state_of(self.identity) / DIRECTORY):
            if not file.left:
                for counters in file.listeners.values():
                    total = [total[0] + counters[0], total[1] + counters[1]]
        return total

    def workers(self) -> list[int]:
        """Processes of workers that have files."""
        return [int(file.path.name.partition("-")[0]) for file in cells.found(state_of(self.identity) / DIRECTORY)
                if not file.left]  # fmt: skip


@asynccontextmanager
async def site_of(authority: Authority, directory: Path) -> AsyncIterator[Site]:
    async with Backend(answer).running() as backend:
        site = Site(authority, directory, backend.port)
        try:
            yield site
        finally:
            for child in site.children:
                if child.poll() is None:
                    child.signal(signal.SIGKILL)
                await asyncio.to_thread(child.terminate, READY_S)


async def test_to_the_byte_while_all_are_killed(authority: Authority, tmp_path: Path) -> None:
    async with site_of(authority, tmp_path) as site:
        control = await site.control()
        await site.ask("/v1/config", "PUT", json=to_dict(site.model))
        node = await site.node()

        await site.use_all()
        os.kill(worker := site.workers()[0], signal.SIGKILL)
        await until(lambda: len(site.workers()) == 2 and worker not in site.workers(), READY_S)
        await site.use_all()
        await site.kill(control)
        await site.use_all()
        await site.kill(node)  # the supervisor; its workers end by themselves
        await until(lambda: not site.workers(), READY_S)
        node = await site.node()  # and the control plane is still away
        await site.use_all()
        control = await site.control()
        await site.use_all()
        second = await site.node("--replace")
        await asyncio.to_thread(node.terminate, READY_S)
        await site.use_all()
        assert (await asked(site.identity, "status"))["pid"] == second.pid
        assert await asyncio.to_thread(second.terminate, READY_S) == 0
        rows = (await site.ask("/v1/metering?by=month"))["rows"]
        found: Counter[str] = Counter()
        for row in rows:
            assert (row["instance"], row["listener"]) == ("main", "web")
            found.update({name: row[name] for name in row if name in site.sent})
        assert found == site.sent
        assert rows[0]["connections_max"] >= 1
        assert not [*(state_of(site.identity) / DIRECTORY).iterdir()]
        csv = (await site.ask("/v1/metering?by=hour&format=csv")).splitlines()
        assert csv[0].startswith("time,instance,listener,bytes_in,bytes_out,connections,requests_1xx")
        assert sum(int(line.split(",")[3]) for line in csv[1:]) == site.sent["bytes_in"]
