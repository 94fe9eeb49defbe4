"""Paths of a configuration are those that requests are routed by."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.paths import above, below, fault, pattern_fault, regex
from proxy.errors import Refused
from proxy.rules import normal_target

PARTS = ["/", ".", "..", "a", "A", "-", "%", "%2F", "%5C", "%2f", "%41", "%2E", "%00", "%C3%A9", "\\", "~", ":"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/", ""),
        ("/a/.well-known/%C3%A9/...", ""),
        ("/a%2Fb", ""),
        ("/a?b", "a path has no ?"),
        ("/a#b", "a path has no #"),
        ("/a\\b", "a path has no \\"),
        ("/%c3", "a '%' is followed by two hexadecimal digits in capitals"),
        ("/100%", "a '%' is followed by two hexadecimal digits in capitals"),
        ("/%00", "no path has a NUL"),
        ("/%7E", "%7E is written as ~"),
        ("/a/../b", "no path has the segments '.' and '..'"),
        ("/a%2F.", "no path has the segments '.' and '..'"),
    ],
)
def test_faults(path: str, why: str) -> None:
    assert fault(path) == why


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PARTS), max_size=6).map(lambda parts: "/" + "".join(parts)))
def test_a_path_is_sound_if_requests_can_have_it(path: str) -> None:
    try:
        normal = normal_target(path.encode()).decode()
    except Refused:
        normal = ""
    assert (not fault(path)) == (normal == path)


@given(*(st.lists(st.sampled_from("/ab"), max_size=5).map(lambda parts: "/" + "".join(parts)) for _ in range(2)))
def test_above_is_what_a_path_is_below(path: str, url: str) -> None:
    assert (url in above(path)) == below(path, url)
    assert len(set(above(path))) == len(list(above(path)))


@pytest.mark.parametrize(
    ("pattern", "path", "groups"),
    [
        ("/users/*/photos", "/users/7/photos", ("7",)),
        ("/users/*/photos", "/users//photos", ("",)),
        ("/users/*/photos", "/users/7/8/photos", None),
        ("/users/*/photos", "/users/7/photos/", None),
        ("/*/v*.json", "/a/v2.json", ("a", "2")),
        ("/*/v*.json", "/a/v2xjson", None),
        ("/a/**", "/a/b/c", ("b/c",)),
        ("/a/**", "/a/", ("",)),
        ("/a/**", "/a", None),
        ("/a**", "/a", ("",)),
        ("/*-x/**", "/a-b-x/c", ("a-b", "c")),
    ],
)
def test_patterns(pattern: str, path: str, groups: tuple[str, ...] | None) -> None:
    assert pattern_fault(pattern) == ""
    match = re.fullmatch(regex(pattern), path)
    assert (match and match.groups()) == groups


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("/a", "there is no * in it"),
        ("/*a*", "there are at most nine *, one in a segment, and ** is the last"),
        ("/**/*", "there are at most nine *, one in a segment, and ** is the last"),
        ("/*" * 10, "there are at most nine *, one in a segment, and ** is the last"),
        ("/**/a", "** stands for all that follows, and nothing comes after that"),
        ("/../*", "no path has the segments '.' and '..'"),
        ("/%61*", "%61 is written as a"),
    ],
)
def test_what_is_no_pattern(pattern: str, why: str) -> None:
    assert pattern_fault(pattern) == why
