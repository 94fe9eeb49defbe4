"""What turns one configuration into another: creations and updates in the order of `Kind`, then deletions in reverse.

In that order no reference ever dangles: an object is created after what it refers to and deleted before it.
Objects are compared by value, so that a plan names only what differs; a renamed object is a creation and a deletion.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from core.model import Kind, Model, Object


class Operation(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    """One step. `old` is None for a creation, `new` for a deletion."""

    op: Operation
    kind: Kind
    name: str
    old: Object | None
    new: Object | None


def plan(old: Model, new: Model) -> tuple[Change, ...]:
    """The fewest changes from `old` to `new`, in an order in which they may be applied one by one."""
    changes: list[Change] = []
    for kind in Kind:
        before, after = old.of(kind), new.of(kind)
        for name, wanted in after.items():
            present = before.get(name)
            if present is None:
                changes.append(Change(Operation.CREATE, kind, name, None, wanted))
            elif present is not wanted and present != wanted:
                changes.append(Change(Operation.UPDATE, kind, name, present, wanted))
    for kind in reversed(Kind):
        after = new.of(kind)
        changes += [
            Change(Operation.DELETE, kind, name, present, None)
            for name, present in reversed(list(old.of(kind).items()))
            if name not in after
        ]
    return tuple(changes)
