"""Nothing is dropped without a reason that `paifang top` and /metrics show: each name of `enum reason` is in both."""

from __future__ import annotations

import pytest

from control.node.metrics import render
from control.rates import Meters
from control.top_view import Section, lines, text
from l4fast.exporter import families
from l4fast.sources import reasons
from tests.l4fast.test_exporter import NODE


@pytest.mark.parametrize("name", reasons())
def test_every_reason(name: str) -> None:
    facts = NODE | {"started": 1.0, "at_s": 1.0, "counters": dict.fromkeys(reasons(), 0) | {name: 1}}
    assert f'reason="{name}"' in b"".join(render(families(facts))).decode()
    node = {"role": "l4", "name": "l4-1", "step": "in step", "facts": facts}
    picture = Meters().feed({"version": 1, "nodes": [node]}, lambda _: ())
    for only in (None, Section.VERDICTS):
        shown = text(lines(picture, width=80, height=24, only=only)).splitlines()
        assert [line.split() for line in shown if line.startswith(name + " ")] == [[name, "-", "1"]]
