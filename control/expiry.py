"""Tells the log of certificates that end soon: when it comes to that or gets worse, and then once a day."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from certs.inventory import Urgency, entries
from control.service import ControlPlane

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
AGAIN_AFTER = timedelta(days=1)

Told = Mapping[str, tuple[Urgency, datetime]]  # by certificate: what was said of it, and when


def news(plane: ControlPlane, told: Told, now: datetime) -> tuple[list[str], Told]:
    """What is to be said now, and what has been said then."""
    lines: list[str] = []
    after: dict[str, tuple[Urgency, datetime]] = {}
    for each in entries(plane.current.model, now):
        if not each.warning or not each.used_by:
            continue
        before = told.get(each.name)
        if before is not None and before[0] is each.urgency and now - before[1] < AGAIN_AFTER:
            after[each.name] = before
        else:
            after[each.name] = each.urgency, now
            lines.append(f"{each.warning} (used by {', '.join(each.used_by)})")
    return lines, after


async def watch(plane: ControlPlane, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
    """Until cancelled."""
    told: Told = {}
    while True:
        lines, told = news(plane, told, clock())
        for line in lines:
            log.warning("%s", line)
        await asyncio.sleep(LOOK_EVERY_S)
