"""Load balancers: an instance each, of the type that the API has for it. Pure."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

from control.cloud import marks
from control.cloud.action import Answer
from control.cloud.draft import Draft
from control.cloud.site import Site, free, taken
from control.jdcloud.call import FILTERS, PAGE, Action, Call, listed, made, mark, marked, of_type
from control.jdcloud.errors import absent, conflict, in_use, invalid, missing
from control.jdcloud.forms import Given, flag, many, no_longer, refused, text, word
from core.endpoints import is_loopback
from core.fields import Kind
from core.model import Instance, InstanceType, Listener, Model

RESERVED = ("paifang:", "aliyun", "acs:", "jdcloud")


def find(model: Model, identity: str) -> Instance:
    """The load balancer of this ID. Raises JdError."""
    if identity not in model.instances:
        raise absent("LoadBalancer", identity)
    return model.instances[identity]


def is_map(item: Listener) -> bool:
    """Whether a listener is none of the API's, but a URL map (see url_maps)."""
    return bool(mark(item.tags, "urlmap"))


def remove_map(draft: Draft, item: Listener) -> None:
    """Delete a map and its rules."""
    for rule in draft.model.rules.values():
        if rule.listener == item.name:
            draft.delete(Kind.RULES, rule.name)
    draft.delete(Kind.LISTENERS, item.name)


def create(call: Call, draft: Draft) -> Answer:
    given = call.given
    _check_place(given, call.site)
    tags = []
    for each in given.tables("userTags"):
        key = each.text("key")
        if key.lower().startswith(RESERVED):
            raise invalid("userTags.key", f"a key that does not begin with {', '.join(RESERVED)} is")
        tags.append((key, each.text("value")))
    if len(dict(tags)) < len(tags):
        raise invalid("userTags", "each key is given once")
    item = Instance(
        call.identity("lb"), InstanceType(given.text("type", "alb")), (_address(given, call.site, draft.model),),
        deletion_protection=given.flag("deleteProtection"), description=given.text("description"),
        tags=made(call, tuple(tags), name=given.text("loadBalancerName")),
    )  # fmt: skip
    draft.put(item)
    return {"loadBalancerId": item.name}


def subnet(site: Site) -> str:
    """The only subnet of the region."""
    return f"{site.region}-subnet"


def _check_place(given: Given, site: Site) -> None:
    """Raises JdError for a subnet or zone that there is not."""
    if given.text("subnetId", subnet(site)) != subnet(site):
        raise absent("Subnet", given.text("subnetId"))
    if wrong := next((each for each in given.texts("azs") if each != site.zone), ""):
        raise absent("Az", wrong)


def _address(given: Given, site: Site, model: Model) -> str:
    """The VIP of a new instance: the one that is asked for, or the first of ours that is free. Raises JdError."""
    if "privateIpAddress" in given:
        try:
            found = str(ipaddress.IPv4Address(given.text("privateIpAddress")))
        except ValueError:
            raise invalid("privateIpAddress", "an IPv4 address is") from None
        if found in set(taken(model)) and not is_loopback(found):
            raise in_use("Address", found)
        return found
    if found := free(site, model, 4):
        return found
    if not any(network.version == 4 for network in site.vips):
        raise missing("privateIpAddress")
    raise conflict("No IPv4 address is left of those that instances get.")


def update(call: Call, draft: Draft) -> Answer:
    """What is given; stopped, all its listeners are, and started again those run that were running."""
    given, item = call.given, find(draft.model, call.given.text("loadBalancerId"))
    tags, changes = item.tags, dict[str, Any]()
    if "loadBalancerName" in given:
        tags = marked(tags, name=given.text("loadBalancerName"))
    if "description" in given:
        changes["description"] = given.text("description")
    if "deleteProtection" in given:
        changes["deletion_protection"] = given.flag("deleteProtection")
    if "privateIpAddress" in given and given.text("privateIpAddress") not in item.vips:
        changes["vips"] = (_address(given, call.site, draft.model),)
    if "action" in given:
        start = given.text("action") == "Start"
        tags = marked(tags, state="" if start else "DOWN")
        for each in [each for each in draft.model.listeners.values() if each.instance == item.name]:
            if start and mark(each.tags, "paused"):
                draft.put(dataclasses.replace(each, enabled=True, tags=marked(each.tags, paused="")))
            elif not start and each.enabled:
                draft.put(dataclasses.replace(each, enabled=False, tags=marked(each.tags, paused="1")))
    draft.put(dataclasses.replace(item, tags=tags, **changes))
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    """One that has no listeners; its URL maps, backends and target groups go with it where nothing else uses them."""
    item = find(draft.model, call.given.text("loadBalancerId"))
    listeners = [each for each in draft.model.listeners.values() if each.instance == item.name]
    if not all(map(is_map, listeners)):
        raise in_use("LoadBalancer", item.name)
    for each in listeners:
        remove_map(draft, each)
    draft.delete(Kind.INSTANCES, item.name)
    for kind in (Kind.BACKEND_SERVICES, Kind.SERVER_GROUPS):
        for name, of in draft.model.of(kind).items():
            if mark(of.tags, "lb") == item.name and draft.is_left(kind, name):
                draft.delete(kind, name)
    return {}


