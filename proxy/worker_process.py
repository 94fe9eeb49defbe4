"""One worker process as its supervisor sees it: how it is started, told, asked and ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, cast

from core.config import to_dict
from core.delta import difference
from core.model import Model
from proxy import passing, tally
from proxy.errors import ApplyError
from proxy.log_shape import PLAIN, LogShape
from proxy.meters import KINDS, Document
from proxy.passing import Seat
from proxy.tally import ServerKey

log = logging.getLogger(__name__)

APPLY_TIMEOUT_S: Final = 30.0
ANSWER_S: Final = 3.0
KILL_AFTER_S: Final = 2.0  # a process whose channel is closed has this long to end
LINE_BYTES: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run the workers: what `python -m proxy.worker_main` is given."""

    name: str
    workers: int
    identity: str = ""
    keyservers: tuple[str, ...] = ()
    access_log: str = ""
    drain_s: float = 30.0
    log_shape: LogShape = PLAIN
    counters: str = ""  # the directory of what is billed (proxy/cells.py)
    traces: str = ""  # where spans go (proxy/tracing.py)
    trace_share: float = 0.0

    def argv(self, turn: int, channel: int, sockets: int, shared: Sequence[int]) -> list[str]:
        """The command line of worker number `turn`, with the descriptors by which we talk to it."""
        argv = [sys.executable, "-m", "proxy.worker_main", "--channel", str(channel), "--sockets", str(sockets)]
        argv += ["--ledger", str(shared[0]), "--clocks", str(shared[1]), "--name", self.name]
        argv += ["--turn", str(turn), "--workers", str(self.workers), "--drain", str(self.drain_s)]
        for option, value in (
            ("--identity", self.identity), ("--access-log", self.access_log), ("--counters", self.counters),
            ("--traces", self.traces), ("--trace-share", str(self.trace_share) if self.traces else ""),
        ):  # fmt: skip
            argv += [option, value] if value else []
        argv += ["--log-format", self.log_shape.format, "--log-share", str(self.log_shape.share)]
        for field in self.log_shape.own:
            argv += ["--log-field", str(field)]
        for keyserver in self.keyservers:
            argv += ["--keyserver", keyserver]
        return argv


NO_ROWS: Final[Mapping[str, int]] = MappingProxyType({})


class WorkerGone(ApplyError):
    """A worker ended before it answered."""


class Wanted:
    """A configuration that all workers are to apply. Its lines are made once, however many workers get them.

    `rows`: of the memory where they keep its limits together (proxy/ledger.py).
    """

    def __init__(self, model: Model, version: int, rows: Mapping[str, int] = NO_ROWS) -> None:
        self.model, self.version, self.rows = model, version, dict(rows)
        self._lines: list[tuple[Model | None, bytes]] = []

    def line(self, base: Model | None) -> bytes:
        """What a worker that has applied `base` is told: what has changed, or all."""
        for known, line in self._lines:
            if known is base:
                return line
        changes = None if base is None else difference(base, self.model)
        part: dict[str, object] = {"config": to_dict(self.model)} if changes is None else {"changes": changes}
        line = json.dumps({**part, "version": self.version, "rows": self.rows}).encode() + b"\n"
        self._lines.append((base, line))
        return line


