"""Checking the part of a configuration that a change affects finds what checking the whole does."""

import random
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import StrEnum
from typing import Any, get_args, get_origin

import pytest

from core.affected import part
from core.config import from_dict, revised, to_dict
from core.errors import ConfigErrors
from core.fields import Address, Kind, Pairs, Pattern, Range, Ref
from core.model import CLASSES, Model
from core.reader import fields, optional, split

Table = dict[str, Any]
Tables = dict[tuple[Kind, str], Table | None]

ADDRESSES = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "127.0.0.1", "2001:db8::1")
WORDS = {"/": ("/a", "/a/b", "/"), "a host": ("a.example", "*.example", "b.example"), "a method": ("GET", "CONNECT")}
STEPS = 60
BASE: dict[str, list[Table]] = {
    "server_groups": [{"name": "s0", "servers": [{"address": "192.0.2.1", "port": 8080}]}],
    "certificates": [{"name": "c0", "domains": ["a.example"]}],
    "backend_services": [
        {"name": "b0", "protocol": "http", "server_group": "s0"},
        {"name": "b1", "protocol": "tcp", "server_group": "s0"},
    ],
    "instances": [
        {"name": "i0", "type": "alb", "vips": ["203.0.113.1"]},
        {"name": "i1", "type": "nlb", "vips": ["203.0.113.2"]},
        {"name": "i2", "type": "alb"},
    ],
}


def value(annotation: object, known: dict[str, dict[str, Table]], rng: random.Random) -> Any:
    """Something that a field may hold; seldom a name of nothing."""
    bare, constraints = split(annotation)
    inner = optional(bare)
    if inner is not None:
        return False if rng.random() < 0.5 else value(inner, known, rng)
    for each in constraints:
        match each:
            case Ref(kind):
                return rng.choice([*known.get(kind.value, ()), *(["", "missing"] if rng.random() < 0.2 else []), ""])
            case Range(low, high):
                near = [port for port in (80, 81, 443, low, high) if low <= port <= high]
                return int(rng.choice(near)) if bare is int else rng.choice(near)
            case Address(network=True):
                return "192.0.2.0/24"
            case Address(versions=versions):
                return rng.choice([address for address in ADDRESSES if (6 if ":" in address else 4) in versions])
            case Pairs():
                return {}
            case Pattern(what=what):
                return rng.choice(next((words for start, words in WORDS.items() if start in what), ("a",)))
    if get_origin(bare) is tuple:
        return [value(get_args(bare)[0], known, rng) for _ in range(rng.randrange(3))]
    if isinstance(bare, type) and is_dataclass(bare):
        return {
            field.name: value(field.annotation, known, rng)
            for field in fields(bare)
            if field.required or rng.random() < 0.3
        }
    if isinstance(bare, type) and issubclass(bare, StrEnum):
        return rng.choice([member.value for member in bare])
    return rng.random() < 0.5 if bare is bool else "a"


def plain(kind: Kind, name: str, known: dict[str, dict[str, Table]], rng: random.Random) -> Table:
    """An object as most are."""

    def one(of: Kind, **having: str) -> str:
        fit = [each["name"] for each in known.get(of.value, {}).values() if having.items() <= each.items()]
        return str(rng.choice(fit or ["missing"]))

    servers = [{"address": rng.choice(ADDRESSES), "port": rng.choice((80, 443, 8080)), "zone": z} for z in "ab"]
    match kind:
        case Kind.NODES:
            role = rng.choice(("l4", "l7"))
            return {"name": name, "role": role, "address": f"198.51.100.{rng.randrange(9)}"}
        case Kind.CERTIFICATES:
            return {"name": name, "domains": ["a.example"]}
        case Kind.CA_CERTIFICATES:
            return {"name": name, "bundle": "pem"}
        case Kind.SERVER_GROUPS:
            return {"name": name, "servers": servers[: rng.randrange(3)]}
        case Kind.AVAILABILITY_GROUPS:
            return {"name": name, "members": servers}
        case Kind.BACKEND_SERVICES:
            group = rng.choice((Kind.SERVER_GROUPS, Kind.AVAILABILITY_GROUPS))
            service: Table = {
                "name": name,
                "protocol": rng.choice(("http", "http", "tcp")),
                group.value[:-1]: one(group),
            }
            if service["protocol"] == "http" and rng.random() < 0.5:
                service["fallback"] = one(Kind.BACKEND_SERVICES, protocol="http")
            if service["protocol"] == "http" and rng.random() < 0.5:
                service["sticky_session"] = {"type": "insert", "cookie": "c"}
            return service
        case Kind.ACCESS_LISTS:
            return {"name": name, "entries": ["192.0.2.0/24"]}
        case Kind.REDIRECT_MAPS:
            return {"name": name, "entries": rng.choice(("/a /b", "/a /b\n/b /c", "/a /a", "/a"))}
        case Kind.INSTANCES:
            kinds = ("alb", "alb", "nlb", "dnlb") if rng.random() < 0.3 else ("alb", "nlb")
            return {"name": name, "type": rng.choice(kinds), "vips": rng.sample(["203.0.113.1", "203.0.113.2"], 1)}
        case Kind.LISTENERS:
            protocol = rng.choice(("http", "http", "https", "tcp"))
            instance = one(Kind.INSTANCES, type="nlb" if protocol == "tcp" else "alb")
            listener: Table = {"name": name, "instance": instance, "protocol": protocol}
            listener["port"] = rng.choice((80, 443, 8080))
            if protocol == "https":
                listener["certificates"] = [one(Kind.CERTIFICATES)]
            if protocol == "http" and rng.random() < 0.3:
                return {**listener, "https_redirect_port": 443}
            if rng.random() < 0.7:
                listener["backend_service"] = one(Kind.BACKEND_SERVICES, protocol=protocol.removesuffix("s"))
            return listener
        case _:
            rule: Table = {
                "name": name,
                "listener": one(Kind.LISTENERS, protocol="http"),
                "url": rng.choice(("/a", "/b", "/a/b")),
            }
            if rng.random() < 0.3:
                return {**rule, "redirect_map": one(Kind.REDIRECT_MAPS), "priority": rng.choice((0, 1))}
            return {
                **rule,
                "backend_service": one(Kind.BACKEND_SERVICES, protocol="http"),
                "priority": rng.choice((1, 2)),
            }


