from __future__ import annotations

from dataclasses import replace

import pytest

from l4fast.holding import PROBES_LIMIT_S, TAKE_ANYHOW_S, Holding, Readiness, Stage, lacking

READY = Readiness(ready=True, probed=True, complete=True)


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        ("ready", "the configuration or the first round of health checks"),
        ("complete", "the peers' sessions"),
        ("probed", "the health checks of new servers"),
    ],
)
def test_what_is_waited_for(missing: str, why: str) -> None:
    holding = Holding(0.0)
    short = replace(READY, **{missing: False})
    assert lacking(short) == why
    assert not holding.may_change(short, TAKE_ANYHOW_S - 0.1)
    assert (holding.stage, holding.lacks) == (Stage.WAITING, why)
    assert holding.may_change(READY, TAKE_ANYHOW_S)
    assert (holding.stage, holding.lacks, holding.hurried) == (Stage.HOLDING, "", "")


def test_sessions_that_never_come_keep_nobody_from_serving_for_ever() -> None:
    holding, short = Holding(0.0), replace(READY, complete=False)
    assert holding.may_change(short, TAKE_ANYHOW_S)
    assert holding.hurried == "the peers' sessions"
    holding.look(short)
    assert holding.hurried
    holding.look(READY)
    assert holding.hurried == ""


def test_without_a_configuration_nothing_is_taken_however_long_it_takes() -> None:
    assert not Holding(0.0).may_change(replace(READY, ready=False), 1e6)


def test_what_is_held_is_kept_though_a_peer_falls_behind() -> None:
    holding = Holding(0.0)
    assert holding.may_change(READY, 1.0)
    assert holding.may_change(replace(READY, complete=False), 2.0)


def test_a_change_waits_for_the_probes_of_what_is_new_for_a_while() -> None:
    holding = Holding(0.0)
    assert holding.may_change(READY, 1.0)
    holding.ask(100.0)
    unprobed = replace(READY, probed=False)
    assert not holding.may_change(unprobed, 100.0 + PROBES_LIMIT_S - 0.1)
    assert holding.lacks == "the health checks of new servers"
    assert holding.may_change(unprobed, 100.0 + PROBES_LIMIT_S)
    assert holding.may_change(READY, 100.0)


def test_a_configuration_that_comes_late_has_its_own_time() -> None:
    holding = Holding(0.0)
    holding.ask(500.0)
    assert not holding.may_change(replace(READY, complete=False), 500.0 + TAKE_ANYHOW_S - 0.1)


def test_what_was_released_is_not_taken_again() -> None:
    holding = Holding(0.0)
    assert holding.may_change(READY, 1.0)
    holding.release()
    assert not holding.may_change(READY, 1e6)
    assert holding.stage is Stage.RELEASED


def test_who_goes_on_waits_for_its_configuration_alone() -> None:
    holding = Holding(0.0)
    holding.go_on()
    assert not holding.may_change(replace(READY, ready=False, complete=False), 1e6)
    assert holding.lacks == "the configuration or the first round of health checks"
    assert holding.may_change(replace(READY, complete=False), 1.0)
    assert holding.hurried == ""
