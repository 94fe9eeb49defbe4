"""What `bench rules` compares: the same requests, each of which finds a rule in both."""

from __future__ import annotations

import pytest

from bench.rules import KINDS, Kind, model, rules
from core.config import from_dict, to_dict
from proxy.actions import Forward
from proxy.rules import Router


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
def test_every_request_finds_a_rule(kind: Kind) -> None:
    many, one = Router(rules(kind), ""), Router([kind.one], "")
    for number in (0, 1, 4711, 9999):
        head = kind.request(number)
        found = [router.route(head, head.target) for router in (many, one)]
        assert [isinstance(each, Forward) and each.service for each in found] == ["app", "app"]
    assert "%d" in kind.script
    assert not {"%HOST%", "%PATH%", "%FIELD%"} & set(kind.script.split('"'))
    assert "%FIELD%" not in kind.script


def test_the_configurations_are_sound() -> None:
    for kind in KINDS:
        wanted = model(80, 81, [kind.one])
        assert from_dict(to_dict(wanted)) == wanted
