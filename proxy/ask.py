"""`paifang l7 ask`: what a running L7 node says of itself on its admin socket, for people or as JSON; and draining it.

`render` is pure: the answer's document in, text out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from control.node import admin
from control.node.patience import patience
from proxy.census import VIEWS_LIMIT, network
from proxy.hub import Activity

COMMANDS: Final = ("status", "connections", "drain")
ADMIN_SOCKET: Final = "admin.sock"  # in the state directory
LOOK_EVERY_S: Final = 1.0

EXAMPLES = """examples:
  paifang l7 ask status --state /var/lib/paifang/l7
  paifang l7 ask connections --state /var/lib/paifang/l7 --listener web --client 192.0.2.0/24
  paifang l7 ask connections --state /var/lib/paifang/l7 --in tunnel --json
  paifang l7 ask drain --state /var/lib/paifang/l7
"""

Document = Mapping[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="paifang l7 ask",
        description="Asks the running L7 node of a state directory. Only the node's own user and root may.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add(
        "what",
        choices=COMMANDS,
        metavar="WHAT",
        help="status: node, listeners, servers; connections: the oldest first; drain: end the node as SIGTERM does, "
        "and tell each second what is left until it has ended",
    )
    add("--state", type=Path, required=True, metavar="DIR", help="the node's state directory, as given to it")
    add("--listener", default="", metavar="NAME", help="only connections of this listener")
    add("--client", type=_network, metavar="ADDRESS[/N]", help="only connections of these clients")
    add("--in", dest="activity", default="", choices=[*Activity], metavar="ACTIVITY",
        help=f"only connections that are {', '.join(Activity)}")  # fmt: skip
    add("--limit", type=_limit, default=1000, metavar="N", help="how many connections at most (%(default)s)")
    add("--json", action="store_true", help="print JSON, with everything; a line each second while it drains")
    return result


def run(options: argparse.Namespace) -> None:
    """Ask and print. Raises AdminError."""
    path = options.state / ADMIN_SOCKET
    arguments = {}
    if options.what == "connections":
        arguments = {name: getattr(options, name) for name in ("listener", "client", "activity", "limit")}
    with patience(f"paifang-l7: waiting for {path} (at most {admin.IDLE_S:.0f} s)"):
        document = admin.ask(path, options.what, **arguments)
    if options.what == "drain":
        _follow(path, cast(Document, document), as_json=options.json)
    else:
        print(json.dumps(document, indent=1) if options.json else render(options.what, document, options.limit))
    sys.stdout.flush()


def _follow(path: Path, document: Document, *, as_json: bool) -> None:
    """Prints what is left until the node has ended."""
    while True:
        print(json.dumps(document) if as_json else progress(document), flush=True)
        time.sleep(LOOK_EVERY_S)
        try:
            document = cast(Document, admin.ask(path, "status"))
        except admin.AdminError:  # the socket goes last
            if not as_json:
                print("the node has ended", flush=True)
            return


def render(what: str, document: object, limit: int = 1000) -> str:
    """The text for people."""
    return (
        _connections(cast(list[Document], document), limit)
        if what == "connections"
        else _status(cast(Document, document))
    )


def progress(node: Document) -> str:
    """A line on a node that drains."""
    rows = node["listeners"]
    left = [f"{row['listener']} {row['connections']}" for row in rows if row["connections"]]
    sums = {name: sum(row[name] for row in rows) for name in ("connections", "requests", "tunnels")}
    text = f"draining for {node['drain']['since_s']:.0f} s, {node['drain']['at_most_s']:.0f} s left: "
    if not left:
        return text + "no connections"
    oldest_s = max(row["oldest_s"] for row in rows)
    return (
        f"{text}{sums['connections']} connections with {sums['requests']} requests and {sums['tunnels']} WebSockets "
        f"(the oldest for {oldest_s:.0f} s); {', '.join(left)}"
    )


def _status(node: Document) -> str:
    state = "draining" if node["drain"] else "ready" if node["ready"] else "NOT READY"
    lines = [
        f"{node['name']}, process {node['pid']}: {state}",
        f"configuration  {node['configuration'] or 'none'}",
        f"workers        {', '.join(map(str, node['workers'])) or 'none'}; restarted {node['worker_restarts']} times",
        *([f"drain          {progress(node)}"] if node["drain"] else ()),
        *([f"node before    {progress(node['before'])}"] if node["before"] else ()),
        *(f"problem        {problem}" for problem in node["problems"]),
    ]
    listeners = [
        (row["listener"], row["connections"], row["requests"], row["tunnels"], f"{row['oldest_s']} s")
        for row in node["listeners"]
    ]
    header = ("LISTENER", "CONNECTIONS", "REQUESTS", "WEBSOCKETS", "OLDEST BUSY")
    servers = [
        (each["service"], each["server"], "up" if each["healthy"] else "DOWN", each["why"]) for each in node["health"]
    ]
    tables = [
        _table(header, listeners) if listeners else "no listeners",
        _table(("SERVICE", "SERVER", "HEALTH", "WHY"), servers) if servers else "no servers with health checks",
    ]
    return "\n".join([*lines, *(line for table in tables for line in ("", table))])


def _connections(found: Sequence[Document], limit: int) -> str:
    rows = [
        (
            each["listener"], each["client"], each["activity"], f"{each['age_s']} s", each["tls"] or "-",
            f"{each['busy_s']} s" if each["method"] else "-", each["server"] or "-",
            f"{each['method']} {each['host']}{each['path']}".strip() or "-",
        )
        for each in found
    ]  # fmt: skip
    header = ("LISTENER", "CLIENT", "IS", "AGE", "TLS", "BUSY", "SERVER", "REQUEST")
    more = [f"the oldest {limit}; --limit N shows more"] if len(found) >= limit else []
    return "\n".join([_table(header, rows), *more]) if rows else "no connections"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _network(text: str) -> str:
    try:
        network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= VIEWS_LIMIT):
        raise argparse.ArgumentTypeError(f"{text!r}: give 1 to {VIEWS_LIMIT}")
    return int(text)
