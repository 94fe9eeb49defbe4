"""Has the VIPs announced while this node may hold them: joins the decision (holding.py) with a method.

    agent ── wanted addresses, readiness ──► Announcing ── shares ──► Keepalived | Bird ──► Keeper ──► the program
                                                 └── state, problems ──► status, /metrics, control plane

`keep` runs for the agent's whole life and renews the keeper's lease; whatever stops it, a dead agent or one whose loop
is stuck, lets the lease run out. `release` gives the VIPs up while the data plane still forwards, and returns when
their traffic has moved or LINGER_S is over; only then may XDP be taken off.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from l4fast import keepalived, keeper
from l4fast.bird import Bird
from l4fast.holding import Holding, Readiness, Stage
from l4fast.interfaces import carries
from l4fast.shares import Share
from l4fast.vip_errors import VipError
from l4fast.vip_settings import VipSettings, locate, password
from l4fast.vip_states import VipState, VipStates

log = logging.getLogger(__name__)

DIRECTORY: Final = "vip"  # in the node's state directory
TURN_S: Final = 0.25
RETRY_S: Final = 2.0
LINGER_S: Final = 3.0
QUIET_S: Final = 0.3
# What clients' packets are counted as (bpf/stats.h); answers go on coming by the servers' own routes.
FROM_CLIENTS: Final = ("tx_session", "tx_syn", "tx_new_session", "tx_untracked", "tx_stateless")
EXCUSED_S: Final = 5.0  # the node's addresses are looked at every two seconds


class Program(Protocol):
    """A method with a program of its own."""

    states: VipStates

    @property
    def method(self) -> str: ...
    async def put(self, shares: Sequence[Share], pools: frozenset[str]) -> None: ...
    async def poll(self) -> None: ...
    async def withdraw(self) -> None: ...
    async def end(self) -> None: ...
    def close(self) -> None: ...
    def adopt(self) -> bool: ...
    def renew(self) -> None: ...
    def runs(self) -> bool: ...
    def peers(self) -> list[dict[str, object]]: ...
    def problems(self) -> list[str]: ...


class Announcing:
    """`program`: None where VIPs are announced by nobody (static). `interfaces`: a method that does not look at them
    itself gives the VIPs up when one is down."""

    def __init__(self, program: Program | None, interfaces: Sequence[str] = (), *, clock: Callable[[], float]) -> None:
        self._program = program
        self._interfaces = tuple(interfaces)
        self._clock = clock
        self._holding = Holding(clock())
        self._wanted: tuple[tuple[Share, ...], frozenset[str]] = ((), frozenset())
        self._put: tuple[tuple[Share, ...], frozenset[str]] | None = ((), frozenset())  # None: not known
        if program is not None and program.runs():
            self._holding.go_on()
            self._put = None
        self._retry_at = 0.0
        self._error = ""
        self._down: tuple[str, ...] = ()
        self._resting = False
        self._turn_lock = asyncio.Lock()

    @property
    def method(self) -> str:
        return self._program.method if self._program else "static"

    @property
    def local(self) -> bool:
        """Whether the owner of a VIP has it on its interfaces."""
        return self.method == keepalived.Keepalived.method

    def want(self, shares: Sequence[Share], pools: frozenset[str]) -> None:
        """What is to be announced from now on."""
        if (wanted := (tuple(shares), pools)) != self._wanted:
            self._wanted = wanted
            self._holding.ask(self._clock())

    def rest(self, wanted: bool) -> None:
        """Announce nothing while the node drains; then what is wanted again."""
        self._resting = wanted

    async def keep(self, readiness: Callable[[], Readiness]) -> None:
        """Until cancelled."""
        while self._program is not None:
            async with self._turn_lock:
                if self._program is not None:  # it may have been released meanwhile
                    await self._turn(self._program, readiness())
            await asyncio.sleep(TURN_S)

    async def _turn(self, program: Program, readiness: Readiness) -> None:
        now = self._clock()
        self._holding.look(readiness)
        try:
            program.renew()
            await program.poll()
            if self._holding.stage is not Stage.RELEASED:
                await self._catch_up(program, readiness, now)
        except (VipError, OSError) as error:  # a disk that is full must not end the agent
            if str(error) != self._error:
                log.error("%s", error)
            self._error, self._retry_at = str(error), now + RETRY_S

    async def _catch_up(self, program: Program, readiness: Readiness, now: float) -> None:
        self._down = tuple(name for name in self._interfaces if not carries(name))
        nothing = bool(self._down) or self._resting
        wanted = ((), self._wanted[1]) if nothing else self._wanted
        if (self._put is None or self._put[0]) and not program.runs():
            log.error("what announces the VIPs has ended; it is started again")
            self._put = ((), frozenset())
        if wanted == self._put or now < self._retry_at:
            return
        if not nothing and not self._holding.may_change(readiness, now):
            return
        self._retry_at = now + RETRY_S  # if it fails
        await program.put(*wanted)
        self._put, self._error, self._retry_at = wanted, "", 0.0
        log.info("announcing %s by %s", ", ".join(share.address for share in wanted[0]) or "nothing", program.method)

    async def release(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Gives all up and waits until clients' packets, by the data plane's `counters`, come no more."""
        program = self._program
        if program is None:
            return
        self._holding.release()
        async with self._turn_lock:
            had = self._put is None or bool(self._put[0])
            try:
                await program.withdraw()
            except VipError as error:
                log.error("%s", error)
            if had:
                await self._until_quiet(program, lambda: sum(counters().get(name, 0) for name in FROM_CLIENTS))
            await program.end()
            program.close()
            self._program = None

    async def _until_quiet(self, program: Program, forwarded: Callable[[], int]) -> None:
        deadline = self._clock() + LINGER_S
        before, since = forwarded(), self._clock()
        while self._clock() < deadline and self._clock() - since < QUIET_S:
            await asyncio.sleep(QUIET_S / 6)
            program.renew()
            if (count := forwarded()) != before:
                before, since = count, self._clock()
        log.info("the VIPs are given up")

    # Views

    def own(self) -> frozenset[str]:
        """The addresses that this node has on its interfaces while it holds them; they are no other addresses of it."""
        if self._program is None or not self.local:
            return frozenset()
        return frozenset({*(share.address for share in self._wanted[0]), *self._program.states.addresses()})

    def excused(self) -> frozenset[str]:
        """Those that it has there rightly, or had until a moment ago."""
        if self._program is None or not self.local:
            return frozenset()
        states, since = self._program.states, time.time() - EXCUSED_S
        return frozenset(
            address for address in states.addresses()
            if states.of(address) in (VipState.MASTER, VipState.STARTING) or states.since(address) > since
        )  # fmt: skip

    def report(self) -> Mapping[str, object]:
        program = self._program
        return {
            "method": self.method,
            "stage": self._holding.stage.value if program else "static",
            "waits_for": self._holding.lacks,
            "addresses": program.states.report() if program else [],
            "peers": program.peers() if program else [],
        }

    def problems(self) -> list[str]:
        if self._program is None:
            return []
        down = [f"the interface {name} is down: the VIPs are given up" for name in self._down]
        hurried = [f"the VIPs were taken without waiting any longer for {self._holding.hurried}"]
        return [
            *([self._error] if self._error else []), *down, *(hurried if self._holding.hurried else []),
            *self._program.problems(),
        ]  # fmt: skip


