"""The users' REST API, `/v1`: what joins its parts.

Each part has a module with its handlers and `ROUTES`, which declare them as data (`control.routes`). Reads carry a
strong ETag; a write with `If-Match` is refused with 412 if another change has come in between. Every write is
validated against the whole configuration and answers with its plan, `?dry_run=1` with the plan alone.
"""

from __future__ import annotations

import asyncio
from functools import cache

from aiohttp import web

from control import (
    api_audit,
    api_config,
    api_drains,
    api_explain,
    api_members,
    api_metering,
    api_nodes,
    api_objects,
    api_observing,
    api_redirects,
    api_state,
    api_tokens,
    api_versions,
    api_watch,
    api_weights,
)
from control.access import ACCESS, Access
from control.api_watch import WATCH, Watch
from control.console.files import console
from control.gate import audited, bounded, hardened, placed
from control.guard import BODY_LIMIT_BYTES, authorised, explained, logged
from control.handling import PLANE
from control.observing import OBSERVER, Observer
from control.openapi import document
from control.routes import Answer, Route, Schema, add_routes
from control.service import ControlPlane
from core.schema import Json


async def get_openapi(request: web.Request) -> web.Response:
    return web.json_response(openapi())


@cache
def openapi() -> Json:
    """The OpenAPI document of this API."""
    return document(ROUTES)


ROUTES: tuple[Route, ...] = (
    Route(
        "GET", "/v1/openapi.json", get_openapi, None, "This document", tag="state",
        answers={200: Answer("OpenAPI 3.1", Schema({"type": "object"}))},
    ),
    *api_state.ROUTES,
    *api_watch.ROUTES,
    *api_versions.ROUTES,
    *api_tokens.ROUTES,
    *api_audit.ROUTES,
    *api_config.ROUTES,
    *api_metering.ROUTES,
    *api_observing.ROUTES,
    *api_objects.ROUTES,
    *api_redirects.ROUTES,
    *api_weights.ROUTES,
    *api_members.ROUTES,
    *api_nodes.ROUTES,
    *api_drains.ROUTES,
    *api_explain.ROUTES,
)  # fmt: skip
MIDDLEWARES = (logged, audited, explained, bounded, console, authorised, placed)


def application(plane: ControlPlane, access: Access | None = None, observer: Observer | None = None) -> web.Application:
    """The API as an aiohttp application; without `access`, with what the store has and the usual limits. Whoever gives
    an `observer` keeps it."""
    app = web.Application(middlewares=MIDDLEWARES, client_max_size=BODY_LIMIT_BYTES)
    app[PLANE] = plane
    app[WATCH] = Watch(plane)
    app[OBSERVER] = Observer(plane) if observer is None else observer
    app[api_explain.TURNS] = asyncio.Semaphore(api_explain.AT_A_TIME)
    app[ACCESS] = Access.of(plane.store) if access is None else access
    app.on_response_prepare.append(hardened)
    app.on_cleanup.append(_end_tasks)
    if observer is None:
        app.on_cleanup.append(_close_observer)
    add_routes(app, ROUTES)
    return app


async def _close_observer(app: web.Application) -> None:
    await app[OBSERVER].close()


async def _end_tasks(app: web.Application) -> None:
    await app[ACCESS].tasks.close()
