"""What a node is sent: changes where its base is known for certain, else the whole."""

import json
from typing import Any

from control.distribution import KEPT_VERSIONS, Distribution
from control.service import Current
from core.config import from_dict, to_dict


def current(version: int, *names: str) -> Current:
    model = from_dict({"instances": [{"name": name} for name in names]})
    return Current(version, model, to_dict(model))


def ask(distribution: Distribution, what: Current, tag: str) -> dict[str, Any]:
    return dict(json.loads(distribution.answer(what, tag, {"more": 1})))


def test_the_last_versions_are_bases_and_those_before_are_not() -> None:
    distribution = Distribution()
    tags = [ask(distribution, current(n, *"abcdefgh"[:n]), "")["tag"] for n in range(1, KEPT_VERSIONS + 2)]
    latest = current(KEPT_VERSIONS + 2, *"abcdefgh"[: KEPT_VERSIONS + 2])
    answers = [ask(distribution, latest, tag) for tag in tags]
    assert ["changes" in answer for answer in answers] == [False, False] + [True] * (KEPT_VERSIONS - 1)
    assert {answer["more"] for answer in answers} == {1}
    assert len(answers[-1]["changes"]["put"]["instances"]) == 1


def test_a_store_that_counts_again_makes_all_tags_worthless() -> None:
    distribution = Distribution()
    tag = ask(distribution, current(7, "a"), "")["tag"]
    other = ask(distribution, current(7, "b"), tag)  # restored from a backup: another version 7
    assert other["config"] == {"instances": [{"name": "b"}]}
    assert other["tag"] != tag
    latest = current(8, "b", "c")
    assert "config" in ask(distribution, latest, tag)
    assert "changes" in ask(distribution, latest, other["tag"])


def test_another_process_knows_nobodys_tags() -> None:
    tag = ask(Distribution(), current(1, "a"), "")["tag"]
    assert "config" in ask(Distribution(), current(2, "a", "b"), tag)
