"""A file that holds the last of what it was given, for the next start.

It is written in a thread beside the work, so that nobody waits for the disk, and whole (atomic, synced). What was given
while one writing went on makes one more.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from control.node.files import write_atomic

log = logging.getLogger(__name__)


class Kept:
    """`path` is written by `run`, which the caller spawns and cancels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text: Callable[[], str] | None = None  # not yet written
        self._given = asyncio.Event()
        self._writing = threading.Lock()

    def give(self, text: Callable[[], str]) -> None:
        """What is to be there from now on; `text` makes it, in the thread that writes, one at a time."""
        self._text = text
        self._given.set()

    async def run(self) -> None:
        """Until cancelled; what has been given until then is there when this ends."""
        try:
            while True:
                await self._given.wait()
                self._given.clear()
                await asyncio.to_thread(self._write)
        finally:
            self._write()

    def _write(self) -> None:
        """Blocks, also while another thread writes."""
        with self._writing:
            text, self._text = self._text, None
            if text is None:
                return
            try:
                write_atomic(self.path, text().encode())
            except OSError as error:
                log.error("%s: cannot be kept for the next start: %s", self.path, error.strerror)