class WorkerProcess:
    """One worker as the supervisor sees it."""

    def __init__(
        self, process: asyncio.subprocess.Process, writer: asyncio.StreamWriter, passed: socket.socket
    ) -> None:
        self.process = process
        self.seats: set[int] = set()  # from whose sockets it accepts
        self.counters: dict[str, float] = {}
        self.servers: dict[ServerKey, dict[str, float]] = {}
        self.meters: dict[str, dict[str, Document]] = {kind: {} for kind in KINDS}
        self.open: dict[str, int] = {}  # connections at once in its last second, by listener
        self.stranded: list[str] = []  # backend services that have no server for a request
        self.problems: list[str] = []
        self.cannot = ""  # why it could not start
        self._writer = writer
        self._passed = passed
        self._model: Model | None = None  # what it has applied
        self._answer: asyncio.Future[dict[str, object]] | None = None
        self._asked = 0  # the version that `_answer` is about
        self._questions: deque[asyncio.Future[Any]] = deque()  # those that wait, the first asked first

    @classmethod
    async def start(
        cls, settings: Settings, turn: int, shared: Sequence[int]
    ) -> tuple[WorkerProcess, asyncio.StreamReader]:
        """Starts worker number `turn`, in a session of its own: Ctrl-C is for us. `shared`: memory of all
        workers, see proxy/ledger.py and proxy/rates.py."""
        ours, theirs = socket.socketpair()
        passed, passed_to = passing.pair()
        with theirs, passed_to:
            process = await asyncio.create_subprocess_exec(
                *settings.argv(turn, theirs.fileno(), passed_to.fileno(), shared),
                pass_fds=(theirs.fileno(), passed_to.fileno(), *shared),
                start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES)
        return cls(process, writer, passed), reader

    def send(self, message: dict[str, object]) -> None:
        """One line; a worker that is gone hears nothing."""
        self._write(json.dumps(message).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(line)

    async def give(self, sockets: Mapping[Seat, socket.socket]) -> None:
        """Sends it listening sockets, which the next command is about. Nothing where it is gone."""
        with contextlib.suppress(OSError):
            await passing.send(self._passed, sockets)

    async def apply(self, wanted: Wanted, sockets: Mapping[Seat, socket.socket]) -> None:
        """Has the worker apply a configuration, by sockets that it does not have yet. ApplyError: it refuses;
        WorkerGone: it died.

        One that does not answer is killed, since nobody knows what it serves; its successor is told.
        """
        self._answer, self._asked = asyncio.get_running_loop().create_future(), wanted.version
        line = wanted.line(self._model)
        try:
            async with asyncio.timeout(APPLY_TIMEOUT_S):
                await self.give(sockets)
                self._write(line)
                answer = await self._answer
        except TimeoutError:
            kill(self.process)
            raise ApplyError(f"worker {self.process.pid} did not answer within {APPLY_TIMEOUT_S:.0f} s") from None
        if "gone" in answer:
            raise WorkerGone(f"worker {self.process.pid} ended")
        if "refused" in answer:
            raise ApplyError(str(answer["why"]))
        self._model = wanted.model

    async def ask(self, what: str, **arguments: object) -> list[Any]:
        """What the worker says of its connections (proxy/census.py); nothing where it is gone or does not answer."""
        question: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions.append(question)
        self.send({**arguments, "ask": what})
        done, _ = await asyncio.wait([question], timeout=ANSWER_S)
        return list(question.result()) if done else []

    async def listen(
        self,
        reader: asyncio.StreamReader,
        on_problems: Callable[[], None],
        on_counters: Callable[[], None],
        on_ejected: Callable[[WorkerProcess, list[object]], None],
    ) -> None:
        """Reads what the worker says until it is gone. `on_problems`: they have changed by themselves; `on_ejected`: it
        has ejected a server (proxy/worker_channel.py)."""
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                message = json.loads(line)
                if "counters" in message:
                    self.counters = message["counters"]
                    for kind, rows in message["meters"].items():
                        self.meters[kind] |= rows
                    self.servers |= tally.keyed(message["upstreams"])
                    self.open = message["open"]
                    on_counters()
                    if message["stranded"] != self.stranded:
                        self.stranded = message["stranded"]
                        on_problems()
                elif "ejected" in message:
                    on_ejected(self, message["ejected"])
                elif "told" in message:
                    self._questions.popleft().set_result(message["told"])
                elif "cannot" in message:
                    self.cannot = message["cannot"]
                elif "applied" in message or "refused" in message:
                    self._answered(message)
                else:
                    self.problems = message["problems"]
                    on_problems()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result({"gone": True})
        for question in self._questions:
            question.set_result([])
        self._questions.clear()
        self._writer.close()
        self._passed.close()

    def _answered(self, message: dict[str, object]) -> None:
        if message.get("applied", message.get("refused")) != self._asked:
            return
        self.problems = cast(list[str], message.get("problems", self.problems))
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message)


def kill(process: asyncio.subprocess.Process) -> None:
    """Ends it at once, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def reap(process: asyncio.subprocess.Process) -> None:
    """Waits for a process whose channel is closed; what holds on to life is killed."""
    try:
        async with asyncio.timeout(KILL_AFTER_S):
            await process.wait()
    except TimeoutError:
        kill(process)
        await process.wait()
