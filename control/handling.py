"""What the handlers of the users' API share: who asks, what a body holds, and how a change is made and answered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, NoReturn, TypeVar

from aiohttp import web

from control import protection
from control.audit import note_change
from control.changes import change_document
from control.edit import Edit, document, edited
from control.material import chain_errors, key_errors, path_errors
from control.preconditions import Conditions, MalformedTagError, object_tag
from control.reconcile import NodeStatus
from control.roles import ApiRole
from control.routes import Answer, Parameter, RequestError, Schema, flag, text
from control.service import ControlPlane, Current
from control.store import VersionConflictError
from control.token_record import Token
from core.config import from_dict, load_parsed, revised, to_dict, to_table
from core.errors import ConfigError, ConfigErrors, Problem
from core.fields import Kind, Pattern
from core.model import Model
from core.reader import read_object
from core.syntax import Format, parse

T = TypeVar("T")

COMMENT_LIMIT = 500
VERSION_LIMIT = 1 << 53

REQUEST = "request"  # what messages call the body

PLANE = web.AppKey("plane", ControlPlane)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    name: str
    role: ApiRole
    token: Token | None = None


CALLER: ContextVar[Caller] = ContextVar("caller")  # who makes the request that this task serves

DRY_RUN = Parameter("dry_run", bool, "answer with the plan and change nothing", False)
COMMENT = Parameter(
    "comment",
    Annotated[str, Pattern(rf"[\s\S]{{0,{COMMENT_LIMIT}}}", f"text of at most {COMMENT_LIMIT} characters")],
    "kept with the version",
    "",
)
IF_MATCH = Parameter("If-Match", str, 'refused with 412 unless this is the ETag, such as "7"; *: unless there is one')
IF_NONE_MATCH = Parameter("If-None-Match", str, "*: refused with 412 if there is one, so that it only creates")
IF_CHANGED = Parameter("If-None-Match", str, "304 if this is the ETag")
CHANGING = (DRY_RUN, COMMENT)
CONDITIONS = (IF_MATCH, IF_NONE_MATCH)
ETAG = Parameter("ETag", str, "what is answered, for If-Match and If-None-Match")
LINK = Parameter("Link", str, 'the next page, `<URL>; rel="next"`; none on the last')
UNCHANGED = Answer("the reader has it already", headers=(ETAG,))
CHANGED = Answer("the version that is current now, and what changed", Schema({"$ref": "Changed"}), (ETAG,))


# --- bodies


async def json_of(request: web.Request) -> object:
    """The body as JSON. Raises HTTPBadRequest."""
    try:
        return json.loads(await request.read(), parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body is not JSON") from None


def _not_json(word: str) -> NoReturn:
    """NaN and its like, which Python's parser would take."""
    raise ValueError(word)


async def body_of(request: web.Request, cls: type[T]) -> T:
    """The body as a dataclass whose fields are annotated as those of the model. Raises HTTPBadRequest, ConfigErrors."""
    problems: list[Problem] = []
    found = read_object(cls, await json_of(request), (), problems)
    if problems or not isinstance(found, cls):
        raise ConfigErrors(
            ConfigError("request", 0, ".".join(map(str, each.path)), each.why, each.suggestion) for each in problems
        )
    return found


def checked(document: object) -> Model:
    """The model of a request's document, free of keys and of paths, its chains readable. Raises ConfigErrors."""
    return _checked(document, lambda: from_dict(document))


def _checked(document: object, make: Callable[[], Model]) -> Model:
    """The model that `make` makes of a document, once no key is in that. Raises ConfigErrors."""
    errors = key_errors(document)
    if errors:
        raise ConfigErrors(errors)
    model = make()
    errors = path_errors(model) + chain_errors(model)
    if errors:
        raise ConfigErrors(errors)
    return model


def after_edits(model: Model, edits: Iterable[Edit]) -> Model:
    """`model` after edits, checked as a whole. Raises EditError, ConfigErrors.

    Only what the edits touch is read anew; where anything is wrong with it, the whole is, which finds the words.
    """

    def present(kind: Kind, name: str) -> dict[str, object] | None:
        item = model.of(kind).get(name)
        return None if item is None else to_table(item)

    tables = edited(present, edits)
    made = revised(model, tables)
    if made is not None and not key_errors([table for table in tables.values() if table is not None]):
        names = {name for _, name in tables}
        part = Model(
            certificates={name: item for name, item in made.certificates.items() if name in names},
            ca_certificates={name: item for name, item in made.ca_certificates.items() if name in names},
            redirect_maps={name: item for name, item in made.redirect_maps.items() if name in names},
        )
        if not path_errors(part) + chain_errors(part):
            return made
    return checked(document(to_dict(model), tables))


