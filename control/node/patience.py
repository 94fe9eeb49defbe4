"""A word to whoever waits: what takes longer than a few seconds says so, once, on stderr."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

AFTER_S = 3.0


@contextlib.contextmanager
def patience(text: str, after_s: float = AFTER_S) -> Iterator[None]:
    """Print `text` if the block takes longer than `after_s`; for command lines, whose calls block."""
    timer = threading.Timer(after_s, print, (text,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # never a word after the block's own
