"""A cloud's API on a loopback address, over a storage of its own: what the conftests of all clouds have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from control.access import Access, Limits
from control.cloud.access_keys import Keyring, key_id
from control.cloud.entrance import Entrance
from control.cloud.site import Site
from control.listening import Listening
from control.roles import ApiRole
from control.service import ControlPlane
from control.store_sqlite import SqliteStore
from control.token_record import Token

REGION = "cn-paifang"
Make = Callable[[ControlPlane, Entrance, Site], web.Application]


@dataclass
class Running:
    """The running API: `access_key` makes one; `key` is an administrator's."""

    plane: ControlPlane
    access: Access
    keyring: Keyring
    address: tuple[str, int]
    key: tuple[str, str] = ("", "")

    async def access_key(self, name: str, role: ApiRole = ApiRole.ADMIN) -> tuple[Token, tuple[str, str]]:
        token, _ = await self.access.tokens.make_own(name, f"name:{name}", role)
        identity = key_id(token)
        assert identity is not None
        return token, (identity, self.keyring.secret(token))


R = TypeVar("R", bound=Running)


@dataclass(frozen=True)
class Kind:
    """Which API, and what for: `application` is its module's."""

    application: Make
    site: Site
    limits: Mapping[str, int]

    @asynccontextmanager
    async def first(self, cls: type[R], directory: Path) -> AsyncIterator[R]:
        """The only control node, with an administrator's access key."""
        store = await SqliteStore.open(directory / "control.db")
        async with self._serving(cls, await ControlPlane.load(store)) as found:
            found.key = (await found.access_key("ann"))[1]
            yield found
        await store.close()

    @asynccontextmanager
    async def second(self, first: R) -> AsyncIterator[R]:
        """Another control node of the same storage."""
        async with self._serving(type(first), await ControlPlane.load(first.plane.store)) as found:
            found.key = first.key
            yield found

    @asynccontextmanager
    async def _serving(self, cls: type[R], plane: ControlPlane) -> AsyncIterator[R]:
        access, keyring = Access.of(plane.store, Limits(requests_per_s=1000)), Keyring(bytes(range(32)))
        app = self.application(plane, Entrance(access, plane.store, keyring), self.site)
        listening = await Listening.start(app, ("127.0.0.1", 0), None, **self.limits)
        yield cls(plane, access, keyring, listening.address)
        await listening.close()
        await access.tasks.close()
