"""The listeners' limits as the program reads them: prices, by the listeners' indexes (limits.h).

What a listener has taken is kept by the program and read here; a limit that changes leaves it as it is.
"""

from __future__ import annotations

import ctypes as ct
from collections.abc import Mapping
from typing import Any, TypeVar

from core.limits import Limits
from l4fast.loader import DataPlane
from l4fast.mirror import Mirror

K = TypeVar("K")

TICKS = 16  # in a nanosecond
TICKS_S = 1_000_000_000 * TICKS
# A byte's price at 1 Mbit/s: eight bits take 8,000 ns; shifted, lest small packets be cheap by rounding.
BYTE_PRICE = 8_000 * TICKS << 16
# listener.limited
LIMITED_FLOWS, LIMITED_BANDWIDTH = 1, 2
# The listener's counters of what was beyond a limit, in the order of `enum reason`.
OVER = ("over_connection_rate", "over_connections", "over_bandwidth_in", "over_bandwidth_out")


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

    def write(self, wanted: Mapping[int, Limits], shared: Mapping[str, int]) -> None:
        """Before the listeners say that they are limited; those that are no more are told that nothing is. `shared`:
        the indexes of instances."""
        value = self._limits.map.value
        entries = {
            bytes(self._limits.map.key(index)): bytes(value(**prices(of), shared=shared.get(of.instance, 0)))
            for index, of in wanted.items()
        }
        self._limits.add(dict.fromkeys(self._limits.held, bytes(value())) | entries)

    def connections(self, index: int) -> int:
        """How many the listener has, if they are counted."""
        value = self._spendings.get(self._spendings.key(index))
        assert value is not None  # an array's
        return ct.c_int64(value.connections).value

    def counters(self, indexes: Mapping[K, int]) -> dict[K, dict[str, int]]:
        """Packets that were not let in, by why, of listeners by their indexes."""
        layout = self._stats.value
        places = {name: layout.over.offset // 8 + number for number, name in enumerate(OVER)}
        places["denied"] = layout.denied.offset // 8
        fields = ct.sizeof(layout) // 8
        size = fields * self._cpus
        words = self._stats.first_per_cpu(max(indexes.values(), default=0) + 1, self._cpus)
        return {
            key: {name: sum(words[index * size + at : (index + 1) * size : fields]) for name, at in places.items()}
            for key, index in indexes.items()
        }


def prices(limits: Limits) -> dict[str, Any]:
    """The fields of struct limit, but for `shared`."""
    flows = limits.new_connections_per_s
    return {
        "flow_price": int(TICKS_S / flows) if flows else 0,
        "connections": limits.connections,
        "byte_price": _byte_prices(limits.in_mbit_s, limits.out_mbit_s),
        "shared_price": _byte_prices(limits.instance_in_mbit_s, limits.instance_out_mbit_s),
    }


def _byte_prices(*mbit_s: float) -> Any:
    return (ct.c_uint64 * 2)(*(int(BYTE_PRICE / each) if each else 0 for each in mbit_s))


def shown(limits: Limits) -> dict[str, int]:
    """The limits that there are, by the names that counters have for them."""
    named = {
        "limit_new_connections_per_s": limits.new_connections_per_s,
        "limit_connections": limits.connections,
        "limit_bandwidth_in_mbit_s": limits.in_mbit_s,
        "limit_bandwidth_out_mbit_s": limits.out_mbit_s,
    }
    return {name: max(1, round(most)) for name, most in named.items() if most}


def limited(limits: Limits) -> int:
    """What packets have to ask for: a field of struct listener."""
    of_flows = limits.new_connections_per_s or limits.connections
    return (LIMITED_FLOWS if of_flows else 0) | (LIMITED_BANDWIDTH if limits.of_bandwidth else 0)
