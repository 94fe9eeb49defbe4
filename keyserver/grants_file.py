"""The policy file (grants.py) on disk: read at the start, and again whenever it has changed."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from keyserver.errors import BadFile
from keyserver.grants import Grants, GrantsError, parse
from keyserver.keyfile import read_bounded
from keyserver.reader import Mark, mark_of


class GrantsFile:
    """A policy file. `read` gives what it says whenever that may have changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.digest = ""  # SHA-256 of the policy in force, in hexadecimal
        self._mark: Mark | None = None

    def read(self, *, always: bool = True) -> Grants | None:
        """What it says; without `always`, None where it has not changed since the last call. Raises GrantsError."""
        mark = mark_of(self.path)
        if not always and mark == self._mark:
            return None
        self._mark = mark
        data = read_bounded(self.path)
        if isinstance(data, BadFile):
            raise GrantsError(str(data))
        if self.path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise GrantsError(f"{self.path}: others may change it; chmod go-w {self.path}")
        try:
            grants = parse(data.decode())
        except ValueError as error:
            raise GrantsError(f"{self.path}: {error}") from None
        self.digest = hashlib.sha256(data).hexdigest()
        return grants
