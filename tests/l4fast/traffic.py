"""Traffic that watches itself: connections whose every byte is checked, numbered datagrams, and short connections one
after the other. It runs in one thread, which has entered the client's namespace; the servers' sockets are made in
theirs.

A server says its name and sends back what it gets.
"""

from __future__ import annotations

import asyncio
import ctypes
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from core.model import Mode, Scheduler
from core.resolve import L4Service
from tests.l4fast.netns import CLONE_NEWNET
from tests.l4fast.site import SERVERS, SOURCES, VIP, Site

ANSWER_S = 2.0  # what has not come back by then counts as lost
EVERY_S = 0.03  # between the exchanges of one flow
SIZES = (1, 100, 1460, 4000, 30_000)  # bytes of an exchange; of UDP the first three

End = tuple[str, int]


@dataclass(eq=False)
class Flow:
    """One connection, or the datagrams of one port."""

    to: L4Service
    servers: list[str] = field(default_factory=list)  # who has answered, each change noted
    begun: float = field(default_factory=time.monotonic)
    exchanges: int = 0
    longest_s: float = 0.0  # of an exchange
    lost: int = 0  # datagrams
    error: str = ""
    patience_s: float = ANSWER_S  # of a connection, with an answer

    def answered(self, server: str, begun: float) -> None:
        if not self.servers or self.servers[-1] != server:
            self.servers.append(server)
        self.exchanges += 1
        self.longest_s = max(self.longest_s, time.monotonic() - begun)


class UdpEcho(asyncio.DatagramProtocol):
    def __init__(self, name: str) -> None:
        self.name = name.encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: End) -> None:
        self.transport.sendto(self.name + b" " + data, addr)


class Answers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: End) -> None:
        self.queue.put_nowait(data)


