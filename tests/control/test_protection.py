"""Which changes of a site are refused by which marks; the site's instance `i` is protected."""

from typing import Any

import pytest

from control.protection import ProtectedError, permit
from core.config import from_dict, to_dict
from core.model import Model

MODIFICATION, DELETION = {"modification_protection": True}, {"deletion_protection": True}


def site(**marks: bool) -> dict[str, Any]:
    return {
        "server_groups": [{"name": "g", "servers": [{"address": "192.0.2.1", "port": 80}]}],
        "backend_services": [{"name": "b", "protocol": "http", "server_group": "g"}],
        "instances": [{"name": "i", **marks}, {"name": "j"}],
        "listeners": [{"name": "web", "instance": "i", "protocol": "http", "port": 80, "backend_service": "b"}],
        "rules": [{"name": "r", "listener": "web", "url": "/x", "backend_service": "b"}],
    }


def other(document: dict[str, Any], *steps: tuple[str, str, dict[str, Any] | None]) -> Model:
    """The site after steps: an object's fields are changed, or it is deleted or made."""
    tables = {kind: {each["name"]: dict(each) for each in items} for kind, items in document.items()}
    for kind, name, fields in steps:
        if fields is None:
            del tables[kind][name]
        else:
            tables[kind][name] = {"name": name, **tables[kind].get(name, {}), **fields}
    return from_dict({kind: list(items.values()) for kind, items in tables.items()})


MOVE = ("listeners", "web", {"instance": "j"})
CHANGES: dict[str, list[tuple[str, str, dict[str, Any] | None]]] = {
    "port": [("listeners", "web", {"port": 81})],
    "rule": [("rules", "r", {"url": "/y"})],
    "vips": [("instances", "i", {"vips": ["192.0.2.9"]})],
    "new rule": [("rules", "s", {"listener": "web", "url": "/s", "backend_service": "b"})],
    "new listener": [("listeners", "w", {"instance": "i", "protocol": "http", "port": 8, "backend_service": "b"})],
    "rule gone": [("rules", "r", None)],
    "listener gone": [("rules", "r", None), ("listeners", "web", None)],
    "instance gone": [("rules", "r", None), ("listeners", "web", None), ("instances", "i", None)],
    "moved": [MOVE],
    "elsewhere": [("instances", "j", {"vips": ["192.0.2.9"]}), ("server_groups", "g", {"servers": []})],
}
REFUSED = {
    "modification_protection": set(CHANGES) - {"elsewhere"},
    "deletion_protection": {"rule gone", "listener gone", "instance gone", "moved"},
}


@pytest.mark.parametrize("mark", REFUSED)
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_refused(mark: str, name: str) -> None:
    document = site(**{mark: True})
    after = other(document, *CHANGES[name])
    if name in REFUSED[mark]:
        with pytest.raises(ProtectedError, match=f"instances/i has {mark}, which refuses: .*; set it to false first"):
            permit(from_dict(document), after)
    else:
        permit(from_dict(document), after)


@pytest.mark.parametrize("mark", REFUSED)
@pytest.mark.parametrize("name", sorted(set(CHANGES) - {"instance gone"}))
def test_the_change_that_lifts_it_may_do_all(mark: str, name: str) -> None:
    document = site(**{mark: True})
    permit(from_dict(document), other(document, *CHANGES[name], ("instances", "i", {mark: False})))


def test_marks_may_be_set_and_lifted_alone() -> None:
    for marks in (MODIFICATION, DELETION, MODIFICATION | DELETION):
        document = site(**marks)
        lifted = from_dict(site())
        permit(from_dict(document), lifted)
        permit(lifted, from_dict(document))
        permit(from_dict(document), from_dict(site(**MODIFICATION, **DELETION)))


def test_one_mark_lifted_leaves_the_other() -> None:
    document = site(**MODIFICATION, **DELETION)
    gone = other(document, *CHANGES["listener gone"], ("instances", "i", {"modification_protection": False}))
    with pytest.raises(
        ProtectedError, match="deletion_protection, which refuses: delete rules/r, delete listeners/web"
    ):
        permit(from_dict(document), gone)


def test_many_are_not_all_listed() -> None:
    document = site(**MODIFICATION)
    rules = [("rules", f"s{n}", {"listener": "web", "url": f"/{n}", "backend_service": "b"}) for n in range(20)]
    with pytest.raises(ProtectedError, match="and 12 more"):
        permit(from_dict(document), other(document, *rules))


def test_without_marks_all_is_permitted() -> None:
    permit(from_dict(site()), Model())
    assert to_dict(Model()) == {}
