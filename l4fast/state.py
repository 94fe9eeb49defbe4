"""What an L4 node remembers on disk: that it runs, its lives, and the XDP program that it left on its interfaces.

One agent at a time holds the directory's lock. The program outlives a killed agent and goes on forwarding; the next
agent finds its id here and replaces it. A program with any other id belongs to somebody else and is left alone. Program
ids are not used twice before the machine reboots, and a reboot leaves no program.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from control.node.files import write_atomic
from l4fast.errors import L4Error


class StateError(L4Error):
    """The state directory cannot be used; one line with the remedy."""


class StateDirectory:
    """The directory, held by this process until `close`. Raises StateError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._machine_boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}; give a directory that this user may write to") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(self._lock, 32).decode(errors="replace").strip()
            os.close(self._lock)
            raise StateError(f"{path}: another L4 agent (pid {pid}) uses it; stop that one or give --state") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)

    def close(self) -> None:
        os.close(self._lock)

    def next_boot(self, wall_ns: int) -> int:
        """A number for this life: the wall clock, but always more than that of every life before. Raises StateError."""
        boot = max(wall_ns, self._read("boot.json").get("boot", 0) + 1)
        self._write("boot.json", {"boot": boot})
        return boot

    def program(self, ifindex: int) -> int:
        """The id of the XDP program that an agent of this directory attached to the interface; 0 if none."""
        return self._read("xdp.json").get(f"{self._machine_boot}/{ifindex}", 0)

    def note_program(self, ifindexes: Iterable[int], program: int) -> None:
        """Raises StateError."""
        self._write("xdp.json", {f"{self._machine_boot}/{ifindex}": program for ifindex in ifindexes})

    def _read(self, name: str) -> dict[str, int]:
        """Empty where the file is missing or damaged: nothing here is worth a node that does not start."""
        try:
            data = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return {key: value for key, value in data.items() if isinstance(value, int)} if isinstance(data, dict) else {}

    def _write(self, name: str, data: Mapping[str, int]) -> None:
        try:
            write_atomic(self.path / name, json.dumps(data).encode())
        except OSError as error:
            raise StateError(f"{self.path / name}: cannot write it: {error.strerror}") from None
