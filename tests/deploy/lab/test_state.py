import fcntl
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from deploy.lab import state
from deploy.lab.errors import LabError
from deploy.lab.state import Started, State
from deploy.lab.topology import Topology


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "STATE_DIR", tmp_path / "labs")


def save(kept: State) -> None:
    with state.locked("pf"):
        state.save(kept)


def test_no_lab() -> None:
    assert state.load("pf") is None


def test_what_is_saved_is_loaded() -> None:
    kept = State(Topology("pf", l4=3, xdp="native"), "dr", "up", (Started("be-1", 12, 34),))
    save(kept)
    assert state.load("pf") == kept


def test_a_process_replaces_the_earlier_one_of_its_host() -> None:
    kept = State(Topology("pf"), "both", "up").with_process(Started("be-1", 1, 1)).with_process(Started("be-2", 2, 2))
    kept = kept.with_process(Started("be-1", 3, 3))
    assert kept.process_of("be-1") == Started("be-1", 3, 3)
    assert len(kept.started) == 2
    assert kept.process_of("be-3") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"topology": {"lab": "pf", "x": 1}})])
def test_a_damaged_file_is_named(text: str) -> None:
    save(State(Topology("pf"), "both", "up"))
    (state.directory("pf") / "lab.json").write_text(text)
    with pytest.raises(LabError, match=r"lab\.json: damaged"):
        state.load("pf")


def test_directories_let_other_users_through_but_not_look() -> None:
    save(State(Topology("pf"), "both", "up"))
    assert state.directory("pf").stat().st_mode & 0o777 == 0o711
    assert (state.directory("pf") / "lab.json").stat().st_mode & 0o777 == 0o600


def test_what_is_forgotten_is_gone() -> None:
    with state.locked("pf"):
        state.save(State(Topology("pf"), "both", "up"))
        (state.directory("pf") / "be-1").mkdir()
        (state.directory("pf") / "be-1/log").write_text("x")
        state.forget("pf")
        assert state.load("pf") is None
        state.save(State(Topology("pf"), "both", "starting"))  # the lock still stands
        state.forget("pf")
    assert not state.STATE_DIR.exists()


def test_one_command_at_a_time() -> None:
    with state.locked("pf"):
        with pytest.raises(LabError, match="another command"), state.locked("pf"):
            pass
        with state.locked("other"):
            pass
        assert state.directory("pf").exists()
    assert not state.STATE_DIR.exists()
    with state.locked("pf"):
        pass


def test_a_lock_on_a_directory_that_its_holder_removed_is_none() -> None:
    """The second command opened the directory before the first, which took the lab down, removed it."""
    opened, removed = threading.Event(), threading.Event()
    real = fcntl.flock

    def flock_late(descriptor: int, operation: int) -> None:
        if not opened.is_set():
            opened.set()
            removed.wait(10)
        real(descriptor, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", flock_late)
        held: list[bool] = []

        def second() -> None:
            with state.locked("pf"):
                held.append(state.directory("pf").exists())

        thread = threading.Thread(target=second)
        thread.start()
        opened.wait(10)
        state.directory("pf").rmdir()
        removed.set()
        thread.join(10)
    assert held == [True]


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
