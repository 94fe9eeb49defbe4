"""Edits of a configuration's document, object by object: what a request's list of changes does. Pure.

An edit is made in the document that the ones before it have left, and the whole is checked after the last: an order
in which references dangle for a moment is no error. Objects keep their places; new ones come last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from control.preconditions import object_tag
from core.fields import Kind

Table = dict[str, Any]
Tables = dict[str, dict[str, Table]]


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


def edited(document: Mapping[str, Iterable[Table]], edits: Iterable[Edit]) -> dict[str, list[Table]]:
    """The document after all edits. Raises EditError."""
    tables: Tables = {kind: {str(each["name"]): each for each in items} for kind, items in document.items()}
    for edit in edits:
        _edit(tables.setdefault(edit.kind.value, {}), edit)
    return {kind: list(items.values()) for kind, items in tables.items() if items}


def _edit(tables: dict[str, Table], edit: Edit) -> None:
    present, what = tables.get(edit.name), f"{edit.kind.value}/{edit.name}"
    if edit.if_match is not None and (present is None or object_tag(present) != edit.if_match):
        if present is None:
            raise MissingError(f"there is no {what}")
        raise StaleError(f"{what} is another by now; read it again and repeat your change", object_tag(present))
    if present is None and edit.op in (Op.UPDATE, Op.PATCH, Op.DELETE):
        raise MissingError(f"there is no {what}")
    if present is not None and edit.op is Op.CREATE:
        raise ExistsError(f"{what} exists already; use put, update or patch to change it")
    if edit.op is Op.DELETE:
        del tables[edit.name]
        return
    patched = merged(present, edit.body) if edit.op is Op.PATCH else edit.body
    assert isinstance(patched, dict)
    tables[edit.name] = {"name": edit.name} | patched | {"name": edit.name}


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
