"""The keeper with a shell script in place of keepalived: it outlives its agent, and not for ever."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l4fast import keeper
from l4fast.keeper import LOG, Keeper, Lease, end_old
from l4fast.vip_errors import VipError
from tests.waiting import LIMIT_S, eventually

# Notes each start with its process id, and its end.
SCRIPT = """#!/bin/sh
[ -e "$1/pid" ] && echo pid file >> "$1/notes"
trap 'echo ended >> "$1/notes"; rm -f "$1/pid"; exit 0' TERM
echo $$ > "$1/pid"; echo $$ >> "$1/started"
while :; do sleep 0.05; done
"""


class Place:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keepers: list[Keeper] = []
        self.script = directory / "program"
        self.script.write_text(SCRIPT)
        self.script.chmod(0o700)

    def keeper(self, grace_s: float = 60.0) -> Keeper:
        argv = [str(self.script), str(self.directory)]
        made = Keeper(self.directory, grace_s, argv, fresh=[self.directory / "pid"])
        self.keepers.append(made)
        return made

    def start(self, grace_s: float = 60.0) -> Keeper:
        made = self.keeper(grace_s)
        made.start()
        self.until(lambda: self.pids())
        return made

    def pids(self) -> list[int]:
        path = self.directory / "started"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def notes(self) -> list[str]:
        path = self.directory / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def until(self, condition: Callable[[], object], limit_s: float = LIMIT_S) -> None:
        eventually(condition, limit_s=limit_s, said=(self.directory / LOG).read_text)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    end_old(tmp_path)
    for each in made.keepers:
        if each._process is not None:
            each._process.wait(10)
    made.until(lambda: not any(map(alive, made.pids())))


async def test_it_runs_a_program_and_ends_it_in_order(place: Place) -> None:
    kept = place.start()
    assert kept.runs()
    assert alive(place.pids()[0])
    await kept.end()
    assert (kept.runs(), place.notes(), alive(place.pids()[0])) == (False, ["ended"], False)
    await kept.end()


def test_a_program_that_ends_is_started_again_without_its_old_pid_file(place: Place) -> None:
    place.start()
    os.kill(place.pids()[0], signal.SIGKILL)
    place.until(lambda: len(place.pids()) == 2)
    assert place.notes() == []
    assert "has ended with code -9; it is started again" in (place.directory / LOG).read_text()


async def test_without_renewal_the_lease_runs_out(place: Place) -> None:
    kept = place.start(grace_s=1.0)
    place.until(lambda: not kept.runs())
    assert place.notes() == ["ended"]
    assert "has not renewed its lease for 1 s" in (place.directory / LOG).read_text()


def test_an_agent_that_is_killed_leaves_it_for_the_grace(place: Place) -> None:
    code = (
        "import sys, time; from pathlib import Path; from l4fast.keeper import Keeper\n"
        "directory = Path(sys.argv[1])\n"
        "Keeper(directory, 2.0, [str(directory / 'program'), str(directory)]).start()\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(place.directory)], start_new_session=True) as agent:
        place.until(lambda: place.pids())
        os.killpg(agent.pid, signal.SIGKILL)
    assert alive(place.pids()[0])
    assert place.notes() == []
    place.until(lambda: place.notes() == ["ended"])
    place.until(lambda: not alive(place.pids()[0]))


def test_the_next_agent_ends_what_is_left(place: Place) -> None:
    place.start()
    assert end_old(place.directory)
    assert place.notes() == ["ended"]
    assert not end_old(place.directory)


def test_a_keeper_that_is_killed_takes_its_program_with_it(place: Place) -> None:
    kept = place.start()
    assert kept._process is not None
    kept._process.kill()
    place.until(lambda: place.notes() == ["ended"])
    place.until(lambda: not any(map(alive, place.pids())))


def test_two_in_one_directory(place: Place) -> None:
    place.start()
    second = place.keeper()
    second.start()
    place.until(lambda: not second.runs())
    assert len(place.pids()) == 1
    assert "another keeper runs in this directory" in (place.directory / LOG).read_text()


def test_a_directory_without_a_keeper(tmp_path: Path) -> None:
    assert not end_old(tmp_path)
    assert not end_old(tmp_path / "missing")


def test_a_program_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper.sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(VipError, match=r"cannot start .*missing"):
        Keeper(tmp_path, 1.0, ["keepalived"]).start()


async def test_the_next_agent_goes_on_with_what_is_left(place: Place) -> None:
    place.start(grace_s=2.0)
    assert not place.keeper(grace_s=3.0).adopt()  # it would be another one
    second = place.keeper(grace_s=2.0)
    assert second.adopt()
    assert second.runs()
    for _ in range(5):
        second.renew()
        await asyncio.sleep(0.6)
    assert (second.runs(), place.notes(), len(place.pids())) == (True, [], 1)
    await second.end()
    assert (second.runs(), place.notes()) == (False, ["ended"])


def test_nobody_goes_on_with_what_has_ended(place: Place) -> None:
    place.start()
    end_old(place.directory)
    assert not place.keeper().adopt()


def test_a_fifo_keeps_a_reader_while_the_agent_is_dead(place: Place) -> None:
    fifo = place.directory / "notify"
    os.mkfifo(fifo, 0o600)
    made = Keeper(place.directory, 60.0, [str(place.script), str(place.directory)], fifo=fifo)
    place.keepers.append(made)
    made.start()
    place.until(lambda: place.pids())
    os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))  # ENXIO where nobody reads


def test_a_lease_counts_looks_and_not_seconds() -> None:
    lease = Lease(2.0)  # four looks
    assert [lease.look(1) for _ in range(6)] == [True, True, True, True, False, False]
    lease = Lease(2.0)
    assert all(lease.look(1 + touched // 4) for touched in range(40))


def test_a_log_that_has_grown_begins_anew(tmp_path: Path) -> None:
    log = tmp_path / LOG
    log.write_bytes(bytes(keeper.LOG_MOST_BYTES))
    keeper._bound(log)
    assert log.stat().st_size == keeper.LOG_MOST_BYTES
    with log.open("ab") as file:
        file.write(b"x")
    keeper._bound(log)
    assert log.stat().st_size == 0
