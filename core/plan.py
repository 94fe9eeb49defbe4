"""What turns one configuration into another: creations and updates in the order of `Kind`, then deletions in reverse.

In that order no reference ever dangles: an object is created after what it refers to and deleted before it.
Objects are compared by value, so that a plan names only what differs; a renamed object is a creation and a deletion.
Rules have an order that counts: one that goes to another place among those that stay is moved.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum

from core.model import Kind, Model, Object


class Operation(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    MOVE = "move"


@dataclass(frozen=True, slots=True)
class Change:
    """One step. `old` is None for a creation, `new` for a deletion; of a rule that is moved they are the same."""

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
        for name, wanted in after.items() if before is not after else ():
            present = before.get(name)
            if present is None:
                changes.append(Change(Operation.CREATE, kind, name, None, wanted))
            elif present is not wanted and present != wanted:
                changes.append(Change(Operation.UPDATE, kind, name, present, wanted))
    updated = {change.name for change in changes if change.kind is Kind.RULES}
    changes += [
        Change(Operation.MOVE, Kind.RULES, name, old.rules[name], new.rules[name])
        for name in (_moved(list(old.rules), list(new.rules)) if old.rules is not new.rules else ())
        if name not in updated
    ]
    for kind in reversed(Kind):
        before, after = old.of(kind), new.of(kind)
        gone = [name for name in before if name not in after] if before is not after else []
        changes += [Change(Operation.DELETE, kind, name, before[name], None) for name in reversed(gone)]
    return tuple(changes)


def _moved(old: list[str], new: list[str]) -> list[str]:
    """The fewest of the names in both lists that have to move for the others to keep their order."""
    kept = frozenset(new)
    places = {name: place for place, name in enumerate(name for name in old if name in kept)}
    names = [name for name in new if name in places]
    if list(places) == names:
        return []
    # The longest run of rising places stays (Fredman 1975): `ends[n]` is where the best run of n + 1 names ends.
    ends: list[int] = []
    values: list[int] = []
    before: list[int] = []
    for index, name in enumerate(names):
        length = bisect_left(values, places[name])
        before.append(ends[length - 1] if length else -1)
        values[length : length + 1] = [places[name]]
        ends[length : length + 1] = [index]
    stay, index = set(), ends[-1]
    while index >= 0:
        stay.add(names[index])
        index = before[index]
    return [name for name in names if name not in stay]
