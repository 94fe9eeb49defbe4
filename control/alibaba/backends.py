"""A load balancer's default servers, and VServer groups. Pure.

A VServerGroupId is the name of a server group. The load balancer that one was made for stands in a tag of it; one that
was made in another way belongs to those whose listeners or rules forward to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from control.alibaba import balancers, listeners, marks, servers, services
from control.alibaba.balancers import Balancer
from control.alibaba.call import Action, Answer, Call, Draft
from control.alibaba.errors import SlbError, invalid
from control.alibaba.parameters import Given, many, tables, tables_of, text, word
from core.fields import Kind
from core.model import Listener, Model, Rule, Server, ServerGroup

# --- default servers


def add_default(call: Call, draft: Draft) -> Answer:
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    new = servers.unique([servers.read(each, servers.NO_PORT) for each in call.given.list("BackendServers")])
    return _set_default(draft, balancer, servers.added(_default(draft.model, balancer), new))


def remove_default(call: Call, draft: Draft) -> Answer:
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    gone = [servers.key(servers.read(each, servers.NO_PORT)) for each in call.given.list("BackendServers")]
    return _set_default(draft, balancer, servers.removed(_default(draft.model, balancer), gone))


def weigh_default(call: Call, draft: Draft) -> Answer:
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    new = servers.unique([servers.read(each, servers.NO_PORT) for each in call.given.list("BackendServers")])
    return _set_default(draft, balancer, servers.weighed(_default(draft.model, balancer), new))


def _default(model: Model, balancer: Balancer) -> tuple[Server, ...]:
    return servers.default_servers(model, balancer.id)


def _set_default(draft: Draft, balancer: Balancer, after: tuple[Server, ...]) -> Answer:
    servers.put_default(draft, balancer.id, after)
    rows = [servers.shown(each, with_port=False) for each in after]
    return {"LoadBalancerId": balancer.id, "BackendServers": {"BackendServer": rows}}


# --- VServer groups


def create(call: Call, draft: Draft) -> Answer:
    given = call.given
    balancer = balancers.find(draft.model, given.text("LoadBalancerId"))
    tags = marks.marked(marks.tagged((), tables_of(given, "Tag")), lb=balancer.id)
    found = servers.unique([servers.read(each, None) for each in given.list("BackendServers")])
    return _set(draft, ServerGroup(call.identity("rsp"), found, given.text("VServerGroupName"), tags))


def _group(given: Given, model: Model) -> ServerGroup:
    return services.check_group(model, given.text("VServerGroupId"))


def _read(given: Given, name: str) -> tuple[Server, ...]:
    return servers.unique([servers.read(each, None) for each in given.list(name)])


def _set(draft: Draft, group: ServerGroup) -> Answer:
    draft.put(group)
    return {
        "VServerGroupId": group.name, "VServerGroupName": group.description or group.name,
        "BackendServers": {"BackendServer": [servers.shown(each) for each in group.servers]},
    }  # fmt: skip


def add(call: Call, draft: Draft) -> Answer:
    group = _group(call.given, draft.model)
    return _set(
        draft, dataclasses.replace(group, servers=servers.added(group.servers, _read(call.given, "BackendServers")))
    )


def remove(call: Call, draft: Draft) -> Answer:
    group = _group(call.given, draft.model)
    gone = [servers.key(each) for each in _read(call.given, "BackendServers")]
    return _set(draft, dataclasses.replace(group, servers=servers.removed(group.servers, gone)))


def modify(call: Call, draft: Draft) -> Answer:
    """Servers in the place of others."""
    group = _group(call.given, draft.model)
    old, new = _read(call.given, "OldBackendServers"), _read(call.given, "NewBackendServers")
    if {servers.key(each) for each in old} - {servers.key(each) for each in group.servers}:
        raise invalid("OldBackendServers", "servers of the group are")
    left = servers.removed(group.servers, [servers.key(each) for each in old])
    return _set(draft, dataclasses.replace(group, servers=servers.added(left, new)))


def set_attribute(call: Call, draft: Draft) -> Answer:
    """The name, and the weights of servers that are in it."""
    given, group = call.given, _group(call.given, draft.model)
    if "VServerGroupName" in given:
        group = dataclasses.replace(group, description=given.text("VServerGroupName"))
    if "BackendServers" in given:
        group = dataclasses.replace(group, servers=servers.weighed(group.servers, _read(given, "BackendServers")))
    return _set(draft, group)


def delete(call: Call, draft: Draft) -> Answer:
    group = _group(call.given, draft.model)
    if not draft.is_left(Kind.SERVER_GROUPS, group.name):
        raise SlbError("RspoolVipExist", 400, f"The VServer group {group.name} is in use by a listener or a rule.")
    draft.delete(Kind.SERVER_GROUPS, group.name)
    return {}


def _users(model: Model, group: str) -> tuple[list[Listener], list[Rule]]:
    """The listeners and rules that forward to a group."""
    names = {each.name for each in model.backend_services.values() if each.server_group == group}
    used = [each for each in model.listeners.values() if each.backend_service in names]
    return used, [each for each in model.rules.values() if each.backend_service in names]


def _owner(model: Model, group: ServerGroup) -> str:
    """The load balancer that a group is of; empty where nothing says."""
    if told := marks.mark(group.tags).get("lb"):
        return told
    used, rules = _users(model, group.name)
    used = used or [model.listeners[each.listener] for each in rules]
    return balancers.of_listener(model, used[0]).id if used else ""


def _of(model: Model, balancer: Balancer) -> Iterator[ServerGroup]:
    for name, group in model.server_groups.items():
        if not servers.is_default(name) and _owner(model, group) == balancer.id:
            yield group


def describe(call: Call, model: Model) -> Answer:
    given = call.given
    balancer = balancers.find(model, given.text("LoadBalancerId"))
    rows = [
        _row(model, group, given)
        for group in _of(model, balancer)
        if marks.matches(group.tags, tables_of(given, "Tag"))
        and given.text("Description") in (group.description or group.name)
    ]
    return {"VServerGroups": {"VServerGroup": rows}}


def _row(model: Model, group: ServerGroup, given: Given) -> Mapping[str, object]:
    used, rules = _users(model, group.name)
    users: dict[str, object] = {}
    if given.on("IncludeListener"):
        users["Listeners"] = {"Listener": [{"Port": each.port, "Protocol": each.protocol.value} for each in used]}
    if given.on("IncludeRule"):
        users["Rules"] = {"Rule": [listeners.rule_row(model, each) for each in rules]}
    return {
        "VServerGroupId": group.name, "VServerGroupName": group.description or group.name,
        "ServerCount": len(group.servers), "Tags": {"Tag": marks.shown(group.tags)}, "AssociatedObjects": users,
    }  # fmt: skip


def describe_one(call: Call, model: Model) -> Answer:
    group = _group(call.given, model)
    return {
        "VServerGroupId": group.name, "VServerGroupName": group.description or group.name,
        "LoadBalancerId": _owner(model, group), "Tags": {"Tag": marks.shown(group.tags)},
        "BackendServers": {"BackendServer": [servers.shown(each) for each in group.servers]},
    }  # fmt: skip


_LB = text("LoadBalancerId", 80, required=True)
_GROUP = text("VServerGroupId", 80, required=True)
_SERVERS = tables("BackendServers", *servers.KEYS, required=True)
_OPTIONAL = tables("BackendServers", *servers.KEYS)
_TAG = many("Tag")
_NAME = text("VServerGroupName", 80)
_INCLUDE = tuple(word(name, "true", "false") for name in ("IncludeListener", "IncludeRule"))
ADDRESSES = "a ServerId is an IP address, and a server has no Description"

ACTIONS = (
    Action("AddBackendServers", (_LB, _SERVERS), change=add_default, partly=ADDRESSES),
    Action("RemoveBackendServers", (_LB, _SERVERS), change=remove_default, partly=ADDRESSES),
    Action("SetBackendServers", (_LB, _SERVERS), change=weigh_default, partly=ADDRESSES),
    Action("CreateVServerGroup", (_LB, _OPTIONAL, _TAG, _NAME), change=create, partly=ADDRESSES),
    Action("AddVServerGroupBackendServers", (_GROUP, _SERVERS), change=add, partly=ADDRESSES),
    Action("RemoveVServerGroupBackendServers", (_GROUP, _SERVERS), change=remove, partly=ADDRESSES),
    Action(
        "ModifyVServerGroupBackendServers",
        (_GROUP, tables("OldBackendServers", *servers.KEYS), tables("NewBackendServers", *servers.KEYS)),
        change=modify, partly=ADDRESSES,
    ),
    Action("SetVServerGroupAttribute", (_GROUP, _NAME, _OPTIONAL), change=set_attribute, partly=ADDRESSES),
    Action("DeleteVServerGroup", (_GROUP,), change=delete),
    Action(
        "DescribeVServerGroups",
        (_LB, text("Description", 80), _TAG, *_INCLUDE),
        look=describe,
    ),
    Action("DescribeVServerGroupAttribute", (_GROUP,), look=describe_one),
)  # fmt: skip
