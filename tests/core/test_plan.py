"""Plans are minimal, lead from the old model to the new one, and never let a reference dangle on the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.model import (
    BackendProtocol,
    BackendService,
    Instance,
    Kind,
    Listener,
    Model,
    Protocol,
    Rule,
    Server,
    ServerGroup,
)
from core.plan import Change, Operation, plan

GROUP = ServerGroup("g", (Server("10.0.0.1", 80),))
SERVICE = BackendService("b", BackendProtocol.HTTP, server_group="g")
OLD = Model(
    server_groups={"g": GROUP},
    backend_services={"b": SERVICE},
    instances={"i": Instance("i")},
    listeners={"l": Listener("l", "i", Protocol.HTTP, 80, "b")},
)


def test_nothing_to_do() -> None:
    assert plan(OLD, OLD) == plan(Model(), Model()) == ()


def test_from_nothing_and_back() -> None:
    made = [(change.op, change.kind) for change in plan(Model(), OLD)]
    kinds = [Kind.SERVER_GROUPS, Kind.BACKEND_SERVICES, Kind.INSTANCES, Kind.LISTENERS]
    assert made == [(Operation.CREATE, kind) for kind in kinds]
    gone = [(change.op, change.kind) for change in plan(OLD, Model())]
    assert gone == [(Operation.DELETE, kind) for kind in reversed(kinds)]


def test_only_what_differs_is_named_and_deletions_come_last() -> None:
    group = ServerGroup("g2", ())
    service = replace(SERVICE, server_group="g2")
    new = replace(OLD, server_groups={"g2": group}, backend_services={"b": service})
    assert plan(OLD, new) == (
        Change(Operation.CREATE, Kind.SERVER_GROUPS, "g2", None, group),
        Change(Operation.UPDATE, Kind.BACKEND_SERVICES, "b", SERVICE, service),
        Change(Operation.DELETE, Kind.SERVER_GROUPS, "g", GROUP, None),
    )


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Small models over few names, so that two of them overlap; every reference holds."""
    some = st.lists(st.sampled_from("abc"), unique=True)
    groups = draw(some)
    services = draw(some) if groups else []
    instances = draw(some)
    listeners = draw(some) if services and instances else []
    rules = draw(some) if listeners else []

    def one(names: list[str]) -> str:
        return draw(st.sampled_from(names))

    return Model(
        server_groups={n: ServerGroup(n, (Server("10.0.0.1", draw(st.integers(1, 2))),)) for n in groups},
        backend_services={n: BackendService(n, BackendProtocol.HTTP, one(groups)) for n in services},
        instances={n: Instance(n) for n in instances},
        listeners={n: Listener(n, one(instances), Protocol.HTTP, 80, one(services)) for n in listeners},
        rules={n: Rule(n, one(listeners), one(services)) for n in rules},
    )


def references(kind: Kind, item: Any) -> list[tuple[Kind, str]]:
    match kind:
        case Kind.BACKEND_SERVICES:
            return [(Kind.SERVER_GROUPS, item.server_group)]
        case Kind.LISTENERS:
            return [(Kind.INSTANCES, item.instance), (Kind.BACKEND_SERVICES, item.backend_service)]
        case Kind.RULES:
            return [(Kind.LISTENERS, item.listener), (Kind.BACKEND_SERVICES, item.backend_service)]
    return []


@given(models(), models())
def test_steps_lead_from_old_to_new_without_a_dangling_reference(old: Model, new: Model) -> None:
    state = {(kind, name): item for kind in Kind for name, item in old.of(kind).items()}
    for change in plan(old, new):
        assert state.get((change.kind, change.name)) == change.old
        assert (change.old == change.new) == (change.op is Operation.MOVE)
        if change.new is None:
            del state[change.kind, change.name]
        else:
            state[change.kind, change.name] = change.new
        for (kind, _), item in state.items():
            assert all(target in state for target in references(kind, item))
    assert state == {(kind, name): item for kind in Kind for name, item in new.of(kind).items()}


def ordered(*names: str, **urls: str) -> Model:
    return replace(OLD, rules={name: Rule(name, "l", "b", url=urls.get(name, "/")) for name in names})


def test_rules_in_another_order_are_another_configuration() -> None:
    assert ordered("a", "b") != ordered("b", "a")
    assert ordered("a", "b") == ordered("a", "b")
    backwards = dict(reversed(ordered("a", "b").rules.items()))
    assert ordered("a", "b") != replace(OLD, rules=backwards)


@pytest.mark.parametrize(
    ("old", "new", "moved"),
    [
        ("abcd", "abcd", ""),
        ("abcd", "dabc", "d"),
        ("abcd", "bcda", "a"),
        ("abcd", "abdc", "d"),
        ("abcdef", "afbcde", "f"),
        ("abcd", "dcba", "dcb"),
        ("abcd", "xcdyab", "cd"),  # two of four have to move, those that are new and those that go do not count
        ("axbyc", "abc", ""),
    ],
)
def test_the_fewest_rules_move(old: str, new: str, moved: str) -> None:
    before, after = ordered(*old), ordered(*new)
    steps = [change for change in plan(before, after) if change.op is Operation.MOVE]
    names = [change.name for change in steps]
    assert len(names) == len(moved)
    stay = [name for name in old if name in new and name not in names]
    assert stay == [name for name in new if name in old and name not in names]
    assert all(change.kind is Kind.RULES and change.old == change.new for change in steps)


def test_a_rule_that_is_changed_as_well_is_updated() -> None:
    steps = plan(ordered("a", "b"), ordered("b", "a", a="/x/"))
    assert (steps[0].op, steps[0].name) == (Operation.UPDATE, "a")
    changed_alone = plan(ordered("a", "b"), ordered("b", "a", b="/x/"))
    assert [(step.op, step.name) for step in changed_alone if step.name == "b"] == [(Operation.UPDATE, "b")]
    assert [step.name for step in steps].count("a") == 1, "it is named once"
