"""`paifang metering`: what listeners have used, as a table, CSV or JSON."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from control import show
from control.client import connect
from control.metering import By

EXAMPLES: Final = """
  paifang metering                                     this month, by day
  paifang metering --from 2026-10-01 --to 2026-11-01 --by month --csv > october.csv
  paifang metering --instance shop --by hour --from 2026-11-20T08:00Z --to 2026-11-20T18:00Z
  paifang metering --json | jq '[.rows[].bytes_out] | add'

Times are UTC; --to is not included. bytes_in and bytes_out are of IP packets for tcp and udp listeners, of HTTP
messages for http and https: see docs/metering.md.
"""
# A table's columns, each the sum of these.
SHOWN: Final = {
    "BYTES IN": ("bytes_in",),
    "BYTES OUT": ("bytes_out",),
    "CONNECTIONS": ("connections",),
    "AT ONCE": ("connections_max",),
    "REQUESTS": tuple(f"requests_{each}" for each in ("1xx", "2xx", "3xx", "4xx", "5xx", "other")),
    "5XX": ("requests_5xx",),
}
_ASKED: Final = ("instance", "listener", "by")
Add = Callable[..., argparse.ArgumentParser]


def add_to(add: Add, *parents: argparse.ArgumentParser) -> None:
    """Add the subcommand by `add(NAME, WHAT, EXAMPLES, *PARENTS)`."""
    parser = add("metering", "what listeners have used: bytes, connections, requests", EXAMPLES, *parents)
    parser.add_argument("--from", dest="start", metavar="TIME", help="first hour or date (the first of this month)")
    parser.add_argument("--to", dest="end", metavar="TIME", help="hour or date behind the last (the end of today)")
    parser.add_argument("--by", choices=[by.value for by in By], default=By.DAY.value, help="a row each (%(default)s)")
    parser.add_argument("--instance", default="", metavar="NAME", help="of this instance alone")
    parser.add_argument("--listener", default="", metavar="NAME", help="of this listener alone")
    parser.add_argument("--csv", action="store_true", help="for spreadsheets")
    parser.set_defaults(run=metering)


def metering(options: argparse.Namespace) -> int:
    """Print what was used; 2 for --csv together with --json."""
    if options.csv and options.json:
        print("paifang metering: give --csv or --json, not both", file=sys.stderr)
        return 2
    query = {name: getattr(options, name) for name in _ASKED} | {"from": options.start, "to": options.end}
    api = connect(options.api, options.token, options.state, ca=options.ca)
    answer = api.request("GET", "/v1/metering", query={name: text for name, text in query.items() if text})
    document = cast(dict[str, Any], answer.document)
    rows: list[Mapping[str, Any]] = document["rows"]
    if options.json:
        print(json.dumps(document))
    elif options.csv:
        written = csv.DictWriter(sys.stdout, list(rows[0]) if rows else ["time", "instance", "listener"])
        written.writeheader()
        written.writerows(rows)
    else:
        print(_table(rows) if rows else f"nothing was used from {document['from']} to {document['to']}")
    return 0


def _table(rows: list[Mapping[str, Any]]) -> str:
    cells = [
        (row["time"], row["instance"], row["listener"], *(sum(row[each] for each in of) for of in SHOWN.values()))
        for row in rows
    ]
    return show.table(cells, ("TIME", "INSTANCE", "LISTENER", *SHOWN))
