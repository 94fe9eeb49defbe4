"""What has changed between two configurations, as a document that turns the one into the other.

A node that has a version needs what is different in the next one, not ten thousand objects that are as they were. The
document is {"put": {KIND: [TABLE…]}, "delete": {KIND: [NAME…]}}, tables as `core.config` writes them: `put` replaces an
object in its place or adds it after the others, in that order. Order counts (of rules that match alike, the first
wins), so where a change moves objects there is no delta, and the whole is sent.

Of a long text of which little has changed, `put` has what has changed in place of the text: {FIELD: {"edits": [[AT,
LESS, TEXT]…]}} (`core.text_edits`). So one entry of a redirect map is sent, and not 100,000.

A delta is no proof that what it leads to is sound: it is for those whose base is known to be the sender's, and whose
sender has checked the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from core.config import read_tables, to_dict
from core.model import Kind, Model, Object
from core.plan import Operation, plan
from core.text_edits import edited, edits

Document = dict[str, dict[str, list[object]]]

MOST_CHANGES = 1000  # beyond it the whole is hardly longer
LONG = 1 << 16  # characters of a text whose edits are looked for
EDIT_CHARACTERS = 24  # of an edit's places, as JSON


class DeltaError(Exception):
    """A document that cannot be applied to this configuration."""


def difference(old: Model, new: Model) -> Document | None:
    """The document that makes `new` of `old`; None where only the whole will do."""
    if any(not _keeps_order(old.of(kind), new.of(kind)) for kind in Kind):
        return None
    changes = plan(old, new)
    if len(changes) > MOST_CHANGES:
        return None
    put: dict[Kind, dict[str, Object]] = {}
    deleted: dict[str, list[object]] = {}
    for change in changes:
        if change.op is Operation.DELETE:
            deleted.setdefault(change.kind.value, []).append(change.name)
        elif change.new is not None:
            put.setdefault(change.kind, {})[change.name] = change.new
    tables = to_dict(Model(**{kind.value: objects for kind, objects in put.items()}))  # type: ignore[arg-type]
    for kind in put:
        for table in tables[kind.value]:
            _shorten(table, old.of(kind).get(str(table["name"])))
    return {"put": cast("dict[str, list[object]]", tables), "delete": deleted}


def patched(model: Model, document: object) -> Model:
    """The model with a document's changes; objects that it does not name are the same ones. Raises DeltaError."""
    if not isinstance(document, Mapping):
        raise DeltaError("a delta is a table")
    put, deleted = document.get("put", {}), document.get("delete", {})
    if not isinstance(put, Mapping) or not isinstance(deleted, Mapping):
        raise DeltaError("put and delete are tables")
    try:
        fresh = read_tables({kind: _whole(model, kind, tables) for kind, tables in put.items()})
    except ValueError as error:
        raise DeltaError(str(error)) from None
    objects: dict[str, Mapping[str, Object]] = {}
    for kind in Kind:
        present, added, gone = model.of(kind), fresh.of(kind), deleted.get(kind.value, ())
        if unknown := [name for name in gone if not isinstance(name, str) or name not in present]:
            raise DeltaError(f"there are no {kind.value} {', '.join(map(str, unknown))} that could be deleted")
        if gone or added:
            leaving = frozenset(gone)
            present = {**{name: item for name, item in present.items() if name not in leaving}, **added}
        objects[kind.value] = present
    return Model(**objects)  # type: ignore[arg-type]


def _shorten(table: dict[str, object], before: Object | None) -> None:
    """Puts edits in the place of long texts of a table that hardly differ from what they were."""
    for field, text in table.items():
        was = getattr(before, field, None)
        if isinstance(text, str) and isinstance(was, str) and min(len(text), len(was)) > LONG:
            found = edits(was, text)
            if sum(len(each[2]) + EDIT_CHARACTERS for each in found) < len(text) / 2:
                table[field] = {"edits": [list(each) for each in found]}


def _whole(model: Model, kind: str, tables: object) -> object:
    """The tables of a kind with texts in the place of edits. Raises ValueError."""
    if kind not in list(Kind) or not isinstance(tables, list):
        return tables
    present = model.of(Kind(kind))
    return [
        _restored(each, present.get(str(each.get("name")))) if isinstance(each, Mapping) else each for each in tables
    ]


def _restored(table: Mapping[str, object], before: Object | None) -> Mapping[str, object]:
    made = dict(table)
    for field, value in table.items():
        was = getattr(before, field, None)
        if isinstance(value, Mapping) and "edits" in value and isinstance(was, str):
            found = value["edits"]
            if not isinstance(found, list) or not all(isinstance(each, list) and len(each) == 3 for each in found):
                raise ValueError("edits are lists of a place, a length and a text")
            made[field] = edited(was, found)
    return made


def _keeps_order(old: Mapping[str, Object], new: Mapping[str, Object]) -> bool:
    """Whether `new` is `old` with objects replaced, deleted, or added at the end."""
    if old is new:
        return True
    kept = [name for name in old if name in new]
    return list(new)[: len(kept)] == kept
