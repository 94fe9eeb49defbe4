"""Edits of a configuration's document, object by object: what a request's list of changes does. Pure.

An edit is made in the document that the ones before it have left, and the whole is checked after the last: an order
in which references dangle for a moment is no error. Objects keep their places; new ones come last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from control.preconditions import object_tag
from core.fields import Kind

Table = dict[str, Any]
Document = dict[str, list[Table]]
Lookup = Callable[[Kind, str], Table | None]


class Op(StrEnum):
    """`put` creates or replaces; the others need that the object is, or is not, there."""

    CREATE = "create"
    UPDATE = "update"
    PUT = "put"
    PATCH = "patch"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Edit:
    """One change. `body` is the object, or a merge patch of it (RFC 7396); `if_match` the tag that it has to have."""

    op: Op
    kind: Kind
    name: str
    body: Table | None = None
    if_match: str | None = None


class EditError(Exception):
    """An edit of what is not there, or is there already."""


class MissingError(EditError):
    """There is no such object."""


class ExistsError(EditError):
    """There is such an object already."""


class StaleError(EditError):
    """The object is another than the edit was made from; `current` is its tag."""

    def __init__(self, text: str, current: str) -> None:
        super().__init__(text)
        self.current = current


def edited(present: Lookup, edits: Iterable[Edit]) -> dict[tuple[Kind, str], Table | None]:
    """The objects that the edits touch, as they are after all of them; None is one that is gone. Raises EditError.

    `present` gives an object's table as it was before, None if there was none.
    """
    tables: dict[tuple[Kind, str], Table | None] = {}
    for edit in edits:
        key = (edit.kind, edit.name)
        tables[key] = _after(tables[key] if key in tables else present(*key), edit)
    return tables


def document(before: Mapping[str, Iterable[Table]], tables: Mapping[tuple[Kind, str], Table | None]) -> Document:
    """A configuration's document with these objects in the place of those that it has."""
    result = {kind: {str(each["name"]): each for each in items} for kind, items in before.items()}
    for (kind, name), table in tables.items():
        of_kind = result.setdefault(kind.value, {})
        if table is None:
            of_kind.pop(name, None)
        else:
            of_kind[name] = table
    return {kind: list(items.values()) for kind, items in result.items() if items}


def _after(present: Table | None, edit: Edit) -> Table | None:
    what = f"{edit.kind.value}/{edit.name}"
    if edit.if_match is not None and (present is None or object_tag(present) != edit.if_match):
        if present is None:
            raise MissingError(f"there is no {what}")
        raise StaleError(f"{what} is another by now; read it again and repeat your change", object_tag(present))
    if present is None and edit.op in (Op.UPDATE, Op.PATCH, Op.DELETE):
        raise MissingError(f"there is no {what}")
    if present is not None and edit.op is Op.CREATE:
        raise ExistsError(f"{what} exists already; use put, update or patch to change it")
    if edit.op is Op.DELETE:
        return None
    patched = merged(present, edit.body) if edit.op is Op.PATCH else edit.body
    assert isinstance(patched, dict)
    return {"name": edit.name} | patched | {"name": edit.name}


def merged(target: object, patch: object) -> object:
    """`target` after a merge patch (RFC 7396): null removes, tables merge, all else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    result: Table = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result
