"""The API on a loopback address, and both SDKs as its users have them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
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

from control.alibaba.application import LINE_BYTES, application
from control.cloud.site import Site
from tests.control.cloud.running import REGION, Kind, Running


class Cloud(Running):
    """The running API: `new` and `old` call an action by the newer and the older SDK."""

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


KIND = Kind(
    application, Site(REGION, (ip_network("192.0.2.16/28"), ip_network("2001:db8::/120")), "slb.example"),
    {"line_bytes": LINE_BYTES},
)  # fmt: skip


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with KIND.first(Cloud, tmp_path) as found:
        yield found


@pytest.fixture
async def second(cloud: Cloud) -> AsyncIterator[Cloud]:
    """Another control node of the same storage."""
    async with KIND.second(cloud) as found:
        yield found
