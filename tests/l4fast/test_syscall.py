"""Map access and test runs through bpf(2), on real maps."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from l4fast.bpf import syscall
from l4fast.loader import DataPlane

pytestmark = pytest.mark.root

SIZE = 1024


@pytest.fixture(scope="module")
def plane() -> Iterator[DataPlane]:
    plane = DataPlane.load(sessions=SIZE, half_open=64, listeners=16, reals=SIZE)
    yield plane
    plane.close()


@pytest.fixture
def macs(plane: DataPlane) -> syscall.Map:  # type: ignore[type-arg]
    """A hash of 32-bit keys and eight-byte values, empty."""
    table = plane.map("macs")
    for keys, _, count in list(table.blocks(SIZE)):
        table.delete_many(keys, count)
    return table


def keys(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}I", *numbers)


def values(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}Q", *numbers)


def held(table: syscall.Map, batch: int = 64) -> dict[int, int]:  # type: ignore[type-arg]
    found: dict[int, int] = {}
    for some_keys, some_values, count in table.blocks(batch):
        assert len(some_keys) == 4 * count
        found.update(zip(struct.unpack(f"={count}I", some_keys), struct.unpack(f"={count}Q", some_values), strict=True))
    return found


def test_one_element(macs: syscall.Map) -> None:  # type: ignore[type-arg]
    key = macs.key(7)
    assert macs.get(key) is None
    macs.put(key, macs.value.from_buffer_copy(values(77)))
    assert bytes(macs.get(key)) == values(77)
    assert macs.delete(key)
    assert not macs.delete(key)


def test_blocks_of_elements(macs: syscall.Map) -> None:  # type: ignore[type-arg]
    numbers = range(500)
    assert macs.put_many(keys(*numbers), values(*numbers), 500) == 500
    for batch in (1, 7, 64, 4096):
        assert held(macs, batch) == {n: n for n in numbers}
    assert held(macs) == {n: n for n in numbers}
    assert macs.delete_many(keys(*range(100)), 100) == 100
    assert held(macs).keys() == set(range(100, 500))


def test_deleting_steps_over_what_has_gone(macs: syscall.Map) -> None:  # type: ignore[type-arg]
    macs.put_many(keys(1, 2, 3, 4), values(1, 2, 3, 4), 4)
    macs.delete(macs.key(2))
    macs.delete_many(keys(9, 1, 2, 8, 3), 5)
    assert held(macs) == {4: 4}


def test_a_full_map_says_how_many_had_room(macs: syscall.Map) -> None:  # type: ignore[type-arg]
    numbers = range(SIZE + 50)
    assert macs.put_many(keys(*numbers), values(*numbers), len(numbers)) == SIZE
    assert len(held(macs)) == SIZE


def test_per_cpu_values_are_one_for_each_cpu(plane: DataPlane) -> None:
    stats = plane.map("listener_stats")
    wanted = [stats.value(packets_in=10 + cpu, cursor=cpu) for cpu in range(plane.cpus)]
    stats.put_per_cpu(stats.key(3), wanted)
    assert [bytes(value) for value in stats.get_per_cpu(stats.key(3), plane.cpus)] == [bytes(value) for value in wanted]


def test_a_failing_call_names_the_map(plane: DataPlane) -> None:
    stats = plane.map("reals")
    with pytest.raises(OSError, match="map reals: Argument list too long") as raised:
        stats.put(stats.key(SIZE), stats.value())
    assert raised.value.errno == errno.E2BIG


def test_an_array_of_our_own() -> None:
    fd = syscall.create_map(
        syscall.MAP_TYPE_ARRAY, 4, 8, 4, syscall.F_INNER_MAP, "a-name-longer-than-fifteen".replace("-", "_")
    )
    try:
        assert syscall.update_batch(fd, keys(0, 1, 2, 3), values(5, 6, 7, 8), 4) == 4
    finally:
        os.close(fd)


def test_a_program_runs(plane: DataPlane) -> None:
    frame = bytes(range(64))
    action, after, nanoseconds = syscall.run_program(plane.program.fd("lb"), frame, 3)
    assert (action, after) == (2, frame)
    assert nanoseconds >= 0
    with pytest.raises(OSError, match="Invalid argument"):
        syscall.run_program(plane.program.fd("lb"), bytes(syscall.SMALLEST_FRAME - 1), 1)
