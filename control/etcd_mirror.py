"""What was last heard of the records by which others are let in: it is answered while etcd is away."""

from __future__ import annotations

from collections.abc import Iterable

from control.etcd import Event, KeyValue, behind
from control.store import Record

MIRRORED = ("nodes", "secrets", "tokens")


class Mirror:
    """The records of some spaces, whose keys in etcd begin with `folder`."""

    def __init__(self, folder: str) -> None:
        self.ranges = tuple((f"{folder}{space}/", behind(f"{folder}{space}/")) for space in MIRRORED)
        self._folder = folder
        self._kept: dict[str, dict[str, Record]] = {space: {} for space in MIRRORED}

    def replace(self, start: str, found: Iterable[KeyValue]) -> None:
        """All that is in the range that begins with `start`."""
        space = start.removeprefix(self._folder).rstrip("/")
        keys = ((each.key.removeprefix(start), each) for each in found)
        self._kept[space] = {key: Record(key, each.value, each.revision) for key, each in keys}

    def hear(self, event: Event) -> None:
        """A change to a key in one of `ranges`."""
        space, _, key = event.key.removeprefix(self._folder).partition("/")
        if event.value is None:
            self._kept[space].pop(key, None)
        else:
            self._kept[space][key] = Record(key, event.value, event.revision)

    def record(self, space: str, key: str) -> Record | None:
        return self._kept[space].get(key)

    def records(self, space: str, after: str, limit: int) -> tuple[Record, ...]:
        """In the order of their keys' UTF-8, as etcd has them."""
        keys = sorted((key for key in self._kept[space] if key.encode() > after.encode()), key=str.encode)
        return tuple(self._kept[space][key] for key in keys[:limit])
