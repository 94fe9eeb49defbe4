"""What an L4 node remembers on disk: that it runs, its lives, and the XDP program that it left on its interfaces.

One agent at a time holds the directory's lock. The program outlives a killed agent and goes on forwarding; the next
agent finds its id here and replaces it. A program with any other id belongs to somebody else and is left alone. Program
ids are not used twice before the machine reboots, and a reboot leaves no program.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

from control.node.files import write_atomic
from l4fast.errors import L4Error

ESTATE = ("life", "contract", "seed")


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

    def programs(self, ifindex: int) -> frozenset[int]:
        """The ids of the XDP programs of which an agent of this directory has attached one to the interface."""
        found = self._read("xdp.json")
        return frozenset(found.get(f"{self._machine_boot}/{ifindex}{of}", 0) for of in ("", "/before")) - {0}

    def note_program(self, ifindexes: Mapping[int, int], program: int) -> None:
        """This one is about to be attached to these interfaces, in place of those; 0 for none. Raises StateError."""
        noted = {f"{self._machine_boot}/{ifindex}": program for ifindex in ifindexes}
        noted |= {f"{self._machine_boot}/{ifindex}/before": before for ifindex, before in ifindexes.items() if before}
        self._write("xdp.json", noted)

    def estate(self) -> tuple[int, int, int]:
        """Of the life whose programs are attached: its number, and contract and seed of its maps, if those are pinned.
        Zeros if there is none."""
        found = self._read("maps.json")
        life, contract, seed = (found.get(f"{self._machine_boot}/{name}", 0) for name in ESTATE)
        return life, contract, seed

    def note_estate(self, *estate: int) -> None:
        """Raises StateError."""
        self._write("maps.json", {f"{self._machine_boot}/{name}": n for name, n in zip(ESTATE, estate, strict=True)})

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