class Traffic:
    """What goes on between the site's client and its servers through listeners of one mode. A connection by maglev that
    is being made does not outlive a change (its SYN leaves nothing behind): see `no_handshakes`."""

    def __init__(self, site: Site, mode: Mode) -> None:
        self.site, self.mode = site, mode
        self.flows: list[Flow] = []
        self.short: list[Flow] = []
        self._held = False
        self._handshakes = 0  # by maglev
        self._loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._transports: list[asyncio.BaseTransport | asyncio.Server] = []
        self._thread = threading.Thread(target=self._run)
        self._serial = 0

    def _run(self) -> None:
        with open(self.site.network.path("client")) as file:
            assert not ctypes.CDLL(None).setns(file.fileno(), CLONE_NEWNET)
        self._loop.set_debug(False)
        self._loop.run_forever()

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._do(self._end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _end(self) -> None:
        for transport in self._transports:
            transport.close()
        await asyncio.sleep(0.01)  # whoever has just been accepted begins: a task cancelled before closes nothing
        mine = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not mine]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports close a turn later

    # The servers

    def serve(self, services: Iterable[L4Service]) -> None:
        """On every server, whether or not the services name it."""
        wanted = sorted({(service.reals[0].port, service.protocol) for service in services})
        for name, address in zip(self.site.names, SERVERS, strict=False):
            at = VIP if self.mode in (Mode.DR, Mode.TUNNEL) else address
            for port, protocol in wanted:
                sock = self.site.network.inside(name, partial(bound, at, port, protocol))
                self._do(self._serve(name, sock, protocol))

    async def _serve(self, name: str, sock: socket.socket, protocol: str) -> None:
        if protocol == "udp":
            transport, _ = await self._loop.create_datagram_endpoint(lambda: UdpEcho(name), sock=sock)
            self._transports.append(transport)
            return

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError), closing(writer):
                writer.write(f"{name}\n".encode())
                while data := await reader.read(1 << 16):
                    writer.write(data)
                    await writer.drain()

        self._transports.append(await asyncio.start_server(handle, sock=sock))

    # Flows that last

    def open(self, of: L4Service, count: int) -> list[Flow]:
        """So many new ones, each of which goes on by itself from now on; returns when all have been answered."""
        flows = [Flow(of) for _ in range(count)]
        self.flows += flows
        run = self._datagrams if of.protocol == "udp" else self._transfer
        for flow in flows:
            self._serial += 1
            self._do(self._begin(run(flow, random.Random(self._serial))))
        self.go_on(flows, 1)
        return flows

    async def _begin(self, run: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(run))

    def go_on(self, flows: Iterable[Flow], exchanges: int = 4) -> None:
        """Waits until each of these has been answered so many more times, or has failed."""
        goals = [(flow, flow.exchanges + exchanges) for flow in flows]
        deadline = time.monotonic() + 20
        while any(flow.exchanges < goal and not flow.error for flow, goal in goals):
            assert time.monotonic() < deadline, "no answers"
            time.sleep(0.005)

    async def _connected(self, to: L4Service) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.bind((SOURCES[self.mode], 0))
            await self._loop.sock_connect(sock, (VIP, to.port))
        except BaseException:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock)

    async def _transfer(self, flow: Flow, dice: random.Random) -> None:
        try:
            reader, writer = await self._connected(flow.to)
            with closing(writer):
                server = (await asyncio.wait_for(reader.readline(), ANSWER_S)).decode().strip()
                while True:
                    data, begun = dice.randbytes(dice.choice(SIZES)), time.monotonic()
                    writer.write(data)
                    if await self._answer(flow, reader, writer, len(data)) != data:
                        flow.error = "wrong bytes"
                        return
                    flow.answered(server, begun)
                    await asyncio.sleep(EVERY_S)
        except (OSError, EOFError) as error:
            flow.error = type(error).__name__

    async def _answer(self, flow: Flow, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> bytes:
        """An exchange's answer. A patient client whose every byte is acknowledged says something more: it has nothing
        to send again, and only who sends is reset."""
        try:
            return await asyncio.wait_for(reader.readexactly(size), flow.patience_s)
        except TimeoutError:
            if flow.patience_s == ANSWER_S:
                raise
        writer.write(b"?")
        return await asyncio.wait_for(reader.readexactly(size), flow.patience_s)

    async def _datagrams(self, flow: Flow, dice: random.Random) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((SOURCES[self.mode], 0))
        sock.connect((VIP, flow.to.port))
        transport, answers = await self._loop.create_datagram_endpoint(Answers, sock=sock)
        self._transports.append(transport)
        number = 0
        while True:
            number += 1
            data, begun = number.to_bytes(4) + dice.randbytes(dice.choice(SIZES[:3]) - 1), time.monotonic()
            transport.sendto(data)
            try:
                server, _, answer = (await asyncio.wait_for(answers.queue.get(), ANSWER_S)).partition(b" ")
            except TimeoutError:
                flow.lost += 1
                continue
            if answer != data:
                flow.error = "wrong bytes"
                return
            flow.answered(server.decode(), begun)
            await asyncio.sleep(EVERY_S)

    # Flows that come and go

    def keep_opening(self, services: Iterable[L4Service], per_s: float) -> None:
        """A new connection to one after the other, so many a second in all; each sends a little and ends."""
        self._do(self._begin(self._keep_opening(list(services), 1 / per_s)))

    async def _keep_opening(self, services: list[L4Service], every_s: float) -> None:
        turn = 0
        while True:
            await asyncio.sleep(every_s)
            of = services[turn % len(services)]
            turn += 1
            if not (self._held and of.scheduler is Scheduler.MAGLEV):
                flow = Flow(of)
                self.short.append(flow)
                self._tasks.append(asyncio.create_task(self._short(flow)))

    async def _short(self, flow: Flow) -> None:
        handshakes = int(flow.to.scheduler is Scheduler.MAGLEV)
        self._handshakes += handshakes
        try:
            reader, writer = await asyncio.wait_for(self._connected(flow.to), ANSWER_S)
            with closing(writer):
                server = (await asyncio.wait_for(reader.readline(), ANSWER_S)).decode().strip()
                self._handshakes -= handshakes
                handshakes = 0
                data = random.Random(flow.begun).randbytes(3000)
                writer.write(data)
                writer.write_eof()
                if await asyncio.wait_for(reader.read(-1), ANSWER_S) != data:
                    flow.error = "wrong bytes"
                flow.answered(server, flow.begun)
        except (OSError, EOFError) as error:
            flow.error = type(error).__name__
        finally:
            self._handshakes -= handshakes

    @contextmanager
    def no_handshakes(self) -> Iterator[None]:
        """No short connection by maglev is between its SYN and its server's first word meanwhile."""
        self._held = True
        try:
            while self._handshakes:
                time.sleep(0.001)
            yield
        finally:
            self._held = False

    def short_ones(self, count: int) -> list[Flow]:
        """So many connections to each listener that begin now or later, once they are over."""
        begun = time.monotonic()
        deadline = begun + 20
        while True:
            done = [flow for flow in self.short if flow.begun > begun and (flow.exchanges or flow.error)]
            each = Counter(flow.to.listener for flow in done)
            if each and min(each[flow.to.listener] for flow in self.short) >= count:
                return done
            assert time.monotonic() < deadline, each
            time.sleep(0.01)


def bound(address: str, port: int, protocol: str) -> socket.socket:
    if protocol == "tcp":
        return socket.create_server((address, port), backlog=512)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, port))
    return sock
