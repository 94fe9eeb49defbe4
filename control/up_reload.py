"""`paifang reload`: has a running `paifang up` read its file again, or replace its processes, and says how it went.

It is told by a signal, as a service manager tells it (SIGHUP, SIGUSR2), and writes what came of it into its state
directory: a number that grows, whether it is done, and the words that it said.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from control.node.files import write_atomic
from control.node.patience import patience
from control.up_state import owner

OUTCOME: Final = "reload.json"
LOCK: Final = "reload.lock"
RELOAD: Final = signal.SIGHUP
REPLACE: Final = signal.SIGUSR2
OUTCOME_S: Final = 240.0  # three processes, each with its time
LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the reload with this number, the first being 1."""

    number: int
    done: bool
    text: str

    def write(self, state: Path) -> None:
        write_atomic(state / OUTCOME, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, state: Path) -> Outcome:
        """The last one; number 0 before the first."""
        try:
            return cls(**json.loads((state / OUTCOME).read_text()))
        except (OSError, ValueError, TypeError):
            return cls(0, done=False, text="")


def main(options: argparse.Namespace) -> int:
    """The subcommand: 0 when it is done, 1 when not."""
    state: Path = options.state
    pid = owner(state)
    if not pid:
        print(f"paifang: no `paifang up` runs with {state}; --state DIR names its state directory", file=sys.stderr)
        return 1
    lock = os.open(state / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with patience(f"paifang: waiting for `paifang up` (pid {pid}; {OUTCOME_S:.0f} s at most)"):
            fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time, so that the outcome is ours
            outcome = _ask(state, pid, REPLACE if options.replace else RELOAD)
    except ProcessLookupError:
        print(f"paifang: `paifang up` (pid {pid}) has ended", file=sys.stderr)
        return 1
    finally:
        os.close(lock)
    if outcome is None:
        print(f"paifang: no answer within {OUTCOME_S:.0f} s; its own output says more", file=sys.stderr)
        return 1
    print(outcome.text, file=sys.stdout if outcome.done else sys.stderr)
    return 0 if outcome.done else 1


def _ask(state: Path, pid: int, number: signal.Signals) -> Outcome | None:
    """Raises ProcessLookupError where nobody can be asked any more."""
    before = Outcome.read(state).number
    os.kill(pid, number)
    deadline = time.monotonic() + OUTCOME_S
    while time.monotonic() < deadline:
        found = Outcome.read(state)
        if found.number > before:
            return found
        os.kill(pid, 0)
        time.sleep(LOOK_S)
    return None
