"""`paifang l4 ask`: what a running node says of itself on its admin socket, for people or as JSON.

`render` is pure: the answer's document in, text out. For people, counters at zero are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from control.node import admin
from control.node.patience import patience
from l4fast.limits import OVER
from l4fast.sessions import PHASES, end
from l4fast.settings import ADMIN_SOCKET

COMMANDS = ("status", "sessions", "counters", "kill", "leave")
ENDS = ("client", "vip", "real")
LIMIT = 1000
LIMIT_OF = "limit_"  # begins the names of a listener's limits
REFUSED = ("denied", *OVER)  # counters of a listener

EXAMPLES = """examples:
  paifang l4 ask status --state /var/lib/paifang/l4
  paifang l4 ask sessions --state /var/lib/paifang/l4 --client 192.0.2.7
  paifang l4 ask sessions --state /var/lib/paifang/l4 --vip 192.0.2.10:80 --in established
  paifang l4 ask sessions --state /var/lib/paifang/l4 --client 2001:db8:7::/48 --vip [2001:db8::25]:80
  paifang l4 ask kill --state /var/lib/paifang/l4 --real 10.0.0.21:8080
  paifang l4 ask counters --state /var/lib/paifang/l4 --json
  paifang l4 ask leave --state /var/lib/paifang/l4
"""

Document = Mapping[str, Any]


def parser(kind: type[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The command line, by a parser class that handles errors as its caller does."""
    result = kind(
        prog="paifang l4 ask",
        description="Asks the running L4 node of a state directory. Only the node's own user (root) may.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add(
        "what",
        choices=COMMANDS,
        metavar="WHAT",
        help="status: node, servers, peers; sessions; counters; kill: end sessions; leave: end the process, whose XDP "
        "program goes on forwarding until the node is started again, which takes over its tables",
    )
    add("--state", type=Path, required=True, metavar="DIR", help="the node's state directory, as given to it")
    for name in ENDS:
        add(f"--{name}", type=_end, metavar="ADDRESS[/N][:PORT]", help=f"only sessions of this {name}")
    add("--in", dest="phase", choices=PHASES, metavar="PHASE", help=f"only sessions that are {', '.join(PHASES)}")
    add("--limit", type=_positive, default=LIMIT, metavar="N", help="how many sessions at most (%(default)s)")
    add("--json", action="store_true", help="print JSON, with everything")
    return result


def run(options: argparse.Namespace) -> None:
    """Ask and print. Raises AdminError."""
    arguments = {name: getattr(options, name) for name in ENDS} | {"state": options.phase}
    if options.what == "sessions":
        arguments["limit"] = options.limit
    elif options.what != "kill":
        arguments = {}
    path = options.state / ADMIN_SOCKET
    with patience(f"paifang-l4: waiting for {path} (at most {admin.IDLE_S:.0f} s)"):
        document = admin.ask(path, options.what, **arguments)
    print(json.dumps(document, indent=1) if options.json else render(options.what, document, options.limit))
    sys.stdout.flush()


def render(what: str, document: object, limit: int = LIMIT) -> str:
    """The text for people."""
    if what == "sessions":
        return _sessions(cast(list[Document], document), limit)
    return {"status": _status, "counters": _counters, "kill": _killed, "leave": _left}[what](cast(Document, document))


