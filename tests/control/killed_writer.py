"""Kills a process that writes to a SQLite store, again and again, and looks at what it leaves.

`python -m tests.control.killed_writer FILE ROUNDS SEED` prints what it has found, and ends with 1 if anything is wrong.
It forks: a writer is there within a millisecond, and each dies at another moment.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sqlite3
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from control.store import HISTORY_LIMIT, Write
from control.store_sqlite import SqliteStore
from core.config import from_dict

KEYS = 7  # written together, so that half a write would show
ANSWERS = 5  # of a writer before it is killed, at most
GREETING = b"begun\n"


@dataclass(slots=True)
class Answered:
    """The last version, and the last number in the records, that a writer was answered; `begun` is the last in use."""

    version: int = 0
    number: int = 0
    begun: int = 0


async def write(path: Path, pipe: int, number: int) -> None:
    """Write and tell of each answer, until killed."""
    store = await SqliteStore.open(path)
    os.write(pipe, GREETING)
    while True:
        number += 1
        model = from_dict({"instances": [{"name": f"i{number}"}]})
        version = await store.put(model, "w", f"{number}", None)
        os.write(pipe, b"version %d\n" % version)
        await store.write(*(Write("marks", f"{key}", b"%d" % number) for key in range(KEYS)))
        os.write(pipe, b"number %d\n" % number)


def round_of(path: Path, last: Answered, moment: random.Random) -> None:
    """One writer's life; `last` is what it was answered then."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        with suppress(BaseException):
            asyncio.run(write(path, writing, last.begun))
        os._exit(3)
    os.close(writing)
    told, wanted, begun = b"", moment.randrange(ANSWERS), time.monotonic()
    with open(reading, "rb", buffering=0) as pipe:
        while told.count(b"\n") < 1 + wanted:
            readable, _, _ = select.select([pipe], [], [], 60)
            chunk = pipe.read(4096) if readable else b""
            assert chunk, "the writer does not write"
            told += chunk
        time.sleep(moment.uniform(0, (time.monotonic() - begun) / (1 + wanted)))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, f"the writer ended by itself: {status}"
        told += pipe.readall() or b""
    for line in told.decode().splitlines()[1:]:
        what, _, value = line.partition(" ")
        setattr(last, what, int(value))


async def look(path: Path, last: Answered) -> None:
    """What is answered is there, what is there is whole."""
    store = await SqliteStore.open(path)
    try:
        history = await store.history(HISTORY_LIMIT)
        newest, number = (history[0].version, int(history[0].comment)) if history else (0, 0)
        assert [entry.version for entry in history] == list(range(newest, newest - len(history), -1)), "a gap"
        assert newest in (last.version, last.version + 1), f"version {last.version} was answered, {newest} is there"
        for entry in history[:2]:
            _, model = await store.get(entry.version)
            assert list(model.instances) == [f"i{entry.comment}"], f"version {entry.version} is not what was put"
        records = await store.records("marks")
        assert len({(record.value, record.revision) for record in records}) <= 1, f"half a write: {records}"
        assert len(records) in (0, KEYS), f"half a write: {records}"
        found = int(records[0].value) if records else 0
        # Records are written after the version of the same number, and may be there without having been answered.
        assert last.number <= found <= number, f"number {last.number} was answered, {found} is there"
        last.version, last.number, last.begun = newest, found, number
    finally:
        await store.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def main() -> int:
    path, rounds, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    moment, last, unheard = random.Random(seed), Answered(), 0
    for number in range(rounds):
        round_of(path, last, moment)
        answered = last.version
        try:
            asyncio.run(look(path, last))
        except AssertionError as error:
            print(f"round {number} of {rounds}, seed {seed}: {error}")
            return 1
        unheard += last.version != answered
    print(f"{rounds} writers killed, {unheard} between a version and its answer; version {last.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
