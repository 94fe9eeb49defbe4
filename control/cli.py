"""`paifang`: one command for everything.

Subcommands that are processes of their own (`l7`, `keyserver`, `lab` …) become `python -m …` by exec: this process
never imports the data plane, and what runs is what `ps` shows. The others are in `control.commands` and `control.up`.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from control import (
    cli_audit,
    cli_config,
    cli_doctor,
    cli_drains,
    cli_events,
    cli_explain,
    cli_metering,
    cli_nodes,
    cli_tokens,
    commands,
    completion,
    inventory,
    up,
    up_reload,
)
from control.client import ApiError, default_state
from control.cloud import options as clouds
from control.keyfiles import KeyCheckError
from control.node.output import drop_output
from control.top_table import Sort
from core.errors import ConfigErrors

# Subcommand → (module, what it is).
PROCESSES = {
    "l4": ("l4fast", "one L4 node: XDP (root)"),
    "sessions": ("l4fast", "what this machine's L4 node holds, and killing it (root)"),
    "l7": ("proxy", "one L7 node: HTTP and HTTPS"),
    "keyserver": ("keyserver", "the holder of private keys"),
    "control": ("control", "the control plane"),
    "certs": ("certs", "certificates, the cluster's CA and identities"),
    "lab": ("deploy.lab", "the whole cluster in network namespaces (root)"),
    "install": ("deploy.install", "one of these as a systemd service of this machine (root)"),
    "demo": ("deploy.demo", "the cluster on real traffic, step by step (root)"),
    "bench": ("bench", "benchmarks next to their peers"),
}
WORKERS_LIMIT = 1024
NEED_BCC = frozenset({"l4", "lab", "demo"})

EXAMPLES = """
  paifang up site.toml                 HTTPS front end on this machine; Ctrl-C ends it
  paifang check site.toml              is it valid, and if not, what would be right
  paifang diff site.toml               what applying it would change
  paifang apply site.toml --wait       until every node runs it
  paifang status --watch               which node runs what
  paifang watch                        what changes, as it does
  paifang top                          what passes through the nodes
  paifang explain https://shop.example/cart   which way a request goes, and why
  paifang doctor --role l7             is this machine fit for its part
  paifang history; paifang rollback 7  versions of the configuration
"""
RELOAD_EXAMPLES = """
  paifang reload                       1 if the file has an error or is not served; the configuration before stays
  pip install --upgrade paifang && paifang reload --replace
"""
STATUS_EXAMPLES = """
  paifang status                       exit code 0 if all nodes are in step, else 1
  paifang status --watch
  paifang status --json
"""
TOP_EXAMPLES = """
  paifang top                                 all nodes, by the control plane
  paifang top --state /var/lib/paifang/l7     one node, by its own admin socket (root, or its user)
  paifang top --sort drops
  paifang top --once                          one picture, after a second
  paifang top --once --json | jq .together.drops

keys: Tab one section or all; sort by p packets, b bits, n new, s sessions, d drops, a name; q ends
"""
CERTS_EXAMPLES = """
  paifang certs list                   those that end first at the top
  paifang certs show web --json
  paifang certs init --help            the cluster's CA
  paifang certs issue --help           identities of nodes
"""
CERTS_ELSEWHERE = {  # subcommands that are a process of their own, which has the CA's key
    "init": "make the cluster's CA, or check the one that is there",
    "issue": "make a node's identity",
}


class Parser(argparse.ArgumentParser):
    """Suggests the nearest word where a subcommand, a choice or an option is wrong, and says where help is."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As its parent does, but unknown options are the error of the subcommand that they were given to."""
        known, rest = super().parse_known_args(args, namespace)
        if rest:
            options = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(rest[0].partition("=")[0], options, n=1)
            self.error(f"{rest[0]!r} is unknown" + (f"; did you mean {near[0]}?" if near else ""))
        return known, rest

    def error(self, message: str) -> NoReturn:
        """Print usage and message, exit 2."""
        _, found, rest = message.partition("invalid choice: '")
        if found:
            word = rest.partition("'")[0]
            known = [name for action in self._actions for name in action.choices or ()]
            near = difflib.get_close_matches(word, map(str, known), n=1)
            if near:
                message = f"{word!r} is unknown; did you mean {near[0]!r}?"
        super().error(f"{message}\n{self.prog} --help tells more")


class _Version(argparse.Action):
    """Reads the version of what is installed, when asked."""

    def __call__(self, *_: object) -> None:
        print(f"paifang {importlib.metadata.version('paifang')}")
        sys.exit(0)