def _status(node: Document) -> str:
    lines = [
        f"{node['name']} on {', '.join(node['interfaces'])}: {'ready' if node['ready'] else 'NOT READY'}",
        f"VIPs      {', '.join(node['vips']) or 'none'}",
        f"sessions  {node['sessions']}",
        f"sync      {'complete' if node['sync']['complete'] else 'not complete yet'}"
        + ("; records were dropped here" if node["sync"]["overflowed"] else ""),
        *_vip(node["vip"]),
        *(f"problem   {problem}" for problem in node["problems"]),
    ]
    peers = [
        (peer["name"], peer["state"], f"{peer['heard_s']} s ago", peer["sessions"], f"{peer['delay_ms']} ms")
        for peer in node["sync"]["peers"]
    ]
    lines += ["", _table(("PEER", "STATE", "HEARD", "SESSIONS", "DELAY"), peers) if peers else "no peers heard"]
    servers = [(entry["server"], "up" if entry["healthy"] else "DOWN", entry["why"]) for entry in node["health"]]
    vips = [(each["address"], each["state"], _age(each["since"]), each["transitions"])
            for each in node["vip"]["addresses"]]  # fmt: skip
    routers = [(each["address"], each["as"], each["state"], _age(each["since"]), each["bfd"] or "-")
               for each in node["vip"]["peers"]]  # fmt: skip
    tables = [
        _table(header, rows)
        for header, rows in (
            (("VIP", "STATE", "FOR", "CHANGES"), vips), (("ROUTER", "AS", "SESSION", "FOR", "BFD"), routers),
        )
        if rows
    ]  # fmt: skip
    tables.append(_table(("SERVER", "HEALTH", "WHY"), servers) if servers else "no servers")
    return "\n".join([*lines, *(line for table in tables for line in ("", table))])


def _vip(vip: Document) -> list[str]:
    waits = f", waits for {vip['waits_for']}" if vip["waits_for"] else ""
    return [] if vip["method"] == "static" else [f"announced by {vip['method']}: {vip['stage']}{waits}"]


def _age(since: float) -> str:
    return f"{max(0.0, time.time() - since):.0f} s"


def _left(answer: Document) -> str:
    return f"it ends; {', '.join(answer['left'])} forwards on by its last tables"


def _sessions(views: Sequence[Document], limit: int) -> str:
    rows = [
        (
            view["client"], view["vip"], view["real"], view["protocol"], view["state"], view["packets"], view["bytes"],
            f"{view['idle_s']} s", "a peer" if view["synced"] else "here",
        )
        for view in views
    ]  # fmt: skip
    header = ("CLIENT", "VIP", "SERVER", "PROTOCOL", "STATE", "PACKETS", "BYTES", "IDLE", "FIRST SEEN BY")
    more = [f"the first {limit}; --limit N shows more"] if len(views) >= limit else []
    return "\n".join([_table(header, rows), *more]) if rows else "no sessions"


def _counters(counters: Document) -> str:
    listeners = counters["listeners"]
    header = ("LISTENER", "PACKETS IN", "BYTES IN", "PACKETS OUT", "BYTES OUT", "SESSIONS MADE")
    rows = [(name, *_columns(row, (*header[1:], "SESSIONS"))) for name, row in listeners.items()]
    parts = [_table((*header, "SESSIONS"), rows)] if rows else ["no listeners"]
    servers = [
        (listener, server, *_columns(row, (*header[1:], "CONNECTIONS")))
        for listener, each in counters["servers"].items()
        for server, row in each.items()
    ]
    if servers:
        parts.append(_table((header[0], "SERVER", *header[1:], "CONNECTIONS"), servers))
    limits = [
        (name, limit.removeprefix(LIMIT_OF), most, row["connections"] if limit == f"{LIMIT_OF}connections" else "")
        for name, row in listeners.items()
        for limit, most in row.items()
        if limit.startswith(LIMIT_OF)
    ]
    if limits:
        parts.append(_table(("LISTENER", "LIMIT", "AT MOST", "NOW"), limits))
    refused = [(name, why, row[why]) for name, row in listeners.items() for why in REFUSED if row.get(why)]
    if refused:
        parts.append(_table(("LISTENER", "NOT LET IN", "PACKETS"), refused))
    for title in ("packets", "sync"):
        counted = [(name, count) for name, count in counters[title].items() if count]
        parts.append(_table((title.upper(), "COUNT"), counted) if counted else f"{title}: all counters are zero")
    return "\n\n".join(parts)


def _columns(row: Document, titles: Sequence[str]) -> list[object]:
    return [row.get(title.lower().replace(" ", "_"), "-") for title in titles]


def _killed(answer: Document) -> str:
    return f"{answer['killed']} sessions killed"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _end(text: str) -> str:
    try:
        end(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: give 1 or more")
    return int(text)
