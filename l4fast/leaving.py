"""Servers and listeners that a configuration has no more, for as long as their sessions may go on. Pure.

A listener with a drain time keeps a server that is removed, with weight 0: it takes no new flow and keeps its sessions.
When the time is over the server goes, and what sessions it has left end with the next sweep (`expiry`). A listener that
is removed or stopped is kept as a whole in the same way, unless another one gets its VIP and port. What comes back
stays.

An agent that ends takes this with it: the one after knows the configuration only, and sessions of servers that were
leaving end with its first sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from core.endpoints import endpoint
from core.resolve import L4Service, Real

ServiceKey = tuple[str, int, str]  # VIP, port, "tcp" or "udp"
RealKey = tuple[ServiceKey, str, int]


def _key(service: L4Service) -> ServiceKey:
    return service.vip, service.port, service.protocol


@dataclass(frozen=True, slots=True)
class Leaving:
    """What is leaving, and until when."""

    reals: Mapping[RealKey, tuple[float, Real]] = field(default_factory=dict)
    services: Mapping[ServiceKey, tuple[float, L4Service]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.reals or self.services)

    @property
    def until(self) -> float:
        """When something will have left; infinity if nothing is leaving."""
        return min((until for until, _ in (*self.reals.values(), *self.services.values())), default=inf)

    def at(self, now: float) -> Leaving:
        """Less what has left."""
        return Leaving(
            {key: entry for key, entry in self.reals.items() if entry[0] > now},
            {key: entry for key, entry in self.services.items() if entry[0] > now},
        )

    def changed(self, before: Iterable[L4Service], after: Iterable[L4Service], now: float) -> Leaving:
        """`after` follows on `before`: what it lacks begins to leave."""
        wanted = {_key(service): service for service in after}
        left = self.at(now)
        services = {key: entry for key, entry in left.services.items() if key not in wanted}
        reals = dict(left.reals)
        for service in before:
            key = _key(service)
            stays = wanted.get(key)
            if stays is None:
                if service.drain_timeout_s:
                    services[key] = now + service.drain_timeout_s, _emptied(service)
                continue
            if stays.drain_timeout_s:
                for real in service.reals:
                    reals.setdefault(
                        (key, real.address, real.port), (now + stays.drain_timeout_s, replace(real, weight=0))
                    )
        # A listener that is gone has taken its servers along, those that were leaving too.
        for (key, *_), (_, real) in left.reals.items():
            if key in services and key not in left.services:
                until, gone = services[key]
                services[key] = until, replace(gone, reals=(*gone.reals, real))
        present = {(key, real.address, real.port) for key, service in wanted.items() for real in service.reals}
        return Leaving(
            {key: entry for key, entry in reals.items() if key not in present and key[0] in wanted}, services
        )

    def beside(self, services: Iterable[L4Service]) -> tuple[L4Service, ...]:
        """These services, with what is leaving."""
        added: dict[ServiceKey, list[Real]] = {}
        for (key, _, _), (_, real) in self.reals.items():
            added.setdefault(key, []).append(real)
        kept = tuple(
            replace(service, reals=(*service.reals, *added[_key(service)])) if _key(service) in added else service
            for service in services
        )
        return (*kept, *(service for _, service in self.services.values()))

    def report(self, services: Iterable[L4Service], now: float) -> list[dict[str, object]]:
        """Each server that is leaving, which listener it leaves, and for how long its sessions may go on."""
        names = {_key(service): service.listener for service in services}
        rows = [(names.get(key, ""), until, real) for (key, _, _), (until, real) in self.reals.items()]
        rows += [(gone.listener, until, real) for until, gone in self.services.values() for real in gone.reals]
        return [
            {"listener": name, "server": endpoint(real.address, real.port), "left_s": round(max(until - now, 0.0), 1)}
            for name, until, real in rows
        ]


def _emptied(service: L4Service) -> L4Service:
    return replace(service, reals=tuple(replace(real, weight=0) for real in service.reals))
