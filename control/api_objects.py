"""The configuration object by object. Each kind has routes of its own, `/v1/listeners/{name}`, since its objects have a
form of their own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import GenericAlias
from typing import Annotated

from aiohttp import web

from control.edit import Edit, MissingError, Op
from control.handling import (
    CHANGED,
    CHANGING,
    CONDITIONS,
    ETAG,
    IF_CHANGED,
    LINK,
    PLANE,
    UNCHANGED,
    after_edits,
    change,
    json_of,
    linked,
    read,
)
from control.preconditions import object_tag
from control.references import references, referrers
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, asked, text, texts
from core.config import to_table
from core.fields import NAME, Kind, Pattern, Range
from core.model import CLASSES, Model, Object

MERGE_PATCH = "application/merge-patch+json"
PAGE_LIMIT = 10_000

_KINDS = "|".join(Kind)
LIMIT = Parameter("limit", Annotated[int, Range(1, PAGE_LIMIT)], "how many at most, in the order of names")
AFTER = Parameter("after", Annotated[str, NAME], "those whose names come behind this one, in the order of names")
TAG = Parameter("tag", str, "those that have this tag: KEY, or KEY=VALUE; several: all of them", many=True)
REFERS_TO = Parameter(
    "refers_to",
    Annotated[str, Pattern(rf"({_KINDS})/{NAME.regex}", "KIND/NAME, such as backend_services/shop")],
    "those that name this object; several: all of them",
    many=True,
)


async def get_kind(kind: Kind, request: web.Request) -> web.Response:
    """In the order of the configuration; with `limit` or `after` a page in the order of names."""
    current = request.app[PLANE].current
    limit, after = asked(request)["limit"], asked(request)["after"]
    found = [item for item in current.model.of(kind).values() if _wanted(kind, item, request)]
    if limit is not None or after is not None:
        found = sorted((item for item in found if item.name > str(after or "")), key=lambda item: item.name)
    page = found[:limit] if isinstance(limit, int) else found
    following = {"after": page[-1].name} if len(page) < len(found) else None
    response = read(request, str(current.version), lambda: [to_table(item) for item in page])
    return linked(request, response, following)


def _wanted(kind: Kind, item: Object, request: web.Request) -> bool:
    tags = {each for key, value in item.tags for each in (key, f"{key}={value}")}
    named = {f"{other.value}/{name}" for other, name in references(kind, item)} if texts(request, "refers_to") else ()
    return set(texts(request, "tag")) <= tags and set(texts(request, "refers_to")) <= set(named)


async def get_object(kind: Kind, request: web.Request) -> web.Response:
    name = text(request, "name")
    item = request.app[PLANE].current.model.of(kind).get(name)
    if item is None:
        raise MissingError(f"there is no {kind.value}/{name}")
    table = to_table(item)
    return read(request, object_tag(table), lambda: table)


async def put_object(op: Op, kind: Kind, request: web.Request) -> web.Response:
    """Create, replace or patch one object. The body's name, if given, is that of the path."""
    name, body = text(request, "name"), await json_of(request)
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is one object")
    if body.get("name", name) != name:
        raise web.HTTPBadRequest(text=f"the body's name is not {name!r}, the one of the path")
    edit = Edit(op, kind, name, body)
    return await change(request, lambda model: after_edits(model, [edit]), (kind, name))


async def delete_object(kind: Kind, request: web.Request) -> web.Response:
    name = text(request, "name")

    def make(model: Model) -> Model:
        if name not in model.of(kind):
            raise MissingError(f"there is no {kind.value}/{name}")
        if users := referrers(model, kind, name):
            listed = ", ".join(f"{user_kind.value}/{user}" for user_kind, user in users)
            raise web.HTTPConflict(text=f"{kind.value}/{name} is in use by {listed}; change or delete these first")
        return after_edits(model, [Edit(Op.DELETE, kind, name)])

    return await change(request, make, (kind, name))


def _routes_of(kind: Kind) -> Iterator[Route]:
    path, form = f"/v1/{kind.value}", CLASSES[kind]
    of_one = f"{path}/{{name}}"
    words = kind.value.replace("_", " ")
    one = Answer("the object", Schema(form), (ETAG,))
    patch = {"type": "object", "description": f"a merge patch (RFC 7396) of a {form.__name__}: null removes"}
    yield Route(
        "GET", path, partial(get_kind, kind), ApiRole.READ, f"The {words}", (LIMIT, AFTER, TAG, REFERS_TO),
        answers={200: Answer("the objects", Schema(GenericAlias(tuple, (form, ...))), (ETAG, LINK)), 304: UNCHANGED},
        headers=(IF_CHANGED,), tag=kind.value,
    )  # fmt: skip
    yield Route(
        "GET", of_one, partial(get_object, kind), ApiRole.READ, f"One of the {words}",
        answers={200: one, 304: UNCHANGED}, headers=(IF_CHANGED,), problems=(404,), tag=kind.value,
    )  # fmt: skip
    yield Route(
        "PUT", of_one, partial(put_object, Op.PUT, kind), ApiRole.ADMIN, f"Create or replace one of the {words}",
        CHANGING, Schema(form), {200: CHANGED}, headers=CONDITIONS, problems=(409, 412, 413, 422), tag=kind.value,
    )  # fmt: skip
    yield Route(
        "PATCH", of_one, partial(put_object, Op.PATCH, kind), ApiRole.ADMIN, f"Change one of the {words}", CHANGING,
        Schema(patch, MERGE_PATCH), {200: CHANGED}, bodies=(Schema(patch),), headers=CONDITIONS,
        problems=(404, 409, 412, 413, 422), tag=kind.value,
    )  # fmt: skip
    yield Route(
        "DELETE", of_one, partial(delete_object, kind), ApiRole.ADMIN, f"Delete one of the {words}", CHANGING,
        answers={200: CHANGED}, headers=CONDITIONS, problems=(404, 409, 412, 422), tag=kind.value,
    )  # fmt: skip


ROUTES = tuple(route for kind in Kind for route in _routes_of(kind))
