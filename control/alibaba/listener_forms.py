"""Listeners and backend services in the API's words, and back: one table for both ways wherever there is one. Pure.

What of a listener of the API is about servers (scheduler, health check, sticky session) stands in a backend service
here, which the listener has for itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from control.alibaba.errors import invalid, missing
from control.alibaba.parameters import Given, Parameter, many, number, refused, text, word
from core.answers import Coding, Compression
from core.model import (
    Acl,
    BackendService,
    CheckMethod,
    CheckType,
    HealthCheck,
    Listener,
    Protocol,
    Scheduler,
    StickySession,
    StickyType,
    TlsPolicy,
)

SCHEDULERS = {
    "wrr": Scheduler.WRR, "rr": Scheduler.RR, "wlc": Scheduler.WLC, "sch": Scheduler.SH, "tch": Scheduler.TCH
}  # fmt: skip
POLICIES = {f"tls_cipher_policy_{each.value.removeprefix('tls_')}": each for each in TlsPolicy}
OLD_TLS = "TLS 1.0 and 1.1 are not spoken here (RFC 8996)"
FORWARDED = {
    "XForwardedFor": "x_forwarded_for", "XForwardedFor_proto": "x_forwarded_proto",
    "XForwardedFor_SLBIP": "x_forwarded_slb_ip", "XForwardedFor_SLBID": "x_forwarded_slb_id",
    "XForwardedFor_SLBPORT": "x_forwarded_port", "XForwardedFor_ClientSrcPort": "x_forwarded_client_port",
}  # fmt: skip
SAME_PORT = -520  # as the API says it: the port of the server
CODES = tuple(f"http_{each}xx" for each in range(1, 6))

ON_OFF = ("on", "off")
_NO_MASTER = "there are no master-slave groups here"
_BANDWIDTH = number("Bandwidth", 1, 5120, -1)
_THRESHOLDS = (number("HealthyThreshold", 2, 10), number("UnhealthyThreshold", 2, 10))
_PLACE = (text("LoadBalancerId", 80, required=True), number("ListenerPort", 1, 65535, required=True))
_TARGET = (text("VServerGroupId", 80), _BANDWIDTH, text("Description", 256), text("AclId", 80))
_ACL = (word("AclStatus", *ON_OFF), word("AclType", "white", "black"))
_HTTP_CHECK = (
    text("HealthCheckURI", 80), text("HealthCheckDomain", 80), text("HealthCheckHttpCode", 64),
    number("HealthCheckConnectPort", 1, 65535, SAME_PORT), *_THRESHOLDS,
)  # fmt: skip
_METHOD = word("HealthCheckMethod", "head", "get")
_L4 = (
    *_PLACE, *_TARGET, *_ACL, word("Scheduler", *SCHEDULERS), word("HealthCheckSwitch", *ON_OFF),
    number("HealthCheckConnectTimeout", 1, 300),
    refused("MasterSlaveServerGroupId", _NO_MASTER), word("ProxyProtocolV2Enabled", "false", others={
        "true": "servers are not told of clients by the PROXY protocol"}),
)  # fmt: skip
_TCP = (
    *_L4, *_HTTP_CHECK, word("HealthCheckType", "tcp", "http"), number("PersistenceTimeout", 0, 3600),
    number("EstablishedTimeout", 10, 900), word("ConnectionDrain", *ON_OFF), number("ConnectionDrainTimeout", 10, 900),
)  # fmt: skip
_UDP = (
    *_L4, number("HealthCheckConnectPort", 1, 65535, SAME_PORT), *_THRESHOLDS,
    text("healthCheckReq", 500), text("healthCheckExp", 500),
)  # fmt: skip
_HTTP = (
    *_PLACE, *_TARGET, *_ACL, word("Scheduler", "wrr", "rr", "wlc", "sch"), *_HTTP_CHECK, _METHOD,
    word("HealthCheck", *ON_OFF), number("HealthCheckTimeout", 1, 300), number("HealthCheckInterval", 1, 50),
    word("StickySession", *ON_OFF), word("StickySessionType", "insert", "server"), number("CookieTimeout", 1, 86400),
    text("Cookie", 200), number("IdleTimeout", 1, 60), number("RequestTimeout", 1, 180),
    word("Gzip", *ON_OFF),
    *(word(name, *ON_OFF) for name in FORWARDED),
)  # fmt: skip
_HTTPS = (
    *_HTTP, text("ServerCertificateId", 80), text("CACertificateId", 80),
    word("TLSCipherPolicy", *POLICIES, others={
        f"tls_cipher_policy_{each}": OLD_TLS for each in ("1_0", "1_1")}),
    word("EnableHttp2", *ON_OFF),
)  # fmt: skip
_CREATE = (number("BackendServerPort", 1, 65535, SAME_PORT), many("Tag"))
_SET = (word("VServerGroup", *ON_OFF), word("DryRun", "true", "false"))
_NO_MASTER_SET = refused("MasterSlaveServerGroup", _NO_MASTER)

GZIP = Compression((Coding.GZIP,))
FORMS = {Protocol.TCP: _TCP, Protocol.UDP: _UDP, Protocol.HTTP: _HTTP, Protocol.HTTPS: _HTTPS}


def creating(protocol: Protocol) -> tuple[Parameter, ...]:
    """The parameters of CreateLoadBalancer…Listener."""
    more: tuple[Parameter, ...] = _CREATE
    if protocol in (Protocol.TCP, Protocol.UDP):
        more = (*more, number("healthCheckInterval", 1, 50))  # the API spells it so here
    if protocol is Protocol.HTTP:
        more = (*more, word("ListenerForward", *ON_OFF), number("ForwardPort", 1, 65535))
    return (*FORMS[protocol], *more)


def setting(protocol: Protocol) -> tuple[Parameter, ...]:
    """The parameters of SetLoadBalancer…ListenerAttribute."""
    more: tuple[Parameter, ...] = _SET
    if protocol in (Protocol.TCP, Protocol.UDP):
        more = (*more, _NO_MASTER_SET, number("HealthCheckInterval", 1, 50))
    if protocol is Protocol.TCP:
        more = (*more, word("SynProxy", "disable", others={
            "enable": "SYN cookies are answered where a node is flooded, by all listeners"}))  # fmt: skip
    return (*FORMS[protocol], *more)


# --- a request into ours


def listener_fields(given: Given, protocol: Protocol, *, new: bool) -> dict[str, Any]:
    """What a request says of the listener itself. Raises SlbError. `new`: with the API's defaults where they differ."""
    found: dict[str, Any] = {}
    if "Bandwidth" in given:
        limit = max(given.number("Bandwidth", -1), 0)
        found |= {"bandwidth_in_mbit_s": limit, "bandwidth_out_mbit_s": limit}
    for name, field in (
        ("Description", "description"), ("EstablishedTimeout", "established_timeout_s"),
        ("PersistenceTimeout", "persistence_timeout_s"), ("IdleTimeout", "idle_timeout_s"),
        ("RequestTimeout", "request_timeout_s"), ("ConnectionDrainTimeout", "drain_timeout_s"),
        ("CACertificateId", "ca_certificate"), ("ForwardPort", "https_redirect_port"),
    ):  # fmt: skip
        if name in given:
            found[field] = given.values[name]
    if new and protocol in (Protocol.HTTP, Protocol.HTTPS):
        found["x_forwarded_proto"] = found["x_forwarded_port"] = False  # as the API has it
        found["compression"] = GZIP if given.on("Gzip", True) else None
    for name, field in FORWARDED.items():
        if name in given:
            found[field] = given.on(name)
    if "ConnectionDrain" in given:
        found["drain"] = given.on("ConnectionDrain")
        if not found["drain"]:
            found["drain_timeout_s"] = Listener.__dataclass_fields__["drain_timeout_s"].default
    if "EnableHttp2" in given:
        found["http2"] = given.on("EnableHttp2")
    if "TLSCipherPolicy" in given:
        found["tls_policy"] = POLICIES[given.text("TLSCipherPolicy")]
    return found | _acl(given)


