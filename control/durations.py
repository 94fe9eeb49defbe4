"""Times as people write them on command lines: 90s, 15m, 1h, 30d. Pure."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LIMIT_S = 10 * 365 * 86_400


def duration(text: str) -> timedelta:
    """Raises argparse.ArgumentTypeError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text)
    seconds = int(match[1]) * _UNITS[match[2] or "s"] if match else 0
    if not 0 < seconds <= _LIMIT_S:
        raise argparse.ArgumentTypeError(f"{text!r}: give a time such as 90s, 15m, 1h or 30d")
    return timedelta(seconds=seconds)


def shown(seconds: float) -> str:
    """About how long: 29d, 5h, 12m, 40s; nothing is 0s."""
    for unit in ("d", "h", "m"):
        if seconds >= 2 * _UNITS[unit]:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{max(0, int(seconds))}s"
