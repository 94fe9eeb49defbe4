"""Objects and changes as JSON, as the API answers them and the command line prints them. Pure."""

from __future__ import annotations

from core.config import to_dict
from core.fields import Kind
from core.model import Model, Object
from core.plan import Change


def change_document(change: Change) -> dict[str, object]:
    """A change as JSON; `old` and `new` are objects as they are written in a configuration."""
    old, new = (None if each is None else object_document(change.kind, each) for each in (change.old, change.new))
    return {"op": change.op.value, "kind": change.kind.value, "name": change.name, "old": old, "new": new}


def object_document(kind: Kind, item: Object) -> dict[str, object]:
    """An object as it stands in a configuration."""
    return to_dict(Model(**{kind.value: {item.name: item}}))[kind.value][0]  # type: ignore[arg-type]
