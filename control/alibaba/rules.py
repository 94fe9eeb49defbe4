"""Forwarding rules of http and https listeners. Pure.

A rule of the API has a host or a path or both, and a VServer group. Here it has a backend service of its own, with its
name, which takes over what the listener's says of servers, unless ListenerSync is off: then it has its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from control.alibaba import balancers, listener_forms, listeners, marks, services
from control.alibaba.balancers import Balancer
from control.alibaba.call import Action, Answer, Call, Draft
from control.alibaba.errors import SlbError, denied, invalid, missing, no_rule
from control.alibaba.parameters import Given, Parameter, number, read, strings, tables, text, word
from control.alibaba.services import SYNC
from core.fields import Kind
from core.model import BackendService, Listener, Model, Protocol, Rule

L7 = (Protocol.HTTP, Protocol.HTTPS)
_OF_SERVERS: tuple[Parameter, ...] = (
    word("ListenerSync", "on", "off"), word("Scheduler", "wrr", "rr", "wlc", "sch"), word("StickySession", "on", "off"),
    word("StickySessionType", "insert", "server"), number("CookieTimeout", 1, 86400), text("Cookie", 200),
    word("HealthCheck", "on", "off"), text("HealthCheckURI", 80), text("HealthCheckDomain", 80),
    text("HealthCheckHttpCode", 64), number("HealthCheckConnectPort", 1, 65535, listener_forms.SAME_PORT),
    number("HealthCheckInterval", 1, 50), number("HealthCheckTimeout", 1, 300), number("HealthyThreshold", 2, 10),
    number("UnhealthyThreshold", 2, 10),
)  # fmt: skip
_NEW: tuple[Parameter, ...] = (
    text("RuleName", 80, required=True), text("Domain", 253), text("Url", 80),
    text("VServerGroupId", 80, required=True), *_OF_SERVERS,
)  # fmt: skip


def _place(given: Given, model: Model) -> tuple[Balancer, Listener]:
    balancer = balancers.find(model, given.text("LoadBalancerId"))
    port = given.number("ListenerPort", 0)
    wanted = [given.text("ListenerProtocol")] if "ListenerProtocol" in given else [each.value for each in L7]
    for listener in balancer.listeners(model):
        if listener.port == port and listener.protocol.value in wanted and listener.protocol in L7:
            return balancer, listener
    return balancer, balancer.listener(model, Protocol(wanted[0]), port)  # which says that there is none


def create(call: Call, draft: Draft) -> Answer:
    balancer, listener = _place(call.given, draft.model)
    rows: list[dict[str, object]] = []
    known = {(each.domain, each.url) for each in _of(draft.model, listener)}
    for index, table in enumerate(call.given.list("RuleList")):
        given = read(_NEW, {name: value for name, value in table.items() if value})
        if "Domain" not in given and "Url" not in given:
            raise missing("RuleList.Domain")
        rule = Rule(
            call.identity("rule", str(index)), listener.name, domain=given.text("Domain").lower(),
            url=given.text("Url", "/"), description=given.text("RuleName"),
        )  # fmt: skip
        if (rule.domain, rule.url) in known:
            raise SlbError("DomainExist", 400, f"There is a rule for {rule.domain}{rule.url} already.")
        known.add((rule.domain, rule.url))
        group = services.target(draft, balancer, given.text("VServerGroupId"), 0)
        service = _service(
            given, services.new(rule.name, Protocol.HTTP, group), services.of_listener(draft.model, listener)
        )
        draft.put(service)
        draft.put(dataclasses.replace(rule, backend_service=service.name))
        rows.append({"RuleId": rule.name, "RuleName": rule.description})
    if not rows:
        raise missing("RuleList")
    return {"Rules": {"Rule": rows}}


def _service(given: Given, service: BackendService, listener: BackendService | None) -> BackendService:
    """The service of a rule, with its own settings or those of its listener. Raises SlbError."""
    own = marks.mark(service.tags).get(SYNC) == "off"
    if "ListenerSync" in given:
        own = not given.on("ListenerSync")
    fields = listener_forms.service_fields(given, Protocol.HTTP, service)
    if not own and fields:
        raise invalid(
            "ListenerSync", "it is off where a rule has a scheduler, health check or sticky session of its own"
        )
    service = dataclasses.replace(service, tags=marks.marked(service.tags, **{SYNC: "off" if own else ""}))
    if own:
        return dataclasses.replace(service, **fields)
    return service if listener is None else services.as_listener(service, listener)


def _of(model: Model, listener: Listener) -> list[Rule]:
    return [each for each in model.rules.values() if each.listener == listener.name]


def _find(model: Model, identity: str) -> Rule:
    """Raises SlbError."""
    rule = model.rules.get(identity)
    if rule is None:
        raise no_rule(identity)
    return rule


def change(call: Call, draft: Draft) -> Answer:
    given, model = call.given, draft.model
    rule = _find(model, given.text("RuleId"))
    listener = model.listeners[rule.listener]
    service = model.backend_services.get(rule.backend_service)
    if "RuleName" in given:
        rule = dataclasses.replace(rule, description=given.text("RuleName"))
    if set(given.values) - {"RuleId", "RuleName", "DryRun"}:
        if service is None:
            raise denied("The rule forwards to no VServer group.")
        after = _service(given, service, services.of_listener(model, listener))
        if "VServerGroupId" in given:
            balancer = balancers.of_listener(model, listener)
            group = services.target(draft, balancer, given.text("VServerGroupId"), 0)
            after = dataclasses.replace(after, server_group=group, availability_group="")
        name = services.put_own(draft, after, (Kind.RULES, rule.name), rule.name)
        rule = dataclasses.replace(rule, backend_service=name)
    draft.put(rule)
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    found = [_find(draft.model, each) for each in dict.fromkeys(call.given.texts("RuleIds"))]
    if not found:
        raise missing("RuleIds")
    for rule in found:
        services.remove_rule(draft, rule)
    return {}


def _document(model: Model, rule: Rule) -> dict[str, object]:
    service = model.backend_services.get(rule.backend_service)
    found: dict[str, object] = dict(listeners.rule_row(model, rule))
    if service is None:
        return found
    own = marks.mark(service.tags).get(SYNC) == "off" or service.name != rule.name
    found["ListenerSync"] = "off" if own else "on"
    if own:
        check = listener_forms.shown_check(rule.health_check or service.health_check, Protocol.HTTP)
        found |= {name: each for name, each in check.items() if name != "HealthCheckMethod"}
        found |= listener_forms.shown_sticky(rule.sticky_session or service.sticky_session)
        found["Scheduler"] = listener_forms.shown_scheduler(rule.scheduler or service.scheduler)
    return found


def describe(call: Call, model: Model) -> Answer:
    _, listener = _place(call.given, model)
    return {"Rules": {"Rule": [_document(model, each) for each in _of(model, listener)]}}


def describe_one(call: Call, model: Model) -> Answer:
    rule = _find(model, call.given.text("RuleId"))
    listener = model.listeners[rule.listener]
    balancer = balancers.of_listener(model, listener)
    place: Mapping[str, object] = {"LoadBalancerId": balancer.id, "ListenerPort": str(listener.port)}
    return {**_document(model, rule), **place}


_PLACE = (
    text("LoadBalancerId", 80, required=True), number("ListenerPort", 1, 65535, required=True),
    word("ListenerProtocol", *(each.value for each in L7)),
)  # fmt: skip
_DRY_RUN = word("DryRun", "true", "false")
_ID = text("RuleId", 80, required=True)
ACTIONS = (
    Action(
        "CreateRules", (*_PLACE, tables("RuleList", *(each.name for each in _NEW), required=True), _DRY_RUN),
        change=create,
    ),
    Action("SetRule", (_ID, text("RuleName", 80), text("VServerGroupId", 80), *_OF_SERVERS, _DRY_RUN), change=change),
    Action("DeleteRules", (strings("RuleIds", required=True),), change=delete),
    Action(
        "DescribeRules", _PLACE, look=describe,
        partly="what rules of the REST API have besides (headers, splits, redirects) is not told",
    ),
    Action("DescribeRuleAttribute", (_ID,), look=describe_one),
)  # fmt: skip
