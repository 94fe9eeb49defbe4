"""The API on a loopback address, and the SDK as its users have it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import import_module
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from jdcloud_sdk.core.config import Config
from jdcloud_sdk.core.credential import Credential
from jdcloud_sdk.services.lb.client.LbClient import LbClient

from control.access import Access, Limits
from control.cloud.access_keys import Keyring, key_id
from control.cloud.entrance import Entrance
from control.cloud.site import Site
from control.jdcloud.application import application
from control.listening import Listening
from control.roles import ApiRole
from control.service import ControlPlane
from control.store_sqlite import SqliteStore
from control.token_record import Token

REGION = "cn-paifang"


class RefusedByCloudError(Exception):
    """What the SDK says of a refusal."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status = code, status


def request_of(action: str, /, **parameters: Any) -> Any:
    """A request of the SDK: `regionId` is the region, the other fields are those given."""
    module = import_module(f"jdcloud_sdk.services.lb.apis.{action[0].upper()}{action[1:]}Request")
    return getattr(module, f"{action[0].upper()}{action[1:]}Request")({"regionId": REGION, **parameters})


@dataclass
class Cloud:
    """The running API: `access_key` makes one, `call` has the SDK call an action."""

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

    async def call(self, action: str, key: tuple[str, str] | None = None, /, **parameters: Any) -> dict[str, Any]:
        """The result of an action, by the SDK."""
        identity, secret = key or self.key
        config = Config(f"{self.address[0]}:{self.address[1]}", "http", 20)
        client = LbClient(Credential(identity, secret), config, Silent())
        answer = await asyncio.to_thread(client.send, request_of(action, **parameters))
        assert answer.request_id
        if answer.error is not None:
            raise RefusedByCloudError(answer.error.code, answer.error.status, answer.error.message)
        return answer.result or {}


class Silent:
    """The SDK's logger prints what it signs."""

    def log(self, *_: object) -> None:
        logging.getLogger("jdcloud_sdk").debug("said something")


async def _serve(plane: ControlPlane) -> tuple[Cloud, Listening]:
    access, keyring = Access.of(plane.store, Limits(requests_per_s=1000)), Keyring(bytes(range(32)))
    site = Site(REGION, (ip_network("192.0.2.16/28"),))
    app = application(plane, Entrance(access, plane.store, keyring), site)
    listening = await Listening.start(app, ("127.0.0.1", 0), None)
    return Cloud(plane, access, keyring, listening.address), listening


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    store = await SqliteStore.open(tmp_path / "control.db")
    found, listening = await _serve(await ControlPlane.load(store))
    found.key = (await found.access_key("ann"))[1]
    yield found
    await listening.close()
    await found.access.tasks.close()
    await store.close()


@pytest.fixture
async def second(cloud: Cloud) -> AsyncIterator[Cloud]:
    """Another control node of the same storage."""
    found, listening = await _serve(await ControlPlane.load(cloud.plane.store))
    found.key = cloud.key
    yield found
    await listening.close()
    await found.access.tasks.close()
