"""Single entries of a redirect map, which is too long to be sent as a whole for each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from aiohttp import web

from control.edit import Edit, MissingError, Op
from control.handling import CHANGED, CHANGING, CONDITIONS, after_edits, body_of, change
from control.roles import ApiRole
from control.routes import Route, Schema, text
from core.fields import Kind, Pattern
from core.model import Model
from core.redirects import changed

SHOWN = 8
_WORD = "[!-~]{1,4096}"


@dataclass(frozen=True, slots=True)
class Entries:
    """Lines FROM TO, or FROM TO STATUS, that replace those with the same FROM or are added, and FROMs that go."""

    put: tuple[Annotated[str, Pattern(rf"{_WORD} {_WORD}( [0-9]{{3}})?", "an entry such as '/old /new 302'")], ...] = ()
    remove: tuple[Annotated[str, Pattern(_WORD, "what an entry begins with, such as '/old'")], ...] = ()


async def post_entries(request: web.Request) -> web.Response:
    name, wanted = text(request, "name"), await body_of(request, Entries)

    def make(model: Model) -> Model:
        present = model.redirect_maps.get(name)
        if present is None:
            raise MissingError(f"there is no redirect_maps/{name}")
        try:
            entries = changed(present.entries, wanted.put, wanted.remove)
        except KeyError as error:
            raise MissingError(f"redirect_maps/{name} has no entry for {error.args[0]}") from None
        return after_edits(model, [Edit(Op.PATCH, Kind.REDIRECT_MAPS, name, {"entries": entries})])

    told = ", ".join([*wanted.put, *(f"without {each}" for each in wanted.remove)][:SHOWN])
    comment = f"entries of redirect_maps/{name}: {told}"[:COMMENT_CHARACTERS]
    return await change(request, make, (Kind.REDIRECT_MAPS, name), comment=comment)


COMMENT_CHARACTERS = 200
ROUTES = (
    Route(
        "POST", "/v1/redirect_maps/{name}/entries", post_entries, ApiRole.ADMIN, "Change entries of a redirect map",
        CHANGING, Schema(Entries), {200: CHANGED}, headers=CONDITIONS, problems=(404, 409, 412, 413, 422),
        tag=Kind.REDIRECT_MAPS.value,
    ),
)  # fmt: skip
