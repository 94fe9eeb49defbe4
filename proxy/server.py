"""The supervisor of an L7 node: it never touches a client's byte.

It follows the control plane, probes the servers' health for all workers, answers `/ready`, and keeps the workers
running. A new configuration is applied by all workers or by none: ports are reserved here first, and a worker that
refuses has the others go back to the old one. A worker that dies is started again, after a delay that doubles while it
keeps dying; the others take its new connections in the meantime, and those that wait in its queues (proxy/seats.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from control.node.members import Members, members_document
from control.node.notify import notify
from control.node.tasks import Tasks
from core.limits import SiteLimits
from core.model import Kind, Model, Server
from core.remembered import Remembered
from core.resolve import l7_listeners
from proxy import census, crowds, ledger, meters, rates, tally, throttles
from proxy.census import Count, Filter
from proxy.errors import ApplyError
from proxy.hub import View
from proxy.listen import LAME_DUCK_S, endpoints
from proxy.metering import Openings
from proxy.passing import Seat
from proxy.probes import Probes
from proxy.seats import Endpoint, Seats, rota
from proxy.sticky import SECRET_BYTES
from proxy.totals import Totals
from proxy.worker_process import APPLY_TIMEOUT_S, KILL_AFTER_S, Settings, Wanted, WorkerGone, WorkerProcess, kill, reap

log = logging.getLogger(__name__)

MEMBERS_S: Final = 2.0  # how long a configuration waits for what it knows by DNS or files
RESTART_S: Final = (0.1, 10.0)  # the first delay and the longest
SOUND_AFTER_S: Final = 10.0  # a worker that lived this long was no failed start


class Supervisor:
    """The whole node. `start` starts the workers; `apply` and `report` are for the control link; `drain` ends it.

    `give_up` is called with the reason when workers cannot start here at all.
    """

    def __init__(
        self,
        settings: Settings,
        tasks: Tasks,
        give_up: Callable[[str], None],
        inherited: Mapping[Seat, socket.socket] | None = None,
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._give_up = give_up
        self._probes = Probes(self._tell_health, tasks)
        self._members = Members(self._on_members, tasks)
        self._model: Model | None = None
        self._version = 0
        self._seats = Seats(settings.workers, inherited)
        self._ledger, self._clocks = ledger.memory(settings.workers), rates.memory()
        self._rows = ledger.Rows()
        self._given: set[Seat] = set()  # sockets that all workers who have the seat have too
        self._workers: dict[int, WorkerProcess] = {}
        self._cookie_secret = os.urandom(SECRET_BYTES)  # until the control plane gives that of all nodes
        self._totals = Totals(time.time())
        # What most changes leave as it is.
        self._endpoints = Remembered(_endpoints, Kind.INSTANCES, Kind.LISTENERS)
        self._limits = Remembered(_limits, Kind.NODES, Kind.INSTANCES, Kind.LISTENERS)
        self._requests = Remembered(_requests, Kind.LISTENERS, Kind.RULES)
        self.openings = Openings()
        self._restarts = 0
        self._problems: tuple[str, ...] = ()  # those that have been logged
        self._proved = False  # some worker has run
        self.serving = asyncio.Event()  # a configuration has been applied
        self.draining = asyncio.Event()
        self._draining_since = 0.0
        self._replaced = False
        self._resting = 0.0  # since when the control plane wants nothing new to come here; 0: it does not
        self._applying = asyncio.Lock()
        self._complete = asyncio.Event()  # all workers have started once

    @property
    def ready(self) -> bool:
        """Whether new connections should come here, where the node that has replaced this one takes them."""
        if self._replaced:
            return True
        return self._model is not None and bool(self._workers) and not self.draining.is_set() and not self._resting

    @property
    def sockets(self) -> dict[Seat, socket.socket]:
        """Those of the listeners."""
        return self._seats.all

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers.values()]

    def start(self) -> None:
        """Starts the workers and keeps them running."""
        for turn in range(self._settings.workers):
            self._tasks.spawn(self._keep_running(turn), f"worker {turn}")

    # -- workers

    async def _keep_running(self, turn: int) -> None:
        loop = asyncio.get_running_loop()
        delay_s = RESTART_S[0]
        while True:
            began = loop.time()
            cannot = await self._run_worker(turn)
            if self.draining.is_set():
                return
            if cannot and not self._proved:
                self._give_up(cannot)
                return
            self._restarts += 1
            if loop.time() - began > SOUND_AFTER_S:
                delay_s = RESTART_S[0]
            log.error("worker %d ended%s; another starts in %.1f s", turn, cannot and f": {cannot}", delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, RESTART_S[1])

    async def _run_worker(self, turn: int) -> str:
        """One worker from its start to its end; why it could not start, if it could not."""
        worker, reader = await WorkerProcess.start(self._settings, turn, (self._ledger, self._clocks))
        worker.seats = {number for number in self._seats.numbers if number % self._settings.workers == turn}
        listening = asyncio.ensure_future(worker.listen(reader, self._log_problems, self._note_open, self._spread))
        try:
            async with self._applying:
                worker.send({"cookie_secret": self._cookie_secret.hex()})
                worker.send({"rest": bool(self._resting)})
                if self._model is not None:
                    model = self._resolved(self._model)
                    wanted = Wanted(model, self._version, self._rows_of(model))
                    await worker.apply(wanted, self._seats.of(worker.seats))
                    self._tell_members([worker])  # they may have changed while it was busy
                    worker.send({"down": self._probes.down()})
                self._workers[turn] = worker
                await self._reseat()
            if len(self._workers) == self._settings.workers:
                self._complete.set()
            await listening
            del self._workers[turn]
            if not self.draining.is_set():
                async with self._applying:
                    await self._reseat()
        except ApplyError as error:
            if not worker.cannot:
                log.error("worker %d cannot take configuration %d: %s", turn, self._version, error)
            kill(worker.process)
            await listening
        finally:
            if self._workers.get(turn) is worker:
                del self._workers[turn]
            self._totals.keep(worker)
            await reap(worker.process)
        return worker.cannot

    def _spread(self, by: WorkerProcess, ejected: list[object]) -> None:
        """A worker has ejected a server: the others need not lose requests to find out."""
        for worker in self._workers.values():
            if worker is not by:
                worker.send({"ejected": ejected})

    async def _reseat(self) -> None:
        """Has somebody accept from each seat: its worker, or the next one where that is gone."""
        if self._model is None:
            return
        turns = rota(self._seats.numbers, self._settings.workers, self._workers)
        mine = {turn: {number for number, who in turns.items() if who == turn} for turn in self._workers}
        for turn, worker in self._workers.items():
            if more := mine[turn] - worker.seats:
                await worker.give(self._seats.of(more))
                worker.send({"mind": True})
        for turn, worker in self._workers.items():
            if less := worker.seats - mine[turn]:
                worker.send({"leave": sorted(less)})
            worker.seats = mine[turn]

    def _note_open(self) -> None:
        self.openings.saw(worker.open for worker in self._workers.values())

    # -- configuration

    @property
    def model(self) -> Model | None:
        """The configuration that runs, if there is one."""
        return self._model

    async def apply(self, model: Model, version: int) -> None:
        """Puts a configuration into effect on all workers. Raises ApplyError, and then the old one runs on."""
        wanted = self._endpoints(model)
        try:
            async with asyncio.timeout(APPLY_TIMEOUT_S):
                await self._complete.wait()
        except TimeoutError:
            raise ApplyError("the workers do not start; the log says why") from None
        async with self._applying:
            self._members.watch(model, self._model or Model())
            await self._members.first_answers(MEMBERS_S)
            fresh = self._seats.reserve(wanted)
            try:
                await self._apply_to_all(self._resolved(model), version)
            except ApplyError:
                self._seats.close(fresh)
                self._members.watch(self._model or Model())
                if self._model is not None:
                    with contextlib.suppress(ApplyError):
                        await self._apply_to_all(self._resolved(self._model), self._version)
                raise
            self._seats.keep(wanted)
            self._given = set(self._seats.all)
            self._model, self._version = model, version
            self._members.watch(model)
            self._tell_members(self._workers.values())
            self._forget_gone()
        self._probes.watch(self._resolved(model))
        self._log_problems()
        self.serving.set()

    def take_cookie_secret(self, secret: bytes) -> None:
        """What sticky cookies are sealed with, the same on all nodes."""
        if secret != self._cookie_secret:
            self._cookie_secret = secret
            for worker in self._workers.values():
                worker.send({"cookie_secret": secret.hex()})

    def rest(self, since: float) -> None:
        """Have nothing new come here: `/ready` says no, and no connection is kept alive. 0: serve again."""
        if since != self._resting:
            log.warning("draining by the control plane's word" if since else "serving again")
        self._resting = since
        for worker in self._workers.values():
            worker.send({"rest": bool(since)})

    async def _apply_to_all(self, model: Model, version: int) -> None:
        wanted = Wanted(model, version, self._rows_of(model))
        workers = list(self._workers.values())
        results = await asyncio.gather(
            *(worker.apply(wanted, self._seats.of(worker.seats, self._given)) for worker in workers),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, WorkerGone):
                raise result
        if None not in results:  # one that died meanwhile gets the configuration at its next start
            raise ApplyError("no worker is left that could take it")
        self._proved = True

    def _rows_of(self, model: Model) -> Mapping[str, int]:
        """The rows of what the workers share for the limits of a configuration. Raises ApplyError."""
        try:
            return self._rows.give([*throttles.names(self._limits(model)), *self._requests(model)])
        except ValueError as error:
            raise ApplyError(str(error)) from None

    def _all_problems(self) -> tuple[str, ...]:
        """What the workers find imperfect, each thing once, and what nobody serves."""
        workers = self._workers.values()
        found = dict.fromkeys(problem for worker in workers for problem in worker.problems)
        if self._model is not None:
            found |= dict.fromkeys(self._members.problems(self._model))
            found |= dict.fromkeys(tally.problems(self._model, [worker.stranded for worker in workers]))
        return tuple(found)

    def _log_problems(self) -> None:
        before, self._problems = self._problems, self._all_problems()
        for problem in self._problems:
            if problem not in before:
                log.warning("configuration %d: %s", self._version, problem)
        for problem in before:
            if problem not in self._problems:
                log.info("no longer: %s", problem)

    # -- members that come and go

    def _resolved(self, model: Model) -> Model:
        return self._members.resolved(model)

    def take_members(self, members: Mapping[str, tuple[Server, ...]]) -> None:
        """Those that have registered with the control plane."""
        self._members.take_registered(members)

    def _on_members(self) -> None:
        if self._model is not None:
            self._tell_members(self._workers.values())
            self._probes.watch(self._resolved(self._model))
            self._log_problems()
            self._forget_gone()

    def _forget_gone(self) -> None:
        """To be called once workers have been told of a change: before, what they say may be of what is new."""
        self._totals.forget(self._workers.values(), self._resolved(self._model or Model()))

    def _tell_members(self, workers: Iterable[WorkerProcess]) -> None:
        """Again after each configuration: an answer may have come while they were busy with it."""
        assert self._model is not None
        groups = {
            name: [[each.address, each.port, each.weight, each.zone] for each in servers]
            for name, servers in self._members.groups(self._model).items()
        }
        for worker in workers if groups else ():
            worker.send({"members": groups})

    # -- health

    def _tell_health(self) -> None:
        down = self._probes.down()
        for worker in self._workers.values():
            worker.send({"down": down})

    # -- what there is to tell

    def report(self) -> dict[str, object]:
        """What the control plane is told each second."""
        workers, model = list(self._workers.values()), self._model or Model()
        return {
            "ready": self.ready,
            "draining": self.draining.is_set(),
            "resting": self._resting,
            "workers": len(workers),
            "worker_restarts": self._restarts,
            "health": self._probes.rows(),
            "upstreams": self._totals.upstreams(workers, self._resolved(model)),
            "counters": self._totals.counters(workers),
            "traffic": self._totals.traffic(workers, model, asyncio.get_running_loop().time()),
            "problems": list(self._all_problems()),
            "members": {} if self._model is None else members_document(self._members.groups(self._model)),
        }

    def measured(self) -> dict[str, Any]:
        """What /metrics is made of; forgets listeners, services and rules that are gone."""
        model = self._model or Model()
        rows = self._totals.meters(list(self._workers.values()), model)
        rules = {name: (model.rules[name].listener if name in model.rules else meters.OTHER) for name in rows["rules"]}
        return {**self.report(), "configuration": self._version, "listener_of": rules, **rows}

    def reopen_log(self) -> None:
        """Has the workers open the access log anew."""
        for worker in self._workers.values():
            worker.send({"reopen": True})

    async def count(self) -> list[Count]:
        """The connections by listener, of all workers."""
        return census.together(await asyncio.gather(*(each.ask("count") for each in self._workers.values())))

    async def views(self, wanted: Filter) -> list[View]:
        """The connections that are wanted, the oldest first."""
        found: list[View] = await self.ask("views", **asdict(wanted))
        return sorted(found, key=lambda view: -view["age_s"])[: wanted.limit]

    async def ask(self, what: str, **arguments: object) -> list[Any]:
        """What each worker answers, one after the other."""
        answers = await asyncio.gather(*(each.ask(what, **arguments) for each in self._workers.values()))
        return [answer for each in answers for answer in each]

    async def status(self) -> dict[str, object]:
        """What the administrator is told."""
        now = asyncio.get_running_loop().time()
        drain = None
        if self.draining.is_set():
            since_s = now - self._draining_since
            left_s = max(0.0, self._settings.drain_s - since_s)
            drain = {"since_s": round(since_s, 1), "at_most_s": round(left_s, 1)}
        return {
            "name": self._settings.name,
            "pid": os.getpid(),
            "configuration": self._version,
            **self.report(),
            "drain": drain,
            "workers": [worker.process.pid for worker in self._workers.values()],
            "listeners": await self.count(),
        }

    # -- the end

    async def drain(self, *, replaced: bool = False) -> None:
        """Takes no new connections and returns when all workers have ended, within the drain time.

        `replaced`: another node has our sockets and takes them.
        """
        self._replaced = replaced
        self._draining_since = asyncio.get_running_loop().time()
        self.draining.set()
        if not replaced:
            notify("STOPPING=1")
        vips = self._model is not None and any(instance.vips for instance in self._model.instances.values())
        message: dict[str, object] = {"drain": self._settings.drain_s, "replaced": replaced}
        message["lame_duck"] = LAME_DUCK_S if vips and not replaced else 0.0
        workers = list(self._workers.values())
        for worker in workers:
            worker.send(message)
        self._seats.close()  # those that accept have them too
        ends = [asyncio.ensure_future(worker.process.wait()) for worker in workers]
        if ends:
            _, late = await asyncio.wait(ends, timeout=self._settings.drain_s + KILL_AFTER_S)
            if late:
                log.error("%d workers did not end in time and are killed", len(late))
        self.kill()

    def kill(self) -> None:
        """Ends what still runs, at once."""
        for worker in self._workers.values():
            kill(worker.process)
        self._seats.close()


def _endpoints(model: Model) -> frozenset[Endpoint]:
    return frozenset(at for each in l7_listeners(model) for at in endpoints(each))


def _limits(model: Model) -> dict[str, SiteLimits]:
    return {each.listener.name: each.limits for each in l7_listeners(model) if each.limits}


def _requests(model: Model) -> list[str]:
    """The names of what is limited of requests."""
    return [*rates.names(model), *crowds.names(model)]
