"""The API on a loopback address, and both SDKs as its users have them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from alibabacloud_slb20140515 import models
from alibabacloud_slb20140515.client import Client
from alibabacloud_tea_openapi.models import Config
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import RpcRequest
from darabonba.runtime import RuntimeOptions

from control.access import Access, Limits
from control.alibaba.application import LINE_BYTES, application
from control.alibaba.call import Site
from control.cloud.access_keys import Keyring, key_id
from control.cloud.entrance import Entrance
from control.listening import Listening
from control.roles import ApiRole
from control.service import ControlPlane
from control.store_sqlite import SqliteStore
from control.token_record import Token

REGION = "cn-paifang"


@dataclass
class Cloud:
    """The running API: `access_key` makes one, `new` and `old` call an action by the newer and the older SDK."""

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

    def client(self, key: tuple[str, str] | None = None) -> Client:
        """The newer SDK's, with nothing set but who asks, where and how."""
        identity, secret = key or self.key
        host, port = self.address
        config = Config(access_key_id=identity, access_key_secret=secret)
        config.endpoint, config.protocol, config.region_id = f"{host}:{port}", "HTTP", REGION
        return Client(config)

    async def new(self, action: str, key: tuple[str, str] | None = None, **parameters: Any) -> dict[str, Any]:
        """The body of an answer, by the newer SDK."""
        client = self.client(key)
        request = getattr(models, f"{action}Request")(**parameters)
        method = getattr(client, f"{snake(action)}_with_options")
        answer = await asyncio.to_thread(method, request, RuntimeOptions(read_timeout=20_000, autoretry=False))
        assert answer.status_code == 200
        found: dict[str, Any] = answer.body.to_map()
        assert found["RequestId"]
        return found

    async def old(self, action: str, key: tuple[str, str] | None = None, **parameters: Any) -> dict[str, Any]:
        """The same by the older SDK."""
        identity, secret = key or self.key
        host, port = self.address
        client = AcsClient(identity, secret, REGION, auto_retry=False, port=port, timeout=20)
        client.add_endpoint(REGION, "Slb", host)
        request = old_request(action)
        request.set_protocol_type("http")
        for name, value in parameters.items():
            getattr(request, f"set_{name}")(value)
        answer = await asyncio.to_thread(client.do_action_with_exception, request)
        await asyncio.to_thread(client.session.close)
        found: dict[str, Any] = json.loads(answer)
        return found


def old_request(action: str) -> RpcRequest:
    """A request of the older SDK."""
    module = __import__(f"aliyunsdkslb.request.v20140515.{action}Request", fromlist=["_"])
    request: RpcRequest = getattr(module, f"{action}Request")()
    return request


def snake(action: str) -> str:
    """The method of the newer SDK that calls an action."""
    wanted = action.lower()
    return next(name for name in dir(Client) if name.replace("_", "") == wanted)


async def _serve(plane: ControlPlane) -> tuple[Cloud, Listening]:
    access, keyring = Access.of(plane.store, Limits(requests_per_s=1000)), Keyring(bytes(range(32)))
    site = Site(REGION, (ip_network("192.0.2.16/28"), ip_network("2001:db8::/120")), "slb.example")
    app = application(plane, Entrance(access, plane.store, keyring), site)
    listening = await Listening.start(app, ("127.0.0.1", 0), None, line_bytes=LINE_BYTES)
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
