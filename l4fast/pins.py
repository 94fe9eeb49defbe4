"""What outlives a killed agent: its maps, by which its programs go on, and from which the next agent goes on.

The kernel empties an array of programs once no process has it open (programs that refer to the array and stand in it
would otherwise live for ever): IPv6, fragments and the new flows of lc, wlc and fullnat would end with an agent that is
killed. A name in bpffs counts as a process. So all maps have one, in a directory of each life of the agent.

The next agent finds sessions, counters and configuration there and uses the maps as they are, if it means the same by
them (`Estate.contract`), but for the array of programs, which is filled with its own. What a killed agent left goes
when the next one has attached its programs, or with an orderly end.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from l4fast.bpf import syscall
from l4fast.loader import DataPlane, Estate

log = logging.getLogger(__name__)

BPFFS = Path("/sys/fs/bpf")
# Of the programs themselves, and filled with them.
NOT_LEFT = frozenset({"stages"})
LINK = "maps"  # in the state directory, for whoever removes a node that was killed: to its directory in bpffs


class Pins:
    """The directory of the agent whose state directory this is. `bpffs`: where that file system is mounted."""

    def __init__(self, state: Path, bpffs: Path = BPFFS) -> None:
        self._bpffs = bpffs
        self._life = ""
        self._link = state / LINK
        self.directory = bpffs / f"paifang-{hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:16]}"

    @contextlib.contextmanager
    def left(self, life: int, contract: int, seed: int) -> Iterator[Estate | None]:
        """What the agent has left in that life, under these words of it; None if there is nothing."""
        maps: dict[int, dict[str, int]] = {}
        with contextlib.ExitStack() as stack:
            try:
                for path in (self.directory / _name(life)).iterdir():
                    name, _, version = path.name.rpartition("-")
                    if name not in NOT_LEFT:
                        maps.setdefault(int(version), {})[name] = fd = syscall.pinned(path)
                        stack.callback(os.close, fd)
            except OSError as error:
                if life and self.directory.exists():  # else it ended in order, or the machine was started anew
                    log.warning("%s: what the agent before has left cannot be used: %s", self.directory, error)
                maps = {}
            yield Estate(contract, seed, maps) if maps else None

    def hold(self, plane: DataPlane, life: int) -> None:
        """Pins the maps, beside those of lives before. Where that is impossible, the log says what it means."""
        self._life = _name(life)
        directory = self.directory / self._life
        try:
            _mount(self._bpffs)
            directory.mkdir(parents=True, mode=0o700)
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(self.directory)
            for version, maps in plane.estate.maps.items():
                for name, fd in maps.items():
                    syscall.pin(fd, directory / f"{name}-{version}")
        except OSError as error:
            log.warning(
                "%s: %s; should this agent be killed, IPv6, fragments, VLANs and new flows of lc, wlc and fullnat stop "
                "until it is started again, which then knows no sessions",
                self._bpffs, error.strerror,
            )  # fmt: skip

    def settle(self) -> None:
        """The programs are attached: the maps of lives before are not needed any more."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.directory.iterdir():
                if path.name != self._life:
                    _remove(path)

    def abandon(self) -> None:
        """The programs were not attached."""
        with contextlib.suppress(FileNotFoundError):
            _remove(self.directory / self._life)
            if not any(self.directory.iterdir()):
                self.directory.rmdir()

    def release(self) -> None:
        """The programs are detached."""
        with contextlib.suppress(FileNotFoundError):
            _remove(self.directory)


def _name(life: int) -> str:
    return f"{life:x}"


def _remove(path: Path) -> None:
    """bpffs knows no type of file by which shutil.rmtree could tell maps from directories."""
    if path.is_dir():
        for below in path.iterdir():
            _remove(below)
        path.rmdir()
    else:
        path.unlink()


def _mount(directory: Path) -> None:
    """Makes sure that bpffs is there. Raises OSError."""
    if syscall.is_bpffs(directory):
        return
    done = subprocess.run(["mount", "-t", "bpf", "bpf", directory], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(0, f"no bpf file system, and mount fails ({done.stderr.strip()})")
