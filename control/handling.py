"""What the handlers of the users' API share: who asks, what a body holds, and how a change is made and answered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, TypeVar

from aiohttp import web

from control.material import chain_errors, key_errors, path_errors
from control.reconcile import NodeStatus
from control.roles import ApiRole
from control.routes import Answer, Parameter, Schema, flag, text
from control.service import ControlPlane
from core.config import from_dict, to_dict
from core.errors import ConfigError, ConfigErrors, Problem
from core.fields import Pattern
from core.model import Model
from core.plan import Change
from core.reader import INVALID, read_object

T = TypeVar("T")

COMMENT_LIMIT = 500
VERSION_LIMIT = 1 << 62

PLANE = web.AppKey("plane", ControlPlane)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    name: str
    role: ApiRole


CALLER: ContextVar[Caller] = ContextVar("caller")  # who makes the request that this task serves

DRY_RUN = Parameter("dry_run", bool, "answer with the plan and change nothing", False)
COMMENT = Parameter(
    "comment",
    Annotated[str, Pattern(rf"[\s\S]{{0,{COMMENT_LIMIT}}}", f"text of at most {COMMENT_LIMIT} characters")],
    "kept with the version",
    "",
)
IF_MATCH = Parameter("If-Match", str, 'the ETag that the change is made from, such as "7"; * for any')
CHANGING = (DRY_RUN, COMMENT)
ETAG = Parameter("ETag", str, "what is answered, for If-Match")
CHANGED = Answer("the version that is current now, and what changed", Schema({"$ref": "Changed"}), (ETAG,))


# --- bodies


async def json_of(request: web.Request) -> object:
    """The body as JSON. Raises HTTPBadRequest."""
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body is not JSON") from None


async def body_of(request: web.Request, cls: type[T]) -> T:
    """The body as a dataclass whose fields are annotated as those of the model. Raises HTTPBadRequest, ConfigErrors."""
    problems: list[Problem] = []
    found = read_object(cls, await json_of(request), (), problems)
    if found is INVALID or not isinstance(found, cls):
        raise ConfigErrors(
            ConfigError("request", 0, ".".join(map(str, each.path)), each.why, each.suggestion) for each in problems
        )
    return found


def checked(document: object) -> Model:
    """The model of a request's document, free of keys and of paths, its chains readable. Raises ConfigErrors."""
    errors = key_errors(document)
    if errors:
        raise ConfigErrors(errors)
    model = from_dict(document)
    errors = path_errors(model) + chain_errors(model)
    if errors:
        raise ConfigErrors(errors)
    return model


# --- changes


async def change(request: web.Request, make: Callable[[Model], Model]) -> web.Response:
    """Make a change of the configuration as the request's parameters want it, and answer with what it did."""
    dry_run = flag(request, DRY_RUN.name)
    version, changes = await request.app[PLANE].change(
        make,
        author=CALLER.get().name,
        comment=text(request, COMMENT.name),
        expected=expected_version(request),
        dry_run=dry_run,
    )
    document = {"version": version, "dry_run": dry_run, "changes": [change_document(each) for each in changes]}
    return versioned(version, document)


def expected_version(request: web.Request) -> int | None:
    """The version of `If-Match`; None where any will do. Raises HTTPBadRequest."""
    value = request.headers.get("If-Match", "*").strip()
    if value == "*":
        return None
    digits = value[1:-1]
    sound = value.startswith('"') and value.endswith('"') and digits.isascii() and digits.isdigit() and len(digits) < 20
    if not sound or int(digits) > VERSION_LIMIT:
        raise web.HTTPBadRequest(text='If-Match is the ETag of an answer, such as "7", or *')
    return int(digits)


# --- answers


def versioned(version: int, document: object) -> web.Response:
    """A document that is about a version, which is its ETag."""
    return web.json_response(document, headers={"ETag": f'"{version}"', "Cache-Control": "no-store"})


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


def status_document(status: NodeStatus) -> Mapping[str, object]:
    """A node's status as JSON."""
    return {**dataclasses.asdict(status), "step": status.step.value}
