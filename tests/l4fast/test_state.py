from __future__ import annotations

import os
from pathlib import Path

import pytest

from l4fast.state import StateDirectory, StateError


def test_lives_are_ordered_even_if_the_clock_is_not(tmp_path: Path) -> None:
    boots = []
    for wall_ns in (1000, 500, 500, 2000):
        state = StateDirectory(tmp_path)
        boots.append(state.next_boot(wall_ns))
        state.close()
    assert boots == [1000, 1001, 1002, 2000]


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"boot": "x"}'])
def test_a_damaged_file_does_not_stop_the_node(tmp_path: Path, damage: str) -> None:
    (tmp_path / "boot.json").write_text(damage)
    state = StateDirectory(tmp_path)
    assert state.next_boot(7) == 7
    state.close()


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path / "made")
    with pytest.raises(StateError, match=rf"another L4 agent \(pid {os.getpid()}\) uses it; stop that one"):
        StateDirectory(tmp_path / "made")
    first.close()
    StateDirectory(tmp_path / "made").close()


def test_programs_are_remembered_per_interface(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.programs(3) == frozenset()
    state.note_program({3: 0, 4: 40}, 41)
    assert (state.programs(3), state.programs(4), state.programs(5)) == ({41}, {40, 41}, frozenset())
    text = (tmp_path / "xdp.json").read_text()
    (tmp_path / "xdp.json").write_text(text.replace("-", "x"))  # the machine has been booted since
    assert state.programs(3) == frozenset()
    state.close()


def test_an_estate_is_of_one_boot_of_the_machine(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.estate() == (0, 0, 0)
    state.note_estate(7, 1 << 55, 1 << 62)
    assert state.estate() == (7, 1 << 55, 1 << 62)
    text = (tmp_path / "maps.json").read_text()
    (tmp_path / "maps.json").write_text(text.replace("-", "x"))
    assert state.estate() == (0, 0, 0)
    state.close()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="give a directory"):
        StateDirectory(tmp_path / "file" / "state")
