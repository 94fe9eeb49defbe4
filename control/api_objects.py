"""The configuration as a whole and object by object. Each kind has routes of its own, since its objects have a form
of their own: `/v1/listeners/{name}`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import GenericAlias

from aiohttp import web

from control.handling import CHANGED, CHANGING, ETAG, IF_MATCH, PLANE, change, checked, json_of, versioned
from control.references import referrers
from control.roles import ApiRole
from control.routes import Answer, Route, Schema, text
from core.config import from_dict, to_dict
from core.fields import Kind
from core.model import CLASSES, Model


async def get_config(request: web.Request) -> web.Response:
    current = request.app[PLANE].current
    return versioned(current.version, current.document)


async def put_config(request: web.Request) -> web.Response:
    model = checked(await json_of(request))
    return await change(request, lambda _: model)


async def get_kind(kind: Kind, request: web.Request) -> web.Response:
    current = request.app[PLANE].current
    return versioned(current.version, current.document.get(kind.value, []))


async def get_object(kind: Kind, request: web.Request) -> web.Response:
    current, name = request.app[PLANE].current, text(request, "name")
    for table in current.document.get(kind.value, []):
        if table["name"] == name:
            return versioned(current.version, table)
    raise _missing(kind, name)


async def put_object(kind: Kind, request: web.Request) -> web.Response:
    """Create or replace one object. The body is the object; its name, if given, is that of the path."""
    name, body = text(request, "name"), await json_of(request)
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is one object")
    if body.setdefault("name", name) != name:
        raise web.HTTPBadRequest(text=f"the body's name is not {name!r}, the one of the path")

    def make(model: Model) -> Model:
        document = to_dict(model)
        tables = document.setdefault(kind.value, [])
        places = [index for index, table in enumerate(tables) if table["name"] == name]
        tables[places[0] if places else len(tables) :] = [body, *(tables[places[0] + 1 :] if places else ())]
        return checked(document)

    return await change(request, make)


async def delete_object(kind: Kind, request: web.Request) -> web.Response:
    name = text(request, "name")

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

    return await change(request, make)


def _missing(kind: Kind, name: str) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=f"there is no {kind.value}/{name}")


def _routes_of(kind: Kind) -> Iterator[Route]:
    path, form = f"/v1/{kind.value}", CLASSES[kind]
    of_one = f"{path}/{{name}}"
    words = kind.value.replace("_", " ")
    one = Answer("the object", Schema(form), (ETAG,))
    yield Route(
        "GET", path, partial(get_kind, kind), ApiRole.READ, f"The {words}", tag=kind.value,
        answers={200: Answer("the objects", Schema(GenericAlias(tuple, (form, ...))), (ETAG,))},
    )  # fmt: skip
    yield Route(
        "GET", of_one, partial(get_object, kind), ApiRole.READ, f"One of the {words}", answers={200: one},
        problems=(404,), tag=kind.value,
    )  # fmt: skip
    yield Route(
        "PUT", of_one, partial(put_object, kind), ApiRole.ADMIN, f"Create or replace one of the {words}", CHANGING,
        Schema(form), {200: CHANGED}, headers=(IF_MATCH,), problems=(412, 413, 422), tag=kind.value,
    )  # fmt: skip
    yield Route(
        "DELETE", of_one, partial(delete_object, kind), ApiRole.ADMIN, f"Delete one of the {words}", CHANGING,
        answers={200: CHANGED}, headers=(IF_MATCH,), problems=(404, 409, 412, 422), tag=kind.value,
    )  # fmt: skip


CONFIG = Schema({"$ref": "Configuration"})
ROUTES = (
    Route(
        "GET", "/v1/config", get_config, ApiRole.READ, "The configuration", tag="configuration",
        answers={200: Answer("the configuration, without fields at their defaults", CONFIG, (ETAG,))},
    ),
    Route(
        "PUT", "/v1/config", put_config, ApiRole.ADMIN, "Replace the configuration", CHANGING, CONFIG, {200: CHANGED},
        headers=(IF_MATCH,), problems=(412, 413, 422), tag="configuration",
    ),
    *(route for kind in Kind for route in _routes_of(kind)),
)  # fmt: skip
