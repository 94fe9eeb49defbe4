"""A whole life by the SDK as it is installed, seen by the configuration; and traffic to what it made."""

from __future__ import annotations

import dataclasses

import pytest

from core.model import CheckType, InstanceType, Model, Protocol, ProxyHeader, Scheduler, Server
from tests.control.jdcloud.conftest import Cloud
from tests.control.jdcloud.made import backend, balancer, listener, refused, target_group
from tests.proxy.support import Backend, free_port, proxy


async def test_a_load_balancer_of_layer_7(cloud: Cloud) -> None:
    tags = [{"key": "team", "value": "shop"}]
    lb = await balancer(cloud, description="the shop", userTags=tags)
    instance = cloud.plane.current.model.instances[lb]
    assert (instance.type, instance.vips, instance.description) == (InstanceType.ALB, ("192.0.2.17",), "the shop")
    group = await target_group(cloud, lb, 8080)
    service = await backend(
        cloud, lb, group, algorithm="LeastConn", sessionStickiness=True, httpCookieExpireSeconds=600
    )
    made = await listener(cloud, lb, service, "Http", 80)
    model = cloud.plane.current.model
    assert model.server_groups[group].servers == (Server("127.0.0.1", 8080, 10),)
    kept = model.backend_services[service]
    assert kept.health_check is not None
    assert kept.sticky_session is not None
    assert (kept.scheduler, kept.server_group, kept.sticky_session.cookie_timeout_s) == (Scheduler.WLC, group, 600)
    assert (kept.health_check.type, kept.health_check.uri, kept.health_check.codes) == (
        CheckType.HTTP, "/ready", "200-299",
    )  # fmt: skip
    web = model.listeners[made]
    assert (web.protocol, web.port, web.backend_service, web.enabled) == (Protocol.HTTP, 80, service, True)
    seen = (await cloud.call("describeLoadBalancer", loadBalancerId=lb))["loadBalancer"]
    assert (seen["loadBalancerName"], seen["tags"], seen["state"]["code"]) == ("shop", tags, "ACTIVE")
    assert seen["privateIp"]["privateIpAddress"] == "192.0.2.17"
    seen = (await cloud.call("describeBackend", backendId=service))["backend"]
    assert (seen["algorithm"], seen["protocol"], seen["port"], seen["targetGroupIds"]) == (
        "LeastConn", "Http", 80, [group],
    )  # fmt: skip
    assert (seen["healthCheck"]["httpPath"], seen["sessionStickiness"]) == ("/ready", True)
    seen = (await cloud.call("describeListener", listenerId=made))["listener"]
    assert (seen["listenerName"], seen["protocol"], seen["status"], seen["backendId"]) == ("web", "Http", "On", service)
    # Stopped and started, those run again that ran.
    await cloud.call("updateLoadBalancer", loadBalancerId=lb, action="Stop", loadBalancerName="store")
    assert not cloud.plane.current.model.listeners[made].enabled
    seen = (await cloud.call("describeLoadBalancer", loadBalancerId=lb))["loadBalancer"]
    assert (seen["loadBalancerName"], seen["state"]["code"]) == ("store", "DOWN")
    await cloud.call("updateLoadBalancer", loadBalancerId=lb, action="Start")
    assert cloud.plane.current.model.listeners[made].enabled
    await cloud.call("updateListener", listenerId=made, status="Off", limitation={"activeConnections": 500})
    off = cloud.plane.current.model.listeners[made]
    assert (off.enabled, off.max_connections) == (False, 500)
    await cloud.call("updateBackend", backendId=service, algorithm="RoundRobin", closeHealthCheck=True)
    kept = cloud.plane.current.model.backend_services[service]
    assert (kept.scheduler, kept.health_check) == (Scheduler.WRR, None)
    assert await refused(cloud.call("deleteTargetGroup", targetGroupId=group)) == (
        400, f"TargetGroup '{group}' is in use.",
    )  # fmt: skip
    assert (await refused(cloud.call("deleteLoadBalancer", loadBalancerId=lb)))[0] == 400
    await cloud.call("deleteListener", listenerId=made)
    # The same to the letter in the same second would be taken for a replay.
    await cloud.call("deleteLoadBalancer", loadBalancerId=lb, deleteElasticIp=False)
    left = cloud.plane.current.model
    assert (left.instances, left.listeners, left.backend_services, left.server_groups) == ({}, {}, {}, {})


