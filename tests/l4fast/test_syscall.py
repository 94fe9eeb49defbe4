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
    plane = DataPlane.load(sessions=SIZE, half_open=64, listeners=16, members=SIZE)
    yield plane
    plane.close()


@pytest.fixture
def numbers(plane: DataPlane) -> syscall.Map:  # type: ignore[type-arg]
    """A hash of 32-bit keys and values, empty."""
    table = plane.map("hop_numbers")
    for keys, _, count in list(table.blocks(SIZE)):
        table.delete_many(keys, count)
    return table


def keys(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}I", *numbers)


def values(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}I", *numbers)


def held(table: syscall.Map, batch: int = 64) -> dict[int, int]:  # type: ignore[type-arg]
    found: dict[int, int] = {}
    for some_keys, some_values, count in table.blocks(batch):
        assert len(some_keys) == 4 * count
        found.update(zip(struct.unpack(f"={count}I", some_keys), struct.unpack(f"={count}I", some_values), strict=True))
    return found


def test_one_element(numbers: syscall.Map) -> None:  # type: ignore[type-arg]
    key = numbers.key.from_buffer_copy(keys(7))
    assert numbers.get(key) is None
    numbers.put(key, numbers.value.from_buffer_copy(values(77)))
    assert bytes(numbers.get(key)) == values(77)
    assert numbers.delete(key)
    assert not numbers.delete(key)


def test_blocks_of_elements(numbers: syscall.Map) -> None:  # type: ignore[type-arg]
    some = range(SIZE)
    assert numbers.put_many(keys(*some), values(*some), SIZE) == SIZE
    for batch in (1, 7, 64, 4096):
        assert held(numbers, batch) == {n: n for n in some}
    assert held(numbers) == {n: n for n in some}
    assert numbers.delete_many(keys(*range(100)), 100) == 100
    assert held(numbers).keys() == set(range(100, SIZE))


def test_deleting_steps_over_what_has_gone(numbers: syscall.Map) -> None:  # type: ignore[type-arg]
    numbers.put_many(keys(1, 2, 3, 4), values(1, 2, 3, 4), 4)
    numbers.delete(numbers.key.from_buffer_copy(keys(2)))
    numbers.delete_many(keys(9, 1, 2, 8, 3), 5)
    assert held(numbers) == {4: 4}


def test_a_full_map_says_how_many_had_room(numbers: syscall.Map) -> None:  # type: ignore[type-arg]
    many = range(numbers.max_entries + 50)
    assert numbers.put_many(keys(*many), values(*many), len(many)) == numbers.max_entries
    assert len(held(numbers)) == numbers.max_entries


def test_per_cpu_values_are_one_for_each_cpu(plane: DataPlane) -> None:
    stats = plane.map("listener_stats")
    wanted = [stats.value(denied=10 + cpu, cursor=cpu) for cpu in range(plane.cpus)]
    stats.put_per_cpu(stats.key(3), wanted)
    assert [bytes(value) for value in stats.get_per_cpu(stats.key(3), plane.cpus)] == [bytes(value) for value in wanted]


def test_a_failing_call_names_the_map(plane: DataPlane) -> None:
    members = plane.map("members")
    with pytest.raises(OSError, match="map members: Argument list too long") as raised:
        members.put(members.key(SIZE), members.value())
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
    action, after, nanoseconds = syscall.run_program(plane.programs[4].fd("lb"), frame, 3)
    assert (action, after) == (2, frame)
    assert nanoseconds >= 0
    with pytest.raises(OSError, match="Invalid argument"):
        syscall.run_program(plane.programs[4].fd("lb"), bytes(syscall.SMALLEST_FRAME - 1), 1)


@pytest.mark.parametrize("count", [1, 3, SIZE, 2 * SIZE])
def test_the_first_elements_of_a_per_cpu_array(plane: DataPlane, count: int) -> None:
    table, fields = plane.map("member_stats"), 5
    for number in (0, 2, SIZE - 1):
        each = [table.value(packets_in=10 * number + cpu, sessions_made=number) for cpu in range(plane.cpus)]
        table.put_per_cpu(table.key(number), each)
    words = table.first_per_cpu(count, plane.cpus)
    size = fields * plane.cpus
    assert len(words) == count * size
    for number in range(min(count, SIZE)):
        values = table.get_per_cpu(table.key(number), plane.cpus)
        assert words[number * size : (number + 1) * size : fields].tolist() == [value.packets_in for value in values]
        assert words[number * size + 4 : (number + 1) * size : fields].tolist() == [v.sessions_made for v in values]
    assert not any(words[SIZE * size :])