def check(settings: VipSettings) -> None:
    """Whether the method can be used here at all. Raises VipError."""
    if settings.method != "static":
        locate(settings.method)
        password(settings.password_file)


def prepare(
    settings: VipSettings, state: Path, node: str, interfaces: Sequence[str], *, going_on: bool = False
) -> Program | None:
    """Makes this agent's program, and goes on with what an earlier one has left, if the data plane goes on as well;
    else ends that first, whatever its method was. Blocks. Raises VipError.

    It has to happen before XDP is attached: a new program begins with empty tables, and packets for a VIP that is still
    on an interface would be answered by the kernel, with RST.
    """
    directory = state / DIRECTORY
    if going_on and settings.method != "static" and directory.is_dir():
        made = _make(settings, directory, node, interfaces)
        if made.adopt():
            log.info("going on with what the agent before has left announcing VIPs")
            return made
        made.close()
    if keeper.end_old(directory):
        log.warning("what an earlier agent has left announcing VIPs was ended")
    for address in keepalived.take_off_leftovers(directory):
        log.warning("the VIP %s had been left on an interface", address)
    if settings.method == "static":
        return None
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise VipError(f"{directory}: {error.strerror}; give --state a directory that this user may write to") from None
    return _make(settings, directory, node, interfaces)


def _make(settings: VipSettings, directory: Path, node: str, interfaces: Sequence[str]) -> Program:
    program = locate(settings.method)
    if settings.method == "vrrp":
        return keepalived.Keepalived(program, directory, settings, node, interfaces)
    return Bird(program, directory, settings, node, password(settings.password_file))
