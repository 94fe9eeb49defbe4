"""The processes of one `paifang up`: started, kept running, replaced by new ones, ended.

A process is replaced without a gap: the new one begins beside the old one, which ends when the new one has said that it
is ready. The key server takes its socket's place by a rename, and whoever asks it comes again; an L7 node takes the old
one's listening sockets (proxy/handover.py). The control plane is needed by neither in the meantime, and begins anew. A
new process that fails has changed nothing: the old one goes on.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from control.node.children import Child, ChildError
from control.node.patience import patience

READY_S: Final = 30.0
REPLACED_S: Final = 90.0  # an L7 node gives its new configuration a minute
DRAIN_S: Final = 5
RESTART_S: Final = (0.5, 30.0)  # the first delay after a child's death, and the longest
STEADY_S: Final = 30.0  # who has run for this long starts with the first delay again
LOG_LIMIT_BYTES: Final = 1 << 24
ORDER: Final = ("keyserver", "control", "l7", "acme")  # each needs those before it
BESIDE: Final = ("keyserver", "l7")  # run beside those that they replace


@dataclass(slots=True)
class Spec:
    """A child that is kept running: how it is started, and when it may be again. `turn`: which life it is in."""

    name: str
    argv: list[str]
    child: Child | None = None
    delay_s: float = RESTART_S[0]
    started: float = 0.0
    restart_at: float = 0.0
    turn: int = 0


class Children:
    """`root`: the state directory; `say` tells the user; `check_stop` raises when the user wants an end."""

    def __init__(self, root: Path, say: Callable[[str], object], check_stop: Callable[[], None]) -> None:
        self._root, self._say, self._check_stop = root, say, check_stop
        self._aside: list[Child] = []  # those that begin to replace others, and those that end
        self.specs: dict[str, Spec] = {}

    def add(self, name: str, argv: Sequence[str]) -> None:
        """Takes a child to be kept running from `start` on."""
        self.specs[name] = Spec(name, [*argv])

    def child(self, name: str) -> Child | None:
        return self.specs[name].child

    def start(self, name: str) -> None:
        """Raises ChildError."""
        spec = self.specs[name]
        spec.child = self._new(spec)

    def wait_ready(self, name: str) -> None:
        """Raises ChildError where a child has ended, or is late."""
        child = self.specs[name].child
        assert child is not None
        with patience(f"paifang: waiting for {name} ({READY_S:.0f} s at most); see {child.log}"):
            child.wait_ready(READY_S)

    def _new(self, spec: Spec, *more: str) -> Child:
        log = self._root / "log" / f"{spec.name}.log"
        with contextlib.suppress(OSError):
            if log.stat().st_size > LOG_LIMIT_BYTES:
                log.replace(log.with_suffix(".log.1"))
        argv = [sys.executable, "-m", *spec.argv, *more]
        spec.turn = 3 - spec.turn if spec.turn else 1  # two at a time, each with a socket for its readiness
        name = spec.name if spec.turn == 1 else f"{spec.name}2"
        spec.started = time.monotonic()
        return Child.start(name, argv, log=log, notify_dir=self._root / "run", die_with_parent=True)

    def keep(self) -> None:
        """Starts those again that have died, after a delay that doubles, and forgets those that were to end."""
        for child in [each for each in self._aside if each.poll() is not None]:
            self._aside.remove(child)
            child.terminate(0)
        for spec in list(self.specs.values()):
            self._keep(spec)

    def _keep(self, spec: Spec) -> None:
        now = time.monotonic()
        if spec.child is not None and (code := spec.child.poll()) is not None:
            spec.child.terminate(0)
            if now - spec.started > STEADY_S:
                spec.delay_s = RESTART_S[0]
            self._say(f"{spec.name} died (code {code}); starting it again in {spec.delay_s:g} s; see {spec.child.log}")
            spec.child, spec.restart_at = None, now + spec.delay_s
            spec.delay_s = min(spec.delay_s * 2, RESTART_S[1])
        if spec.child is None and now >= spec.restart_at:
            spec.child = self._new(spec)

    def replace_all(self) -> None:
        """New processes for all. Raises ChildError where one fails; those before it in ORDER are replaced by then."""
        for child in self._aside:  # of the time before
            child.terminate(DRAIN_S + 5)
        self._aside.clear()
        for name in ORDER:
            spec = self.specs.get(name)
            if spec is None or spec.child is None:  # nothing runs: `keep` starts a new one anyhow
                continue
            if name in BESIDE:
                self._replace(spec, *(("--replace",) if name == "l7" else ()))
            else:
                spec.child.terminate(DRAIN_S + 5)
                self.start(name)
                if name == "control":
                    self.wait_ready(name)

    def _replace(self, spec: Spec, *more: str) -> None:
        old, new = spec.child, self._new(spec, *more)
        assert old is not None
        self._aside.append(new)
        try:
            with patience(f"paifang: waiting for the new {spec.name} ({REPLACED_S:.0f} s at most); see {new.log}"):
                self._wait(new)
        except ChildError:
            self._aside.remove(new)
            new.terminate(0)
            raise
        spec.child = new
        self._aside[self._aside.index(new)] = old
        if spec.name == "keyserver":  # a node ends by itself
            old.signal(signal.SIGTERM)

    def _wait(self, child: Child) -> None:
        deadline = time.monotonic() + REPLACED_S
        while not child.said_ready():
            self._check_stop()
            if child.poll() is not None or time.monotonic() > deadline:
                child.wait_ready(0)  # raises, quoting its log
            time.sleep(0.05)

    def drop(self, name: str) -> None:
        """Ends a child, and does not keep it any more."""
        spec = self.specs.pop(name)
        if spec.child is not None:
            spec.child.terminate(DRAIN_S)

    def stop(self) -> None:
        """Ends all, those first that others do not need."""
        for name in reversed(ORDER):
            child = self.specs[name].child if name in self.specs else None
            if child is not None:
                failed = child.poll() is not None  # which has been said already
                code = child.terminate(DRAIN_S + 5)
                if not failed and code not in (0, -signal.SIGTERM):
                    self._say(f"{child.name} ended with code {code}; see {child.log}")
        for child in self._aside:
            child.terminate(DRAIN_S + 5)
        self._aside.clear()
