"""`paifang explain`: what would happen to a request or a flow; with --live, what does happen to one."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from control import prepare
from control.client import connect
from control.explaining import Asked, Reports, Secrets, explain_flow, explain_request
from core.explain import ExplainError
from core.fields import Kind
from core.model import Model

FLOWS: Final = ("tcp", "udp")
EXAMPLES = """
  paifang explain https://shop.example/cart?x=1 --header 'Cookie: a=b' --from 198.51.100.7
  paifang explain http://192.0.2.10/ --file site.toml           a file; no cluster is needed
  paifang explain tcp 198.51.100.7:4242 192.0.2.10:5432         a flow: CLIENT:PORT VIP:PORT
  paifang explain udp 198.51.100.7:4242 192.0.2.10:53 --version 7
  paifang explain tcp 198.51.100.7:4242 192.0.2.10:5432 --live  what the nodes know of it now
  paifang explain 5f0c…0000000001 --live                        a request, by the id of the access log
  paifang explain https://shop.example/ --json | jq -r .rule

exit code: 0 it reaches a server, is redirected or answered; 1 it is refused or dropped, or nothing is known of it
"""


def add_to(add: Callable[..., Any], remote: argparse.ArgumentParser, as_json: argparse.ArgumentParser) -> None:
    """Add the subcommand."""
    parser = add("explain", "what would happen to a request or a flow, and why", EXAMPLES, remote, as_json)
    option = parser.add_argument
    option(
        "what", nargs="+", metavar="WHAT", help="URL, or tcp CLIENT:PORT VIP:PORT, or udp …; with --live a request id"
    )
    option("--method", default="GET", help="of the request (%(default)s)")
    option("--header", action="append", default=[], metavar="LINE", help="'NAME: VALUE'; repeated")
    option("--from", dest="client", default="", metavar="ADDRESS[:PORT]", help="the client of a request")
    option("--to", default="", metavar="VIP", help="the VIP of a request, where several have such a listener")
    option("--sni", metavar="NAME", help="the name in the TLS handshake (the URL's host; '' for none)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--file", action="append", type=Path, metavar="FILE", help="by this file in place of what runs")
    which.add_argument("--version", type=_version, metavar="N", help="by this stored version")
    which.add_argument("--live", action="store_true", help="what happens now: asks the nodes")
    option(
        "--cluster-key",
        type=Path,
        metavar="FILE",
        help="with --file: the L4 nodes' key file, which has the hash's seed",
    )
    parser.set_defaults(run=explain)


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r}: give the number of a version")
    return int(text)


def explain(options: argparse.Namespace) -> int:
    """Print the steps. Raises ApiError, ConfigErrors."""
    try:
        if options.live:
            return _live(options)
        asked = _asked(options)
        found = _by_file(options, asked) if options.file else _by_api(options, asked)
    except ExplainError as error:
        print(f"paifang explain: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, ensure_ascii=False) if options.json else render(found))
    return 0 if found["outcome"] in ("forwarded", "redirected", "answered") else 1


def _asked(options: argparse.Namespace) -> Asked:
    """Raises ExplainError."""
    what = options.what
    if what[0] in FLOWS:
        if len(what) != 3:
            raise ExplainError(f"{what[0]}: give both ends, CLIENT:PORT VIP:PORT")
        return Asked(protocol=what[0], client=what[1], to=what[2])
    if len(what) != 1 or "://" not in what[0]:
        raise ExplainError(f"{' '.join(what)!r}: give a URL, or tcp or udp with CLIENT:PORT VIP:PORT")
    headers = tuple(options.header)
    return Asked(what[0], options.method, headers, options.sni, client=options.client, to=options.to)


def _by_file(options: argparse.Namespace, asked: Asked) -> dict[str, Any]:
    document = prepare.read(*options.file)
    model = _with_chains(document)
    secrets = Secrets(_seed(options.cluster_key) if options.cluster_key else None)
    if asked.url:
        found = asyncio.run(explain_request(model, asked, Reports(), secrets, asyncio.Semaphore()))
    else:
        found = explain_flow(model, asked, Reports(), secrets)
    for step in found["steps"]:
        if "kind" in step:
            error = document.error(Kind(step["kind"]), step["name"], step["field"], "")
            step["file"], step["line"] = error.path, error.line
    return found


def _with_chains(document: prepare.Document) -> Model:
    """With the certificates' texts. Raises ConfigErrors."""
    return prepare.inline(document).model


