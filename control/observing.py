"""What the control plane sees of its nodes, kept up to date: rates, charts, events.

One `Observer` per process; it belongs to the event loop. Its owner runs `keep` and then calls `close`. Charts and
events go to a file (`control.history`) in threads: a disk that is slow or full holds up nobody.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from certs import inventory
from control import series, topology
from control.happenings import ERROR, INFO, WARNING, Event, Happening, Watcher
from control.history import History
from control.service import ControlPlane
from control.sight import Sight
from control.store import StoreUnavailableError
from control.window import Window
from core.model import Model

LOOK_S: Final = 1.0
FRESH_S: Final = 1.0  # who asks again within it gets the same picture
PICTURES_MOST: Final = 8
RECENT_MOST: Final = 1000  # events that are in memory, for those who watch
CERTIFICATES_S: Final = 60.0
VERSIONS_MOST: Final = 100  # told one by one after a time away
SIGN_INS_S: Final = 60.0  # failed ones are told together, by address
ADDRESSES_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Charts:
    """What is kept: object → (number, since when), and how many of each kind are not."""

    objects: Mapping[str, tuple[int, int]]
    dropped: Mapping[str, int]


class Observer:
    """`clock` is monotonic, `wall` Unix time. Without a `history`, all is forgotten at the end."""

    def __init__(
        self,
        plane: ControlPlane,
        history: History | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.history = history or History()
        self.recent: deque[Event] = deque(maxlen=RECENT_MOST)
        self.charts = Charts({}, {})
        self.window = Window()
        self._slow = Window(0.0, 0.0, servers=False)
        self._plane, self._clock, self._wall = plane, clock, wall
        self._pictures: dict[tuple[str, int], tuple[float, int, dict[str, Any]]] = {}
        self._slot: int | None = None
        self._names: frozenset[str] = frozenset()
        self._watcher: Watcher | None = None
        self._notes: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        self._queue: list[Happening] = []
        self._away = ""
        self._certificates_at = float("-inf")
        self._sign_ins: dict[str, int] = {}
        self._sign_ins_at = clock()
        self._members: frozenset[tuple[str, str, bool]] | None = None

    async def keep(self) -> None:
        """Until cancelled."""
        await self.begin()
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def begin(self) -> None:
        """Go on from where the one before ended."""
        self._notes = dict(await asyncio.to_thread(self.history.notes))
        known = await asyncio.to_thread(self.history.objects)
        self.charts = Charts(known, {})
        nodes = self._notes.get("nodes")
        self._watcher = Watcher(nodes if isinstance(nodes, dict) else {}, self._clock())
        self._notes.setdefault("version", self._plane.current.version)
        self.tell(
            "control", INFO, "control", f"the control plane has started with version {self._plane.current.version}"
        )

    async def look(self) -> None:
        """Note what the nodes have reported, and what has happened."""
        statuses = self._plane.status()
        self.window.take(statuses)
        await self._chart(statuses)
        if self._watcher is None:
            return
        by = {each.name: each.by for each in self._plane.orders.state.drains}
        self._queue += self._watcher.look(self._plane.current.model, statuses, by, self._clock(), self._wall())
        self._look_at_members()
        self._look_at_the_store()
        self._look_at_sign_ins()
        await self._look_at_versions()
        await self._look_at_certificates()
        await self._write_events()

    async def close(self) -> None:
        """Write what is left."""
        if self._watcher is not None:
            self.tell("control", INFO, "control", "the control plane ends")
            await self._write_events()
        await asyncio.to_thread(self.history.close)

    # Pictures

    def topology(self, instance: str, limit: int) -> dict[str, Any]:
        """The picture; the one that was made a moment ago, if there is one."""
        key, now, current = (instance, limit), self._clock(), self._plane.current
        made = self._pictures.pop(key, None)
        if made is None or now - made[0] >= FRESH_S or made[1] != current.version:
            sight = Sight(current.model, self._plane.status(), self.window)
            document = topology.document(current.version, self._wall(), sight, instance=instance, limit=limit)
            made = (now, current.version, document)
        self._pictures[key] = made
        while len(self._pictures) > PICTURES_MOST:
            del self._pictures[next(iter(self._pictures))]
        return made[2]

    # Charts

    async def _chart(self, statuses: Sequence[Any]) -> None:
        """At the end of each slot, what was counted in it."""
        slot = math.floor(self._wall() / series.STEP_S) * series.STEP_S
        if slot == self._slot:
            return
        before, self._slot = self._slot, slot
        sight = Sight(self._plane.current.model, statuses, self._slow)
        found, dropped = series.measured(sight)
        self._slow.take(statuses)
        if before is not None:
            await asyncio.to_thread(self._keep_cells, slot - series.STEP_S, found, dropped)

    def _keep_cells(self, slot: int, found: Mapping[str, series.Measured], dropped: Mapping[str, int]) -> None:
        """Blocks."""
        history, names = self.history, frozenset(found)
        if names != self._names or not self.charts.objects:
            history.keep(list(found), slot)
            self.charts, self._names = Charts(history.objects(), dropped), names
        numbers = {name: number for name, (number, _) in self.charts.objects.items() if name in found}
        if not numbers:
            return  # it could not be written
        history.put_cells(
            series.STEP_S, slot, series.row(found, numbers), slot - series.STEP_S * series.RINGS[series.STEP_S]
        )
        step, end = series.STEP_S, slot + series.STEP_S
        while (longer := series.coarser(step)) is not None and end % longer == 0:
            rows = [row for _, row in history.cells(step, end - longer, end)]
            oldest = end - longer * (series.RINGS[longer] + 1)
            history.put_cells(longer, end - longer, series.merged(rows), oldest)
            step = longer

    def chart(self, of: str, asked: series.Asked) -> dict[str, list[float | None]] | None:
        """An object's columns; None where it is not kept. Blocks."""
        known = self.charts.objects.get(of)
        if known is None:
            return None
        return series.answer(asked, self.history.cells(asked.step, asked.start, asked.end), *known)

    # Events

    def tell(self, kind: str, severity: str, of: str, text: str, **fields: object) -> None:
        """Note what has happened; it is kept with the next look."""
        self._queue.append(Happening(self._wall(), kind, severity, of, text, fields))

    def signed_in_badly(self, source: str) -> None:
        """A token was refused."""
        if source in self._sign_ins or len(self._sign_ins) < ADDRESSES_MOST:
            self._sign_ins[source] = self._sign_ins.get(source, 0) + 1

    async def _write_events(self) -> None:
        happenings, self._queue = self._queue, []
        assert self._watcher is not None
        notes = {**self._notes, "nodes": dict(self._watcher.nodes)}
        if happenings or notes != self._written:
            self._written = notes
            self.recent.extend(await asyncio.to_thread(self._write, happenings, notes))

    def _write(self, happenings: Sequence[Happening], notes: Mapping[str, object]) -> list[Event]:
        """Blocks."""
        self.history.note(notes)
        return self.history.add(happenings)

    def _look_at_members(self) -> None:
        members = frozenset((each.role, each.name, bool(each.revoked)) for each in self._plane.orders.state.members)
        before, self._members = self._members, members
        for role, name, revoked in sorted(members - before) if before is not None else ():
            if revoked:
                self.tell("member", WARNING, f"nodes/{name}", f"the identity of {role} {name} is revoked", role=role)
            else:
                self.tell("member", INFO, f"nodes/{name}", f"{role} {name} has joined", role=role)

    def _look_at_the_store(self) -> None:
        away, before = self._plane.store.away(), self._away
        self._away = away
        if away and not before:
            self.tell("control", ERROR, "control", f"the storage is away: {away}")
        elif before and not away:
            self.tell("control", INFO, "control", "the storage is back")

    def _look_at_sign_ins(self) -> None:
        if self._clock() - self._sign_ins_at < SIGN_INS_S and len(self._sign_ins) < ADDRESSES_MOST:
            return
        self._sign_ins_at = self._clock()
        found, self._sign_ins = self._sign_ins, {}
        for source, count in found.items():
            text = f"{count} requests with a token that is void came from {source}"
            self.tell("sign-in", WARNING, f"addresses/{source}", text, source=source, count=count)

    async def _look_at_versions(self) -> None:
        known, current = int(self._notes["version"]), self._plane.current.version
        if known == current:
            return
        try:
            entries = await self._plane.store.history(min(VERSIONS_MOST, max(1, current - known)))
        except StoreUnavailableError:
            return
        self._notes = {**self._notes, "version": current}
        if current < known:
            self.tell(
                "version",
                WARNING,
                f"versions/{current}",
                f"version {current} is there again: a backup was brought back",
            )
        for each in sorted(entries, key=lambda entry: entry.version):
            if known < each.version <= current:
                said = f": {each.comment}" if each.comment else ""
                text = f"version {each.version} by {each.author}{said}"
                fields = {"version": each.version, "author": each.author, "comment": each.comment}
                self._queue.append(Happening(each.created, "version", INFO, f"versions/{each.version}", text, fields))

    async def _look_at_certificates(self) -> None:
        if self._clock() - self._certificates_at < CERTIFICATES_S:
            return
        self._certificates_at = self._clock()
        before = self._notes.get("certificates") or {}
        found = await asyncio.to_thread(_endings, self._plane.current.model, datetime.fromtimestamp(self._wall(), UTC))
        for name, (urgency, warning) in found.items():
            if before.get(name) != urgency:
                self.tell("certificate", WARNING, f"certificates/{name}", warning, urgency=urgency)
        for name in before.keys() - found.keys():
            self.tell("certificate", INFO, f"certificates/{name}", f"certificate {name!r}: no longer about to end")
        self._notes = {**self._notes, "certificates": {name: urgency for name, (urgency, _) in found.items()}}


def _endings(model: Model, now: datetime) -> dict[str, tuple[str, str]]:
    """Certificates that somebody has to look at: how urgent it is, and in words."""
    return {
        each.name: (str(each.urgency.value), each.warning)
        for each in inventory.entries(model, now)
        if each.warning and each.used_by
    }


OBSERVER = web.AppKey("observer", Observer)