def checked_text(text: str, format: Format) -> Model:
    """The model of a request's text, as `checked`; errors name its lines. Raises RequestError, ConfigErrors."""
    repeated: list[str] = []
    try:
        document = parse(text, path=REQUEST, format=format, repeated=repeated)
    except ConfigErrors as error:
        raise RequestError(error.errors) from None

    def make() -> Model:
        return load_parsed(document, repeated, text, path=REQUEST, format=format, is_file=False).model

    return _checked(document, make)


# --- changes


async def change(
    request: web.Request, make: Callable[[Model], Model], of: tuple[Kind, str] | None = None, comment: str = ""
) -> web.Response:
    """Make a change as the request's parameters and conditions want it, and answer with what it did.

    `of` is the object that it is about, which conditions may name by its own tag; else they are about the whole.
    Raises PreconditionError, ProtectedError, ConfigErrors and what `make` raises.
    """
    plane, conditions, dry_run = request.app[PLANE], conditions_of(request), flag(request, DRY_RUN.name)
    made = Model()

    def permitted(before: Model) -> Model:
        nonlocal made
        _permit(conditions, plane.current, of)
        made = make(before)
        protection.permit(before, made)
        return made

    version, changes = await plane.change(
        permitted, author=CALLER.get().name, comment=text(request, COMMENT.name) or comment, expected=None,
        dry_run=dry_run,
    )  # fmt: skip
    if not dry_run:
        note_change(request, version, changes)
    document = {"version": version, "dry_run": dry_run, "changes": [change_document(each) for each in changes]}
    if of is None:
        return versioned(version, document)
    now = plane.current.model if dry_run else made
    item = now.of(of[0]).get(of[1])
    return tagged(None if item is None else object_tag(to_table(item)), document)


def _permit(conditions: Conditions, current: Current, of: tuple[Kind, str] | None) -> None:
    """Raises VersionConflictError, PreconditionError."""
    version = str(current.version)
    tags: tuple[str, ...]
    if of is None:
        tags, exists, what = (version,), current.version > 0, "the configuration"
    else:
        item = current.model.of(of[0]).get(of[1])
        exists, what = item is not None, f"{of[0].value}/{of[1]}"
        tags = (version,) if item is None else (object_tag(to_table(item)), version)
    wanted = conditions.match.strong if conditions.match is not None else frozenset()
    if len(wanted) == 1 and (named := next(iter(wanted))).isascii() and named.isdigit() and named != version:
        raise VersionConflictError(int(named[:19]), current.version)
    conditions.permit(tags, exists, what)


def conditions_of(request: web.Request) -> Conditions:
    """The request's conditions. Raises HTTPBadRequest."""
    try:
        return Conditions.of(request.headers)
    except MalformedTagError:
        text = 'If-Match and If-None-Match are the ETag of an answer, such as "7", or *'
        raise web.HTTPBadRequest(text=text) from None


# --- answers


def versioned(version: int, document: object) -> web.Response:
    """A document that is about a version, which is its ETag."""
    return tagged(str(version), document)


def tagged(tag: str | None, document: object) -> web.Response:
    """A document with its ETag, if it has one."""
    etag = {} if tag is None else {"ETag": f'"{tag}"'}
    return web.json_response(document, headers={**etag, "Cache-Control": "no-cache"})


def read(request: web.Request, tag: str, make: Callable[[], object]) -> web.Response:
    """A document with its ETag, or 304 without it where the reader has it already."""
    if conditions_of(request).unchanged(tag):
        return web.Response(status=304, headers={"ETag": f'"{tag}"', "Cache-Control": "no-cache"})
    return tagged(tag, make())


def linked(request: web.Request, response: web.Response, after: Mapping[str, str] | None) -> web.Response:
    """The response with a Link to the next page (RFC 8288), whose parameters differ by `after`; none on the last."""
    if after is not None:
        response.headers["Link"] = f'<{request.rel_url.update_query(after)}>; rel="next"'
    return response


def status_document(status: NodeStatus) -> Mapping[str, object]:
    """A node's status as JSON."""
    # Not asdict(), which copies all that a node reports.
    return {each.name: getattr(status, each.name) for each in dataclasses.fields(status)} | {"step": status.step.value}
