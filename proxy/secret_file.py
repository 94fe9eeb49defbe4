"""A file on the node whose content is nobody else's business: users, shared secrets.

It is looked at now and then, and read when it is another one than before. What cannot be read, or does not make sense,
leaves what was there before: a mistake neither opens a door nor locks everybody out. A problem says so, and nothing of
what the file holds.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

FILE_BYTES: Final = 1 << 20
_Mark = tuple[int, int, int]  # what tells one version of a file from another


class SecretFile(Generic[T]):
    """`read` makes something of the bytes, or raises ValueError with what is wrong. Looks at once."""

    def __init__(self, path: str, read: Callable[[bytes], T]) -> None:
        self.path, self._read = path, read
        self._mark: _Mark | None = None
        self.content: T | None = None  # None: it has never been read
        self.problem = ""
        self.look()

    def look(self) -> bool:
        """Whether there is other content than before. Reads at most FILE_BYTES, from a regular file alone."""
        try:
            data = self._data()
        except (OSError, ValueError) as error:
            self._mark = None
            self._failed(error)
            return False
        if data is None:
            return False
        try:
            self.content = self._read(data)
        except ValueError as error:
            self._failed(error)
            return False
        self.problem = ""
        return True

    def _data(self) -> bytes | None:
        """None: it is the one that is known."""
        with open(self.path, "rb", opener=_opened) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("is no file")
            mark = status.st_mtime_ns, status.st_size, status.st_ino
            if mark == self._mark:
                return None
            data = file.read(FILE_BYTES + 1)
        self._mark = mark
        if len(data) > FILE_BYTES:
            raise ValueError(f"has more than {FILE_BYTES} bytes")
        return data

    def _failed(self, error: OSError | ValueError) -> None:
        why = (error.strerror or "cannot be read") if isinstance(error, OSError) else str(error)
        kept = "nobody is admitted by it" if self.content is None else "what it had before holds"
        self.problem = f"{self.path}: {why}; {kept}"


def _opened(path: str, flags: int) -> int:
    """Without waiting for anybody: a pipe that nobody writes to would hold us up."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
