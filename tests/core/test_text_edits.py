"""Edits of long texts: whatever has changed, they make the new text, and few changes are few edits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import text_edits
from core.text_edits import edited, edits

LINES = st.lists(st.sampled_from(["a", "b", "c", "dd", "", "é", "x\ry"]), max_size=30)


@pytest.mark.parametrize("near", [0, text_edits.NEAR])
@given(old=LINES, new=LINES, ends=st.tuples(st.booleans(), st.booleans()))
def test_they_make_the_new_text(near: int, old: list[str], new: list[str], ends: tuple[bool, bool]) -> None:
    one, other = ("\n".join(each) + "\n" * end for each, end in zip((old, new), ends, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_edits, "NEAR", near)
        found = edits(one, other)
    assert edited(one, found) == other
    assert bool(found) is (one != other)


def test_few_changes_are_few_edits() -> None:
    draw = random.Random(7)
    lines = [f"/{draw.getrandbits(60):x} /new/{number}" for number in range(20_000)]
    changed = list(lines)
    changed[5] = "/first /x"
    del changed[10_000]
    changed.insert(15_000, "/more /y")
    changed[-1] = "/last /z"
    found = edits("\n".join(lines), "\n".join(changed))
    assert len(found) == 4
    assert sum(len(text) for _, _, text in found) < 60
    (one,) = edits("\n".join(lines), "\n".join([*lines, "/a /b"]))
    assert one[1:] == (0, "\n/a /b")


@pytest.mark.parametrize("wrong", [(0, 9, ""), (-1, 1, ""), (2, 0, ""), ("0", 1, ""), (0, 1, None)], ids=range(5))
def test_edits_of_something_else_are_refused(wrong: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="an edit"):
        edited("abcd", [(3, 1, "x"), wrong] if wrong == (2, 0, "") else [wrong])
