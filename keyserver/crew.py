"""Worker processes that sign with some kinds of key (worker.py), seen from the process that talks to the network.

What takes long, RSA above all, is signed elsewhere, because `cryptography` holds the GIL while it signs: here an ECDSA
request would wait behind it. A crew has one queue and a few workers, each of which has only a window of requests at a
time. So the queue stays here, where deadlines are kept and requests of clients that have gone are dropped.

A worker that ends, or is silent while it owes answers, is replaced; what it owed goes to the head of the queue once
more and then fails, lest one request end worker after worker. Every job is done exactly once and in bounded time: with
a result, or with BUSY when it has waited for its deadline. Everything happens in the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, cast

from control.node.tasks import Tasks
from keyserver.errors import ErrorCode
from keyserver.policy import KeyType
from keyserver.protocol import MAX_REQUEST_ID, Broken, Event, Failed, Sign, Signed, Welcome, client_side

log = logging.getLogger(__name__)

MAX_QUEUED = 4096  # a second's work of one core
WINDOW = 8  # requests that a worker has at a time: enough that it never waits for us
QUEUE_DEADLINE_S = 2.0  # the client's default deadline: who has waited so long has given up
SILENCE_S = 0.75  # a third of that deadline: there is time left for another worker
START_S = 60.0  # for the process to begin and to get its keys, which may be many and encrypted
TICK_S = 0.05
ATTEMPTS = 2
BACKOFF_S = (0.05, 5.0)  # before a worker is started again: the first delay and the longest
STEADY_S = 10.0  # who lived so long was no failure of starting
END_S = 1.0

Done = Callable[["bytes | ErrorCode"], None]


class Process(Protocol):
    """A worker's process."""

    @property
    def pid(self) -> int: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


Start = Callable[[socket.socket, socket.socket], Process]


def start_process(requests: socket.socket, keys: socket.socket, module: str = "keyserver.worker") -> Process:
    """A worker with its ends of the two sockets. Raises OSError."""
    descriptors = (requests.fileno(), keys.fileno())
    argv = [sys.executable, "-P", "-m", module, "--requests", str(descriptors[0])]
    argv += ["--keys", str(descriptors[1])]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=descriptors)


def start_token_process(requests: socket.socket, keys: socket.socket) -> Process:
    """A worker whose keys are in a token. Raises OSError."""
    return start_process(requests, keys, "keyserver.token_worker")


@dataclass(slots=True, eq=False)
class Job:
    """A request, since when it waits, who is told, and whether nobody cares any more."""

    request: Sign
    since: float
    done: Done
    abandoned: Callable[[], bool]
    attempts: int = 0


