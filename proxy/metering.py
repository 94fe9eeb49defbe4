"""What an L7 node has counted of its listeners, for its ledger: the files of its workers, those that are left included.

A file is forgotten when its worker has ended and what it holds is in the ledger. Where a node is replaced, the workers
of the one before go on counting into theirs; whoever has the ledger reads all that are there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from control.node.ledger import Counted, Ledger
from control.node.metering import Look
from core.model import Model
from core.usage import Owner
from proxy import cells

log = logging.getLogger(__name__)

DIRECTORY: Final = "counters"  # in the state directory
NOBODY: Final = "-"  # the instance of a listener that no configuration had when it was first looked at


class Openings:
    """How many connections each listener had at once since this was last asked, all workers together."""

    def __init__(self) -> None:
        self._most: dict[str, int] = {}

    def saw(self, workers: Iterable[Mapping[str, int]]) -> None:
        """The connections of each worker by listener, now."""
        total: dict[str, int] = {}
        for worker in workers:
            for name, number in worker.items():
                total[name] = total.get(name, 0) + number
        for name, number in total.items():
            if number > self._most.get(name, 0):
                self._most[name] = number

    def take(self) -> dict[str, int]:
        most, self._most = self._most, {}
        return most


class Workers:
    """The `Source` of an L7 node. `model` gives the configuration that runs, if there is one."""

    def __init__(self, state: Path, model: Callable[[], Model | None], openings: Openings) -> None:
        self.directory = state / DIRECTORY
        self._model = model
        self._openings = openings

    def look(self, ledger: Ledger) -> Look | None:
        model = self._model()
        if model is None:
            return None
        sources: dict[str, dict[str, Counted]] = {}
        left: list[Path] = []
        for file in cells.found(self.directory):
            known = ledger.bases(file.path.name)
            sources[file.path.name] = {
                name: Counted(_owner(model, name) or (None if name in known else (NOBODY, name)), counters)
                for name, counters in file.listeners.items()
            }
            if file.left:
                left.append(file.path)
        most = {owner: n for name, n in self._openings.take().items() if (owner := _owner(model, name)) is not None}
        return Look(sources, added=most, done=lambda: _forget(left))


def _owner(model: Model, listener: str) -> Owner | None:
    found = model.listeners.get(listener)
    return None if found is None else (found.instance, listener)


def _forget(files: Iterable[Path]) -> None:
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def moved(before: Model | None, after: Model) -> bool:
    """Whether a listener is another instance's now."""
    return before is not None and any(
        name in after.listeners and after.listeners[name].instance != listener.instance
        for name, listener in before.listeners.items()
    )
