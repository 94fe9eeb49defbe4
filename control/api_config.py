"""The configuration as a whole: read, exported, replaced, changed in many places at once, and brought back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from aiohttp import web

from control.edit import Edit, Op
from control.handling import (
    CHANGED,
    CHANGING,
    CONDITIONS,
    ETAG,
    IF_CHANGED,
    PLANE,
    UNCHANGED,
    VERSION_LIMIT,
    after_edits,
    body_of,
    change,
    checked_text,
    conditions_of,
    json_of,
    read,
)
from control.preconditions import MalformedTagError, Tags
from control.roles import ApiRole
from control.routes import Answer, Route, Schema
from core.config import to_toml
from core.errors import ConfigError, ConfigErrors, Problem
from core.fields import Kind, Name, Range
from core.reader import INVALID
from core.reader import read as read_value

TOML = "application/toml"
CHANGES_LIMIT = 10_000


async def get_config(request: web.Request) -> web.Response:
    current = request.app[PLANE].current
    return read(request, str(current.version), lambda: current.document)


async def get_export(request: web.Request) -> web.Response:
    """As a file that `paifang up` and `paifang apply` read."""
    current = request.app[PLANE].current
    headers = {"ETag": f'"{current.version}"', "Cache-Control": "no-cache"}
    if conditions_of(request).unchanged(str(current.version)):
        return web.Response(status=304, headers=headers)
    return web.Response(text=to_toml(current.model), content_type=TOML, charset="utf-8", headers=headers)


async def put_config(request: web.Request) -> web.Response:
    """The whole, as JSON or TOML; errors name the body's lines."""
    try:
        text = (await request.read()).decode()
    except UnicodeDecodeError:
        raise web.HTTPBadRequest(text="the body is not UTF-8") from None
    model = checked_text(text, "toml" if request.content_type == TOML else "json")
    return await change(request, lambda _: model)


async def post_changes(request: web.Request) -> web.Response:
    """All of the changes, or none."""
    edits = _edits(await json_of(request))
    return await change(request, lambda model: after_edits(model, edits))


@dataclass(frozen=True, slots=True)
class Rollback:
    """Which version is to be current again."""

    version: Annotated[int, Range(0, VERSION_LIMIT)]


async def post_rollback(request: web.Request) -> web.Response:
    """A new version with the content of an old one."""
    wanted = (await body_of(request, Rollback)).version
    _, model = await request.app[PLANE].store.get(wanted)
    return await change(request, lambda _: model, comment=f"back to version {wanted}")


def _edits(body: object) -> list[Edit]:
    """Raises HTTPBadRequest, ConfigErrors."""
    listed = body["changes"] if isinstance(body, dict) and body.keys() == {"changes"} else None
    if not isinstance(listed, list) or len(listed) > CHANGES_LIMIT:
        example = '{"changes": [{"op": "put", "kind": "instances", "name": "shop", "object": {}}]}'
        raise web.HTTPBadRequest(text=f"give {example}, at most {CHANGES_LIMIT:,} at a time")
    problems: list[Problem] = []
    edits = [_edit(each, ("changes", index), problems) for index, each in enumerate(listed)]
    if problems:
        raise ConfigErrors(ConfigError("request", 0, _place(each), each.why, each.suggestion) for each in problems)
    return [each for each in edits if each is not None]


def _edit(given: object, path: tuple[str | int, ...], problems: list[Problem]) -> Edit | None:
    if not isinstance(given, Mapping):
        problems.append(Problem(path, "is not a table", "give op, kind and name, and the object unless it is deleted"))
        return None
    before = len(problems)
    for key in sorted(given.keys() - {"op", "kind", "name", "object", "if_match"}):
        problems.append(Problem((*path, key), "unknown key", "known are op, kind, name, object, if_match"))
    forms = {"op": Op, "kind": Kind, "name": Name}
    found = {key: read_value(form, given.get(key), (*path, key), problems) for key, form in forms.items()}
    body, needs_body = given.get("object"), found["op"] is not Op.DELETE
    if found["op"] is not INVALID and (isinstance(body, dict) if needs_body else body is None) is False:
        remedy = "give the object, or what of it changes" if needs_body else "leave it out"
        problems.append(Problem((*path, "object"), "is not what this op needs", remedy))
    if isinstance(body, dict) and body.get("name", given.get("name")) != given.get("name"):
        problems.append(Problem((*path, "object", "name"), "is not the change's own", "leave it out"))
    match = _tag(given.get("if_match"), (*path, "if_match"), problems)
    if len(problems) > before:
        return None
    return Edit(Op(str(found["op"])), Kind(str(found["kind"])), str(found["name"]), body, match)


def _tag(given: object, path: tuple[str | int, ...], problems: list[Problem]) -> str | None:
    if given is None:
        return None
    try:
        tags = Tags.parse(str(given))
    except MalformedTagError:
        tags = Tags()
    if not isinstance(given, str) or len(tags.strong) != 1 or tags.weak:
        problems.append(Problem(path, "is no ETag", 'give the ETag of the object, with its quotes: "\\"o5d41…\\""'))
        return None
    return next(iter(tags.strong))


def _place(problem: Problem) -> str:
    head, index, *rest = problem.path
    return f"{head}[{index}]" + "".join(f".{each}" for each in rest)


CONFIG = Schema({"$ref": "Configuration"})
ROUTES = (
    Route(
        "GET", "/v1/config", get_config, ApiRole.READ, "The configuration", headers=(IF_CHANGED,), tag="configuration",
        answers={200: Answer("the configuration, without fields at their defaults", CONFIG, (ETAG,)), 304: UNCHANGED},
    ),
    Route(
        "PUT", "/v1/config", put_config, ApiRole.ADMIN, "Replace the configuration", CHANGING, CONFIG, {200: CHANGED},
        bodies=(Schema({"type": "string"}, TOML),), headers=CONDITIONS, problems=(409, 412, 413, 422),
        tag="configuration",
    ),
    Route(
        "GET", "/v1/export", get_export, ApiRole.READ, "The configuration as TOML", headers=(IF_CHANGED,),
        answers={200: Answer("a file for `paifang apply`", Schema({"type": "string"}, TOML), (ETAG,)), 304: UNCHANGED},
        tag="configuration",
    ),
    Route(
        "POST", "/v1/changes", post_changes, ApiRole.ADMIN, "Change many objects, all or none", CHANGING,
        Schema({"$ref": "Edits"}), {200: CHANGED}, headers=CONDITIONS, problems=(404, 409, 412, 413, 422),
        tag="configuration",
    ),
    Route(
        "POST", "/v1/rollback", post_rollback, ApiRole.ADMIN, "Make an old version current again, as a new one",
        CHANGING, Schema(Rollback), {200: CHANGED}, headers=CONDITIONS, problems=(404, 409, 412, 413, 422),
        tag="versions",
    ),
)  # fmt: skip
