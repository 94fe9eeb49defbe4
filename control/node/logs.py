"""Logging to stderr: `time level process logger: message`, one line a record.

A line break inside a record (a traceback, or text that came from a peer) is written as `\\n`, so that a record can
neither be torn apart by a collector nor forged by who feeds us text. Whoever starts the process keeps the lines.
"""

from __future__ import annotations

import logging
import os
import sys
import time

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
VARIABLE = "PAIFANG_LOG_LEVEL"  # how a process tells its children


class LineFormatter(logging.Formatter):
    """One record, one line; times are UTC with milliseconds."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        """The record with its traceback, line breaks escaped."""
        return super().format(record).replace("\r", "\\r").replace("\n", "\\n")


def setup(process: str, level: str | None = None) -> None:
    """Send all records of `level` and above to stderr under the name of the process; replaces earlier set-ups.

    Without a level it is the one of who started us, else INFO.
    """
    if level is None:
        inherited = os.environ.get(VARIABLE, "INFO")
        level = inherited if inherited in LEVELS else "INFO"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)


def for_children(level: str) -> None:
    """Have processes that are started from now on, and call `setup` without a level, log as much."""
    os.environ[VARIABLE] = level