async def test_the_proxy_protocol_is_shown_and_turned_off(cloud: Cloud) -> None:
    """It is turned on by the REST API alone: here it would be for Tcp and Udp of an alb."""
    lb = await balancer(cloud)
    group = await target_group(cloud, lb, 8080)
    status, why = await refused(backend(cloud, lb, group, proxyProtocol=True))
    assert (status, "it is for Tcp and Udp of an alb" in why) == (400, True)
    name = await backend(cloud, lb, group, proxyProtocol=False)

    def introduced(before: Model) -> Model:
        item = dataclasses.replace(before.backend_services[name], proxy_protocol=ProxyHeader.V2)
        return dataclasses.replace(before, backend_services={**before.backend_services, name: item})

    async def shown() -> object:
        return (await cloud.call("describeBackend", backendId=name))["backend"]["proxyProtocol"]

    assert await shown() is False
    await cloud.plane.change(introduced, author="ann", comment="", expected=None)
    assert await shown() is True
    await cloud.call("updateBackend", backendId=name, description="one")
    assert cloud.plane.current.model.backend_services[name].proxy_protocol is ProxyHeader.V2
    await cloud.call("updateBackend", backendId=name, proxyProtocol=False)
    assert cloud.plane.current.model.backend_services[name].proxy_protocol is ProxyHeader.OFF


@pytest.mark.parametrize(("protocol", "kind"), [("Tcp", "nlb"), ("Udp", "nlb"), ("Tcp", "dnlb")])
async def test_a_load_balancer_of_layer_4(cloud: Cloud, protocol: str, kind: str) -> None:
    lb = await balancer(cloud, type=kind)
    group = await target_group(cloud, lb, 5432, address="10.0.0.7")
    service = await backend(cloud, lb, group, protocol)
    made = await listener(cloud, lb, service, protocol, 5432, connectionIdleTimeSeconds=120)
    model = cloud.plane.current.model
    item = model.listeners[made]
    assert item.protocol.value == protocol.lower()
    assert (item.established_timeout_s if protocol == "Tcp" else item.udp_idle_timeout_s) == 120
    assert model.backend_services[service].scheduler is (Scheduler.SH if kind == "dnlb" else Scheduler.WRR)
    code, message = await refused(listener(cloud, lb, service, protocol, 5432))
    assert (code, message) == (400, "Port 5432 of the LoadBalancer has a listener.")
    code, message = await refused(listener(cloud, lb, service, "Http", 80))
    assert (code, message) == (400, "A listener of Http is for a LoadBalancer of type alb.")


