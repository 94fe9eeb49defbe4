"""`python -m proxy.worker_main`: one worker process from start to end."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Final

import uvloop

from control.node import collector, harden
from control.node.identity import Identity, IdentityError
from control.node.logs import setup
from control.node.tasks import Tasks
from keyserver.client import KeyClient
from keyserver.errors import KeyServerError
from proxy.access_log import AccessLog
from proxy.cells import Cells
from proxy.hub import Hub
from proxy.keyless_abi import KeylessUnavailable
from proxy.ledger import Ledger
from proxy.log_shape import Format, LogShape
from proxy.rates import Clocks
from proxy.tls import TlsServer
from proxy.tracing import Tracer
from proxy.worker import Worker
from proxy.worker_channel import RECHECK_S, Channel

log = logging.getLogger(__name__)

TICKETS_S: Final = 600.0  # their secrets change every two hours, and the next ones are given in advance


async def _follow_tickets(tls: TlsServer) -> None:
    """Have the secrets of session tickets, and have them anew before their periods are over."""
    told = False
    while True:
        try:
            await tls.refresh_tickets()
        except KeyServerError as error:
            if not told:
                log.warning("no secrets for session tickets yet: %s", error)
            told = True
            await asyncio.sleep(RECHECK_S)
        else:
            told = False
            await asyncio.sleep(TICKETS_S)


def _no_log(_: object) -> None:
    """For `--access-log` left out."""


async def serve(options: argparse.Namespace) -> int:
    """One worker from start to end. Returns the exit code."""
    sock, passed = socket.socket(fileno=options.channel), socket.socket(fileno=options.sockets)
    tasks = Tasks()
    keys: KeyClient | None = None
    tls: TlsServer | None = None
    try:
        shape = LogShape.parse(options.log_format, options.log_field, options.log_share)
        access_log = AccessLog(options.access_log, options.name, shape) if options.access_log else None
        if options.keyserver:
            identity = Identity.load(options.identity)
            keys = KeyClient(options.keyserver, identity=identity)
            tls = TlsServer(keys)
    except (KeylessUnavailable, IdentityError, OSError, ValueError) as error:
        with sock, passed:
            sock.sendall(json.dumps({"cannot": str(error)}).encode() + b"\n")
        return 1
    if keys is not None:
        await keys.start()
    log_all = (access_log.write, access_log.write_visits) if access_log else (_no_log, _no_log)
    hub = Hub(options.name, tasks, *log_all)
    if options.counters:
        _outlive(hub, Path(options.counters))
    if access_log is not None:
        hub.lines_lost, hub.reopen_log = lambda: access_log.lost, access_log.reopen
        hub.log_fields = shape.wanted
    if options.traces:
        hub.tracer = Tracer(options.traces, options.trace_share, options.name)
    if tls is not None:
        tls.gate.on_end, tls.gate.on_signature = hub.journal.meters.handshake, hub.journal.meters.signature
    ledger = Ledger(options.ledger, options.workers, options.turn)
    worker = Worker(hub, tls, options.turn, options.workers, ledger, Clocks(options.clocks))
    background = Tasks(partial(_end, options.name))
    background.spawn(worker.sweep(), "sweep")
    if tls is not None:
        background.spawn(_follow_tickets(tls), "session tickets")
        background.spawn(identity.follow(), "identity")
    if access_log is not None:
        background.spawn(access_log.run(), "access log")
    await Channel(worker, hub, tls, passed).run(sock, background, options.drain)
    await background.close()
    await tasks.close()
    if tls is not None and keys is not None:
        await tls.close()
        await keys.close()
    hub.journal.store()
    if hub.tracer is not None:
        await asyncio.to_thread(hub.tracer.close)
    if access_log is not None:
        await access_log.close()
    return 0


def _outlive(hub: Hub, directory: Path) -> None:
    """Has what is billed written where it outlives us. A disk that is full does not keep us from serving."""
    try:
        hub.journal.keep = Cells(directory).write
    except OSError as error:
        log.error("%s: %s; what this worker counts is not metered", directory, error.strerror)


def _end(name: str, task: str, _error: BaseException) -> None:
    """A worker without its sweep or its log is worse than none: the supervisor starts another."""
    log.critical("worker of %s ends: its task %s died", name, task)
    sys.exit(1)


def main() -> int:
    """`python -m proxy.worker_main`: started by the supervisor only."""
    parser = argparse.ArgumentParser(prog="python -m proxy.worker_main", description=main.__doc__)
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the socketpair")
    parser.add_argument("--sockets", type=int, required=True, help="descriptor of the pair that sockets come on")
    parser.add_argument("--ledger", type=int, help="descriptor of the memory where the workers keep limits together")
    parser.add_argument("--clocks", type=int, help="descriptor of the memory where they count requests a second")
    parser.add_argument("--name", required=True)
    parser.add_argument("--turn", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="of this node, which share its limits")
    parser.add_argument("--identity", type=Path)
    parser.add_argument("--keyserver", action="append", default=[])
    parser.add_argument("--access-log", default="")
    parser.add_argument("--counters", default="", help="directory of what is billed, which outlives the worker")
    parser.add_argument("--log-format", default=Format.JSON)
    parser.add_argument("--log-field", action="append", default=[])
    parser.add_argument("--log-share", type=float, default=1.0)
    parser.add_argument("--traces", default="")
    parser.add_argument("--trace-share", type=float, default=0.0)
    parser.add_argument("--drain", type=float, default=30.0)
    options = parser.parse_args()
    setup("paifang-l7")
    harden.forbid_dumps()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    collector.relax()
    return uvloop.run(serve(options))


if __name__ == "__main__":
    sys.exit(main())
