"""The access log: one line an exchange, a JSON object or `combined` (proxy/log_shape.py); fields in docs/proxy.md.

A record is formatted in place of `json.dumps` (only what a client may choose is escaped), kept in memory, and written
by a thread once a second or when it grows, in one `write` to a file opened with O_APPEND: workers share the file and
lines never mix. A disk or pipe that does not keep up costs lines, which are counted, never memory or time of the data
path. A file that was moved away (logrotate) is opened anew, and so is any when we are told to.

Of exchanges without an error, a share may be written only: by chance, so that no client can choose to be left out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quote
from pathlib import Path
from typing import Final

from proxy.actions import NO_WAY, Way
from proxy.log_shape import PLAIN, Format, LogShape, quoted

log = logging.getLogger(__name__)

FLUSH_EVERY_S: Final = 1.0
FLUSH_BYTES: Final = 1 << 19  # some 1,300 lines: the thread's turn, its futures and locks cost them little
BACKLOG_BYTES: Final = 1 << 23
IOV_MOST: Final = 1024  # linux/uio.h: UIO_MAXIOV

_LINE: Final = (
    '{"time":"%sZ","node":%s,"pid":%d,"listener":%s,"client":"%s","method":%s,"host":%s,"path":%s,"status":%d,'
    '"bytes_in":%d,"bytes_out":%d,"duration_ms":%.3f,"rule":"%s","service":"%s","upstream":"%s","upstream_ms":%.3f,'
    '"request_id":"%s",'
    '"error_source":"%s","error_code":"%s","error_detail":"%s","tls_version":"%s","sni":%s%s}\n'
)
_NO_USER: Final = re.compile(r"[^!#-~]")  # what would end the field of `combined`
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(slots=True)
class Record:
    """One exchange. Times in milliseconds; what did not happen is empty or 0."""

    listener: str
    client: str
    method: str = ""
    host: str = ""
    path: str = ""
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    duration_ms: float = 0.0
    upstream: str = ""
    upstream_ms: float = 0.0
    request_id: str = ""
    error_source: str = ""
    error_code: str = ""
    error_detail: str = ""
    tls_version: str = ""
    sni: str = ""
    version: str = ""  # of HTTP
    fields: tuple[str, ...] = ()  # the values of LogShape.wanted
    way: Way = NO_WAY
    first_byte_s: float | None = None  # from the choice of the server to its answer's first byte; for the metrics
    ended: float = 0.0  # on the monotonic clock; 0: now
    user: str = ""  # who has proved to be it


class Visitor:
    """What the records of one connection have in common, and the two pieces that it makes of their lines."""

    __slots__ = ("client", "end", "listener", "sni", "start", "tls_version", "version")

    def __init__(self, listener: str, client: str, tls_version: str, sni: str) -> None:
        self.listener, self.client, self.tls_version, self.sni = listener, client, tls_version, sni
        self.version = "HTTP/1.1"  # where a record does not say otherwise
        self.start = self.end = ""  # until there is a line

    def render(self, node: str, pid: int) -> str:
        """Makes `start`, what stands between time and method, and `end`; returns the first. `node` is quoted."""
        listener = quote(self.listener)
        self.start = f'Z","node":{node},"pid":{pid},"listener":{listener},"client":"{self.client}","method":"'
        self.end = (
            '","error_source":"","error_code":"","error_detail":"",'
            f'"tls_version":"{self.tls_version}","sni":{quote(self.sni)}}}\n'
        )
        return self.start


# An exchange without an error, whose upstream was at hand: end on the monotonic clock, visitor, method, host, path,
# status, bytes in and out, seconds that it took, upstream, request id, way, nothing of which needs quotes, the values
# of LogShape.wanted.
Visit = tuple[float, Visitor, bytes, bytes, bytes, int, int, int, float, str, bytes, Way, tuple[str, ...]]


def record_of(visit: Visit) -> Record:
    """The same as a record."""
    ended, visitor, method, host, path, status, bytes_in, bytes_out, took_s, upstream, request_id, way, fields = visit
    return Record(
        visitor.listener, visitor.client, method.decode("ascii"), host.decode("ascii"), path.decode("ascii"), status,
        bytes_in, bytes_out, took_s * 1000, upstream, took_s * 1000, request_id.decode("ascii"),
        tls_version=visitor.tls_version, sni=visitor.sni, version=visitor.version, fields=fields, way=way,
        first_byte_s=took_s, ended=ended,
    )  # fmt: skip


class AccessLog:
    """Writes records to `path` (`-`: standard output). The caller spawns `run`, and awaits `close` after its end."""

    def __init__(self, path: str, node: str, shape: LogShape = PLAIN) -> None:
        self._path = path
        self._shape = shape
        self._names = [quote(str(each)) for each in self._shape.own]
        self._again = False  # the file is to be opened anew
        self._node = quote(node)
        self._pid = os.getpid()
        self._pieces: list[bytes] = []  # of one line or several each
        self._count, self._size = 0, 0  # lines and bytes
        self._second = 0
        self._stamp = ""
        self._full = asyncio.Event()
        self._file = -1
        self.lost = 0
        self._open()

    def write(self, record: Record) -> None:
        """Keeps a line for the next flush."""
        if self._shape.share < 1 and not record.error_code and record.status < 500 and not self._chosen():
            return
        if self._size > BACKLOG_BYTES:
            self.lost += 1
            return
        now = time.time()
        at_ms = int((record.ended + now - time.monotonic() if record.ended else now) * 1000)
        line = self._combined(record, at_ms) if self._shape.format is Format.COMBINED else self._json(record, at_ms)
        self._keep([line])

    def _keep(self, lines: list[str]) -> None:
        """Makes bytes of the lines at once: all of a second's together would hold up the loop for a millisecond."""
        piece = "".join(lines).encode()
        self._pieces.append(piece)
        self._count += len(lines)
        self._size += len(piece)
        if self._size > FLUSH_BYTES:
            self._full.set()

    def _chosen(self) -> bool:
        return random.random() < self._shape.share  # noqa: S311 - not a secret

    def _json(self, record: Record, at_ms: int) -> str:
        r, stamp = record, self._stamp_of(at_ms)
        own = f',"user":{quote(record.user)}' if record.user else ""
        if self._names and r.fields:
            pairs = [f"{name}:{quote(value)}" for name, value in zip(self._names, r.fields, strict=True)]
            own += f',"fields":{{{",".join(pairs)}}}'
        return _LINE % (
            stamp, self._node, self._pid, quote(r.listener), r.client, quote(r.method),
            quote(r.host), quote(r.path), r.status, r.bytes_in, r.bytes_out, r.duration_ms, *r.way, r.upstream,
            r.upstream_ms, r.request_id, r.error_source, r.error_code, r.error_detail, r.tls_version, quote(r.sni), own,
        )  # fmt: skip

    def _combined(self, record: Record, at_ms: int) -> str:
        r, ended = record, time.gmtime(at_ms // 1000)
        at = f"{ended.tm_mday:02d}/{_MONTHS[ended.tm_mon - 1]}/{time.strftime('%Y:%H:%M:%S', ended)}"
        request = f"{r.method} {r.path} {r.version}" if r.method else ""
        values = " ".join(map(quoted, r.fields or ("",) * len(self._shape.wanted)))
        user = _NO_USER.sub("_", r.user) or "-"
        return f"{r.client or '-'} - {user} [{at} +0000] {quoted(request)} {r.status} {r.bytes_out} {values}\n"

    def write_visits(self, visits: Sequence[Visit]) -> None:
        """Keeps the lines of these for the next flush: the same lines, byte for byte, that their records would give."""
        if self._shape.wanted:
            for visit in visits:
                self.write(record_of(visit))
            return
        if self._shape.share < 1:
            visits = [visit for visit in visits if visit[5] >= 500 or self._chosen()]
        if self._size > BACKLOG_BYTES:
            self.lost += len(visits)
            return
        since_epoch_s = time.time() - time.monotonic()
        node, pid, lines = self._node, self._pid, list[str]()
        last, stamp = 0, ""
        for (
            ended, visitor, method, host, path, status, bytes_in, bytes_out, took_s, upstream, request_id, way, _,
        ) in visits:  # fmt: skip
            at_ms = int((ended + since_epoch_s) * 1000)
            if at_ms != last:
                last, stamp = at_ms, self._stamp_of(at_ms)
            took = f"{took_s * 1000:.3f}"
            line = (
                f'{{"time":"{stamp}{visitor.start or visitor.render(node, pid)}{method.decode()}",'
                f'"host":"{host.decode()}","path":"{path.decode()}","status":{status},'
                f'"bytes_in":{bytes_in},"bytes_out":{bytes_out},"duration_ms":{took},"rule":"{way[0]}","service":"{way[1]}",'
                f'"upstream":"{upstream}","upstream_ms":{took},"request_id":"{request_id.decode()}{visitor.end}'
            )
            lines.append(line)
        self._keep(lines)

    def _stamp_of(self, at_ms: int) -> str:
        second, ms = divmod(at_ms, 1000)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{ms:03d}"

    async def run(self) -> None:
        """Flushes until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), FLUSH_EVERY_S)
            self._full.clear()
            await self.flush()

    async def flush(self) -> None:
        """Writes what is kept."""
        if not self._pieces and not self._again:
            return
        pieces, count, size = self._pieces, self._count, self._size
        self._pieces, self._count = [], 0
        try:
            await asyncio.to_thread(self._write_out, pieces)
        except OSError as error:
            self.lost += count
            log.error("access log %s: %s; %d lines lost", self._path, error.strerror, count)
        self._size -= size

    def reopen(self) -> None:
        """Opens the file anew at once."""
        self._again = True
        self._full.set()

    async def close(self) -> None:
        """Writes the rest and closes the file."""
        await self.flush()
        if self._path != "-":
            os.close(self._file)

    def _open(self) -> None:
        if self._path == "-":
            self._file = sys.stdout.fileno()
        else:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def _write_out(self, pieces: list[bytes]) -> None:
        again, self._again = self._again, False
        if self._path != "-" and (again or self._moved()):
            os.close(self._file)
            self._open()
        for start in range(0, len(pieces), IOV_MOST):  # half a megabyte is not put together for it
            self._write_some(pieces[start : start + IOV_MOST])

    def _write_some(self, pieces: list[bytes]) -> None:
        written = os.writev(self._file, pieces)
        if written < sum(map(len, pieces)):  # a pipe
            view = memoryview(b"".join(pieces))[written:]
            while view:
                view = view[os.write(self._file, view) :]

    def _moved(self) -> bool:
        try:
            return Path(self._path).stat().st_ino != os.fstat(self._file).st_ino
        except FileNotFoundError:
            return True
