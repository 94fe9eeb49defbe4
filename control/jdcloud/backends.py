"""Backends: backend services, their health checks, and what the nodes say of their targets. Pure."""

from __future__ import annotations

import dataclasses

from control.cloud.action import Answer
from control.cloud.draft import Draft
from control.cloud.health import key, reported
from control.jdcloud import balancers, groups
from control.jdcloud.call import FILTERS, PAGE, Action, Call, listed, made, mark, marked, of_type
from control.jdcloud.errors import absent, in_use, invalid, missing
from control.jdcloud.forms import Given, flag, many, no_longer, number, refused, table, text, word
from core.fields import Kind
from core.model import (
    BackendProtocol,
    BackendService,
    CheckMethod,
    CheckType,
    HealthCheck,
    Model,
    ProxyHeader,
    Scheduler,
    Server,
    StickySession,
)

ALGORITHMS = {
    "RoundRobin": Scheduler.WRR, "LeastConn": Scheduler.WLC, "IpHash": Scheduler.SH, "QuintupleHash": Scheduler.TCH,
}  # fmt: skip


def find(model: Model, identity: str) -> BackendService:
    """The backend of this ID. Raises JdError."""
    if identity not in model.backend_services:
        raise absent("Backend", identity)
    return model.backend_services[identity]


def create(call: Call, draft: Draft) -> Answer:
    given = call.given
    lb = balancers.find(draft.model, given.text("loadBalancerId"))
    protocol = BackendProtocol(given.text("protocol").lower())
    hashed = "IpHash" if lb.type.value == "dnlb" else "RoundRobin"
    item = BackendService(
        call.identity("backend"), protocol, scheduler=ALGORITHMS[given.text("algorithm", hashed)],
        health_check=_check(given.table("healthCheckSpec")), description=given.text("description"),
        tags=made(call, name=given.text("backendName"), lb=lb.name, port=str(given.number("port", 0))),
    )  # fmt: skip
    if "targetGroupIds" not in given and "agIds" not in given:
        raise missing("targetGroupIds")
    draft.put(_sticky(_forwarded(item, given, draft.model), given))
    return {"backendId": item.name}


def _forwarded(item: BackendService, given: Given, model: Model) -> BackendService:
    """The service with the group that is given. Raises JdError."""
    targets, spread = given.texts("targetGroupIds"), given.texts("agIds")
    if len(targets) + len(spread) > 1:
        raise invalid("targetGroupIds", "one target group or one availability group is")
    if targets:
        return dataclasses.replace(item, server_group=groups.find(model, targets[0]).name, availability_group="")
    if spread:
        if spread[0] not in model.availability_groups:
            raise absent("Ag", spread[0])
        return dataclasses.replace(item, server_group="", availability_group=spread[0])
    return item


def _sticky(item: BackendService, given: Given) -> BackendService:
    """Raises JdError."""
    if "sessionStickiness" in given and not given.flag("sessionStickiness"):
        return dataclasses.replace(item, sticky_session=None)
    if "sessionStickiness" not in given and item.sticky_session is None:
        if "httpCookieExpireSeconds" in given:
            raise invalid("httpCookieExpireSeconds", "it is for sessionStickiness true")
        return item
    if item.protocol is not BackendProtocol.HTTP:
        raise invalid("sessionStickiness", "false is, but for Http")
    if "httpCookieExpireSeconds" in given:
        return dataclasses.replace(
            item, sticky_session=StickySession(cookie_timeout_s=given.number("httpCookieExpireSeconds", 0))
        )
    if item.sticky_session is None:
        raise missing("httpCookieExpireSeconds")
    return item


def _check(given: Given) -> HealthCheck:
    is_http = given.text("protocol") == "Http"
    if wrong := next((name for name in ("httpDomain", "httpPath", "httpCode") if name in given and not is_http), ""):
        raise invalid(f"healthCheckSpec.{wrong}", "it is for protocol Http")
    check = HealthCheck(
        CheckType.HTTP if is_http else CheckType.TCP, given.number("intervalSeconds", 5),
        given.number("checkTimeoutSeconds", 3), given.number("healthyThresholdCount", 3),
        given.number("unhealthyThresholdCount", 3), given.number("port", 0),
    )  # fmt: skip
    if not is_http:
        return check
    return dataclasses.replace(
        check, method=CheckMethod.GET, uri=given.text("httpPath", "/"), domain=given.text("httpDomain"),
        codes=given.text("httpCode", check.codes),
    )  # fmt: skip


