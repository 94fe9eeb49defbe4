"""What an action may be given: a table of fields, read before the action is. Pure.

Bodies are JSON; in a query the same stands as `filters.1.name=…&filters.1.values.1=…`, and numbers are text. A field
that an action does not know is refused, and so is one that means something which there is not here (`refused`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from control.cloud import given
from control.cloud.given import LackingFieldError, Read, WrongFieldError, block_of, line, one_of, whole
from control.jdcloud.errors import invalid, missing, unsupported

MOST_ITEMS = 100


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `read` takes its name and value; with `refused` it is not taken, for that reason."""

    name: str
    read: Read
    required: bool = False
    refused: str = ""


class Given(given.Given):
    """With what a body has: tables in tables."""

    __slots__ = ()

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.values.get(name, default))

    def table(self, name: str) -> Given:
        found = self.values[name]
        assert isinstance(found, Given)
        return found

    def tables(self, name: str) -> tuple[Given, ...]:
        found = self.values.get(name, ())
        assert isinstance(found, tuple)
        return found


def text(name: str, most: int = 80, *, required: bool = False) -> Field:
    """One line."""
    return Field(name, line(most), required)


def block(name: str, most: int, *, required: bool = False) -> Field:
    """Several lines."""
    return Field(name, block_of(most), required)


def number(name: str, low: int, high: int, *also: int, required: bool = False) -> Field:
    """A whole number of a range, or one of a few others."""
    return Field(name, whole(low, high, also), required)


def flag(name: str) -> Field:
    def read(name: str, given: object) -> bool:
        if isinstance(given, str) and given.lower() in ("true", "false"):
            return given.lower() == "true"
        if not isinstance(given, bool):
            raise invalid(name, "true or false is")
        return given

    return Field(name, read)


def word(name: str, *words: str, required: bool = False, others: Mapping[str, str] | None = None) -> Field:
    """One of a few words. `others` are further ones of the API, which there are not here, and why."""
    return Field(name, one_of(words, others or {}), required)


def table(name: str, fields: Sequence[Field], *, required: bool = False) -> Field:
    """An object."""
    return Field(name, lambda name, given: _table(name, given, fields), required)


def many(name: str, item: Field | Sequence[Field], *, required: bool = False) -> Field:
    """A list: of objects, or of what a field reads."""

    def read(name: str, given: object) -> tuple[object, ...]:
        if not isinstance(given, list) or not 0 < len(given) <= MOST_ITEMS:
            raise invalid(name, f"a list of 1 to {MOST_ITEMS} is")
        if isinstance(item, Field):
            return tuple(item.read(name, each) for each in given)
        return tuple(_table(name, each, item) for each in given)

    return Field(name, read, required)


def refused(name: str, why: str) -> Field:
    """A field of the API that there is not here."""
    return Field(name, lambda *_: None, refused=why)


def no_longer(name: str, why: str) -> Field:
    """A switch that can only be off here."""

    def read(name: str, given: object) -> bool:
        if given in (False, "false", "False"):
            return False
        raise unsupported(name, why)

    return Field(name, read)


def _table(name: str, given: object, fields: Sequence[Field]) -> Given:
    if not isinstance(given, Mapping):
        raise invalid(name, "an object is")
    return read(fields, given, f"{name}.")


def read(fields: Sequence[Field], given: Mapping[str, object], prefix: str = "") -> Given:
    """What an action is given. Raises JdError. What is null or empty counts as not given."""
    known = {each.name: each for each in fields}
    values: dict[str, object] = {}
    for name, value in given.items():
        if value is None or value in ("", []):
            continue
        field = known.get(name)
        if field is None:
            raise unsupported(prefix + name[:60], "there is none of that name")
        if field.refused:
            raise unsupported(prefix + name, field.refused)
        try:
            values[name] = field.read(prefix + name, value)
        except WrongFieldError as error:
            raise invalid(error.name, error.why) from None
        except LackingFieldError as error:
            raise unsupported(error.name, error.why) from None
    for each in fields:
        if each.required and each.name not in values:
            raise missing(prefix + each.name)
    return Given(values)


def body(data: bytes) -> Mapping[str, object]:
    """The object that a body is. Raises JdError."""

    def pairs(found: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(found)) < len(found):
            raise invalid("body", "a field is given twice")
        return dict(found)

    if not data:
        return {}
    try:
        document = json.loads(data.decode(), object_pairs_hook=pairs)
    except (ValueError, RecursionError):  # UnicodeDecodeError is one
        raise invalid("body", "it is no JSON") from None
    if not isinstance(document, dict):
        raise invalid("body", "an object is")
    return document


def nested(pairs: Mapping[str, str]) -> Mapping[str, object]:
    """What a query says, in the shape that a body has. Raises JdError."""
    root: dict[str, object] = {}
    for name, value in pairs.items():
        *parts, last = name.split(".")
        node = root
        for part in parts[:6]:
            inner = node.setdefault(part, {})
            if not isinstance(inner, dict):
                raise invalid(name[:60], "it is a text and a list at once")
            node = inner
        if last in node or len(parts) > 6:
            raise invalid(name[:60], "it is a text and a list at once")
        node[last] = value
    return {name: _lists(value) for name, value in root.items()}


def _lists(value: object) -> object:
    if not isinstance(value, dict):
        return value
    inner = {name: _lists(each) for name, each in value.items()}
    if all(re.fullmatch("[1-9][0-9]{0,3}", name, re.ASCII) for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner
