"""What the control plane sees of its nodes, kept up to date: rates, charts, events.

One per process; belongs to the event loop. Its owner runs `keep`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from control import topology
from control.service import ControlPlane
from control.sight import Sight
from control.window import Window

LOOK_S: Final = 1.0
FRESH_S: Final = 1.0  # who asks again within it gets the same picture
PICTURES_MOST: Final = 8


class Observer:
    def __init__(self, plane: ControlPlane, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = Window()
        self._plane = plane
        self._clock = clock
        self._pictures: dict[tuple[str, int], tuple[float, int, dict[str, Any]]] = {}

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Note what the nodes have reported."""
        self.window.take(self._plane.status())

    def topology(self, instance: str, limit: int) -> dict[str, Any]:
        """The picture; the one that was made a moment ago, if there is one."""
        key, now, current = (instance, limit), self._clock(), self._plane.current
        made = self._pictures.pop(key, None)
        if made is None or now - made[0] >= FRESH_S or made[1] != current.version:
            sight = Sight(current.model, self._plane.status(), self.window)
            document = topology.document(current.version, time.time(), sight, instance=instance, limit=limit)
            made = (now, current.version, document)
        self._pictures[key] = made
        while len(self._pictures) > PICTURES_MOST:
            del self._pictures[next(iter(self._pictures))]
        return made[2]


OBSERVER = web.AppKey("observer", Observer)
