"""Changes of the configuration, one after the other, and whether one that was acknowledged is gone at the end.

Each change puts one of a few server groups, with the change's number in it. A change that was not acknowledged may have
been made or not: what stands there in the end is the last one that was, or one that was tried after it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.faults.events import Event, Traffic
from deploy.lab.api import Api
from deploy.lab.errors import LabError

GROUPS = 16
EVERY_S = 1.0
PREFIX = "fault-"


def group(number: int) -> tuple[str, dict[str, object]]:
    """Name and content of the group that a change puts: its number stands in the address."""
    name = f"{PREFIX}{number % GROUPS}"
    address = f"192.0.{2 + number // 250 % 250}.{1 + number % 250}"  # never asked for anything: nothing refers to it
    return name, {"name": name, "servers": [{"address": address, "port": 1 + number % 60_000}]}


def number_of(found: dict[str, object]) -> int:
    """Of the change that has put this group."""
    servers = found["servers"]
    assert isinstance(servers, list)
    return int(servers[0]["port"]) - 1


@dataclass
class Tried:
    """What was tried and what was acknowledged of each group, by the changes' numbers. Pure."""

    tried: dict[str, list[int]] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)

    def lost(self, found: dict[str, int]) -> Iterator[str]:
        """`found`: the number of the change that each group shows in the end."""
        for name, number in self.acknowledged.items():
            if name not in found:
                yield f"{name}: change {number} was acknowledged, and the group is gone"
            elif found[name] != number and not (found[name] > number and found[name] in self.tried[name]):
                yield f"{name}: change {number} was acknowledged, and {found[name]} stands there"
        for name in found.keys() - self.tried.keys():
            yield f"{name} was never put"


class Changes(threading.Thread):
    """Makes changes until `stop`."""

    def __init__(self, api: Api) -> None:
        super().__init__(daemon=True)
        self._api = api
        self._stop_it = threading.Event()
        self.tried = Tried()
        self.events: list[Event] = []

    def run(self) -> None:
        number = 0
        while not self._stop_it.is_set():
            name, content = group(number)
            began, why = time.monotonic(), ""
            self.tried.tried.setdefault(name, []).append(number)
            try:
                self._api.put("server_groups", name, content)
                self.tried.acknowledged[name] = number
            except LabError as error:
                why = str(error)[:120]
            self.events.append(Event(Traffic.API, "", began, time.monotonic(), why))
            number += 1
            self._stop_it.wait(max(0.05, began + EVERY_S - time.monotonic()))

    def stop(self) -> None:
        self._stop_it.set()
        self.join()

    def lost(self) -> list[str]:
        """What was acknowledged and is not there. Raises LabError."""
        groups = self._api.request("GET", "/v1/server_groups")
        assert isinstance(groups, list)
        found = {each["name"]: number_of(each) for each in groups if str(each["name"]).startswith(PREFIX)}
        return list(self.tried.lost(found))
