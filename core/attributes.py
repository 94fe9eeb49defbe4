"""The attributes that other clouds' users know, and ours: docs/attributes.md, written from the model.

Names are those of Alibaba Cloud's SLB API 2014-05-15 and of JD Cloud's LB API, less their capitals. Each stands beside
our attribute, whose range and default are read from the model, and the file that enforces it (a page, where it is for
people, or for everybody who goes by it); or beside the reason why there is none. `python -m core.attributes >
docs/attributes.md` writes the page; a test compares, looks every attribute up in the file that is said to enforce it,
and holds the list of names to what we have set out to adopt.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.model import (
    AvailabilityGroup,
    BackendService,
    Certificate,
    HealthCheck,
    Instance,
    Listener,
    Rule,
    Server,
    StickySession,
)
from core.reader import fields
from core.reference import default_of, value_of

LATER = "a later step: "


@dataclass(frozen=True, slots=True)
class Row:
    """A cloud's attribute; ours (`None` where there is none), and where it is enforced, or why not."""

    theirs: str
    owner: type | None
    ours: str
    where: str


def _no(theirs: str, why: str) -> Row:
    return Row(theirs, None, "", why)


WEB = (
    Row("port", Listener, "port", "core/checks_listeners.py"),
    Row("scheduler", BackendService, "scheduler", "proxy/balance.py"),
    Row("bandwidth (−1: none)", Listener, "bandwidth_in_mbit_s", "core/limits.py"),
    Row("sticky_session", BackendService, "sticky_session", "proxy/worker.py"),
    Row("sticky_session_type", StickySession, "type", "proxy/sticky.py"),
    Row("cookie_timeout", StickySession, "cookie_timeout_s", "proxy/sticky.py"),
    Row("cookie", StickySession, "cookie", "proxy/sticky.py"),
    Row("health_check", BackendService, "health_check", "core/resolve.py"),
    Row("idle_timeout", Listener, "idle_timeout_s", "proxy/conn.py"),
    Row("request_timeout", Listener, "request_timeout_s", "proxy/deadlines.py"),
    Row("gzip", Listener, "compression", "proxy/answering.py"),
    Row("http2", Listener, "http2", "proxy/tls_profile.py"),
    Row("listener_forward, forward_port", Listener, "https_redirect_port", "proxy/worker.py"),
    Row("acl_status, acl_type", Listener, "acl", "core/resolve.py"),
    Row("acl_id", Listener, "access_list", "core/resolve.py"),
    Row("x_forwarded_for", Listener, "x_forwarded_for", "proxy/origin.py"),
    Row("x_forwarded_for_slb_ip", Listener, "x_forwarded_slb_ip", "proxy/origin.py"),
    Row("x_forwarded_for_slb_id", Listener, "x_forwarded_slb_id", "proxy/origin.py"),
    Row("x_forwarded_for_proto", Listener, "x_forwarded_proto", "proxy/origin.py"),
    Row("x_forwarded_for_slb_port", Listener, "x_forwarded_port", "proxy/origin.py"),
    Row("x_forwarded_for_client_src_port", Listener, "x_forwarded_client_port", "proxy/origin.py"),
    Row("tls_cipher_policy", Listener, "tls_policy", "proxy/tls_profile.py"),
    _no("tls_cipher_policy_1_0, _1_1", "RFC 8996 forbids TLS 1.0 and 1.1, and no key server of ours "
        "signs their handshakes ([decision 0043](decisions/0043-no-old-tls.md))"),
    Row("server_certificate, extra domains", Listener, "certificates", "core/resolve.py"),
    Row("domain_extension", Certificate, "domains", "core/acme.py"),
    Row("ca_certificate", Listener, "ca_certificate", "core/resolve.py"),
    Row("hsts", Listener, "hsts_max_age_s", "proxy/headers.py"),
    Row("qps", Listener, "rate_limits", "proxy/demands.py"),
    Row("max_connection (JD Cloud)", Listener, "max_connections", "core/limits.py"),
    Row("cps (JD Cloud)", Listener, "max_new_connections_per_s", "core/limits.py"),
)  # fmt: skip

STREAM = (
    Row("established_timeout", Listener, "established_timeout_s", "core/resolve.py"),
    Row("persistence_timeout", Listener, "persistence_timeout_s", "l4fast/version_tables.py"),
    Row("connection_drain", Listener, "drain", "core/resolve.py"),
    Row("connection_drain_timeout", Listener, "drain_timeout_s", "l4fast/leaving.py"),
    _no("proxy_protocol", "the L4 tier forwards packets and adds no bytes to a connection; nat, dr and tunnel leave "
        "the client's address in place. Listeners of http and https take it, backend services of http send it"),
    Row("health_check_type", HealthCheck, "type", "control/node/probe.py"),
    Row("scheduler wrr, wlc, rr, sch, tch", BackendService, "scheduler", "l4fast/version_tables.py"),
    Row("udp idle (JD Cloud)", Listener, "udp_idle_timeout_s", "core/resolve.py"),
    Row("bandwidth of answers", Listener, "bandwidth_out_mbit_s", "core/limits.py"),
)  # fmt: skip

CHECKS = (
    Row("health_check_interval", HealthCheck, "interval_s", "control/node/probe.py"),
    Row("health_check_timeout, health_check_connect_timeout", HealthCheck, "timeout_s", "control/node/probe.py"),
    Row("healthy_threshold", HealthCheck, "rise", "core/health.py"),
    Row("unhealthy_threshold", HealthCheck, "fall", "core/health.py"),
    Row("health_check_method", HealthCheck, "method", "control/node/probe.py"),
    Row("health_check_uri", HealthCheck, "uri", "control/node/probe.py"),
    Row("health_check_domain", HealthCheck, "domain", "control/node/probe.py"),
    Row("health_check_http_code", HealthCheck, "codes", "control/node/probe.py"),
    Row("health_check_connect_port", HealthCheck, "port", "core/resolve.py"),
    Row("health_check_req", HealthCheck, "request", "control/node/probe.py"),
    Row("health_check_exp", HealthCheck, "expect", "control/node/probe.py"),
)

