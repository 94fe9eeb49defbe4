"""Target groups and their targets: server groups and servers. Pure.

A target is an IP address and a port; there is no inventory here that instances could be looked up in. Its ID is made
of both and of the group's, so that another port is another ID.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping

from control.cloud.action import Answer
from control.cloud.draft import Draft, identity_of
from control.jdcloud import balancers
from control.jdcloud.call import FILTERS, PAGE, Action, Call, listed, made, mark, marked, of_type
from control.jdcloud.errors import absent, conflict, in_use, invalid
from control.jdcloud.forms import many, number, refused, text, word
from core.fields import Kind
from core.model import Model, Server, ServerGroup

WEIGHT = 10


def find(model: Model, identity: str) -> ServerGroup:
    """The target group of this ID. Raises JdError."""
    if identity not in model.server_groups:
        raise absent("TargetGroup", identity)
    return model.server_groups[identity]


def target_id(owner: str, server: Server) -> str:
    return identity_of("target", owner, server.address, str(server.port))


def create(call: Call, draft: Draft) -> Answer:
    given = call.given
    lb = balancers.find(draft.model, given.text("loadBalancerId")).name
    tags = made(call, name=given.text("targetGroupName"), lb=lb)
    item = ServerGroup(call.identity("tg"), (), given.text("description"), tags)
    draft.put(item)
    return {"targetGroupId": item.name}


def update(call: Call, draft: Draft) -> Answer:
    given, item = call.given, find(draft.model, call.given.text("targetGroupId"))
    if "targetGroupName" in given:
        item = dataclasses.replace(item, tags=marked(item.tags, name=given.text("targetGroupName")))
    draft.put(dataclasses.replace(item, description=given.text("description", item.description)))
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("targetGroupId"))
    if not draft.is_left(Kind.SERVER_GROUPS, item.name):
        raise in_use("TargetGroup", item.name)
    draft.delete(Kind.SERVER_GROUPS, item.name)
    return {}


# --- targets


def register(call: Call, draft: Draft) -> Answer:
    item, new = find(draft.model, call.given.text("targetGroupId")), []
    for each in call.given.tables("targetSpecs"):
        try:
            address = str(ipaddress.ip_address(each.text("ipAddress")))
        except ValueError:
            raise invalid("targetSpecs.ipAddress", "an IP address is") from None
        new.append(Server(address, each.number("port", 0), each.number("weight", WEIGHT)))
    places = [(each.address, each.port) for each in (*item.servers, *new)]
    if len(set(places)) < len(places):
        raise conflict("Target is already register to same TargetGroup.")
    draft.put(dataclasses.replace(item, servers=(*item.servers, *new)))
    return {}


def deregister(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("targetGroupId"))
    gone, known = call.given.texts("targetIds"), {target_id(item.name, each) for each in item.servers}
    if wrong := next((each for each in gone if each not in known), ""):
        raise absent("Target", wrong)
    left = tuple(each for each in item.servers if target_id(item.name, each) not in gone)
    draft.put(dataclasses.replace(item, servers=left))
    return {}


def update_targets(call: Call, draft: Draft) -> Answer:
    item = find(draft.model, call.given.text("targetGroupId"))
    servers = {target_id(item.name, each): each for each in item.servers}
    for each in call.given.tables("targetUpdateSpecs"):
        old = servers.get(each.text("targetId"))
        if old is None:
            raise absent("Target", each.text("targetId"))
        port, weight = each.number("port", old.port), each.number("weight", old.weight)
        servers[each.text("targetId")] = dataclasses.replace(old, port=port, weight=weight)
    if len({(each.address, each.port) for each in servers.values()}) < len(servers):
        raise conflict("Target is already register to same TargetGroup.")
    draft.put(dataclasses.replace(item, servers=tuple(servers.values())))
    return {}


def target_row(owner: str, server: Server, of: str) -> Mapping[str, object]:
    """A target of a target group or availability group; `of` is what answers call its ID."""
    return {
        "targetId": target_id(owner, server), of: owner, "type": "ip", "port": server.port, "weight": server.weight,
        "ipAddress": server.address, "privateIpAddress": server.address,
    }  # fmt: skip


def describe_targets(call: Call, model: Model) -> Answer:
    item = find(model, call.given.text("targetGroupId"))
    rows = [target_row(item.name, each, "targetGroupId") for each in item.servers]
    filters = {"targetIds": "targetId", "type": "type", "port": "port", "ipAddress": "ipAddress"}
    return listed(call, "targets", rows, filters)


# --- looking


def row(model: Model, item: ServerGroup) -> dict[str, object]:
    lb = mark(item.tags, "lb")
    owner = model.instances.get(lb)
    return {
        "targetGroupId": item.name, "targetGroupName": mark(item.tags, "name", item.name), "loadBalancerId": lb,
        "loadBalancerType": owner.type.value if owner else "alb",
        "loadBalancerName": mark(owner.tags, "name", lb) if owner else "", "description": item.description,
        "createdTime": mark(item.tags, "created"), "type": "ip",
        "targets": [target_row(item.name, each, "targetGroupId") for each in item.servers],
    }  # fmt: skip


def describe_one(call: Call, model: Model) -> Answer:
    return {"targetGroup": row(model, find(model, call.given.text("targetGroupId")))}


def describe(call: Call, model: Model) -> Answer:
    filters = {
        "targetGroupIds": "targetGroupId", "targetGroupNames": "targetGroupName", "loadBalancerId": "loadBalancerId",
        "loadBalancerType": "loadBalancerType",
    }  # fmt: skip
    rows = [row(model, each) for each in model.server_groups.values()]
    return listed(call, "targetGroups", of_type(call, rows, "loadBalancerType"), filters)


_NO_INSTANCES = "there is no inventory of instances here; give the address with type ip"
_IP = word("type", "ip", required=True, others={"vm": _NO_INSTANCES, "container": _NO_INSTANCES})
_ID = text("targetGroupId", required=True)
_ONE = "/targetGroups/{targetGroupId}"
_PORT, _WEIGHT = number("port", 1, 65535), number("weight", 0, 100)
ACTIONS = (
    Action(
        "createTargetGroup", "POST", "/targetGroups/",
        (
            text("targetGroupName", 32, required=True), balancers.ID, text("description", 256),
            word("type", "ip", others={"instance": _NO_INSTANCES}),
        ),
        change=create, partly="of type ip",
    ),
    Action(
        "updateTargetGroup", "PATCH", _ONE, (_ID, text("description", 256), text("targetGroupName", 32)), change=update
    ),
    Action("deleteTargetGroup", "DELETE", _ONE, (_ID,), change=delete),
    Action("describeTargetGroup", "GET", _ONE, (_ID,), look=describe_one),
    Action("describeTargetGroups", "GET", "/targetGroups/", (*PAGE, FILTERS), look=describe),
    Action(
        "registerTargets", "POST", f"{_ONE}:registerTargets",
        (
            _ID,
            many(
                "targetSpecs",
                (
                    refused("instanceId", _NO_INSTANCES), _IP, number("port", 1, 65535, required=True), _WEIGHT,
                    text("ipAddress", 45, required=True),
                ),
                required=True,
            ),
        ),
        change=register, partly="of type ip, each with a port of its own (0, the backend's, is refused)",
    ),
    Action(
        "deRegisterTargets", "POST", f"{_ONE}:deregisterTargets",
        (_ID, many("targetIds", text("targetIds"), required=True)), change=deregister,
    ),
    Action(
        "updateTargets", "POST", f"{_ONE}:updateTargets",
        (_ID, many("targetUpdateSpecs", (text("targetId", required=True), _PORT, _WEIGHT), required=True)),
        change=update_targets, partly="with another port a target has another ID",
    ),
    Action(
        "describeTargets", "GET", f"{_ONE}:describeTargets", (_ID, *PAGE, FILTERS), look=describe_targets,
        partly="no filter by instance",
    ),
)  # fmt: skip
