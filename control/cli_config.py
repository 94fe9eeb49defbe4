"""The subcommands of `paifang` that read and change the configuration."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from control import commands, completion, waiting, watch
from control.watching import Topic
from core.endpoints import UNIX, split
from core.fields import NAME, Kind

CHECK_EXAMPLES = """
  paifang check site.toml
  paifang check site.d                 the .toml files of a directory as one
  paifang check site.json --json       for programs: {"valid": false, "errors": [{"line": 3, …}]}
"""
DIFF_EXAMPLES = """
  paifang diff site.toml               exit code 0 if that is what runs, 1 if not, 2 if it cannot be told
  paifang diff site.toml --json | jq '.changes[].name'
"""
APPLY_EXAMPLES = """
  paifang apply site.toml --dry-run
  paifang apply site.toml --comment "two more servers" --wait
  paifang apply site.d                 the .toml files of a directory as one; so are several files
  PAIFANG_API=http://127.0.0.1:8470 PAIFANG_TOKEN=$(cat /var/lib/paifang/control/token) paifang apply site.toml
"""
GET_EXAMPLES = """
  paifang get                          everything, as tables
  paifang get listeners web -o json    one object
  paifang get rules --refers-to backend_services/shop --tag team=web
"""
EXPORT_EXAMPLES = """
  paifang export > site.toml           a file for `paifang apply`
  paifang export --version 7           as it was
"""
DELETE_EXAMPLES = """
  paifang delete rules old --dry-run
  paifang delete listeners web
"""
WEIGH_EXAMPLES = """
  paifang weigh server_groups shop 10.0.0.9:80=0 --wait          drains it
  paifang weigh server_groups shop 10.0.0.9:80=50 10.0.0.8:80=100
  paifang weigh rules shop v1=90 v2=10     a tenth to the next version
"""
HISTORY_EXAMPLES = """
  paifang history --limit 5
  paifang history 7                    what version 7 changed
  paifang history 3..7                 what lies between two versions
"""
ROLLBACK_EXAMPLES = """
  paifang rollback 7 --dry-run
  paifang rollback 7 --comment "the new servers fail" --wait
"""
WATCH_EXAMPLES = """
  paifang watch                        versions, nodes and servers as they change, until Ctrl-C
  paifang watch --only server
  paifang watch --json | jq -r 'select(.event == "version") | .author'
"""
COMPLETION_EXAMPLES = """
  source <(paifang completion bash)                   in ~/.bashrc
  paifang completion bash > /etc/bash_completion.d/paifang
  source <(paifang completion zsh)                    in ~/.zshrc, after compinit
