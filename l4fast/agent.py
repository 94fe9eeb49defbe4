"""The daemon of an L4 node: it tells the data plane what to do and otherwise stays out of the way.

    control plane ── configuration ──► Agent ── services, down reals, next hops ──► tables ──► XDP
    health probes ── up, down ────────►  │
    neighbours ── next hops ──────────►  └── health, counters, sync state ──► control plane, admin socket

Each cause of a change ends in one place, `_push`, which hands the tables the whole desired state; changes that come
together (a switch dies: forty probes fail) are pushed once. A configuration that the data plane refuses leaves the one
before in force. Packets flow all the while, and go on flowing if this process is killed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from typing import Final, Protocol, cast

from control.node import process_metrics
from control.node.members import Members, members_document
from control.node.metrics import Family
from control.node.probe import HealthMonitor
from control.node.tasks import Tasks
from core.endpoints import endpoint, split
from core.endpoints import version as version_of
from core.flows import chosen
from core.limits import nodes
from core.model import HASH_SCHEDULERS, Mode, Model, Role, Server
from core.resolve import L4Service, l4_services, source_pools
from l4fast import exporter, health, vip
from l4fast.announcing import Announcing
from l4fast.counts import Counted, Counter
from l4fast.fill import Fills
from l4fast.holding import Readiness
from l4fast.hops import Hop
from l4fast.leaving import Leaving
from l4fast.metering import Billing
from l4fast.problems import Refusals, crowded, servers_here, without_pool
from l4fast.sessions import SessionView, Wanted
from l4fast.shares import shares
from l4fast.sync_peer import Sync

log = logging.getLogger(__name__)

COALESCE_S: Final = 0.01  # long enough for the probes of one dead switch, short beside any probe's interval
RETRY_S: Final = 1.0
EPOCH_S: Final = 0.25
EXPIRY_S: Final = 0.1  # little and often: a sweep holds up the loop for as long as its budget takes
COUNT_S: Final = 1.0
MEMBERS_S: Final = 2.0  # how long a configuration waits for what it knows by DNS or files
ADDRESSES_S: Final = 2.0  # an address that is new is not used by health checks before it has been found unique
SESSIONS_LIMIT: Final = 1000
UNASKED: Final = "not probed yet"  # what HealthMonitor says before a target's first answer
FIRST_ROUND_LIMIT_S: Final = 10.0
LOOK_S: Final = 0.05


class Forwarder(Counted, Protocol):
    """What the agent needs of the data plane (`l4fast.tables.Tables`)."""

    def apply(
        self, services: Sequence[L4Service], down: AbstractSet[tuple[str, int, str]], next_hops: Mapping[str, Hop]
    ) -> None: ...
    def set_local(self, *addresses: Sequence[str]) -> Sequence[str]: ...
    def set_pools(self, own: Sequence[str], everyones: AbstractSet[str]) -> None: ...
    def set_epoch(self, now_s: int) -> None: ...
    def sessions(self, wanted: Wanted, *, limit: int = SESSIONS_LIMIT) -> Sequence[SessionView]: ...
    def kill(self, wanted: Wanted) -> Mapping[int, bytes]: ...


class NextHops(Protocol):
    """What the agent needs of the neighbours: the next hops to the reals and to the clients, kept fresh."""

    async def watch(self, addresses: AbstractSet[str]) -> None: ...
    def hops(self) -> Mapping[str, Hop]: ...


@dataclass(frozen=True, slots=True)
class Addresses:
    """This node's: those of each interface of the data plane, and all."""

    own: tuple[tuple[str, ...], ...] = ()
    local: tuple[str, ...] = ()


