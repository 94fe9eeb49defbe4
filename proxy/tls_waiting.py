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
    import greenlet  # type: ignore[import-untyped]
except ImportError:  # the thread pool takes its place
    greenlet = None

log = logging.getLogger(__name__)

Signed = bytes | Exception
Ask = Callable[[bytes, int, bytes, Callable[[Signed], None]], None]
Done = Callable[[Exception | None], None]

# RSA-2048 takes the key server about 0.2 ms, so that 32 that wait are more than one of its cores can serve.
THREADS = 32


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

    def run(self, call: Callable[[], None], ask: Ask, done: Done) -> Step:
        step = _GreenletStep(ask, done)
        step.start(call)
        return step

    def close(self) -> None:
        pass


class _GreenletStep:
    __slots__ = ("_abandoned", "_ask", "_done", "_stack", "_waits")

    def __init__(self, ask: Ask, done: Done) -> None:
        self._ask = ask
        self._done = done
        self._abandoned = False
        self._waits = False
        self._stack = greenlet.greenlet(self._run)

    def start(self, call: Callable[[], None]) -> None:
        self._go_on(call)

    def abandon(self) -> None:
        self._abandoned = True
        if self._waits:
            self._resume(Abandoned())

    def _run(self, call: Callable[[], None]) -> Exception | None:
        keyless.SIGNER.set(self._sign)  # a greenlet has a context of its own
        try:
            call()
        except Exception as error:
            return error.with_traceback(None)
        return None

    def _sign(self, key_id: bytes, scheme: int, content: bytes) -> bytes:
        """On the handshake's stack. The error queue is the thread's, hence other handshakes' too: left empty."""
        if self._abandoned:
            raise Abandoned
        hub = self._stack.parent
        assert hub is not None
        keyless.clear_errors()
        signed: Signed = hub.switch((key_id, scheme, content))
        keyless.clear_errors()
        if isinstance(signed, bytes):
            return signed
        raise signed

    def _go_on(self, value: object) -> None:
        """Switches to the handshake's stack until it asks for a signature or ends."""
        outcome = self._stack.switch(value)
        if self._stack.dead:
            self._done(outcome)
        else:
            self._waits = True
            key_id, scheme, content = outcome
            self._ask(key_id, scheme, content, self._resume)

    def _resume(self, signed: Signed) -> None:
        if self._waits:
            self._waits = False
            self._go_on(signed)


class ThreadWaiting:
    name = "threads"

    def __init__(self, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tls-handshake")

    def run(self, call: Callable[[], None], ask: Ask, done: Done) -> Step:
        step = _ThreadStep(asyncio.get_running_loop(), ask, done)
        self._pool.submit(step.work, call)
        return step

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class _ThreadStep:
    __slots__ = ("_ask", "_done", "_loop", "_replied", "_signed")

    def __init__(self, loop: asyncio.AbstractEventLoop, ask: Ask, done: Done) -> None:
        self._loop = loop
        self._ask = ask
        self._done = done
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
        self._replied.wait()
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