class Crew:
    """`size` workers for keys of `kinds`. `flush` is called after jobs were done; `fresh` when a worker needs keys."""

    def __init__(self, name: str, kinds: Iterable[KeyType], size: int, start: Start = start_process) -> None:
        self.name = name
        self.kinds = frozenset(kinds)
        self.size = size
        self.hands: list[Hand] = []
        self.restarts = 0
        self.flush: Callable[[], None] = _nothing
        self.fresh: Callable[[], None] = _nothing
        self._start = start
        self._queue: deque[Job] = deque()
        self._tasks = Tasks()
        self._ticking = False
        self._closed = False
        self._delay_s = BACKOFF_S[0]
        self._last_id = 0

    async def start(self) -> None:
        """Start all workers; they serve once they were given keys. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        for _ in range(self.size):
            self.hands.append(await self._hire())

    async def close(self) -> None:
        """Let the workers end. Jobs that are not done fail as INTERNAL."""
        self._closed = True
        await self._tasks.close()
        hands, self.hands = self.hands, []
        for hand in hands:
            hand.close()
        for job in [*self._queue, *(job for hand in hands for job in hand.asked.values())]:
            job.done(ErrorCode.INTERNAL)
        self._queue.clear()
        await asyncio.gather(*(asyncio.to_thread(hand.reap) for hand in hands))

    @property
    def waiting(self) -> int:
        """Jobs that no worker has yet."""
        return len(self._queue)

    @property
    def ready(self) -> int:
        """Workers that sign."""
        return sum(hand.ready for hand in self.hands)

    def ask(self, job: Job) -> bool:
        """Whether there was room for the job. `done` is never called from within."""
        if self._closed or len(self._queue) >= MAX_QUEUED:
            return False
        self._queue.append(job)
        self._dispatch()
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(TICK_S, self._tick)
        return True

    def _dispatch(self) -> None:
        while self._queue:
            hand = min((h for h in self.hands if h.ready), key=lambda hand: len(hand.asked), default=None)
            if hand is None or len(hand.asked) >= WINDOW:
                return
            job = self._queue.popleft()
            if not self._settled(job, self._loop.time()):
                self._last_id = self._last_id % MAX_REQUEST_ID + 1
                hand.ask(self._last_id, job)

    def _settled(self, job: Job, now: float) -> bool:
        """Whether a job needs no worker any more: nobody waits for it, or it has waited too long itself."""
        if not job.abandoned() and job.since + QUEUE_DEADLINE_S >= now:
            return False
        self._loop.call_soon(self._late, job)  # later: `ask` calls nobody back
        return True

    def _late(self, job: Job) -> None:
        job.done(ErrorCode.BUSY)
        self.flush()

    def _tick(self) -> None:
        """Fail what has waited too long, and replace workers that are silent."""
        now = self._loop.time()
        for hand in list(self.hands):
            if hand.silent_since + (SILENCE_S if hand.ready else START_S) < now:
                log.error("worker %s %d does not answer", self.name, hand.pid)
                hand.kill()
        while self._queue and self._settled(self._queue[0], now):
            self._queue.popleft()
        self._ticking = bool(self._queue) or any(hand.asked for hand in self.hands)
        if self._ticking:
            self._loop.call_later(TICK_S, self._tick)

    async def _hire(self) -> Hand:
        requests, their_requests = socket.socketpair()
        keys, their_keys = socket.socketpair()
        try:
            process = self._start(their_requests, their_keys)  # vfork: a millisecond
        except OSError:
            requests.close()
            keys.close()
            raise
        finally:
            their_requests.close()
            their_keys.close()
        requests.setblocking(False)
        hand = Hand(self, process, keys)
        await self._loop.create_unix_connection(lambda: hand, sock=requests)
        return hand

    async def _replace(self) -> None:
        delay_s, self._delay_s = self._delay_s, min(self._delay_s * 2, BACKOFF_S[1])
        await asyncio.sleep(delay_s)
        while True:
            try:
                self.hands.append(await self._hire())
                break
            except OSError as error:
                log.error("cannot start a worker %s: %s", self.name, error)
                await asyncio.sleep(BACKOFF_S[1])
        self.restarts += 1
        self.fresh()

    def answered(self) -> None:
        """For hands: answers have come in."""
        self.flush()
        self._dispatch()

    def lost(self, hand: Hand, lived_s: float) -> None:
        """For hands: the worker has gone. What it owed comes first again, once."""
        if self._closed:
            return
        self.hands.remove(hand)
        log.error("worker %s %d has ended; starting another", self.name, hand.pid)
        for job in reversed(hand.asked.values()):
            if job.attempts < ATTEMPTS:
                self._queue.appendleft(job)
            else:
                job.done(ErrorCode.INTERNAL)
        hand.asked.clear()
        if lived_s > STEADY_S:
            self._delay_s = BACKOFF_S[0]
        self._tasks.spawn(asyncio.to_thread(hand.reap), f"reap {hand.pid}")
        self._tasks.spawn(self._replace(), f"worker {self.name}")
        self.answered()


class Hand(asyncio.Protocol):
    """One worker: the connection to it, what it was asked, and the socket by which it is given keys."""

    def __init__(self, crew: Crew, process: Process, keys: socket.socket) -> None:
        self.keys = keys
        self.equipped = False  # keys were sent, and taken
        self.ready = False
        self.asked: dict[int, Job] = {}
        self.crew = crew
        self._process = process
        self._wire = client_side()
        self._loop = asyncio.get_running_loop()
        self._began = self._heard = self._loop.time()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def silent_since(self) -> float:
        """When the wait for any answer at all began; infinity while nothing is owed."""
        return self._heard if self.asked or not self.ready else float("inf")

    def ask(self, number: int, job: Job) -> None:
        """Send a job under a number that is unique among those asked."""
        if not self.asked:
            self._heard = self._loop.time()
        job.attempts += 1
        self.asked[number] = job
        self._wire.send(job.request._replace(request_id=number, sni=""))
        self._transport.write(self._wire.data_to_send())

    def kill(self) -> None:
        """End it whatever it does; `lost` follows."""
        self._process.kill()
        self._transport.abort()

    def close(self) -> None:
        """Let it end."""
        self._transport.abort()
        self.keys.close()

    def reap(self) -> None:
        """Blocks until the process has ended, which it has to once its sockets are closed."""
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._wire.data_to_send())

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._wire.receive_data(data)
        for event in self._wire.events():
            self._handle(event)
        self.crew.answered()

    def _handle(self, event: Event) -> None:
        match event:
            case Signed() | Failed() if job := self.asked.pop(event.request_id, None):
                job.done(event.signature if isinstance(event, Signed) else event.code)
            case Welcome():
                self.ready = True
                log.info("worker %s %d is ready", self.crew.name, self.pid)
            case Broken():
                log.error("worker %s %d: %s", self.crew.name, self.pid, event.why)
                self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ready = False
        self.keys.close()
        self.crew.lost(self, self._loop.time() - self._began)


def _nothing() -> None:
    pass
