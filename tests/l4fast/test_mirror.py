"""Differences against what was written, and numbers that rest before they are given again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from l4fast.loader import DataPlane
from l4fast.mirror import Indexes, Mirror


def test_a_released_index_rests_until_it_is_settled() -> None:
    indexes = Indexes(2)
    assert indexes.take("a") == (0, True)
    assert indexes.take("a") == (0, False)
    indexes.keep(set())
    assert indexes.take("b") == (1, True)
    assert not indexes.room({"b", "c"})
    assert indexes.settle() == [0]
    assert indexes.room({"b", "c"})
    assert indexes.take("c") == (0, True)


@pytest.fixture(scope="module")
def plane() -> Iterator[DataPlane]:
    plane = DataPlane.load(sessions=16, half_open=16, listeners=8, members=8)
    yield plane
    plane.close()


@pytest.mark.root
def test_a_mirror_writes_differences(plane: DataPlane) -> None:
    mirror = Mirror(plane, "vips", 4)
    one, two, three = (bytes([10, 0, 0, n]) for n in (1, 2, 3))
    assert mirror.add({one: bytes(4), two: bytes(4)}) == set()
    assert mirror.add({one: bytes(4), two: b"\1\0\0\0", three: bytes(4)}) == {two}
    assert mirror.prune([two]) == {one, three}
    assert [(keys, values) for keys, values, _ in mirror.map.blocks(8)] == [(two, b"\1\0\0\0")]