"""
FILES = "TOML, or JSON if its name ends in .json; several, or a directory: its .toml files as one"

Add = Callable[..., argparse.ArgumentParser]
Parent = argparse.ArgumentParser


def add_to(add: Add, remote: Parent, dry: Parent, comment: Parent, as_json: Parent) -> None:
    """Add the subcommands. `add` makes one of a name, a help text, examples and parents."""
    kinds = [kind.value for kind in Kind]
    waits = argparse.ArgumentParser(add_help=False)
    waits.add_argument("--wait", action="store_true", help="until every node runs it; exit code 1 if not in time")
    waits.add_argument(
        "--timeout", type=seconds, default=waiting.TIMEOUT_S, metavar="S", help="for --wait (%(default)g s)"
    )

    check = add("check", "validate a configuration file", CHECK_EXAMPLES, as_json)
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help=FILES)
    check.set_defaults(run=commands.check)
    diff = add("diff", "what applying FILE would change", DIFF_EXAMPLES, remote, as_json)
    diff.add_argument("files", nargs="+", type=Path, metavar="FILE", help=FILES)
    diff.set_defaults(run=commands.diff)
    apply = add("apply", "make FILE the configuration", APPLY_EXAMPLES, remote, dry, comment, waits)
    apply.add_argument("files", nargs="+", type=Path, metavar="FILE", help=FILES)
    apply.set_defaults(run=commands.apply)
    get = add("get", "print the configuration, a kind or an object", GET_EXAMPLES, remote)
    get.add_argument("kind", nargs="?", choices=kinds, metavar="KIND", help=", ".join(kinds))
    completion.of(get.add_argument("name", nargs="?", metavar="NAME", help="of one object"), completion.names())
    get.add_argument("-o", "--output", choices=("table", "toml", "json"), default="table", help="(%(default)s)")
    get.add_argument("--tag", action="append", default=[], metavar="KEY[=VALUE]", help="those that have this tag")
    get.add_argument("--refers-to", action="append", default=[], metavar="KIND/NAME", help="those that name it")
    get.set_defaults(run=commands.get)
    export = add("export", "print the configuration as a file", EXPORT_EXAMPLES, remote)
    export.add_argument("--version", type=number, metavar="N", help="an old one, as `paifang history` shows it")
    export.set_defaults(run=commands.export)
    delete = add("delete", "delete an object that nothing refers to", DELETE_EXAMPLES, remote, dry, comment, waits)
    delete.add_argument("kind", choices=kinds, metavar="KIND", help=", ".join(kinds))
    completion.of(delete.add_argument("name", metavar="NAME"), completion.names())
    delete.set_defaults(run=commands.delete)
    what = "set the weights of servers, 0 drains; or of the parts of a split"
    weigh = add("weigh", what, WEIGH_EXAMPLES, remote, dry, comment, waits)
    weigh.add_argument("kind", choices=commands.WEIGHED, metavar="KIND", help=", ".join(commands.WEIGHED))
    completion.of(weigh.add_argument("name", metavar="NAME", help="of the group or rule"), completion.names())
    weigh.add_argument(
        "weights", nargs="+", type=weight, metavar="WHAT=WEIGHT", help="10.0.0.9:80=0, [::1]:80=50; of a rule v2=10"
    )
    weigh.set_defaults(run=commands.weigh)
    history = add("history", "versions of the configuration", HISTORY_EXAMPLES, remote, as_json)
    history.add_argument("version", nargs="?", type=span, metavar="N[..M]", help="what it, or all up to M, changed")
    history.add_argument("--limit", type=limit, default=20, metavar="N", help="how many (%(default)s)")
    history.set_defaults(run=commands.history)
    rollback = add("rollback", "back to an old version, as a new one", ROLLBACK_EXAMPLES, remote, dry, comment, waits)
    rollback.add_argument("version", type=number, metavar="N", help="as `paifang history` shows it")
    rollback.set_defaults(run=commands.rollback)
    live = add("watch", "what changes, as it does", WATCH_EXAMPLES, remote, as_json)
    topics = [topic.value for topic in Topic]
    live.add_argument("--only", action="append", choices=topics, metavar="WHAT", help=", ".join(topics))
    live.set_defaults(run=watch.main)
    shell = add("completion", "print a script for the shell's Tab key", COMPLETION_EXAMPLES)
    shell.add_argument("shell", choices=completion.SHELLS, metavar="SHELL", help=", ".join(completion.SHELLS))
    shell.set_defaults(run=completion.script)


def number(text: str) -> int:
    """A whole number."""
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number")
    return int(text)


def limit(text: str) -> int:
    """How many versions."""
    if not 1 <= (found := number(text)) <= commands.HISTORY_MOST:
        raise argparse.ArgumentTypeError(f"{text}: give 1 to {commands.HISTORY_MOST}")
    return found


def span(text: str) -> tuple[int | None, int]:
    """One version, or two with `..` between them."""
    start, dots, end = text.rpartition("..")
    return number(start) if dots else None, number(end)


def weight(text: str) -> dict[str, object]:
    """A server of a group, or a part of a split, with its weight."""
    what, equals, value = text.rpartition("=")
    place: dict[str, object] | None = {"address": what} if what.startswith(UNIX) else None
    if place is None and (found := split(what)) is not None:
        place = {"address": found[0], "port": found[1]}
    if place is None and re.fullmatch(NAME.regex, what):
        place = {"backend_service": what}
    if not equals or place is None:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give ADDRESS:PORT=WEIGHT, such as 10.0.0.9:80=0, or of a rule SERVICE=WEIGHT, such as v2=10"
        )
    return {**place, "weight": number(value)}


def seconds(text: str) -> float:
    """A duration."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 86_400:
        raise argparse.ArgumentTypeError(f"{text}: give seconds, 0 to 86400")
    return found
