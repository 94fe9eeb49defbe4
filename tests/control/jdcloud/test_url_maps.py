"""URL maps by the SDK: rules before and after a listener follows them, in the configuration and with real requests."""

from __future__ import annotations

from typing import Any

import pytest

from core.model import FixedReply, HeaderAction, HeaderChange, Model, Redirect, Rewrite, Rule
from tests.control.jdcloud.conftest import Cloud
from tests.control.jdcloud.made import backend, balancer, listener, refused, target_group
from tests.proxy.support import Backend, free_port, proxy


async def url_map(cloud: Cloud, lb: str, name: str = "routes", *rules: dict[str, Any]) -> str:
    identity = str((await cloud.call("createUrlMap", urlMapName=name, loadBalancerId=lb))["urlMapId"])
    if rules:
        await cloud.call("addRules", urlMapId=identity, ruleSpecs=list(rules))
    return identity


def of(model: Model, name: str) -> list[Rule]:
    return [each for each in model.rules.values() if each.listener == name]


async def shown(cloud: Cloud, identity: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await cloud.call("describeUrlMap", urlMapId=identity))["urlMap"]["rules"]
    return found


async def test_rules_of_a_map_are_those_of_all_that_follow_it(cloud: Cloud) -> None:
    lb = await balancer(cloud)
    group = await target_group(cloud, lb, 8080)
    service, other = await backend(cloud, lb, group), await backend(cloud, lb, group, algorithm="IpHash")
    routes = await url_map(cloud, lb, "routes", {"path": "/api*", "backendId": other})
    web = await listener(cloud, lb, service, "Http", 80, urlMapId=routes)
    more = await listener(cloud, lb, service, "Http", 81)
    await cloud.call("updateListener", listenerId=more, urlMapId=routes)
    await cloud.call(
        "addRules", urlMapId=routes,
        ruleSpecs=[{"host": "*.Shop.example", "action": "Redirect",
                    "redirectActionSpec": {"statusCode": "http_302", "protocol": "Https", "port": 443}}],
    )  # fmt: skip
    for name in (web, more):
        begins, elsewhere = of(cloud.plane.current.model, name)
        assert (begins.url, begins.pattern, begins.backend_service) == ("/", "/api**", other)
        assert (elsewhere.domain, elsewhere.redirect) == ("*.shop.example", Redirect(302, "https", port=443))
    first, second = await shown(cloud, routes)
    assert (first["path"], first["backendId"], second["host"]) == ("/api*", other, "*.shop.example")
    assert second["redirectAction"]["statusCode"] == "http_302"
    change = {"ruleId": first["ruleId"], "path": "/v2", "backendId": service}
    await cloud.call("updateRules", urlMapId=routes, ruleUpdateSpecs=[change])
    await cloud.call("deleteRules", urlMapId=routes, ruleIds=[second["ruleId"]])
    for name in (web, more):
        (left,) = of(cloud.plane.current.model, name)
        assert (left.path, left.pattern, left.backend_service) == ("/v2", "", service)
    seen = (await cloud.call("describeUrlMaps"))["urlMaps"]
    assert [(each["urlMapId"], each["urlMapName"], each["listenerIds"]) for each in seen] == [
        (routes, "routes", [web, more])
    ]
    assert await refused(cloud.call("deleteUrlMap", urlMapId=routes)) == (400, f"UrlMap '{routes}' is in use.")


async def test_another_map_takes_the_place_of_one(cloud: Cloud) -> None:
    lb = await balancer(cloud)
    service = await backend(cloud, lb, await target_group(cloud, lb, 8080))
    first = await url_map(cloud, lb, "first", {"path": "/a", "backendId": service})
    second = await url_map(cloud, lb, "second", {"path": "/b", "backendId": service})
    web = await listener(cloud, lb, service, "Http", 80, urlMapId=first)
    await cloud.call("updateListener", listenerId=web, urlMapId=second)
    assert [each.path for each in of(cloud.plane.current.model, web)] == ["/b"]
    filters = [{"name": "urlMapIds", "values": [second]}]
    assert [each["listenerId"] for each in (await cloud.call("describeListeners", filters=filters))["listeners"]] == [
        web
    ]
    await cloud.call("deleteUrlMap", urlMapId=first)
    await cloud.call("deleteListener", listenerId=web)
    await cloud.call("deleteLoadBalancer", loadBalancerId=lb)
    left = cloud.plane.current.model
    assert (left.instances, left.listeners, left.rules, left.backend_services) == ({}, {}, {}, {})


