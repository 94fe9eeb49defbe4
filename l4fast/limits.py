"""The listeners' limits as the program reads them: prices, by the listeners' indexes (limits.h).

What a listener has taken is kept by the program and read here; a limit that changes leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.resolve import Limits
from l4fast.loader import DataPlane
from l4fast.mirror import Mirror

TICKS = 16  # in a nanosecond
TICKS_S = 1_000_000_000 * TICKS
# The listener's counters of what was beyond a limit, in the order of `enum reason`.
OVER = ("over_connection_rate",)


class ListenerLimits:
    """Writes `limits`, and clears `spendings` and `listener_stats` of listeners that are new."""

    def __init__(self, plane: DataPlane, version: int) -> None:
        self._cpus = plane.cpus
        self._limits = Mirror(plane, "limits", version)
        self._spendings = plane.map("spendings", version)
        self._stats = plane.map("listener_stats", version)

    def clear(self, index: int) -> None:
        """A listener begins with this index."""
        self._spendings.put(self._spendings.key(index), self._spendings.value())
        self._stats.put_per_cpu(self._stats.key(index), [self._stats.value()] * self._cpus)

    def write(self, wanted: Mapping[int, Limits]) -> None:
        """Before the listeners say that they are limited; those that are no more are told that nothing is."""
        value = self._limits.map.value
        entries = {bytes(self._limits.map.key(index)): bytes(value(**prices(of))) for index, of in wanted.items()}
        self._limits.add(dict.fromkeys(self._limits.held, bytes(value())) | entries)

    def counters(self, index: int) -> dict[str, int]:
        """Packets that were not let in, by why."""
        values = self._stats.get_per_cpu(self._stats.key(index), self._cpus)
        beyond = {name: sum(value.over[number] for value in values) for number, name in enumerate(OVER)}
        return {"denied": sum(value.denied for value in values), **beyond}


def prices(limits: Limits) -> dict[str, int]:
    """The fields of struct limit."""
    flows = limits.new_connections_per_s
    return {"flow_price": TICKS_S // flows if flows else 0}
