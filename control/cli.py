"""`paifang`: one command for everything.

Subcommands that are processes of their own (`l7`, `keyserver`, `lab` …) become `python -m …` by exec: this process
never imports the data plane, and what runs is what `ps` shows. The others are in `control.commands` and `control.up`.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from control import commands, up
from control.client import ApiError, default_state
from core.errors import ConfigErrors
from core.model import Kind

# Subcommand → (module, what it is).
PROCESSES = {
    "l4": ("l4fast", "one L4 node: XDP (root)"),
    "l7": ("proxy", "one L7 node: HTTP and HTTPS"),
    "keyserver": ("keyserver", "the holder of private keys"),
    "control": ("control", "the control plane"),
    "certs": ("certs", "the cluster's CA and identities"),
    "lab": ("deploy.lab", "the whole cluster in network namespaces (root)"),
    "demo": ("deploy.demo", "the cluster on real traffic, step by step (root)"),
    "bench": ("bench", "benchmarks next to their peers"),
}
NEED_BCC = frozenset({"l4", "lab", "demo"})

EXAMPLES = """examples:
  paifang up site.toml                 HTTPS front end on this machine; Ctrl-C ends it
  paifang check site.toml              is it valid, and if not, what would be right
  paifang apply site.toml --dry-run    what would change
  paifang status --watch               which node runs what
  paifang history; paifang rollback 7  versions of the configuration

"""


class Parser(argparse.ArgumentParser):
    """Suggests the nearest word where a choice is wrong."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, exit 2."""
        _, found, rest = message.partition("invalid choice: '")
        if found:
            word = rest.partition("'")[0]
            known = [name for action in self._actions for name in action.choices or ()]
            near = difflib.get_close_matches(word, map(str, known), n=1)
            if near:
                message = f"{word!r} is unknown; did you mean {near[0]!r}?"
        super().error(message)


def parser() -> argparse.ArgumentParser:
    """The command line without the process subcommands' own options."""
    processes = "\n".join(f"  {name:<12} {what}" for name, (_, what) in PROCESSES.items())
    top = Parser(
        prog="paifang",
        description="A load-balancer cluster that one can run oneself.",
        epilog=f"processes (paifang NAME --help):\n{processes}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subcommands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    state = Parser(add_help=False)
    state.add_argument(
        "--state", type=Path, default=default_state(), metavar="DIR", help="state of `paifang up` (%(default)s)"
    )
    remote = Parser(add_help=False, parents=[state])
    remote.add_argument("--api", metavar="URL", help="control plane's REST API; $PAIFANG_API, else from --state")
    remote.add_argument("--token", help="$PAIFANG_TOKEN is better: other users see a command line; else from --state")
    dry = Parser(add_help=False)
    dry.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    as_json = Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    comment = Parser(add_help=False)
    comment.add_argument("--comment", default="", metavar="TEXT", help="kept with the version")
    kinds = [kind.value for kind in Kind]

    check = subcommands.add_parser("check", parents=[as_json], help="validate a configuration file")
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(run=commands.check)
    _add_up(
        subcommands.add_parser(
            "up", parents=[state], help="serve FILE on this machine", description=up.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )  # fmt: skip
    apply = subcommands.add_parser("apply", parents=[remote, dry, comment], help="make FILE the configuration")
    apply.add_argument("file", type=Path, metavar="FILE")
    apply.set_defaults(run=commands.apply)
    get = subcommands.add_parser("get", parents=[remote], help="print the configuration, a kind or an object")
    get.add_argument("kind", nargs="?", choices=kinds, metavar="KIND", help=", ".join(kinds))
    get.add_argument("name", nargs="?", metavar="NAME")
    get.add_argument("-o", "--output", choices=("table", "toml", "json"), default="table")
    get.set_defaults(run=commands.get)
    delete = subcommands.add_parser("delete", parents=[remote, dry], help="delete an object that nothing refers to")
    delete.add_argument("kind", choices=kinds, metavar="KIND", help=", ".join(kinds))
    delete.add_argument("name", metavar="NAME")
    delete.set_defaults(run=commands.delete)
    status = subcommands.add_parser("status", parents=[remote, as_json], help="which node runs what; 1 unless in step")
    status.add_argument("--watch", action="store_true", help="again every second")
    status.set_defaults(run=commands.status)
    history = subcommands.add_parser("history", parents=[remote, as_json], help="versions of the configuration")
    history.add_argument("version", nargs="?", type=int, metavar="N", help="what this version changed")
    history.add_argument("--limit", type=int, default=20, metavar="N", help="how many (%(default)s)")
    history.set_defaults(run=commands.history)
    rollback = subcommands.add_parser("rollback", parents=[remote, dry, comment], help="back to an old version")
    rollback.add_argument("version", type=int, metavar="N")
    rollback.set_defaults(run=commands.rollback)
    for name in PROCESSES:
        subcommands.add_parser(name, add_help=False)
    return top


def _add_up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--workers", type=int, metavar="N", help="L7 processes (one a core)")
    parser.add_argument(
        "--api", default="127.0.0.1:8470", metavar="HOST:PORT", help="REST API (%(default)s; port 0: any)"
    )
    parser.set_defaults(run=up.main)


def run_process(name: str, arguments: Sequence[str]) -> NoReturn:
    """Become `python -m …`; exits with 1 where that cannot work."""
    module, _ = PROCESSES[name]
    wants_help = "-h" in arguments or "--help" in arguments
    if name in NEED_BCC and not wants_help and (missing := missing_for_xdp()):
        print(f"paifang {name}: {missing}", file=sys.stderr)
        sys.exit(1)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def missing_for_xdp() -> str:
    """What this machine lacks for the L4 tier, with the remedy; empty if nothing."""
    if importlib.util.find_spec("bcc") is None or importlib.util.find_spec("bcc.table") is None:
        return (
            "BCC's Python module is missing: install python3-bpfcc (Debian, Ubuntu: apt install python3-bpfcc) and use "
            "a virtual environment of /usr/bin/python3 with --system-site-packages; deploy/setup.sh does both"
        )
    if os.geteuid() != 0:
        return "XDP and network namespaces need root: run it with sudo"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The `paifang` command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in PROCESSES:
        run_process(arguments[0], arguments[1:])
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ApiError, ConfigErrors) as error:
        print(f"paifang: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `paifang get | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