async def test_a_map_is_no_listener_and_in_nobodys_way(cloud: Cloud) -> None:
    """It has the highest free port, and leaves it to who wants it."""
    lb = await balancer(cloud)
    service = await backend(cloud, lb, await target_group(cloud, lb, 8080))
    routes = await url_map(cloud, lb)
    held = cloud.plane.current.model.listeners[routes]
    assert (held.port, held.enabled, of(cloud.plane.current.model, routes)[0].fixed_reply) == (
        65535, False, FixedReply(404),
    )  # fmt: skip
    assert (await cloud.call("describeListeners"))["listeners"] == []
    assert (await refused(cloud.call("describeListener", listenerId=routes)))[0] == 404
    await listener(cloud, lb, service, "Http", 65535)
    assert cloud.plane.current.model.listeners[routes].port == 65534
    await cloud.call("updateUrlMap", urlMapId=routes, urlMapName="ways", description="more")
    seen = (await cloud.call("describeUrlMap", urlMapId=routes))["urlMap"]
    assert (seen["urlMapName"], seen["description"], seen["rules"]) == ("ways", "more", [])
    assert await refused(url_map(cloud, lb, "ways")) == (400, "The LoadBalancer has a UrlMap 'ways'.")


HEADERS = [
    {"extendActionType": 3, "insertHeaderSpec": {"valueType": 2, "key": "X-Way", "value": "api"}},
    {"extendActionType": 4, "deleteHeaderSpec": {"key": "X-Debug"}},
]
CHANGES = (HeaderChange("X-Way", HeaderAction.SET, "api"), HeaderChange("X-Debug", HeaderAction.REMOVE))


async def test_what_a_rule_does_besides(cloud: Cloud) -> None:
    lb = await balancer(cloud)
    service = await backend(cloud, lb, await target_group(cloud, lb, 8080))
    rewrite = {"extendActionType": 1, "rewriteSpec": {"path": "/v1/*", "host": "in.example"}}
    rule = {"path": "/api/*", "backendId": service, "preActions": [rewrite, *HEADERS], "postActions": HEADERS}
    routes = await url_map(cloud, lb, "routes", rule)
    kept = next(each for each in of(cloud.plane.current.model, routes) if each.backend_service)
    assert (kept.url, kept.pattern, kept.rewrite) == ("/api", "/api/**", Rewrite("in.example", "/v1/${1}"))
    assert kept.request_headers == kept.response_headers == CHANGES
    (seen,) = await shown(cloud, routes)
    assert [each["extendActionType"] for each in seen["preActions"]] == [1, 3, 4]
    assert seen["preActions"][0]["rewrite"]["path"] == "/v1/*"
    assert seen["postActions"][0]["insertHeader"] == {"valueType": 2, "key": "X-Way", "value": "api"}
    to = {"statusCode": "http_301", "path": "/new"}
    change = {"ruleId": seen["ruleId"], "action": "Redirect", "redirectActionSpec": to}
    await cloud.call("updateRules", urlMapId=routes, ruleUpdateSpecs=[change])
    (seen,) = await shown(cloud, routes)
    assert (seen["action"], seen["preActions"], seen["postActions"]) == ("Redirect", [], [])


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"backendId": "B"}, "ruleSpecs.path is missing"),
        ({"path": "/a"}, "backendId is missing"),
        ({"path": "/a", "backendId": "backend-x"}, "Backend 'backend-x' not found"),
        ({"path": "/*/a", "backendId": "B"}, "a star at its end"),
        ({"path": "a", "backendId": "B"}, "starts with /"),
        ({"host": "shop.*", "backendId": "B"}, "before the first dot"),
        ({"path": "/a", "action": "Redirect"}, "redirectActionSpec is missing"),
        ({"path": "/a", "action": "Redirect", "redirectActionSpec": {"statusCode": "http_301"}}, "is missing"),
        ({"path": "/a", "action": "Redirect", "redirectActionSpec": {"statusCode": "http_404"}}, "http_308 is"),
        ({"path": "/a", "backendId": "B", "redirectActionSpec": {"statusCode": "http_301"}}, "for action Redirect"),
        (
            {"path": "/a", "backendId": "B", "preActions": [{"extendActionType": 1, "rewriteSpec": {"path": "/*"}}]},
            "what the star of the rule",
        ),
        ({"path": "/a", "backendId": "B", "preActions": [{"extendActionType": 2}]}, "1, 3 and 4 are"),
        ({"path": "/a", "backendId": "B", "postActions": [{"extendActionType": 1}]}, "3 and 4 are"),
        ({"path": "/a", "backendId": "B", "postActions": [{"extendActionType": 3}]}, "insertHeaderSpec is missing"),
        (
            {"path": "/a", "backendId": "B", "preActions": [
                {"extendActionType": 3, "insertHeaderSpec": {"valueType": 1, "key": "X", "value": "X-Forwarded-For"}}]},
            "x_forwarded_for",
        ),
        (
            {"path": "/a", "backendId": "B", "preActions": [
                {"extendActionType": 4, "deleteHeaderSpec": {"key": "Host"}}]},
            "configuration would not be valid",
        ),
    ],
    ids=["nothing", "nowhere", "unknown", "star", "root", "domain", "redirect", "same", "status", "both", "rewrite",
         "mirror", "after", "lacks", "system", "ours"],
)  # fmt: skip
async def test_rules_that_are_none(cloud: Cloud, rule: dict[str, Any], told: str) -> None:
    lb = await balancer(cloud)
    service = await backend(cloud, lb, await target_group(cloud, lb, 8080))
    routes = await url_map(cloud, lb)
    given = {**rule, **({"backendId": service} if rule.get("backendId") == "B" else {})}
    _, message = await refused(cloud.call("addRules", urlMapId=routes, ruleSpecs=[given]))
    assert told in message
    assert await shown(cloud, routes) == []