def change(known: dict[str, dict[str, Table]], rng: random.Random) -> Tables:
    """Some objects made, changed in a field, or taken away."""
    tables: Tables = {}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.choice([*Kind, *[Kind.BACKEND_SERVICES, Kind.LISTENERS, Kind.RULES] * 3])
        name = f"{kind.value[0]}{rng.randrange(4)}"
        present = known.get(kind.value, {}).get(name)
        if present is None or rng.random() < 0.2:
            tables[kind, name] = plain(kind, name, known, rng)
        elif rng.random() < 0.2:
            tables[kind, name] = None
        else:
            field = rng.choice([each for each in fields(CLASSES[kind]) if each.name not in ("name", "chain_file")])
            tables[kind, name] = {**present, field.name: value(field.annotation, known, rng)}
    return tables


def after(known: dict[str, dict[str, Table]], tables: Tables) -> dict[str, dict[str, Table]]:
    result = {kind: dict(of) for kind, of in known.items()}
    for (kind, name), table in tables.items():
        if table is None:
            result.get(kind.value, {}).pop(name, None)
        else:
            result.setdefault(kind.value, {})[name] = table
    return result


def walk(seed: int) -> Iterator[tuple[Model, Tables, Model | None]]:
    """A sound model, a change, and what it becomes as a whole; None: it is refused."""
    rng = random.Random(seed)
    known = {kind: {each["name"]: each for each in of} for kind, of in BASE.items()}
    model = from_dict(BASE)
    for _ in range(STEPS):
        tables = change(known, rng)
        wanted = after(known, tables)
        try:
            made = from_dict({kind: list(of.values()) for kind, of in wanted.items()})
        except ConfigErrors:
            made = None
        yield model, tables, made
        if made is not None:
            known, model = wanted, made


@pytest.mark.parametrize("seed", range(40))
def test_it_refuses_what_the_whole_refuses(seed: int) -> None:
    for model, tables, wanted in walk(seed):
        found = revised(model, tables)
        assert (found is None) == (wanted is None), tables
        if found is not None and wanted is not None:
            assert to_dict(found) == to_dict(wanted), "in the same order too"


