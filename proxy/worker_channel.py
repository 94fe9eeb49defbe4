"""The worker's side of the talk with its supervisor, over a socketpair: one JSON object a line.

    → {"config": MODEL, "version": N, "rows": {NAME: ROW}}, or "changes": DELTA, of what it has applied (core/delta.py)
                                         ← {"applied": N, "problems": [TEXT…]} or {"refused": N, "why": TEXT}
                                         ← {"problems": [TEXT…]} when they have changed since
    → {"cookie_secret": HEX}, before a configuration that uses it
    → {"members": {GROUP: [[ADDRESS, PORT, WEIGHT, ZONE]…]}}, of availability groups that have DNS names
    → {"down": {SERVICE: [[ADDRESS, PORT]…]}}
    → {"ejected": [SERVICE, ADDRESS, PORT, SECONDS]}, by another worker
                                         ← the same, by this one
    → {"mind": true}, to accept from the sockets that were passed; {"leave": [SEAT…]}, to leave them to others
    → {"rest": BOOL}: whether connections are kept alive no longer, since the node is to have none
    → {"reopen": true}, the access log
    → {"drain": SECONDS, "lame_duck": SECONDS, "replaced": BOOL}, after which the worker ends itself
                                         ← {"counters": {NAME: NUMBER}, "stranded": [SERVICE…],
                                            "meters": {KIND: {NAME: METER}}, "open": {NAME: NUMBER}, every second
                                            "upstreams": {SERVICE: [[ADDRESS, PORT, {NAME: NUMBER}]…]}}
    → {"ask": "count"}                   ← {"told": [COUNT…]}, also while it drains; see proxy/census.py
    → {"ask": "views", …FILTER}          ← {"told": [VIEW…]}
    → {"ask": "talkers", "by": WHAT}     ← {"told": [[SECONDS, ROWS]]}, or nothing; see proxy/talkers.py
                                         ← {"cannot": WHY} as the only word of a worker that cannot start

Listening sockets come on a way of their own (proxy/passing.py), before the line that needs them.

When the supervisor is gone, the worker drains: nobody would restart or reconfigure it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import Any, Final

from control.node.tasks import Tasks
from core.config import read_tables
from core.delta import DeltaError, patched
from core.model import Model, Server
from proxy import passing
from proxy.errors import ApplyError
from proxy.hub import Hub
from proxy.listen import LAME_DUCK_S
from proxy.tls import TlsServer
from proxy.worker import Worker

log = logging.getLogger(__name__)

REPORT_S: Final = 1.0
RECHECK_S: Final = 3.0  # certificates that the key server objected to or has not seen
LINE_BYTES: Final = 1 << 26


class Channel:
    """The worker's end of the socketpair: carries out what the supervisor says until it says to drain or is gone."""

    def __init__(self, worker: Worker, hub: Hub, tls: TlsServer | None, passed: socket.socket | None = None) -> None:
        self._worker, self._hub, self._tls = worker, hub, tls
        self._passed = passed  # listening sockets come here
        self._problems: list[str] = []
        self._changing = asyncio.Lock()

    async def run(self, sock: socket.socket, tasks: Tasks, default_drain_s: float) -> None:
        """Returns when the worker has drained."""
        reader, writer = await asyncio.open_connection(sock=sock, limit=LINE_BYTES)
        self._hub.on_ejected = lambda name, server, out_s: _send(writer, {"ejected": [name, *server, out_s]})
        tasks.spawn(self._report(writer), "report")
        tasks.spawn(self._recheck(writer), "recheck")
        loop = asyncio.get_running_loop()
        if self._passed is not None:
            loop.add_reader(self._passed, self._take)
        drain_s, lame_duck_s, replaced = default_drain_s, 0.0, False
        while line := await reader.readline():
            message = json.loads(line)
            self._take()
            if "config" in message or "changes" in message:
                async with self._changing:
                    _send(writer, await self._apply(message))
            elif "members" in message:
                async with self._changing:
                    groups = {name: tuple(Server(*each) for each in rows) for name, rows in message["members"].items()}
                    self._worker.set_members(groups)
            elif "cookie_secret" in message:
                self._hub.reseal(bytes.fromhex(message["cookie_secret"]))
            elif "down" in message:
                self._worker.set_down({name: [(a, p) for a, p in down] for name, down in message["down"].items()})
            elif "mind" in message:
                await self._worker.openings.open(self._worker.openings.sites)
            elif "ejected" in message:
                name, address, port, out_s = message["ejected"]
                self._worker.follow_ejection(name, (address, port), out_s)
            elif "rest" in message:
                self._worker.rest(message["rest"])
            elif "reopen" in message:
                self._hub.reopen_log()
            elif "leave" in message:
                self._worker.openings.leave(message["leave"])
            elif "ask" in message:
                _send(writer, {"told": self._worker.answer(message)})
            elif "drain" in message:
                drain_s, lame_duck_s, replaced = message["drain"], message["lame_duck"], message.get("replaced", False)
                tasks.spawn(self._go_on_answering(reader, writer), "questions while draining")
                break
        else:
            log.warning("the supervisor is gone: draining")
            lame_duck_s = LAME_DUCK_S if self._worker.has_vips else 0.0
        await self._worker.drain(drain_s, lame_duck_s, replaced=replaced)
        self._send_counters(writer)
        writer.close()

    def _take(self) -> None:
        """Takes the listening sockets that have come."""
        if self._passed is None:
            return
        sockets = passing.receive(self._passed)
        if sockets is None:
            asyncio.get_running_loop().remove_reader(self._passed)
            self._passed.close()
            self._passed = None
        else:
            self._worker.openings.give(sockets)

    async def _go_on_answering(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            if "ask" in message:
                _send(writer, {"told": self._worker.answer(message)})

    async def _apply(self, message: dict[str, Any]) -> dict[str, object]:
        version = message["version"]
        try:
            problems = await self._worker.apply(self._read(message), message.get("rows"))
        except (ApplyError, DeltaError) as error:
            self._worker.openings.discard()
            return {"refused": version, "why": str(error)}
        self._problems = problems
        return {"applied": version, "problems": problems}

    def _read(self, message: dict[str, Any]) -> Model:
        """What the supervisor has checked is not checked again. Raises DeltaError."""
        if "changes" in message:
            return patched(self._worker.model, message["changes"])
        return read_tables(message["config"])

    async def _recheck(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(RECHECK_S)
            async with self._changing:
                problems = await self._worker.recheck()
                if problems != self._problems:
                    self._problems = problems
                    _send(writer, {"problems": problems})

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self._send_counters(writer)

    def _send_counters(self, writer: asyncio.StreamWriter) -> None:
        services = self._hub.services
        counters = dict(self._hub.counters)
        counters["log_lines_lost"] = self._hub.lines_lost()
        counters["connections_open"] = self._worker.connections
        counters["requests_open"] = sum(sum(each.pool.active.values()) for each in services.values())
        counters["requests_waiting"] = sum(each.pool.waiting for each in services.values())
        if self._tls is not None:
            counters |= {f"tls_{name}": value for name, value in self._tls.counters().items()}
            counters |= {f"tls_tickets_{name}": value for name, value in self._tls.tickets().items()}
        news = {name: [[*at, numbers] for at, numbers in each.pool.news()] for name, each in services.items()}
        stranded = [name for name, each in services.items() if not each.pool.takes_requests]
        upstreams = {name: rows for name, rows in news.items() if rows}
        meters = self._hub.journal.news()
        self._hub.journal.talkers.watch.tick(self._hub.now())
        numbers = {"counters": counters, "upstreams": upstreams, "meters": meters}
        _send(writer, {**numbers, "stranded": stranded, "open": self._worker.most_open()})


def _send(writer: asyncio.StreamWriter, message: dict[str, object]) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")
