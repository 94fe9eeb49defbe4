"""What an L4 node has counted of its tcp and udp listeners, for its ledger: the kernel's maps of members.

A member's counters go on as long as its map lives, whoever lives beside it, and begin at zero when its number is given
to another. So numbers are what the ledger remembers, and before a configuration may give any away it takes what was
counted under those that nobody has any more (`Billing.before`). Maps are known by the kernel's ids, which are used
once until the machine is booted.

An agent with other tables than the one before begins with maps of its own, while the old ones count until it takes
over: these are read until then, and once more (`Left`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from control.node.ledger import FREE, Counted, Ledger, LedgerError
from control.node.metering import Look, Metering
from core.model import Model, Protocol
from core.resolve import L4Service
from core.usage import Owner
from l4fast.bpf.syscall import Map
from l4fast.loader import DataPlane, Estate
from l4fast.members import billed
from l4fast.tables import Tables

log = logging.getLogger(__name__)

STATS: Final = "member_stats"
L7: Final = frozenset({Protocol.HTTP, Protocol.HTTPS})  # metered by the L7 nodes
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

Owners = Mapping[str, Owner]


def owners(model: Model) -> Owners:
    """Who pays for each listener, here."""
    return {
        name: FREE if listener.protocol in L7 else (listener.instance, name)
        for name, listener in model.listeners.items()
    }


def source_of(fd: int) -> str:
    """A map's name for the ledger."""
    return f"{_BOOT_ID.read_text().strip()}/{_info(fd)['map_id']}"


def _info(fd: int) -> dict[str, int]:
    """proc_pid_fdinfo(5)."""
    lines = (line.split(":") for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    return {name: int(value, 0) for name, value in lines if name in ("map_id", "value_size", "max_entries")}


class Left:
    """The counters of an agent before, whose tables this one does not go on by."""

    def __init__(self, plane: DataPlane, estate: Estate) -> None:
        """`estate`: its descriptors are duplicated."""
        self.taken_over = False
        self._cpus = plane.cpus
        self._maps: dict[str, Map[Any, Any]] = {}
        for version, maps in estate.maps.items():
            ours = plane.map(STATS, version)
            fd = os.dup(maps[STATS]) if STATS in maps else -1
            info = _info(fd) if fd >= 0 else {}
            if info.get("value_size") == _info(ours.fd)["value_size"]:
                self._maps[source_of(fd)] = Map(fd, STATS, ours.key, ours.value, info["max_entries"])
            else:
                log.warning("the agent before counted in another way; what it had not metered yet is lost")
                if fd >= 0:
                    os.close(fd)

    def places(self, ledger: Ledger) -> dict[str, dict[str, Counted]]:
        """What stands now where something was counted by the last cut."""
        return {source: places_of(ledger, source, of, self._cpus) for source, of in self._maps.items()}

    def close(self) -> None:
        for each in self._maps.values():
            os.close(each.fd)
        self._maps = {}


def places_of(ledger: Ledger, source: str, stats: Map[Any, Any], cpus: int) -> dict[str, Counted]:
    """The places of a map that the ledger knows, whose owners it knows too."""
    known = [int(item) for item in ledger.bases(source)]
    return {str(number): Counted(None, numbers) for number, numbers in billed(stats, known, cpus).items()}


class Maps:
    """The `Source` of an L4 node. `settling`: numbers that nobody has may be given away next."""

    def __init__(self, tables: Tables, left: Left | None = None) -> None:
        self.settling = False
        self.owners: Owners = {}
        self._tables = tables
        self._left = left
        self._sources = {version: source_of(tables.plane.map(STATS, version).fd) for version in tables.versions}
        self._most: dict[str, int] = {}

    def saw(self, listeners: Mapping[str, Mapping[str, int]]) -> None:
        """The sessions that this node knows now."""
        for name, row in listeners.items():
            if row.get("sessions", 0) > self._most.get(name, 0):
                self._most[name] = row["sessions"]

    def look(self, ledger: Ledger) -> Look:
        sources: dict[str, Mapping[str, Counted]] = {}
        for version, source in self._sources.items():
            sources[source] = self._places(version, ledger.bases(source))
        left = self._left
        if left is not None:
            sources |= left.places(ledger)
        over = left is not None and left.taken_over
        most, self._most = self._most, {}
        known = {owner: n for name, n in most.items() if (owner := self.owners.get(name, FREE)) != FREE}
        return Look(sources, known=known, done=self._forget_left if over else lambda: None)

    def _places(self, version: int, bases: Iterable[str]) -> dict[str, Counted]:
        """Of the numbers that have members, and of those that had some when they were last looked at."""
        of = self._tables.versions[version]
        members, names = of.members, {key: service.listener for key, service in of.services.items()}
        used = members.listeners()
        counted = billed(self._tables.plane.map(STATS, version), {*used, *map(int, bases)}, self._tables.plane.cpus)
        found: dict[str, Counted] = {}
        for number, numbers in counted.items():
            if number in used:  # of a listener that is leaving, the ledger knows whose it was
                found[str(number)] = Counted(self.owners.get(names.get(used[number], "")), numbers)
            else:
                found[str(number)] = Counted(None, numbers, last=self.settling)
        return found

    def _forget_left(self) -> None:
        if self._left is not None:
            self._left.close()
            self._left = None

    def take_over(self) -> None:
        """The programs before count nothing any more."""
        if self._left is not None:
            self._left.taken_over = True


class Billing:
    """What the agent has to do so that each byte is its owner's."""

    def __init__(self, maps: Maps, metering: Metering) -> None:
        self.maps = maps
        self._metering = metering
        self._services: Sequence[L4Service] | None = None

    async def before(self, model: Model, services: Sequence[L4Service]) -> None:
        """A configuration is about to be put into force: what was counted until now is told apart from what follows."""
        if (services, owners(model)) != (self._services, self.maps.owners):
            self.maps.settling = True
            try:
                await self._cut()
            finally:
                self.maps.settling = False

    async def after(self, model: Model, services: Sequence[L4Service]) -> None:
        """It is in force: whose each number is will be known to the next agent, too."""
        new = owners(model)
        if (services, new) != (self._services, self.maps.owners):
            self._services, self.maps.owners = services, new
            await self._cut()

    async def _cut(self) -> None:
        try:
            await self._metering.cut()
        except LedgerError as error:
            log.error("metering: %s", error)
