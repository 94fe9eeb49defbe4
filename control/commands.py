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
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

from control import keyfiles, prepare, show, waiting
from control.changes import change_document
from control.client import Answer, Api, ApiError, connect
from control.references import unused
from core.config import from_dict, to_dict, to_toml
from core.errors import ConfigErrors
from core.model import Kind, Model
from core.plan import plan
from core.reader import did_you_mean

WATCH_S = 1.0
ERROR_FIELDS = ("path", "line", "object_path", "why", "suggestion")
WEIGHED = (Kind.SERVER_GROUPS.value, Kind.AVAILABILITY_GROUPS.value, Kind.RULES.value)
HISTORY_MOST = 1000  # versions are kept
KNOWN_SHOWN = 8
_SERVER_WEIGHT = "ADDRESS:PORT=WEIGHT, such as 10.0.0.9:80=0"


def check(options: argparse.Namespace) -> int:
    """Validate a file without a control plane: what `up` would refuse or not serve, where it can be known."""
    try:
        document = prepare.read(*options.files)
        prepared = _checked(document)
    except ConfigErrors as errors:
        if options.json:
            listed = [{field: getattr(error, field) for field in ERROR_FIELDS} for error in errors.errors]
            print(json.dumps({"valid": False, "errors": listed}))
        else:
            print(errors, file=sys.stderr)
        return 1
    model = prepared.model
    counts = {kind.value: len(model.of(kind)) for kind in Kind if model.of(kind)}
    warnings = [
        document.error(kind, name, "", "nobody names it, so that it does nothing", "refer to it, or remove it")
        for kind, name in unused(document.model)
    ] + list(prepared.notes)
    if options.json:
        listed = [{field: getattr(warning, field) for field in ERROR_FIELDS} for warning in warnings]
        print(json.dumps({"valid": True, "objects": counts, "warnings": listed}))
    else:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        print(f"{', '.join(map(str, options.files))}: valid; {told or 'empty'}")
    return 0


def _checked(document: prepare.Document) -> prepare.Prepared:
    """What the files hold, if every chain and every key that is here may be served now. Raises ConfigErrors."""
    prepared = prepare.inline(document)
    away = keyfiles.elsewhere(prepared.keys)
    for name, path in away.items():
        note = f"{path} is not readable here: `paifang up` needs it, a cluster's key server has it itself"
        print(document.error(Kind.CERTIFICATES, name, "key_file", note), file=sys.stderr)
    errors = [*prepared.warnings, *keyfiles.errors(document, prepared, without=away)]
    if errors:
        raise ConfigErrors(errors)
    return prepared


def apply(options: argparse.Namespace) -> int:
    """Make the files the configuration."""
    prepared = _for_the_cluster(options)
    for name, path in prepared.keys.items():
        text = f"certificates.{name}.key_file is not sent; the key server has to hold {path}"
        print(f"paifang: {text} (paifang keyserver --keys {path})", file=sys.stderr)
    api = _api(options)
    before = api.request("GET", "/v1/config")
    answer = api.request(
        "PUT", "/v1/config", to_dict(prepared.model), query=_changing(options), if_version=before.version
    )
    return _finish(api, answer, options)


def diff(options: argparse.Namespace) -> int:
    """Print what applying the files would change: 0 if nothing, 1 if something; 2 where it cannot tell, as diff(1)."""
    try:
        prepared = _for_the_cluster(options)
        running = from_dict(_api(options).request("GET", "/v1/config").document, path="the control plane")
    except ConfigErrors as errors:
        print(errors, file=sys.stderr)
        return 2
    except ApiError as error:
        print(f"paifang: {error}", file=sys.stderr)
        return 2
    changes = [change_document(change) for change in plan(running, prepared.model)]
    print(json.dumps({"changes": changes}, ensure_ascii=False) if options.json else show.plan(changes))
    return 1 if changes else 0


def _for_the_cluster(options: argparse.Namespace) -> prepare.Prepared:
    """The files as the control plane may have them; says what is wrong for now. Raises ConfigErrors."""
    document = prepare.read(*options.files)
    if document.acme is not None:
        why, remedy = "is for `paifang up` alone", "remove it; `paifang keyserver acme` has options for it"
        raise ConfigErrors([document.acme_error("", why, remedy)])
    prepared = prepare.inline(document)
    for warning in (*prepared.warnings, *prepared.notes):
        print(f"warning: {warning}", file=sys.stderr)
    return prepared


