"""What became of a request that is over: the line of the access log that has its id.

The log is where it stands, so nothing is kept in memory for the asking, and requests cost nothing more. It is read from
its end, in blocks, as far as LIMIT_BYTES; so is the file that was moved away last (logrotate's PATH.1), if need be.
Workers write once a second: a request that was over a moment ago may not stand there yet.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

LIMIT_BYTES: Final = 256 << 20  # a second or so
BLOCK_BYTES: Final = 4 << 20
FOUND_MOST: Final = 16  # a client may give many requests one id


def find(log: str, request_id: str, limit_bytes: int = LIMIT_BYTES) -> list[dict[str, Any]]:
    """The requests of this id, the last one first; blocks. Raises ValueError where there is no log to look in."""
    if log in ("", "-"):
        raise ValueError("this node has no file of an access log to look in: --access-log PATH")
    found: list[dict[str, Any]] = []
    left = limit_bytes
    for path in (Path(log), Path(log + ".1")):
        left -= _search(path, request_id.encode("ascii"), left, found)
        if found or left <= 0:
            break
    return found


def _search(path: Path, wanted: bytes, limit_bytes: int, found: list[dict[str, Any]]) -> int:
    """Adds what stands in a file; returns how much was read."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        end = start = file.seek(0, os.SEEK_END)
        tail = b""  # of the block after, up to its first line's end
        while start > 0 and end - start < limit_bytes and len(found) < FOUND_MOST:
            size = min(BLOCK_BYTES, start)
            start -= size
            file.seek(start)
            block = file.read(size) + tail
            first = block.find(b"\n") + 1 if start else 0
            tail, lines = block[:first], block[first:]
            if wanted in lines:
                found += [each for line in reversed(lines.splitlines()) if (each := _read(line, wanted)) is not None]
        return end - start


def _read(line: bytes, wanted: bytes) -> dict[str, Any] | None:
    """A line of this request; one that is no JSON (--log-format combined) as its text."""
    if wanted not in line:
        return None
    try:
        document = json.loads(line)
    except ValueError:
        return {"line": line.decode("utf-8", "replace")}
    if not isinstance(document, dict) or document.get("request_id") != wanted.decode("ascii"):
        return None
    return document