def update(call: Call, draft: Draft) -> Answer:
    given, item = call.given, find(draft.model, call.given.text("backendId"))
    if "backendName" in given:
        item = dataclasses.replace(item, tags=marked(item.tags, name=given.text("backendName")))
    if "algorithm" in given:
        item = dataclasses.replace(item, scheduler=ALGORITHMS[given.text("algorithm")])
    if "healthCheckSpec" in given:
        item = dataclasses.replace(item, health_check=_check(given.table("healthCheckSpec")))
    if given.flag("closeHealthCheck"):
        if "healthCheckSpec" in given:
            raise invalid("closeHealthCheck", "it is given without healthCheckSpec")
        item = dataclasses.replace(item, health_check=None)
    if "proxyProtocol" in given:  # then it is false
        item = dataclasses.replace(item, proxy_protocol=ProxyHeader.OFF)
    item = dataclasses.replace(item, description=given.text("description", item.description))
    draft.put(_sticky(_forwarded(item, given, draft.model), given))
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("backendId"))
    if not draft.is_left(Kind.BACKEND_SERVICES, item.name):
        raise in_use("Backend", item.name)
    draft.delete(Kind.BACKEND_SERVICES, item.name)
    return {}


# --- looking


def owner(model: Model, item: BackendService) -> str:
    """The load balancer that a backend is of: the one that it was made for, or whose listener forwards to it."""
    told = mark(item.tags, "lb")
    using = (each.instance for each in model.listeners.values() if each.backend_service == item.name)
    return told or next(using, "")


def row(model: Model, item: BackendService) -> dict[str, object]:
    lb = owner(model, item)
    instance = model.instances.get(lb)
    words = {scheduler: each for each, scheduler in ALGORITHMS.items()}
    found: dict[str, object] = {
        "backendId": item.name, "backendName": mark(item.tags, "name", item.name), "loadBalancerId": lb,
        "loadBalancerType": instance.type.value if instance else "alb", "protocol": item.protocol.value.capitalize(),
        "port": int(mark(item.tags, "port", "0")), "algorithm": words.get(item.scheduler, item.scheduler.value),
        "targetGroupIds": [item.server_group] if item.server_group else [],
        "agIds": [item.availability_group] if item.availability_group else [],
        "proxyProtocol": item.proxy_protocol is not ProxyHeader.OFF,
        "description": item.description, "createdTime": mark(item.tags, "created"),
        "sessionStickiness": item.sticky_session is not None,
    }  # fmt: skip
    if item.sticky_session is not None:
        found["httpCookieExpireSeconds"] = item.sticky_session.cookie_timeout_s
    if item.health_check is not None:
        found["healthCheck"] = _check_row(item.health_check)
    return found


def _check_row(check: HealthCheck) -> dict[str, object]:
    found: dict[str, object] = {
        "protocol": check.type.value.capitalize(), "healthyThresholdCount": check.rise,
        "unhealthyThresholdCount": check.fall, "checkTimeoutSeconds": check.timeout_s,
        "intervalSeconds": check.interval_s, "port": check.port,
    }  # fmt: skip
    if check.type is CheckType.HTTP:
        found |= {"httpVersion": "HTTP1.1", "httpDomain": check.domain, "httpPath": check.uri, "httpCode": check.codes}
    return found


def describe_one(call: Call, model: Model) -> Answer:
    return {"backend": row(model, find(model, call.given.text("backendId")))}


def describe(call: Call, model: Model) -> Answer:
    rows = []
    for each in model.backend_services.values():
        rows.append(row(model, each))
    filters = {
        "backendIds": "backendId", "backendNames": "backendName", "loadBalancerId": "loadBalancerId",
        "loadBalancerType": "loadBalancerType", "protocol": "protocol",
    }  # fmt: skip
    return listed(call, "backends", of_type(call, rows, "loadBalancerType"), filters)


def _targets(model: Model, item: BackendService) -> tuple[str, str, tuple[Server, ...]]:
    """What answers call the group's ID, that ID, and its targets."""
    if item.server_group:
        return "targetGroupId", item.server_group, model.server_groups[item.server_group].servers
    return "agId", item.availability_group, model.availability_groups[item.availability_group].members


