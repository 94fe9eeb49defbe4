"""A node's metering: cuts what its counters have gained into the ledger, and hands that over to the control plane.

Which hour it is, the control plane says: each of its answers has its time, and in between the machine's uptime goes on,
which nobody can step. Before the first answer since the machine was booted the wall clock has to do.

The ledger is on disk, and its transactions wait for it: in a thread, one after the other. Looking at the counters is
the node's own business (`Source`) and is done in the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

import aiohttp

from control.node.ledger import Ledger, LedgerError, Places
from core.usage import HOUR_S, Delivery, Owner

log = logging.getLogger(__name__)

T = TypeVar("T")

CUT_S: Final = 10.0  # what a machine that loses its power has counted and forgets, at most
DELIVER_S: Final = 10.0
RETRY_S: Final = 0.5  # another process has the ledger
REFUSED_S: Final = 60.0
LATE_S: Final = 300.0  # without a delivery: then reports say so
LAST_WORDS_S: Final = 2.0  # at the end of the process, for the control plane to take what is left
POST_TIMEOUT: Final = aiohttp.ClientTimeout(total=20, sock_connect=3)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Look:
    """What the counters say now; see `Ledger.cut`. `done` is called once that is on disk."""

    sources: Mapping[str, Places]
    besides: Collection[str] = ()
    added: Mapping[Owner, int] = field(default_factory=dict)
    known: Mapping[Owner, int] = field(default_factory=dict)
    done: Callable[[], None] = lambda: None


class Source(Protocol):
    """A node's counters."""

    def look(self, ledger: Ledger) -> Look | None:
        """Reads them; None where it is not known yet whose they are."""


def boot_id() -> str:
    """Which boot of the machine this is; of systemd (`%b`) in units that hide /proc/sys. Empty if nobody tells."""
    with contextlib.suppress(FileNotFoundError):
        return _BOOT_ID.read_text().strip().replace("-", "")
    return os.environ.get("PAIFANG_BOOT_ID", "")


class Clock:
    """The control plane's time, by this machine's uptime. `boot` is empty where it is not known which boot this is."""

    def __init__(
        self, boot: str, *, wall: Callable[[], float] = time.time, uptime: Callable[[], float] | None = None
    ) -> None:
        self.boot = boot
        self._wall = wall
        self._uptime = uptime or partial(time.clock_gettime, time.CLOCK_BOOTTIME)
        self._ahead_s: float | None = None

    def restore(self, noted: tuple[str, float] | None) -> None:
        """What an earlier process has noted, if that was since the machine was booted."""
        if noted is not None and self.boot and noted[0] == self.boot:
            self._ahead_s = noted[1]

    def now(self) -> float:
        """Unix time in seconds."""
        return self._wall() if self._ahead_s is None else self._uptime() + self._ahead_s

    def hear(self, now: float) -> float:
        """The control plane has just said what time it is; how far that is ahead of the uptime."""
        self._ahead_s = now - self._uptime()
        return self._ahead_s


