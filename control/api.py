"""The users' REST API, `/v1`: what joins its parts.

Each part has a module with its handlers and `ROUTES`, which declare them as data (`control.routes`). Reads carry a
strong ETag; a write with `If-Match` is refused with 412 if another change has come in between. Every write is
validated against the whole configuration and answers with its plan, `?dry_run=1` with the plan alone.
"""

from __future__ import annotations

from functools import cache

from aiohttp import web

from control import api_config, api_objects, api_state, api_versions, api_watch
from control.api_watch import WATCH, Watch
from control.guard import BODY_LIMIT_BYTES, authorised, explained, logged
from control.handling import PLANE
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
    *api_config.ROUTES,
    *api_objects.ROUTES,
)  # fmt: skip


def application(plane: ControlPlane) -> web.Application:
    """The API as an aiohttp application."""
    app = web.Application(middlewares=[logged, explained, authorised], client_max_size=BODY_LIMIT_BYTES)
    app[PLANE] = plane
    app[WATCH] = Watch(plane)
    add_routes(app, ROUTES)
    return app
