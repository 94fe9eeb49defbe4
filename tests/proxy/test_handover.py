"""`paifang l7 --replace`: a node is replaced under load, and nobody notices."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from control.node import admin
from proxy.ask import ADMIN_SOCKET
from proxy.errors import ApplyError
from proxy.handover import SOCKET, Offer, Succession
from proxy.listen import bind
from tests.proxy.h2_support import WEBSOCKET, Raw
from tests.proxy.processes import asked, command, keep, refused, running, state_of
from tests.proxy.support import Backend, Client, Request, free_port, model, open_websocket, with_options
from tests.proxy.test_h2_conn import accept
from tests.waiting import until

STREAMS = 4


async def answer(request: Request) -> None:
    """The body is the request's id, whose first 20 digits are a worker's own; /chat and /ws are echoes."""
    if request.path in ("/chat", "/ws"):
        head = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
        request.writer.write(head % accept(request.head))
        while data := await request.reader.read(100):
            request.writer.write(data)
        return
    await asyncio.sleep(0.002)
    identifier = re.search(rb"\r\nX-Request-Id: (\w+)\r\n", request.head)
    assert identifier
    request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n" + identifier[1])


class Load:
    """Clients that ask without pause: on a connection each as long as it lives, on a new one each time, by streams."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.served: Counter[bytes] = Counter()
        self.left = 0  # connections of HTTP/2 that their clients were told to leave
        self.failures: list[str] = []
        self._stop = asyncio.Event()

    @asynccontextmanager
    async def of(self, clients: int, by_streams: int) -> AsyncIterator[Load]:
        self._tasks = [asyncio.create_task(self._ask(each % 2 == 0)) for each in range(clients)]
        self._tasks += [asyncio.create_task(self._ask_by_streams()) for _ in range(by_streams)]
        try:
            yield self
        finally:
            await self.stop()

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _ask(self, keeps: bool) -> None:
        while not self._stop.is_set():
            try:
                async with asyncio.timeout(10):
                    client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
                try:
                    close = False
                    while not close and not self._stop.is_set():
                        client.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                        status, head, body = await client.whole_answer()
                        assert status == 200
                        self.served[body[:20]] += 1
                        close = not keeps or b"\r\nConnection: close\r\n" in head
                finally:
                    await client.close()
            except (OSError, TimeoutError, asyncio.IncompleteReadError, AssertionError) as error:
                self.failures.append(repr(error))

    async def _ask_by_streams(self) -> None:
        while not self._stop.is_set():
            client = Raw(*await asyncio.open_connection("127.0.0.1", self.port))
            client.greet()
            try:
                await asyncio.gather(*[self._ask_on(client) for _ in range(STREAMS)])
                self.left += bool(client.goaways)
            finally:
                await client.close()

    async def _ask_on(self, client: Raw) -> None:
        """One request after the other until GOAWAY; of those that went before it none is lost that it does not name."""
        while not self._stop.is_set() and not client.goaways and not client.closed:
            stream = client.ask()
            answer = await client.answer(stream)
            if answer.ended and answer.status == 200:
                self.served[answer.body[:20]] += 1
            elif not (client.goaways and stream > client.goaways[-1][0]):  # then it may be asked for elsewhere
                self.failures.append(f"stream {stream}: {answer}, told {client.goaways}")
        if client.closed and not client.goaways:
            self.failures.append("a connection ends without a word")

    async def by_others(self, workers: set[bytes], count: int) -> None:
        """Until so many requests were served by workers that are none of these."""
        await until(lambda: sum(n for who, n in self.served.items() if who not in workers) > count, limit_s=30)


