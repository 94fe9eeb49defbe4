"""A whole life, by both SDKs as they are installed: what one makes, the other sees, and so does the users' API."""

from __future__ import annotations

import json

from core.model import Mode, Protocol, Scheduler
from tests.control.alibaba.conftest import Cloud


async def test_a_load_balancer_by_the_newer_sdk(cloud: Cloud) -> None:
    made = await cloud.new("CreateLoadBalancer", load_balancer_name="shop", bandwidth=20)
    balancer = made["LoadBalancerId"]
    assert made["Address"] == "192.0.2.17"
    instance = cloud.plane.current.model.instances[balancer]
    assert (instance.vips, instance.description, instance.bandwidth_out_mbit_s) == (("192.0.2.17",), "shop", 20)
    group = await cloud.new(
        "CreateVServerGroup", load_balancer_id=balancer, vserver_group_name="blue",
        backend_servers=json.dumps([{"ServerId": "10.0.0.7", "Port": "8080", "Weight": "50"}]),
    )  # fmt: skip
    await cloud.new(
        "CreateLoadBalancerHTTPListener", load_balancer_id=balancer, listener_port=80, bandwidth=-1,
        vserver_group_id=group["VServerGroupId"], health_check="on", sticky_session="off", scheduler="rr",
        health_check_uri="/ready", health_check_http_code="http_2xx,http_4xx", health_check_interval=3,
    )  # fmt: skip
    await cloud.new(
        "CreateLoadBalancerTCPListener", load_balancer_id=balancer, listener_port=5432, bandwidth=10,
        backend_server_port=5432, scheduler="wlc", established_timeout=600, connection_drain="on",
        connection_drain_timeout=30,
    )  # fmt: skip
    model = cloud.plane.current.model
    web, db = model.listeners[f"{balancer}-http-80"], model.listeners[f"{balancer}-tcp-5432"]
    assert (web.instance, db.instance, web.enabled, db.enabled) == (balancer, f"{balancer}.l4", False, False)
    assert (db.protocol, db.mode, db.established_timeout_s, db.drain_timeout_s) == (Protocol.TCP, Mode.NAT, 600, 30)
    assert model.instances[f"{balancer}.l4"].vips == ("192.0.2.17",)
    service = model.backend_services[web.backend_service]
    assert (service.scheduler, service.server_group) == (Scheduler.RR, group["VServerGroupId"])
    assert service.health_check is not None
    assert (service.health_check.uri, service.health_check.codes) == ("/ready", "2xx,4xx")
    await cloud.new("StartLoadBalancerListener", load_balancer_id=balancer, listener_port=80)
    assert cloud.plane.current.model.listeners[web.name].enabled
    told = await cloud.new("DescribeLoadBalancerHTTPListenerAttribute", load_balancer_id=balancer, listener_port=80)
    assert told["Status"] == "running"
    assert told["HealthCheckHttpCode"] == "http_2xx,http_4xx"
    assert told["VServerGroupId"] == group["VServerGroupId"]
    seen = await cloud.old("DescribeLoadBalancerAttribute", LoadBalancerId=balancer)
    assert seen["ListenerPorts"]["ListenerPort"] == [80, 5432]
    await cloud.new("DeleteLoadBalancer", load_balancer_id=balancer)
    left = cloud.plane.current.model
    assert (left.instances, left.listeners, left.backend_services, left.server_groups) == ({}, {}, {}, {})


async def test_a_load_balancer_by_the_older_sdk(cloud: Cloud) -> None:
    made = await cloud.old("CreateLoadBalancer", LoadBalancerName="dns", AddressIPVersion="ipv6")
    balancer = made["LoadBalancerId"]
    assert made["Address"] == "2001:db8::1"
    await cloud.old("AddBackendServers", LoadBalancerId=balancer, BackendServers='[{"ServerId": "2001:db8:1::7"}]')
    await cloud.old(
        "CreateLoadBalancerUDPListener", LoadBalancerId=balancer, ListenerPort=53, Bandwidth=-1, BackendServerPort=5353,
        Scheduler="sch", healthCheckReq="hello", healthCheckExp="world", healthCheckInterval=4,
    )  # fmt: skip
    await cloud.old("StartLoadBalancerListener", LoadBalancerId=balancer, ListenerPort=53)
    model = cloud.plane.current.model
    service = model.backend_services[f"{balancer}-udp-53"]
    assert service.health_check is not None
    assert (service.health_check.request, service.health_check.interval_s) == ("hello", 4)
    assert [(each.address, each.port) for each in model.server_groups[service.server_group].servers] == [
        ("2001:db8:1::7", 5353)
    ]
    await cloud.old(
        "AddBackendServers", LoadBalancerId=balancer, BackendServers='[{"ServerId": "2001:db8:1::8", "Weight": "10"}]'
    )
    await cloud.old(
        "SetBackendServers", LoadBalancerId=balancer, BackendServers='[{"ServerId": "2001:db8:1::7", "Weight": "0"}]'
    )
    found = cloud.plane.current.model.server_groups[service.server_group].servers
    assert [(each.address, each.port, each.weight) for each in found] == [
        ("2001:db8:1::7", 5353, 0), ("2001:db8:1::8", 5353, 10),
    ]  # fmt: skip
    seen = await cloud.new("DescribeLoadBalancerUDPListenerAttribute", load_balancer_id=balancer, listener_port=53)
    assert (seen["BackendServerPort"], seen["Scheduler"], seen["HealthCheckExp"]) == (5353, "sch", "world")
    await cloud.old("DeleteLoadBalancerListener", LoadBalancerId=balancer, ListenerPort=53, ListenerProtocol="udp")
    left = cloud.plane.current.model
    assert list(left.instances) == [balancer]  # the companion has gone with its last listener
    assert list(left.server_groups) == [f"{balancer}.default"]
