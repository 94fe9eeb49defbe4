"""Listeners of all four protocols. Pure.

A new listener is stopped, as the API's users expect, and has a backend service of its own, with its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

from control.alibaba import balancers, domains, listener_forms, marks, servers, services
from control.alibaba.balancers import Balancer
from control.alibaba.call import Action, Answer, Call, Draft, page
from control.alibaba.errors import SlbError, denied, invalid, missing, no_acl, no_ca, no_certificate
from control.alibaba.parameters import Given, many, number, tables_of, text, texts_of, word
from core.fields import Kind
from core.model import BackendService, Listener, Model, Protocol, Rule

NAME_MOST = 80
PORT = "port"  # BackendServerPort, where the listener has a VServer group for now
PLACE = (
    text("LoadBalancerId", 80, required=True), number("ListenerPort", 1, 65535, required=True),
    word("ListenerProtocol", *(each.value for each in Protocol)),
)  # fmt: skip


def placed(given: Given, model: Model) -> tuple[Balancer, Listener]:
    """The listener that a request names. Raises SlbError."""
    balancer = balancers.find(model, given.text("LoadBalancerId"))
    protocol = Protocol(given.text("ListenerProtocol")) if "ListenerProtocol" in given else None
    return balancer, balancer.listener(model, protocol, given.number("ListenerPort", 0))


# --- changes


def create(protocol: Protocol, call: Call, draft: Draft) -> Answer:
    given, model = call.given, draft.model
    balancer = balancers.find(model, given.text("LoadBalancerId"))
    port = given.number("ListenerPort", 0)
    if any(each.port == port and _clash(each.protocol, protocol) for each in balancer.listeners(model)):
        raise SlbError("ListenerAlreadyExists", 400, f"There is a listener on port {port} already.")
    name = f"{balancer.id}-{protocol.value}-{port}"
    if len(name) > NAME_MOST or name in model.listeners or name in model.backend_services:
        name = call.identity("ls")
    check_names(given, model)
    forward = protocol is Protocol.HTTP and given.on("ListenerForward")
    if ("ForwardPort" in given) is not forward:
        raise missing("ForwardPort") if forward else invalid("ForwardPort", "it goes with ListenerForward on")
    instance = balancers.instance_for(draft, balancer, protocol)
    service = _first_service(call, draft, balancer, name, protocol, forward)
    listener = Listener(
        name, instance, protocol, port, backend_service="" if service is None else service.name,
        enabled=False, certificates=_certificates(given, protocol, ()),
        tags=marks.tagged((), tables_of(given, "Tag")),
    )  # fmt: skip
    listener = dataclasses.replace(listener, **listener_forms.listener_fields(given, protocol, new=True))
    if "VServerGroupId" in given and given.number("BackendServerPort", -1) > 0:
        kept = str(given.number("BackendServerPort", 0))
        listener = dataclasses.replace(listener, tags=marks.marked(listener.tags, **{PORT: kept}))
    draft.put(listener)
    return {}


def _clash(one: Protocol, other: Protocol) -> bool:
    return (one is Protocol.UDP) is (other is Protocol.UDP)


def _first_service(
    call: Call, draft: Draft, balancer: Balancer, name: str, protocol: Protocol, forward: bool
) -> BackendService | None:
    given = call.given
    port = given.number("BackendServerPort", -1)
    if "VServerGroupId" not in given and port < 0:
        if forward:
            return None
        raise missing("BackendServerPort")
    group = services.target(draft, balancer, given.text("VServerGroupId"), port)
    service = services.new(name, protocol, group, health_check=listener_forms.first_check(protocol))
    service = dataclasses.replace(service, **listener_forms.service_fields(given, protocol, service))
    draft.put(service)
    return service


def _certificates(given: Given, protocol: Protocol, before: tuple[str, ...]) -> tuple[str, ...]:
    if protocol is not Protocol.HTTPS:
        return ()
    if "ServerCertificateId" not in given:
        if not before:
            raise missing("ServerCertificateId")
        return before
    first = given.text("ServerCertificateId")
    return (first, *(each for each in before[1:] if each != first))


def check_names(given: Given, model: Model) -> None:
    """Raises SlbError for what a request names and there is not."""
    for name, kind, error in (
        ("AclId", Kind.ACCESS_LISTS, no_acl), ("ServerCertificateId", Kind.CERTIFICATES, no_certificate),
        ("CACertificateId", Kind.CA_CERTIFICATES, no_ca),
    ):  # fmt: skip
        if name in given and given.text(name) not in model.of(kind):
            raise error(given.text(name))


def change(protocol: Protocol, call: Call, draft: Draft) -> Answer:
    given, model = call.given, draft.model
    balancer = balancers.find(model, given.text("LoadBalancerId"))
    listener = balancer.listener(model, protocol, given.number("ListenerPort", 0))
    check_names(given, model)
    after = dataclasses.replace(listener, **listener_forms.listener_fields(given, protocol, new=False))
    if "Gzip" in given and given.on("Gzip") is not listener_forms.compresses(listener):
        after = dataclasses.replace(after, compression=listener_forms.GZIP if given.on("Gzip") else None)
    if protocol is Protocol.HTTPS:
        after = dataclasses.replace(after, certificates=_certificates(given, protocol, listener.certificates))
    service = services.of_listener(model, listener)
    if service is None:
        told = [name for name in given.values if name.startswith(("Health", "Scheduler", "Sticky", "VServer"))]
        if told:
            raise denied(f"The listener forwards to no server, so that there is no {told[0]}.")
    else:
        fields = listener_forms.service_fields(given, protocol, service)
        if group := _regrouped(given, draft, balancer, listener, service):
            fields |= {"server_group": group, "availability_group": ""}
            if servers.default_port(balancer.id, service.server_group) is not None:
                kept = str(servers.default_port(balancer.id, service.server_group))
                after = dataclasses.replace(after, tags=marks.marked(after.tags, **{PORT: kept}))
        if fields:
            changed = dataclasses.replace(service, **fields)
            owner = (Kind.LISTENERS, listener.name)
            after = dataclasses.replace(after, backend_service=services.put_own(draft, changed, owner, listener.name))
            services.sync_rules(draft, listener, changed)
            if changed.server_group != service.server_group:
                services.remove_unused_default(draft, balancer.id, service.server_group)
    draft.put(after)
    return {}


def _regrouped(given: Given, draft: Draft, balancer: Balancer, listener: Listener, service: BackendService) -> str:
    """The group that a listener is to have instead of its own; empty where it stays."""
    if "VServerGroup" in given and not given.on("VServerGroup"):
        if "VServerGroupId" in given:
            raise invalid("VServerGroupId", "VServerGroup is off")
        port = marks.mark(listener.tags).get(PORT, "")
        if servers.default_port(balancer.id, service.server_group) is not None:
            return ""
        if not port:
            raise denied(
                "The listener was made without a BackendServerPort, on which it could ask the default servers."
            )
        return services.target(draft, balancer, "", int(port))
    if "VServerGroupId" not in given:
        if given.on("VServerGroup") and servers.default_port(balancer.id, service.server_group) is not None:
            raise missing("VServerGroupId")
        return ""
    group = given.text("VServerGroupId")
    return "" if group == service.server_group else services.target(draft, balancer, group, 0)


def start(call: Call, draft: Draft) -> Answer:
    balancer, listener = placed(call.given, draft.model)
    if marks.mark(balancer.main.tags).get("status") == "inactive":
        raise denied(f"The load balancer {balancer.id} is inactive.")
    draft.put(dataclasses.replace(listener, enabled=True))
    return {}


def stop(call: Call, draft: Draft) -> Answer:
    _, listener = placed(call.given, draft.model)
    draft.put(dataclasses.replace(listener, enabled=False, tags=marks.marked(listener.tags, paused="")))
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    balancer, listener = placed(call.given, draft.model)
    services.remove_listener(draft, balancer, listener)
    balancers.without_companion(draft, balancer, listener)
    return {}


# --- answers


def document(model: Model, balancer: Balancer, listener: Listener) -> dict[str, object]:
    """A listener as Describe…Attribute tells of it."""
    found: dict[str, object] = {"LoadBalancerId": balancer.id, **listener_forms.shown_listener(listener)}
    found["Tags"] = {"Tag": marks.shown(listener.tags)}
    service = services.of_listener(model, listener)
    if service is not None:
        found["Scheduler"] = listener_forms.shown_scheduler(service.scheduler)
        found |= listener_forms.shown_check(service.health_check, listener.protocol)
        found |= _target(balancer, listener, service)
    if listener.protocol in balancers.L4:
        return found | listener_forms.shown_l4(listener)
    found |= listener_forms.shown_l7(listener)
    found |= listener_forms.shown_sticky(None if service is None else service.sticky_session)
    rules = [rule_row(model, rule) for rule in model.rules.values() if rule.listener == listener.name]
    found["Rules"] = {"Rule": rules}
    if listener.protocol is Protocol.HTTPS:
        extensions = domains.EXTENSIONS.of_listener(model, listener)
        found["DomainExtensions"] = {"DomainExtension": [domains.row(each) for each in extensions]}
    return found


def rule_row(model: Model, rule: Rule) -> dict[str, object]:
    """A rule in a list."""
    service = model.backend_services.get(rule.backend_service)
    return {
        "RuleId": rule.name, "RuleName": rule.description or rule.name, "Domain": rule.domain,
        "Url": rule.path or rule.pattern or rule.url, "VServerGroupId": "" if service is None else service.server_group,
    }  # fmt: skip


def _target(balancer: Balancer, listener: Listener, service: BackendService) -> Mapping[str, object]:
    port = servers.default_port(balancer.id, service.server_group)
    if port is not None:
        return {"BackendServerPort": port}
    kept = marks.mark(listener.tags).get(PORT, "")
    more = {"BackendServerPort": int(kept)} if kept else {}
    return {"VServerGroupId": service.server_group or service.availability_group, **more}


def describe(protocol: Protocol, call: Call, model: Model) -> Answer:
    balancer = balancers.find(model, call.given.text("LoadBalancerId"))
    return document(model, balancer, balancer.listener(model, protocol, call.given.number("ListenerPort", 0)))


COMMON_KEYS = (
    "AclId", "AclStatus", "AclType", "BackendServerPort", "Bandwidth", "Description", "ListenerPort", "LoadBalancerId",
    "Scheduler", "Status", "VServerGroupId",
)  # fmt: skip
BESIDE = ("Rules", "DomainExtensions", "SecurityStatus", "Tags", "SynProxy", "AclIds")


def describe_all(call: Call, model: Model) -> Answer:
    given = call.given
    wanted = set(texts_of(given, "LoadBalancerId"))
    found = [
        (balancer, listener)
        for balancer in balancers.all_of(model)
        if not wanted or balancer.id in wanted
        for listener in balancer.listeners(model)
        if given.text("ListenerProtocol", listener.protocol.value) == listener.protocol.value
        and given.number("ListenerPort", listener.port) == listener.port
        and given.text("Description", listener.description) == listener.description
        and marks.matches(listener.tags, tables_of(given, "Tag"))
    ]
    size = given.number("MaxResults", 20)
    at = _number_of(given.text("NextToken", "1"))
    rows = [_row(model, *each) for each in page(found, at, size)]  # type: ignore[misc]
    more = {"NextToken": str(at + 1)} if at * size < len(found) else {}
    return {"Listeners": rows, "MaxResults": size, "TotalCount": len(found), **more}


def _number_of(token: str) -> int:
    if not (token.isascii() and token.isdigit() and int(token[:9]) > 0):
        raise invalid("NextToken", "that of an answer is")
    return int(token[:9])


def _row(model: Model, balancer: Balancer, listener: Listener) -> Mapping[str, object]:
    whole = document(model, balancer, listener)
    own = {name: value for name, value in whole.items() if name not in (*COMMON_KEYS, *BESIDE)}
    if "ProxyProtocolV2Enabled" in own:
        own["ProxyProtocolV2Enabled"] = "false"
    config = f"{listener.protocol.value.upper()}ListenerConfig"
    return {
        **{name: whole[name] for name in COMMON_KEYS if name in whole},
        "ListenerProtocol": listener.protocol.value, "Tags": marks.shown(listener.tags), config: own,
    }  # fmt: skip


ONE = (text("LoadBalancerId", 80, required=True), number("ListenerPort", 1, 65535, required=True))
Make = Callable[[Call, Draft], Answer]


def _of(protocol: Protocol) -> tuple[Action, ...]:
    name = f"LoadBalancer{protocol.value.upper()}Listener"
    lacks = {
        Protocol.TCP: "no PROXY protocol, no master-slave group, no SYN proxy to switch",
        Protocol.UDP: "no PROXY protocol, no master-slave group",
        Protocol.HTTP: "", Protocol.HTTPS: "no TLS before 1.2, no custom cipher policy",
    }[protocol]  # fmt: skip
    return (
        Action(f"Create{name}", listener_forms.creating(protocol), change=partial(create, protocol), partly=lacks),
        Action(f"Set{name}Attribute", listener_forms.setting(protocol), change=partial(change, protocol), partly=lacks),
        Action(f"Describe{name}Attribute", ONE, look=partial(describe, protocol)),
    )


ACTIONS = (
    *(action for protocol in Protocol for action in _of(protocol)),
    Action("StartLoadBalancerListener", PLACE, change=start),
    Action("StopLoadBalancerListener", PLACE, change=stop),
    Action("DeleteLoadBalancerListener", PLACE, change=delete),
    Action(
        "DescribeLoadBalancerListeners",
        (
            many("LoadBalancerId"), PLACE[2], number("ListenerPort", 1, 65535),
            text("Description"), many("Tag"), number("MaxResults", 1, 100), text("NextToken"),
        ),
        look=describe_all,
    ),
)  # fmt: skip
