"""What an action may be given: a table of parameters, each with what it may hold, read before the action is. Pure.

A parameter that an action does not know is refused, and so is one that means something which there is not here, with
the reason (`refused`): whoever gives it would believe in an effect that is none. Lists come as `Tag.1.Key` and
`Tag.1.Value`, as `ResourceId.1`, or as JSON in one parameter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from control.alibaba.errors import SlbError, invalid, missing, unsupported
from control.cloud import given
from control.cloud.given import LackingFieldError, Read, WrongFieldError, block_of, line, one_of, whole

MOST_ITEMS = 100
JSON_LIMIT = 100_000
_PART = re.compile(r"([A-Za-z]\w*)\.([1-9][0-9]{0,3})(?:\.([A-Za-z]\w*))?")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. `read` takes its name and text. With `refused` it is not taken, for that reason.

    With `many` it is a list: Name.1, Name.2, or Name.1.Key and so on.
    """

    name: str
    read: Read
    required: bool = False
    refused: str = ""
    many: bool = False


# --- forms


def text(name: str, most: int = 256, *, required: bool = False) -> Parameter:
    """One line."""
    return Parameter(name, line(most), required)


def block(name: str, most: int, *, required: bool = False) -> Parameter:
    """Several lines."""
    return Parameter(name, block_of(most), required)


def number(name: str, low: int, high: int, *also: int, required: bool = False) -> Parameter:
    """A whole number of a range, or one of a few others."""
    return Parameter(name, whole(low, high, also), required)


def word(name: str, *words: str, required: bool = False, others: Mapping[str, str] | None = None) -> Parameter:
    """One of a few words. `others` are further ones of the API, which there are not here, and why."""
    return Parameter(name, one_of(words, others or {}), required)


def tables(name: str, *keys: str, required: bool = False) -> Parameter:
    """A list of objects in JSON, whose members are of these names; handlers get strings."""

    def read(name: str, given: object) -> tuple[Mapping[str, str], ...]:
        found = _json(name, given)
        if not isinstance(found, list) or len(found) > MOST_ITEMS or not all(isinstance(each, dict) for each in found):
            raise invalid(name, f"a JSON list of at most {MOST_ITEMS} objects is")
        return tuple(_table(name, each, keys) for each in found)

    return Parameter(name, read, required)


def strings(name: str, *, required: bool = False) -> Parameter:
    """A list of strings in JSON."""

    def read(name: str, given: object) -> tuple[str, ...]:
        found = _json(name, given)
        if not isinstance(found, list) or len(found) > MOST_ITEMS or not all(isinstance(each, str) for each in found):
            raise invalid(name, f"a JSON list of at most {MOST_ITEMS} strings is")
        return tuple(found)

    return Parameter(name, read, required)


def many(name: str, *, required: bool = False) -> Parameter:
    """Name.1, Name.2; handlers get a tuple of strings, or of tables for Name.1.Key."""
    return Parameter(name, line(256), required, many=True)


def refused(name: str, why: str) -> Parameter:
    """A parameter of the API that there is not here."""
    return Parameter(name, line(0), refused=why)


def _json(name: str, given: object) -> object:
    if not isinstance(given, str) or len(given) > JSON_LIMIT:
        raise invalid(name, f"at most {JSON_LIMIT} characters are")
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        raise invalid(name, "it is no JSON") from None


def _table(name: str, given: Mapping[str, object], keys: Sequence[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for key, value in given.items():
        if key not in keys:
            raise unsupported(f"{name}.{key[:60]}", f"known are {', '.join(keys)}")
        if value is None:
            continue
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise invalid(f"{name}.{key}", "text or a number is")
        found[key] = _checked_text(f"{name}.{key}", str(value))
    return found


def _checked_text(name: str, given: str) -> str:
    if len(given) > 1024 or any(character < " " for character in given):
        raise invalid(name, "a line of at most 1024 characters is")
    return given


# --- reading


class Given(given.Given):
    """With what a query has: words for switches, and lists."""

    __slots__ = ()

    def on(self, name: str, default: bool = False) -> bool:
        """A parameter that is on or off, true or false."""
        found = self.values.get(name)
        return default if found is None else found in ("on", "true")

    def list(self, name: str) -> tuple[Mapping[str, str], ...]:
        """A list of tables."""
        found = self.values.get(name, ())
        assert isinstance(found, tuple)
        return found


def read(table: Sequence[Parameter], given: Mapping[str, str]) -> Given:
    """What an action is given. Raises SlbError. A parameter that is empty counts as not given."""
    try:
        return _read(table, given)
    except WrongFieldError as error:
        raise invalid(error.name, error.why) from None
    except LackingFieldError as error:
        raise unsupported(error.name, error.why) from None


def _read(table: Sequence[Parameter], given: Mapping[str, str]) -> Given:
    known = {each.name: each for each in table}
    values: dict[str, object] = {}
    lists: dict[str, dict[int, object]] = {}
    for name, value in given.items():
        parameter = known.get(name)
        if parameter is not None and not parameter.many:
            if parameter.refused:
                raise unsupported(name, parameter.refused)
            if value:
                values[name] = parameter.read(name, value)
            continue
        match = _PART.fullmatch(name)
        listed = known.get(match[1]) if match else None
        if match is None or listed is None or not (listed.many or listed.refused):
            raise unsupported(name[:60], "this action has none of that name")
        if listed.refused:
            raise unsupported(name[:60], listed.refused)
        _put(lists.setdefault(match[1], {}), match, listed, value)
    for name, items in lists.items():
        values[name] = tuple(items[index] for index in sorted(items))
    for each in table:
        if each.required and each.name not in values:
            raise missing(each.name)
    return Given(values)


def _put(items: dict[int, object], match: re.Match[str], parameter: Parameter, value: str) -> None:
    name, index, part = match[0], int(match[2]), match[3]
    if index > MOST_ITEMS:
        raise invalid(name, f"at most {MOST_ITEMS} can be given")
    told = parameter.read(name, value)
    if part is None:
        if index in items:
            raise invalid(name, "it is a text and a table at once")
        items[index] = told
        return
    if part not in ("Key", "Value"):
        raise unsupported(name[:60], "known are Key and Value")
    table = items.setdefault(index, {})
    if not isinstance(table, dict):
        raise invalid(name, "it is a text and a table at once")
    table[part] = told


def tables_of(given: Given, name: str) -> tuple[tuple[str, str], ...]:
    """The tags of `Tag.N.Key` and `Tag.N.Value`. Raises SlbError."""
    found: list[tuple[str, str]] = []
    for item in given.values.get(name, ()):  # type: ignore[attr-defined]
        if not isinstance(item, dict) or not item.get("Key"):
            raise SlbError("MissingParameter.TagKey", 400, f"Each {name} has a Key.")
        found.append((item["Key"], item.get("Value", "")))
    return tuple(found)


def texts_of(given: Given, name: str) -> tuple[str, ...]:
    """The texts of `Name.N`. Raises SlbError."""
    found = given.values.get(name, ())
    assert isinstance(found, tuple)
    if not all(isinstance(each, str) for each in found):
        raise invalid(name, f"{name}.1, {name}.2 are")
    return found