class Metering:
    """One node's. `keep` cuts until cancelled; `deliver` is for the link to the control plane; `end` is the end."""

    def __init__(
        self, state: Path, source: Source, *, cut_s: float = CUT_S, deliver_s: float = DELIVER_S,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self._path = state / "metering.db"
        self._source = source
        self._cut_s, self._deliver_s = cut_s, deliver_s
        self._clock = clock or Clock(boot_id())
        self._ledger: Ledger | None = None
        self._thread = ThreadPoolExecutor(1, "metering")
        self._busy = asyncio.Lock()
        self._ended = False
        self._last_s = 0.0
        self._hurry = asyncio.Event()
        self._done = asyncio.Event()  # everything is delivered
        self.refused = ""  # why the control plane does not take what we have
        self._fault = ""  # why nothing is counted
        self._failing: tuple[float, str] | None = None  # since when nothing can be delivered, by the uptime, and why

    @property
    def problems(self) -> list[str]:
        """For the node's reports: what an operator has to know, since bills will lack it."""
        found = [f"metering: {self._fault}"] if self._fault else []
        if self.refused:
            found.append(f"metering: the control plane does not take what was counted, which is kept: {self.refused}")
        elif self._failing is not None and (for_s := time.monotonic() - self._failing[0]) > LATE_S:
            found.append(
                f"metering: for {for_s / 60:.0f} min nothing could be delivered, which is kept: {self._failing[1]}"
            )
        return found

    async def keep(self) -> None:
        """Has the ledger as soon as nobody else has it, and cuts until cancelled."""
        while True:
            if not await self.acquire():
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await self.cut()
            except LedgerError as error:
                self._failed(error)
            else:
                self._fault = ""
            await asyncio.sleep(self._pause_s())

    def _pause_s(self) -> float:
        """Cuts also where one hour ends and the next begins."""
        return min(self._cut_s, HOUR_S - self._clock.now() % HOUR_S + 0.001)

    async def acquire(self) -> bool:
        """Has the ledger; False: another process has it, or it cannot be used, which the log says."""
        async with self._busy:
            if self._ledger is None and not self._ended:
                try:
                    self._ledger = ledger = await self._in_thread(partial(Ledger, self._path))
                except BlockingIOError:
                    return False
                except LedgerError as error:
                    self._failed(error)
                    return False
                self._clock.restore(ledger.clock())
        return True

    def _failed(self, error: LedgerError) -> None:
        log.error("metering: %s", error)
        self._fault = str(error)

    async def cut(self) -> None:
        """Takes what was counted since the last cut. Nothing where another process has the ledger. Raises LedgerError.

        To be called as well before the counters get other owners.
        """
        async with self._busy:
            await self._cut()

    async def _cut(self) -> None:
        if self._ledger is None:
            return
        look = self._source.look(self._ledger)
        if look is None:
            return
        hour = self._hour()
        await self._in_thread(
            partial(self._ledger.cut, hour, look.sources, besides=look.besides, added=look.added, known=look.known)
        )
        look.done()

    def _hour(self) -> int:
        """In which most of the time since the last cut lies; after a pause, the present one."""
        now, last_s = self._clock.now(), self._last_s
        self._last_s = now
        return int((now + last_s) / 2 if 0 <= now - last_s <= 2 * self._cut_s else now) // HOUR_S

    # -- delivery

    async def deliver(self, session: aiohttp.ClientSession, url: str) -> bool:
        """Hands over what there is, all of it. Whether there is nothing left; False: it has to be tried again.

        Raises LedgerError.
        """
        while (delivery := await self._sealed()) is not None:
            try:
                async with session.post(
                    f"{url}/v1/node/metering", json=delivery.document(), timeout=POST_TIMEOUT
                ) as response:
                    if response.status == 400:
                        self._refused((await response.text())[:500])
                        return False
                    response.raise_for_status()
                    answer = await response.json()
                    last, now = int(answer["applied"]), float(answer["now"])
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
                log.debug("metering: cannot deliver: %r", error)
                since = time.monotonic() if self._failing is None else self._failing[0]
                self._failing = since, str(error) or type(error).__name__
                return False
            self.refused, self._failing = "", None
            await self._acknowledged(delivery, last, now)
        return True

    def _refused(self, why: str) -> None:
        if why != self.refused:
            log.error("metering: the control plane does not take what was counted, which is kept: %s", why)
        self.refused = why

    async def _sealed(self) -> Delivery | None:
        async with self._busy:
            return None if self._ledger is None else await self._in_thread(self._ledger.seal)

    async def _acknowledged(self, delivery: Delivery, last: int, now: float) -> None:
        ahead_s = self._clock.hear(now)
        async with self._busy:
            if self._ledger is None:
                return  # whoever has the ledger now delivers it once more, and is told the same
            if last >= delivery.number and await self._in_thread(partial(self._ledger.acknowledge, delivery, last)):
                log.error("metering: %s is an old copy: what it had not delivered is left out", self._path)
            await self._in_thread(partial(self._ledger.note_clock, self._clock.boot, ahead_s))

    async def deliver_forever(self, session: aiohttp.ClientSession, url: Callable[[], str]) -> None:
        """Now and then, to the control node that is followed then, until cancelled."""
        while True:
            with contextlib.suppress(LedgerError):
                if await self.deliver(session, url()):
                    self._done.set()
            pause_s = REFUSED_S if self.refused else self._deliver_s
            try:
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()
            except TimeoutError:
                continue
            self._hurry.clear()

    # -- the end

    async def let_go(self) -> None:
        """Leaves the ledger to another process, after a last cut."""
        async with self._busy:
            self._ended = True
            try:
                with contextlib.suppress(LedgerError):
                    await self._cut()
            finally:
                if self._ledger is not None:
                    await self._in_thread(self._ledger.close)
                    self._ledger = None
        self._thread.shutdown()

    async def last_words(self) -> None:
        """Cuts, and has what is left delivered if that is possible at once; else it waits for the next process."""
        with contextlib.suppress(LedgerError, TimeoutError):
            await self.cut()
            self._done.clear()
            self._hurry.set()
            async with asyncio.timeout(LAST_WORDS_S):
                await self._done.wait()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Where the caller is cancelled, the work is waited for: a ledger is never left to two."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
