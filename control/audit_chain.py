"""The audit log's entries: what they say, and the chain of hashes that ties each to the one before. Pure.

Entry N has the hash of entry N - 1 in `previous`, and its own `hash` over all that it says, `previous` included. Who
changes, removes or slips in an entry has to make every later one anew. That can be told as long as one later hash is
known from elsewhere: the lines that the control plane has sent to the journal, or what `paifang audit verify` printed
last time. Cutting off the newest entries can be told in the same way only.

    hash = SHA-256 of the entry without `hash` as JSON: keys sorted, no blanks, ASCII
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NO_HASH = "0" * 64  # what the first entry of all follows
VALUE_LIMIT_BYTES = 60_000  # a record may have 64 KiB
TEXT_LIMIT = 500
OBJECTS_LIMIT = 200  # changed objects that are named; `changes` counts them all

Entry = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain stands: the first entry that is kept and what it follows, the last entry and its hash."""

    first: int = 1
    before: str = NO_HASH
    last: int = 0
    hash: str = NO_HASH


class ChainError(Exception):
    """The chain is broken; the text says where."""


def chained(told: Entry, head: Head) -> tuple[Entry, Head]:
    """What is told as the entry behind `head`, and the head behind it."""
    number = head.last + 1
    entry: dict[str, object] = {**told, "number": number, "previous": head.hash}
    entry["hash"] = entry_hash(entry)
    return entry, Head(head.first, head.before, number, str(entry["hash"]))


def entry_hash(entry: Entry) -> str:
    """The hash that an entry has to have."""
    said = {name: each for name, each in entry.items() if name != "hash"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def key_of(number: int) -> str:
    """The key of an entry's record: in the order of the numbers."""
    return f"{number:016d}"


def encoded(entry: Entry) -> bytes:
    """An entry as its record has it."""
    value = json.dumps(entry).encode()
    assert len(value) <= VALUE_LIMIT_BYTES, "entries are made of bounded parts"
    return value


@dataclass(slots=True)
class Verifier:
    """Follows a chain from its beginning; `expected` are hashes by number that are known from elsewhere."""

    head: Head
    expected: Mapping[int, str]
    number: int = 0
    hash: str = ""

    def __post_init__(self) -> None:
        self.number, self.hash = self.head.first - 1, self.head.before

    def follow(self, entries: Iterable[Entry]) -> None:
        """Take the next entries. Raises ChainError at the first that does not belong there."""
        for entry in entries:
            number = self.number + 1
            if entry.get("number") != number:
                raise ChainError(f"entry {number} is missing: {entry.get('number')} comes in its place")
            if entry.get("previous") != self.hash:
                raise ChainError(f"entry {number} does not follow entry {number - 1}: one of them was changed")
            if entry.get("hash") != entry_hash(entry):
                raise ChainError(f"entry {number} was changed: it does not have its hash")
            self.number, self.hash = number, str(entry["hash"])
            known = self.expected.get(number)
            if known is not None and known != self.hash:
                raise ChainError(f"entry {number} is another than was noted: the log was made anew before or at it")

    def finish(self) -> None:
        """There are no more. Raises ChainError where there should be."""
        if (self.number, self.hash) != (self.head.last, self.head.hash):
            raise ChainError(f"the log ends with entry {self.number}; it should end with {self.head.last}")
        for number in self.expected:
            if not self.head.first - 1 <= number <= self.number:
                kept = f"{self.head.first} to {self.number} are kept"
                raise ChainError(f"entry {number}, which was noted, is not there: {kept}")
        if self.expected.get(self.head.first - 1, self.head.before) != self.head.before:
            raise ChainError(f"entry {self.head.first - 1} is another than was noted")
