"""One worker process: its listening sockets, its connections, its share of the load.

A configuration is applied in place. What may fail (sockets, certificates) is done first; then listeners, rules and
servers change within one turn of the loop, and connections of untouched listeners do not notice.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable, Mapping
from functools import partial
from ipaddress import ip_network
from typing import Final

from control.node import backend_tls
from core.endpoints import endpoint as server_name
from core.members import with_members
from core.model import BackendService, Listener, Model, Protocol, Server
from core.resolve import L7Listener, l7_listeners, l7_services, servers, upstream_tls
from core.zones import locality
from proxy import census, crowds, meters, rates, throttles
from proxy.acme_passage import Passages
from proxy.alpn import ByAlpn
from proxy.answering import Answering
from proxy.authenticators import Authenticators
from proxy.copies import Copies
from proxy.crowd import Allowance
from proxy.crowds import Crowds
from proxy.demands import Demands
from proxy.errors import ApplyError
from proxy.gate import Gate
from proxy.headers import hsts_line
from proxy.hub import Activity, Hub, Site
from proxy.introduction import Introduction
from proxy.ledger import Ledger, Rows
from proxy.listen import EVERYWHERE, endpoints
from proxy.openings import HANDSHAKE_S, Openings
from proxy.origin import Telling
from proxy.pool import Pool
from proxy.quick import QuickConnection
from proxy.rates import Clocks, Rates
from proxy.redirect_map import Table
from proxy.rules import Router
from proxy.service import Service
from proxy.sticky import Sticky
from proxy.throttle import Throttle
from proxy.throttles import Throttles
from proxy.tls import TlsServer
from proxy.tls_admission import Terms
from proxy.tls_profile import Profile
from proxy.upstream import UpstreamConnection

log = logging.getLogger(__name__)

SWEEP_S: Final = 0.25
PROGRESS_S: Final = 1.0
REPORT_S: Final = 1.0
TICKETS_S: Final = 600.0  # their secrets change every two hours, and the next ones are given in advance
RECHECK_S: Final = 3.0  # certificates that the key server objected to or has not seen
RETIRED_S: Final = 30.0  # a removed listener's connections have this long to finish
LINE_BYTES: Final = 1 << 26

Endpoint = tuple[str, int]


class Worker:
    """Listeners, backend services and connections of this process. `tls` is None where there is no key server."""

    def __init__(
        self, hub: Hub, tls: TlsServer | None, turn: int = 0, workers: int = 1, ledger: Ledger | None = None,
        clocks: Clocks | None = None,
    ) -> None:  # fmt: skip
        self._hub = hub
        ledger = ledger or Ledger()
        self._throttles = Throttles(hub.loop, ledger, self._refuse)
        self._own_rows = Rows()  # where there is no supervisor to give some
        self._rates = hub.means.rates = Rates(clocks)
        self._crowds = hub.means.crowds = Crowds(ledger)
        hub.mirror = Copies(hub).send
        self._authenticators = Authenticators(hub)
        self._tls = tls
        self._turn, self._workers = turn, workers
        self.model = Model()
        self._passages = Passages(hub)
        self.openings = Openings(self.protocol)
        self._sites: dict[tuple[str, str], Site] = {}
        self._listeners: dict[tuple[str, str], L7Listener] = {}  # what the sites were made of
        self._pools: dict[str, tuple[object, ...]] = {}  # what the services' pools were made of
        self._tables: dict[str, Table] = {}  # of redirect maps
        self._retired: list[tuple[float, Site]] = []
        self._next_expiry = 0.0
        self._resting = False
        self._next_progress = 0.0
        self._tls_problems: list[str] = []  # what the last look at certificates found

    def protocol(self, site: Site) -> asyncio.BaseProtocol:
        """The protocol of a new connection to `site`."""
        inner: asyncio.BaseProtocol
        if site.scheme == "https" and self._tls:
            lead = partial(self._passages.lead, site) if site.acme_service else None
            inner = self._tls.protocol(site.name, ByAlpn(self._hub, site), lead)
        else:
            inner = QuickConnection(self._hub, site)
        if site.access is not None:
            inner = Gate(self._hub, site, inner)
        if site.introducers:
            inner = Introduction(self._hub, site, inner)
        return inner if site.throttling is None else Throttle(site.throttling, inner)

    def _refuse(self) -> None:
        self._hub.count("connections_over_limit")

    # -- configuration

    async def apply(self, model: Model, rows: Mapping[str, int] | None = None) -> list[str]:
        """Puts a configuration into effect as a whole; returns what is not perfect. ApplyError: nothing has changed.

        `rows`: of what the workers share, for limits, by the names of `throttles` and `rates`.
        """
        listeners = l7_listeners(model)
        wanted = {at: each for each in listeners for at in endpoints(each)}
        https = [each for each in listeners if each.listener.protocol is Protocol.HTTPS]
        if https and self._tls is None:
            raise ApplyError(f"listener {https[0].listener.name!r} is https, and no key server is given: --keyserver")
        contexts = _contexts(model)
        tables = await self._tables_of(listeners)
        authenticators = self._authenticators.made(model)
        self.openings.prepare(wanted.keys())
        problems: list[str] = []
        if self._tls is not None:
            profiles = {each.listener.name: Profile.of(each.listener, each.authorities) for each in https}
            terms = {each.listener.name: _terms(each.listener) for each in https}
            certificates = {each.listener.name: each.certificates for each in https}
            problems = await self._tls.configure(certificates, profiles, terms)
        self.model, self._tables, self._tls_problems = model, tables, problems
        self._apply_services(model, contexts)
        limits = {each.listener.name: each.limits for each in listeners if each.limits}
        if rows is None:
            rows = self._own_rows.give([*throttles.names(limits), *rates.names(model), *crowds.names(model)])
        self._throttles.update(limits, rows)
        self._authenticators.take(model, authenticators)
        self._rates.update(model, rows)
        self._crowds.update(model, rows)
        sites = {_site_key(each): self._site(each) for each in listeners}
        self._listeners = {_site_key(each): each for each in listeners}
        removed = [self._sites[key] for key in self._sites.keys() - sites.keys()]
        for site in removed:
            self._drain_site(site)
        await self.openings.change({at: sites[_site_key(each)] for at, each in wanted.items()})
        until = self._hub.now() + RETIRED_S
        self._retired += [(until, site) for site in removed]
        self._sites = sites
        for site in sites.values() if self._resting else ():
            site.closing = True
        self._hub.journal.settle()  # under the names that it went by
        self._hub.journal.meters.keep(**meters.names(model))
        return problems + self._authenticators.problems()

    async def _tables_of(self, listeners: Iterable[L7Listener]) -> dict[str, Table]:
        """Of all their redirect maps; those that have not changed stay. Requests are served while one is filled."""
        tables: dict[str, Table] = {}
        for made_of in (each for listener in listeners for each in listener.maps):
            table = tables.get(made_of.name) or self._tables.get(made_of.name)
            if table is None or (table.made_of is not made_of and table.made_of != made_of):
                table = Table(made_of)
                for _ in table.fill():
                    await asyncio.sleep(0)
            tables[made_of.name] = table
        return tables

    def set_members(self, groups: Mapping[str, tuple[Server, ...]]) -> None:
        """Takes the members of availability groups that have DNS names."""
        model = with_members(self.model, groups)
        self._apply_services(model, _contexts(model))

    async def recheck(self) -> list[str]:
        """Looks again at certificates with a problem that may have gone, and at files of secrets; the problems now."""
        problems = await self._tls.recheck() if self._tls is not None else None
        if problems is not None:
            self._tls_problems = problems
        self._authenticators.look()
        return self._tls_problems + self._authenticators.problems()

    def _apply_services(self, model: Model, contexts: Mapping[str, ssl.SSLContext]) -> None:
        services: dict[str, Service] = {}
        backends, here = l7_services(model), locality(model, self._hub.node.decode("ascii"))
        for name, backend in backends.items():
            near = here if backend.availability_group else None
            made_of = backend, servers(model, backend), contexts.get(name), near
            service = services[name] = self._service(name)
            if made_of == self._pools.get(name):
                continue
            service.configure(backend)
            service.begin_by(contexts.get(name), backend)
            for upstream in service.pool.update(made_of[1], backend, self._hub.now(), near):
                upstream.close()
            service.trunks.keep([(each.address, each.port) for each in made_of[1]])
            self._pools[name] = made_of
        for name, service in services.items():
            service.fallback = services.get(backends[name].fallback)
            self._apply_stickiness(model, backends[name])
        for name in self._hub.services.keys() - services.keys():
            self._hub.stickies.pop(name, None)
            self._pools.pop(name, None)
            for upstream in self._hub.services[name].pool.drop():
                upstream.close()
            self._hub.services[name].trunks.retire()
        self._hub.services = services

    def _service(self, name: str) -> Service:
        """The one that requests use already, or a new one."""
        found = self._hub.services.get(name)
        if found is None:
            found = Service(name, Pool(self._turn, self._workers), self._hub.loop.call_soon)
            found.on_ejected = self._hub.on_ejected
        return found

    def follow_ejection(self, name: str, server: Endpoint, out_s: float) -> None:
        """Another worker of this node has ejected a server."""
        if (service := self._hub.services.get(name)) is not None:
            service.pool.follow(server, out_s, self._hub.now())

    def _apply_stickiness(self, model: Model, backend: BackendService) -> None:
        stickies = self._hub.stickies
        if backend.sticky_session is None:
            stickies.pop(backend.name, None)
            return
        sticky = stickies.setdefault(backend.name, Sticky(self._hub.seal))
        sticky.update(backend.sticky_session, [(each.address, each.port) for each in servers(model, backend)])

    def _site(self, each: L7Listener) -> Site:
        """The listener's site: the one that its connections have, changed in place, or a new one."""
        listener = each.listener
        if each == self._listeners.get(_site_key(each)):
            return self._sites[_site_key(each)]
        networks = tuple(ip_network(network) for network in listener.trusted_proxies)
        introducers = tuple(ip_network(network) for network in listener.proxy_protocol_from)
        site = self._sites.get(_site_key(each))
        made_of = each.rules, listener.backend_service, listener.https_redirect_port
        tables = tuple(self._tables[made.name] for made in each.maps)
        more = Demands.of_listener(listener), each.guards, tables
        answering = Answering.of_listener(listener)
        # Thousands of rules take their time, and most changes are about something else.
        same = site is not None and site.router.made_of == (*made_of, *more, answering)
        if site is not None and same:
            router = site.router
        else:
            router = Router(*made_of, self._hub.stickies, *more, answering=answering)
        if site is None:
            return Site(
                listener.name, listener.protocol.value, listener.port, router, listener.idle_timeout_s,
                listener.request_timeout_s, listener.established_timeout_s, networks, each.access, hsts_line(listener),
                Profile.of(listener, each.authorities), listener.acme_backend_service, Allowance.of(listener, networks),
                Telling.of(listener), self._throttles.of(listener.name), listener.proxy_protocol, introducers,
                prior_knowledge=listener.http2_prior_knowledge,
            )  # fmt: skip
        site.port, site.router, site.trusted, site.hsts = listener.port, router, networks, hsts_line(listener)
        site.idle_timeout_s, site.request_timeout_s = listener.idle_timeout_s, listener.request_timeout_s
        site.allowance, telling = Allowance.of(listener, networks), Telling.of(listener)
        site.tunnel_timeout_s, site.acme_service = listener.established_timeout_s, listener.acme_backend_service
        site.prior_knowledge = listener.http2_prior_knowledge
        profile = Profile.of(listener, each.authorities)
        throttling = self._throttles.of(listener.name)
        newly = throttling is not None and site.throttling is None
        whose = site.introduction, site.introducers
        if (
            not site.profile.admits_as(profile) or site.telling != telling or newly
            or whose != (listener.proxy_protocol, introducers)
        ):  # fmt: skip
            for connection in list(site.connections):
                connection.retire()
        site.profile, site.telling, site.throttling = profile, telling, throttling
        site.introduction, site.introducers = listener.proxy_protocol, introducers
        if each.access != site.access:
            site.access = each.access
            for connection in list(site.connections):
                connection.admit()
        return site

    def set_down(self, down: Mapping[str, list[Endpoint]]) -> None:
        """Takes the unhealthy servers of every backend service."""
        for name, service in self._hub.services.items():
            gone = frozenset(down.get(name, ()))
            for upstream in service.pool.set_down(gone, self._hub.now()):
                upstream.close()
            service.trunks.retire(gone)

    # -- time

    async def sweep(self) -> None:
        """Looks after deadlines until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self._hub.now()
            self._throttles.settle(now)
            if forgotten := self._rates.take_forgotten():
                self._hub.count("forgotten_rate_keys", forgotten)
            if now >= self._next_progress:
                self._next_progress = now + PROGRESS_S
                self.tell_progress()
            self._hub.journal.store()
            for site in self._all_sites():
                for connection in [each for each in (*site.connections, *site.streams) if each.deadline <= now]:
                    connection.expire()
            self._make_room()
            if any(service.pool.any_down for service in self._hub.services.values()):
                for site in self._all_sites():
                    for connection in [*site.connections, *site.streams]:
                        connection.leave_dead_server()
            for service in self._hub.services.values():
                service.trunks.tick(now)
                for server in service.pool.tick(now):
                    log.info("%s: %s is back on probation", service.name, server_name(*server))
            for until, site in self._retired:
                if until <= now:
                    self._cut(site)
            self._retired = [(until, site) for until, site in self._retired if site.connections or site.newcomers]
            if now >= self._next_expiry:
                self._next_expiry = now + 5
                for service in self._hub.services.values():
                    for upstream in service.pool.expire(now):
                        upstream.close()
                    if service.introduces:
                        for upstream in service.pool.dismiss(UpstreamConnection.is_orphan):
                            upstream.close()

    def tell_progress(self) -> None:
        """Counts what exchanges have moved that go on: bytes of an hour are billed in that hour."""
        for site in self._all_sites():
            for connection in (*site.connections, *site.streams):
                connection.tell_progress()

    def most_open(self) -> dict[str, int]:
        """How many connections each listener had at once since this was last asked, if any."""
        found: dict[str, int] = {}
        for site in self._all_sites():
            if most := site.most_connections:
                found[site.name] = found.get(site.name, 0) + most
                site.most_connections = len(site.connections)
        return found

    def _make_room(self) -> None:
        """When places are short, connections that wait for their clients give way; the next to expire first."""
        surplus = self._hub.crowd.surplus
        if surplus > 0:
            waiting = (Activity.IDLE, Activity.HEAD)
            idle = [each for site in self._all_sites() for each in site.connections if each.activity in waiting]
            for connection in sorted(idle, key=lambda each: each.deadline)[:surplus]:
                connection.give_way()

    def _all_sites(self) -> list[Site]:
        return [*self._sites.values(), *(site for _, site in self._retired)]

    # -- the end

    def rest(self, wanted: bool) -> None:
        """Keep no connection alive, or do so again. New ones are served: they come until everybody knows."""
        self._resting = wanted
        for site in self._sites.values():
            if wanted:
                self._drain_site(site)
            else:
                site.closing = False

    def _drain_site(self, site: Site) -> None:
        site.closing = True
        for connection in list(site.connections):
            connection.drain()

    def _cut(self, site: Site) -> None:
        for newcomer in list(site.newcomers):
            newcomer.cut()
        for connection in list(site.connections):
            connection.cut()

    async def drain(self, drain_s: float, lame_duck_s: float, *, replaced: bool = False) -> None:
        """Ends all connections as gently as `drain_s` seconds allow.

        For `lame_duck_s` new connections are still accepted, because the L4 tier may not know yet; every answer says
        `Connection: close`. Then the sockets close, and what is in flight has the rest of the time. `replaced`: other
        processes have the sockets, which are left to them at once.
        """
        until = self._hub.now() + drain_s
        for site in self._all_sites():
            self._drain_site(site)
        if replaced:
            self.openings.leave()
        await asyncio.sleep(min(lame_duck_s, drain_s))
        await self.openings.close(min(HANDSHAKE_S, drain_s))
        # Asked for now and then: an event would cost every connection something, for this one moment.
        while any(site.connections for site in self._all_sites()) and self._hub.now() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for site in self._all_sites():
            self._cut(site)
        self._authenticators.close()
        await asyncio.sleep(0)  # so that transports close

    @property
    def has_vips(self) -> bool:
        """Whether connections come from an L4 tier, which has to notice that we end."""
        return any(address not in EVERYWHERE for address, _ in self.openings.endpoints)

    def answer(self, question: dict[str, object]) -> object:
        """What is asked of our connections."""
        what = question.pop("ask")
        if what == "talkers":
            return self._hub.journal.talkers.told(str(question.get("by")), self._hub.now())
        if what == "views":
            return census.views(self._all_sites(), census.Filter.of(question))
        return census.count(self._all_sites(), self._hub.now())

    @property
    def connections(self) -> int:
        return sum(len(site.connections) for site in self._all_sites())


def _contexts(model: Model) -> dict[str, ssl.SSLContext]:
    """By backend service, of those whose servers are spoken to by TLS. Raises ApplyError."""
    found = {}
    for name, service in l7_services(model).items():
        settings = upstream_tls(model, service)
        if settings is not None:
            try:
                found[name] = backend_tls.context(settings)
            except (ssl.SSLError, ValueError) as error:
                authorities = service.tls_ca_certificate
                raise ApplyError(f"backend service {name!r}: ca_certificate {authorities!r}: {error}") from None
    return found


def _terms(listener: Listener) -> Terms:
    networks = tuple(ip_network(network) for network in listener.trusted_proxies)
    return Terms(listener.handshake_timeout_s, listener.max_handshakes_per_client, networks)


def _site_key(each: L7Listener) -> tuple[str, str]:
    return each.listener.name, each.listener.protocol.value
