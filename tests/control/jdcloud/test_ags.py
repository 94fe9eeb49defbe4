"""Availability groups by the SDK, their members' weights, and limits of listeners."""

from __future__ import annotations

import dataclasses

from core.model import AvailabilityGroup, Server
from core.shaping import RateLimit
from tests.control.jdcloud.conftest import REGION, Cloud
from tests.control.jdcloud.made import CHECK, backend, balancer, listener, refused, target_group


async def test_a_group(cloud: Cloud) -> None:
    made = (await cloud.call("createAg", azs=[f"{REGION}-a"], agName="blue", description="one"))["agId"]
    held = cloud.plane.current.model.availability_groups[made]
    assert (held.registered, held.members, held.description) == (True, (), "one")
    await cloud.call("updateAg", agId=made, name="green")
    seen = (await cloud.call("describeAg", agId=made))["ag"]
    assert (seen["name"], seen["description"], seen["count"], seen["azs"]) == ("green", "one", 0, [f"{REGION}-a"])
    found = await cloud.call("describeAgs", filters=[{"name": "agName", "values": ["green"]}])
    assert ([each["id"] for each in found["ags"]], found["totalCount"]) == ([made], 1)
    lb = await balancer(cloud)
    used = await cloud.call(
        "createBackend", backendName="app", loadBalancerId=lb, protocol="Http", port=80, agIds=[made],
        healthCheckSpec=CHECK,
    )  # fmt: skip
    assert await refused(cloud.call("deleteAg", agId=made)) == (400, f"Ag '{made}' is in use.")
    assert list(cloud.plane.current.model.backend_services) == [used["backendId"]]
    spare = (await cloud.call("createAg", azs=[f"{REGION}-a"], agName="spare"))["agId"]
    await cloud.call("deleteAg", agId=spare)
    assert list(cloud.plane.current.model.availability_groups) == [made]


async def test_what_a_group_has_not(cloud: Cloud) -> None:
    assert (await refused(cloud.call("createAg", azs=["elsewhere"], agName="a")))[0] == 404
    told = await refused(cloud.call("createAg", azs=[f"{REGION}-a"], agName="a", instanceTemplateId="it-1"))
    assert "no templates here" in told[1]
    told = await refused(cloud.call("enableAutoScaling", agId="ag-1", autoscalingSpec={}))
    assert told == (400, "enableAutoScaling is not supported here: there is no auto scaling here.")
    assert (await refused(cloud.call("describeAg", agId="ag-1"))) == (404, "Ag 'ag-1' not found.")


async def test_weights_of_members(cloud: Cloud) -> None:
    made = (await cloud.call("createAg", azs=[f"{REGION}-a"], agName="blue"))["agId"]
    lb = await balancer(cloud)
    service = (await cloud.call(
        "createBackend", backendName="app", loadBalancerId=lb, protocol="Http", port=80, agIds=[made],
        healthCheckSpec=CHECK,
    ))["backendId"]  # fmt: skip

    def with_members(group: AvailabilityGroup) -> AvailabilityGroup:
        return dataclasses.replace(group, members=(Server("10.0.0.7", 80, zone="a"), Server("10.0.0.8", 80, zone="a")))

    await cloud.plane.change(
        lambda model: dataclasses.replace(
            model, availability_groups={made: with_members(model.availability_groups[made])}
        ),
        author="ann", comment="", expected=None,
    )  # fmt: skip
    first, _ = (await cloud.call("describeAgTargets", backendId=service))["agTargets"]
    change = {"targetId": first["targetId"], "weight": 5}
    await cloud.call("updateAgTargets", backendId=service, targetUpdateSpecs=[change])
    members = cloud.plane.current.model.availability_groups[made].members
    assert [each.weight for each in members] == [5, 100]
    change = {"targetId": "target-x", "weight": 5}
    gone = cloud.call("updateAgTargets", backendId=service, targetUpdateSpecs=[change])
    assert (await refused(gone))[0] == 404
    other = await backend(cloud, lb, await target_group(cloud, lb, 8080))
    assert (
        "has no availability group"
        in (await refused(cloud.call("updateAgTargets", backendId=other, targetUpdateSpecs=[change])))[1]
    )


async def test_requests_a_second(cloud: Cloud) -> None:
    lb = await balancer(cloud)
    service = await backend(cloud, lb, await target_group(cloud, lb, 8080))
    web = await listener(cloud, lb, service, "Http", 80, limitation={"qps": 500, "activeConnections": 1000})
    held = cloud.plane.current.model.listeners[web]
    assert (held.rate_limits, held.max_connections) == ((RateLimit(500, 500),), 1000)
    seen = (await cloud.call("describeListener", listenerId=web))["listener"]
    assert seen["limitation"] == {"qps": 500, "activeConnections": 1000}
    await cloud.call("updateListener", listenerId=web, limitation={"qps": -1})
    held = cloud.plane.current.model.listeners[web]
    assert (held.rate_limits, held.max_connections) == ((), 1000)
    nlb = await balancer(cloud, type="nlb")
    service = await backend(cloud, nlb, await target_group(cloud, nlb, 53, address="10.0.0.7"), "Udp")
    told = await refused(listener(cloud, nlb, service, "Udp", 53, limitation={"qps": 500}))
    assert "limitation.qps" in told[1]
