"""One look at everything that a node has counted, shared by whoever asks within `FRESH_S`.

Reading the counters of thousands of listeners takes milliseconds of the loop. The control plane's report, /metrics and
the admin socket see the same look, so that its cost does not grow with the number of those who look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final, Protocol

from l4fast.fill import Fills

FRESH_S: Final = 0.9  # the report and the count of sessions, each once a second, share a look

Row = Mapping[str, int]
Servers = dict[str, dict[str, dict[str, int]]]  # listener → "address:port" → numbers by name


class Counted(Protocol):
    """What is counted in the data plane (`l4fast.tables.Tables`)."""

    def counters(self) -> dict[str, int]: ...
    def server_counters(self) -> Servers: ...
    def listener_counters(self, servers: Servers | None = None) -> dict[str, dict[str, int]]: ...
    def connections(self) -> dict[str, dict[str, int]]: ...


@dataclass(frozen=True, slots=True)
class Counts:
    """At `at_s` by the loop's clock: packets by reason; rows by listener, by listener and server, by table and IP
    version."""

    at_s: float
    packets: Mapping[str, int]
    listeners: Mapping[str, Row]
    servers: Mapping[str, Mapping[str, Row]]
    tables: Mapping[str, Mapping[str, Row]]

    @property
    def sessions(self) -> int:
        """Held by all listeners."""
        return sum(row["sessions"] for row in self.listeners.values())

    def report(self) -> dict[str, object]:
        return {
            "at_s": round(self.at_s, 3),
            "counters": self.packets,
            "listeners": self.listeners,
            "servers": self.servers,
            "tables": self.tables,
        }


class Counter:
    """Looks, unless somebody has done so within `FRESH_S`."""

    def __init__(self, counted: Counted, fill: Callable[[], Fills], clock: Callable[[], float]) -> None:
        self._counted = counted
        self._fill = fill
        self._clock = clock
        self._last: Counts | None = None

    def look(self, *, fresh: bool = False) -> Counts:
        now = self._clock()
        if self._last is None or fresh or now - self._last.at_s >= FRESH_S:
            self._last = self._take(now)
        return self._last

    def _take(self, now: float) -> Counts:
        servers = self._counted.server_counters()
        listeners = self._counted.listener_counters(servers)
        for listener, row in self._counted.connections().items():  # of lc and wlc
            for server, count in row.items():
                servers.setdefault(listener, {}).setdefault(server, {})["connections"] = count
        tables = {
            name: {str(version): asdict(fill) for version, fill in of.items()} for name, of in self._fill().items()
        }
        return Counts(now, self._counted.counters(), listeners, servers, tables)
