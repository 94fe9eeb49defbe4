"""What the nodes are told besides the configuration: who is refused, and what drains. Held in memory, from the records.

What this process changes is told at once (`refresh`), what another control node changes within LOOK_S (`follow`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from control import drains, membership
from control.drains import Drain
from control.membership import Member
from control.registered import Registration, by_group, registrations
from control.store import Store, StoreUnavailableError

log = logging.getLogger(__name__)

LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class State:
    """What the records say. `invited_until`: when the last invitation expires, in Unix time."""

    members: tuple[Member, ...] = ()
    drains: tuple[Drain, ...] = ()
    invited_until: float = 0.0
    least: dict[str, int] = field(default_factory=dict)
    registered: tuple[Registration, ...] = ()  # members of availability groups


class Orders:
    """One per process; belongs to the event loop. `changed` is called after each change."""

    def __init__(self, store: Store) -> None:
        self.state = State()
        self.changed: Callable[[], None] = lambda: None
        self._store = store
        self._nonce = secrets.token_hex(4)
        self._count = 0
        self._next = asyncio.Event()
        self._closed = False

    @property
    def revision(self) -> str:
        """Another one after each change, and of no other process."""
        return f"{self._nonce}.{self._count}"

    async def refresh(self) -> None:
        """Read what is stored, and tell it if it has changed. Raises StoreUnavailableError."""
        members = tuple(await membership.members(self._store))
        draining = await drains.drains(self._store)
        until = max((each.expires for _, each in await membership.invitations(self._store)), default=0.0)
        registered = await registrations(self._store, time.time())
        state = State(members, draining, until, {each.key: each.least for each in members if each.least}, registered)
        told = (self.state.least, self.state.drains, by_group(self.state.registered))
        self.state = state
        if (state.least, state.drains, by_group(registered)) != told:
            self._count += 1
            self._wake()
            self.changed()

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.refresh()
            except StoreUnavailableError as error:
                log.debug("what the nodes are told cannot be read: %s", error)

    async def other_than(self, revision: str, wait_s: float) -> bool:
        """Whether there is another revision, at once or within `wait_s`; no longer than until `close`."""
        try:
            async with asyncio.timeout(wait_s):
                while self.revision == revision and not self._closed:
                    await self._next.wait()
        except TimeoutError:
            pass
        return self.revision != revision

    def close(self) -> None:
        """Release those who wait."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._next.set()
        self._next = asyncio.Event()

    def why_not(self, role: str, name: str, generation: int) -> str:
        """Why a certificate is refused; empty: it is not."""
        if generation < self.state.least.get(f"{role}/{name}", 0):
            return f"the identity of {role} {name} has been revoked, or {name} has joined anew since"
        return ""

    def for_node(self, role: str, name: str) -> dict[str, object]:
        """As `control.node.membership.Orders` reads it."""
        state = self.state
        mine = [each for each in state.drains if (each.role, each.name) == (role, name)]
        return {
            "revision": self.revision,
            "least": state.least,
            "drain": mine[0].since if mine else 0.0,
            "members": by_group(state.registered),
        }
