"""`paifang watch`: what changes in the cluster, a line each, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from control import show
from control.client import ApiError, connect

SILENCE_S = 45.0  # three heartbeats
AGAIN_S = 1.0


def main(options: argparse.Namespace) -> int:
    """Print events; goes on where it was when the connection breaks. Raises ApiError if it never stood."""
    api = connect(options.api, options.token, options.state, ca=options.ca)
    query: dict[str, str | list[str]] = {"only": list(options.only)} if options.only else {}
    stood, complaint = False, ""
    while True:
        try:
            for name, identifier, data in api.events("/v1/watch", query, SILENCE_S):
                stood, complaint = True, ""
                if identifier:
                    query["after"] = identifier
                print(_json(name, data) if options.json else line(name, data), flush=True)
        except ApiError as error:
            if not stood or error.status in (401, 403):
                raise
            if str(error) != complaint:
                print(f"paifang: {error}; trying again", file=sys.stderr)
            complaint = str(error)
        time.sleep(AGAIN_S)


def event(data: Mapping[str, Any]) -> str:
    """One of /v1/events as a line."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(data["at"]))
    return f"{when}  {data['severity']:7}  {data['kind']:11}  {show.clean(data['text'])}"


def _json(name: str, data: Mapping[str, Any]) -> str:
    return json.dumps({"event": name, **data}, ensure_ascii=False)


def line(name: str, data: Mapping[str, Any]) -> str:
    """An event as text."""
    if name == "version":
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(data["created"]))
        head = f"version {data['version']}, {when}, by {data['author']}: {data['comment']}"
        return f"{head}\n{show.plan(data['changes'])}"
    if name == "node":
        remarks = [f"version {data['version']}"] if data["version"] is not None else []
        remarks += data["problems"] + ([] if data["listed"] else ["not listed under nodes"])
        return f"node {data['role']} {data['name']}: {data['step']}" + (f" ({'; '.join(remarks)})" if remarks else "")
    if name == "event":
        return event(data)
    if name == "server":
        state = {True: "healthy", False: "down", None: "not checked any more"}[data["healthy"]]
        of = f" of {data['service']}" if data["service"] else ""
        seen = f"{data['role']} {data['node']}" + (f": {data['why']}" if data["why"] else "")
        return f"server {data['server']}{of}: {state} ({seen})"
    return f"version {data['version']} is current"
