"""Members of availability groups that DNS names: what is kept of answers, and when to ask again.

A name's addresses change without anybody telling, so each is asked again when its records' time to live is over, within
LIVE_S. Whatever is no answer with an address (no such name, no records, no server that answers) leaves the members as
they are: an outage of DNS must not become one of the servers, which are checked by themselves. It is asked again soon,
after RETRY_S, twice as long each time. A name that has never been resolved has no members, and everything else goes on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from core.model import AvailabilityGroup, DnsName, Model, Server

LIVE_S = (1.0, 300.0)  # a time to live of 0 is no reason to ask all the time, nor one of a week to miss a change
RETRY_S = (1.0, 30.0)
MEMBERS_LIMIT = 256  # of one name


@dataclass(frozen=True, slots=True)
class Record:
    """An address that an answer leads to. Of SRV records also their port, priority and weight (RFC 2782)."""

    address: str
    port: int = 0
    priority: int = 0
    weight: int = 0


def usable(address: str) -> bool:
    """Whether an address from DNS may be a server's."""
    ip = ipaddress.ip_address(address)
    return not (ip.is_multicast or ip.is_unspecified or ip.is_link_local)


def members(name: DnsName, records: Iterable[Record]) -> tuple[Server, ...]:
    """The servers that a name stands for, in an order of their own, so that equal answers are equal.

    Of SRV records those of the best priority, their weights in proportion to the highest, at least 1.
    """
    sound = [record for record in records if usable(record.address)]
    best = [record for record in sound if record.priority == min(each.priority for each in sound)]
    highest = max((record.weight for record in best), default=0)
    found: dict[tuple[str, int], Server] = {}
    for record in sorted(best, key=lambda each: (ipaddress.ip_address(each.address).packed, each.port)):
        share = max(1, round(record.weight / highest * name.weight)) if highest and name.weight else name.weight
        port = record.port or name.port
        found.setdefault((record.address, port), Server(record.address, port, share, name.zone))
    return tuple(found.values())[:MEMBERS_LIMIT]


@dataclass(slots=True)
class Lookup:
    """What is known of one name. `problem` is empty while its last answer was good."""

    name: DnsName
    servers: tuple[Server, ...] = ()
    problem: str = ""
    answered: bool = False  # ever
    _failures: int = field(default=0, repr=False)

    def found(self, records: Iterable[Record], ttl_s: float) -> float:
        """An answer; returns in how many seconds to ask again."""
        servers = members(self.name, records)
        if not servers:
            return self.failed("no address of it can be a server's")
        self.servers, self.problem, self.answered, self._failures = servers, "", True, 0
        return min(max(ttl_s, LIVE_S[0]), LIVE_S[1])

    def failed(self, why: str) -> float:
        """No answer; returns in how many seconds to ask again."""
        kept = "its last addresses are kept" if self.answered else "it has no address yet"
        self.problem = f"DNS name {self.name.name} ({self.name.type}): {why}; {kept}"
        self._failures += 1
        return float(min(RETRY_S[0] * 2 ** min(self._failures - 1, 16), RETRY_S[1]))


def with_members(model: Model, groups: Mapping[str, tuple[Server, ...]]) -> Model:
    """The model with the members of some availability groups in place of those that it has."""
    if not groups:
        return model
    changed = {
        name: replace(group, members=groups[name]) if name in groups else group
        for name, group in model.availability_groups.items()
    }
    return replace(model, availability_groups=changed)


def together(group: AvailabilityGroup, found: Iterable[tuple[Server, ...]]) -> tuple[Server, ...]:
    """A group's members: those of the configuration, then those found; each address and port once."""
    servers = {(each.address, each.port): each for each in group.members}
    for part in found:
        for each in part:
            servers.setdefault((each.address, each.port), each)
    return tuple(servers.values())
