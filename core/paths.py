"""Paths in a configuration are written in the one normal form in which requests are routed (docs/decisions/0020).

The L7 tier brings every path that a client sends into that form (proxy/rules.py), so that a path in another form would
never match anything. Here it is only recognised: whoever writes a configuration is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Unreserved characters (RFC 3986, section 2.3), which are never escaped in normal form, and escapes that are refused.
_ESCAPE = re.compile(r"%([0-9A-F]{2})?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DOT_SEGMENT = re.compile(r"(/|%2F|%5C)\.\.?(/|%2F|%5C|$)")
_STARS = re.compile(r"\*\*?")


def fault(path: str) -> str:
    """Why no request ever has this path; empty if one may."""
    if "%" not in path and "/." not in path and not any(mark in path for mark in "?#\\"):
        return ""
    for mark in "?#\\":
        if mark in path:
            return f"a path has no {mark}"
    for escape in _ESCAPE.finditer(path):
        if escape[1] is None:
            return "a '%' is followed by two hexadecimal digits in capitals"
        if escape[1] == "00":
            return "no path has a NUL"
        if chr(int(escape[1], 16)) in _UNRESERVED:
            return f"%{escape[1]} is written as {chr(int(escape[1], 16))}"
    return "no path has the segments '.' and '..'" if _DOT_SEGMENT.search(path) else ""


def below(path: str, url: str) -> bool:
    """Whether `path` is `url` or lies below it, by whole segments: `/api` is `/api` and `/api/x`, not `/apis`."""
    return path.startswith(url) and (len(path) == len(url) or url.endswith("/") or path[len(url)] == "/")


def above(path: str) -> Iterable[str]:
    """Every url that `path` is below, itself among them."""
    ends = [index for index, character in enumerate(path) if character == "/"]
    return dict.fromkeys([path, *(path[: end + 1] for end in ends), *(path[:end] for end in ends if end)])


def stars(pattern: str) -> list[str]:
    """The stars of a pattern, in their order."""
    return _STARS.findall(pattern)


def pattern_fault(pattern: str) -> str:
    """Why a pattern matches no path, or is no pattern; empty if it is one. Its stars may stand for nothing."""
    found = stars(pattern)
    if not found:
        return "there is no * in it"
    if len(found) > 9 or "**" in found[:-1] or any(len(stars(segment)) > 1 for segment in pattern.split("/")):
        return "there are at most nine *, one in a segment, and ** is the last"
    if "**" in pattern and not pattern.endswith("**"):
        return "** stands for all that follows, and nothing comes after that"
    return fault(_STARS.sub("x", pattern))


def regex(pattern: str) -> str:
    """A pattern as a regular expression with a group for each star. With one in a segment, nothing is tried twice."""
    literals = _STARS.split(pattern)
    groups = ["(.*)" if star == "**" else "([^/]*)" for star in stars(pattern)]
    return "".join(re.escape(text) + group for text, group in zip(literals, [*groups, ""], strict=True))
