"""What changes in a message's head on its way through us."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core import model
from core.model import HeaderAction


@dataclass(frozen=True, slots=True)
class Changes:
    """Fields that go and lines that come, in a head on its way through us. None of them is one that we act on."""

    removed: frozenset[bytes]  # names in lower case
    lines: bytes

    @property
    def mark(self) -> bytes:
        """What is removed, as bytes that sort and compare."""
        return b",".join(sorted(self.removed))

    @classmethod
    def of(cls, changes: Iterable[model.HeaderChange]) -> Changes | None:
        """None where nothing changes."""
        changes = list(changes)
        gone = {change.name.lower().encode("ascii") for change in changes if change.action is not HeaderAction.ADD}
        come = [change for change in changes if change.action is not HeaderAction.REMOVE]
        lines = "".join(f"{change.name}: {change.value}\r\n" for change in come).encode("ascii")
        return cls(frozenset(gone), lines) if changes else None


def joined(one: Changes, other: Changes) -> Changes:
    """Both: what either takes out goes, what either puts in comes."""
    return Changes(one.removed | other.removed, one.lines + other.lines)