async def test_a_map_is_for_its_load_balancer_and_layer_7(cloud: Cloud) -> None:
    lb, other = await balancer(cloud), await balancer(cloud, type="nlb")
    service = await backend(cloud, other, await target_group(cloud, other, 53, address="10.0.0.7"), "Udp")
    routes = await url_map(cloud, lb)
    assert (await refused(listener(cloud, other, service, "Udp", 53, urlMapId=routes)))[1].startswith("A UrlMap is for")
    third = await balancer(cloud, description="another")
    service = await backend(cloud, third, await target_group(cloud, third, 8080))
    assert "of another LoadBalancer" in (await refused(listener(cloud, third, service, "Http", 80, urlMapId=routes)))[1]


async def test_requests_go_by_the_rules(cloud: Cloud) -> None:
    async with Backend().running() as plain, Backend().running() as api:
        port = free_port()
        lb = await balancer(cloud, privateIpAddress="127.0.0.1")
        services = []
        for server in (plain, api):
            services.append(await backend(cloud, lb, await target_group(cloud, lb, server.port)))
            await cloud.call("updateBackend", backendId=services[-1], closeHealthCheck=True)
        rewrite = {"extendActionType": 1, "rewriteSpec": {"path": "/v1/*"}}
        to = {"statusCode": "http_302", "path": "/there"}
        routes = await url_map(
            cloud, lb, "routes", {"path": "/api*", "backendId": services[1]},
            {"path": "/old/*", "backendId": services[1], "preActions": [rewrite]},
            {"path": "/moved", "action": "Redirect", "redirectActionSpec": to},
        )  # fmt: skip
        web = await listener(cloud, lb, services[0], "Http", port, urlMapId=routes)
        model = cloud.plane.current.model
        assert list(model.listeners) == [routes, web]
        async with proxy(model) as node:
            for path in ("/", "/apix/y", "/old/z/w", "/old"):
                client = await node.connect(port)
                assert await client.ask(path) == (200, b"ok")
                await client.close()
            client = await node.connect(port)
            client.writer.write(b"GET /moved HTTP/1.1\r\nHost: a\r\n\r\n")
            status, head, _ = await client.whole_answer()
            assert status == 302
            assert b"/there\r\n" in head
            await client.close()
        assert [head.split(b" ")[1] for head in plain.heads] == [b"/", b"/old"]
        assert [head.split(b" ")[1] for head in api.heads] == [b"/apix/y", b"/v1/z/w"]
