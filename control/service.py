"""The control plane between its storage and its two APIs: the current configuration, and what the nodes say.

Every change is made from a version, validated as a whole, stored as a whole and then announced to those who wait. The
current version is held in memory, so that a thousand nodes that poll never touch the storage, and follows what other
control nodes of the same storage change. Reports are held in memory only: after a restart they are complete again
within a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from control.changes import document_after
from control.cookie_secret import cookie_secret
from control.metering_keep import MeteringKeep
from control.orders import Orders
from control.questions import Questions
from control.reconcile import NodeStatus, Report, reconcile
from control.store import Entry, Store, StoreUnavailableError, VersionConflictError
from core import shared_ports
from core.config import to_dict
from core.errors import ConfigErrors
from core.model import Model
from core.plan import Change, plan

log = logging.getLogger(__name__)

FOLLOW_AGAIN_S = 1.0  # after the storage could not be read
ISSUER_AWAY_S = 300.0  # after so long without a word of it, another issuer may take over
TIMES_LIMIT = 1000
NODE_LIMIT = 10_000  # nodes whose reports are held
FORGET_AFTER_S = 24 * 3600.0
MOST_REMARKS = 10


@dataclass(frozen=True)
class Current:
    """The current version, its model, and its document as the nodes get it.

    `made` says when it was made: once a backup was brought back, others get the numbers of those that were lost.
    Empty where that is not known.
    """

    version: int
    model: Model
    document: dict[str, list[dict[str, object]]]
    made: str = ""

    @cached_property
    def remarks(self) -> tuple[str, ...]:
        """The first few things that are valid and may not be what is wanted. Found once, by a look at everything."""
        found = islice(shared_ports.shared(self.model), MOST_REMARKS)
        return tuple(f"listener {name!r}: {why}; {shared_ports.REMEDY}" for name, why in found)

    def differs(self, version: int, made: str = "") -> bool:
        """Whether it is another one than a version with this number, made then."""
        return self.version != version or bool(made and self.made and made != self.made)


class ControlPlane:
    """One per process, made by `load`; it belongs to the event loop. Its owner runs `follow`."""

    def __init__(
        self, store: Store, current: Current, secret: bytes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        self.cookie_secret = secret  # what all L7 nodes seal sticky cookies with
        self.current = current
        self.metering = MeteringKeep(store)
        self.orders = Orders(store)
        self.questions = Questions()
        self._clock = clock
        self._announced = asyncio.Condition()
        self._changing = asyncio.Lock()
        self._closed = False
        self._reports: dict[tuple[str, str], tuple[float, Report]] = {}
        self._made: dict[int, float] = {}  # since when each of the last versions has been current
        self._issuer: tuple[str, float] | None = None  # who gets certificates, and when it last said so
        self.issuance: Mapping[str, object] = {}  # what it says of each certificate, by name

    @classmethod
    async def load(cls, store: Store, clock: Callable[[], float] = time.monotonic) -> ControlPlane:
        """The control plane of what is stored."""
        entry, model = await store.get()
        plane = cls(store, _current(entry, model), await cookie_secret(store), clock)
        await plane.orders.refresh()
        return plane

    async def follow(self) -> None:
        """Announce what other control nodes change, until cancelled."""
        while True:
            await self.store.changed(self.current.version)
            try:
                async with self._changing:
                    await self._refresh()
            except StoreUnavailableError as error:
                log.warning("a version that another control node made cannot be read yet: %s", error)
                await asyncio.sleep(FOLLOW_AGAIN_S)
            except ConfigErrors as error:
                log.error("another control node made a version that is not valid here: upgrade this one\n%s", error)
                await asyncio.sleep(FOLLOW_AGAIN_S)

    async def change(
        self,
        make: Callable[[Model], Model],
        *,
        author: str,
        comment: str,
        expected: int | None,
        dry_run: bool = False,
    ) -> tuple[int, tuple[Change, ...]]:
        """Replace the configuration by `make(current)`; the version that is current then, and what changed.

        `make` may raise whatever its caller understands. Raises VersionConflictError where `expected` is given and is
        not current. Where another control node's change comes in between, `make` is called again. A dry run stores
        nothing.
        """
        async with self._changing:
            while True:
                before = self.current
                if expected is not None and expected != before.version:
                    raise VersionConflictError(expected, before.version)
                model = make(before.model)
                changes = plan(before.model, model)
                if dry_run or not changes:
                    return before.version, changes
                try:
                    version = await self.store.put(model, author, comment, before.version)
                except VersionConflictError:
                    await self._refresh()
                    continue
                document = document_after(before.document, model, changes)
                await self._announce(Current(version, model, document, await self._made_of(version)))
                return version, changes

    async def newer_than(self, version: int, wait_s: float, made: str = "") -> Current | None:
        """The configuration as soon as it differs from `version`, made at `made`; None after `wait_s` or when closed.

        Raises StoreUnavailableError where the storage cannot be reached and ours is no news: another control node may
        have more.
        """
        if version > self.current.version:  # another control node was faster, or a backup has been brought back
            async with self._changing:
                await self._refresh()
        elif not self.current.differs(version, made) and (why := self.store.away()):
            raise StoreUnavailableError(why)
        try:
            async with asyncio.timeout(wait_s), self._announced:
                await self._announced.wait_for(lambda: self._closed or self.current.differs(version, made))
        except TimeoutError:
            return None
        return self.current if self.current.differs(version, made) else None

    @property
    def closed(self) -> bool:
        """Whether we have been closed: who waits in turns has to end."""
        return self._closed

    async def close(self) -> None:
        """Release those who wait for a newer version, so that the process can end."""
        self.orders.close()
        self.questions.close()
        async with self._announced:
            self._closed = True
            self._announced.notify_all()

    def report(
        self, role: str, name: str, version: int, rejected: tuple[int, str] | None, facts: dict[str, object]
    ) -> None:
        """Keep a node's report in place of its last."""
        now = self._clock()
        self._reports.pop((role, name), None)  # so that the order is that of arrival
        self._reports[role, name] = (now, Report(role, name, version, rejected, 0.0, facts))
        while len(self._reports) > NODE_LIMIT or now - next(iter(self._reports.values()))[0] > FORGET_AFTER_S:
            del self._reports[next(iter(self._reports))]

    def issuing(self, issuer: str, certificates: Mapping[str, object]) -> str:
        """Keep what an issuer of certificates says. The name of another one that is at work; empty if none is."""
        now = self._clock()
        if self._issuer is not None and self._issuer[0] != issuer and now - self._issuer[1] < ISSUER_AWAY_S:
            return self._issuer[0]
        self._issuer, self.issuance = (issuer, now), certificates
        return ""

    def status(self) -> tuple[NodeStatus, ...]:
        """Every node, listed or reporting, against the current version."""
        now = self._clock()
        reports = [
            Report(report.role, report.name, report.version, report.rejected, now - arrived, report.facts)
            for arrived, report in self._reports.values()
        ]
        ages_s = {version: now - made for version, made in self._made.items()}
        revoked = {(each.role, each.name) for each in self.orders.state.members if each.revoked}
        return reconcile(self.current.version, self.current.model, reports, ages_s, revoked)

    async def _refresh(self) -> None:
        """Announce what is stored, if it is another version than ours; to be called with `_changing` held.

        Which version that is costs little to ask, the version itself much: after a backup was brought back, each node
        comes with a later one.
        """
        if [self.current.differs(each.version, _made(each)) for each in await self.store.history(1)] == [False]:
            return
        entry, model = await self.store.get()
        if self.current.differs(entry.version, _made(entry)):
            await self._announce(_current(entry, model))

    async def _made_of(self, version: int) -> str:
        """When a version that has just been stored was made."""
        try:
            return next(
                (_made(each) for each in await self.store.history(1, version + 1) if each.version == version), ""
            )
        except StoreUnavailableError:
            return ""  # it is stored, and that alone counts

    async def _announce(self, current: Current) -> None:
        async with self._announced:
            self.current = current
            self._made[current.version] = self._clock()
            while len(self._made) > TIMES_LIMIT:
                del self._made[next(iter(self._made))]
            self._announced.notify_all()


def _current(entry: Entry, model: Model) -> Current:
    return Current(entry.version, model, to_dict(model), _made(entry))


def _made(entry: Entry) -> str:
    return f"{round(entry.created * 1e6):x}"