def _seed(path: Path) -> int:
    """Of the key file, as the L4 nodes read it. Raises ExplainError."""
    argv = [sys.executable, "-m", "l4fast", "seed", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExplainError(done.stderr.strip() or f"{path}: cannot be read")
    return int(done.stdout)


def _by_api(options: argparse.Namespace, asked: Asked) -> dict[str, Any]:
    query: dict[str, Any] = {"from": asked.client, "to": asked.to}
    if asked.url:
        query |= {"url": asked.url, "method": asked.method, "header": asked.headers}
        if asked.sni is not None:
            query["sni"] = asked.sni
    else:
        query["protocol"] = asked.protocol
    if options.version is not None:
        query["version"] = str(options.version)
    api = connect(options.api, options.token, options.state, ca=options.ca)
    return cast(dict[str, Any], api.request("GET", "/v1/explain", query=query).document)


def _live(options: argparse.Namespace) -> int:
    what = options.what
    query = {"request_id": what[0]}
    if what[0] in FLOWS:
        asked = _asked(options)
        query = {"protocol": asked.protocol, "from": asked.client, "to": asked.to}
    elif len(what) != 1 or "://" in what[0]:
        raise ExplainError("--live: give tcp or udp with CLIENT:PORT VIP:PORT, or the id of a request")
    api = connect(options.api, options.token, options.state, ca=options.ca)
    found = cast(dict[str, Any], api.request("GET", "/v1/explain/live", query=query).document)
    print(json.dumps(found, ensure_ascii=False) if options.json else render_live(found))
    return 0 if any(found[part] for part in ("sessions", "connections", "requests")) else 1


def render(found: Mapping[str, Any]) -> str:
    """The steps, numbered, each with the object that decides; then what comes of it."""
    lines: list[str] = []
    if found.get("version"):
        lines.append(f"by version {found['version']}")
    for number, step in enumerate(found["steps"], 1):
        where = ""
        if "kind" in step:
            name = f"{step['kind']}/{step['name']}{'.' + step['field'] if step['field'] else ''}"
            where = f"  [{step['file']}:{step['line']} {name}]" if step.get("line") else f"  [{name}]"
        lines.append(f"{number:2}. {step['what']}: {step['text']}{where}")
        lines += [f"      {note}" for note in step["notes"]]
    return "\n".join([*lines, f"→  {_end(found)}"])


def _end(found: Mapping[str, Any]) -> str:
    outcome = found["outcome"]
    if outcome == "forwarded":
        candidates = found.get("candidates") or []
        return f"to {found.get('server') or 'one of ' + ', '.join(candidates[:8]) if candidates else 'a server'}"
    if outcome == "redirected":
        return f"{found['status']}, to {found['location']}"
    if outcome == "answered":
        return f"answered with {found['status']}"
    if outcome == "refused":
        return f"refused: {found.get('status') or 'the handshake fails'} {found.get('error', '')}".rstrip()
    return {"dropped": f"dropped: {found.get('reason')}", "kernel": "nobody of ours answers"}[outcome]


def render_live(found: Mapping[str, Any]) -> str:
    """What each node said."""
    lines = [_session(row) for row in found["sessions"]]
    lines += [line for row in found["connections"] for line in _connection(row)]
    lines += [line for row in found["requests"] for line in _request(row)]
    if not lines:
        lines.append(f"none of the {found['asked']} nodes that were asked knows of it")
    lines += [f"{name} does not say: {why}" for name, why in found["silent"].items()]
    return "\n".join(lines)


def _session(row: Mapping[str, Any]) -> str:
    source = f" as {row['source']}" if row.get("source") else ""
    first = "learnt from a peer" if row["synced"] else "its own"
    return (
        f"{row['node']}: session {row['state']}, {first}: {row['client']} → {row['vip']} → {row['real']}{source}; "
        f"{row['packets']} packets, {row['bytes']} bytes, last {row['idle_s']} s ago"
    )


def _connection(row: Mapping[str, Any]) -> Iterable[str]:
    yield (
        f"{row['node']}: worker {row['worker']}, listener {row['listener']}: {row['activity']} for a connection of "
        f"{row['age_s']} s, {row['requests']} requests so far{', ' + row['tls'] if row['tls'] else ''}"
    )
    if row["method"]:
        yield (
            f"   {row['method']} {row['host']}{row['path']} ({row['request_id']}): rule {row['rule'] or '-'}, service "
            f"{row['service'] or '-'}, server {row['server'] or '-'}; {row['stage']}; {row['bytes_in']} bytes in, "
            f"{row['bytes_out']} out, {row['busy_s']} s"
        )


def _request(row: Mapping[str, Any]) -> Iterable[str]:
    if "line" in row:
        yield f"{row['node']}: {row['line']}"
        return
    asked = f"{row.get('method')} {row.get('host')}{row.get('path')}"
    yield f"{row['node']}: {row.get('time')} {asked}: {row.get('status')}"
    wanted = ("client", "rule", "service", "upstream", "upstream_ms", "duration_ms", "bytes_in", "bytes_out")
    yield "   " + ", ".join(f"{name} {row[name]}" for name in wanted if row.get(name) not in (None, ""))
    if row.get("error_code"):
        yield f"   {row['error_source']}: {row['error_code']}: {row.get('error_detail', '')}"
