"""DescribeHealthStatus, by what the nodes report. Pure.

A server is `abnormal` where any node that reports says so, `normal` where one says that it is healthy and none that it
is not, and `unavailable` where nobody checks it: health checks are off, its listener is stopped, or no node reports.
"""

from __future__ import annotations

from collections.abc import Iterator

from control.alibaba import balancers, services
from control.alibaba.call import Action, Answer, Call
from control.alibaba.parameters import number, text, word
from control.cloud.health import key, reported
from core.model import BackendService, Listener, Model, Protocol, Server


def describe(call: Call, model: Model) -> Answer:
    given = call.given
    balancer = balancers.find(model, given.text("LoadBalancerId"))
    found = [
        each for each in balancer.listeners(model)
        if given.number("ListenerPort", each.port) == each.port
        and given.text("ListenerProtocol", each.protocol.value) == each.protocol.value
    ]  # fmt: skip
    if not found and "ListenerPort" in given:
        balancer.listener(model, None, given.number("ListenerPort", 0))  # which says that there is none
    said = reported(call.statuses)
    rows = [row for listener in found for row in _rows(model, listener, said)]
    return {"BackendServers": {"BackendServer": rows}}


def _rows(model: Model, listener: Listener, said: dict[tuple[str, str], bool]) -> Iterator[dict[str, object]]:
    """The servers of a listener and of its rules, each once."""
    seen = set()
    for service in _services(model, listener):
        for server in _servers(model, service):
            status = _status(listener, service, server, said)
            if (server.address, server.port) not in seen:
                seen.add((server.address, server.port))
                yield {
                    "ServerId": server.address, "ServerIp": server.address, "Port": server.port,
                    "ListenerPort": listener.port, "Protocol": listener.protocol.value, "ServerHealthStatus": status,
                }  # fmt: skip


def _services(model: Model, listener: Listener) -> Iterator[BackendService]:
    own = services.of_listener(model, listener)
    if own is not None:
        yield own
    for rule in model.rules.values():
        service = model.backend_services.get(rule.backend_service)
        if rule.listener == listener.name and service is not None:
            yield service


def _servers(model: Model, service: BackendService) -> tuple[Server, ...]:
    group = model.server_groups.get(service.server_group)
    spread = model.availability_groups.get(service.availability_group)
    return (group.servers if group else ()) + (spread.members if spread else ())


def _status(listener: Listener, service: BackendService, server: Server, said: dict[tuple[str, str], bool]) -> str:
    if service.health_check is None or not listener.enabled:
        return "unavailable"
    healthy = said.get(key(service, server))
    return "unavailable" if healthy is None else "normal" if healthy else "abnormal"


ACTIONS = (
    Action(
        "DescribeHealthStatus",
        (
            text("LoadBalancerId", 80, required=True), number("ListenerPort", 1, 65535),
            word("ListenerProtocol", *(each.value for each in Protocol)),
        ),
        look=describe,
    ),
)  # fmt: skip
