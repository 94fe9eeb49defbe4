"""Paths of a configuration are those that requests are routed by."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.paths import above, below, fault
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
