"""Puts an L7 node together and takes it apart in order.

A node that replaces another one (`--replace`) begins with that one's listening sockets. Only when its workers run a
configuration does it take over `/ready` and the administrator's socket; until then the other node does all that it did.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Iterator, Mapping
from typing import Final

from control.node import admin, process_metrics
from control.node.identity import Identity
from control.node.link import ControlLink
from control.node.metering import Metering
from control.node.metrics import Family, Histogram
from control.node.metrics_server import MetricsError, MetricsServer, listen
from control.node.notify import notify
from control.node.tasks import Tasks
from core.endpoints import split
from core.model import Model
from keyserver.client import KeyClient
from proxy import exporter, handover, headers, past, talkers, tracing
from proxy.ask import ADMIN_SOCKET
from proxy.census import Filter
from proxy.errors import ApplyError
from proxy.handover import Offer, Succession
from proxy.listen import bind
from proxy.log_shape import LogShape
from proxy.metering import DIRECTORY, Workers, moved
from proxy.passing import Seat
from proxy.ready import ReadyProtocol
from proxy.server import Supervisor
from proxy.worker_process import Settings

log = logging.getLogger(__name__)

READY: Final = "0.0.0.0:8472"
METRICS: Final = "127.0.0.1:8475"
OFF: Final = "off"
REPLACE_S: Final = 60.0  # for a configuration to run; then the node before goes on
TELL_EVERY_S: Final = 1.0


def endpoint(text: str) -> tuple[str, int]:
    """ADDR:PORT or [ADDR]:PORT. Raises ValueError."""
    found = split(text)
    if found is None or not 0 < found[1] < 65536:
        raise ValueError(f"{text!r} is not ADDR:PORT")
    return found


class Node:
    """One node. `run` is the whole life; `options` are those of the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._identity = Identity.load(options.identity)
        self._keyservers = tuple(each for group in options.keyserver for each in group)
        self._log_shape = LogShape.parse(options.log_format, options.log_field, options.log_share)
        self._check_for_workers()
        self._told = asyncio.Event()
        self._failures: list[str] = []
        self._tasks = Tasks(lambda name, error: self._give_up(f"the task {name!r} died: {error!r}"))
        self._succession: Succession | None = None
        self._ready: dict[Seat, socket.socket] = {}
        self._metrics: dict[Seat, socket.socket] = {}
        self._servers: list[asyncio.AbstractServer] = []

    def _check_for_workers(self) -> None:
        """Finds here, once, what every worker would stumble over. Raises ValueError or OSError."""
        if self._keyservers:
            KeyClient(self._keyservers, identity=self._identity)
        tracing.check(self._options.traces, self._options.trace_share)
        if self._options.access_log not in ("", "-"):
            with open(self._options.access_log, "ab"):
                pass

    def _give_up(self, why: str) -> None:
        self._failures.append(why)
        self._told.set()

    def _on_signal(self) -> None:
        if self._told.is_set():
            self._supervisor.kill()
        self._told.set()

    async def run(self) -> int:
        """Until SIGTERM or SIGINT; a second one ends it at once. Returns the exit code."""
        options, loop = self._options, asyncio.get_running_loop()
        admin.check_path(options.state / handover.SOCKET)
        options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        if options.replace:
            self._succession = await Succession.begin(options.state / handover.SOCKET, options.name)
        if self._succession is None and admin.is_alive(options.state / ADMIN_SOCKET):
            raise ApplyError(f"{options.state}: a node runs with this state directory; --replace takes its place")
        self._bind_ready()
        self._bind_metrics()
        settings = Settings(
            options.name, options.workers, str(options.identity), self._keyservers, options.access_log,
            options.drain_time, self._log_shape, str(options.state / DIRECTORY),
            options.traces, options.trace_share,
        )  # fmt: skip
        inherited = self._succession.seats if self._succession is not None else {}
        self._supervisor = Supervisor(settings, self._tasks, self._give_up, inherited)
        self._metering = Metering(
            options.state, Workers(options.state, lambda: self._supervisor.model, self._supervisor.openings)
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            loop.add_signal_handler(number, self._supervisor.reopen_log)
        link = ControlLink(
            url=options.control, identity=self._identity, state=options.state, apply=self._apply,
            report=self._supervisor.report, take_cookie_secret=self._supervisor.take_cookie_secret,
            metering=self._metering, take_members=self._supervisor.take_members, rest=self._supervisor.rest,
            answers={"connections": self._connections, "request": self._request, "talkers": self._talkers},
        )  # fmt: skip
        if self._succession is None:
            await self._answer()
        self._supervisor.start()
        following = self._tasks.spawn(link.run(), "control link")
        keeping = self._tasks.spawn(self._metering.keep(), "metering")
        self._tasks.spawn(self._announce(), "readiness")
        await self._told.wait()
        await self._end(following, keeping)
        for why in self._failures[:1]:
            print(f"paifang-l7: {why}", file=sys.stderr)
        return 1 if self._failures else 0

    async def _apply(self, model: Model, version: int) -> None:
        """What was counted of a listener so far is its instance's so far."""
        if moved(self._supervisor.model, model):
            await self._metering.cut()
        await self._supervisor.apply(model, version)

    # -- the beginning

    def _bind_ready(self) -> None:
        """Where /ready is answered: on sockets of the node before, or on our own. Raises ApplyError."""
        for address, port in map(endpoint, self._options.ready or [READY]):
            sock = self._succession and self._succession.take(handover.READY, address, port)
            self._ready[address, port, handover.READY] = sock or bind(address, port)

    def _bind_metrics(self) -> None:
        """Where /metrics is answered. Raises MetricsError where an address that was asked for cannot be had.

        The default one may be another process's.
        """
        asked = self._options.metrics
        if asked == OFF:
            return
        address, port = endpoint(asked or METRICS)
        sock = self._succession and self._succession.take(handover.METRICS, address, port)
        try:
            self._metrics[address, port, handover.METRICS] = sock or listen(address, port)
        except MetricsError as error:
            if asked is not None:
                raise
            log.warning("%s; --metrics ADDR:PORT gives another, --metrics off none", error)

    def _families(self) -> Iterator[Family | Histogram]:
        yield from exporter.families(self._supervisor.measured())
        yield from process_metrics.families("l7", self._options.name)

    async def _answer(self) -> None:
        """Begins to answer /ready, the administrator, and who wants to replace us."""
        loop, state = asyncio.get_running_loop(), self._options.state
        for sock in self._ready.values():
            server = await loop.create_server(lambda: ReadyProtocol(lambda: self._supervisor.ready), sock=sock.dup())
            self._servers.append(server)
        for sock in self._metrics.values():
            self._servers.append(await MetricsServer(self._families).serve(sock.dup()))
        again = self._succession is not None
        self._offer = Offer(state / handover.SOCKET, self._options.name, self._sockets)
        self._servers.append(await admin.serve(state / ADMIN_SOCKET, self._handlers(), replace=again))
        self._tasks.spawn(self._wait_for_successor(), "handover")

    def _sockets(self) -> Mapping[Seat, socket.socket]:
        return {**self._supervisor.sockets, **self._ready, **self._metrics}

    async def _announce(self) -> None:
        """Tells whoever started us, once a configuration runs; takes over from the node before, if there is one."""
        succession = self._succession
        if succession is None:
            await self._supervisor.serving.wait()
            notify("READY=1")
            return
        try:
            async with asyncio.timeout(REPLACE_S):
                await self._supervisor.serving.wait()
        except TimeoutError:
            self._give_up(f"no configuration runs within {REPLACE_S:.0f} s; the node before goes on")
            return
        await succession.take_over(self._tasks)
        await self._answer()
        notify(f"MAINPID={os.getpid()}\nREADY=1")

    # -- the administrator

    def _handlers(self) -> dict[str, admin.Handler]:
        async def status(_: dict[str, object]) -> object:
            before = self._succession.before if self._succession is not None else None
            return {**await self._supervisor.status(), "before": before}

        async def drain(arguments: dict[str, object]) -> object:
            self._told.set()
            await self._supervisor.draining.wait()
            return await status(arguments)

        return {"status": status, "connections": self._connections, "drain": drain}

    async def _request(self, arguments: dict[str, object]) -> object:
        """What became of a request, by its id: it goes on, or the access log has it."""
        wanted = str(arguments.get("request_id") or "")
        if not headers.is_request_id(wanted.encode("ascii", "replace")):
            raise ValueError("request_id is that of a line of the access log")
        found = await asyncio.to_thread(past.find, self._options.access_log, wanted)
        return {"connections": await self._supervisor.views(Filter(request_id=wanted, limit=10)), "requests": found}

    def _talkers(self, arguments: dict[str, object]) -> Awaitable[object]:
        return talkers.asked(self._supervisor.ask, str(arguments.get("by", "client")))

    def _connections(self, arguments: dict[str, object]) -> Awaitable[object]:
        return self._supervisor.views(Filter.of(arguments))

    # -- the end

    async def _wait_for_successor(self) -> None:
        await self._offer.run()
        self._told.set()

    async def _end(self, following: asyncio.Task[None], keeping: asyncio.Task[None]) -> None:
        """Drains. One that was replaced is not heard or seen any more, and tells only its successor how it goes.

        That one meters from then on, what our workers still count too.
        """
        way = self._offer.way if self._servers else None
        if way is not None:
            following.cancel()
            keeping.cancel()
            await self._metering.let_go()
            self._close(but=1)
            way.send({"left": True})
            self._tasks.spawn(handover.tell(way, self._supervisor.status, TELL_EVERY_S), "progress")
        await self._supervisor.drain(replaced=way is not None)
        if way is None:
            await self._metering.last_words()
            keeping.cancel()
            await self._metering.let_go()
        self._close()
        await self._tasks.close()
        if way is not None:
            way.sock.close()
        if self._succession is not None:
            self._succession.close()

    def _close(self, but: int = 0) -> None:
        """Stops to answer; `but` the last server, the administrator's: it answers until the new node's is there."""
        if self._servers:
            self._offer.close()
        for server in self._servers[: len(self._servers) - but]:
            server.close()
        for sock in (*self._ready.values(), *self._metrics.values()):
            sock.close()
        self._ready.clear()
        self._metrics.clear()
