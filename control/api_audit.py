"""The audit log by the users' API: its pages, newest first with filters, or oldest first and whole to be verified."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated

from aiohttp import web

from control.access import ACCESS
from control.audit_chain import Entry
from control.roles import ApiRole
from control.routes import Answer, Parameter, Route, Schema, asked, number
from core.fields import Pattern, Range

LIMIT_DEFAULT, LIMIT = 50, 1000
NUMBER_LIMIT = 10**15
TIME_LIMIT = 10**11

_Text = Annotated[str, Pattern(r"[\s\S]{1,500}", "text of at most 500 characters")]
_Result = Annotated[str, Pattern("done|refused|failed", "done, refused or failed")]
EQUAL = ("who", "token", "from", "method", "result")
FILTERS = (
    Parameter("who", _Text, "by the token of this name"),
    Parameter("token", _Text, "by the token with this ID"),
    Parameter("from", _Text, "from this address"),
    Parameter("method", _Text, "by this method"),
    Parameter("result", _Result, "with this result: done, refused or failed"),
    Parameter("path", _Text, "whose path begins so"),
    Parameter("object", _Text, "that changed this object, such as listeners/web, or one that begins so"),
    Parameter("since", Annotated[int, Range(0, TIME_LIMIT)], "at this Unix time or later"),
    Parameter("until", Annotated[int, Range(0, TIME_LIMIT)], "before this Unix time"),
)
PAGE = (
    Parameter("limit", Annotated[int, Range(1, LIMIT)], "how many", LIMIT_DEFAULT),
    Parameter("before", Annotated[int, Range(1, NUMBER_LIMIT)], "those older than this number"),
    Parameter("after", Annotated[int, Range(0, NUMBER_LIMIT)], "those newer than this number, oldest first"),
)  # fmt: skip


async def get_audit(request: web.Request) -> web.Response:
    """Pages go by the numbers of entries, so that new ones do not shift them."""
    audit, given = request.app[ACCESS].audit, asked(request)
    head, limit, after, before = await audit.head(), number(request, "limit"), given["after"], given["before"]
    if isinstance(after, int):
        if before is not None or any(given[each.name] is not None for each in FILTERS):
            raise web.HTTPBadRequest(text="after gives all entries: leave out before and the filters")
        entries = await audit.range(max(after + 1, head.first), limit)
        last = entries[-1]["number"] if entries else head.last
        more = last if last != head.last else None
    else:
        entries, more = await audit.page(before if isinstance(before, int) else None, limit, _wanted(request))
    return web.json_response({"entries": entries, "next": more, "head": dataclasses.asdict(head)})


def _wanted(request: web.Request) -> Callable[[Entry], bool]:
    given = asked(request)
    equal = {name: given[name] for name in EQUAL if given[name] is not None}
    since, until, path, changed = given["since"], given["until"], given["path"], given["object"]

    def wanted(entry: Entry) -> bool:
        at, objects = entry["at"], entry.get("objects", ())
        assert isinstance(at, int | float)
        assert isinstance(objects, list | tuple)
        return (
            all(entry.get(name) == value for name, value in equal.items())
            and (not isinstance(since, int) or at >= since)
            and (not isinstance(until, int) or at < until)
            and (not isinstance(path, str) or str(entry["path"]).startswith(path))
            and (not isinstance(changed, str) or any(str(each).startswith(changed) for each in objects))
        )

    return wanted


_ENTRY = {
    "type": "object",
    "properties": {
        "number": {"type": "integer"}, "at": {"type": "number", "description": "Unix time in seconds"},
        "who": {"type": "string"}, "token": {"type": "string"}, "role": {"type": "string"}, "from": {"type": "string"},
        "method": {"type": "string"}, "path": {"type": "string"}, "status": {"type": "integer"},
        "result": {"enum": ["done", "refused", "failed"]}, "why": {"type": "string"}, "comment": {"type": "string"},
        "objects": {"type": "array", "items": {"type": "string"}}, "changes": {"type": "integer"},
        "version_before": {"type": "integer"}, "version": {"type": "integer"}, "unrecorded": {"type": "integer"},
        "previous": {"type": "string"}, "hash": {"type": "string"},
    },
}  # fmt: skip
_HEAD = {
    "type": "object",
    "properties": {
        "first": {"type": "integer"}, "before": {"type": "string"}, "last": {"type": "integer"},
        "hash": {"type": "string"},
    },
}  # fmt: skip
_PAGE = {
    "type": "object",
    "properties": {
        "entries": {"type": "array", "items": _ENTRY}, "next": {"type": ["integer", "null"]}, "head": _HEAD,
    },
}  # fmt: skip
ROUTES = (
    Route(
        "GET", "/v1/audit", get_audit, ApiRole.ADMIN, "Who changed what, and who was refused", (*PAGE, *FILTERS),
        tag="audit", answers={200: Answer("a page; `next` is what `before` (or `after`) gets for the one behind it",
                                          Schema(_PAGE))},
    ),
)  # fmt: skip
