"""What tests make by the SDK."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.control.jdcloud.conftest import Cloud, RefusedByCloudError

_NUMBER = itertools.count()
CHECK = {"protocol": "Http", "httpPath": "/ready", "httpCode": "200-299", "intervalSeconds": 6}


def another() -> str:
    """The same to the letter in the same second would be taken for a replay."""
    return f"number {next(_NUMBER)}"


async def balancer(cloud: Cloud, **more: Any) -> str:
    made = await cloud.call("createLoadBalancer", loadBalancerName="shop", subnetId=None, **more)
    return str(made["loadBalancerId"])


async def target_group(cloud: Cloud, lb: str, *ports: int, address: str = "127.0.0.1") -> str:
    made = await cloud.call(
        "createTargetGroup", targetGroupName="blue", loadBalancerId=lb, type="ip", description=another()
    )
    group = str(made["targetGroupId"])
    specs = [{"type": "ip", "ipAddress": address, "port": each} for each in ports]
    if specs:
        await cloud.call("registerTargets", targetGroupId=group, targetSpecs=specs)
    return group


async def backend(cloud: Cloud, lb: str, group: str, protocol: str = "Http", **more: Any) -> str:
    made = await cloud.call(
        "createBackend", backendName="app", loadBalancerId=lb, protocol=protocol, port=80, targetGroupIds=[group],
        healthCheckSpec=CHECK if protocol == "Http" else {"protocol": "Tcp"},
        description=another(), **more,
    )  # fmt: skip
    return str(made["backendId"])


async def listener(cloud: Cloud, lb: str, service: str, protocol: str, port: int, **more: Any) -> str:
    made = await cloud.call(
        "createListener", listenerName="web", protocol=protocol, port=port, backendId=service, loadBalancerId=lb, **more
    )
    return str(made["listenerId"])


async def refused(call: Any) -> tuple[int, str]:
    with pytest.raises(RefusedByCloudError) as error:
        await call
    return error.value.code, str(error.value)