LISTENER = {"instance": "i0", "protocol": "http", "port": 80}
RULE = {"name": "r", "listener": "web", "url": "/a", "backend_service": "b0"}
STATELESS: dict[str, list[Table]] = {
    "server_groups": [
        {"name": "g", "servers": [{"address": "192.0.2.1", "port": 80}]},
        {"name": "h", "servers": [{"address": "192.0.2.2", "port": 80}]},
    ],
    "backend_services": [
        {"name": name, "protocol": "tcp", "server_group": name, "scheduler": "sh"} for name in ("g", "h")
    ],
    "instances": [
        {"name": "d", "type": "dnlb", "vips": ["203.0.113.1"]}, {"name": "n", "type": "nlb", "vips": ["203.0.113.2"]},
    ],
    "listeners": [
        {"name": "g", "instance": "d", "protocol": "tcp", "port": 80, "backend_service": "g"},
        {"name": "h", "instance": "n", "protocol": "tcp", "port": 80, "backend_service": "h"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("document", "tables"),
    [
        (
            {**BASE, "listeners": [{"name": "web", **LISTENER}, {"name": "w", **LISTENER, "port": 81}],
             "rules": [RULE, {**RULE, "name": "s", "listener": "w"}]},
            {(Kind.RULES, "r"): {**RULE, "listener": "w", "url": "/b"}},
        ),
        (
            {**BASE, "listeners": [
                {"name": "web", **LISTENER, "https_redirect_port": 443},
                {"name": "tls", "instance": "i0", "protocol": "https", "port": 443, "backend_service": "b0",
                 "certificates": ["c0"]},
            ]},
            {(Kind.LISTENERS, "tls"): {"name": "tls", "instance": "i0", "protocol": "https", "port": 444,
                                       "backend_service": "b0", "certificates": ["c0"]}},
        ),
        (
            STATELESS,
            {(Kind.SERVER_GROUPS, "h"): {**STATELESS["server_groups"][0], "name": "h"}},
        ),
        (
            {**BASE, "nodes": [{"name": "n", "role": "l4", "address": "198.51.100.1", "source_pool": ["192.0.2.7"]}]},
            {(Kind.SERVER_GROUPS, "s0"): {"name": "s0", "servers": [{"address": "192.0.2.7", "port": 80}]}},
        ),
        (
            BASE,
            {(Kind.SERVER_GROUPS, "s0"): {"name": "s0", "servers": [{"address": "203.0.113.1", "port": 80}]}},
        ),
    ],
    ids=["last rule moves away", "redirect's port", "a stateless listener's servers", "source pool", "VIP"],
)  # fmt: skip
def test_what_two_objects_make_unsound_that_do_not_name_each_other(
    document: dict[str, list[Table]], tables: Tables
) -> None:
    model = from_dict(document)
    assert revised(model, tables) is None
    known = {kind: {each["name"]: each for each in of} for kind, of in document.items()}
    with pytest.raises(ConfigErrors):
        from_dict({kind: list(of.values()) for kind, of in after(known, tables).items()})


def test_a_change_is_not_compared_with_everything() -> None:
    """Of a hundred tenants on one port, only the one that changes is looked at, and whoever shares its servers."""
    tenants = range(100)
    document = {
        "server_groups": [{"name": f"g{n}", "servers": [{"address": f"10.0.0.{n + 1}", "port": 80}]} for n in tenants],
        "backend_services": [{"name": f"b{n}", "protocol": "http", "server_group": f"g{n}"} for n in tenants],
        "instances": [{"name": f"i{n}", "vips": [f"203.0.113.{n + 1}"]} for n in tenants],
        "listeners": [
            {"name": f"l{n}", "instance": f"i{n}", "protocol": "http", "port": 80, "backend_service": f"b{n}"}
            for n in tenants
        ],
        "rules": [{"name": f"r{n}", "listener": f"l{n}", "url": "/a", "backend_service": "b0"} for n in tenants],
    }
    model = from_dict(document)
    of_listener = part(model, model, [(Kind.LISTENERS, "l7")])
    assert [*of_listener.listeners] == ["l7"]
    assert [*of_listener.rules] == ["r7"]
    assert [*of_listener.backend_services] == ["b0", "b7"]
    assert [*of_listener.server_groups] == ["g0", "g7"]
    assert len(part(model, model, [(Kind.SERVER_GROUPS, "g0")]).listeners) == 100, "a rule of each leads there"
    assert part(model, model, [(Kind.INSTANCES, "i7")]) is model


def test_a_table_in_an_object_names_others_too() -> None:
    """Of several, as in a split, or of one, as where copies go."""
    services = [{"name": name, "protocol": "http", "server_group": "s0"} for name in ("b0", "b1", "b2")]
    listener = {"name": "l", "instance": "i0", "protocol": "http", "port": 80}
    rules = [
        {"name": "split", "listener": "l", "split": [{"backend_service": "b0"}]},
        {"name": "mirror", "listener": "l", "url": "/a", "backend_service": "b0", "mirror": {"backend_service": "b1"}},
    ]
    model = from_dict({**BASE, "backend_services": services, "listeners": [listener], "rules": rules})
    for name, named_by in (("b0", {"split", "mirror"}), ("b1", {"mirror"}), ("b2", set())):
        found = part(model, model, [(Kind.BACKEND_SERVICES, name)]).rules
        assert named_by <= set(found)
        assert bool(found) == bool(named_by)
