"""Puts an L4 node together, runs it until it is told to stop, and takes it apart in order.

The order matters. The lock comes first, so that two agents never write to one interface. The program is attached with
empty tables, which pass every packet to the kernel; then the configuration comes, then health; only then is the node
ready, and takes its VIPs. On the way out these are given up first, and the last session records are sent before the
program is taken off. A node whose agent fails leaves its program attached, like one that is killed: it forwards by its
last tables until the agent is started again.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import secrets
import signal
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from control.node import admin
from control.node.identity import Identity
from control.node.link import ControlLink
from control.node.metering import Metering
from control.node.metrics_server import MetricsServer, listen
from control.node.notify import notify
from control.node.tasks import Tasks
from core.endpoints import endpoint, version
from l4fast import announcing, links
from l4fast.agent import Agent
from l4fast.announcing import Announcing
from l4fast.early import EarlyFragments, Wire
from l4fast.errors import L4Error, LoadError
from l4fast.expiry import expire
from l4fast.fill import TABLES, Census, Fill, Fills, countable
from l4fast.interfaces import interface
from l4fast.loader import IP_VERSIONS, DataPlane
from l4fast.metering import Billing, Left, Maps
from l4fast.neighbours import Neighbours
from l4fast.pins import Pins
from l4fast.settings import ADMIN_SOCKET, Settings, load_secrets
from l4fast.snapshot_io import Snapshots, listener
from l4fast.state import StateDirectory
from l4fast.sync_io import SyncIO, multicast_socket
from l4fast.sync_keys import Secrets, seed_digest
from l4fast.sync_peer import Sync
from l4fast.sync_records import Layout
from l4fast.tables import Record, Tables
from l4fast.talkers import Talkers

log = logging.getLogger(__name__)

SYNC_PERIOD_S: Final = 20  # how often the data plane tells the peers of a session that carries packets
REFRESH_S: Final = SYNC_PERIOD_S + 5  # by when a peer that has missed such a session knows it again
# Sessions looked at in one go, ten times a second: 800,000 in the shortest timeout, for less than 5 % of a core.
EXPIRY_BUDGET: Final = 8_000
CENSUS_BUDGET: Final = 4_000  # entries of other tables counted in one go, as often: a full one of 65,536 in 1.7 s
CONFIGURATION_WAIT_S: Final = 5.0


class NodeError(L4Error):
    """The node cannot start; one line with the remedy."""


def layouts_of(records: Mapping[int, Record]) -> dict[int, Layout]:
    """What two nodes must have in common for records, by IP version, to mean the same: byte order, fields, offsets,
    sizes."""
    words: list[str] = [sys.byteorder]
    for ip, record in sorted(records.items()):
        for structure in record:
            words.append(f"IPv{ip}")
            for name, *_ in structure._fields_:
                field = getattr(structure, name)
                words.append(f"{name} {field.offset} {field.size}")
    checksum = zlib.crc32("\n".join(words).encode())
    return {
        ip: Layout(ctypes.sizeof(key), ctypes.sizeof(value), ctypes.sizeof(end), ctypes.sizeof(told), checksum)
        for ip, (key, value, end, told) in records.items()
    }


def check_interfaces(settings: Settings, state: StateDirectory) -> list[links.Link]:
    """The interfaces, free of anybody else's programs. Blocking. Raises NodeError."""
    return [check_interface(name, settings, state) for name in settings.interfaces]


def check_interface(name: str, settings: Settings, state: StateDirectory) -> links.Link:
    """The interface, free of anybody else's program. Blocking. Raises NodeError.

    What a killed agent of this state directory left behind goes on forwarding until it is replaced in one step; only a
    change between native and generic mode needs it taken off before.
    """
    link = links.find(name)
    if link is None:
        raise NodeError(f"no interface {name}; `ip link` lists those of this machine")
    if link.program and link.program not in state.programs(link.index):
        raise NodeError(
            f"{name} carries another XDP program (id {link.program}); "
            f"if nobody needs it: `ip link set dev {name} xdp off`"
        )
    if link.program and link.mode != settings.xdp:
        links.take_off(link)
    return link


