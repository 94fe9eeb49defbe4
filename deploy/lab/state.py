"""What a lab remembers between commands: STATE/<lab>/lab.json, written before the first namespace is made.

From it `down` knows every namespace that may exist, also after a crash, and `status` which process was started where.
Only one command changes a lab at a time: it holds a lock on STATE/<lab>, which the kernel lets go when it dies.

The directories are 0711, because processes that are not root have to reach their own below; each of those is 0700.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from control.node.files import write_atomic
from deploy.lab.errors import LabError
from deploy.lab.topology import Topology

STATE_DIR = Path("/run/paifang-lab")
Phase = Literal["starting", "up"]


@dataclass(frozen=True, slots=True)
class Started:
    """A process that was started: a host's name, its id, and when (field 22 of /proc/PID/stat, so that an id that
    has been given to another process is told apart)."""

    host: str
    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return start_ticks(self.pid) == self.start_ticks


@dataclass(frozen=True, slots=True)
class State:
    topology: Topology
    mode: str
    phase: Phase
    started: tuple[Started, ...] = ()

    def with_process(self, started: Started) -> State:
        """The state with one process added, in place of an earlier one of its host."""
        others = tuple(entry for entry in self.started if entry.host != started.host)
        return replace(self, started=(*others, started))

    def process_of(self, host: str) -> Started | None:
        return next((entry for entry in self.started if entry.host == host), None)


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def directory(lab: str) -> Path:
    return STATE_DIR / lab


def load(lab: str) -> State | None:
    """The lab's state, or None if there is no lab of that name. Raises LabError."""
    path = directory(lab) / "lab.json"
    try:
        document = json.loads(path.read_text())
        return State(
            Topology(**document["topology"]),
            document["mode"],
            document["phase"],
            tuple(Started(**entry) for entry in document["started"]),
        )
    except FileNotFoundError:
        return None
    except PermissionError:
        raise LabError(f"{path}: permission denied; the lab needs root") from None
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{path}: damaged ({error}); remove its namespaces (`ip netns`) and {path.parent}") from None


def save(state: State) -> None:
    """Keep the state. The caller holds the lock, which has made the directory."""
    path = directory(state.topology.lab)
    for made in (STATE_DIR, path):
        made.chmod(0o711)  # whatever the umask was
    write_atomic(path / "lab.json", json.dumps(asdict(state), indent=1).encode())


def forget(lab: str) -> None:
    """Remove all that is kept. The caller holds the lock: the directory itself goes when that is let go."""
    path = directory(lab)
    # lab.json goes last: whoever is interrupted here leaves a lab that the next command knows how to clean up.
    for entry in sorted(path.iterdir(), key=lambda entry: entry.name == "lab.json"):
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextlib.contextmanager
def locked(lab: str) -> Iterator[None]:
    """Keep other commands from changing this lab. Raises LabError if one is at it."""
    path = directory(lab)
    descriptor = _lock(path)
    try:
        yield
    finally:
        for empty in (path, STATE_DIR):  # nothing is left of a lab that is down
            with contextlib.suppress(OSError):
                empty.rmdir()
        os.close(descriptor)


def _lock(path: Path) -> int:
    """Lock a directory, made if missing; the one who held it before may have removed it, hence the loop."""
    while True:
        for made in (STATE_DIR, path):
            made.mkdir(mode=0o711, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_ino == path.stat().st_ino:
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise LabError(f"another command is changing the lab {path.name!r}; wait for it") from None
            except FileNotFoundError:
                pass
            os.close(descriptor)