def compresses(listener: Listener) -> bool:
    """Whether a listener's answers may be compressed by gzip."""
    return listener.compression is not None and Coding.GZIP in listener.compression.codings


def _acl(given: Given) -> dict[str, Any]:
    if "AclStatus" not in given:
        if "AclId" in given or "AclType" in given:
            raise missing("AclStatus")
        return {}
    if not given.on("AclStatus"):
        return {"acl": Acl.OFF, "access_list": ""}
    for name in ("AclId", "AclType"):
        if name not in given:
            raise missing(name)
    return {"acl": Acl(given.text("AclType")), "access_list": given.text("AclId")}


def service_fields(given: Given, protocol: Protocol, before: BackendService) -> dict[str, Any]:
    """What a request says of the backend service. Raises SlbError."""
    found: dict[str, Any] = {}
    if "Scheduler" in given:
        found["scheduler"] = SCHEDULERS[given.text("Scheduler")]
    check = _check(given, protocol, before.health_check)
    if check != before.health_check:
        found["health_check"] = check
    if "StickySession" in given or "StickySessionType" in given or "Cookie" in given or "CookieTimeout" in given:
        found["sticky_session"] = _sticky(given, before.sticky_session)
    return found


def _check(given: Given, protocol: Protocol, before: HealthCheck | None) -> HealthCheck | None:
    switch = next((name for name in ("HealthCheck", "HealthCheckSwitch") if name in given), "")
    fields: dict[str, Any] = {}
    for name, field in (
        ("HealthCheckTimeout", "timeout_s"), ("HealthCheckConnectTimeout", "timeout_s"),
        ("HealthCheckInterval", "interval_s"), ("healthCheckInterval", "interval_s"),
    ):  # fmt: skip
        if name in given:
            if field in fields:
                raise invalid(name, "it is given twice")
            fields[field] = float(given.number(name, 1))
    for name, field in (
        ("HealthyThreshold", "rise"), ("UnhealthyThreshold", "fall"), ("HealthCheckURI", "uri"),
        ("healthCheckReq", "request"), ("healthCheckExp", "expect"),
    ):  # fmt: skip
        if name in given:
            fields[field] = given.values[name]
    if "HealthCheckConnectPort" in given:
        fields["port"] = max(given.number("HealthCheckConnectPort", 0), 0)
    if "HealthCheckMethod" in given:
        fields["method"] = CheckMethod(given.text("HealthCheckMethod"))
    if "HealthCheckDomain" in given:
        domain = given.text("HealthCheckDomain")
        fields["domain"] = "" if domain == "$_ip" else domain
    if "HealthCheckHttpCode" in given:
        fields["codes"] = _codes(given.text("HealthCheckHttpCode"))
    if "HealthCheckType" in given:
        fields["type"] = CheckType(given.text("HealthCheckType"))
    if switch and not given.on(switch):
        return None
    if before is None:
        if not switch:
            if fields:
                raise invalid(next(name for name in given.values if "Health" in name or "Thres" in name),
                              "health checks are off")  # fmt: skip
            return None
        before = first_check(protocol)
    return dataclasses.replace(before, **fields)


