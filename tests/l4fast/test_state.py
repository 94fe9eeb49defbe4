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
    assert state.program(3) == 0
    state.note_program([3, 4], 41)
    assert (state.program(3), state.program(4), state.program(5)) == (41, 41, 0)
    text = (tmp_path / "xdp.json").read_text()
    (tmp_path / "xdp.json").write_text(text.replace("-", "x", 1))  # the machine has been booted since
    assert state.program(3) == 0
    state.close()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="give a directory"):
        StateDirectory(tmp_path / "file" / "state")
