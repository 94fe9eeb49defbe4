"""Requests at a time, of listeners and rules: of all, which the workers of a node count together, and of each client.

Of all, a node has its part of the cluster's, rounded up, and each worker adds its own to what all can see (`Gauge`).
Of a client each worker counts for itself, as it does connections (proxy/crowd.py): whoever has a place holds it for as
long as his request lasts, so that memory is bounded by what is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from core.limits import nodes
from core.model import Model, Role
from proxy.buckets import Gauge
from proxy.demands import Crowded, crowds_of
from proxy.ledger import Ledger
from proxy.tls_admission import Clients


def crowds(model: Model) -> tuple[Crowded, ...]:
    """All of a configuration."""
    found = [each for listener in model.listeners.values() for each in crowds_of("listener", listener)]
    return (*found, *(each for rule in model.rules.values() for each in crowds_of("rule", rule)))


def names(model: Model) -> list[str]:
    """What needs a row of the ledger."""
    return [crowded.name for crowded in crowds(model) if crowded.most]


class Place:
    """Those of one listener or rule. `gauge` None: there may be any number of requests of all."""

    __slots__ = ("_clients", "gauge")

    def __init__(self, gauge: Gauge | None) -> None:
        self.gauge = gauge
        self._clients = Clients()

    @property
    def full(self) -> bool:
        return self.gauge is not None and self.gauge.full

    def enter(self, client: str, per_client: int) -> Callable[[], None] | None:
        """A place for a request of a client, until what this returns is called; None: the client has too many."""
        if per_client and not self._clients.take(client, per_client, 0.0):
            return None
        gauge = self.gauge
        if gauge is not None:
            gauge.change(1)

        def leave() -> None:
            if per_client:
                self._clients.give_back(client)
            if gauge is not None:
                gauge.change(-1)

        return leave


class Crowds:
    """The places of a worker, by the names of what is limited."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._gauges: dict[tuple[str, int], Gauge] = {}
        self._of: dict[str, Place] = {}

    def update(self, model: Model, rows: Mapping[str, int]) -> None:
        """Takes what a configuration says. Who has a place keeps it."""
        parts = nodes(model, Role.L7)
        before, self._of = self._of, {}
        gauges, self._gauges = self._gauges, {}
        for crowded in crowds(model):
            gauge = None
            if crowded.most:
                key = crowded.name, rows[crowded.name]
                most = -(-crowded.most // parts)
                gauge = self._gauges[key] = gauges.get(key) or Gauge(self._ledger, key[1], most)
                gauge.most = most
            place = self._of[crowded.name] = before.get(crowded.name) or Place(gauge)
            place.gauge = gauge

    def of(self, name: str) -> Place | None:
        """None: the configuration has changed under a request."""
        return self._of.get(name)
