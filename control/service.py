"""The control plane between its storage and its two APIs: the current configuration, and what the nodes say.

Every change is made from a version, validated as a whole, stored as a whole and then announced to those who wait. The
current version is held in memory, so that a thousand nodes that poll never touch the storage. Reports are held in
memory only: after a restart they are complete again within a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from control.reconcile import NodeStatus, Report, reconcile
from control.store import Store, VersionConflictError
from core.config import to_dict
from core.model import Model
from core.plan import Change, plan

ISSUER_AWAY_S = 300.0  # after so long without a word of it, another issuer may take over
NODE_LIMIT = 10_000  # nodes whose reports are held
FORGET_AFTER_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Current:
    """The current version, its model, and its document as the nodes get it."""

    version: int
    model: Model
    document: dict[str, list[dict[str, object]]]


class ControlPlane:
    """One per process; its methods belong to the event loop's thread. Storage runs in threads beside it."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        entry, model = store.get()
        self.store = store
        self.cookie_secret = store.cookie_secret()  # what all L7 nodes seal sticky cookies with
        self.current = Current(entry.version, model, to_dict(model))
        self._clock = clock
        self._announced = asyncio.Condition()
        self._changing = asyncio.Lock()
        self._closed = False
        self._reports: dict[tuple[str, str], tuple[float, Report]] = {}
        self._issuer: tuple[str, float] | None = None  # who gets certificates, and when it last said so
        self.issuance: Mapping[str, object] = {}  # what it says of each certificate, by name

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
        not current. A dry run stores nothing.
        """
        async with self._changing:
            before = self.current
            if expected is not None and expected != before.version:
                raise VersionConflictError(expected, before.version)
            model = make(before.model)
            changes = plan(before.model, model)
            if dry_run or not changes:
                return before.version, changes
            version = await asyncio.to_thread(self.store.put, model, author, comment, before.version)
            await self._announce(Current(version, model, to_dict(model)))
            return version, changes

    async def newer_than(self, version: int, wait_s: float) -> Current | None:
        """The configuration as soon as it is another than `version`; None after `wait_s` or when we are closed."""
        try:
            async with asyncio.timeout(wait_s), self._announced:
                await self._announced.wait_for(lambda: self._closed or self.current.version != version)
        except TimeoutError:
            return None
        return None if self.current.version == version else self.current

    async def close(self) -> None:
        """Release those who wait for a newer version, so that the process can end."""
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
        return reconcile(self.current.version, self.current.model, reports)

    async def _announce(self, current: Current) -> None:
        async with self._announced:
            self.current = current
            self._announced.notify_all()
