from collections.abc import Mapping

import pytest

from control.reconcile import Report, Step, reconcile
from core.model import Model, Node, Role

LISTED = Model(
    nodes={
        "l7-1": Node("l7-1", Role.L7, "192.0.2.1"),
        "l4-1": Node("l4-1", Role.L4, "192.0.2.2"),
        "key-1": Node("key-1", Role.KEYSERVER, "192.0.2.3"),
    }
)
FACTS: Mapping[str, object] = {"sessions": 3}


def report(version: int, *, rejected: tuple[int, str] | None = None, age_s: float = 0.5, name: str = "l7-1") -> Report:
    return Report("l7", name, version, rejected, age_s, FACTS)


@pytest.mark.parametrize(
    ("said", "step", "why"),
    [
        (report(4), Step.IN_STEP, ""),
        (report(3), Step.LAGGING, "runs version 3, not 4"),
        (report(5), Step.LAGGING, "runs version 5, not 4"),
        (report(3, rejected=(4, "port 443 is in use")), Step.LAGGING, "refuses version 4: port 443 is in use"),
        (report(3, rejected=(2, "old news")), Step.LAGGING, "runs version 3, not 4"),
        (report(4, age_s=5.1), Step.SILENT, "no report for 5 s"),
        (report(3, age_s=60), Step.SILENT, "no report for 60 s"),
    ],
)
def test_steps(said: Report, step: Step, why: str) -> None:
    status = {status.name: status for status in reconcile(4, LISTED, [said])}["l7-1"]
    assert (status.step, status.why, status.version, status.facts) == (step, why, said.version, FACTS)


def test_listed_nodes_that_never_reported_and_unlisted_ones_that_did() -> None:
    statuses = reconcile(4, LISTED, [report(4, name="stray")])
    assert [(status.name, status.step, status.listed) for status in statuses] == [
        ("l4-1", Step.SILENT, True),
        ("l7-1", Step.SILENT, True),
        ("stray", Step.IN_STEP, False),
    ]
    assert statuses[0].why == "has never reported"
    assert statuses[0].version is statuses[0].age_s is None
