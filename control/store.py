"""What the control plane knows of its storage; `control.store_sqlite` is one.

*Versions* are whole configurations, numbered from 1 without gaps; they never change, 0 is the empty one. `put` is
optimistic: whoever says which version the change was made from is refused if another has come in between.

*Records* are the small things beside them (tokens, who joins, what was metered), each a few bytes under a space and a
key. `write` changes many or none, each on condition that it still is what its writer has read. A revision counts the
writes of the whole storage, so that one that was deleted and made again is never taken for the old one.

What is answered is kept: it survives a power failure, and the death of this process.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from core.model import Model

HISTORY_LIMIT = 1000  # versions kept; older ones are forgotten
SPACES = frozenset({"tokens", "audit", "joins", "nodes", "metering", "secrets", "marks", "nonces"})
KEY_LIMIT = 200
VALUE_LIMIT_BYTES = 1 << 16
CHANGES_LIMIT = 100  # of one write; etcd takes 128 operations in a transaction
WRITE_LIMIT_BYTES = 1 << 20  # values of one write; etcd takes 1.5 MiB in a request
RECORDS_LIMIT = 1000  # of one answer


class StoreError(Exception):
    """The storage cannot be used; the text has the remedy."""


class StoreUnavailableError(StoreError):
    """The storage cannot be reached now; what was asked for may be repeated."""


class VersionConflictError(Exception):
    """Another change came in between; `current` is the version to start from."""

    def __init__(self, expected: int, current: int) -> None:
        super().__init__(f"the configuration is at version {current}, not {expected}")
        self.current = current


class NoSuchVersionError(Exception):
    """A version that never was, or is no longer kept."""


class RecordConflictError(Exception):
    """A record is not at the revision that the writer expects; nothing was written."""

    def __init__(self, space: str, key: str) -> None:
        super().__init__(f"{space}/{key} has been changed in between")
        self.space, self.key = space, key


class LeadershipLostError(StoreError):
    """Another control node may be doing this work now."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a version besides its content. `created` is Unix time in seconds."""

    version: int
    created: float
    author: str
    comment: str


EMPTY = Entry(0, 0.0, "", "the empty configuration")


@dataclass(frozen=True, slots=True)
class Record:
    """One record. `revision` is that of its last write, at least 1."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Write:
    """One change of a record. Without `value` it is deleted. `expected` 0: it must not exist; None: whatever it is.

    Raises ValueError for what no store takes.
    """

    space: str
    key: str
    value: bytes | None
    expected: int | None = None

    def __post_init__(self) -> None:
        check_key(self.space, self.key)
        if self.value is not None and len(self.value) > VALUE_LIMIT_BYTES:
            raise ValueError(f"{self.space}/{self.key}: {len(self.value)} bytes; at most {VALUE_LIMIT_BYTES}")


class Store(Protocol):
    """The storage of one control plane. Every method raises StoreUnavailableError where it cannot be reached."""

    async def put(self, model: Model, author: str, comment: str, expected_version: int | None) -> int:
        """Keep `model` as a new version and return its number; what is current already makes none.

        Raises VersionConflictError unless `expected_version` is the current one or None.
        """

    async def get(self, version: int | None = None) -> tuple[Entry, Model]:
        """A version, by default the current one. Raises NoSuchVersionError."""

    async def history(self, limit: int, before: int | None = None) -> tuple[Entry, ...]:
        """The latest versions, or the latest before one, newest first."""

    async def changed(self, version: int) -> None:
        """Return as soon as the current version is another than `version`, whoever made it."""

    async def record(self, space: str, key: str) -> Record | None:
        """One record; None if there is none."""

    async def records(self, space: str, after: str = "", limit: int = RECORDS_LIMIT) -> tuple[Record, ...]:
        """The first records of a space, in the order of their keys' UTF-8, or the first behind the key `after`."""

    async def write(self, *changes: Write) -> int:
        """Make all changes or none and return their revision; at most CHANGES_LIMIT, each of another record.

        Their values may have WRITE_LIMIT_BYTES together (else ValueError).

        Raises RecordConflictError for the first that is not as expected.
        """

    def leading(self, name: str) -> AbstractAsyncContextManager[None]:
        """Wait until this control node alone may do the work `name`, and have it until the context ends.

        Where that is lost, the body is cancelled, in time before another control node begins, and the context raises
        LeadershipLostError.
        """

    def away(self) -> str:
        """Why the storage cannot be reached, as far as is known; empty where it can."""

    async def close(self) -> None:
        """Release what is held."""


class Announced:
    """The current version, for those who wait for another. Belongs to one event loop."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._next = asyncio.Event()

    def set(self, version: int) -> None:
        """Wake those who wait, if it is another."""
        if version != self.version:
            self.version = version
            self._next.set()
            self._next = asyncio.Event()

    async def other_than(self, version: int) -> None:
        """Return as soon as it is."""
        while self.version == version:
            await self._next.wait()


def check_key(space: str, key: str) -> None:
    """Raises ValueError for a space or a key that no store takes."""
    if space not in SPACES:
        raise ValueError(f"{space!r} is no space; there are {', '.join(sorted(SPACES))}")
    if not (0 < len(key) <= KEY_LIMIT and key.isprintable()):
        raise ValueError(f"{space}/{key!r}: a key has 1 to {KEY_LIMIT} printable characters")


def check_writes(changes: tuple[Write, ...]) -> None:
    """Raises ValueError for what `Store.write` does not take."""
    if not 0 < len(changes) <= CHANGES_LIMIT:
        raise ValueError(f"{len(changes)} changes; 1 to {CHANGES_LIMIT} can be written at once")
    if len({(change.space, change.key) for change in changes}) < len(changes):
        raise ValueError("a record can be changed once in a write")
    if (size_bytes := sum(len(change.value or b"") for change in changes)) > WRITE_LIMIT_BYTES:
        raise ValueError(f"{size_bytes} bytes; at most {WRITE_LIMIT_BYTES} can be written at once")


def check_range(space: str, limit: int) -> None:
    """Raises ValueError for what `Store.records` does not take."""
    if space not in SPACES:
        raise ValueError(f"{space!r} is no space; there are {', '.join(sorted(SPACES))}")
    if not 0 < limit <= RECORDS_LIMIT:
        raise ValueError(f"limit {limit}; 1 to {RECORDS_LIMIT} records can be read at once")


def no_such(version: int, kept: tuple[Entry, ...]) -> NoSuchVersionError:
    """The error for a version that is not among those kept, newest first."""
    which = f"{kept[-1].version} to {kept[0].version} are kept" if kept else "there are none yet"
    return NoSuchVersionError(f"there is no version {version}; {which}")
