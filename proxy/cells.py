"""Counters of a worker in a file that it maps: they outlive it, however it ends.

The kernel keeps what was written to a shared mapping when its process is killed. So what a worker has counted up to its
last stroke can be read by whoever comes after it: its supervisor, or the next one after that was killed as well.

A file has rows of 256 bytes: a checksum of the listener's name and its length (zero: the row is free), the name, and
the counters in the order of `core.usage.NUMBERS`. A counter never falls while its file lives. The worker holds a lock
(flock) on its file; when it can be had by another one, nothing is written to the file any more. Room is reserved before
it is mapped: a full disk must not kill a worker in the middle of its work.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.usage import COUNTED

log = logging.getLogger(__name__)

NAME_BYTES: Final = 88  # a listener's name has 80 characters at most
WORDS: Final = 32  # of a row
ROW_BYTES: Final = WORDS * 8
FIRST: Final = 1 + NAME_BYTES // 8  # the word of the first counter
GROW_ROWS: Final = 256  # 64 KiB, a multiple of every page size
GROW_BYTES: Final = GROW_ROWS * ROW_BYTES
ENDING: Final = ".cells"
LOG_EVERY_S: Final = 60.0
UNFINISHED_S: Final = 60.0  # a file that has no name yet after so long never gets one
_ROW: Final = struct.Struct(f"=Q{NAME_BYTES}s{COUNTED}Q")


class Cells:
    """The writer's side. Raises OSError where the file cannot be made."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        unfinished = directory / f".{name}"
        self._file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self.path = directory / f"{name}{ENDING}"
        unfinished.rename(self.path)  # not before it is locked: it would look like one that is left
        self._next_logged = 0.0
        self._parts: list[tuple[memoryview, mmap.mmap]] = []
        self._rows: dict[str, tuple[memoryview, int]] = {}  # where a listener's counters begin

    def write(self, name: str, counters: tuple[int, ...]) -> bool:
        """A listener's counters, `COUNTED` of them. False: there is no room for another listener now."""
        try:
            words, at = self._rows.get(name) or self._row(name)
        except OSError as error:
            if time.monotonic() >= self._next_logged:
                self._next_logged = time.monotonic() + LOG_EVERY_S
                log.error("%s: %s; what is counted of %s waits in memory", self.path, error.strerror, name)
            return False
        for counter in counters:
            words[at] = counter
            at += 1
        return True

    def close(self) -> None:
        """Nothing is written any more: whoever reads the file may remove it."""
        self._rows.clear()
        for words, mapping in self._parts:
            words.release()
            mapping.close()  # it has a descriptor of its own, which holds the lock too
        os.close(self._file)

    def _row(self, name: str) -> tuple[memoryview, int]:
        used = len(self._rows)
        part, row = divmod(used, GROW_ROWS)
        if part == len(self._parts):
            os.posix_fallocate(self._file, part * GROW_BYTES, GROW_BYTES)
            mapping = mmap.mmap(self._file, GROW_BYTES, offset=part * GROW_BYTES)
            self._parts.append((memoryview(mapping).cast("Q"), mapping))
        words, at = self._parts[part][0], row * WORDS
        encoded = name.encode()
        words[at + 1 : at + FIRST] = memoryview(encoded.ljust(NAME_BYTES, b"\0")).cast("Q")
        words[at] = _mark(encoded)
        self._rows[name] = words, at + FIRST
        return self._rows[name]


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it is read. `left`: its writer has ended."""

    path: Path
    listeners: Mapping[str, tuple[int, ...]]
    left: bool


def found(directory: Path) -> Iterator[Found]:
    """All files of a directory. Blocks for as long as it takes to read them."""
    paths: list[Path] = []
    with contextlib.suppress(FileNotFoundError):
        paths = sorted(directory.iterdir())
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # of this one, which has gone or got its name meanwhile
            if path.suffix == ENDING:
                yield _read(path)
            elif path.stat().st_mtime < time.time() - UNFINISHED_S:
                path.unlink(missing_ok=True)


def _read(path: Path) -> Found:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        left = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before the counters are read
        except BlockingIOError:
            left = False
        data = b"".join(iter(lambda: os.read(file, 1 << 20), b""))
    finally:
        os.close(file)
    listeners = {}
    for at in range(0, len(data), ROW_BYTES):
        mark, name, *counters = _ROW.unpack_from(data, at)
        if not mark:
            break
        encoded = name.rstrip(b"\0")
        if mark == _mark(encoded):
            listeners[encoded.decode()] = tuple(counters)
        else:
            log.error("%s: a row is damaged and left out", path)
    return Found(path, listeners, left)


def _mark(name: bytes) -> int:
    return len(name) << 32 | zlib.crc32(name)
