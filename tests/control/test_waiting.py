"""Waiting for nodes: who is behind and why, what is shown, and when it ends."""

from typing import Any

import pytest

from control.client import Answer
from control.waiting import progress, wait


def node(name: str, version: int | None, step: str = "in step", why: str = "") -> dict[str, Any]:
    return {"role": "l7", "name": name, "step": step, "why": why, "version": version}


def test_who_is_behind() -> None:
    nodes = [
        node("a", 8),
        node("b", 7, "lagging", "refuses version 8: cannot bind 0.0.0.0:443"),
        node("c", 9, "lagging", "runs version 9, not 8"),
        node("d", 8, "silent", "no report for 9 s"),
        node("e", None, "silent", "has never reported"),
        node("f", 7),
    ]
    found = progress({"nodes": nodes}, 8)
    assert (found.nodes, str(found).splitlines()) == (
        6,
        [
            "version 8: 2 of 6 nodes run it",
            "  l7 b: refuses version 8: cannot bind 0.0.0.0:443",
            "  l7 d: no report for 9 s",
            "  l7 e: has never reported",
            "  l7 f: runs an older version",
        ],
    )
    assert str(progress({"nodes": []}, 8)) == "version 8: no nodes are listed, and none report"


class Api:
    """Answers with one status after another, the last one again and again; a second passes each time."""

    def __init__(self, *statuses: list[dict[str, Any]]) -> None:
        self.statuses = list(statuses)
        self.now = 0.0

    def request(self, method: str, path: str) -> Answer:
        self.now += 1
        nodes = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return Answer({"nodes": nodes}, 0)

    def clock(self) -> float:
        return self.now


LATE, DONE = node("a", 7, "lagging", "runs version 7, not 8"), node("a", 8)


@pytest.mark.parametrize(
    ("statuses", "done", "shown"),
    [
        (([LATE], [LATE], [DONE]), True, ["0 of 1 nodes run it", "1 of 1 nodes run it"]),
        (([LATE],), False, ["0 of 1 nodes run it"]),
        (([],), True, []),
    ],
    ids=["in time", "too late", "nobody"],
)
def test_waiting(statuses: Any, done: bool, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    api = Api(*statuses)
    assert wait(api, 8, 5, api.clock, lambda _: None) is done  # type: ignore[arg-type]
    err = capsys.readouterr().err
    assert [line.partition(": ")[2] for line in err.splitlines() if "nodes run it" in line] == shown
    assert ("not all within 5 s; the change is made" in err) is not done
    assert api.now <= 7
