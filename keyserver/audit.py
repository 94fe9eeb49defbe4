"""The audit log: one JSON object a line for every signature given or refused, and never a byte of what was signed.

Lines are written before the replies that they speak of are sent, so that no signature exists without its line; if they
cannot be written, the replies are refused (as Vault does). Lines gather until `flush`, which makes one write of a turn
of the loop. What repeats in them (client, key, SNI, scheme, shape, result) is rendered once and remembered.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

log = logging.getLogger(__name__)

REMEMBERED = 4096  # rendered tails; about 250 bytes each


@lru_cache(REMEMBERED)
def _tail(client: str, key_id: bytes, sni: str, scheme: int, shape: str, result: str) -> str:
    fields = {
        "client": client,
        "key": key_id.hex()[:16],
        "sni": sni,
        "scheme": f"0x{scheme:04x}",
        "shape": shape,
        "result": result,
    }
    return f'","{json.dumps(fields, separators=(",", ":"))[2:]}\n'


def now_text() -> str:
    """The time of an event."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class AuditLog:
    """An audit log at `path`, appended to; `-` is standard output. Raises OSError where it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        self._descriptor = self._open()

    def record(self, time: str, client: str, key_id: bytes, sni: str, scheme: int, shape: str, result: str) -> None:
        """Queue a line. `time` is RFC 3339; `shape` is empty where the content had none; `result` is "ok" or a code."""
        self._lines.append('{"time":"' + time + _tail(client, key_id, sni, scheme, shape, result))

    def event(self, time: str, event: str, fields: Mapping[str, object]) -> None:
        """Queue a line on something other than a signature: keys and policy that change, clients that do not get in."""
        self._lines.append(json.dumps({"time": time, "event": event, **fields}, separators=(",", ":")) + "\n")

    def flush_events(self) -> None:
        """Write what is queued; what cannot be written is said in the log, since no reply depends on it."""
        try:
            self.flush()
        except OSError as error:
            log.error("the audit log cannot be written: %s", error)

    def flush(self) -> None:
        """Write what is queued. Raises OSError if that fails; the lines are then given up, as their replies must be."""
        if not self._lines:
            return
        data = "".join(self._lines).encode()
        self._lines.clear()
        if (written := os.write(self._descriptor, data)) != len(data):
            raise OSError(f"only {written} of {len(data)} bytes of the audit log could be written")

    def reopen(self) -> None:
        """Open the path anew, after a log rotation. Raises OSError, and goes on with the old file."""
        old, self._descriptor = self._descriptor, self._open()
        self._shut(old)

    def close(self) -> None:
        self._shut(self._descriptor)

    def _open(self) -> int:
        if str(self._path) == "-":
            return 1
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _shut(self, descriptor: int) -> None:
        if descriptor != 1:
            os.close(descriptor)
