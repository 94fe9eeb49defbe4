"""Objects and changes as JSON, as the API answers them and the command line prints them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from core.config import to_table
from core.fields import Kind
from core.model import Model, Object
from core.plan import Change

LONG = 1 << 20  # characters
LINES_SHOWN = 50

Document = dict[str, list[dict[str, object]]]


def change_document(change: Change) -> dict[str, object]:
    """A change as JSON; `old` and `new` are objects as they are written in a configuration, of very long texts
    the lines that differ."""
    old, new = (None if each is None else to_table(each) for each in (change.old, change.new))
    _shorten(old, new)
    return {"op": change.op.value, "kind": change.kind.value, "name": change.name, "old": old, "new": new}


def _shorten(*tables: dict[str, object] | None) -> None:
    """Cuts very long texts down to the lines that differ, or to their first ones, between comments of how many not."""
    texts_of = [(name, text) for table in tables if table for name, text in table.items() if isinstance(text, str)]
    for field in {name for name, text in texts_of if len(text) > LONG}:
        texts = [str(table.get(field, "")) if table else "" for table in tables]
        lines = [text.split("\n") for text in texts]
        others = [set(lines[1]), set(lines[0])]
        for table, mine, theirs in zip(tables, lines, others, strict=True):
            if table is not None and field in table:
                shown = [line for line in mine if line not in theirs]
                rest = len(mine) - len(shown[:LINES_SHOWN])
                table[field] = "\n".join([*shown[:LINES_SHOWN], f"# and {rest:,} more lines"])


def document_after(before: Document, model: Model, changes: Iterable[Change]) -> Document:
    """`to_dict(model)`, made of the document before it and the changes that led from it to `model`."""
    touched: dict[Kind, dict[str, Object | None]] = {}
    for change in changes:
        touched.setdefault(change.kind, {})[change.name] = change.new
    result: Document = {}
    for kind in Kind:
        names, tables = list(model.of(kind)), before.get(kind.value, [])
        if kind in touched or names != [table["name"] for table in tables]:
            kept = {table["name"]: table for table in tables}
            made = {name: to_table(item) for name, item in touched.get(kind, {}).items() if item is not None}
            tables = [made[name] if name in made else kept[name] for name in names]
        if tables:
            result[kind.value] = tables
    return result