class Agent:
    """Joins configuration, health and neighbours, and keeps the data plane's clock and expiry going.

    `own` gives the addresses of each interface, `local` those of the whole node; both block and run in a thread.
    `early`: counters of the fragments that came before their first. `fill` says how full the tables are. `idle`: reals
    that an agent before had found down, and are so until their checks say otherwise.
    """

    def __init__(
        self, *, name: str, interfaces: Sequence[str], tables: Forwarder, hops: NextHops, sync: Sync, tasks: Tasks,
        expire: Callable[[int], int], local: Callable[[], Sequence[str]], own: Callable[[], Sequence[Sequence[str]]],
        early: Mapping[str, int],
        fill: Callable[[], Fills], announcing: Announcing, idle: AbstractSet[health.Real] = frozenset(),
        billing: Billing | None = None,
    ) -> None:  # fmt: skip
        self.configured = asyncio.Event()
        self.refused = False
        self.ready = False
        self.version = 0
        self._started = round(time.time(), 3)
        self._name = name
        self._interfaces = interfaces
        self._tables = tables
        self._hops = hops
        self._sync = sync
        self._expire = expire
        self._local = local
        self._own = own
        self._early = early
        self._idle = idle
        self._announcing = announcing
        self._billing = billing
        self._resting = 0.0  # since when, in Unix time
        self._loop = asyncio.get_running_loop()
        self._counter = Counter(tables, fill, self._loop.time)
        self._monitor = HealthMonitor(self._on_health, tasks)
        self._services: tuple[L4Service, ...] = ()
        self._model = Model()
        self._members = Members(self._on_members, tasks)
        self._tasks = tasks
        self._applying = asyncio.Lock()
        self._following = False  # a change of members
        self._error_of_members = ""
        self._leaving = Leaving()
        self._leaves: asyncio.TimerHandle | None = None
        self._pending: asyncio.TimerHandle | None = None
        self._error = ""
        self._said: frozenset[str] = frozenset()
        self._routes: tuple[str, ...] = ()
        self._pools: Mapping[str, Sequence[str]] = {}
        self._poolless: tuple[tuple[str, int], ...] = ()
        self._addresses = Addresses()
        self._crowded: tuple[str, ...] = ()
        self._refusals = Refusals()

    # Changes

    async def apply(self, model: Model, version: int) -> None:
        """Puts a configuration into force as a whole, or raises and keeps the one before."""
        async with self._applying:
            self._members.watch(model, self._model)
            await self._members.first_answers(MEMBERS_S)
            try:
                await self._put(model)
            except Exception:
                self.refused = True
                self._members.watch(self._model)
                raise
            self.refused, self._error_of_members = False, ""
            self.version, self._model = version, model
            self._members.watch(model)
        self.configured.set()
        vips = ", ".join(vip.vips(self._services)) or "no VIP"
        log.info("configuration %d: %d services on %s", version, len(self._services), vips)

    async def _put(self, model: Model) -> None:
        """The same with the members that are known now."""
        services, pools = self._services_of(model), source_pools(model)
        leaving = self._leaving.changed(self._services, services, self._loop.time())
        await self._hops.watch({real.address for service in leaving.beside(services) for real in service.reals})
        addresses = await asyncio.to_thread(self._look_at_addresses)
        if self._billing is not None:
            await self._billing.before(model, services)
        try:
            self._set_addresses(addresses)
            self._set_pools(pools)
            leaving = self._push_with(services, leaving)
        except Exception:
            self._set_pools(self._pools)
            self._push(self._leaving.beside(self._services))
            raise
        self._services, self._pools, self._leaving = services, pools, leaving
        pool = pools.get(self._name, ())
        self._poolless = tuple(dict.fromkeys(
            (s.listener, version_of(s.vip)) for s in services
            if s.mode is Mode.FULLNAT and version_of(s.vip) not in map(version_of, pool)
        ))  # fmt: skip
        targets = health.targets(services)
        self._monitor.watch(targets, health.of_reals(targets, self._idle))
        self._idle = frozenset()
        self._announce()
        self._watch_leaving()
        self._derive_from_addresses()
        if self._billing is not None:
            await self._billing.after(model, services)

    def _services_of(self, model: Model) -> tuple[L4Service, ...]:
        """What this node forwards, with its part of the limits."""
        parts = 1 if self._announcing.method == "vrrp" else nodes(model, Role.L4)  # by VRRP one node has the VIP
        services = l4_services(self._members.resolved(model))
        return tuple(replace(each, limits=each.limits.part(parts)) for each in services)

    def take_members(self, members: Mapping[str, tuple[Server, ...]]) -> None:
        """Those that have registered with the control plane."""
        self._members.take_registered(members)

    def _on_members(self) -> None:
        if self.configured.is_set() and not self._following:
            self._following = True
            self._tasks.spawn(self._follow_members(), "members have changed")

    async def _follow_members(self) -> None:
        async with self._applying:
            self._following = False
            try:
                await self._put(self._model)
            except Exception as error:
                self._error_of_members = f"members that have changed are not taken: {error}"
                log.error("%s", self._error_of_members)
            else:
                self._error_of_members = ""

    def _announce(self) -> None:
        """VIPs of what is leaving are announced as long as sessions may go on."""
        pools, vips = self._pools, vip.vips(self._leaving.beside(self._services))
        everyones = frozenset(address for of in pools.values() for address in of)
        self._announcing.want(shares(vips, pools, pools, self._name), everyones)

    def _push_with(self, services: tuple[L4Service, ...], leaving: Leaving) -> Leaving:
        """Pushes a new state. What is leaving must not keep it out: where both do not fit it goes at once."""
        try:
            self._push(leaving.beside(services))
        except Exception as error:
            if not leaving:
                raise
            self._push(services)
            log.warning("what was removed is not drained, since that does not fit: %s", error)
            return Leaving()
        return leaving

    def _watch_leaving(self) -> None:
        if self._leaves is not None:
            self._leaves.cancel()
        self._leaves = self._loop.call_at(self._leaving.until, self._have_left) if self._leaving else None

    def _have_left(self) -> None:
        self._leaving = self._leaving.at(self._loop.time())
        self._announce()
        self._watch_leaving()
        self.changed()

    def _look_at_addresses(self) -> Addresses:
        """Blocks."""
        held = self._announcing.own()
        own = tuple(tuple(address for address in of if address not in held) for of in self._own())
        return Addresses(own, tuple(self._local()))

    def _set_addresses(self, addresses: Addresses) -> None:
        self._crowded = tuple(self._tables.set_local(*addresses.own))
        self._addresses = addresses

    def _derive_from_addresses(self) -> None:
        pool = self._pools.get(self._name, ())
        own = [address for of in self._addresses.own for address in of]
        by_hand = self._announcing.method == "static"
        self._routes = vip.routes(self._services, pool, own) if by_hand else ()
        before, self._said = self._said, frozenset(self._servers_here())
        for problem in sorted(self._said - before):
            log.error("%s", problem)

    def _set_pools(self, pools: Mapping[str, Sequence[str]]) -> None:
        everyones = frozenset(address for pool in pools.values() for address in pool)
        self._tables.set_pools(pools.get(self._name, ()), everyones)

    def changed(self) -> None:
        """A real has changed its health or a next hop its address: the tables are brought up to date shortly."""
        if self._pending is None:
            self._pending = self._loop.call_later(COALESCE_S, self._catch_up)

    def _on_health(self, _key: Hashable, _healthy: bool, _why: str) -> None:
        self.changed()

    def _catch_up(self) -> None:
        self._pending = None
        try:
            self._push(self._leaving.beside(self._services))
        except Exception as error:
            log.error("the data plane is not up to date: %s", error)
            self._pending = self._loop.call_later(RETRY_S, self._catch_up)

    def _push(self, services: tuple[L4Service, ...]) -> None:
        try:
            self._tables.apply(services, health.down(self._states()) | self._idle, self._hops.hops())
        except Exception as error:
            self._error = str(error)
            raise
        self._error = ""

    def _states(self) -> Mapping[health.Key, tuple[bool, str]]:
        return cast("Mapping[health.Key, tuple[bool, str]]", self._monitor.states())

    # Time

    async def first_health_round(self) -> None:
        """Waits until every real has been probed once, for a bounded time."""
        limit_s = min(FIRST_ROUND_LIMIT_S, health.longest_round_s(health.targets(self._services)))
        steps = round(limit_s / LOOK_S)
        for _ in range(steps):
            if health.spoken(self._states(), UNASKED):
                return
            await asyncio.sleep(LOOK_S)

    def readiness(self) -> Readiness:
        """What has to be there before VIPs are taken (holding.py)."""
        complete = self._sync.complete(self._loop.time())
        return Readiness(self.ready and self.configured.is_set(), health.spoken(self._states(), UNASKED), complete)

    async def keep_epoch(self) -> None:
        """Writes the wall clock, which sessions are aged by, until cancelled."""
        while True:
            self._tables.set_epoch(int(time.time()))
            await asyncio.sleep(EPOCH_S)

    async def keep_addresses(self) -> None:
        """Follows the addresses, which change by themselves (DHCP, router advertisements), until cancelled."""
        while True:
            await asyncio.sleep(ADDRESSES_S)
            try:
                addresses = await asyncio.to_thread(self._look_at_addresses)
            except OSError as error:
                log.warning("the node's addresses cannot be looked up: %s", error)
                continue
            if addresses != self._addresses and self.configured.is_set():
                self._set_addresses(addresses)
                self._derive_from_addresses()

    async def keep_expiry(self) -> None:
        """Ages sessions until cancelled, once it is known which listeners there are: those of others would go."""
        await self.configured.wait()
        while True:
            self._expire(int(time.time()))
            await asyncio.sleep(EXPIRY_S)

    async def keep_count(self) -> None:
        """Keeps the number of sessions for the report and the peers, and what sync refuses, until cancelled."""
        while True:
            counts = self._counter.look()
            self._sync.sessions, self._sync.lost = counts.sessions, counts.packets.get("event_sync_lost", 0)
            self._refusals.look(self._sync.counters, self._loop.time())
            if self._billing is not None:
                self._billing.maps.saw(counts.listeners)
            await asyncio.sleep(COUNT_S)

    # Views

    def rest(self, since: float) -> None:
        """Give the VIPs up, since the control plane wants nothing new to come here; 0: have them again."""
        if since != self._resting:
            log.warning("draining by the control plane's word" if since else "serving again")
        self._resting = since
        self._announcing.rest(bool(since))

    def report(self) -> dict[str, object]:
        """What the control plane shows of this node. Its counters begin anew with each `started`."""
        return {
            "ready": self.ready,
            "resting": self._resting,
            "started": self._started,
            "health": health.report(self._states()),
            "members": members_document(self._members.groups(self._model)),
            "leaving": self._leaving.report(self._services, self._loop.time()),
            **self._counter.look().report(),
            "early_fragments": dict(self._early),
            "sessions": self._sync.sessions,
            "sync": self._sync.status(self._loop.time()) | {"counters": self._sync.counters},
            "vip": self._announcing.report(),
            "problems": self._problems(),
        }

    def _problems(self) -> list[str]:
        now = self._loop.time()
        tables = [each for each in (self._error, self._error_of_members) if each]
        poolless = [without_pool(listener, ip, self._name) for listener, ip in self._poolless]
        announcing = self._announcing.problems()
        if self._resting and self._announcing.method == "static":
            announcing = [*announcing, "it drains, but its VIPs are static: take their routes away from it"]
        return [
            *tables,
            *self._members.problems(self._model),
            *announcing,
            *poolless,
            *self._servers_here(),
            *map(crowded, self._crowded),
            *self._refusals.problems(now),
            *self._sync.problems(now),
        ]

    def _servers_here(self) -> list[str]:
        here = {address for address, hop in self._hops.hops().items() if hop.here}
        return servers_here(self._services, self._addresses.local, self._announcing.excused(), here)

    def status(self, _arguments: dict[str, object]) -> dict[str, object]:
        """The admin command `status`."""
        node = {"name": self._name, "interfaces": list(self._interfaces), "vips": vip.vips(self._services)}
        configuration = {"configuration": self.version, "refused": self.refused}
        return node | configuration | {"routes": self._routes} | self.report()

    def metrics(self) -> Iterator[Family]:
        """What /metrics says."""
        yield from process_metrics.families("l4", self._name)
        yield from exporter.families(self.status({}))

    def counters(self, _arguments: dict[str, object]) -> object:
        """The admin command `counters`: the data plane's, each listener's, each server's, session sync's."""
        counts = self._counter.look(fresh=True)
        return {
            "packets": counts.packets,
            "listeners": counts.listeners,
            "servers": counts.servers,
            "early_fragments": dict(self._early),
            "sync": self._sync.counters,
        }

    def sessions(self, arguments: dict[str, object]) -> object:
        """The admin command `sessions`, with the arguments of `Wanted` and `limit`."""
        limit = arguments.get("limit", SESSIONS_LIMIT)
        if not isinstance(limit, int) or limit < 1:
            raise ValueError("limit is a positive number")
        return [asdict(view) for view in self._tables.sessions(Wanted.of(arguments), limit=limit)]

    def chosen(self, arguments: dict[str, object], seed: int) -> object:
        """The server that a new flow gets here, where a hash says which; empty: none, or it is not known beforehand."""
        client, vip, protocol = (str(arguments.get(name, "")) for name in ("client", "vip", "protocol"))
        ends = split(client), split(vip)
        if ends[0] is None or ends[1] is None:
            raise ValueError("client and vip are ADDRESS:PORT")
        for service in self._services:
            if (service.vip, service.port, service.protocol) == (*ends[1], protocol):
                if service.scheduler not in HASH_SCHEDULERS:
                    break
                real = chosen(service, ends[0], health.down(self._states()) | self._idle, seed)
                return {"server": endpoint(real.address, real.port) if real is not None else ""}
        return {"server": ""}

    def kill(self, arguments: dict[str, object]) -> object:
        """The admin command `kill`, with the arguments of `Wanted`, one of them at least."""
        wanted = Wanted.of(arguments)
        if wanted == Wanted():
            raise ValueError("which sessions? give client, vip, real or state")
        killed = 0
        for ip, keys in self._tables.kill(wanted).items():
            self._sync.send_ended(ip, keys, self._loop.time(), time.time_ns() // 1000)
            killed += len(keys) // self._sync.layouts[ip].key_size
        log.info("%d sessions were killed: %s", killed, wanted)
        return {"killed": killed}
