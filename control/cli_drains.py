"""`paifang drain NODE` and `paifang undrain NODE`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, cast

from control import show
from control.client import Api, ApiError, connect
from control.durations import duration

LOOK_S = 1.0
EXAMPLES = """
  paifang drain l7-1 --wait --timeout 5m   nothing new comes to l7-1; ends when it has no connections left
  paifang undrain l7-1
  paifang weigh --help                     servers drain by a weight of 0
"""

Add = Any  # argparse has no public type for what add_subparsers() returns


def add_to(subcommands: Add, remote: argparse.ArgumentParser, as_json: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    raw = argparse.RawDescriptionHelpFormatter
    begin = subcommands.add_parser(
        "drain", help="have a node take nothing new", description="Have a node take nothing new.",
        epilog=f"examples:{EXAMPLES}", formatter_class=raw, parents=[remote, as_json],
    )  # fmt: skip
    begin.add_argument("node", metavar="NODE")
    begin.add_argument("--wait", action="store_true", help="until nothing is left, and tell each second what is")
    begin.add_argument(
        "--timeout",
        type=duration,
        default="5m",
        metavar="TIME",
        help="for --wait, then exit code 1 (%(default)s)",
    )
    begin.set_defaults(run=drain)
    end = subcommands.add_parser(
        "undrain", help="have a node serve again", description="Have a node serve again.",
        epilog=f"examples:{EXAMPLES}", formatter_class=raw, parents=[remote],
    )  # fmt: skip
    end.add_argument("node", metavar="NODE")
    end.set_defaults(run=undrain)


def drain(options: argparse.Namespace) -> int:
    """Have a node take nothing new; with --wait, exit code 1 if something is left after the timeout."""
    api = _api(options)
    told = cast(Mapping[str, Any], api.request("PUT", f"/v1/drains/{options.node}").document)
    if not options.wait:
        print(json.dumps(told) if options.json else f"{told['role']} {told['name']} drains; `paifang status` shows it")
        return 0
    until = time.monotonic() + options.timeout.total_seconds()
    while True:
        node = _node(api, told)
        obeys = node["step"] != "silent" and node["facts"].get("resting") == told["since"]
        left = show.remaining(node) if obeys else None
        text = show.left(node) if obeys else f"not heard yet; {node['why'] or 'it is told'}"
        print(json.dumps({**told, "left": left}) if options.json else f"{told['name']}: {text}", flush=True)
        if left == 0:
            return 0
        if time.monotonic() >= until:
            print(f"paifang: {told['name']} still has something; it goes on draining", file=sys.stderr)
            return 1
        time.sleep(LOOK_S)


def _node(api: Api, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises ApiError."""
    nodes = cast(Mapping[str, Any], api.request("GET", "/v1/status").document)["nodes"]
    for node in nodes:
        if (node["role"], node["name"]) == (told["role"], told["name"]):
            return cast(Mapping[str, Any], node)
    raise ApiError(f"{told['name']} is neither listed nor heard any more")


def undrain(options: argparse.Namespace) -> int:
    """Have a node serve again."""
    _api(options).request("DELETE", f"/v1/drains/{options.node}")
    print(f"{options.node} serves again")
    return 0


def _api(options: argparse.Namespace) -> Api:
    return connect(options.api, options.token, options.state)
