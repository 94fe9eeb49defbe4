"""The API on a loopback address, and the SDK as its users have it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from importlib import import_module
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from jdcloud_sdk.core.config import Config
from jdcloud_sdk.core.credential import Credential
from jdcloud_sdk.services.ag.client.AgClient import AgClient
from jdcloud_sdk.services.lb.client.LbClient import LbClient
from jdcloud_sdk.services.ssl.client.SslClient import SslClient

from control.cloud.site import Site
from control.jdcloud.actions import ACTIONS
from control.jdcloud.application import application
from tests.control.cloud.running import REGION, Kind, Running


class RefusedByCloudError(Exception):
    """What the SDK says of a refusal."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status = code, status


def request_of(action: str, /, **parameters: Any) -> Any:
    """A request of the SDK: `regionId` is the region, the other fields are those given. Certificates are of none."""
    name, service = f"{action[0].upper()}{action[1:]}", ACTIONS[action].service
    module = import_module(f"jdcloud_sdk.services.{service}.apis.{name}Request")
    region = {} if service == "ssl" else {"regionId": REGION}
    return getattr(module, f"{name}Request")({**region, **parameters})


class Cloud(Running):
    """The running API: `call` has the SDK call an action."""

    async def call(self, action: str, key: tuple[str, str] | None = None, /, **parameters: Any) -> dict[str, Any]:
        """The result of an action, by the SDK."""
        identity, secret = key or self.key
        config = Config(f"{self.address[0]}:{self.address[1]}", "http", 20)
        client = CLIENTS[ACTIONS[action].service](Credential(identity, secret), config, Silent())
        answer = await asyncio.to_thread(client.send, request_of(action, **parameters))
        assert answer.request_id
        if answer.error is not None:
            raise RefusedByCloudError(answer.error.code, answer.error.status, answer.error.message)
        return answer.result or {}


class Silent:
    """The SDK's logger prints what it signs."""

    def log(self, *_: object) -> None:
        logging.getLogger("jdcloud_sdk").debug("said something")


CLIENTS = {"lb": LbClient, "ag": AgClient, "ssl": SslClient}
KIND = Kind(application, Site(REGION, (ip_network("192.0.2.16/28"),)), {})


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with KIND.first(Cloud, tmp_path) as found:
        yield found


@pytest.fixture
async def second(cloud: Cloud) -> AsyncIterator[Cloud]:
    """Another control node of the same storage."""
    async with KIND.second(cloud) as found:
        yield found
