"""Deltas: what they lead to is what was wanted, and what they cannot say is said as a whole."""

import json
import random
from dataclasses import replace

import pytest

from core.config import from_dict, to_dict
from core.delta import MOST_CHANGES, DeltaError, difference, patched
from core.model import BackendProtocol, BackendService, HealthCheck, Instance, Model, RedirectMap, Server, ServerGroup


def model(*names: str, **groups: int) -> Model:
    return Model(
        instances={name: Instance(name) for name in names},
        server_groups={name: ServerGroup(name, (Server("10.0.0.1", port),)) for name, port in groups.items()},
    )


def through(old: Model, new: Model) -> Model:
    document = difference(old, new)
    assert document is not None
    return patched(old, json.loads(json.dumps(document)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (model(), model()),
        (model(), model("a", g=1)),
        (model("a", g=1), model()),
        (model("a", "b", g=1, h=2), model("a", "b", g=9, h=2)),
        (model("a", "b", "c"), model("a", "c", "d")),
    ],
    ids=["nothing", "all new", "all gone", "one replaced", "one gone, one new"],
)
def test_a_delta_leads_to_what_was_wanted_in_its_order(old: Model, new: Model) -> None:
    result = through(old, new)
    assert result == new
    assert to_dict(result) == to_dict(new)


def test_a_delta_names_what_differs_alone_and_keeps_the_other_objects() -> None:
    old, new = model("a", g=1, h=2), model("a", g=9, h=2)
    assert difference(old, new) == {
        "put": {"server_groups": [{"name": "g", "servers": [{"address": "10.0.0.1", "port": 9}]}]}, "delete": {},
    }  # fmt: skip
    assert through(old, new).server_groups["h"] is old.server_groups["h"]


def test_of_a_long_text_what_has_changed_is_sent() -> None:
    lines = [f"/old/{n} /new/{n}" for n in range(10_000)]
    old = Model(redirect_maps={"m": RedirectMap("m", entries="\n".join(lines)), "n": RedirectMap("n", entries="/a /b")})
    lines[5_000] = "/old/5000 /newer 302"
    lines.append("/last /one")
    moved = RedirectMap("m", entries="\n".join(lines), status=302)
    new = replace(old, redirect_maps={**old.redirect_maps, "m": moved})
    document = difference(old, new)
    assert document is not None
    assert len(json.dumps(document)) < 300
    assert through(old, new) == new
    short = replace(old, redirect_maps={"m": replace(moved, entries="/a /b"), "n": RedirectMap("n", entries="/a /c")})
    assert through(old, short) == short
    assert difference(old, short)["put"]["redirect_maps"][1] == {"name": "n", "entries": "/a /c"}  # type: ignore[index]
    other = replace(old, redirect_maps={"m": RedirectMap("m", entries="\n".join(f"/{n} /x" for n in range(20_000)))})
    assert through(old, other) == other
    assert through(Model(), new) == new


@pytest.mark.parametrize("value", [{"edits": [[0, 99, ""]]}, {"edits": [[0]]}, {"edits": 1}, {"x": 1}], ids=range(4))
def test_edits_of_another_text_are_refused(value: object) -> None:
    base = Model(redirect_maps={"m": RedirectMap("m", entries="/a /b")})
    with pytest.raises(DeltaError):
        patched(base, {"put": {"redirect_maps": [{"name": "m", "entries": value}]}})
    with pytest.raises(DeltaError):
        patched(base, {"put": {"redirect_maps": [{"name": "none", "entries": value}]}})


@pytest.mark.parametrize("new", [model("b", "a"), model("c", "a", "b")], ids=["moved", "put before others"])
def test_another_order_has_no_delta(new: Model) -> None:
    assert difference(model("a", "b"), new) is None


def test_what_has_changed_nearly_as_a_whole_has_no_delta() -> None:
    assert difference(Model(), model(*(f"i{n}" for n in range(MOST_CHANGES)))) is not None
    assert difference(Model(), model(*(f"i{n}" for n in range(MOST_CHANGES + 1)))) is None


def test_udp_services_keep_the_default_that_depends_on_their_protocol() -> None:
    service = BackendService("s", BackendProtocol.UDP, "g", health_check=None)
    assert through(Model(), Model(backend_services={"s": service})).backend_services["s"].health_check is None
    tcp = replace(service, protocol=BackendProtocol.TCP, health_check=HealthCheck())
    assert through(Model(), Model(backend_services={"s": tcp})).backend_services["s"] == tcp


def test_any_path_of_changes_leads_to_the_same_as_the_whole() -> None:
    rng = random.Random(7)
    old = model()
    for _ in range(100):
        names = [name for name in old.instances if rng.random() < 0.8] + [f"n{rng.randrange(10**9)}"]
        groups = {name: rng.randrange(1, 4) for name in "ghijk"[: rng.randrange(6)]}
        new = model(*names, **groups)
        document = difference(old, new)
        result = patched(old, document) if document is not None else new
        assert to_dict(result) == to_dict(from_dict(to_dict(new)))
        old = result


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"put": []},
        {"delete": {"instances": ["nobody"]}},
        {"put": {"instances": [{"vips": []}]}},
        {"put": {"instances": [{"name": "a", "vips": ["x"]}]}},
        {"put": {"things": []}},
        {"put": {"instances": {}}},
    ],
    ids=["no table", "put is a list", "deletes nobody", "no name", "no address", "no kind", "no list"],
)
def test_what_is_no_delta_is_refused(document: object) -> None:
    with pytest.raises(DeltaError):
        patched(model("a"), document)
