"""Rules that use a backend service in their own way."""

from __future__ import annotations

from core.model import (
    BackendProtocol,
    BackendService,
    HealthCheck,
    Instance,
    Listener,
    Model,
    Protocol,
    Rule,
    Scheduler,
    ServerGroup,
    Share,
    StickySession,
)
from core.overrides import as_used, configured, overridden
from core.resolve import l7_checked, l7_listeners, l7_services

APP = BackendService("app", BackendProtocol.HTTP, "g", scheduler=Scheduler.CH, hash_key="path", fallback="other")
OTHER = BackendService("other", BackendProtocol.HTTP, "g")
CHECK = HealthCheck(interval_s=9)


def model(*rules: Rule) -> Model:
    return Model(
        server_groups={"g": ServerGroup("g")},
        backend_services={"app": APP, "other": OTHER},
        instances={"i": Instance("i")},
        listeners={"web": Listener("web", "i", Protocol.HTTP, 80)},
        rules={rule.name: rule for rule in rules},
    )


def test_what_overrides_nothing_makes_nothing() -> None:
    plain = Rule("plain", "web", "app", request_headers=())
    assert overridden(APP, plain) is APP
    assert as_used(plain) is plain
    assert set(l7_services(model(plain))) == {"app", "other"}
    assert l7_checked(model(plain)) == {}


def test_a_service_of_the_rules_own() -> None:
    rule = Rule("r", "web", "app", scheduler=Scheduler.LC, health_check=CHECK, sticky_session=StickySession())
    made = l7_services(model(rule))["app@r"]
    assert (made.name, made.scheduler, made.health_check, made.sticky_session) == (
        "app@r", Scheduler.LC, CHECK, StickySession(),
    )  # fmt: skip
    assert (made.server_group, made.fallback) == ("g", "other")
    assert made.hash_key == "source"  # lc hashes nothing
    (listener,) = l7_listeners(model(rule))
    assert listener.rules[0].backend_service == "app@r"
    assert l7_checked(model(rule)) == {}
    assert configured(made.name) == "app"


def test_checks_are_shared_unless_the_rule_has_its_own() -> None:
    hashed = Rule("h", "web", "other", scheduler=Scheduler.CH, hash_key="cookie:id")
    split = Rule("s", "web", split=(Share("app", 1), Share("other", 9)), sticky_session=StickySession())
    wanted = model(hashed, split, Rule("c", "web", "app", health_check=CHECK))
    services = l7_services(wanted)
    assert set(services) == {"app", "other", "other@h", "app@s", "other@s", "app@c"}
    assert services["other@h"].hash_key == "cookie:id"
    assert l7_checked(wanted) == {"other@h": "other", "app@s": "app", "other@s": "other"}
    (listener,) = l7_listeners(wanted)
    assert listener.rules[1].split == (Share("app@s", 1), Share("other@s", 9))