def parser() -> argparse.ArgumentParser:
    """The command line without the process subcommands' own options."""
    processes = "\n".join(f"  {name:<12} {what}" for name, (_, what) in PROCESSES.items())
    top = Parser(
        prog="paifang",
        description="A load-balancer cluster that one can run oneself.",
        epilog=f"processes (paifang NAME --help):\n{processes}\n\nexamples:{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    subcommands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    state = Parser(add_help=False)
    state.add_argument(
        "--state", type=Path, default=default_state(), metavar="DIR", help="state of `paifang up` (%(default)s)"
    )
    remote = Parser(add_help=False, parents=[state])
    remote.add_argument("--api", metavar="URL", help="control plane's REST API; $PAIFANG_API, else from --state")
    remote.add_argument("--token", help="$PAIFANG_TOKEN is better: other users see a command line; else from --state")
    remote.add_argument(
        "--ca", metavar="FILE", help="whose certificate the API has, PEM; $PAIFANG_CA, else the system's"
    )
    dry = Parser(add_help=False)
    dry.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    as_json = Parser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    comment = Parser(add_help=False)
    comment.add_argument("--comment", default="", metavar="TEXT", help="kept with the version")

    def add(name: str, help: str, examples: str, *parents: Parser) -> Parser:
        return subcommands.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}.", epilog=f"examples:{examples}",
            parents=parents, formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip

    _add_up(
        subcommands.add_parser(
            "up", parents=[state], help="serve FILE on this machine", description=up.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )  # fmt: skip
    reload = add("reload", "have `paifang up` read its file again, or replace its processes", RELOAD_EXAMPLES, state)
    reload.add_argument(
        "--replace", action="store_true", help="new processes: what is installed now; no request is lost"
    )
    reload.set_defaults(run=up_reload.main)
    status = add("status", "which node runs what; 1 unless in step", STATUS_EXAMPLES, remote, as_json)
    status.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    status.set_defaults(run=commands.status)
    live = add("top", "what passes through the nodes, live", TOP_EXAMPLES, remote, as_json)
    live.add_argument("--once", action="store_true", help="one picture, and end")
    orders = [order.value for order in Sort]
    live.add_argument("--sort", choices=orders, default=orders[0], metavar="BY", help=", ".join(orders))
    live.set_defaults(run=_top)
    certs = add("certs", "the certificates that are served; the cluster's CA and identities", CERTS_EXAMPLES)
    of_certs = certs.add_subparsers(dest="what", required=True, metavar="COMMAND")
    listing = of_certs.add_parser("list", parents=[remote, as_json], help="all, with names, expiry, key and users")
    listing.set_defaults(run=inventory.list_all)
    one = of_certs.add_parser("show", parents=[remote, as_json], help="one; 1 if something keeps it from being served")
    completion.of(one.add_argument("name", metavar="NAME"), completion.names("certificates"))
    one.set_defaults(run=inventory.show_one)
    for name, what in CERTS_ELSEWHERE.items():
        of_certs.add_parser(name, add_help=False, help=what)
    cli_config.add_to(add, remote, dry, comment, as_json)
    cli_events.add_to(add, remote, as_json)
    cli_metering.add_to(add, remote, as_json)
    cli_explain.add_to(add, remote, as_json)
    cli_doctor.add_to(add, as_json)
    cli_tokens.add_to(add, remote, as_json)
    cli_audit.add_to(add, remote, as_json)
    cli_nodes.add_to(subcommands, remote, as_json)
    cli_drains.add_to(subcommands, remote, as_json)
    for name in PROCESSES.keys() - {"certs"}:
        subcommands.add_parser(name, add_help=False)
    return top


def _add_up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="TOML, or JSON if its name ends in .json")
    parser.add_argument("--workers", type=_workers, metavar="N", help="L7 processes (one a core)")
    parser.add_argument(
        "--api", default="127.0.0.1:8470", metavar="HOST:PORT", help="REST API (%(default)s; port 0: any)"
    )
    clouds.add_apis(parser)
    parser.set_defaults(run=up.main)


def _top(options: argparse.Namespace) -> int:
    from control import top  # it needs curses, which not every Python has

    return top.main(options)


def _workers(text: str) -> int:
    if not 1 <= (number := cli_config.number(text)) <= WORKERS_LIMIT:
        raise argparse.ArgumentTypeError(f"{text}: give 1 to {WORKERS_LIMIT}")
    return number


def run_process(name: str, arguments: Sequence[str]) -> NoReturn:
    """Become `python -m …`; exits with 1 where that cannot work."""
    module, _ = PROCESSES[name]
    if name in NEED_BCC and not needs_no_bcc(arguments) and (missing := missing_for_xdp()):
        print(f"paifang {name}: {missing}", file=sys.stderr)
        sys.exit(1)
    os.environ["PYTHONSAFEPATH"] = "1"  # `-m` would look for modules in the current directory first
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def is_here(arguments: Sequence[str]) -> bool:
    """Whether it is a subcommand of this process, although its first word is that of another."""
    return arguments[0] == "certs" and not (len(arguments) > 1 and arguments[1] in CERTS_ELSEWHERE)


def words_of(arguments: Sequence[str]) -> Sequence[str]:
    """The process's own words. `sessions [kill]` is short for `l4 ask sessions` and `l4 ask kill`."""
    if arguments[0] != "sessions":
        return arguments[1:]
    return ["ask", *arguments[1:]] if arguments[1:2] == ["kill"] else ["ask", *arguments]


def needs_no_bcc(arguments: Sequence[str]) -> bool:
    """Whether a node or the lab is not to be run, but asked or explained."""
    return arguments[:1] == ["ask"] or any(each in ("-h", "--help", "--make-cluster-key") for each in arguments)


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
    if arguments and arguments[0] in PROCESSES and not is_here(arguments):
        run_process(arguments[0], words_of(arguments))
    known = parser()
    completion.complete(known)
    options = known.parse_args(arguments)
    try:
        code = int(options.run(options))
        sys.stdout.flush()
    except ConfigErrors as error:
        print(error, file=sys.stderr)
        return 1
    except (ApiError, KeyCheckError) as error:
        print(f"paifang: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `paifang get | head`
        drop_output()
        return 1
    except OSError as error:
        drop_output()
        print(f"paifang: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