def first_check(protocol: Protocol) -> HealthCheck:
    """The health check of a new listener."""
    if protocol in (Protocol.HTTP, Protocol.HTTPS):
        return HealthCheck(type=CheckType.HTTP, codes="2xx")
    return HealthCheck(type=CheckType.UDP if protocol is Protocol.UDP else CheckType.TCP)


def _codes(given: str) -> str:
    words = given.split(",")
    if not set(words) <= set(CODES):
        raise invalid("HealthCheckHttpCode", f"{', '.join(CODES)} are")
    return ",".join(each.removeprefix("http_") for each in words)


def _sticky(given: Given, before: StickySession | None) -> StickySession | None:
    """Raises SlbError."""
    on = given.on("StickySession", before is not None)
    if not on:
        return None
    sticky = before or StickySession()
    kind = StickyType(given.text("StickySessionType", "" if before is None else before.type.value) or "insert")
    if before is None and "StickySessionType" not in given:
        raise missing("StickySessionType")
    if kind is StickyType.INSERT:
        if "Cookie" in given:
            raise invalid("Cookie", "it is for the StickySessionType server")
        if sticky.type is not kind or before is None:
            if "CookieTimeout" not in given:
                raise missing("CookieTimeout")
            sticky = StickySession()
        return dataclasses.replace(sticky, cookie_timeout_s=given.number("CookieTimeout", sticky.cookie_timeout_s))
    if "CookieTimeout" in given:
        raise invalid("CookieTimeout", "it is for the StickySessionType insert")
    if (sticky.type is not kind or before is None) and "Cookie" not in given:
        raise missing("Cookie")
    return StickySession(type=kind, cookie=given.text("Cookie", sticky.cookie))


