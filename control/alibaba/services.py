"""The backend service that a listener or a rule has for itself, and the server group behind it. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any

from control.alibaba import marks, servers
from control.alibaba.balancers import Balancer
from control.alibaba.call import Draft, identity_of
from control.alibaba.errors import denied, no_group
from control.references import referrers
from core.checks_listeners import BACKENDS_OF
from core.fields import Kind
from core.model import BackendService, Listener, Model, Protocol, Rule, ServerGroup

SYNC = "sync"  # "off": a rule whose scheduler, health check and sticky session are its own


def of_listener(model: Model, listener: Listener) -> BackendService | None:
    """The backend service that a listener forwards to."""
    return model.backend_services.get(listener.backend_service)


def new(name: str, protocol: Protocol, group: str, **more: Any) -> BackendService:
    return BackendService(name, BACKENDS_OF[protocol][0], server_group=group, **more)


def check_group(model: Model, identity: str) -> ServerGroup:
    """The VServer group of this ID. Raises SlbError."""
    group = model.server_groups.get(identity)
    if group is None or servers.is_default(identity):
        raise no_group(identity)
    return group


def put_own(draft: Draft, service: BackendService, owner: tuple[Kind, str], name: str) -> str:
    """Change a service for its owner alone: one that others use too is left to them, and a copy made. Its name."""
    others = set(referrers(draft.model, Kind.BACKEND_SERVICES, service.name)) - {owner}
    if others:
        service = dataclasses.replace(service, name=name)
    draft.put(service)
    return service.name


def sync_rules(draft: Draft, listener: Listener, service: BackendService) -> None:
    """Have the rules of a listener that go by its settings go by these."""
    for rule in draft.model.rules.values():
        own = draft.model.backend_services.get(rule.backend_service)
        if rule.listener != listener.name or own is None or own.name != rule.name:
            continue
        if marks.mark(own.tags).get(SYNC) != "off":
            draft.put(as_listener(own, service))


def as_listener(own: BackendService, service: BackendService) -> BackendService:
    """A rule's service with what a listener's says of servers."""
    return dataclasses.replace(
        own, scheduler=service.scheduler, health_check=service.health_check, sticky_session=service.sticky_session
    )


def remove_rule(draft: Draft, rule: Rule) -> None:
    """Remove a rule, and the service that was its own."""
    draft.delete(Kind.RULES, rule.name)
    for name in {rule.backend_service, *(share.backend_service for share in rule.split)} - {""}:
        _remove_service(draft, name)


def remove_listener(draft: Draft, balancer: Balancer, listener: Listener) -> None:
    """Remove a listener with its rules, and what then serves nobody."""
    for rule in draft.model.rules.values():
        if rule.listener == listener.name:
            remove_rule(draft, rule)
    draft.delete(Kind.LISTENERS, listener.name)
    own_list = own_white_list(listener)
    if own_list in draft.model.access_lists and draft.is_left(Kind.ACCESS_LISTS, own_list):
        draft.delete(Kind.ACCESS_LISTS, own_list)
    if listener.backend_service:
        _remove_service(draft, listener.backend_service, balancer.id)


def own_white_list(listener: Listener) -> str:
    """The name of the white list that a listener has for itself."""
    return identity_of("wl", listener.name)


def _remove_service(draft: Draft, name: str, balancer: str = "") -> None:
    """Remove a service that nothing else uses, with its group if that is one of default servers."""
    service = draft.model.backend_services.get(name)
    if service is None or not draft.is_left(Kind.BACKEND_SERVICES, name):
        return
    draft.delete(Kind.BACKEND_SERVICES, name)
    remove_unused_default(draft, balancer, service.server_group)


def remove_unused_default(draft: Draft, balancer: str, group: str) -> None:
    """Remove a group of default servers on a port that no listener has of them any more."""
    if balancer and servers.default_port(balancer, group) is not None and draft.is_left(Kind.SERVER_GROUPS, group):
        draft.delete(Kind.SERVER_GROUPS, group)


def target(draft: Draft, balancer: Balancer, group: str, port: int) -> str:
    """The server group that a listener is to have: a VServer group, or the default servers on a port."""
    if group:
        owner = marks.mark(check_group(draft.model, group).tags).get("lb", balancer.id)
        if owner != balancer.id:
            raise denied(f"The VServer group {group} belongs to {owner}, and not to {balancer.id}.")
        return group
    return servers.default_group(draft, balancer.id, port)