async def test_targets(cloud: Cloud) -> None:
    lb = await balancer(cloud)
    group = await target_group(cloud, lb, 81, 82)
    again = cloud.call(
        "registerTargets", targetGroupId=group, targetSpecs=[{"type": "ip", "ipAddress": "127.0.0.1", "port": 82}]
    )
    assert await refused(again) == (400, "Target is already register to same TargetGroup.")
    rows = (await cloud.call("describeTargets", targetGroupId=group))["targets"]
    assert [(each["ipAddress"], each["port"], each["weight"]) for each in rows] == [
        ("127.0.0.1", 81, 10), ("127.0.0.1", 82, 10),
    ]  # fmt: skip
    first, second = (each["targetId"] for each in rows)
    await cloud.call("updateTargets", targetGroupId=group, targetUpdateSpecs=[{"targetId": first, "weight": 0}])
    await cloud.call("deRegisterTargets", targetGroupId=group, targetIds=[second])
    assert cloud.plane.current.model.server_groups[group].servers == (Server("127.0.0.1", 81, 0),)
    gone = cloud.call("deRegisterTargets", targetGroupId=group, targetIds=[second, first])
    assert await refused(gone) == (404, f"Target '{second}' not found.")
    no_vm = cloud.call("registerTargets", targetGroupId=group, targetSpecs=[{"instanceId": "i-1", "port": 80}])
    assert "inventory" in (await refused(no_vm))[1]
    service = await backend(cloud, lb, group)
    asked = {"backendId": service}

    async def health() -> list[str]:
        return [each["status"] for each in (await cloud.call("describeTargetHealth", **asked))["targetHealths"]]

    def report(node: str, healthy: bool) -> None:
        rows = [{"service": service, "server": "127.0.0.1:81", "healthy": healthy, "why": ""}]
        cloud.plane.report("l7", node, cloud.plane.current.version, None, {"health": rows})

    assert await health() == ["unhealthy"]
    report("l7-1", True)
    assert await health() == ["healthy"]
    report("l7-2", False)
    assert await health() == ["unhealthy"]


async def test_lists_have_pages_and_filters(cloud: Cloud) -> None:
    made = [await balancer(cloud, type="alb", privateIpAddress=f"127.0.1.{each}") for each in range(12)]
    await balancer(cloud, type="nlb", privateIpAddress="127.0.2.1")
    answer = await cloud.call("describeLoadBalancers", pageNumber=2, pageSize=10)
    assert ([each["loadBalancerId"] for each in answer["loadBalancers"]], answer["totalCount"]) == (made[10:], 12)
    beyond = await cloud.call("describeLoadBalancers", pageNumber=9, pageSize=10)
    assert beyond == answer
    filters = [{"name": "loadBalancerType", "values": ["nlb"]}]
    assert (await cloud.call("describeLoadBalancers", filters=filters))["totalCount"] == 1
    filters = [{"name": "loadBalancerIds", "values": made[:2]}]
    assert (await cloud.call("describeLoadBalancers", filters=filters))["totalCount"] == 2
    code, message = await refused(cloud.call("describeLoadBalancers", filters=[{"name": "colour", "values": ["red"]}]))
    assert code == 400
    assert "loadBalancerNames" in message


async def test_what_is_not_there_is_said(cloud: Cloud) -> None:
    code, message = await refused(cloud.call("createSecurityPolicy", securityPolicyName="p", protocols=[], ciphers=[]))
    assert (code, "not supported here" in message) == (400, True)
    code, message = await refused(cloud.call("describeLoadBalancer", loadBalancerId="lb-x"))
    assert (code, message) == (404, "LoadBalancer 'lb-x' not found.")
    assert await refused(cloud.call("createLoadBalancer", subnetId=None)) == (
        400, "Request field loadBalancerName is missing.",
    )  # fmt: skip
    assert (await refused(balancer(cloud, elasticIp={"bandwidthMbps": 1})))[1].startswith(
        "Request field elasticIp is not supported here"
    )
    assert (await refused(balancer(cloud, azs=["elsewhere"])))[0] == 404
    assert cloud.plane.current.model.instances == {}


async def test_traffic_goes_to_what_it_made(cloud: Cloud) -> None:
    async with Backend().running() as server:
        port = free_port()
        lb = await balancer(cloud, privateIpAddress="127.0.0.1")
        group = await target_group(cloud, lb, server.port)
        service = await backend(cloud, lb, group)
        await cloud.call("updateBackend", backendId=service, closeHealthCheck=True)
        await listener(cloud, lb, service, "Http", port)
        async with proxy(cloud.plane.current.model) as node:
            assert await node.get("/made") == (200, b"ok")
        assert [head.split(b" ")[1] for head in server.heads] == [b"/made"]
