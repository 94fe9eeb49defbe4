"""`paifang events`: what has happened, as lines or JSON; with --follow what happens."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final, cast

from control.client import Api, ApiError, connect
from control.happenings import EventKind
from control.watch import event

EXAMPLES: Final = """
  paifang events                                 the last 100
  paifang events --kind node --kind server --limit 20
  paifang events --follow --json                 what happens from now on, after the last ones, until Ctrl-C
"""
EVERY_S: Final = 1.0
Add = Callable[..., argparse.ArgumentParser]


def add_to(add: Add, *parents: argparse.ArgumentParser) -> None:
    """Add the subcommand by `add(NAME, WHAT, EXAMPLES, *PARENTS)`."""
    parser = add("events", "what has happened: versions, nodes, servers, certificates, drains", EXAMPLES, *parents)
    kinds = [kind.value for kind in EventKind]
    parser.add_argument("--kind", action="append", choices=kinds, help="of this kind alone; may be repeated")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="the last N (%(default)s)")
    parser.add_argument("--follow", "-f", action="store_true", help="and what happens from now on, until Ctrl-C")
    parser.set_defaults(run=events)


def events(options: argparse.Namespace) -> int:
    """Print them, the oldest first; --json: a line each."""
    api = connect(options.api, options.token, options.state, ca=options.ca)
    after = _print(api, options, {"limit": str(options.limit)})
    complaint = ""
    while options.follow:
        time.sleep(EVERY_S)
        try:
            after = _print(api, options, {"limit": "1000", "after": str(after)})
            complaint = ""
        except ApiError as error:
            if error.status in (401, 403):
                raise
            if str(error) != complaint:
                print(f"paifang: {error}; trying again", file=sys.stderr)
            complaint = str(error)
    return 0


def _print(api: Api, options: argparse.Namespace, query: dict[str, str | list[str]]) -> int:
    """The number after which to go on."""
    if options.kind:
        query["kind"] = list(options.kind)
    document = cast(dict[str, Any], api.request("GET", "/v1/events", query=query).document)
    for each in document["events"]:
        print(json.dumps(each, ensure_ascii=False) if options.json else event(each), flush=True)
    return int(document["next"])
