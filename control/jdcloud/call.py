"""What an action is given and what it makes: a call, filters, pages, and what objects keep in a tag. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from control.cloud import action, marks
from control.cloud.action import TIME, Answer
from control.cloud.marks import Tags
from control.jdcloud.errors import JdError, invalid
from control.jdcloud.forms import Field, Given, many, number, text, word

KEY = "paifang:jdcloud"

Call = action.Call[Given]


@dataclass(frozen=True, slots=True)
class Action(action.Action[Call]):
    """One action of the API, of the service `lb` or another. `path` is what follows the region."""

    method: str
    path: str
    fields: tuple[Field, ...] = ()
    service: str = "lb"

    @property
    def refuses(self) -> Sequence[str]:
        return [each.name for each in self.fields if each.refused]


# --- what is kept in a tag


def mark(tags: Tags, name: str, default: str = "") -> str:
    """What an object keeps under this name."""
    return marks.kept(tags, KEY).get(name, default)


def made(call: Call, tags: Tags = (), **texts: str) -> Tags:
    """The tags of a new object."""
    return marked(tags, created=datetime.fromtimestamp(call.now, UTC).strftime(TIME), **texts)


def marked(tags: Tags, **texts: str) -> Tags:
    """The tags with this kept in them; an empty text removes. Raises JdError."""
    packed = marks.packed(tags, KEY, texts)
    if packed is None:
        raise JdError(400, "INVALID_ARGUMENT", "The texts given are too long to be kept.")
    others = {key: value for key, value in tags if key != KEY}
    return tuple(sorted((others | ({KEY: packed} if packed else {})).items()))


# --- lists

NAME = text("name", 40, required=True)
PAGE = (number("pageNumber", 1, 1_000_000), number("pageSize", 10, 100))
FILTERS = many("filters", (NAME, word("operator", "eq", others={"like": "eq is"}), many("values", text("values"))))


def listed(call: Call, name: str, rows: Sequence[Mapping[str, object]], filters: Mapping[str, str]) -> Answer:
    """The page that is asked for of the rows that its filters let through; `filters` maps their names to fields.

    After the last page comes the last page, as the API has it.
    """
    found = rows
    for each in call.given.tables("filters"):
        field = filters.get(each.text("name"))
        if field is None:
            raise invalid("filters.name", f"{', '.join(filters)} is")
        values = each.texts("values")
        wanted = {value.lower() for value in values}
        found = [row for row in found if str(row[field]).lower() in wanted]
    shown, total = paged(call, found)
    return {name: shown, "totalCount": total}


def paged(call: Call, found: Sequence[Mapping[str, object]]) -> tuple[Sequence[Mapping[str, object]], int]:
    """The page that is asked for, and how many there are in all."""
    size = call.given.number("pageSize", 20)
    last = max(1, -(-len(found) // size))
    at = min(call.given.number("pageNumber", 1), last)
    return found[(at - 1) * size : at * size], len(found)


def of_type(call: Call, rows: Sequence[Mapping[str, object]], field: str) -> list[Mapping[str, object]]:
    """The rows of the type that a filter names: where none does, those of type alb, as the API has it."""
    named = any(each.text("name") == "loadBalancerType" for each in call.given.tables("filters"))
    return [row for row in rows if named or row[field] == "alb"]
