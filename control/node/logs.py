"""Logging to stderr: `time level process logger: message`, one line a record.

A line break inside a record (a traceback, or text that came from a peer) is written as `\\n`, so that a record can
neither be torn apart by a collector nor forged by who feeds us text. Whoever starts the process keeps the lines.
"""

from __future__ import annotations

import logging
import sys
import time


class LineFormatter(logging.Formatter):
    """One record, one line; times are UTC with milliseconds."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        """The record with its traceback, line breaks escaped."""
        return super().format(record).replace("\r", "\\r").replace("\n", "\\n")


def setup(process: str, level: str = "INFO") -> None:
    """Send all records of `level` and above to stderr under the name of the process; replaces earlier set-ups."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level, force=True)
