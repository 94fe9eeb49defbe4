"""Child processes that say when they are ready, and whose log is quoted when they are not.

A child runs in a session of its own, so that a Ctrl-C at the terminal reaches only its parent, which then ends the
children in order. Its stdout and stderr go to a file. Readiness is the READY=1 of sd_notify(3) on a socket per child.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

QUOTED_LINES = 15
_PR_SET_PDEATHSIG = 1  # prctl(2)
_libc = ctypes.CDLL(None, use_errno=True)


class ChildError(Exception):
    """A child that ended or was late before it was ready; the text quotes its log."""


class Child:
    """One child process. Made by `start`; in any case, `terminate` or `leave` has to be called at the end."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], log: Path, log_begins: int, ready: socket.socket
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.log = log
        self._log_begins = log_begins  # what stands before it in the file is of earlier lives
        self._process = process
        self._ready = ready

    @classmethod
    def start(
        cls,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        notify_dir: Path,
        env: Mapping[str, str] | None = None,
        die_with_parent: bool = False,
        notify_uid: int | None = None,
    ) -> Child:
        """Start `argv` (with `env` added to our environment), its output appended to `log`. Raises ChildError.

        With `die_with_parent` the kernel sends it SIGTERM when the *thread* that started it ends, even by SIGKILL.
        `notify_uid` is who it runs as where `argv` changes that, so that it may write to its socket; needs root.
        """
        address = notify_dir / f"{name}.notify"
        address.unlink(missing_ok=True)
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            ready.bind(str(address))
            address.chmod(0o600)
            if notify_uid is not None:
                os.chown(address, notify_uid, -1)
            with log.open("ab") as output:
                log_begins = output.tell()
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env={**os.environ, **(env or {}), "NOTIFY_SOCKET": str(address)},
                    preexec_fn=_die_with_parent if die_with_parent else None,
                )
        except (OSError, subprocess.SubprocessError) as error:
            ready.close()
            raise ChildError(f"{name}: cannot start {argv[0]}: {error}") from None
        return cls(name, process, log, log_begins, ready)

    def wait_ready(self, timeout_s: float) -> None:
        """Block until the child has said READY=1. Raises ChildError if it ends or is late."""
        deadline = time.monotonic() + timeout_s
        if (code := self.poll()) is not None:  # its pid may be another process's by now
            raise ChildError(f"{self.name} ended with code {code}{self._quote()}")
        ended = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(self._ready, select.POLLIN)
            poll.register(ended, select.POLLIN)
            while (left_s := deadline - time.monotonic()) > 0:
                poll.poll(left_s * 1000)
                if self.said_ready():
                    return
                if (code := self.poll()) is not None:
                    raise ChildError(f"{self.name} ended with code {code}{self._quote()}")
        finally:
            os.close(ended)
        raise ChildError(f"{self.name} is not ready after {timeout_s:.0f} s{self._quote()}")

    def said_ready(self) -> bool:
        """Whether READY=1 has arrived since the last call; does not block."""
        while True:
            try:
                lines = self._ready.recv(4096).split(b"\n")
            except BlockingIOError:
                return False
            if b"READY=1" in lines:
                return True

    def poll(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; does nothing to a child that has ended."""
        self._process.send_signal(number)

    def terminate(self, timeout_s: float) -> int:
        """End it: SIGTERM, after `timeout_s` SIGKILL to its whole session. Returns the exit code."""
        self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            return self._process.wait()
        finally:
            if self._ready.fileno() >= 0:
                Path(self._ready.getsockname()).unlink(missing_ok=True)
                self._ready.close()

    def leave(self) -> None:
        """Let it live on when we end: from here on it is somebody else's to look after."""
        self._ready.close()
        self._process.returncode = 0  # or Popen would warn that it still runs

    def _quote(self) -> str:
        """The last lines that it has logged, indented, as the tail of a message."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._log_begins)
                lines = file.read().decode(errors="replace").splitlines()[-QUOTED_LINES:]
        except OSError:
            lines = []
        return f"; {self.log} ends with:\n" + "\n".join(f"    {line}" for line in lines or ["(nothing)"])


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
