"""The users' REST API, `/v1`: thin handlers between HTTP and `control.service`.

Reads carry the version as a strong ETag; a write with `If-Match` is refused with 412 if another change has come in
between. Every write is validated against the whole configuration and answers with its plan, `?dry_run=1` with the plan
alone. All but /v1/healthz needs `Authorization: Bearer TOKEN`. Errors are problem documents (`control.problem`).
The request log has method, path and user, never a query, header or body.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime

from aiohttp import web

from certs import inventory
from certs.chain import inspect
from control import exporter
from control.material import chain_errors, key_errors, path_errors
from control.node import metrics
from control.problem import problem
from control.reconcile import NodeStatus
from control.references import referrers
from control.service import ControlPlane
from control.store import Entry, NoSuchVersionError, VersionConflictError
from core.config import from_dict, to_dict
from core.errors import ConfigErrors
from core.model import Kind, Model
from core.plan import Change, plan

log = logging.getLogger(__name__)

BODY_LIMIT_BYTES = 1 << 24
COMMENT_LIMIT = 500
HISTORY_DEFAULT, HISTORY_LIMIT = 50, 1000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PLANE = web.AppKey("plane", ControlPlane)
USER: ContextVar[str] = ContextVar("user")  # who makes the request that this task serves


def application(plane: ControlPlane) -> web.Application:
    """The API as an aiohttp application."""
    app = web.Application(middlewares=[logged, explained, authorised], client_max_size=BODY_LIMIT_BYTES)
    app[PLANE] = plane
    app.add_routes(
        [
            web.get("/v1/healthz", healthz),
            web.get("/v1/config", get_config),
            web.put("/v1/config", put_config),
            web.get("/v1/versions", get_versions),
            web.get(r"/v1/versions/{version:\d{1,18}}", get_version),
            web.get("/v1/status", get_status),
            web.get("/v1/inventory", get_inventory),
            web.post("/v1/issuance", post_issuance),
            web.get("/v1/metrics", get_metrics),
            web.get("/v1/{kind}", get_kind),
            web.get("/v1/{kind}/{name}", get_object),
            web.put("/v1/{kind}/{name}", put_object),
            web.delete("/v1/{kind}/{name}", delete_object),
        ]
    )
    return app


# --- middlewares, outermost first


@web.middleware
async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
    """One line a request, after it."""
    USER.set("-")  # a connection's requests share their task
    started = time.monotonic()
    response = await handler(request)
    elapsed_ms = (time.monotonic() - started) * 1000
    log.info("%s %s %s %d %.1f ms", USER.get(), request.method, request.path, response.status, elapsed_ms)
    return response


@web.middleware
async def explained(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as problem documents; the only place that knows which error is which status."""
    try:
        return await handler(request)
    except ConfigErrors as error:
        return problem(422, f"{len(error.errors)} error(s); nothing was changed", error.errors)
    except VersionConflictError as error:
        return problem(412, f"{error}; read it again and repeat your change", current_version=error.current)
    except NoSuchVersionError as error:
        return problem(404, str(error))
    except web.HTTPRequestEntityTooLarge:
        return problem(413, f"a request may have {BODY_LIMIT_BYTES} bytes")
    except web.HTTPException as error:
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return problem(error.status, error.text or error.reason, headers=headers)
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return problem(500, "the control plane's log says more")


