import json
import os
import subprocess
from pathlib import Path

import pytest

from deploy.lab import state
from deploy.lab.errors import LabError
from deploy.lab.state import Started, State
from deploy.lab.topology import Topology


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "STATE_DIR", tmp_path / "labs")


def test_no_lab() -> None:
    assert state.load("pf") is None


def test_what_is_saved_is_loaded() -> None:
    kept = State(Topology("pf", l4=3, xdp="native"), "dr", "up", (Started("be-1", 12, 34),))
    state.save(kept)
    assert state.load("pf") == kept


def test_a_process_replaces_the_earlier_one_of_its_host() -> None:
    kept = State(Topology("pf"), "both", "up").with_process(Started("be-1", 1, 1)).with_process(Started("be-2", 2, 2))
    kept = kept.with_process(Started("be-1", 3, 3))
    assert kept.process_of("be-1") == Started("be-1", 3, 3)
    assert len(kept.started) == 2
    assert kept.process_of("be-3") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"topology": {"lab": "pf", "x": 1}})])
def test_a_damaged_file_is_named(text: str) -> None:
    state.save(State(Topology("pf"), "both", "up"))
    (state.directory("pf") / "lab.json").write_text(text)
    with pytest.raises(LabError, match=r"lab\.json: damaged"):
        state.load("pf")


def test_directories_let_other_users_through_but_not_look() -> None:
    state.save(State(Topology("pf"), "both", "up"))
    assert state.directory("pf").stat().st_mode & 0o777 == 0o711
    assert (state.directory("pf") / "lab.json").stat().st_mode & 0o777 == 0o600


def test_one_command_at_a_time() -> None:
    with state.locked("pf"):
        with pytest.raises(LabError, match="another command"), state.locked("pf"):
            pass
        with state.locked("other"):
            pass
    with state.locked("pf"):
        pass


def test_a_process_is_known_by_its_start() -> None:
    ticks = state.start_ticks(os.getpid())
    assert ticks is not None
    assert Started("x", os.getpid(), ticks).alive()
    assert not Started("x", os.getpid(), ticks - 1).alive()


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["sleep", "60"])
    started = Started("x", process.pid, state.start_ticks(process.pid) or 0)
    assert started.alive()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not started.alive()
    process.wait()
    assert not started.alive()