async def look_at_ready(port: int, states: Counter[bytes], stop: asyncio.Event) -> None:
    """Not to be cancelled: Python 3.11's wait_for() may lose that."""
    while not stop.is_set():
        try:
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            client.writer.write(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
            states[(await client.rest())[:12]] += 1
            await client.close()
        except OSError as error:
            states[repr(error).encode()] += 1
        await asyncio.sleep(0.005)


async def test_a_node_is_replaced_under_load_and_no_request_fails(identity: Path) -> None:
    """More workers, then fewer; WebSockets stay with the process that has them, which ends when they do."""
    port, ready = free_port(), free_port()
    at = f"127.0.0.1:{ready}"
    states: Counter[bytes] = Counter()
    async with Backend(answer).running() as backend:
        keep(identity, with_options(model(port, [backend.port]), http2_prior_knowledge=True))
        async with running(identity, port, "--workers", "2", "--drain-time", "60", ready=at) as first:
            tunnel = await open_websocket(port, "/chat")
            other = Raw(*await asyncio.open_connection("127.0.0.1", port))
            other.greet()
            stream = other.ask(WEBSOCKET, ended=False)
            await until(lambda: other.answers[stream].status == 200, limit_s=30)
            async with Load(port).of(12, by_streams=2) as load:
                await until(lambda: load.served.total() > 100)
                looked = asyncio.Event()
                looking = asyncio.create_task(look_at_ready(ready, states, looked))
                before = set(load.served)
                async with successor(identity, at, "--workers", "3") as second:
                    await load.by_others(before, 300)
                    status = await asked(identity, "status")
                    assert (status["pid"], len(status["workers"])) == (second.pid, 3)
                    before = set(load.served)
                    async with successor(identity, at, "--workers", "1"):
                        await load.by_others(before, 300)
                        assert await asyncio.wait_for(second.wait(), 30) == 0
                        tunnel.writer.write(b"still there?")
                        assert await tunnel.reader.readexactly(12) == b"still there?"
                        await tunnel.close()
                        other.data(stream, b"by a stream?")
                        await until(lambda: other.answers[stream].body == b"by a stream?", limit_s=30)
                        assert first.returncode is None
                        assert other.goaways[-1][0] == stream
                        await other.close()
                        assert await asyncio.wait_for(first.wait(), 30) == 0
                        await load.stop()
                        looked.set()
                        await looking
                        assert load.failures == []
                        assert load.left >= 2
            assert load.served.total() > 700
    assert set(states) == {b"HTTP/1.1 200"}
    await until(lambda: refused(port))  # its workers end after it


@asynccontextmanager
async def successor(identity: Path, ready: str, *more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    argv = command(identity, "--replace", "--drain-time", "60", *more, ready=ready)
    process = await asyncio.create_subprocess_exec(*argv, stderr=subprocess.DEVNULL)
    path = state_of(identity) / ADMIN_SOCKET
    try:
        async with asyncio.timeout(30):
            while (await asyncio.to_thread(admin.ask, path, "status"))["pid"] != process.pid:  # type: ignore[index]
                await asyncio.sleep(0.05)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_drain_of_the_node_before_is_told(identity: Path) -> None:
    port = free_port()
    at = f"127.0.0.1:{free_port()}"
    async with Backend(answer).running() as backend:
        keep(identity, model(port, [backend.port]))
        async with running(identity, port, "--drain-time", "60", ready=at) as first:
            tunnel = await open_websocket(port, "/chat")
            async with successor(identity, at):
                while not (before := (await asked(identity, "status"))["before"]):
                    pass
                assert before["pid"] == first.pid
                assert [(row["listener"], row["tunnels"]) for row in before["listeners"]] == [("web", 1)]
                assert before["drain"]["at_most_s"] > 30
                await tunnel.close()
                assert await asyncio.wait_for(first.wait(), 30) == 0
                while (await asked(identity, "status"))["before"]:
                    pass


async def test_a_successor_that_fails_changes_nothing(identity: Path) -> None:
    """It dies before it serves; the next one takes over."""
    port = free_port()
    at = f"127.0.0.1:{free_port()}"
    async with Backend(answer).running() as backend:
        keep(identity, model(port, [backend.port]))
        async with running(identity, port, "--workers", "2", ready=at) as node:
            begun = await Succession.begin(state_of(identity) / SOCKET, "l7-1")
            assert begun is not None
            assert {number for _, _, number in begun.sockets} == {-1, 0, 1}
            for sock in begun.sockets.values():
                sock.close()
            begun.close()
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            assert (await client.ask())[0] == 200
            await client.close()
            assert (await asked(identity, "status"))["drain"] is None
            async with successor(identity, at):
                assert await asyncio.wait_for(node.wait(), 30) == 0


async def test_who_does_not_ask_for_it_does_not_replace(identity: Path) -> None:
    port = free_port()
    keep(identity, model(port, []))
    async with running(identity, port):
        for words, says in (
            ((), "a node runs with this state directory; --replace takes its place"),
            (("--replace", "--name", "l7-2"), "does not let us replace it: the node that runs here is l7-1"),
        ):
            argv = command(identity, *words)
            done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=20)
            assert done.returncode == 1
            (line,) = [line for line in done.stderr.splitlines() if line.startswith("paifang-l7: ")]
            assert line.endswith(says)
        assert not refused(port)


async def test_with_nobody_to_replace_a_node_just_starts(identity: Path) -> None:
    port = free_port()
    keep(identity, model(port, []))
    async with running(identity, port, "--replace") as node:
        assert (await asked(identity, "status"))["pid"] == node.pid


async def test_systemd_is_told_of_the_new_main_process(identity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = identity.parent / "notify"
    port = free_port()
    at = f"127.0.0.1:{free_port()}"
    keep(identity, model(port, []))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(path))
        told.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        loop = asyncio.get_running_loop()
        async with running(identity, port, ready=at) as first:
            assert await loop.sock_recv(told, 4096) == b"READY=1"
            async with successor(identity, at) as second:
                assert await asyncio.wait_for(first.wait(), 30) == 0
                assert await loop.sock_recv(told, 4096) == f"MAINPID={second.pid}\nREADY=1".encode()
                second.send_signal(signal.SIGTERM)
                assert await second.wait() == 0
        assert await loop.sock_recv(told, 4096) == b"STOPPING=1"  # and the first has not said that it stops


ASK = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(sys.argv[1])
sock.send(b'{"replace": "l7-1"}')
print(sock.recv(4096).decode())
"""


async def test_strangers_are_not_heard() -> None:
    """Even where the socket's permissions were changed."""
    with tempfile.TemporaryDirectory() as directory, bind("127.0.0.1", 0) as sock:
        os.chmod(directory, 0o755)
        path = Path(directory) / SOCKET
        offer = Offer(path, "l7-1", lambda: {("", 0, 0): sock})
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o666)
        offering = asyncio.create_task(offer.run())
        argv = ["/usr/bin/python3", "-c", ASK, str(path)]
        done = await asyncio.to_thread(subprocess.run, argv, user=65534, capture_output=True, text=True, timeout=20)
        assert "only the node's own user and root may replace it" in done.stdout
        begun = await Succession.begin(path, "l7-1")
        assert begun is not None
        for each in begun.sockets.values():
            each.close()
        begun.close()
        offering.cancel()
        offer.close()


async def test_nonsense_is_not_heard(tmp_path: Path) -> None:
    path = tmp_path / SOCKET
    offer = Offer(path, "l7-1", dict)
    offering = asyncio.create_task(offer.run())
    for data in (b"\xff", b"{", b"[]", b"7"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(path))
            sock.send(data)
            assert await asyncio.to_thread(sock.recv, 4096) == b""
    with pytest.raises(ApplyError, match="the node that runs here is l7-1"):
        await Succession.begin(path, "l7-9")
    assert not offering.done()
    offering.cancel()
    offer.close()
    assert await Succession.begin(path, "l7-1") is None
