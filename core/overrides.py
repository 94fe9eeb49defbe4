"""Rules with a scheduler, health check or stickiness of their own: each makes a backend service of its own.

The service is that of the rule with what the rule overrides, named SERVICE@RULE, which no configured one can be. So
there is one mechanism: it has its own connections and counts, and its own checks where it has its own check; else the
checks of the service that it comes from count for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from core.model import BackendService, Model, Rule

FIELDS = ("scheduler", "hash_key", "health_check", "sticky_session")


def overridden(service: BackendService, rule: Rule) -> BackendService:
    """The service as this rule uses it; itself where the rule overrides nothing."""
    changes: dict[str, Any] = {name: value for name in FIELDS if (value := getattr(rule, name))}
    if not changes:
        return service
    if "scheduler" in changes:
        changes.setdefault("hash_key", "source")
    return replace(service, name=_name(service.name, rule), **changes)


def _overrides(rule: Rule) -> bool:
    """Whether it has any of FIELDS; asked of each of thousands of rules at each change."""
    return bool(rule.scheduler or rule.hash_key or rule.health_check or rule.sticky_session)


def as_used(rule: Rule) -> Rule:
    """The rule with the names of the services that it makes."""
    if not _overrides(rule):
        return rule
    service = rule.backend_service and _name(rule.backend_service, rule)
    split = tuple(replace(share, backend_service=_name(share.backend_service, rule)) for share in rule.split)
    return replace(rule, backend_service=service, split=split)


def made_by_rules(model: Model) -> Iterator[tuple[BackendService, BackendService, bool]]:
    """Each service that a rule makes, the one it comes from, and whether it has checks of its own."""
    for rule in model.rules.values():
        if _overrides(rule):
            for name in services_of(rule):
                service = model.backend_services[name]
                yield overridden(service, rule), service, rule.health_check is not None


def services_of(rule: Rule) -> list[str]:
    """The names of the backend services that a rule leads to."""
    return [rule.backend_service] if rule.backend_service else [share.backend_service for share in rule.split]


def configured(name: str) -> str:
    """The name of the configured service that a service is, or comes from."""
    return name.partition("@")[0]


def _name(service: str, rule: Rule) -> str:
    return f"{service}@{rule.name}"
