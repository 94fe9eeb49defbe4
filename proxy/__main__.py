"""`python -m proxy`: one L7 node."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from control.node import collector, harden, logs
from control.node.admin import AdminError
from control.node.identity import IdentityError
from control.node.link import LinkError
from control.node.metrics_server import MetricsError
from control.node.output import drop_output
from proxy import ask
from proxy.errors import ApplyError
from proxy.log_shape import Format
from proxy.node import METRICS, OFF, READY, Node, endpoint

EXAMPLES = """examples:
  python -m proxy --name l7-1 --control https://10.0.0.5:8471 --identity /etc/paifang/l7-1 \\
      --keyserver unix:/run/paifang/keys.sock --state /var/lib/paifang/l7-1 --access-log /var/log/paifang/access.log
  python -m proxy --name l7-1 --control https://10.0.0.5:8471 --identity ID --keyserver 10.0.0.6:8473 \\
      --keyserver 10.0.0.7:8473 --state STATE --workers 4 --ready 10.0.0.11:8472
  paifang l7 … --replace                                   an upgrade: take over from the node that runs
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
    parser.add_argument(
        "--control", required=True, metavar="URL[,URL…]", help="the control nodes' APIs for nodes, https://HOST:8471"
    )
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
    parser.add_argument(
        "--metrics", metavar="ADDR:PORT",
        help=f"where Prometheus gets /metrics, without TLS or password, or {OFF} (default {METRICS}, if free)",
    )  # fmt: skip
    parser.add_argument("--access-log", default="", metavar="PATH|-", help="a line a request; - is standard output")
    parser.add_argument(
        "--log-format",
        choices=[*Format],
        default=Format.JSON,
        help="of the access log: JSON, or as Apache's (%(default)s)",
    )
    parser.add_argument(
        "--log-field", action="append", default=[], metavar="WHERE:NAME",
        help="a field of one's own: request:NAME, response:NAME, cookie:NAME, rule, service or grpc_status, as "
        "request:User-Agent; repeated",
    )  # fmt: skip
    parser.add_argument(
        "--log-share", type=float, default=1.0, metavar="SHARE",
        help="of requests without an error, the share that is logged, 0 to 1 (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--traces", default="", metavar="URL",
        help="where spans go, by OTLP over HTTP: http://HOST:4318/v1/traces",
    )  # fmt: skip
    parser.add_argument(
        "--trace-share", type=float, default=0.01, metavar="SHARE",
        help="of requests that no trusted client has chosen, the share that become spans, 0 to 1 (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--log-level", choices=logs.LEVELS, default="INFO", help="(%(default)s)")
    parser.add_argument("--drain-time", type=float, default=30.0, metavar="SECONDS", help="(%(default)s)")
    parser.add_argument(
        "--replace", action="store_true",
        help="take the place of the node that runs with this state directory: it drains once this one serves",
    )  # fmt: skip
    return parser


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


async def _run(options: argparse.Namespace) -> int:
    return await Node(options).run()


def main() -> int:
    """Exit code 2: usage or identity; 1: a failure while running; 0: drained."""
    if sys.argv[1:2] == ["ask"]:
        return _ask(sys.argv[2:])
    options = parser().parse_args()
    logs.setup("paifang-l7", options.log_level)
    logs.for_children(options.log_level)
    harden.forbid_dumps()
    collector.relax()
    _, files_most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_most, files_most))  # the workers inherit it
    try:
        for text in options.ready or ():
            endpoint(text)
        if options.metrics not in (None, OFF):
            endpoint(options.metrics)
        if options.workers < 1:
            raise ValueError("--workers: give at least 1")
        return uvloop.run(_run(options))
    except (ValueError, IdentityError, LinkError) as error:
        print(f"paifang-l7: {error}", file=sys.stderr)
        return 2
    except (AdminError, ApplyError, MetricsError) as error:
        print(f"paifang-l7: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"paifang-l7: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
