"""Reads tables in which nothing is unusual, fast: what `core.reader` makes of them, or nothing at all.

`core.reader` can say of every value what is wrong with it and where, which costs most of the time that a large
configuration takes to be read. Here a table becomes an object by functions that are made once for each type of
field, and that give up (`Unusual`) at whatever is not plainly sound: then `core.reader` reads the table, and says what
there is to say. So nothing is accepted or refused here that it would not accept or refuse; tests hold the two together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final, get_args, get_origin

from core.fields import Address, Pairs, Pattern, Range
from core.reader import fields, optional, split

# No multicast, and none that stands for all or nobody: they are looked at more closely.
_IPV4: Final = re.compile(
    r"(?:[1-9]|[1-9][0-9]|1[0-9][0-9]|2[01][0-9]|22[0-3])(?:\.(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}"
)

Make = Callable[[Any], object]


class Unusual(Exception):
    """A value that `core.reader` has to look at."""


def ordinary(cls: type, table: object) -> object | None:
    """The object of `cls` that a table is; None where `core.reader` has to be asked."""
    try:
        return _object(cls)(table)
    except (Unusual, LookupError, TypeError):  # a key or a word that is not known, or a field that is missing
        return None


@cache
def _object(cls: type) -> Make:
    makes = {field.name: _make(field.annotation) for field in fields(cls)}

    def make(table: Any) -> object:
        if type(table) is not dict:
            raise Unusual
        return cls(**{key: makes[key](value) for key, value in table.items()})

    return make


def _make(annotation: object) -> Make:
    bare, constraints = split(annotation)
    inner = optional(bare)
    if inner is not None:
        return _optional(_make(inner))
    if constraints and isinstance(constraints[0], Pairs):
        return _pairs(constraints[0])
    if get_origin(bare) is tuple:
        return _tuple(_make(get_args(bare)[0]))
    if isinstance(bare, type) and is_dataclass(bare):
        return _object(bare)
    if isinstance(bare, type) and issubclass(bare, StrEnum):
        return {member.value: member for member in bare}.__getitem__
    if bare is bool:
        return _bool
    if bare is str:
        return _text(constraints)
    assert bare in (int, float), bare
    return _number(int if bare is int else float, constraints)


def _optional(make: Make) -> Make:
    return lambda value: None if value is False else make(value)


def _tuple(make: Make) -> Make:
    def items(value: Any) -> object:
        if type(value) is not list:
            raise Unusual
        return tuple([make(element) for element in value])

    return items


def _pairs(pairs: Pairs) -> Make:
    key, value = _text((pairs.key,)), _text((pairs.value,))

    def table(given: Any) -> object:
        if type(given) is not dict or len(given) > pairs.most:
            raise Unusual
        return tuple(sorted((key(name), value(text)) for name, text in given.items()))

    return table


def _bool(value: object) -> object:
    if type(value) is not bool:
        raise Unusual
    return value


def _number(kind: type[int] | type[float], constraints: tuple[object, ...]) -> Make:
    ranges = [(each.low, each.high) for each in constraints if isinstance(each, Range)]

    def number(value: Any) -> object:
        if type(value) is not int and type(value) is not kind:
            raise Unusual
        for low, high in ranges:
            if not low <= value <= high:
                raise Unusual
        return kind(value)

    return number


def _text(constraints: tuple[object, ...]) -> Make:
    tests: list[Callable[[str], object]] = []
    for each in constraints:
        if isinstance(each, Pattern):
            tests.append(re.compile(each.regex).fullmatch)
        elif isinstance(each, Address):
            tests.append(_IPV4.fullmatch if 4 in each.versions and not each.network else _never)

    def text(value: Any) -> object:
        if type(value) is not str or not value.isascii():
            raise Unusual
        for sound in tests:
            if not sound(value):
                raise Unusual
        return value

    return text


def _never(_: str) -> None:
    """Networks, and addresses of IPv6 alone, have a form to be put in."""
