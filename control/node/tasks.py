"""Tasks that somebody keeps and watches.

asyncio holds only weak references to tasks and reports a task's exception when the task is collected, if ever. Here
every task has an owner and a name; one that dies with an exception is logged at once and its owner is told, so that a
process never runs on with a dead limb.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)

# Python 3.11's wait_for() loses a cancellation that meets its result (python/cpython#86296): it is then sent again.
CANCEL_AGAIN_S = 0.5


class Tasks:
    """The tasks of one owner. `on_failure` gets name and exception of each task that died; cancelled ones did not."""

    def __init__(self, on_failure: Callable[[str, BaseException], None] | None = None) -> None:
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start `coro` as a task named `name`; needs a running loop."""
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended; the calling task, if it is one of them, is left alone."""
        while others := self._tasks - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=CANCEL_AGAIN_S)

    def __len__(self) -> int:
        return len(self._tasks)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("task %s died: %r", task.get_name(), error, exc_info=error)
        if self._on_failure is not None:
            self._on_failure(task.get_name(), error)
