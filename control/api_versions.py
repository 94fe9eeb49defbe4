"""The versions of the configuration: who changed what, and when; what lies between any two."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from aiohttp import web

from control.changes import change_document
from control.handling import LINK, PLANE, VERSION_LIMIT, linked
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, asked, flag, number
from control.store import NoSuchVersionError, Store
from core.config import to_dict
from core.fields import Range
from core.model import Model
from core.plan import plan

HISTORY_DEFAULT, HISTORY_LIMIT = 50, 1000
CHANGES_LIMIT = 100  # versions that are read whole for one answer

Version = Annotated[int, Range(0, VERSION_LIMIT)]


async def get_versions(request: web.Request) -> web.Response:
    store, limit, before = request.app[PLANE].store, number(request, "limit"), asked(request)["before"]
    with_changes = flag(request, "changes")
    if with_changes and limit > CHANGES_LIMIT:
        raise web.HTTPBadRequest(text=f"with changes, limit is at most {CHANGES_LIMIT}")
    entries = await store.history(limit + 1, before if isinstance(before, int) else None)
    page = entries[:limit]
    listed = [dataclasses.asdict(entry) for entry in page]
    if with_changes:
        told = await _changes_of(store, [entry.version for entry in page])
        listed = [{**entry, "changes": changes} for entry, changes in zip(listed, told, strict=True)]
    response = web.json_response({"versions": listed})
    return linked(request, response, {"before": str(page[-1].version)} if page and len(entries) > limit else None)


async def _changes_of(store: Store, versions: list[int]) -> list[object]:
    """What each version changed, newest first; None where the one before is forgotten."""
    told: list[object] = []
    model: Model | None = None
    for version in versions:
        after = model if model is not None else (await store.get(version))[1]
        model = await _before(store, version)
        told.append(None if model is None else [change_document(each) for each in plan(model, after)])
    return told


async def _before(store: Store, version: int) -> Model | None:
    """The content of the version before; None if it is forgotten."""
    try:
        return (await store.get(version - 1))[1] if version else Model()
    except NoSuchVersionError:
        return None


async def get_version(request: web.Request) -> web.Response:
    """A version with its content and what it changed; its predecessor may be forgotten, then `changes` is null."""
    store, version = request.app[PLANE].store, number(request, "version")
    entry, model = await store.get(version)
    before = await _before(store, version)
    changes = None if before is None else [change_document(each) for each in plan(before, model)]
    return web.json_response({**dataclasses.asdict(entry), "config": to_dict(model), "changes": changes})


async def get_diff(request: web.Request) -> web.Response:
    """What leads from one version to another, in either direction."""
    plane = request.app[PLANE]
    start, end = asked(request)["from"], asked(request)["to"]
    start = max(plane.current.version - 1, 0) if start is None else start
    end = plane.current.version if end is None else end
    assert isinstance(start, int)
    assert isinstance(end, int)
    (_, before), (_, after) = await plane.store.get(start), await plane.store.get(end)
    changes = [change_document(each) for each in plan(before, after)]
    return web.json_response({"from": start, "to": end, "changes": changes})


LIMIT = Parameter("limit", Annotated[int, Range(1, HISTORY_LIMIT)], "how many", HISTORY_DEFAULT)
BEFORE = Parameter("before", Version, "those before this version")
CHANGES = Parameter("changes", bool, "what each changed, too", False)
FROM = Parameter("from", Version, "the version to start from; by default the one before the current")
TO = Parameter("to", Version, "the version to end at; by default the current one")
ROUTES = (
    Route(
        "GET", "/v1/versions", get_versions, ApiRole.READ, "Who changed what when, newest first",
        (LIMIT, BEFORE, CHANGES), answers={200: Answer("the versions", Schema({"$ref": "Versions"}), (LINK,))},
        tag="versions",
    ),
    Route(
        "GET", "/v1/versions/{version}", get_version, ApiRole.READ, "A version, and what it changed", tag="versions",
        answers={200: Answer("the version; `changes` is null where the one before is forgotten",
                             Schema({"$ref": "Version"}))},
        parts=(Parameter("version", Version, "its number"),), problems=(404,),
    ),
    Route(
        "GET", "/v1/diff", get_diff, ApiRole.READ, "What lies between two versions", (FROM, TO), tag="versions",
        answers={200: Answer("the changes", Schema({"$ref": "Diff"}))}, problems=(404,),
    ),
)  # fmt: skip
