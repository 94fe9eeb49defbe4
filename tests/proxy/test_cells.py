"""Counters in a file that outlives its writer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.usage import COUNTED
from proxy import cells
from proxy.cells import GROW_ROWS, Cells, found

NUMBERS = tuple(range(1, COUNTED + 1))
WRITER = """
import sys
from pathlib import Path
from proxy.cells import Cells
mine = Cells(Path(sys.argv[1]))
for n in range(1, 1000):
    mine.write("web", (n,) * int(sys.argv[2]))
print("written", flush=True)
sys.stdin.read()
"""


def test_what_is_written_is_found(tmp_path: Path) -> None:
    mine = Cells(tmp_path / "new")
    assert mine.write("web", NUMBERS)
    assert mine.write("l" * 80, NUMBERS[::-1])
    assert mine.write("web", tuple(2 * n for n in NUMBERS))
    (file,) = found(tmp_path / "new")
    assert file.listeners == {"web": tuple(2 * n for n in NUMBERS), "l" * 80: NUMBERS[::-1]}
    assert not file.left
    assert file.path == mine.path
    assert [*found(tmp_path / "none")] == []


def test_more_listeners_than_one_part_has_room_for(tmp_path: Path) -> None:
    mine = Cells(tmp_path)
    names = [f"l{n}" for n in range(2 * GROW_ROWS + 1)]
    for n, name in enumerate(names):
        mine.write(name, (n,) * COUNTED)
    (file,) = found(tmp_path)
    assert file.listeners == {name: (n,) * COUNTED for n, name in enumerate(names)}


def test_a_writer_that_is_killed_leaves_all_that_it_has_written(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", WRITER, str(tmp_path), str(COUNTED)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        (file,) = found(tmp_path)
        assert (file.left, file.listeners) == (False, {"web": (999,) * COUNTED})
        process.send_signal(signal.SIGKILL)
        process.wait()
    (file,) = found(tmp_path)
    assert (file.left, file.listeners) == (True, {"web": (999,) * COUNTED})


def test_a_row_that_is_not_whole_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = Cells(tmp_path)
    mine.write("web", NUMBERS)
    mine.write("api", NUMBERS)
    file = os.open(mine.path, os.O_RDWR)
    os.pwrite(file, b"W", 8)
    os.close(file)
    (seen,) = found(tmp_path)
    assert seen.listeners == {"api": NUMBERS}
    assert "damaged" in caplog.text


def test_a_full_disk_keeps_listeners_in_memory_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = Cells(tmp_path)

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        assert not mine.write("web", NUMBERS)
        assert not mine.write("web", NUMBERS)
    assert caplog.text.count("No space left") == 1
    assert mine.write("web", NUMBERS)
    assert next(iter(found(tmp_path))).listeners == {"web": NUMBERS}


def test_a_file_that_goes_meanwhile_hides_no_other(tmp_path: Path) -> None:
    """As one does that gets its name between two glances: what is not found would be billed again when it is."""
    mine = Cells(tmp_path)
    mine.write("web", NUMBERS)
    (tmp_path / ".1-gone").symlink_to(tmp_path / "nowhere")  # is listed, and is not there
    assert [file.path for file in found(tmp_path)] == [mine.path]


def test_files_that_never_got_their_name_go_after_a_while(tmp_path: Path) -> None:
    fresh, old = tmp_path / ".1-fresh", tmp_path / ".1-old"
    for path in (fresh, old):
        path.touch()
    before = time.time() - cells.UNFINISHED_S - 1
    os.utime(old, (before, before))
    assert [*found(tmp_path)] == []
    assert (fresh.exists(), old.exists()) == (True, False)
