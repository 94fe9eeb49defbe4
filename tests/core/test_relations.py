"""Which objects may share which, and what is said of each reference that leads nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

import pytest

from core.config import from_dict
from core.errors import ConfigErrors
from core.fields import Ref
from core.model import CLASSES, Kind
from core.reader import fields, split
from core.resolve import l4_services, l7_listeners, l7_services, servers

ONE, TWO = {"address": "10.0.0.1", "port": 80, "zone": "a"}, {"address": "10.0.0.2", "port": 80, "zone": "b"}


def service(name: str, protocol: str = "http", **group: str) -> dict[str, str]:
    return {"name": name, "protocol": protocol, **group}


def listener(name: str, instance: str, protocol: str, port: int, target: str) -> dict[str, Any]:
    return {"name": name, "instance": instance, "protocol": protocol, "port": port, "backend_service": target}


INSTANCES = [
    {"name": "web", "vips": ["192.0.2.1"]}, {"name": "more", "vips": ["192.0.2.2"]},
    {"name": "fast", "type": "nlb", "vips": ["192.0.2.3"]}, {"name": "flat", "type": "dnlb", "vips": ["192.0.2.4"]},
]  # fmt: skip


def test_listeners_share_a_backend_service_and_rules_do_too() -> None:
    model = from_dict({
        "server_groups": [{"name": "g", "servers": [ONE]}], "backend_services": [service("s", server_group="g")],
        "instances": INSTANCES,
        "listeners": [listener("l", "web", "http", 80, "s"), listener("m", "web", "http", 8080, "s"),
                      listener("n", "more", "http", 80, "s")],
        "rules": [{"name": "r", "listener": "l", "backend_service": "s", "url": "/a"},
                  {"name": "q", "listener": "m", "split": [{"backend_service": "s"}], "url": "/a"}],
    })  # fmt: skip
    assert {each.listener.backend_service for each in l7_listeners(model)} == {"s"}
    assert list(l7_services(model)) == ["s"]


@pytest.mark.parametrize("kind", ["server_group", "availability_group"])
def test_services_share_a_group(kind: str) -> None:
    group = {"name": "g", "servers" if kind == "server_group" else "members": [ONE, TWO]}
    model = from_dict(
        {f"{kind}s": [group], "backend_services": [service("s", **{kind: "g"}), service("t", **{kind: "g"})]}
    )
    of = [servers(model, each) for each in model.backend_services.values()]
    assert of[0] == of[1]
    assert [server.address for server in of[0]] == ["10.0.0.1", "10.0.0.2"]


def test_a_server_stands_in_several_groups() -> None:
    model = from_dict({
        "server_groups": [{"name": "g", "servers": [ONE]}, {"name": "h", "servers": [ONE, TWO]}],
        "availability_groups": [{"name": "g", "members": [ONE, TWO]}],
    })  # fmt: skip
    assert [len(group.servers) for group in model.server_groups.values()] == [1, 2]
    assert len(model.availability_groups["g"].members) == 2


def test_an_availability_group_serves_several_instances_on_both_layers() -> None:
    model = from_dict({
        "availability_groups": [{"name": "g", "members": [ONE, TWO]}],
        "backend_services": [service("s", availability_group="g"), service("t", "tcp", availability_group="g")],
        "instances": INSTANCES,
        "listeners": [listener("l", "web", "http", 80, "s"), listener("m", "more", "http", 80, "s"),
                      listener("n", "fast", "tcp", 25, "t")],
    })  # fmt: skip
    (l4,) = (each for each in l4_services(model) if each.listener == "n")
    assert [real.address for real in l4.reals] == ["10.0.0.1", "10.0.0.2"]
    assert [each.address for each in servers(model, model.backend_services["s"])] == ["10.0.0.1", "10.0.0.2"]


def references() -> Iterator[tuple[Kind, tuple[str, ...], Kind]]:
    """Every field that names another object: kind, way to it, and the kind that is named."""

    def of(cls: type) -> Iterator[tuple[tuple[str, ...], Kind]]:
        for field in fields(cls):
            bare, constraints = split(field.annotation)
            if get_origin(bare) is tuple:
                inner, constraints = split(get_args(bare)[0])
                if isinstance(inner, type) and is_dataclass(inner):
                    yield from (((field.name, *way), target) for way, target in of(inner))
            yield from (((field.name,), each.kind) for each in constraints if isinstance(each, Ref))

    for kind, cls in CLASSES.items():
        yield from ((kind, way, target) for way, target in of(cls))


def test_there_are_references_to_check() -> None:
    found = set(references())
    assert (Kind.RULES, ("split", "backend_service"), Kind.BACKEND_SERVICES) in found
    assert (Kind.LISTENERS, ("certificates",), Kind.CERTIFICATES) in found
    assert len(found) >= 13


LEAST: dict[Kind, dict[str, object]] = {
    Kind.AUTHENTICATIONS: {"forward": {}},
    Kind.BACKEND_SERVICES: {"protocol": "http"},
    Kind.LISTENERS: {"instance": "default", "protocol": "https", "port": 443},
    Kind.RULES: {"listener": "default"},
}


@pytest.mark.parametrize(
    ("kind", "way", "target"),
    [pytest.param(*each, id=f"{each[0]}-{'-'.join(each[1])}") for each in references()],
)
def test_a_reference_that_leads_nowhere_is_said_with_what_there_is(
    kind: Kind, way: tuple[str, ...], target: Kind
) -> None:
    lists = {field.name for field in fields(CLASSES[kind]) if get_origin(split(field.annotation)[0]) is tuple}
    value: Any = "mian"
    for name in reversed(way[1:]):
        value = {name: value}
    table = {"name": "x", **LEAST[kind], way[0]: [value] if way[0] in lists else value}
    place = f"{kind}.x.{way[0]}" + ("[0]" if way[0] in lists else "") + "".join(f".{name}" for name in way[1:])
    with pytest.raises(ConfigErrors) as caught:
        from_dict({kind.value: [table], **({target.value: [{"name": "main"}]} if target is not kind else {})})
    near = "did you mean main?" if target is not kind else "did you mean"
    said = f"{place}: none of the {target.value.replace('_', ' ')} is named 'mian'"
    assert any(said in line for line in str(caught.value).split("\n")), str(caught.value)
    assert target is kind or any(near in line for line in str(caught.value).split("\n"))
