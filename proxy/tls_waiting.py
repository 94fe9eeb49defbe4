"""Waiting for a signature in the middle of `do_handshake`, without holding up the event loop.

OpenSSL asks for a signature by calling us and wants the answer when that call returns; the answer is a round trip to
the key server away. Two ways to wait, which look the same from outside (`Waiting`):

* `GreenletWaiting`: the handshake runs on a stack of its own (greenlet). Asked for a signature, it switches back to the
  event loop with its C frames in place; the reply switches to it again. About 40 KiB for each that waits.
* `ThreadWaiting`: the handshake runs in a thread of a pool, which blocks. Slower (docs/keyless-tls.md has the figures),
  and no more handshakes wait at once than there are threads; needs the standard library only.

A step that has been abandoned is answered with an error at once, so that OpenSSL unwinds and the stack or the thread is
free again. Every step that is run ends with `done`, abandoned or not.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from proxy import keyless

try:
    import greenlet
except ImportError:  # the thread pool takes its place
    greenlet = None

log = logging.getLogger(__name__)

Signed = bytes | Exception
Ask = Callable[[bytes, int, bytes, Callable[[Signed], None]], None]
Done = Callable[[Exception | None], None]

# RSA-2048 takes the key server about 0.2 ms, so that 32 that wait are more than one of its cores can serve.
THREADS = 32
# A thread that is not answered gives up then, so that a process whose loop is gone can end. Handshakes time out sooner.
THREAD_PATIENCE_S = 60.0
# Idle stacks kept, at 20 KiB each: enough for what one turn of the loop starts under load.
SPARE_STACKS = 128


class Abandoned(Exception):
    """Nobody waits for this handshake any more."""


class Step(Protocol):
    """One `do_handshake` call that is running or waiting."""

    def abandon(self) -> None:
        """Fails the signature that is awaited or may yet be asked for. `done` is still called."""


class Waiting(Protocol):
    name: str

    def run(self, call: Callable[[], None], ask: Ask, done: Done) -> Step:
        """Runs `call`, which may need signatures. Loop thread only; so are `ask` and `done`.

        `ask(key_id, scheme, content, reply)` passes a request on and has `reply` called once, then or later; once
        in a step. `done` gets what `call` raised, or None; it may be called before `run` returns.
        """

    def close(self) -> None:
        """Releases what waiting needs. Steps have been abandoned before."""


class GreenletWaiting:
    name = "greenlet"

    def __init__(self) -> None:
        self._idle: list[_Stack] = []

    def run(self, call: Callable[[], None], ask: Ask, done: Done) -> Step:
        step = _GreenletStep(call, ask, done, self)
        step.go_on(self._idle.pop() if self._idle else _Stack(), step)
        return step

    def spare(self, stack: _Stack) -> None:
        """For steps that have ended: a stack is used again, since making one costs two mmap(2) and 10 µs."""
        if len(self._idle) < SPARE_STACKS:
            self._idle.append(stack)
        else:
            stack.end()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().end()


class _Stack:
    """A greenlet that runs one step after another, and says to its parent what it needs or how a step has ended."""

    __slots__ = ("_greenlet", "switch")

    def __init__(self) -> None:
        self._greenlet = greenlet.greenlet(self._work)
        self.switch = self._greenlet.switch

    def end(self) -> None:
        self._greenlet.throw()  # GreenletExit

    def _work(self, step: _GreenletStep) -> None:
        hub = self._greenlet.parent
        assert hub is not None
        while True:
            keyless.SIGNER.set(step.sign)  # a greenlet has a context of its own
            outcome: Exception | None = None
            try:
                step.call()
            except Exception as error:
                outcome = error.with_traceback(None)
            del step
            step = hub.switch(outcome)


class _GreenletStep:
    __slots__ = ("_abandoned", "_ask", "_done", "_stack", "_waiting", "_waits", "call")

    def __init__(self, call: Callable[[], None], ask: Ask, done: Done, waiting: GreenletWaiting) -> None:
        self.call = call
        self._ask = ask
        self._done = done
        self._waiting = waiting
        self._stack: _Stack | None = None
        self._abandoned = False
        self._waits = False

    def abandon(self) -> None:
        self._abandoned = True
        self._resume(Abandoned())

    def sign(self, key_id: bytes, scheme: int, content: bytes) -> bytes:
        """On the handshake's stack. The error queue is the thread's, hence other handshakes' too: left empty."""
        if self._abandoned:
            raise Abandoned
        keyless.clear_errors()
        signed: Signed = greenlet.getcurrent().parent.switch((key_id, scheme, content))
        keyless.clear_errors()
        if isinstance(signed, bytes):
            return signed
        raise signed

    def go_on(self, stack: _Stack, value: object) -> None:
        """Switches to the handshake's stack until it asks for a signature or ends."""
        outcome = stack.switch(value)
        if isinstance(outcome, tuple):
            self._stack = stack
            self._waits = True
            key_id, scheme, content = outcome
            self._ask(key_id, scheme, content, self._resume)
        else:
            self._waiting.spare(stack)
            self._done(outcome)

    def _resume(self, signed: Signed) -> None:
        """A reply to a step that no longer waits is dropped: its stack is somebody else's by now."""
        if self._waits and self._stack is not None:
            self._waits = False
            stack, self._stack = self._stack, None
            self.go_on(stack, signed)


class ThreadWaiting:
    name = "threads"

    def __init__(self, threads: int = THREADS, patience_s: float = THREAD_PATIENCE_S) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tls-handshake")
        self._patience_s = patience_s

    def run(self, call: Callable[[], None], ask: Ask, done: Done) -> Step:
        step = _ThreadStep(asyncio.get_running_loop(), ask, done, self._patience_s)
        self._pool.submit(step.work, call)
        return step

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class _ThreadStep:
    __slots__ = ("_ask", "_done", "_loop", "_patience_s", "_replied", "_signed")

    def __init__(self, loop: asyncio.AbstractEventLoop, ask: Ask, done: Done, patience_s: float) -> None:
        self._loop = loop
        self._ask = ask
        self._done = done
        self._patience_s = patience_s
        self._replied = threading.Event()
        self._signed: Signed = Abandoned()

    def abandon(self) -> None:
        self._replied.set()

    def work(self, call: Callable[[], None]) -> None:
        """In a thread of the pool."""
        outcome: Exception | None = None
        keyless.SIGNER.set(self._sign)  # a thread has a context of its own
        try:
            call()
        except Exception as error:
            outcome = error.with_traceback(None)
        try:
            self._loop.call_soon_threadsafe(self._done, outcome)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            log.debug("handshake ended after its loop")

    def _sign(self, key_id: bytes, scheme: int, content: bytes) -> bytes:
        if self._replied.is_set():  # abandoned, or a second request in one step, which TLS has not
            raise Abandoned
        self._loop.call_soon_threadsafe(self._ask, key_id, scheme, content, self._reply)
        self._replied.wait(self._patience_s)
        if isinstance(self._signed, bytes):
            return self._signed
        raise self._signed

    def _reply(self, signed: Signed) -> None:
        if not self._replied.is_set():
            self._signed = signed
            self._replied.set()


def choose() -> Waiting:
    """Greenlets where there are any, else threads."""
    if greenlet is None:
        log.warning("greenlet is not installed: TLS handshakes wait for the key server in %d threads", THREADS)
        return ThreadWaiting()
    return GreenletWaiting()
