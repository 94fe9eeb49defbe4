"""What the nodes report of servers, taken together. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from control.reconcile import NodeStatus, Step
from control.watching import picture
from core.endpoints import endpoint
from core.model import L7_BACKENDS, BackendService, Server


def reported(statuses: Iterable[NodeStatus]) -> dict[tuple[str, str], bool]:
    """Whether a server is healthy, by `key`: not where any node says that it is not. Who is silent is not asked."""
    servers = picture(each for each in statuses if each.step is not Step.SILENT).servers
    said = {(service, server): True for _, _, service, server in servers}
    for (_, _, service, server), (healthy, _) in servers.items():
        said[service, server] &= healthy
    return said


def key(service: BackendService, server: Server) -> tuple[str, str]:
    """What nodes call a server of a service: the L4 tier by its address alone."""
    at = endpoint(server.address, server.port)
    return (service.name, at) if service.protocol in L7_BACKENDS else ("", f"{at}/{service.protocol.value}")
