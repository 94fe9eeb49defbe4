"""What a rule asks of a request besides its place: a pattern of its path, method, fields, query and cookies.

All of it has to hold. A condition names something, and holds if the request has it with one of the values: in several
fields of a name, one is enough. Fields are looked at as the client sent them. Names and values of a query are compared
decoded (`+` is a blank), as forms are sent.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from urllib.parse import unquote_to_bytes

from core.model import Condition, Rule
from core.paths import regex
from core.rules import conditional
from proxy.message import Asked

# What rules may be told apart by: a kind and a name.
Told = tuple[int, bytes]
_METHOD, _FIELD, _QUERY, _COOKIE = range(4)


class Wanted:
    """The values of one condition."""

    __slots__ = ("_patterns", "any", "exact")

    def __init__(self, values: Iterable[str]) -> None:
        values = list(values)
        self.any = not values
        self.exact = frozenset(value.encode() for value in values if not _is_pattern(value))
        self._patterns = [re.compile(_regex(value)) for value in values if _is_pattern(value)]

    @property
    def listed(self) -> bool:
        """Whether the values are all that there can be."""
        return bool(self.exact) and not self._patterns

    def has(self, value: bytes) -> bool:
        if self.any or value in self.exact:
            return True
        return any(pattern.match(value.decode("utf-8", "surrogateescape")) for pattern in self._patterns)


def _is_pattern(value: str) -> bool:
    return "*" in value or "?" in value


def _regex(value: str) -> str:
    """fnmatch's, whose time grows with the length of value and pattern and no faster; here `[` is a plain character."""
    return fnmatch.translate(value.replace("[", "[[]"))


class Conditions:
    """Those of one rule."""

    __slots__ = ("_cookies", "_headers", "_methods", "_pattern", "_queries")

    def __init__(self, rule: Rule) -> None:
        self._pattern = path_pattern(rule)
        self._methods = frozenset(method.encode("ascii") for method in rule.methods)
        self._headers = wanted_of(rule.headers, lower=True)
        self._queries = wanted_of(rule.queries)
        self._cookies = wanted_of(rule.cookies)

    @classmethod
    def of(cls, rule: Rule) -> Conditions | None:
        """None for a rule that asks nothing more; whether its map has a request is asked elsewhere."""
        return cls(rule) if conditional(replace(rule, redirect_map="") if rule.redirect_map else rule) else None

    def told_by(self) -> tuple[Told, frozenset[bytes], bool] | None:
        """Something that a request has to have, of which values one, and whether that is all; None where no list of
        values says it."""
        asked = len(self._headers) + len(self._queries) + len(self._cookies) + bool(self._methods)
        alone = asked == 1 and self._pattern is None
        for kind, conditions in ((_FIELD, self._headers), (_QUERY, self._queries), (_COOKIE, self._cookies)):
            for name, wanted in conditions:
                if wanted.listed:
                    return (kind, name), wanted.exact, alone
        return ((_METHOD, b""), self._methods, alone) if self._methods else None

    def hold(self, head: Asked, target: bytes) -> bool:
        """Whether a request fulfils them all."""
        if self._methods and head.method not in self._methods:
            return False
        if self._pattern is not None and self._pattern.fullmatch(target.partition(b"?")[0]) is None:
            return False
        for name, wanted in self._headers:
            if not any(wanted.has(value) for value in head.values(name)):
                return False
        return (not self._queries or _among(self._queries, query_pairs(target))) and (
            not self._cookies or _among(self._cookies, cookie_pairs(head))
        )


def path_pattern(rule: Rule) -> re.Pattern[bytes] | None:
    """A rule's pattern for whole paths, with a group for each star."""
    return re.compile(regex(rule.pattern).encode("ascii"), re.DOTALL) if rule.pattern else None


def wanted_of(conditions: Iterable[Condition], *, lower: bool = False) -> tuple[tuple[bytes, Wanted], ...]:
    """The name of each condition, in lower case if that is said, and its values."""
    return tuple(((each.name.lower() if lower else each.name).encode(), Wanted(each.values)) for each in conditions)


def _among(conditions: tuple[tuple[bytes, Wanted], ...], pairs: Iterable[tuple[bytes, bytes]]) -> bool:
    found = list(pairs)
    return all(any(name == key and wanted.has(value) for key, value in found) for name, wanted in conditions)


def values_of(told: Told, head: Asked, target: bytes) -> Collection[bytes]:
    """Which values a request has of something."""
    kind, name = told
    if kind == _METHOD:
        return (head.method,)
    if kind == _FIELD:
        values = head.values(name)
        return values if len(values) < 2 else set(values)
    pairs = query_pairs(target) if kind == _QUERY else cookie_pairs(head)
    return {value for key, value in pairs if key == name}


def query_pairs(target: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of a target's query, decoded."""
    for pair in target.partition(b"?")[2].replace(b"+", b" ").split(b"&"):
        name, _, value = pair.partition(b"=")
        yield unquote_to_bytes(name), unquote_to_bytes(value)


def cookie_pairs(head: Asked) -> Iterator[tuple[bytes, bytes]]:
    """Names and values of a request's cookies (RFC 6265 §4.2.1)."""
    for field in head.values(b"cookie"):
        for pair in field.split(b";"):
            name, _, value = pair.partition(b"=")
            yield name.strip(), value.strip()
