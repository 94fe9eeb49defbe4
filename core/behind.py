"""What stands behind a backend service, as checks ask for it: of thousands of listeners, a hundred servers each."""

from __future__ import annotations

from dataclasses import dataclass

from core.endpoints import is_loopback, version
from core.model import BackendService, Model, Server


@dataclass(frozen=True, slots=True)
class Behind:
    """A service's servers. `versions`: of their addresses; `loopback`: whether one is the machine itself."""

    servers: tuple[Server, ...]
    ports: frozenset[int]
    versions: frozenset[int]
    loopback: bool


class Groups:
    """The groups of a model, each looked at once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._made: dict[tuple[str, str], Behind] = {}

    def behind(self, service: BackendService) -> Behind:
        key = service.server_group, service.availability_group
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = _behind(servers_of(self.model, service))
        return found


def servers_of(model: Model, service: BackendService) -> tuple[Server, ...]:
    """The servers of a service of a model that may be unsound: none where there is no such group."""
    group = model.server_groups.get(service.server_group)
    spread = model.availability_groups.get(service.availability_group)
    return (group.servers if group else ()) + (spread.members if spread else ())


def _behind(servers: tuple[Server, ...]) -> Behind:
    return Behind(
        servers, frozenset(each.port for each in servers), frozenset(version(each.address) for each in servers),
        any(is_loopback(each.address) for each in servers),
    )  # fmt: skip
