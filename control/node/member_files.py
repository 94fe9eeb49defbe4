"""Watches the files that availability groups name: members that something else on the node writes.

A file is looked at every LOOK_S and read when it is another one than before: whoever writes it puts a new one in its
place (rename), so that nobody reads half of it. What cannot be read, or is not sound, leaves the members as they are,
as no answer of DNS does; a problem says so until it is put right.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from control.node.tasks import Tasks
from core.errors import ConfigErrors
from core.member_file import read
from core.model import AvailabilityGroup, Model, Server
from core.syntax import Format

LOOK_S: Final = 1.0
FILE_LIMIT_BYTES: Final = 1 << 20

_Mark = tuple[int, int, int]  # what tells one version of a file from another


@dataclass(slots=True)
class _Watched:
    """What is known of one file."""

    path: str
    servers: tuple[Server, ...] = ()
    problem: str = ""
    looked: bool = False
    read: bool = False  # ever, with success
    mark: _Mark | None = None

    def look(self) -> None:
        """Reads the file if it has changed. Blocks."""
        self.looked = True
        try:
            with open(self.path, "rb", opener=_opened) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    self.mark = None
                    self._failed("is no file")
                    return
                mark = status.st_mtime_ns, status.st_size, status.st_ino
                if mark == self.mark:
                    return
                data = file.read(FILE_LIMIT_BYTES + 1)
        except OSError as error:
            self.mark = None
            self._failed(error.strerror or "cannot be read")
            return
        self.mark = mark
        if len(data) > FILE_LIMIT_BYTES:
            self._failed(f"is longer than {FILE_LIMIT_BYTES} bytes")
            return
        format: Format = "json" if self.path.endswith(".json") else "toml"
        try:
            self.servers = read(data.decode("utf-8-sig"), path=self.path, format=format)
        except UnicodeDecodeError:
            self._failed("is not UTF-8 text")
        except ConfigErrors as errors:
            first = errors.errors[0]
            self._failed(str(first).removeprefix(f"{self.path}:"))
        else:
            self.problem, self.read = "", True

    def _failed(self, why: str) -> None:
        kept = "its last members are kept" if self.read else "it has given no members yet"
        self.problem = f"{self.path}: {why}; {kept}"


class MemberFiles:
    """The members that files give. `on_change` is called when they, or the problems with them, have changed."""

    def __init__(self, on_change: Callable[[], None], tasks: Tasks) -> None:
        self._on_change, self._tasks = on_change, tasks
        self._files: dict[str, _Watched] = {}
        self._looking: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()

    def watch(self, *models: Model) -> None:
        """Looks after the files of these configurations from now on; those that it had before keep their members."""
        paths = {group.file for model in models for group in model.availability_groups.values() if group.file}
        self._files = {path: self._files.get(path) or _Watched(path) for path in sorted(paths)}
        if any(not file.looked for file in self._files.values()):
            self._settled.clear()
        if self._files and self._looking is None:
            self._looking = self._tasks.spawn(self._look_forever(), "look at files of members")
        if not self._files:
            self._settled.set()
            if self._looking is not None:
                self._looking.cancel()
                self._looking = None

    def found(self, group: AvailabilityGroup) -> tuple[Server, ...]:
        """The members of a group that is watched."""
        return self._files[group.file].servers if group.file else ()

    def problem(self, group: AvailabilityGroup) -> str:
        """Why its last members may be old; empty if they are not."""
        return self._files[group.file].problem if group.file else ""

    async def first_looks(self) -> None:
        """Returns when each file has been looked at once."""
        await self._settled.wait()

    async def _look_forever(self) -> None:
        while True:
            before = {path: (file.servers, file.problem) for path, file in self._files.items()}
            files = list(self._files.values())
            await asyncio.to_thread(_look_at, files)
            if all(file.looked for file in self._files.values()):
                self._settled.set()
            if any(before.get(file.path) != (file.servers, file.problem) for file in files):
                self._on_change()
            await asyncio.sleep(0 if not self._settled.is_set() else LOOK_S)


def _opened(path: str, flags: int) -> int:
    """Without waiting for anybody: a pipe that nobody writes to would hold the thread, and all other files, up."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _look_at(files: list[_Watched]) -> None:
    for file in files:
        file.look()