def get(options: argparse.Namespace) -> int:
    """Print the configuration, one kind, or one object."""
    api = _api(options)
    model = from_dict(api.request("GET", "/v1/config").document, path="the control plane")
    if options.kind is not None:
        kind = Kind(options.kind)
        objects = model.of(kind)
        if options.name and options.name not in objects:
            known = f"there are {', '.join([*objects][:KNOWN_SHOWN])}" if objects else f"there are no {kind.value}"
            raise ApiError(f"there is no {kind.value}/{options.name}; {did_you_mean(options.name, objects) or known}")
        wanted = {options.name: objects[options.name]} if options.name else objects
        model = Model(**{kind.value: wanted})  # type: ignore[arg-type]
    filters = {"tag": options.tag, "refers_to": options.refers_to}
    model = _filtered(api, model, {name: values for name, values in filters.items() if values})
    if options.output == "toml":
        print(to_toml(model), end="")
        return 0
    document = to_dict(model)
    if options.output == "json":
        tables = document.get(options.kind, [])
        chosen: object = document if options.kind is None else tables[0] if options.name and tables else tables
        print(json.dumps(chosen, indent=2, ensure_ascii=False))
    else:
        parts = [f"{kind}\n{show.objects(tables)}" for kind, tables in document.items()]
        none = f"no {options.kind} are configured" if options.kind else "nothing is configured"
        chosen_by = " like that" if options.tag or options.refers_to else ""
        print("\n\n".join(parts) or none + chosen_by)
    return 0


def _filtered(api: Api, model: Model, filters: Mapping[str, Sequence[str]]) -> Model:
    """The objects of `model` that the control plane finds by these filters."""
    if not filters:
        return model
    kept: dict[str, Mapping[str, object]] = {}
    for kind in [kind for kind in Kind if model.of(kind)] or [Kind.INSTANCES]:  # one at least: filters may be wrong
        found = cast(list[dict[str, str]], api.request("GET", f"/v1/{kind.value}", query=filters).document)
        names = {each["name"] for each in found}
        kept[kind.value] = {name: item for name, item in model.of(kind).items() if name in names}
    return Model(**kept)  # type: ignore[arg-type]


def export(options: argparse.Namespace) -> int:
    """Print the configuration as TOML, the current one or an old one."""
    path = "/v1/config" if options.version is None else f"/v1/versions/{options.version}"
    document = cast(dict[str, Any], _api(options).request("GET", path).document)
    content = document if options.version is None else document["config"]
    print(to_toml(from_dict(content, path="the control plane")), end="")
    return 0


def delete(options: argparse.Namespace) -> int:
    """Delete one object that nothing refers to."""
    api = _api(options)
    answer = api.request("DELETE", f"/v1/{options.kind}/{quote(options.name, safe='')}", query=_changing(options))
    return _finish(api, answer, options)


def weigh(options: argparse.Namespace) -> int:
    """Set the weights of some servers of a group, or of parts of a rule's split."""
    of_rule = options.kind == Kind.RULES.value
    if any(("backend_service" in each) is not of_rule for each in options.weights):
        raise ApiError(f"{options.kind}: give {'SERVICE=WEIGHT, such as v2=10' if of_rule else _SERVER_WEIGHT}")
    api = _api(options)
    path = f"/v1/{options.kind}/{quote(options.name, safe='')}/weights"
    body = {"split" if of_rule else "servers": options.weights}
    return _finish(api, api.request("POST", path, body, query=_changing(options)), options)


def status(options: argparse.Namespace) -> int:
    """Print what the nodes run; exit code 1 unless all are in step."""
    api = _api(options)
    while True:
        document = cast(dict[str, Any], api.request("GET", "/v1/status").document)
        text = json.dumps(document) if options.json else show.status(document)
        if not options.watch:
            print(text)
            in_step = (node["step"] == "in step" or node["member"] == "revoked" for node in document["nodes"])
            return 0 if all(in_step) else 1
        clear = "\x1b[H\x1b[2J" if _has_screen() and not options.json else ""
        print(f"{clear}{text}", flush=True)
        time.sleep(WATCH_S)


def _has_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def history(options: argparse.Namespace) -> int:
    """Print the versions, one of them with what it changed, or what lies between two."""
    api = _api(options)
    if options.version is None:
        query = {"limit": str(options.limit)}
        document = cast(dict[str, Any], api.request("GET", "/v1/versions", query=query).document)
        when = [_time(entry["created"]) for entry in document["versions"]]
        print(json.dumps(document) if options.json else show.history(document["versions"], when))
        return 0
    start, end = options.version
    if start is not None:
        query = {"from": str(start), "to": str(end)}
        found = cast(dict[str, Any], api.request("GET", "/v1/diff", query=query).document)
        print(json.dumps(found) if options.json else show.plan(found["changes"]))
        return 0
    entry = cast(dict[str, Any], api.request("GET", f"/v1/versions/{end}").document)
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
    wanted = {"version": options.version}
    answer = api.request("POST", "/v1/rollback", wanted, query=_changing(options), if_version=before.version)
    return _finish(api, answer, options)


def _api(options: argparse.Namespace) -> Api:
    return connect(options.api, options.token, options.state, ca=options.ca)


def _changing(options: argparse.Namespace) -> dict[str, str]:
    """The parameters of a change."""
    query = {"comment": options.comment} if options.comment else {}
    return query | ({"dry_run": "1"} if options.dry_run else {})


def _finish(api: Api, answer: Answer, options: argparse.Namespace) -> int:
    """Print what a change did, and wait for the nodes if that is wanted."""
    document = cast(Mapping[str, Any], answer.document)
    print(show.plan(document["changes"]))
    print(f"version {document['version']}{' stays: this was a dry run' if options.dry_run else ''}", flush=True)
    if options.wait and not options.dry_run:
        return 0 if waiting.wait(api, document["version"], options.timeout) else 1
    return 0


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
