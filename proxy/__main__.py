"""`python -m proxy`: one L7 node."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Sequence
from pathlib import Path

import uvloop

from control.node import admin, harden, logs
from control.node.admin import AdminError
from control.node.identity import Identity, IdentityError
from control.node.link import ControlLink, LinkError
from control.node.output import drop_output
from control.node.tasks import Tasks
from core.endpoints import split
from keyserver.client import KeyClient
from proxy import ask
from proxy.ask import ADMIN_SOCKET
from proxy.census import Filter
from proxy.errors import ApplyError
from proxy.listen import bind
from proxy.server import ReadyProtocol, Supervisor
from proxy.worker_process import Settings

log = logging.getLogger(__name__)

READY = "0.0.0.0:8472"
EXAMPLES = """examples:
  python -m proxy --name l7-1 --control https://10.0.0.5:8471 --identity /etc/paifang/l7-1 \\
      --keyserver unix:/run/paifang/keys.sock --state /var/lib/paifang/l7-1 --access-log /var/log/paifang/access.log
  python -m proxy --name l7-1 --control https://10.0.0.5:8471 --identity ID --keyserver 10.0.0.6:8473 \\
      --keyserver 10.0.0.7:8473 --state STATE --workers 4 --ready 10.0.0.11:8472
  paifang l7 ask status --state /var/lib/paifang/l7-1      what a running node says (ask --help)
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m proxy",
        description="One L7 node: HTTP and HTTPS listeners as the control plane says.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", required=True, help="the node's name, as in the configuration and in Via")
    parser.add_argument("--control", required=True, metavar="URL", help="node API of the control plane, https://…:8471")
    parser.add_argument("--identity", required=True, type=Path, metavar="DIR", help="ca.pem, cert.pem, key.pem")
    parser.add_argument(
        "--keyserver", action="append", nargs="+", default=[], metavar="ENDPOINT",
        help="unix:PATH or HOST:PORT; several, in the order of preference; needed for https listeners",
    )  # fmt: skip
    parser.add_argument(
        "--state", required=True, type=Path, metavar="DIR",
        help="keeps the last good configuration and the admin socket",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (one a core)")
    parser.add_argument(
        "--ready", action="append", metavar="ADDR:PORT",
        help=f"answers /ready ({READY}); again for the node's IPv6 address, as [ADDR]:PORT",
    )  # fmt: skip
    parser.add_argument("--access-log", default="", metavar="PATH|-", help="JSON lines; - is standard output")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="INFO", help="(%(default)s)")
    parser.add_argument("--drain-time", type=float, default=30.0, metavar="SECONDS", help="(%(default)s)")
    return parser


def endpoint(text: str) -> tuple[str, int]:
    """ADDR:PORT or [ADDR]:PORT. Raises ValueError."""
    found = split(text)
    if found is None or not 0 < found[1] < 65536:
        raise ValueError(f"{text!r} is not ADDR:PORT")
    return found


def _check_for_workers(keyservers: tuple[str, ...], identity: Identity, access_log: str) -> None:
    """Finds here, once, what every worker would stumble over. Raises ValueError or OSError."""
    if keyservers:
        KeyClient(keyservers, identity=identity)
    if access_log not in ("", "-"):
        with open(access_log, "ab"):
            pass


async def serve(options: argparse.Namespace) -> int:
    """Runs the node until SIGTERM or SIGINT; a second one ends it at once. Returns the exit code."""
    loop = asyncio.get_running_loop()
    identity = Identity.load(options.identity)
    keyservers = tuple(each for group in options.keyserver for each in group)
    _check_for_workers(keyservers, identity, options.access_log)
    admin.check_path(options.state / ADMIN_SOCKET)
    ready = [bind(*endpoint(text)) for text in options.ready or [READY]]
    told = asyncio.Event()
    failures: list[str] = []

    def give_up(why: str) -> None:
        failures.append(why)
        told.set()

    tasks = Tasks(lambda name, error: give_up(f"the task {name!r} died: {error!r}"))
    settings = Settings(
        options.name, options.workers, str(options.identity), keyservers, options.access_log, options.drain_time
    )
    supervisor = Supervisor(settings, tasks, give_up)
    link = ControlLink(
        url=options.control,
        identity=identity,
        state=options.state,
        apply=supervisor.apply,
        report=supervisor.report,
        take_cookie_secret=supervisor.take_cookie_secret,
    )

    def on_signal() -> None:
        if told.is_set():
            supervisor.kill()
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    answering = [await loop.create_server(lambda: ReadyProtocol(supervisor), sock=sock) for sock in ready]
    options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    asked = await admin.serve(options.state / ADMIN_SOCKET, _handlers(supervisor, told))
    supervisor.start()
    tasks.spawn(link.run(), "control link")
    await told.wait()
    await supervisor.drain()
    for server in (*answering, asked):
        server.close()
    await tasks.close()
    for why in failures[:1]:
        print(f"paifang-l7: {why}", file=sys.stderr)
    return 1 if failures else 0


def _handlers(supervisor: Supervisor, told: asyncio.Event) -> dict[str, admin.Handler]:
    """The administrator's commands."""

    def status(_: dict[str, object]) -> Awaitable[object]:
        return supervisor.status()

    def connections(arguments: dict[str, object]) -> Awaitable[object]:
        return supervisor.views(Filter.of(arguments))

    async def drain(_: dict[str, object]) -> object:
        told.set()
        await supervisor.draining.wait()
        return await supervisor.status()

    return {"status": status, "connections": connections, "drain": drain}


def _ask(argv: Sequence[str]) -> int:
    options = ask.parser().parse_args(argv)
    try:
        ask.run(options)
    except AdminError as error:
        print(f"paifang-l7: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        drop_output()
        if not isinstance(error, BrokenPipeError):  # `paifang l7 ask connections --state DIR | head`
            print(f"paifang-l7: cannot write the answer: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def main() -> int:
    """Exit code 2: usage or identity; 1: a failure while running; 0: drained."""
    if sys.argv[1:2] == ["ask"]:
        return _ask(sys.argv[2:])
    options = parser().parse_args()
    logs.setup("paifang-l7", options.log_level)
    logs.for_children(options.log_level)
    harden.forbid_dumps()
    try:
        for text in options.ready or ():
            endpoint(text)
        if options.workers < 1:
            raise ValueError("--workers: give at least 1")
        return uvloop.run(serve(options))
    except (ValueError, IdentityError, LinkError) as error:
        print(f"paifang-l7: {error}", file=sys.stderr)
        return 2
    except (AdminError, ApplyError) as error:
        print(f"paifang-l7: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"paifang-l7: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
