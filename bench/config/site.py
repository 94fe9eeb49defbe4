"""What is configured: 10,000 listeners, rules and servers; and the one rule that changes. Pure."""

from __future__ import annotations

from typing import Any, Final

SIZE: Final = 10_000
GROUPS: Final = 100
VIP: Final = "127.73.0.1"
FIRST_PORT: Final = 20_000
WATCHED: Final = "watched"

Document = dict[str, list[dict[str, Any]]]


def site(backend: int, size: int = SIZE) -> Document:
    """The whole configuration; the first http listener leads to the back end, and has the rule that changes."""
    half, each = size // 2, size // GROUPS
    listeners = [
        {"name": f"http-{n}", "instance": "alb", "protocol": "http", "port": FIRST_PORT + n,
         "backend_service": f"http-{n % GROUPS}"}
        for n in range(half)
    ] + [
        {"name": f"tcp-{n}", "instance": "nlb", "protocol": "tcp", "port": FIRST_PORT + n,
         "backend_service": f"tcp-{n % GROUPS}"}
        for n in range(half)
    ]  # fmt: skip
    listeners[0]["backend_service"] = "backend"
    rules = [
        {"name": f"rule-{n}", "listener": f"http-{1 + n % (half - 1)}", "domain": f"d{n}.example.com", "url": "/items",
         "backend_service": f"http-{(n + 1) % GROUPS}"}
        for n in range(size - 1)
    ]  # fmt: skip
    groups = [
        {"name": f"group-{g}", "servers": [{"address": f"10.7.{g}.{n + 1}", "port": 8080} for n in range(each)]}
        for g in range(GROUPS)
    ]
    services = [
        {"name": f"{protocol}-{g}", "protocol": protocol, "server_group": f"group-{g}", "health_check": False}
        for protocol in ("http", "tcp")
        for g in range(GROUPS)
    ]
    here: dict[str, Any] = {"name": "backend", "servers": [{"address": "127.0.0.1", "port": backend}]}
    service = {"name": "backend", "protocol": "http", "server_group": "backend", "health_check": False}
    return {
        "server_groups": [here, *groups],
        "backend_services": [service, *services],
        "instances": [{"name": "alb", "vips": [VIP]}, {"name": "nlb", "type": "nlb", "vips": ["192.0.2.1"]}],
        "listeners": listeners,
        "rules": [watched(0), *rules],
    }


def watched(number: int) -> dict[str, Any]:
    """The rule that changes: its reply is the number."""
    return {"name": WATCHED, "listener": "http-0", "path": "/number", "fixed_reply": {"body": str(number)}}
