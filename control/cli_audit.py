"""`paifang audit`: who changed what and who was refused; and whether the log is as it was written.

Verifying is done here, over what the API gives out: it finds a storage that was tampered with. `--noted`, with what an
earlier run printed or the journal has, finds a log that was made anew as a whole, too.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, cast

from control import show
from control.audit_chain import ChainError, Head, Verifier
from control.cli_tokens import span
from control.client import Api, connect

EXAMPLES = """
  paifang audit                        the latest 20
  paifang audit --who ci --result refused
  paifang audit --object listeners/web --since 7d
  paifang audit --limit 1000 --json | jq -r .path
  paifang audit verify                 1 if an entry was changed, removed or slipped in
  paifang audit verify --noted 41:9c07…e1b4   and whether entry 41 is still the one that it was
"""
FILTERS = {  # of the API, by option
    "who": ("who", "by the token of this name"),
    "id": ("token", "by the token with this ID"),
    "from": ("from", "from this address"),
    "method": ("method", "by this method"),
    "path": ("path", "whose path begins so"),
    "object": ("object", "that changed this object, KIND/NAME, or one that begins so"),
    "result": ("result", "done, refused or failed"),
}
PAGE = 1000
ATTEMPTS = 3  # the oldest may be forgotten while they are read

Json = Mapping[str, Any]
Add = Callable[..., argparse.ArgumentParser]
Parent = argparse.ArgumentParser


def add_to(add: Add, remote: Parent, as_json: Parent) -> None:
    """Add the subcommand; `add` makes one with its help and examples."""
    audit = add("audit", "who changed what, and who was refused", EXAMPLES, remote, as_json)
    audit.add_argument("what", nargs="?", choices=("verify",), metavar="verify", help="check the chain of hashes")
    audit.add_argument("--limit", type=_count, default=20, metavar="N", help="how many (%(default)s)")
    for option, (name, what) in FILTERS.items():
        audit.add_argument(f"--{option}", dest=f"filter_{name}", metavar=option.upper(), help=what)
    audit.add_argument("--since", type=_time, metavar="WHEN", help="since 7d, 12h or 30m ago, or a day as 2027-01-31")
    audit.add_argument("--until", type=_time, metavar="WHEN", help="before then")
    audit.add_argument(
        "--noted", type=_noted, action="append", default=[], metavar="N:HASH", help="for verify: what it once printed"
    )
    audit.set_defaults(run=main)


def main(options: argparse.Namespace) -> int:
    """Print entries, newest last as in other logs, or verify all of them."""
    api = connect(options.api, options.token, options.state, ca=options.ca)
    if options.what == "verify":
        return _verify(api, options)
    query = {name: getattr(options, f"filter_{name}") for name, _ in FILTERS.values()}
    query |= {"since": options.since, "until": options.until}
    found = _latest(api, {name: str(each) for name, each in query.items() if each is not None}, options.limit)
    if options.json:
        for entry in found:
            print(json.dumps(entry))
    else:
        print(table(found) if found else "no entries")
    return 0


def table(entries: list[Json]) -> str:
    """One line an entry."""
    rows = [
        (
            entry["number"], time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["at"])), entry["who"],
            entry["from"], f"{entry['method']} {entry['path']}", f"{entry['result']} ({entry['status']})",
            _remark(entry),
        )
        for entry in entries
    ]  # fmt: skip
    return show.table(rows, ("NO", "WHEN", "WHO", "FROM", "WHAT", "RESULT", "REMARKS"))


def _remark(entry: Json) -> str:
    said = [entry.get("why", ""), entry.get("comment", "")]
    if entry.get("version") != entry.get("version_before"):
        said.insert(0, f"version {entry['version']}")
    said.append(", ".join(entry.get("objects", ())))
    return "; ".join(filter(None, said))


def _latest(api: Api, query: dict[str, str], limit: int) -> list[Json]:
    found: list[Json] = []
    before: int | None = None
    while len(found) < limit:
        more = {"before": str(before)} if before is not None else {}
        page = _page(api, {**query, **more, "limit": str(min(PAGE, limit - len(found)))})
        found += page["entries"]
        before = page["next"]
        if before is None:
            break
    return found[::-1]


def _verify(api: Api, options: argparse.Namespace) -> int:
    for attempt in range(ATTEMPTS):
        head = Head(**_page(api, {"limit": "1"})["head"])
        verifier = Verifier(head, dict(options.noted))
        try:
            for entries in _whole(api, head):
                verifier.follow(entries)
            verifier.finish()
            break
        except ChainError as error:
            first = _page(api, {"limit": "1"})["head"]["first"]
            if attempt < ATTEMPTS - 1 and first != head.first:
                continue
            if options.json:
                print(json.dumps({"valid": False, "why": str(error)}))
            print(f"paifang: the audit log was tampered with: {error}", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps({"valid": True, "first": head.first, "last": head.last, "hash": head.hash}))
    elif not head.last:
        print("the audit log is empty")
    else:
        print(f"entries {head.first} to {head.last} are as they were written; to be noted elsewhere:")
        print(f"{head.last}:{head.hash}")
    return 0


def _whole(api: Api, head: Head) -> Iterator[list[Json]]:
    after: int | None = head.first - 1
    while after is not None and after < head.last:
        page = _page(api, {"after": str(after), "limit": str(PAGE)})
        yield [entry for entry in page["entries"] if entry["number"] <= head.last]
        after = page["next"]


def _page(api: Api, query: Mapping[str, str]) -> Json:
    return cast(Json, api.request("GET", "/v1/audit", query=query).document)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= 100_000):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from 1 to 100000")
    return int(text)


def _time(text: str) -> int:
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").astimezone().timestamp())
    except ValueError:
        return int(time.time()) - span(text)


def _noted(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d{1,15}):([0-9a-f]{64})", text, re.ASCII)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r}: give NUMBER:HASH, as `paifang audit verify` prints it")
    return int(match[1]), match[2]
