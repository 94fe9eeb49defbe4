"""Runs keepalived or BIRD for an agent, and ends it when the agent has been dead or stuck for too long.

What holds the VIPs must outlive the agent: packets are forwarded by the kernel, whose tables stay as they are, so that
a killed agent costs nobody a connection while it is started again. It must not outlive it for ever: nobody would probe
the servers, or learn of the peers' sessions. Hence a lease. The agent touches a file every second; this process looks
twice a second, and after `--grace` seconds' worth of looks that found it untouched, it ends the program in order
(keepalived resigns, BIRD withdraws) and itself. Looks are counted and not seconds, because a machine that was stopped
as a whole (a virtual one that is moved) has let nobody renew anything.

Who is killed himself takes the program with him (PR_SET_PDEATHSIG: SIGTERM, so in order too). A program that ends by
itself is started again. One keeper at a time holds the lock of its directory, which says that the process in it is
alive: `end_old` goes by that, and so does the next agent that goes on with it (`adopt`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Final

from l4fast.vip_errors import VipError

LEASE, LOCK, LOG = "lease", "keeper.lock", "log"
RENEW_S: Final = 1.0
LOOK_S: Final = 0.5
END_S: Final = 5.0  # keepalived takes a second to resign
AGAIN_S: Final = 1.0  # between a program's end and its next start
LOG_MOST_BYTES: Final = 1 << 20
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Keeper:
    """The agent's end of it: one program in one directory."""

    def __init__(
        self,
        directory: Path,
        grace_s: float,
        argv: Sequence[str],
        *,
        fresh: Iterable[Path] = (),
        fifo: Path | None = None,
    ) -> None:
        """`fresh`: files of the program that must not be there when it starts. `fifo`: one that it writes to, and that
        must never be without a reader."""
        self._directory = directory
        self._words = ["--directory", str(directory), "--grace", f"{grace_s:g}"]
        self._words += [word for path in fresh for word in ("--fresh", str(path))]
        self._words += ["--fifo", str(fifo)] if fifo else []
        self._words += ["--", *argv]
        self._process: subprocess.Popen[bytes] | None = None
        self._adopted: IO[bytes] | None = None  # the lock of one that an earlier agent has started

    def adopt(self) -> bool:
        """Goes on with the one that an earlier agent has left, if that would be started with the same words."""
        self.renew()
        with contextlib.suppress(OSError):
            lock = (self._directory / LOCK).open("r+b")
            if _holder(lock) and _words(lock) == self._words:
                self._adopted = lock
                return True
            lock.close()
        return False

    def start(self) -> None:
        """Raises VipError."""
        self.renew()
        with (self._directory / LOG).open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__, *self._words],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # what kills the agent's group or terminal leaves it alone
                )
            except OSError as error:
                raise VipError(f"cannot start {sys.executable}: {error}") from None

    def renew(self) -> None:
        """To be called every RENEW_S."""
        path = self._directory / LEASE
        path.touch(mode=0o600)
        os.utime(path)

    def runs(self) -> bool:
        if self._adopted is not None:
            return _holder(self._adopted) != 0
        return self._process is not None and self._process.poll() is None

    async def end(self) -> None:
        """Ends the program in order; returns when it is gone."""
        process, self._process = self._process, None
        adopted, self._adopted = self._adopted, None
        if adopted is not None:
            adopted.close()
            await asyncio.to_thread(end_old, self._directory)
        if process is not None:
            process.terminate()
            await asyncio.to_thread(process.wait)


def end_old(directory: Path) -> bool:
    """Ends the keeper that an earlier agent has left in this directory, and its program with it. Blocks; says whether
    there was one."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), (directory / LOCK).open("r+b") as lock:
        pid = _holder(lock)
        if pid == 0:
            return False
        for number, wait_s in ((signal.SIGTERM, 2 * END_S), (signal.SIGKILL, END_S)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + wait_s
            while time.monotonic() < deadline:
                if _holder(lock) != pid:
                    return True
                time.sleep(0.02)
        return True
    return False


def _holder(lock: IO[bytes]) -> int:
    """The process that holds the lock; 0 if nobody does."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.readline().strip()
        return int(pid) if pid else 0
    fcntl.flock(lock, fcntl.LOCK_UN)
    return 0


def _words(lock: IO[bytes]) -> object:
    """What the holder was started with."""
    lock.seek(0)
    with contextlib.suppress(ValueError):
        return json.loads(lock.read().partition(b"\n")[2])
    return None


class Lease:
    """Counts looks that found the file untouched."""

    def __init__(self, grace_s: float) -> None:
        self._most = max(1, round(grace_s / LOOK_S))
        self._seen = 0
        self._looks = 0

    def look(self, touched_ns: int) -> bool:
        """Whether it still runs."""
        self._looks = 0 if touched_ns != self._seen else self._looks + 1
        self._seen = touched_ns
        return self._looks < self._most


class Program:
    """keepalived or BIRD, as a child."""

    def __init__(self, argv: Sequence[str], fresh: Sequence[Path]) -> None:
        self.name = argv[0]
        self._argv = argv
        self._fresh = fresh
        self._libc = ctypes.CDLL(None)
        self._start_at = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Starts it, and starts it again."""
        if self._process is not None and (code := self._process.poll()) is not None:
            _say(f"{self._argv[0]} has ended with code {code}; it is started again")
            self._process, self._start_at = None, time.monotonic() + AGAIN_S
        if self._process is None and time.monotonic() >= self._start_at:
            for path in self._fresh:  # of a life that was killed: keepalived takes it for its own
                path.unlink(missing_ok=True)
            self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, preexec_fn=self._die_with_us)

    def _die_with_us(self) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    def end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            _say(f"{self._argv[0]} does not end; it is killed")
            self._process.kill()
            self._process.wait()


def _say(text: str) -> None:
    print(f"keeper: {text}", flush=True)


def _bound(log: Path) -> None:
    if log.stat().st_size > LOG_MOST_BYTES:
        os.truncate(log, 0)


def run(directory: Path, grace_s: float, program: Program) -> None:
    """Until SIGTERM, or until the lease has run out."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: stopping.append(number))
    signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes
    lease = Lease(grace_s)
    while not stopping:
        if not lease.look((directory / LEASE).stat().st_mtime_ns):
            _say(f"the agent has not renewed its lease for {grace_s:g} s; {program.name} is ended")
            break
        program.keep()
        _bound(directory / LOG)
        deadline = time.monotonic() + LOOK_S
        while not stopping and (left_s := deadline - time.monotonic()) > 0:
            if select.select([woken], [], [], left_s)[0]:
                os.read(woken, 64)
    program.end()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m l4fast.keeper", description=__doc__.split("\n\n")[0])
    parser.add_argument("--directory", type=Path, required=True, metavar="DIR")
    parser.add_argument("--grace", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--fresh", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--fifo", type=Path, metavar="FILE")
    parser.add_argument("argv", nargs="+", metavar="-- COMMAND")
    given = parser.parse_args(argv)
    lock = os.open(given.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say("another keeper runs in this directory")
        return 1
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n%s\n" % (os.getpid(), json.dumps(argv).encode()), 0)
    reader = os.open(given.fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) if given.fifo else None
    run(given.directory, given.grace, Program(given.argv, given.fresh))
    if reader is not None:
        os.close(reader)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
