"""A model with some objects read anew is what reading the whole anew makes, and what is refused is refused."""

from typing import Any

import pytest

from core.config import from_dict, revised, to_dict
from core.errors import ConfigErrors
from core.fields import Kind
from core.model import Model

SITE: dict[str, Any] = {
    "server_groups": [{"name": "g", "servers": [{"address": "192.0.2.1", "port": 80}]}],
    "backend_services": [
        {"name": "b", "protocol": "http", "server_group": "g"},
        {"name": "u", "protocol": "udp", "server_group": "g"},
    ],
    "instances": [{"name": "i"}, {"name": "j"}],
    "listeners": [{"name": "web", "instance": "i", "protocol": "http", "port": 80, "backend_service": "b"}],
    "rules": [{"name": "r", "listener": "web", "url": "/x", "backend_service": "b"}],
}
Tables = dict[tuple[Kind, str], dict[str, Any] | None]
WEB = SITE["listeners"][0]
REVISIONS: dict[str, Tables] = {
    "nothing": {},
    "port": {(Kind.LISTENERS, "web"): {**WEB, "port": 81}},
    "new": {(Kind.INSTANCES, "k"): {"name": "k", "tags": {"b": "1", "a": "2"}}},
    "gone": {(Kind.RULES, "r"): None, (Kind.INSTANCES, "j"): None, (Kind.INSTANCES, "none"): None},
    "udp": {
        (Kind.BACKEND_SERVICES, "u"): {"name": "u", "protocol": "udp", "server_group": "g", "health_check": {"fall": 5}}
    },
    "swap": {
        (Kind.SERVER_GROUPS, "g"): None,
        (Kind.SERVER_GROUPS, "h"): {"name": "h"},
        (Kind.BACKEND_SERVICES, "b"): {"name": "b", "protocol": "http", "server_group": "h"},
        (Kind.BACKEND_SERVICES, "u"): None,
    },
    "dangling": {(Kind.SERVER_GROUPS, "g"): None},
    "out of range": {(Kind.LISTENERS, "web"): {**WEB, "port": 0}},
    "unknown key": {(Kind.LISTENERS, "web"): {**WEB, "prot": 1}},
    "same port": {(Kind.LISTENERS, "w"): {**WEB, "name": "w"}},
    "same rule": {(Kind.RULES, "s"): {**SITE["rules"][0], "name": "s"}},
    "proxy protocol": {(Kind.BACKEND_SERVICES, "u"): {**SITE["backend_services"][1], "send_proxy": True}},
}


def whole(tables: Tables) -> dict[str, list[dict[str, Any]]]:
    document = {kind: {each["name"]: each for each in items} for kind, items in SITE.items()}
    for (kind, name), table in tables.items():
        of_kind = document.setdefault(kind.value, {})
        if table is None:
            of_kind.pop(name, None)
        else:
            of_kind[name] = table
    return {kind: list(items.values()) for kind, items in document.items()}


@pytest.mark.parametrize("name", REVISIONS)
def test_it_is_what_reading_the_whole_makes(name: str) -> None:
    wanted: Model | None
    try:
        wanted = from_dict(whole(REVISIONS[name]))
    except ConfigErrors:
        wanted = None
    found = revised(from_dict(SITE), REVISIONS[name])
    assert found == wanted
    if found is not None and wanted is not None:
        assert to_dict(found) == to_dict(wanted), "in the same order too"


def test_some_are_sound_and_some_are_not() -> None:
    """So that the comparison above is one of both."""
    refused = {name for name, tables in REVISIONS.items() if revised(from_dict(SITE), tables) is None}
    sound = {"nothing", "port", "new", "gone", "udp", "swap"}
    assert refused == REVISIONS.keys() - sound


@pytest.mark.parametrize(
    "table",
    [
        {"name": "w", "protocol": "http", "port": 81, "servers": ["192.0.2.1:80"], "instance": "i"},
        {"name": "w", "protocol": "http", "port": 81, "backend_service": "b"},
        {"name": "other", "protocol": "http", "port": 81, "backend_service": "b", "instance": "i"},
    ],
    ids=["makes others", "needs another", "has another name"],
)
def test_what_is_left_to_reading_the_whole(table: dict[str, Any]) -> None:
    assert revised(from_dict(SITE), {(Kind.LISTENERS, "w"): table}) is None
