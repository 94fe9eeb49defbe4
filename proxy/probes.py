"""Active health checks of an L7 node's servers: made once, by the supervisor, for all workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import cast

from control.node.probe import HealthMonitor, Target
from control.node.tasks import Tasks
from core.endpoints import endpoint
from core.model import MULTIPLEXED, Model
from core.resolve import l7_checked, l7_services, servers, upstream_tls

log = logging.getLogger(__name__)

ServerKey = tuple[str, str, int]  # backend service, address, port


class Probes:
    """`on_change`: some server is healthy, or unhealthy, from now on."""

    def __init__(self, on_change: Callable[[], None], tasks: Tasks) -> None:
        self._monitor = HealthMonitor(self._on_health, tasks)
        self._on_change = on_change
        self._checked: dict[str, str] = {}  # services without checks, and those whose checks count for them

    def watch(self, model: Model) -> None:
        """Probes the servers of this model from now on."""
        self._checked = l7_checked(model)
        self._monitor.watch(
            Target(
                (name, server.address, server.port),
                server.address,
                check.port or server.port,
                check,
                upstream_tls(model, service) if check.port in (0, server.port) else None,
                service.protocol in MULTIPLEXED and check.port in (0, server.port),
                service.proxy_protocol.version if check.port in (0, server.port) else 0,
            )
            for name, service in l7_services(model).items()
            if name not in self._checked and (check := service.health_check) is not None
            for server in servers(model, service)
        )
        self._on_change()

    def down(self) -> dict[str, list[list[object]]]:
        """The unhealthy servers by backend service, as workers are told of them."""
        down: dict[str, list[list[object]]] = {}
        for (service, address, port), (healthy, _) in self._states().items():
            if not healthy:
                down.setdefault(service, []).append([address, port])
        return down | {name: down[by] for name, by in self._checked.items() if by in down}

    def rows(self) -> list[dict[str, object]]:
        """As the control plane is told of them."""
        return [
            {"service": service, "server": endpoint(address, port), "healthy": healthy, "why": why}
            for (service, address, port), (healthy, why) in self._states().items()
        ]

    def _states(self) -> dict[ServerKey, tuple[bool, str]]:
        return cast(dict[ServerKey, tuple[bool, str]], self._monitor.states())

    def _on_health(self, key: Hashable, healthy: bool, why: str) -> None:
        service, address, port = cast(ServerKey, key)
        state = "healthy" if healthy else "unhealthy"
        log.warning("%s: %s is %s: %s", service, endpoint(address, port), state, why)
        self._on_change()