# --- ours into an answer


def switch(on: bool) -> str:
    return "on" if on else "off"


def shown_scheduler(scheduler: Scheduler) -> str:
    """Ours that the API does not know are told by our names."""
    return next((word for word, each in SCHEDULERS.items() if each is scheduler), scheduler.value)


def shown_listener(listener: Listener) -> dict[str, object]:
    """What of a listener is the same for all protocols."""
    limited = listener.bandwidth_out_mbit_s or -1
    acl = listener.acl is not Acl.OFF
    found: dict[str, object] = {
        "ListenerPort": listener.port, "Status": "running" if listener.enabled else "stopped",
        "Bandwidth": limited, "Description": listener.description, "AclStatus": switch(acl),
    }  # fmt: skip
    if acl:
        found |= {"AclType": listener.acl.value, "AclId": listener.access_list}
        found["AclIds"] = {"AclId": [listener.access_list]}
    return found


def shown_l4(listener: Listener) -> dict[str, object]:
    """What only tcp and udp listeners have."""
    found: dict[str, object] = {"ProxyProtocolV2Enabled": False}
    if listener.protocol is Protocol.TCP:
        found |= {
            "EstablishedTimeout": listener.established_timeout_s, "PersistenceTimeout": listener.persistence_timeout_s,
            "ConnectionDrain": switch(listener.drain), "SynProxy": "disable",
        }  # fmt: skip
        if listener.drain:
            found["ConnectionDrainTimeout"] = listener.drain_timeout_s
    return found


def shown_l7(listener: Listener) -> dict[str, object]:
    """What only http and https listeners have."""
    found: dict[str, object] = {
        "IdleTimeout": listener.idle_timeout_s, "RequestTimeout": listener.request_timeout_s,
        "Gzip": switch(compresses(listener)), "SecurityStatus": "safe",
        **{name: switch(getattr(listener, field)) for name, field in FORWARDED.items()},
    }  # fmt: skip
    if listener.protocol is Protocol.HTTP:
        found["ListenerForward"] = switch(bool(listener.https_redirect_port))
        if listener.https_redirect_port:
            found["ForwardPort"] = listener.https_redirect_port
        return found
    policy = next(word for word, each in POLICIES.items() if each is listener.tls_policy)
    found |= {
        "TLSCipherPolicy": policy, "EnableHttp2": switch(listener.http2),
        "ServerCertificateId": listener.certificates[0],
    }  # fmt: skip
    if listener.ca_certificate:
        found["CACertificateId"] = listener.ca_certificate
    return found


def shown_check(check: HealthCheck | None, protocol: Protocol) -> dict[str, object]:
    """A health check, by the names that listeners of this protocol have for it."""
    is_l7 = protocol in (Protocol.HTTP, Protocol.HTTPS)
    found: dict[str, object] = {"HealthCheck": switch(check is not None)}
    if check is None:
        return found
    found |= {
        "HealthyThreshold": check.rise, "UnhealthyThreshold": check.fall, "HealthCheckInterval": int(check.interval_s),
        "HealthCheckTimeout" if is_l7 else "HealthCheckConnectTimeout": int(check.timeout_s),
        "HealthCheckConnectPort": check.port or SAME_PORT,
    }  # fmt: skip
    if check.type is CheckType.HTTP:
        codes = ",".join(f"http_{each}" if each.endswith("xx") else each for each in check.codes.split(","))
        found |= {
            "HealthCheckURI": check.uri, "HealthCheckDomain": check.domain, "HealthCheckHttpCode": codes,
            "HealthCheckMethod": check.method.value,
        }  # fmt: skip
    if check.type is CheckType.UDP:
        found |= {"HealthCheckReq": check.request, "HealthCheckExp": check.expect}
    elif not is_l7:
        found["HealthCheckType"] = check.type.value
    return found


def shown_sticky(sticky: StickySession | None) -> dict[str, object]:
    """A sticky session."""
    found: dict[str, object] = {"StickySession": switch(sticky is not None)}
    if sticky is not None:
        found["StickySessionType"] = sticky.type.value
        if sticky.type is StickyType.INSERT:
            found["CookieTimeout"] = sticky.cookie_timeout_s
        else:
            found["Cookie"] = sticky.cookie
    return found