def row(item: Instance, site: Site) -> dict[str, object]:
    """A load balancer as answers tell of it."""
    state = mark(item.tags, "state", "ACTIVE")
    return {
        "loadBalancerId": item.name, "loadBalancerName": mark(item.tags, "name", item.name), "type": item.type.value,
        "subnetId": subnet(site), "vpcId": f"{site.region}-vpc", "azs": [site.zone], "azType": "standard",
        "state": {"code": state, "reason": ""}, "securityGroupIds": [], "description": item.description,
        "privateIp": {"privateIpAddress": item.vips[0] if item.vips else ""},
        "tags": [{"key": key, "value": value} for key, value in marks.users(item.tags)],
        "deleteProtection": item.deletion_protection, "createdTime": mark(item.tags, "created"),
    }  # fmt: skip


def describe_one(call: Call, model: Model) -> Answer:
    return {"loadBalancer": row(find(model, call.given.text("loadBalancerId")), call.site)}


def describe(call: Call, model: Model) -> Answer:
    wanted = [(each.text("key"), each.texts("values")) for each in call.given.tables("tags")]
    rows = []
    for item in model.instances.values():
        have = dict(marks.users(item.tags))
        if all(key in have and (not values or have[key] in values) for key, values in wanted):
            rows.append({**row(item, call.site), "vip": item.vips[0] if item.vips else ""})
    filters = {
        "loadBalancerType": "type", "loadBalancerIds": "loadBalancerId", "loadBalancerNames": "loadBalancerName",
        "vpcId": "vpcId", "azType": "azType", "privateIpAddresses": "vip",
    }  # fmt: skip
    found = dict(listed(call, "loadBalancers", of_type(call, rows, "type"), filters))
    shown = found["loadBalancers"]
    assert isinstance(shown, list)
    return {**found, "loadBalancers": [{key: each[key] for key in each if key != "vip"} for each in shown]}


_NAME = "loadBalancerName"
ID = text("loadBalancerId", required=True)
_ONE = "/loadBalancers/{loadBalancerId}"
_EIP = "there are no elastic IPs here; the VIP is the address"
ACTIONS = (
    Action(
        "createLoadBalancer", "POST", "/loadBalancers/",
        (
            text(_NAME, 32, required=True), text("subnetId"), word("type", *InstanceType), many("azs", text("azs")),
            refused("chargeSpec", "nothing is billed here"), refused("elasticIp", _EIP), text("privateIpAddress", 15),
            refused("securityGroupIds", "there are no security groups here; listeners have access lists"),
            text("description", 256), flag("deleteProtection"),
            many("userTags", (text("key", 64, required=True), text("value", 256))),
        ),
        change=create, partly="the VIP is privateIpAddress, or one of --jdcloud-vips; the subnet is REGION-subnet",
    ),
    Action(
        "updateLoadBalancer", "PATCH", _ONE,
        (
            ID, text(_NAME, 32), word("action", "Start", "Stop"), text("description", 256), flag("deleteProtection"),
            no_longer("domainEnable", "there is no DNS here"), text("privateIpAddress", 15),
        ),
        change=update,
    ),
    Action(
        "deleteLoadBalancer", "DELETE", _ONE, (ID, no_longer("deleteElasticIp", _EIP)), change=delete,
        partly="backends and target groups that others use stay",
    ),
    Action("describeLoadBalancer", "GET", _ONE, (ID,), look=describe_one),
    Action(
        "describeLoadBalancers", "GET", "/loadBalancers/",
        (*PAGE, FILTERS, many("tags", (text("key", 64, required=True), many("values", text("values", 256))))),
        look=describe, partly="filters by type, IDs, names, VPC, azType and VIPs, operator eq",
    ),
)  # fmt: skip
