"""Load balancers themselves: VIPs, names, bandwidth, status and protection. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from control.alibaba import balancers, marks, servers, services
from control.alibaba.balancers import Balancer
from control.alibaba.call import TIME, Action, Answer, Call, Draft, Site, page
from control.alibaba.errors import SlbError, denied, invalid, missing
from control.alibaba.parameters import Given, Parameter, many, number, refused, tables, tables_of, text, word
from control.cloud.site import free, taken
from core.endpoints import is_loopback, version
from core.fields import Kind
from core.model import Instance, InstanceType, Model

BANDWIDTH_MOST = 5120
REQUEST = "request"  # of which parameters it was made, for ClientToken
_NO_VPC = "there are no VPCs here; an address is one of the network that the cluster stands in"
_NO_BILL = "nothing is billed here"
_NO_SPEC = "an instance has what the nodes have; limits are those of listeners and Bandwidth"


# --- creating


def create(call: Call, draft: Draft) -> Answer:
    given, model = call.given, draft.model
    identity = call.identity("lb")
    told = hashlib.sha256(repr(sorted(map(repr, given.values.items()))).encode()).hexdigest()[:16]
    present = model.instances.get(identity)
    if present is not None:  # the same ClientToken again
        if marks.mark(present.tags).get(REQUEST) != told:
            text = "Request uses a client token in a previous request but is not identical to that request."
            raise SlbError("IdempotentParameterMismatch", 403, text)
        return _created(Balancer(present, None), call.site)
    check_zone(given, call.site)
    limit = _bandwidth(given)
    fields: dict[str, Any] = {"bandwidth_in_mbit_s": limit, "bandwidth_out_mbit_s": limit}
    tags = marks.tagged((), tables_of(given, "Tag"))
    tags = marks.marked(
        tags, created=datetime.fromtimestamp(call.now, UTC).strftime(TIME),
        request=told if "ClientToken" in given else "",
        address_type="intranet" if given.text("AddressType") == "intranet" else "",
        reason=given.text("ModificationProtectionReason"),
    )  # fmt: skip
    protected = given.text("ModificationProtectionStatus") == "ConsoleProtection"
    instance = Instance(
        identity, InstanceType.ALB, (_address(given, call.site, model),), tags=tags,
        description=given.text("LoadBalancerName"), deletion_protection=given.on("DeleteProtection"),
        modification_protection=protected, **fields,
    )  # fmt: skip
    draft.put(instance)
    return _created(Balancer(instance, None), call.site)


def _created(balancer: Balancer, site: Site) -> Answer:
    whole = document(balancer, site)
    names = ("LoadBalancerId", "LoadBalancerName", "Address", "AddressIPVersion", "NetworkType", "VpcId", "VSwitchId")
    return {name: whole[name] for name in names}


def _address(given: Given, site: Site, model: Model) -> str:
    """The VIP of a new instance: the one that is asked for, or the first of ours that is free. Raises SlbError."""
    wanted = 6 if given.text("AddressIPVersion") == "ipv6" else 4
    if "Address" in given:
        try:
            found = str(ipaddress.ip_address(given.text("Address")))
        except ValueError:
            raise invalid("Address", "an IP address is") from None
        if version(found) != wanted:
            raise invalid("Address", f"one of AddressIPVersion ipv{wanted} is")
        if found in set(taken(model)) and not is_loopback(found):
            raise SlbError("IpNotAvailable", 400, f"The address {found} is in use.")
        return found
    if found := free(site, model, wanted):
        return found
    if not any(network.version == wanted for network in site.vips):
        raise missing("Address")
    raise SlbError("ResourceNotAvailable", 400, f"No IPv{wanted} address is left of those that instances get.")


def _bandwidth(given: Given) -> int:
    """Mbit/s; 0 without a limit. Raises SlbError."""
    charge = given.text("InternetChargeType", "paybybandwidth" if "Bandwidth" in given else "paybytraffic")
    if charge == "paybybandwidth":
        if "Bandwidth" not in given:
            raise missing("Bandwidth")
        return given.number("Bandwidth", 0)
    if "Bandwidth" in given:
        raise invalid("Bandwidth", "it is a limit with InternetChargeType paybybandwidth only")
    return 0


# --- changing


def delete(call: Call, draft: Draft) -> Answer:
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    if balancer.main.deletion_protection:
        raise denied(f"The deletion protection of {balancer.id} is on.")
    for listener in balancer.listeners(draft.model):
        services.remove_listener(draft, balancer, listener)
    for instance in balancer.instances:
        draft.delete(Kind.INSTANCES, instance.name)
    for name, group in draft.model.server_groups.items():
        own = name == servers.default_name(balancer.id) or servers.default_port(balancer.id, name) is not None
        if (own or marks.mark(group.tags).get("lb") == balancer.id) and draft.is_left(Kind.SERVER_GROUPS, name):
            draft.delete(Kind.SERVER_GROUPS, name)
    return {}


def set_name(call: Call, draft: Draft) -> Answer:
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    balancers.update(draft, balancer, description=call.given.text("LoadBalancerName"))
    return {}


def set_status(call: Call, draft: Draft) -> Answer:
    """An inactive load balancer has all its listeners stopped; active again, those run that were."""
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    active = call.given.text("LoadBalancerStatus") == "active"
    for listener in balancer.listeners(draft.model):
        paused = bool(marks.mark(listener.tags).get("paused"))
        if active and paused:
            draft.put(dataclasses.replace(listener, enabled=True, tags=marks.marked(listener.tags, paused="")))
        elif not active and listener.enabled:
            draft.put(dataclasses.replace(listener, enabled=False, tags=marks.marked(listener.tags, paused="1")))
    tags = marks.marked(balancer.main.tags, status="" if active else "inactive")
    balancers.update(draft, balancer, tags=tags)
    return {}


def set_delete_protection(call: Call, draft: Draft) -> Answer:
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    balancers.update(draft, balancer, deletion_protection=call.given.on("DeleteProtection"))
    return {}


def set_modification_protection(call: Call, draft: Draft) -> Answer:
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    on = call.given.text("ModificationProtectionStatus") == "ConsoleProtection"
    if "ModificationProtectionReason" in call.given and not on:
        raise invalid("ModificationProtectionReason", "there is no protection that it could be the reason of")
    tags = marks.marked(balancer.main.tags, reason=call.given.text("ModificationProtectionReason") if on else "")
    balancers.update(draft, balancer, modification_protection=on, tags=tags)
    return {}


def set_internet(call: Call, draft: Draft) -> Answer:
    balancer = balancers.find(draft.model, call.given.text("LoadBalancerId"))
    limit = _bandwidth(call.given)
    balancers.update(draft, balancer, bandwidth_in_mbit_s=limit, bandwidth_out_mbit_s=limit)
    return {"OrderId": 0}


# --- looking


def document(balancer: Balancer, site: Site) -> dict[str, object]:
    """A load balancer as lists tell of it."""
    main, kept = balancer.main, marks.mark(balancer.main.tags)
    created = kept.get("created", "")
    found: dict[str, object] = {
        "LoadBalancerId": balancer.id, "LoadBalancerName": main.description or balancer.id,
        "LoadBalancerStatus": kept.get("status", "active"), "Address": main.vips[0] if main.vips else "",
        "AddressType": kept.get("address_type", "internet"),
        "AddressIPVersion": "ipv6" if main.vips and version(main.vips[0]) == 6 else "ipv4",
        "RegionId": site.region, "RegionIdAlias": site.region, "MasterZoneId": site.zone, "SlaveZoneId": site.zone,
        "NetworkType": "classic", "VpcId": "", "VSwitchId": "", "PayType": "PayOnDemand",
        "InternetChargeType": "paybybandwidth" if main.bandwidth_out_mbit_s else "paybytraffic",
        "Bandwidth": main.bandwidth_out_mbit_s or BANDWIDTH_MOST,
        "DeleteProtection": "on" if main.deletion_protection else "off",
        "ModificationProtectionStatus": "ConsoleProtection" if main.modification_protection else "NonProtection",
        "ModificationProtectionReason": kept.get("reason", ""),
        "Tags": {"Tag": marks.shown(main.tags)},
    }  # fmt: skip
    if created:
        at = datetime.strptime(created, TIME).replace(tzinfo=UTC)
        found |= {"CreateTime": created, "CreateTimeStamp": int(at.timestamp() * 1000)}
    return found


def describe(call: Call, model: Model) -> Answer:
    given = call.given
    number_, size = given.number("PageNumber", 1), given.number("PageSize", 50)
    found = [each for each in balancers.all_of(model) if _wanted(given, each, document(each, call.site), model)]
    rows = [document(each, call.site) for each in page(found, number_, size)]  # type: ignore[arg-type]
    return {
        "LoadBalancers": {"LoadBalancer": rows}, "PageNumber": number_, "PageSize": size, "TotalCount": len(found)
    }  # fmt: skip


SAME = (
    "LoadBalancerStatus", "AddressType", "AddressIPVersion", "InternetChargeType", "PayType", "NetworkType",
    "MasterZoneId", "SlaveZoneId",
)  # fmt: skip
LISTED = ("LoadBalancerId", "LoadBalancerName", "Address")  # several may be asked for, with commas


def _wanted(given: Given, balancer: Balancer, row: Mapping[str, object], model: Model) -> bool:
    if any(name in given and given.text(name) != row[name] for name in SAME):
        return False
    if any(name in given and str(row[name]) not in given.text(name).split(",") for name in LISTED):
        return False
    for name in ("ServerId", "ServerIntranetAddress"):
        if name in given and given.text(name) not in _addresses(model, balancer):
            return False
    old = [(each.get("TagKey", ""), each.get("TagValue", "")) for each in given.list("Tags")]
    return marks.matches(balancer.main.tags, [*tables_of(given, "Tag"), *old])


def _addresses(model: Model, balancer: Balancer) -> set[str]:
    """Of all servers that it forwards to, and of its default ones."""
    names = {servers.default_name(balancer.id)}
    mine = {each.name for each in balancer.listeners(model)}
    used = {each.backend_service for each in balancer.listeners(model)}
    used |= {each.backend_service for each in model.rules.values() if each.listener in mine}
    names |= {model.backend_services[name].server_group for name in used if name in model.backend_services}
    return {
        server.address for name in names if name in model.server_groups for server in model.server_groups[name].servers
    }


def describe_one(call: Call, model: Model) -> Answer:
    balancer = balancers.find(model, call.given.text("LoadBalancerId"))
    listeners = balancer.listeners(model)
    rows = [
        {"ListenerPort": each.port, "ListenerProtocol": each.protocol.value, "Description": each.description,
         **({"ListenerForward": "on", "ForwardPort": each.https_redirect_port} if each.https_redirect_port else {})}
        for each in listeners
    ]  # fmt: skip
    old = [{"ListenerPort": each.port, "ListenerProtocal": each.protocol.value} for each in listeners]
    shown = [servers.shown(each, with_port=False) for each in servers.default_servers(model, balancer.id)]
    return {
        **document(balancer, call.site), "BackendServers": {"BackendServer": shown},
        "ListenerPorts": {"ListenerPort": [each.port for each in listeners]},
        "ListenerPortsAndProtocol": {"ListenerPortAndProtocol": rows},
        "ListenerPortsAndProtocal": {"ListenerPortAndProtocal": old},
    }  # fmt: skip


# --- the table

ID = text("LoadBalancerId", 80, required=True)
_TAG = many("Tag")
_CHARGE = word("InternetChargeType", "paybybandwidth", "paybytraffic")
_DEMAND = word("PayType", "PayOnDemand", others={"PrePay": _NO_BILL})
_BANDWIDTH = number("Bandwidth", 1, BANDWIDTH_MOST)
_AUTO_PAY = refused("AutoPay", _NO_BILL)
_PROTECTION = word("ModificationProtectionStatus", "NonProtection", "ConsoleProtection")
_REASON = text("ModificationProtectionReason", 80)
_GROUP = refused("ResourceGroupId", "there are no resource groups here")
_VPC = (refused("VpcId", _NO_VPC), refused("VSwitchId", _NO_VPC))
_FORMS: tuple[Parameter, ...] = (
    text("Address", 64), word("AddressIPVersion", "ipv4", "ipv6"), word("AddressType", "internet", "intranet"),
    text("MasterZoneId", 64), text("SlaveZoneId", 64),
)  # fmt: skip

ACTIONS = (
    Action(
        "CreateLoadBalancer",
        (
            *_FORMS, _TAG, _CHARGE, _DEMAND, _BANDWIDTH, _AUTO_PAY, _PROTECTION, _REASON, _GROUP, *_VPC,
            text("ClientToken", 64), text("LoadBalancerName", 80), word("DeleteProtection", "on", "off"),
            refused("Duration", _NO_BILL), refused("PricingCycle", _NO_BILL), refused("LoadBalancerSpec", _NO_SPEC),
            word("InstanceChargeType", "PayByCLCU", others={"PayBySpec": _NO_SPEC}),
        ),
        change=create, partly="no VPC, no specification, no prepaid; Address, or one of --alibaba-vips",
    ),
    Action(
        "DeleteLoadBalancer", (ID,), change=delete,
        partly="VServer groups that other load balancers use too stay",
    ),
    Action("SetLoadBalancerName", (ID, text("LoadBalancerName", 80, required=True)), change=set_name),
    Action(
        "SetLoadBalancerStatus", (ID, word("LoadBalancerStatus", "active", "inactive", required=True)),
        change=set_status,
    ),
    Action(
        "SetLoadBalancerDeleteProtection", (ID, word("DeleteProtection", "on", "off", required=True)),
        change=set_delete_protection, partly="listeners and rules cannot be deleted either",
    ),
    Action(
        "SetLoadBalancerModificationProtection",
        (ID, word("ModificationProtectionStatus", "NonProtection", "ConsoleProtection", required=True), _REASON),
        change=set_modification_protection, partly="holds for every way to change it, this API included",
    ),
    Action(
        "ModifyLoadBalancerInternetSpec", (ID, _CHARGE, _BANDWIDTH, _AUTO_PAY), change=set_internet,
        partly="Bandwidth is for each direction, and for the layer 4 and the layer 7 listeners each",
    ),
    Action(
        "DescribeLoadBalancers",
        (
            text("LoadBalancerId", 4096), text("LoadBalancerName", 4096), text("Address", 2048),
            *(each for each in _FORMS if each.name != "Address"), _CHARGE, _DEMAND, _GROUP, *_VPC, _TAG,
            word("LoadBalancerStatus", "active", "inactive", "locked"), word("NetworkType", "classic", "vpc"),
            text("ServerId", 64), text("ServerIntranetAddress", 64), tables("Tags", "TagKey", "TagValue"),
            number("PageNumber", 1, 1_000_000), number("PageSize", 1, 100),
        ),
        look=describe, partly="CreateTime of those alone that were made by this API",
    ),
    Action("DescribeLoadBalancerAttribute", (ID,), look=describe_one),
)  # fmt: skip


def check_zone(given: Given, site: Site) -> None:
    """Raises SlbError for a zone that there is not."""
    for name in ("MasterZoneId", "SlaveZoneId"):
        if name in given and given.text(name) != site.zone:
            raise SlbError("InvalidZoneId.NotFound", 404, f"The only zone is {site.zone}.")
