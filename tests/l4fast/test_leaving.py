"""What is removed leaves with weight 0, for its listener's drain time, and stays if it comes back."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from core.model import HealthCheck, Mode, Scheduler
from core.resolve import L4Service, Real
from l4fast.leaving import Leaving

ONE, TWO, THREE = (Real(f"10.0.0.{number}", 80, 100, 80) for number in (1, 2, 3))


def service(*reals: Real, drain_timeout_s: int = 30, name: str = "web", port: int = 80) -> L4Service:
    return L4Service(
        name, "192.0.2.1", port, "tcp", Mode.NAT, Scheduler.WRR, reals, HealthCheck(), 900,
        drain_timeout_s=drain_timeout_s,
    )  # fmt: skip


def emptied(real: Real) -> Real:
    return replace(real, weight=0)


def test_a_removed_server_keeps_its_sessions_for_the_drain_time() -> None:
    before, after = service(ONE, TWO), service(ONE)
    leaving = Leaving().changed([before], [after], 100.0)
    assert leaving.until == 130.0
    assert leaving.at(129.9).beside([after]) == (service(ONE, emptied(TWO)),)
    assert leaving.at(130.0).beside([after]) == (after,)
    assert not leaving.at(130.0)
    assert leaving.at(130.0).until == inf


def test_without_a_drain_time_it_goes_at_once() -> None:
    before, after = service(ONE, TWO), service(ONE, drain_timeout_s=0)
    assert not Leaving().changed([before], [after], 100.0)
    assert not Leaving().changed([replace(before, drain_timeout_s=0)], [], 100.0)


def test_more_changes_do_not_begin_its_time_anew() -> None:
    leaving = Leaving().changed([service(ONE, TWO, THREE)], [service(ONE, TWO)], 100.0)
    leaving = leaving.changed([service(ONE, TWO)], [service(ONE)], 110.0)
    assert leaving.beside([service(ONE)]) == (service(ONE, emptied(THREE), emptied(TWO)),)
    assert leaving.until == 130.0
    assert leaving.at(130.0).beside([service(ONE)]) == (service(ONE, emptied(TWO)),)


def test_a_server_that_comes_back_stays() -> None:
    leaving = Leaving().changed([service(ONE, TWO)], [service(ONE)], 100.0)
    assert not leaving.changed([service(ONE)], [service(ONE, TWO)], 101.0)


def test_a_removed_listener_leaves_as_a_whole() -> None:
    """With the servers that were leaving it."""
    leaving = Leaving().changed([service(ONE, TWO)], [service(ONE)], 100.0)
    leaving = leaving.changed([service(ONE)], [], 110.0)
    assert leaving.beside([]) == (service(emptied(ONE), emptied(TWO)),)
    assert not leaving.at(140.0)


def test_who_gets_the_place_of_a_listener_has_it_alone() -> None:
    leaving = Leaving().changed([service(ONE)], [], 100.0)
    other = service(TWO, name="other")
    assert leaving.changed([], [other], 110.0).beside([other]) == (other,)
    elsewhere = service(TWO, name="other", port=81)
    assert leaving.changed([], [elsewhere], 110.0).beside([elsewhere]) == (elsewhere, service(emptied(ONE)))


def test_what_has_left_does_not_come_back_with_the_next_change() -> None:
    leaving = Leaving().changed([service(ONE, TWO)], [service(ONE)], 100.0)
    assert not leaving.changed([service(ONE)], [service(ONE)], 130.0)


def test_it_is_told_who_leaves_and_until_when() -> None:
    leaving = Leaving().changed([service(ONE, TWO), service(THREE, port=81, name="gone")], [service(ONE)], 100.0)
    assert leaving.report([service(ONE)], 110.04) == [
        {"listener": "web", "server": "10.0.0.2:80", "left_s": 20.0},
        {"listener": "gone", "server": "10.0.0.3:80", "left_s": 20.0},
    ]
