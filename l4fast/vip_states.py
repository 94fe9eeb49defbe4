"""What a method says of each address: its state, since when, how often it has changed. Pure.

`held` is what operators and the other tiers ask: does traffic for the address come here. VRRP has one owner (`master`);
with BGP every node that has told a router is `announced`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class VipState(StrEnum):
    STARTING = "starting"  # asked for, nothing heard yet
    MASTER = "master"
    BACKUP = "backup"
    FAULT = "fault"  # VRRP: an interface is down, or keepalived does not run
    ANNOUNCED = "announced"
    UNHEARD = "unheard"  # BGP: announced, and no router listens
    WITHDRAWN = "withdrawn"


HELD = frozenset({VipState.MASTER, VipState.ANNOUNCED})


@dataclass(slots=True)
class _Entry:
    state: VipState
    since: float
    transitions: int = 0


class VipStates:
    """`now` is the wall clock in seconds: what it is written for is read by people."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def keep(self, addresses: Iterable[str], now: float) -> None:
        """From now on these and no others."""
        self._entries = {address: self._entries.get(address) or _Entry(VipState.STARTING, now) for address in addresses}

    def note(self, address: str, state: VipState, now: float) -> bool:
        """Returns whether it is news."""
        entry = self._entries.get(address)
        if entry is None or entry.state is state:
            return False
        entry.state, entry.since = state, now
        entry.transitions += 1
        return True

    def of(self, address: str) -> VipState | None:
        entry = self._entries.get(address)
        return entry.state if entry else None

    def since(self, address: str) -> float:
        return self._entries[address].since

    def addresses(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def report(self) -> list[Mapping[str, object]]:
        return [
            {"address": address, "state": entry.state.value, "held": entry.state in HELD,
             "since": round(entry.since, 3), "transitions": entry.transitions}
            for address, entry in self._entries.items()
        ]  # fmt: skip
