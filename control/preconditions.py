"""Entity tags and the conditions of requests on them (RFC 9110 §8.8.3, §13.1). Pure.

The whole configuration's tag is its version, "7". An object's is a hash of what it says, "o5d41…": it changes when the
object does and not when another one does. A write of one object may name either.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

_TAGS = re.compile(r'\s*(?:,\s*)*(W/)?"([!#-~\x80-\xff]*)"\s*(?:,|$)')
DIGEST_CHARACTERS = 24


class MalformedTagError(ValueError):
    """A header that holds no entity tags."""


class PreconditionError(Exception):
    """What a request was made from is not there any more; `current` is the tag that is, if there is one."""

    def __init__(self, text: str, current: str | None) -> None:
        super().__init__(text)
        self.current = current


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of one header. `every` is `*`; `weak` are those that match for reading only."""

    every: bool = False
    strong: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, header: str) -> Tags:
        """Raises MalformedTagError."""
        if header.strip() == "*":
            return cls(every=True)
        strong: set[str] = set()
        weak: set[str] = set()
        at = 0
        while at < len(header):
            match = _TAGS.match(header, at)
            if match is None:
                raise MalformedTagError(header)
            (weak if match[1] else strong).add(match[2])
            at = match.end()
        if not strong | weak:
            raise MalformedTagError(header)
        return cls(False, frozenset(strong), frozenset(weak))


@dataclass(frozen=True, slots=True)
class Conditions:
    """`If-Match` and `If-None-Match` of a request; None where it has none."""

    match: Tags | None = None
    none_match: Tags | None = None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Conditions:
        """Raises MalformedTagError."""
        found = [headers.get(name) for name in ("If-Match", "If-None-Match")]
        return cls(*(None if each is None else Tags.parse(each) for each in found))

    def permit(self, tags: Collection[str], exists: bool, what: str) -> None:
        """Whether `what`, which has these tags, may be written. Raises PreconditionError."""
        current = next(iter(tags), None)
        if self.match is not None and not (exists if self.match.every else self.match.strong & set(tags)):
            why = "is another by now" if exists else "does not exist"
            raise PreconditionError(f"{what} {why}; read it again and repeat your change", current)
        if self.none_match is not None and (
            exists if self.none_match.every else (self.none_match.strong | self.none_match.weak) & set(tags)
        ):
            raise PreconditionError(f"{what} exists already; leave out If-None-Match to replace it", current)

    def unchanged(self, tag: str) -> bool:
        """Whether a reader has what has this tag already (304)."""
        return self.none_match is not None and (
            self.none_match.every or tag in self.none_match.strong | self.none_match.weak
        )


def object_tag(table: Mapping[str, object]) -> str:
    """The tag of an object as it stands in a configuration."""
    text = json.dumps(table, sort_keys=True, ensure_ascii=False)
    return "o" + hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARACTERS]