@web.middleware
async def authorised(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Who asks; 401 for whom we do not know."""
    if request.path == "/v1/healthz":
        return await handler(request)
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    name = None
    if scheme.lower() == "bearer" and token:
        name = await asyncio.to_thread(request.app[PLANE].store.token_name, token.strip())
    if name is None:
        return problem(401, "give a token: Authorization: Bearer …", headers={"WWW-Authenticate": "Bearer"})
    USER.set(name)
    return await handler(request)


# --- handlers


async def healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok", "version": request.app[PLANE].current.version})


async def get_config(request: web.Request) -> web.Response:
    current = request.app[PLANE].current
    return _versioned(current.version, current.document)


async def put_config(request: web.Request) -> web.Response:
    model = _checked(await _json(request))
    return await _change(request, lambda _: model)


async def get_versions(request: web.Request) -> web.Response:
    limit = _number(request.query.get("limit", str(HISTORY_DEFAULT)), "limit", HISTORY_LIMIT)
    entries = await asyncio.to_thread(request.app[PLANE].store.history, limit)
    return web.json_response({"versions": [dataclasses.asdict(entry) for entry in entries]})


async def get_version(request: web.Request) -> web.Response:
    """A version with its content and what it changed; its predecessor may be forgotten, then `changes` is null."""
    store, version = request.app[PLANE].store, int(request.match_info["version"])

    def read() -> tuple[Entry, Model, Model | None]:
        entry, model = store.get(version)
        try:
            return entry, model, store.get(version - 1)[1] if version else Model()
        except NoSuchVersionError:
            return entry, model, None

    entry, model, before = await asyncio.to_thread(read)
    changes = None if before is None else [change_document(change) for change in plan(before, model)]
    return web.json_response({**dataclasses.asdict(entry), "config": to_dict(model), "changes": changes})


async def get_status(request: web.Request) -> web.Response:
    plane = request.app[PLANE]
    nodes = [status_document(status) for status in plane.status()]
    ending = await asyncio.to_thread(inventory.warnings, plane.current.model, datetime.now(UTC))
    warnings = [*ending.values(), *_not_got(plane)]
    return web.json_response({"version": plane.current.version, "nodes": nodes, "warnings": warnings})


def _not_got(plane: ControlPlane) -> list[str]:
    """What the issuer of certificates could not get, and why."""
    texts = {name: told.get("text") for name, told in plane.issuance.items() if isinstance(told, dict)}
    return [f"certificate {name!r}: {text}" for name, text in texts.items() if str(text).startswith("failed: ")]


async def get_inventory(request: web.Request) -> web.Response:
    """Every certificate: what stands in it, who uses it, and what keeps it from being served, here or on a node."""
    plane = request.app[PLANE]
    current, issuance = plane.current, plane.issuance
    reported = inventory.reported([status.facts for status in plane.status()])

    def look(now: datetime) -> list[Mapping[str, object]]:
        found: list[Mapping[str, object]] = []
        for entry in inventory.entries(current.model, now):
            chain = current.model.certificates[entry.name].chain
            problems = inspect(chain, now).problems if chain else ("there is no chain yet",)
            document = inventory.document(entry, (*problems, *reported.get(entry.name, ())))
            found.append({**document, "issuance": issuance.get(entry.name)})
        return found

    return _versioned(current.version, {"certificates": await asyncio.to_thread(look, datetime.now(UTC))})


async def post_issuance(request: web.Request) -> web.Response:
    """What the issuer of certificates says of them; 409 while another is at work: two would use up the CA's limits."""
    body = await _json(request)
    issuer = body.get("issuer") if isinstance(body, dict) else None
    told = body.get("certificates") if isinstance(body, dict) else None
    if not isinstance(issuer, str) or not issuer or not isinstance(told, dict):
        raise web.HTTPBadRequest(text='give {"issuer": "NAME", "certificates": {"NAME": {}}}')
    plane = request.app[PLANE]
    kept = {name: each for name, each in told.items() if name in plane.current.model.certificates}
    if other := plane.issuing(issuer, kept):
        raise web.HTTPConflict(text=f"the issuer {other!r} is at work; one in a cluster is enough")
    return web.Response(status=204)


async def get_metrics(request: web.Request) -> web.Response:
    """Prometheus' text; its scraper gives the token as any other client."""
    plane = request.app[PLANE]
    certificates = await asyncio.to_thread(inventory.entries, plane.current.model, datetime.now(UTC))
    told = exporter.families(plane.current.version, plane.status(), certificates)
    return web.Response(body=b"".join(metrics.render(told)), headers={"Content-Type": metrics.CONTENT_TYPE})


async def get_kind(request: web.Request) -> web.Response:
    current, kind = request.app[PLANE].current, _kind(request)
    return _versioned(current.version, current.document.get(kind.value, []))


async def get_object(request: web.Request) -> web.Response:
    current, kind, name = request.app[PLANE].current, _kind(request), request.match_info["name"]
    for table in current.document.get(kind.value, []):
        if table["name"] == name:
            return _versioned(current.version, table)
    raise _missing(kind, name)


async def put_object(request: web.Request) -> web.Response:
    """Create or replace one object. The body is the object; its name, if given, is that of the path."""
    kind, name, body = _kind(request), request.match_info["name"], await _json(request)
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is one object")
    if body.setdefault("name", name) != name:
        raise web.HTTPBadRequest(text=f"the body's name is not {name!r}, the one of the path")

    def make(model: Model) -> Model:
        document = to_dict(model)
        tables = document.setdefault(kind.value, [])
        places = [index for index, table in enumerate(tables) if table["name"] == name]
        tables[places[0] if places else len(tables) :] = [body, *(tables[places[0] + 1 :] if places else ())]
        return _checked(document)

    return await _change(request, make)


async def delete_object(request: web.Request) -> web.Response:
    kind, name = _kind(request), request.match_info["name"]

    def make(model: Model) -> Model:
        if name not in model.of(kind):
            raise _missing(kind, name)
        users = referrers(model, kind, name)
        if users:
            listed = ", ".join(f"{user_kind.value}/{user}" for user_kind, user in users)
            raise web.HTTPConflict(text=f"{kind.value}/{name} is in use by {listed}; change or delete these first")
        document = to_dict(model)
        document[kind.value] = [table for table in document[kind.value] if table["name"] != name]
        return from_dict(document)

    return await _change(request, make)


# --- documents


def change_document(change: Change) -> dict[str, object]:
    """A change as JSON; `old` and `new` are objects as they are written in a configuration."""
    return {
        "op": change.op.value,
        "kind": change.kind.value,
        "name": change.name,
        "old": _object_document(change, change.old),
        "new": _object_document(change, change.new),
    }


def _object_document(change: Change, item: object) -> dict[str, object] | None:
    if item is None:
        return None
    return to_dict(Model(**{change.kind.value: {change.name: item}}))[change.kind.value][0]  # type: ignore[arg-type]


def status_document(status: NodeStatus) -> dict[str, object]:
    """A node's status as JSON."""
    return {**dataclasses.asdict(status), "step": status.step.value}


# --- requests


async def _change(request: web.Request, make: Callable[[Model], Model]) -> web.Response:
    dry_run = request.query.get("dry_run", "0") not in ("0", "", "false")
    version, changes = await request.app[PLANE].change(
        make,
        author=USER.get(),
        comment=request.query.get("comment", "")[:COMMENT_LIMIT],
        expected=_expected(request),
        dry_run=dry_run,
    )
    document = {"version": version, "dry_run": dry_run, "changes": [change_document(change) for change in changes]}
    return _versioned(version, document)


def _checked(document: object) -> Model:
    """The model of a request's document, free of keys and of paths, its chains readable."""
    errors = key_errors(document)
    if errors:
        raise ConfigErrors(errors)
    model = from_dict(document)
    errors = path_errors(model) + chain_errors(model)
    if errors:
        raise ConfigErrors(errors)
    return model


async def _json(request: web.Request) -> object:
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body is not JSON") from None


def _expected(request: web.Request) -> int | None:
    """The version of `If-Match`; None where any will do."""
    value = request.headers.get("If-Match", "*").strip()
    if value == "*":
        return None
    digits = value[1:-1]
    if not (value.startswith('"') and value.endswith('"') and digits.isascii() and digits.isdigit()):
        raise web.HTTPBadRequest(text='If-Match is the ETag of an answer, such as "7", or *')
    return _number(digits, "If-Match", 1 << 62)


def _number(text: str, what: str, limit: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= limit):
        raise web.HTTPBadRequest(text=f"{what} is a number from 0 to {limit}")
    return int(text)


def _kind(request: web.Request) -> Kind:
    try:
        return Kind(request.match_info["kind"])
    except ValueError:
        raise web.HTTPNotFound(text=f"no such kind; there are {', '.join(Kind)}") from None


def _missing(kind: Kind, name: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=f"there is no {kind.value}/{name}")


def _versioned(version: int, document: object) -> web.Response:
    return web.json_response(document, headers={"ETag": f'"{version}"', "Cache-Control": "no-store"})
