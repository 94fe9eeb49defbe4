"""The versions of the configuration: who changed what, and when."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Annotated

from aiohttp import web

from control.handling import PLANE, VERSION_LIMIT, change_document
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, number
from control.store import NoSuchVersionError
from core.config import to_dict
from core.fields import Range
from core.model import Model
from core.plan import plan

HISTORY_DEFAULT, HISTORY_LIMIT = 50, 1000

Version = Annotated[int, Range(0, VERSION_LIMIT)]


async def get_versions(request: web.Request) -> web.Response:
    entries = await request.app[PLANE].store.history(number(request, "limit"))
    return web.json_response({"versions": [dataclasses.asdict(entry) for entry in entries]})


async def get_version(request: web.Request) -> web.Response:
    """A version with its content and what it changed; its predecessor may be forgotten, then `changes` is null."""
    store, version = request.app[PLANE].store, number(request, "version")
    entry, model = await store.get(version)
    changes = None
    with suppress(NoSuchVersionError):
        _, before = await store.get(version - 1) if version else (None, Model())
        changes = [change_document(each) for each in plan(before, model)]
    return web.json_response({**dataclasses.asdict(entry), "config": to_dict(model), "changes": changes})


LIMIT = Parameter("limit", Annotated[int, Range(0, HISTORY_LIMIT)], "how many", HISTORY_DEFAULT)
ROUTES = (
    Route(
        "GET", "/v1/versions", get_versions, ApiRole.READ, "Who changed what when, newest first", (LIMIT,),
        answers={200: Answer("the versions", Schema({"$ref": "Versions"}))}, tag="versions",
    ),
    Route(
        "GET", "/v1/versions/{version}", get_version, ApiRole.READ, "A version, and what it changed", tag="versions",
        answers={200: Answer("the version; `changes` is null where the one before is forgotten",
                             Schema({"$ref": "Version"}))},
        parts=(Parameter("version", Version, "its number"),), problems=(404,),
    ),
)  # fmt: skip
