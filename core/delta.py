"""What has changed between two configurations, as a document that turns the one into the other.

A node that has a version needs what is different in the next one, not ten thousand objects that are as they were. The
document is {"put": {KIND: [TABLE…]}, "delete": {KIND: [NAME…]}}, tables as `core.config` writes them: `put` replaces an
object in its place or adds it after the others, in that order. Order counts (of rules that match alike, the first
wins), so where a change moves objects there is no delta, and the whole is sent.

A delta is no proof that what it leads to is sound: it is for those whose base is known to be the sender's, and whose
sender has checked the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from core.config import read_tables, to_dict
from core.model import Kind, Model, Object
from core.plan import Operation, plan

Document = dict[str, dict[str, list[object]]]

MOST_CHANGES = 1000  # beyond it the whole is hardly longer


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
    return {"put": cast("dict[str, list[object]]", tables), "delete": deleted}


def patched(model: Model, document: object) -> Model:
    """The model with a document's changes; objects that it does not name are the same ones. Raises DeltaError."""
    if not isinstance(document, Mapping):
        raise DeltaError("a delta is a table")
    put, deleted = document.get("put", {}), document.get("delete", {})
    if not isinstance(put, Mapping) or not isinstance(deleted, Mapping):
        raise DeltaError("put and delete are tables")
    try:
        fresh = read_tables(put)
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


def _keeps_order(old: Mapping[str, Object], new: Mapping[str, Object]) -> bool:
    """Whether `new` is `old` with objects replaced, deleted, or added at the end."""
    if old is new:
        return True
    kept = [name for name in old if name in new]
    return list(new)[: len(kept)] == kept
