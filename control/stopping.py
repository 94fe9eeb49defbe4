"""SIGINT and SIGTERM for a process that blocks: they end whatever call it is in, and are never lost.

The handler raises `Stop`. Python drops what is raised inside a destructor or a hook (the lock of `logging` around a
fork, for one), so the wish is remembered too, and whoever loops asks with `check`.
"""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(BaseException):
    """The user, or the service manager, wants the process to end."""


class Stopping:
    """Handles both signals from when it is made until `ignore`."""

    def __init__(self) -> None:
        self._wanted = False
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def check(self) -> None:
        """Raise Stop if a signal has come."""
        if self._wanted:
            raise Stop

    def ignore(self) -> None:
        """Let nothing interrupt the end."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._wanted = True
        raise Stop