def health(call: Call, model: Model) -> Answer:
    """A target is unhealthy where a node says so, and where none says anything."""
    item = find(model, call.given.text("backendId"))
    of, group, servers = _targets(model, item)
    said = reported(call.statuses)
    rows = [
        {
            of: group, "type": "ip", "port": each.port, "weight": each.weight, "ipAddress": each.address,
            "status": "healthy" if said.get(key(item, each)) else "unhealthy",
        }
        for each in servers
    ]  # fmt: skip
    if not {"pageNumber", "pageSize"} & call.given.values.keys():
        return {"targetHealths": rows, "totalCount": len(rows)}
    return listed(call, "targetHealths", rows, {})


def ag_targets(call: Call, model: Model) -> Answer:
    item = find(model, call.given.text("backendId"))
    of, group, servers = _targets(model, item)
    rows = [groups.target_row(group, each, of) for each in servers] if of == "agId" else []
    return listed(call, "agTargets", rows, {"weight": "weight", "targetIds": "targetId", "ipAddress": "ipAddress"})


_LISTENERS = "listeners decide that (docs/proxy.md)"
_INTRODUCED = "it is for Tcp and Udp of an alb; for Http, backend services of the REST API have proxy_protocol"
_DRAIN = "listeners of the REST API have it, as drain_timeout_s"
_HEALTH = (
    word("protocol", "Http", "Tcp", required=True, others={"Icmp": "servers are not pinged; Tcp and Http are"}),
    number("healthyThresholdCount", 2, 5), number("unhealthyThresholdCount", 2, 5),
    number("checkTimeoutSeconds", 2, 60), number("intervalSeconds", 5, 50), number("port", 0, 65535),
    word("httpVersion", "HTTP1.1", others={"HTTP1.0": "checks speak HTTP/1.1"}), text("httpDomain", 253),
    text("httpPath", 1000), text("httpCode", 200),
)  # fmt: skip
_COMMON = (
    word("algorithm", *ALGORITHMS), many("targetGroupIds", text("targetGroupIds")), many("agIds", text("agIds")),
    refused("agInfoSpec", "members of availability groups have weights of their own"),
    no_longer("proxyProtocol", _INTRODUCED), text("description", 256),
    flag("sessionStickiness"), refused("sessionStickyTimeout", "listeners of the REST API have persistence_timeout_s"),
    refused("connectionDrainingSeconds", _DRAIN), number("httpCookieExpireSeconds", 1, 86400),
    *(
        no_longer(f"httpForwarded{each}", _LISTENERS) for each in ("Protocol", "Port", "Host", "Vip", "ClientPort")
    ),
)  # fmt: skip
_ID = text("backendId", required=True)
_ONE = "/backends/{backendId}"
_PARTLY = "checks every 5 to 50 s with thresholds from 2, none of Icmp or HTTP1.0; stickiness by cookies alone"
ACTIONS = (
    Action(
        "createBackend", "POST", "/backends/",
        (
            text("backendName", 32, required=True), balancers.ID,
            word("protocol", "Http", "Tcp", "Udp", required=True), number("port", 1, 65535, required=True),
            table("healthCheckSpec", _HEALTH, required=True), *_COMMON,
        ),
        change=create, partly=f"{_PARTLY}; a group has to be given; targets have ports of their own",
    ),
    Action(
        "updateBackend", "PATCH", _ONE,
        (_ID, text("backendName", 32), table("healthCheckSpec", _HEALTH), flag("closeHealthCheck"), *_COMMON),
        change=update, partly=_PARTLY,
    ),
    Action("deleteBackend", "DELETE", _ONE, (_ID,), change=delete),
    Action("describeBackend", "GET", _ONE, (_ID,), look=describe_one),
    Action("describeBackends", "GET", "/backends/", (*PAGE, FILTERS), look=describe, partly="no filter by agId"),
    Action(
        "describeTargetHealth", "GET", f"{_ONE}/health", (_ID, *PAGE), look=health,
        partly="no reason of being unhealthy; what no node checks is unhealthy",
    ),
    Action(
        "describeAgTargets", "GET", f"{_ONE}/agTargets", (_ID, *PAGE, FILTERS, refused("sorts", "as configured")),
        look=ag_targets, partly="members that are configured, and not those of DNS, files or registration",
    ),
)  # fmt: skip
