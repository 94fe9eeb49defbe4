"""The waits of the tests: they end when what they wait for is true, and say what it was when it never is."""

from __future__ import annotations

import pytest

from tests.waiting import eventually, until


async def test_they_end_as_soon_as_the_condition_holds() -> None:
    seen = iter([False, False, True])
    await until(lambda: next(seen))
    seen = iter([False, True])
    eventually(lambda: next(seen))
    assert list(seen) == []


async def test_they_fail_with_what_was_waited_for() -> None:
    never = False
    with pytest.raises(AssertionError, match=r"in vain for 0 s: .*lambda: never"):
        await until(lambda: never, limit_s=0)
    with pytest.raises(AssertionError, match="in vain for 0 s: the moon\nthe log"):
        eventually(lambda: never, "the moon", limit_s=0, said=lambda: "the log")
    with pytest.raises(AssertionError, match="__len__"):
        eventually([].__len__, limit_s=0)
