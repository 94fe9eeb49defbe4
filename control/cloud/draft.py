"""What a change by a cloud's API is made of: edits of the configuration, and IDs for new objects. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from control.edit import Edit, Op
from control.references import referrers
from core.config import to_table
from core.fields import Kind
from core.model import CLASSES, Model, Object

ID_LENGTH = 20
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_KINDS = {cls: kind for kind, cls in CLASSES.items()}


def identity_of(kind: str, *parts: str) -> str:
    """An ID that is the same for the same parts."""
    return f"{kind}-{letters(repr(parts).encode())}"


def letters(data: bytes) -> str:
    """Letters and digits that are the same for the same bytes."""
    number = int.from_bytes(hashlib.sha256(data).digest())
    letters = []
    for _ in range(ID_LENGTH):
        number, digit = divmod(number, len(_DIGITS))
        letters.append(_DIGITS[digit])
    return "".join(letters)


@dataclass(slots=True)
class Draft:
    """What an action changes: edits of `model`, which stays what it was before."""

    model: Model
    edits: list[Edit] = field(default_factory=list)

    def put(self, item: Object) -> None:
        """Create an object, or put it in the place of the one that has its name."""
        self.edits.append(Edit(Op.PUT, _KINDS[type(item)], item.name, to_table(item)))

    def delete(self, kind: Kind, name: str) -> None:
        """Remove an object, once."""
        if not self.is_gone(kind, name):
            self.edits.append(Edit(Op.DELETE, kind, name))

    def is_gone(self, kind: Kind, name: str) -> bool:
        """Whether this draft removes it."""
        return any((each.op, each.kind, each.name) == (Op.DELETE, kind, name) for each in self.edits)

    def is_left(self, kind: Kind, name: str) -> bool:
        """Whether nothing refers to it but what this draft removes or puts in another form."""
        touched = {(each.kind, each.name) for each in self.edits}
        return all(user in touched for user in referrers(self.model, kind, name))


def page(found: Sequence[object], number: int, size: int) -> list[object]:
    """One page of a list, of pages numbered from 1."""
    return list(found[(number - 1) * size : number * size])
