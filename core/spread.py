"""How an availability group is spread over its fault domains: zones, and racks within them. Pure.

What a group asks for (`min_zones`, `min_racks`, `max_percent_per_zone`) is checked in the configuration for members
that stand there, and by whoever knows them for those that come and go. Members of weight 0 are there, and carry none of
the load.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.endpoints import endpoint
from core.model import AvailabilityGroup, Server

LEAST_ZONES: Final = 2  # unless a group says otherwise


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone of a group; `name` is empty for members that name none. `percent` is its part of the weight."""

    name: str
    racks: tuple[str, ...]
    members: int
    weight: int
    percent: float


def zones(members: Iterable[Server]) -> tuple[Zone, ...]:
    """The zones of these members, in the order of their names."""
    of: dict[str, list[Server]] = {}
    for member in members:
        of.setdefault(member.zone, []).append(member)
    total = sum(member.weight for those in of.values() for member in those)
    found = []
    for name, those in sorted(of.items()):
        weight = sum(member.weight for member in those)
        racks = tuple(sorted({member.rack for member in those if member.rack}))
        found.append(Zone(name, racks, len(those), weight, round(100 * weight / total, 1) if total else 0.0))
    return tuple(found)


def is_dynamic(group: AvailabilityGroup) -> bool:
    """Whether members come and go by themselves."""
    return bool(group.dns or group.file or group.registered)


def faults(group: AvailabilityGroup, members: Sequence[Server]) -> Iterator[tuple[str, str]]:
    """What is not as the group asks for, and what to do about it. Members that come and go need not name zones."""
    there = [zone for zone in zones(members) if zone.name]
    unasked = is_dynamic(group) and not there and group.min_zones == LEAST_ZONES
    if len(there) < group.min_zones and not unasked:
        if len(there) == 1:
            found = f"all members are in zone '{there[0].name}'; losing it loses all"
        elif there:
            found = f"the members stand in {len(there)} zones, and min_zones is {group.min_zones}"
        else:
            found = "no member names a zone; losing it loses all"
        more = "two" if group.min_zones == 2 else str(group.min_zones)
        yield found, f"spread them over {more} zones, or use a server group"
    racks = sum(len(zone.racks) for zone in there)
    if racks < group.min_racks:
        found = f"the members stand in {racks} racks, and min_racks is {group.min_racks}"
        yield found, "spread them over more racks, or lower min_racks"
    for zone in there:
        if group.max_percent_per_zone and zone.percent > group.max_percent_per_zone:
            most = f"zone '{zone.name}' has {zone.percent:g} % of the weight, and max_percent_per_zone is"
            yield f"{most} {group.max_percent_per_zone}", "add members in other zones, or lower weights there"


def report(groups: Mapping[str, Sequence[Server]], down: Iterable[str]) -> list[dict[str, object]]:
    """Each group's zones for people. `down`: servers, as "ADDRESS:PORT", that some node holds for unhealthy."""
    out = frozenset(down)
    return [
        {
            "group": name,
            "zone": zone.name,
            "racks": list(zone.racks),
            "members": zone.members,
            "percent": zone.percent,
            "down": sum(m.zone == zone.name and endpoint(m.address, m.port) in out for m in members),
        }
        for name, members in groups.items()
        for zone in zones(members)
    ]
