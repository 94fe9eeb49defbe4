"""Listeners: of http and https for a load balancer of type alb, of tcp and udp for one of type nlb or dnlb. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any

from control.cloud.action import Answer
from control.cloud.draft import Draft
from control.jdcloud import backends, balancers, extensions, url_maps
from control.jdcloud.call import FILTERS, PAGE, Action, Call, listed, made, mark, marked, of_type
from control.jdcloud.errors import absent, conflict, invalid, missing
from control.jdcloud.forms import Given, flag, many, number, table, text, word
from core.fields import Kind
from core.model import Instance, InstanceType, Listener, Model, Protocol, TlsPolicy
from core.shaping import RateLimit

HSTS_MOST = 63_072_000
HSTS = 31_536_000
L4 = (Protocol.TCP, Protocol.UDP)
# Which of our timeouts the API's idle time is, with its range and what the API has where none is given (at most ours).
IDLE = {
    Protocol.TCP: ("established_timeout_s", 10, 900, 900),
    Protocol.UDP: ("udp_idle_timeout_s", 10, 900, 300),
    Protocol.HTTP: ("idle_timeout_s", 1, 60, 60),
    Protocol.HTTPS: ("idle_timeout_s", 1, 60, 60),
}


def find(model: Model, identity: str) -> Listener:
    """The listener of this ID. Raises JdError."""
    if identity not in model.listeners or balancers.is_map(model.listeners[identity]):
        raise absent("Listener", identity)
    return model.listeners[identity]


def create(call: Call, draft: Draft) -> Answer:
    given = call.given
    lb = balancers.find(draft.model, given.text("loadBalancerId"))
    protocol = Protocol(given.text("protocol").lower())
    if (protocol in L4) is (lb.type is InstanceType.ALB):
        raise conflict(f"A listener of {given.text('protocol')} is for a LoadBalancer of type {_types(protocol)}.")
    at = (each for each in draft.model.listeners.values() if _at(each, lb, given.number("port", 0)))
    used = {each.protocol for each in at if not balancers.is_map(each)}
    if used and (protocol is Protocol.UDP) is (Protocol.UDP in used):
        raise conflict(f"Port {given.number('port', 0)} of the LoadBalancer has a listener.")
    name, _, _, idle = IDLE[protocol]
    idle_s: dict[str, Any] = {name: idle}
    item = Listener(
        call.identity("listener"), lb.name, protocol, given.number("port", 0), tags=made(call), **idle_s
    )  # fmt: skip
    url_maps.make_room(draft, lb.name, item.port)
    draft.put(_following(draft, _changed(item, given, draft.model), given))
    return {"listenerId": item.name}


def _following(draft: Draft, item: Listener, given: Given) -> Listener:
    """The listener, which follows the URL map that is given, if one is. Raises JdError."""
    return url_maps.follow(draft, item, given.text("urlMapId")) if "urlMapId" in given else item


def _types(protocol: Protocol) -> str:
    return "nlb or dnlb" if protocol in L4 else "alb"


def _at(item: Listener, lb: Instance, port: int) -> bool:
    return item.instance == lb.name and item.port == port


def _changed(item: Listener, given: Given, model: Model) -> Listener:
    """The listener with what is given. Raises JdError."""
    changes: dict[str, Any] = {}
    if "listenerName" in given:
        changes["tags"] = marked(item.tags, name=given.text("listenerName"))
    if "backendId" in given:
        changes["backend_service"] = backends.find(model, given.text("backendId")).name
    if "description" in given:
        changes["description"] = given.text("description")
    if "connectionIdleTimeSeconds" in given:
        name, low, high, _ = IDLE[item.protocol]
        if not low <= given.number("connectionIdleTimeSeconds", 0) <= high:
            raise invalid("connectionIdleTimeSeconds", f"{low} to {high} is for {item.protocol.value}")
        changes[name] = given.number("connectionIdleTimeSeconds", 0)
    if "limitation" in given:
        changes |= _limits(item, given.table("limitation"))
    if wrong := next((name for name in _OF_TLS if name in given and item.protocol is not Protocol.HTTPS), ""):
        raise invalid(wrong, "it is for Https")
    if "certificateSpecs" in given:
        changes["certificates"] = _certificates(item, given, model)
    elif item.protocol is Protocol.HTTPS and not item.certificates:
        raise missing("certificateSpecs")
    if "securityPolicyId" in given:
        changes["tls_policy"] = TlsPolicy(given.text("securityPolicyId"))
    return dataclasses.replace(item, **_hsts(item, given), **changes)


def _limits(item: Listener, given: Given) -> dict[str, Any]:
    """Raises JdError."""
    changes: dict[str, Any] = {}
    if "activeConnections" in given:
        changes["max_connections"] = max(0, given.number("activeConnections", -1))
    if "qps" in given:
        qps, others = given.number("qps", -1), tuple(each for each in item.rate_limits if each.key)
        if item.protocol in L4 and qps > 0:
            raise invalid("limitation.qps", "-1 is, but for Http and Https")
        changes["rate_limits"] = others if qps < 0 else (RateLimit(qps, qps), *others)
    return changes


def _certificates(item: Listener, given: Given, model: Model) -> tuple[str, ...]:
    """The certificate that is the default from now on, before those that the listener has besides. Raises JdError."""
    names = [each.text("certificateId") for each in given.tables("certificateSpecs")]
    if wrong := next((each for each in names if each not in model.certificates), ""):
        raise absent("Certificate", wrong)
    return tuple(dict.fromkeys((*names, *item.certificates[1:])))


def _hsts(item: Listener, given: Given) -> dict[str, Any]:
    if given.flag("hstsEnable", item.hsts_max_age_s > 0):
        return {"hsts_max_age_s": given.number("hstsMaxAge", item.hsts_max_age_s or HSTS)}
    if "hstsMaxAge" in given:
        raise invalid("hstsMaxAge", "it is for hstsEnable true")
    return {"hsts_max_age_s": 0}


def update(call: Call, draft: Draft) -> Answer:
    """What is given. In a load balancer that is stopped, On is for the time when it is started again."""
    item = _changed(find(draft.model, call.given.text("listenerId")), call.given, draft.model)
    item = _following(draft, item, call.given)
    if "status" in call.given:
        on = call.given.text("status") == "On"
        stopped = mark(draft.model.instances[item.instance].tags, "state") == "DOWN"
        tags = marked(item.tags, paused="1" if on and stopped else "")
        item = dataclasses.replace(item, enabled=on and not stopped, tags=tags)
    draft.put(item)
    return {}


def delete(call: Call, draft: Draft) -> Answer:
    """The listener, and its rules with it."""
    item = find(draft.model, call.given.text("listenerId"))
    for rule in draft.model.rules.values():
        if rule.listener == item.name:
            draft.delete(Kind.RULES, rule.name)
    draft.delete(Kind.LISTENERS, item.name)
    return {}


def row(model: Model, item: Listener) -> dict[str, object]:
    qps = next((int(each.rate_per_s) for each in item.rate_limits if not each.key), -1)
    found: dict[str, object] = {
        "listenerId": item.name, "listenerName": mark(item.tags, "name", item.name),
        "status": "On" if item.enabled or mark(item.tags, "paused") else "Off", "loadBalancerId": item.instance,
        "loadBalancerType": model.instances[item.instance].type.value, "protocol": item.protocol.value.capitalize(),
        "port": item.port, "action": "Forward", "backendId": item.backend_service,
        "connectionIdleTimeSeconds": getattr(item, IDLE[item.protocol][0]), "description": item.description,
        "limitation": {"qps": qps, "activeConnections": item.max_connections or -1},
        "createdTime": mark(item.tags, "created"),
    }  # fmt: skip
    if followed := mark(item.tags, "map"):
        found["urlMapId"] = followed
    if item.protocol is Protocol.HTTPS:
        found |= {
            "hstsEnable": item.hsts_max_age_s > 0, "hstsMaxAge": item.hsts_max_age_s,
            "certificateSpecs": [{"certificateId": each, "isDefault": True} for each in item.certificates[:1]],
            "extensionCertificateSpecs": extensions.rows(model, item), "securityPolicyId": item.tls_policy.value,
        }  # fmt: skip
    return found


def describe_one(call: Call, model: Model) -> Answer:
    return {"listener": row(model, find(model, call.given.text("listenerId")))}


def describe(call: Call, model: Model) -> Answer:
    rows = [row(model, each) for each in model.listeners.values() if not balancers.is_map(each)]
    rows = [{"urlMapId": "", "securityPolicyId": "", **each} for each in rows]
    filters = {
        "listenerNames": "listenerName", "listenerIds": "listenerId", "loadBalancerId": "loadBalancerId",
        "loadBalancerType": "loadBalancerType", "urlMapIds": "urlMapId", "securityPolicyIds": "securityPolicyId",
    }  # fmt: skip
    return listed(call, "listeners", of_type(call, rows, "loadBalancerType"), filters)


_OF_TLS = ("certificateSpecs", "hstsEnable", "hstsMaxAge", "securityPolicyId")
_CERTIFICATE = (
    text("certificateId", required=True),
    word("isDefault", "true", others={"false": "one certificate is given, the default"}),
)
_LIMITS = (
    number("qps", 100, 500_000, -1),
    number("activeConnections", 100, 5_000_000, -1),
)
_COMMON = (
    flag("hstsEnable"), number("hstsMaxAge", 1, HSTS_MOST),
    text("urlMapId"), many("certificateSpecs", _CERTIFICATE),
    table("limitation", _LIMITS), number("connectionIdleTimeSeconds", 1, 86400), text("description", 256),
    word("securityPolicyId", *TlsPolicy),
)  # fmt: skip
_ID = text("listenerId", required=True)
_ONE = "/listeners/{listenerId}"
_PARTLY = f"no Tls; idle times to 900 s, of Http and Https to 60 s; a security policy is one of {', '.join(TlsPolicy)}"
ACTIONS = (
    Action(
        "createListener", "POST", "/listeners/",
        (
            text("listenerName", 32, required=True),
            word("protocol", "Tcp", "Udp", "Http", "Https", required=True, others={"Tls": "Https and Tcp are"}),
            number("port", 1, 65535, required=True), text("backendId", required=True), balancers.ID,
            word("action", "Forward"), *_COMMON,
        ),
        change=create, partly=f"{_PARTLY}; Http and Https for type alb, Tcp and Udp for nlb and dnlb",
    ),
    Action(
        "updateListener", "PATCH", _ONE,
        (_ID, text("listenerName", 32), word("status", "On", "Off"), text("backendId"), *_COMMON),
        change=update, partly=_PARTLY,
    ),
    Action("deleteListener", "DELETE", _ONE, (_ID,), change=delete),
    Action("describeListener", "GET", _ONE, (_ID,), look=describe_one),
    Action(
        "describeListeners", "GET", "/listeners/", (*PAGE, FILTERS), look=describe,
    ),
)  # fmt: skip
