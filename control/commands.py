"""The subcommands of `paifang` that read files and talk to the control plane's API.

Each takes the parsed options and returns the exit code: 0 done, 1 refused or failed, 2 wrong usage. What is asked for
goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, cast

from control import keyfiles, prepare, show
from control.client import Answer, Api, ApiError, connect
from core.config import from_dict, to_dict, to_toml
from core.errors import ConfigErrors
from core.model import Kind, Model
from core.reader import did_you_mean

WATCH_S = 1.0
KNOWN_SHOWN = 8


def check(options: argparse.Namespace) -> int:
    """Validate a file without a control plane: what `up` would refuse or not serve, where it can be known."""
    try:
        model = _checked(prepare.read(options.file))
    except ConfigErrors as errors:
        if options.json:
            fields = ("path", "line", "object_path", "why", "suggestion")
            listed = [{field: getattr(error, field) for field in fields} for error in errors.errors]
            print(json.dumps({"valid": False, "errors": listed}))
        else:
            print(errors, file=sys.stderr)
        return 1
    counts = {kind.value: len(model.of(kind)) for kind in Kind if model.of(kind)}
    if options.json:
        print(json.dumps({"valid": True, "objects": counts}))
    else:
        print(f"{options.file}: valid; {', '.join(f'{count} {kind}' for kind, count in counts.items()) or 'empty'}")
    return 0


def _checked(document: prepare.Document) -> Model:
    """The model, if every chain and every key that is here may be served now. Raises ConfigErrors."""
    prepared = prepare.inline(document)
    away = keyfiles.elsewhere(prepared.keys)
    for name, path in away.items():
        note = f"{path} is not readable here: `paifang up` needs it, a cluster's key server has it itself"
        print(document.error(Kind.CERTIFICATES, name, "key_file", note), file=sys.stderr)
    errors = [*prepared.warnings, *keyfiles.errors(document, prepared, without=away)]
    if errors:
        raise ConfigErrors(errors)
    return prepared.model


def apply(options: argparse.Namespace) -> int:
    """Make the file the configuration."""
    document = prepare.read(options.file)
    if document.acme is not None:
        why, remedy = "is for `paifang up` alone", "remove it; `paifang keyserver acme` has options for it"
        raise ConfigErrors([document.acme_error("", why, remedy)])
    prepared = prepare.inline(document)
    for warning in prepared.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for name, path in prepared.keys.items():
        text = f"certificates.{name}.key_file is not sent; the key server has to hold {path}"
        print(f"paifang: {text} (paifang keyserver --keys {path})", file=sys.stderr)
    api = _api(options)
    before = api.request("GET", "/v1/config")
    answer = _put_config(api, to_dict(prepared.model), before.version, options)
    return _print_change(answer, options.dry_run)


def get(options: argparse.Namespace) -> int:
    """Print the configuration, one kind, or one object."""
    model = from_dict(_api(options).request("GET", "/v1/config").document, path="the control plane")
    if options.kind is not None:
        kind = Kind(options.kind)
        objects = model.of(kind)
        if options.name and options.name not in objects:
            known = f"there are {', '.join([*objects][:KNOWN_SHOWN])}" if objects else f"there are no {kind.value}"
            raise ApiError(f"there is no {kind.value}/{options.name}; {did_you_mean(options.name, objects) or known}")
        wanted = {options.name: objects[options.name]} if options.name else objects
        model = Model(**{kind.value: wanted})  # type: ignore[arg-type]
    if options.output == "toml":
        print(to_toml(model), end="")
        return 0
    document = to_dict(model)
    if options.output == "json":
        tables = document.get(options.kind, [])
        chosen: object = document if options.kind is None else tables[0] if options.name else tables
        print(json.dumps(chosen, indent=2, ensure_ascii=False))
    else:
        parts = [f"{kind}\n{show.objects(tables)}" for kind, tables in document.items()]
        none = f"no {options.kind} are configured" if options.kind else "nothing is configured"
        print("\n\n".join(parts) or none)
    return 0


def delete(options: argparse.Namespace) -> int:
    """Delete one object that nothing refers to."""
    query = {"dry_run": "1"} if options.dry_run else None
    answer = _api(options).request("DELETE", f"/v1/{options.kind}/{options.name}", query=query)
    return _print_change(answer, options.dry_run)


def status(options: argparse.Namespace) -> int:
    """Print what the nodes run; exit code 1 unless all are in step."""
    api = _api(options)
    while True:
        document = cast(dict[str, Any], api.request("GET", "/v1/status").document)
        text = json.dumps(document) if options.json else show.status(document)
        if not options.watch:
            print(text)
            return 0 if all(node["step"] == "in step" for node in document["nodes"]) else 1
        clear = "\x1b[H\x1b[2J" if _has_screen() and not options.json else ""
        print(f"{clear}{text}", flush=True)
        time.sleep(WATCH_S)


def _has_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def history(options: argparse.Namespace) -> int:
    """Print the versions, or one of them with what it changed."""
    api = _api(options)
    if options.version is None:
        document = cast(
            dict[str, Any], api.request("GET", "/v1/versions", query={"limit": str(options.limit)}).document
        )
        when = [_time(entry["created"]) for entry in document["versions"]]
        print(json.dumps(document) if options.json else show.history(document["versions"], when))
        return 0
    entry = cast(dict[str, Any], api.request("GET", f"/v1/versions/{options.version}").document)
    if options.json:
        print(json.dumps(entry))
        return 0
    print(f"version {entry['version']}, {_time(entry['created'])}, by {entry['author']}: {entry['comment']}")
    print(show.plan(entry["changes"]) if entry["changes"] is not None else "its predecessor is no longer kept")
    return 0


def rollback(options: argparse.Namespace) -> int:
    """Make the content of an old version the configuration again, as a new version."""
    api = _api(options)
    before = api.request("GET", "/v1/config")
    old = cast(dict[str, Any], api.request("GET", f"/v1/versions/{options.version}").document)
    options.comment = options.comment or f"back to version {options.version}"
    return _print_change(_put_config(api, old["config"], before.version, options), options.dry_run)


def _api(options: argparse.Namespace) -> Api:
    return connect(options.api, options.token, options.state)


def _put_config(api: Api, document: object, version: int, options: argparse.Namespace) -> Answer:
    query = {"comment": options.comment} if options.comment else {}
    if options.dry_run:
        query["dry_run"] = "1"
    return api.request("PUT", "/v1/config", document, query=query, if_version=version)


def _print_change(answer: Answer, dry_run: bool) -> int:
    document = cast(Mapping[str, Any], answer.document)
    print(show.plan(document["changes"]))
    print(f"version {document['version']}{' stays: this was a dry run' if dry_run else ''}")
    return 0


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
