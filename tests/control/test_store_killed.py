"""A process that writes to SQLite is killed (SIGKILL) at random moments."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def kill(directory: Path, rounds: int, seed: int, timeout_s: float) -> int:
    """The last version that `rounds` killed writers have left."""
    argv = [sys.executable, "-m", "tests.control.killed_writer", str(directory / "control.db"), str(rounds), str(seed)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.match(rf"{rounds} writers killed, \d+ between a version and its answer; version (\d+)\n", done.stdout)
    assert found, done.stdout
    return int(found[1])


def test_what_was_answered_is_there_whenever_the_writer_dies(tmp_path: Path) -> None:
    assert kill(tmp_path, 40, 1, 110) > 20


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_same_thousands_of_times(tmp_path: Path) -> None:
    assert kill(tmp_path, 5000, 2, 1700) > 2500