def program_id(plane: DataPlane) -> int:
    """The kernel's id of our program (proc_pid_fdinfo(5))."""
    with open(f"/proc/self/fdinfo/{plane.programs[4].fd('lb')}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("prog_id:"))


class Node:
    """The parts of a running node. `run` is the whole life."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings = settings
        self._identity = identity
        self._stop = asyncio.Event()
        self._failure: tuple[str, BaseException] | None = None
        self._leaves = False
        self._tasks = Tasks(self._on_failure)

    def _on_failure(self, name: str, error: BaseException) -> None:
        self._failure = (name, error)
        self._stop.set()

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises L4Error, AdminError or LinkError."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        shared = load_secrets(settings.cluster_key)
        for number in (signal.SIGTERM, signal.SIGINT):  # before anything is attached that has to come off
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            state = StateDirectory(settings.state)
            stack.callback(state.close)
            announcing.check(settings.vip)
            found = await asyncio.to_thread(check_interfaces, settings, state)
            metrics = settings.metrics and stack.enter_context(listen(*settings.metrics))
            pins = Pins(settings.state)
            with pins.left(*state.estate()) as left:
                plane = DataPlane.load(left=left)
                before = Left(plane, left) if left is not None and not plane.inherited else None
            plane.use(*map(interface, settings.interfaces))
            tables = Tables(plane, sync_period_s=SYNC_PERIOD_S)
            if plane.inherited:
                log.info("going on by the tables of the agent before")
                tables.resume(int(time.time()))
            elif left is not None:
                log.warning("the agent before had other tables; starting with empty ones, which the peers fill")
            boot = state.next_boot(time.time_ns())
            sync = Sync(
                name=settings.name, keys=shared.keys, boot=boot, salt=secrets.randbits(64),
                layouts=layouts_of(tables.layouts), now=loop.time(), refresh_s=REFRESH_S, seed=seed_digest(shared.seed),
            )  # fmt: skip
            _seed(tables, shared)
            tables.set_epoch(int(time.time()))
            maps = Maps(tables, before)
            metering = Metering(settings.state, maps)
            await metering.acquire()
            stack.push_async_callback(metering.let_go)  # packets are counted until the programs are off
            pins.hold(plane, boot)
            stack.callback(self._take_off, plane, pins)
            vips = await asyncio.to_thread(self._vips, plane.inherited)
            tables.set_vips_here(vips.local)
            take_over = partial(self._take_over, plane, pins, state, boot, found, maps)
            # With empty tables, it takes the place of a program that forwards only when they have been filled.
            wait = not plane.inherited and any(link.program for link in found)
            if not wait:
                take_over()
            await self._start_sync(stack, sync, tables)
            early = self._start_early(stack, plane)
            agent = await self._start_agent(
                stack, sync, tables, early, [link.index for link in found], take_over if wait else None, vips,
                Billing(maps, metering), metering,
            )  # fmt: skip
            stack.push_async_callback(self._last_words, metering)
            stack.push_async_callback(self._give_up, vips, tables)
            if metrics:
                server = await MetricsServer(agent.metrics).serve(metrics)
                stack.callback(server.close)
                log.info("metrics at http://%s/metrics", endpoint(*metrics.getsockname()[:2]))
            loop.add_signal_handler(signal.SIGHUP, self._reload_keys, sync, tables, agent)
            log.info("forwarding on %s (%s XDP)", ", ".join(settings.interfaces), settings.xdp)
            await self._stop.wait()
            notify("STOPPING=1")
        if self._failure is not None:
            name, error = self._failure
            raise NodeError(f"{name} failed ({error!r}); the XDP program stays attached until the next start")

    def _leave(self, _arguments: dict[str, object]) -> object:
        """The admin command `leave`."""
        self._leaves = True
        self._stop.set()
        return {"left": list(self._settings.interfaces)}

    def _take_over(
        self, plane: DataPlane, pins: Pins, state: StateDirectory, boot: int, found: Sequence[links.Link], maps: Maps
    ) -> None:
        """From whatever program is attached. What the next agent has to know is written down at each step, since this
        one may be killed at any."""
        state.note_program({link.index: link.program for link in found}, program_id(plane))
        self._attach(plane)
        maps.take_over()
        state.note_estate(boot, plane.estate.contract, plane.estate.seed)
        pins.settle()

    def _vips(self, going_on: bool) -> Announcing:
        """Blocks."""
        settings = self._settings
        program = announcing.prepare(
            settings.vip, settings.state, settings.name, settings.interfaces, going_on=going_on
        )
        watched = settings.interfaces if settings.vip.method == "bgp" else ()  # keepalived looks at them itself
        return Announcing(program, watched, clock=time.monotonic)

    async def _give_up(self, vips: Announcing, tables: Tables) -> None:
        """Where the program stays attached the VIPs stay too, for the keeper's grace."""
        if self._failure is None and not self._leaves:
            await vips.release(tables.counters)

    async def _last_words(self, metering: Metering) -> None:
        """Where no agent will go on from here, what was counted is delivered if that is possible at once."""
        if self._failure is None and not self._leaves:
            await metering.last_words()

    def _attach(self, plane: DataPlane) -> None:
        """To all interfaces or, raising LoadError, to none."""
        try:
            for name in self._settings.interfaces:
                plane.attach(name, self._settings.xdp)
        except LoadError:
            plane.detach()
            raise

    def _take_off(self, plane: DataPlane, pins: Pins) -> None:
        if not plane.attached:
            pins.abandon()
        elif self._failure is None and not self._leaves:
            plane.detach()
            pins.release()

    async def _start_sync(self, stack: AsyncExitStack, sync: Sync, tables: Tables) -> None:
        settings = self._settings
        group = (settings.sync_group, settings.sync_port)
        try:
            sock = multicast_socket(*group, settings.interfaces[0])
        except OSError as error:
            raise NodeError(
                f"cannot join {endpoint(*group)} on {settings.interfaces[0]}: {error.strerror}; "
                "choose another group or port with --sync"
            ) from None
        sync_io = SyncIO(sync, tables, sock, group)
        stack.callback(sync_io.close)
        try:
            listening = listener(settings.interfaces[0], version(settings.sync_group), settings.sync_tcp)
        except OSError as error:
            raise NodeError(
                f"cannot listen for the peers' requests for snapshots on {settings.interfaces[0]}, port "
                f"{settings.sync_tcp}: {error.strerror}; choose another port with --sync-tcp"
            ) from None
        stack.callback(listening.close)
        snapshots = Snapshots(sync, tables, self._identity, self._tasks)
        self._filled = snapshots.complete
        snapshots.start(listening)
        sync_io.start()  # after the port is known that the first hello tells

    def _start_early(self, stack: AsyncExitStack, plane: DataPlane) -> EarlyFragments:
        wire = Wire(*self._settings.interfaces)
        stack.callback(wire.close)
        early = EarlyFragments(plane, wire.send, wire.forward)
        early.start()
        stack.callback(early.close)
        return early

    async def _start_agent(
        self,
        stack: AsyncExitStack,
        sync: Sync,
        tables: Tables,
        early: EarlyFragments,
        indexes: list[int],
        take_over: Callable[[], None] | None,
        vips: Announcing,
        billing: Billing,
        metering: Metering,
    ) -> Agent:
        settings = self._settings
        stack.push_async_callback(self._tasks.close)
        hops = Neighbours(*settings.interfaces)
        census = Census(
            {name: {version: countable(tables.plane, name, version) for version in IP_VERSIONS} for name in TABLES}
        )
        talkers = Talkers(time.monotonic)
        agent = Agent(
            name=settings.name, interfaces=settings.interfaces, tables=tables, hops=hops, sync=sync, tasks=self._tasks,
            expire=partial(_expire, tables, census, talkers), local=links.addresses, own=partial(_own, indexes),
            fill=partial(_fill, tables, census),
            early=early.counters, idle=tables.idle, announcing=vips, billing=billing,
        )  # fmt: skip
        handlers = {
            "status": agent.status, "counters": agent.counters, "sessions": agent.sessions, "kill": agent.kill,
            "leave": self._leave,
        }  # fmt: skip
        server = await admin.serve(settings.state / ADMIN_SOCKET, handlers)
        stack.callback(server.close)
        control = ControlLink(
            url=settings.control, identity=self._identity, state=settings.state, apply=agent.apply, report=agent.report,
            take_members=agent.take_members, metering=metering, rest=agent.rest,
            answers={
                "sessions": agent.sessions,
                "talkers": talkers.ask,
                "chosen": lambda asked: agent.chosen(asked, tables.versions[4].seed),
            },
        )  # fmt: skip
        self._tasks.spawn(metering.keep(), "metering")
        self._tasks.spawn(agent.keep_epoch(), "epoch")
        self._tasks.spawn(agent.keep_expiry(), "expiry")
        self._tasks.spawn(agent.keep_addresses(), "addresses")
        self._tasks.spawn(agent.keep_count(), "session count")
        self._tasks.spawn(vips.keep(agent.readiness), "VIPs")
        self._tasks.spawn(hops.keep(agent.changed), "next hops")
        self._tasks.spawn(control.run(), "control link")
        self._tasks.spawn(self._announce(agent, take_over), "readiness")
        return agent

    async def _announce(self, agent: Agent, take_over: Callable[[], None] | None) -> None:
        """READY=1 once a configuration runs, or there is none, and the first round of probes is over."""
        try:
            await asyncio.wait_for(agent.configured.wait(), CONFIGURATION_WAIT_S)
        except TimeoutError:
            if agent.refused:
                log.warning("not ready: no configuration could be applied")
                await agent.configured.wait()
        await agent.first_health_round()
        if take_over is not None:
            await self._filled.wait()  # the programs of before know the sessions meanwhile
            take_over()
        agent.ready = True
        notify("READY=1")
        log.info("ready")

    def _reload_keys(self, sync: Sync, tables: Tables, agent: Agent) -> None:
        try:
            shared = load_secrets(self._settings.cluster_key)
        except L4Error as error:
            log.error("the cluster keys stay as they were: %s", error)
        else:
            sync.rekey(shared.keys, seed_digest(shared.seed))
            _seed(tables, shared)
            agent.changed()
            log.info("cluster keys read again")


def _seed(tables: Tables, shared: Secrets) -> None:
    if shared.seed is None:
        log.warning("the cluster key file has no line of a seed: strangers can tell which server a flow goes to")
    tables.set_seed(shared.seed or 0)


def _own(indexes: list[int]) -> list[tuple[str, ...]]:
    """Of each interface and the VLANs on it."""
    return [
        tuple(address for link in (index, *links.vlans_on(index)) for address in links.addresses(link))
        for index in indexes
    ]


def _expire(tables: Tables, census: Census, talkers: Talkers, now_s: int) -> int:
    """A sweep that was done within its second rests for the remainder of it."""
    census.count(CENSUS_BUDGET, now_s)
    resting = tables.sweep.blocks is None and tables.sweep.begun_s == now_s
    return 0 if resting else expire(tables, now_s, EXPIRY_BUDGET, talkers)


def _fill(tables: Tables, census: Census) -> Fills:
    size, used = tables.plane.sizes["sessions"], tables.sweep.last_entries
    return {"sessions": {version: Fill(used.get(version, 0), size) for version in IP_VERSIONS}} | census.fill()
