"""Keeps the tail calls of a killed agent's programs whole.

The kernel empties an array of programs once no process has it open (programs that refer to the array and stand in it
would otherwise live for ever): IPv6, fragments and the new flows of lc, wlc and fullnat would end with an agent that is
killed. A name in bpffs counts as a process. Each agent has a directory of its own there; what a killed one left in it
goes when the next one has attached its programs, or with an orderly end.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import subprocess
from pathlib import Path

from l4fast.bpf import syscall
from l4fast.loader import DataPlane

log = logging.getLogger(__name__)

BPFFS = Path("/sys/fs/bpf")
_NEW = "-new"  # bpffs takes no dots


class Pins:
    """The directory of the agent whose state directory this is. `bpffs`: where that file system is mounted."""

    def __init__(self, state: Path, bpffs: Path = BPFFS) -> None:
        self._bpffs = bpffs
        self.directory = bpffs / f"paifang-{hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:16]}"

    def hold(self, plane: DataPlane) -> None:
        """Pins the arrays, beside those of an agent before. Where that is impossible, the log says what it means."""
        try:
            _mount(self._bpffs)
            self.directory.mkdir(exist_ok=True, mode=0o700)
            for version, program in plane.programs.items():
                path = self.directory / f"stages{version}{_NEW}"
                path.unlink(missing_ok=True)
                syscall.pin(program.map_fd("stages"), path)
        except OSError as error:
            log.warning(
                "%s: %s; should this agent be killed, IPv6, fragments, VLANs and new flows of lc, wlc and fullnat stop "
                "until it is started again",
                self._bpffs, error.strerror,
            )  # fmt: skip

    def settle(self) -> None:
        """The programs are attached: those of an agent before are not needed any more."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.directory.glob(f"*{_NEW}"):
                path.replace(path.with_name(path.name.removesuffix(_NEW)))

    def release(self) -> None:
        """The programs are detached."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.directory.iterdir():
                path.unlink()
            self.directory.rmdir()


def _mount(directory: Path) -> None:
    """Makes sure that bpffs is there. Raises OSError."""
    if syscall.is_bpffs(directory):
        return
    done = subprocess.run(["mount", "-t", "bpf", "bpf", directory], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(0, f"no bpf file system, and mount fails ({done.stderr.strip()})")
