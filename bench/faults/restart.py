"""What systemd does in a real installation: a process that has ended is started again as its unit says (`units`)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from bench.faults import units
from deploy.lab import namespaces
from deploy.lab.errors import LabError
from deploy.lab.lab import Lab

LOOK_S = 0.05


class Restarter(threading.Thread):
    """Watches the lab's processes until `stop`. Hosts in `held` are left as they are: they have no power."""

    def __init__(self, lab: Lab, say: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self._lab = lab
        self._say = say
        self._stop_it = threading.Event()
        self._units = {name: units.of(lab.host_of(name).role) for name in lab.process_names()}
        self._due: dict[str, float] = {}  # when each that has ended is started
        self._terminated: dict[str, float] = {}  # until when the rest of its control group may end by itself
        self.held: set[str] = set()
        self.restarts: dict[str, int] = {}

    def run(self) -> None:
        while not self._stop_it.wait(LOOK_S):
            for name, unit in self._units.items():
                host = self._lab.host_of(name).name
                if host in self.held or self._lab.process_id(name) is not None:
                    self._due.pop(name, None)
                    self._terminated.pop(name, None)
                    continue
                self._ended(name, unit)

    def _ended(self, name: str, unit: units.Unit) -> None:
        now = time.monotonic()
        if name not in self._due:
            self._due[name] = now + unit.restart_s
            self._terminated[name] = now + unit.stop_s
            if unit.kill_mode != "process":
                self._rest(name, signal.SIGKILL if unit.kill_mode == "mixed" else signal.SIGTERM)
        if unit.kill_mode == "control-group" and self._others(name):
            if now < self._terminated[name]:
                return
            self._rest(name, signal.SIGKILL)
        if now >= self._due[name]:
            try:
                self._lab.launch(name)
                self.restarts[name] = self.restarts.get(name, 0) + 1
                del self._due[name]
            except LabError as error:
                self._say(f"{name} cannot be started again yet: {error}")
                self._due[name] = now + unit.restart_s

    def _others(self, name: str) -> list[int]:
        """The other processes of its control group: those of its namespace that are no process of the lab's."""
        ours = {self._lab.process_id(each) for each in self._units}
        return [pid for pid in namespaces.inhabitants([self._lab.host_of(name).netns]) if pid not in ours]

    def _rest(self, name: str, number: signal.Signals) -> None:
        for pid in self._others(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        self._stop_it.set()
        self.join()


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
