"""Which server of a backend service a request would get: asked of a pool made for the occasion.

The pool is the one that workers have (proxy/pool.py), with the servers, weights and health that are known. A hash or a
cookie says which server; where the turn or the load decides, the candidates are all that can be said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from core.endpoints import endpoint
from core.explain import SHOWN, Explanation, Place
from core.fields import Kind
from core.model import BackendProtocol, BackendService, Model, Scheduler, Server
from core.overrides import configured
from core.resolve import l7_checked, l7_services, servers
from core.zones import locality
from proxy.balance import Address
from proxy.keys import key_of
from proxy.message import RequestHead
from proxy.pool import Open, Pool

_HOW: Final[Mapping[Scheduler, str]] = {
    Scheduler.RR: "whose turn it is in each worker",
    Scheduler.WRR: "whose turn it is in each worker, by weight",
    Scheduler.LC: "who has the fewest requests of the worker's at that moment",
    Scheduler.WLC: "who has the fewest requests of the worker's at that moment, for its weight",
    Scheduler.P2C: "the better of two at random, by latency and load",
}

_SPOKEN: Final[Mapping[BackendProtocol, str]] = {
    BackendProtocol.H2: "by HTTP/2 over TLS",
    BackendProtocol.H2C: "by HTTP/2 without TLS",
}


@dataclass(frozen=True, slots=True)
class Health:
    """What nodes report. `down` and `ejected`: backend service → server → why; `differ`: where nodes disagree."""

    down: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ejected: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    differ: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    known: bool = False


class Chooser:
    """For one node and one request."""

    def __init__(self, model: Model, node: str, health: Health) -> None:
        self._model, self._node, self._health = model, node, health
        self._services, self._checked = l7_services(model), l7_checked(model)

    def choose(
        self, told: Explanation, name: str, head: RequestHead, target: bytes, client: bytes, prefer: Address | None
    ) -> Address | None:
        """Say who may get the request, following fallbacks; the server, where that is known. `told.result` has
        `service`, `server` and `candidates`, which is empty where nobody takes it."""
        tried: list[str] = []
        while True:
            service = self._services[name]
            tried.append(name)
            told.result |= {"service": name, "server": "", "candidates": []}
            found, any_left = self._one(told, service, head, target, client, prefer if len(tried) == 1 else None)
            if any_left or not service.fallback:
                return found
            place = Place(Kind.BACKEND_SERVICES, configured(name), "fallback")
            told.say("fallback", f"{name} has no server for it: it goes to {service.fallback}", place)
            name = service.fallback

    def _one(
        self, told: Explanation, service: BackendService, head: RequestHead, target: bytes, client: bytes,
        prefer: Address | None,
    ) -> tuple[Address | None, bool]:  # fmt: skip
        those = servers(self._model, service)
        out = self._out(service.name)
        pool: Pool[int, int] = Pool()
        near = locality(self._model, self._node) if service.availability_group else None
        pool.update(those, service, 0.0, near)
        pool.set_down(frozenset((s.address, s.port) for s in those if endpoint(s.address, s.port) in out), 0.0)
        able = [s for s in those if s.weight and endpoint(s.address, s.port) not in out]
        place = Place(Kind.BACKEND_SERVICES, configured(service.name), "scheduler")
        notes = self._notes(service, those, out, zoned=near is not None)
        stays = next(
            (s for s in those if (s.address, s.port) == prefer and endpoint(s.address, s.port) not in out), None
        )
        if not able and stays is None:
            told.say("server", f"no server of {service.name} takes requests", place, *notes)
            return None, False
        names = [endpoint(s.address, s.port) for s in able]
        told.result["candidates"] = names
        key = key_of(service.hash_key)
        goes_by = client if key is None else key(head, target) or client
        choice = pool.assign(goes_by, 0.0, repeatable=True, prefer=prefer)
        assert isinstance(choice, Open)
        server, end = choice.server, endpoint(*choice.server)
        told.result["server"] = end
        if stays is not None:
            cookie = Place(Kind.BACKEND_SERVICES, configured(service.name), "sticky_session")
            text = f"{end} of {service.name}: the client's cookie says so, whatever the scheduler would"
            told.say("server", text, cookie, *notes)
        elif len(able) == 1:
            told.say("server", f"{end} of {service.name}: the only one that takes requests", place, *notes)
        elif service.scheduler in (Scheduler.SH, Scheduler.CH):
            by = (
                service.hash_key
                if goes_by != client or key is None
                else f"source, as the request has no {service.hash_key}"
            )
            unless = " unless it has more than its share of the load" if service.scheduler is Scheduler.CH else ""
            text = f"{end} of {service.name}: {service.scheduler} by {by}{unless}; {_among(those, names)}"
            told.say("server", text, place, *notes)
        else:
            told.result["server"] = ""
            text = f"{service.scheduler} of {service.name}: {_HOW[service.scheduler]}, which nobody can know beforehand"
            told.say("server", f"{text}; {_among(those, names)}", place, *notes)
            return None, True
        return server, True

    def _out(self, name: str) -> dict[str, str]:
        checked_by = self._checked.get(name, name)
        return {**self._health.ejected.get(name, {}), **self._health.down.get(checked_by, {})}

    def _notes(
        self, service: BackendService, those: Sequence[Server], out: Mapping[str, str], *, zoned: bool
    ) -> list[str]:
        notes = [
            f"{end} is left out: {out[end]}"
            if end in out
            else f"{end} has weight 0: it takes those who stay with it alone"
            for s in those
            if (end := endpoint(s.address, s.port)) in out or not s.weight
        ]
        differ = self._health.differ.get(self._checked.get(service.name, service.name), {})
        notes += [f"{end}: {why}" for end, why in differ.items()]
        if service.protocol in _SPOKEN:
            notes.append(f"servers are spoken to {_SPOKEN[service.protocol]}: protocol = {service.protocol}")
        if not self._health.known and service.health_check is not None:
            notes.append("by the configuration alone: which are healthy is known to the nodes")
        if service.slow_start_s:
            notes.append(f"one that has just come in gets less at first: slow_start_s = {service.slow_start_s}")
        if service.server_max_connections:
            most = f"server_max_connections = {service.server_max_connections}"
            notes.append(f"servers that are full are passed over, and requests wait when all are: {most}")
        if zoned:
            notes.append(f"{self._node} prefers the servers of its own zone, as far as they are its share")
        return notes


def _among(those: Sequence[Server], names: Sequence[str]) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names)} of {len(those)} take requests: {', '.join(names[:SHOWN])}{more}"
