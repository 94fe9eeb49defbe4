"""Standard output that nobody takes any more: `… | head` has closed it, or the disk is full."""

from __future__ import annotations

import os
import sys


def drop_output() -> None:
    """What is still to be printed goes nowhere; Python would try again at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