SERVERS = (
    Row("server_ip, server_id", Server, "address", "core/resolve.py"),
    Row("port", Server, "port", "core/resolve.py"),
    Row("weight", Server, "weight", "core/schedule.py"),
    Row("zone", Server, "zone", "core/spread.py"),
    Row("rack", Server, "rack", "core/spread.py"),
)

RULES = (
    Row("rule_name", Rule, "name", "core/checks_rules.py"),
    Row("domain", Rule, "domain", "core/rules.py"),
    Row("url", Rule, "url", "core/rules.py"),
    Row("v_server_group_id", Rule, "backend_service", "proxy/rules.py"),
    Row("priority", Rule, "priority", "core/rules.py"),
    Row("action redirect", Rule, "redirect", "proxy/actions.py"),
    Row("action fixed_response", Rule, "fixed_reply", "proxy/rules.py"),
    Row("action rewrite", Rule, "rewrite", "proxy/actions.py"),
    Row("action insert_header, remove_header (requests)", Rule, "request_headers", "proxy/rules.py"),
    Row("action insert_header, remove_header (answers)", Rule, "response_headers", "proxy/rules.py"),
    Row("action traffic_limit", Rule, "rate_limits", "proxy/demands.py"),
    Row("action traffic_mirror", Rule, "mirror", "proxy/demands.py"),
    Row("listener_sync off: scheduler", Rule, "scheduler", "core/overrides.py"),
    Row("listener_sync off: sticky_session", Rule, "sticky_session", "core/overrides.py"),
    Row("listener_sync off: health_check", Rule, "health_check", "core/overrides.py"),
)

SERVICES = (
    Row("protocol", BackendService, "protocol", "core/checks.py"),
    _no("port of a backend service (JD Cloud)", "each server has a port of its own, which may differ between servers"),
    Row("algorithm", BackendService, "scheduler", "core/schedule.py"),
    Row("target_group_ids", BackendService, "server_group", "core/resolve.py"),
    Row("ag_ids", BackendService, "availability_group", "core/resolve.py"),
    Row("health_check_spec", BackendService, "health_check", "core/resolve.py"),
    Row("http_forwarded_* (JD Cloud)", Listener, "x_forwarded_proto", "proxy/origin.py"),
    Row("connect_timeout", BackendService, "connect_timeout_s", "proxy/carrier.py"),
    Row("idle timeout towards servers", BackendService, "idle_timeout_s", "proxy/deadlines.py"),
    Row("proxy_protocol (JD Cloud)", BackendService, "proxy_protocol", "proxy/service.py"),
    Row("max_connections of a server", BackendService, "server_max_connections", "proxy/pool.py"),
)

INSTANCES = (
    Row("type alb, nlb, dnlb (JD Cloud)", Instance, "type", "core/checks_listeners.py"),
    Row("address, address_ip_version", Instance, "vips", "core/resolve.py"),
    Row("bandwidth of an instance", Instance, "bandwidth_in_mbit_s", "core/limits.py"),
    Row("bandwidth of an instance, answers", Instance, "bandwidth_out_mbit_s", "core/limits.py"),
    Row("modification_protection_status", Instance, "modification_protection", "docs/configuration.md"),
    Row("delete_protection", Instance, "deletion_protection", "docs/configuration.md"),
    Row("tags", Instance, "tags", "docs/configuration.md"),
    Row("description", Instance, "description", "docs/configuration.md"),
    Row("start, stop of a listener", Listener, "enabled", "core/resolve.py"),
)

SECTIONS = {
    "HTTP and HTTPS listeners": WEB,
    "TCP and UDP listeners": STREAM,
    "Health checks": CHECKS,
    "Servers": SERVERS,
    "Rules": RULES,
    "Backend services": SERVICES,
    "Instances": INSTANCES,
}
KINDS = {
    AvailabilityGroup: "availability_groups",
    BackendService: "backend_services",
    Certificate: "certificates",
    HealthCheck: "health_check",
    Instance: "instances",
    Listener: "listeners",
    Rule: "rules",
    Server: "servers",
    StickySession: "sticky_session",
}

INTRODUCTION = """\
# Attributes

What Alibaba Cloud's SLB API (2014-05-15) and JD Cloud's LB API call an attribute, and where it is here; all attributes
of ours, with what they mean, are in [configuration](configuration.md). Times carry their unit in the name. What a
cloud counts from −1 (none) is 0 here. A new listener starts at once; at Alibaba it is stopped until it is started.
"""


def page() -> str:
    """The whole page, as Markdown."""
    parts = [INTRODUCTION]
    for title, rows in SECTIONS.items():
        parts.append(f"## {title}\n\n| theirs | ours | value | default | where it is enforced, or why not |")
        parts.append("| --- | --- | --- | --- | --- |")
        parts += [_line(row) for row in rows]
        parts.append("")
    return "\n".join(parts)


def _line(row: Row) -> str:
    if row.owner is None:
        return f"| {row.theirs} | | | | {row.where} |"
    field = next(field for field in fields(row.owner) if field.name == row.ours)
    value, default = value_of(row.owner, field.name, field.annotation), default_of(field)
    # Links lead to places in the page of the configuration.
    value = value.replace("](#", "](configuration.md#")
    return f"| {row.theirs} | `{KINDS[row.owner]}.{row.ours}` | {value} | {default} | `{row.where}` |"


if __name__ == "__main__":
    print(page(), end="")
