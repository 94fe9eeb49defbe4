"""Which servers take requests, and how many of them: ejection, slow start, zones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from core.ejection import Outcome
from core.model import Ejection, Scheduler
from core.zones import Locality
from proxy.balance import Address
from proxy.pool import FULL, Open, Pool
from tests.proxy.pools import A, B, C, servers, service

# -- ejection

RULES = Ejection(failures=2, first_s=10, longest_s=30, max_percent=50)


def next_servers(pool: Pool[str, str], count: int, now: float) -> list[Address]:
    """Who gets the next requests, which end at once."""
    found: list[Address] = []
    for _ in range(count):
        choice = pool.assign(b"c", now, repeatable=True)
        assert choice is not None
        pool.failed(choice.server)
        found.append(choice.server)
    return found


def test_a_server_that_fails_is_ejected_and_returns_on_probation() -> None:
    two: Pool[str, str] = Pool()
    two.update(servers(100, 100), service(ejection=RULES), 0)
    assert not two.attentive
    assert two.note(A, Outcome.FAILED, 1) == 0
    assert two.attentive
    assert two.note(A, Outcome.FAILED, 2) == 10
    assert next_servers(two, 3, 2) == [B, B, B]
    assert two.tick(11.9) == []
    assert two.tick(12) == [A]
    assert set(next_servers(two, 2, 12)) == {A, B}
    assert two.note(A, Outcome.FAILED, 13) == 20
    assert two.tick(33) == [A]
    assert two.note(A, Outcome.ANSWERED, 34) == 0
    assert two.note(A, Outcome.FAILED, 35) == 0


def test_no_more_are_ejected_than_may_be_out() -> None:
    three: Pool[str, str] = Pool()
    three.update(servers(100, 100, 100), service(ejection=RULES), 0)
    for _ in range(3):
        three.note(A, Outcome.FAILED, 0)
        three.note(B, Outcome.FAILED, 0)
    assert set(next_servers(three, 4, 0)) == {B, C}  # one of three is within a half, two are not
    three.tick(10)
    three.set_down({C}, 11)
    assert three.note(A, Outcome.FAILED, 12) == 0  # the unhealthy one takes the place
    three.set_down(frozenset(), 13)
    assert three.note(A, Outcome.FAILED, 14) == 20


def test_a_single_server_is_ejected_only_if_all_may_be() -> None:
    one: Pool[str, str] = Pool()
    one.update(servers(100), service(ejection=RULES), 0)
    assert [one.note(A, Outcome.FAILED, 0) for _ in range(5)] == [0] * 5
    one.update(servers(100), service(ejection=Ejection(failures=2, max_percent=100)), 0)
    assert one.note(A, Outcome.FAILED, 0) == 10
    assert one.assign(b"c", 0, repeatable=True) is None
    assert not one.takes_requests


def test_a_server_without_weight_makes_no_room() -> None:
    three: Pool[str, str] = Pool()
    three.update(servers(100, 100, 0), service(ejection=Ejection(failures=1, max_percent=60)), 0)
    assert three.note(A, Outcome.FAILED, 0) == 10
    assert three.note(B, Outcome.FAILED, 0) == 0


def test_a_check_that_passes_again_ends_an_ejection() -> None:
    two: Pool[str, str] = Pool()
    two.update(servers(100, 100), service(ejection=RULES), 0)
    two.note(A, Outcome.FAILED, 0)
    two.note(A, Outcome.FAILED, 0)
    two.set_down({A}, 1)
    two.set_down(frozenset(), 2)
    assert set(next_servers(two, 2, 2)) == {A, B}
    assert two.tick(10) == []


def test_without_rules_nobody_is_ejected_and_new_ones_let_everybody_in() -> None:
    two: Pool[str, str] = Pool()
    two.update(servers(100, 100), service(ejection=RULES), 0)
    two.note(A, Outcome.FAILED, 0)
    two.note(A, Outcome.FAILED, 0)
    two.update(servers(100, 100), service(), 0)
    assert set(next_servers(two, 2, 2)) == {A, B}
    assert two.note(A, Outcome.FAILED, 0) == 0
    assert not two.attentive


def test_who_is_not_in_the_list_is_of_no_interest() -> None:
    one: Pool[str, str] = Pool()
    one.update(servers(100), service(ejection=RULES), 0)
    assert one.note(C, Outcome.FAILED, 0) == 0


# -- slow start


def share(pool: Pool[str, str], server: Address, now: float) -> float:
    return next_servers(pool, 220, now).count(server) / 220


def test_a_server_that_is_added_begins_slowly_and_the_first_ones_do_not() -> None:
    two: Pool[str, str] = Pool()
    two.update(servers(100), service(slow_start_s=20), 0)
    two.update(servers(100, 100), service(slow_start_s=20), 0)
    seen = []
    for now in (0, 2, 10, 18, 20):
        two.tick(now)
        seen.append(share(two, B, now))
    assert seen == pytest.approx([1 / 11, 1 / 6, 3 / 8, 1 / 2, 1 / 2], abs=0.01)


def test_who_is_healthy_again_or_back_from_ejection_begins_slowly() -> None:
    two: Pool[str, str] = Pool()
    two.update(servers(100, 100), service(Scheduler.WRR, RULES, slow_start_s=10), 0)
    assert share(two, A, 0) == 0.5
    two.set_down({A}, 1)
    two.set_down(frozenset(), 5)
    assert share(two, A, 5) == 20 / 220
    two.tick(15)
    assert share(two, A, 15) == 0.5
    two.note(A, Outcome.FAILED, 16)
    two.note(A, Outcome.FAILED, 16)
    assert two.tick(26) == [A]
    assert share(two, A, 26) == 20 / 220
    two.update(servers(100, 100), service(Scheduler.WRR, RULES), 26)
    assert share(two, A, 26) == 0.5


# -- zones


def zoned(here: str, *zones_: str, scheduler: Scheduler = Scheduler.RR, **changes: Any) -> Pool[str, str]:
    """A pool of one server in each of `zones_`, for a node in `here` of two nodes in a and b."""
    pool: Pool[str, str] = Pool()
    group = [replace(each, zone=zone) for each, zone in zip(servers(*[100] * len(zones_)), zones_, strict=True)]
    pool.update(group, replace(service(scheduler), **changes), 0, Locality(here, {"a": 1, "b": 1}))
    return pool


EVERY = [Scheduler.RR, Scheduler.WRR, Scheduler.LC, Scheduler.WLC, Scheduler.P2C]


@pytest.mark.parametrize("scheduler", EVERY)
def test_the_own_zone_is_preferred_while_it_can_take_its_share(scheduler: Scheduler) -> None:
    assert set(next_servers(zoned("a", "a", "b", scheduler=scheduler), 20, 0)) == {A}
    assert set(next_servers(zoned("b", "a", "b", scheduler=scheduler), 20, 0)) == {B}
    short = Counter(next_servers(zoned("a", "a", "b", "b", scheduler=scheduler), 300, 0))
    assert short[A] == pytest.approx(200, rel=0.15)
    assert min(short[B], short[C]) > 25


def test_what_a_zone_loses_goes_to_the_others() -> None:
    three = zoned("a", "a", "a", "b")
    assert set(next_servers(three, 20, 0)) == {A, B}
    three.set_down({A}, 0)
    assert set(next_servers(three, 20, 0)) == {B}  # half of what is left, and half of the nodes
    three.set_down({A, B}, 0)
    assert set(next_servers(three, 20, 0)) == {C}
    three.set_down(frozenset(), 0)
    assert set(next_servers(three, 20, 0)) == {A, B}


def test_what_the_own_zone_does_not_take_goes_elsewhere() -> None:
    two = zoned("a", "a", "b")
    assert two.assign(b"c", 0, repeatable=True, tried={A}) == Open(B)
    assert two.assign(b"c", 0, repeatable=True, tried={A, B}) is None
    limited_ = zoned("a", "a", "b", server_max_connections=1)
    assert [limited_.assign(b"c", 0, repeatable=True) for _ in range(3)] == [Open(A), Open(B), FULL]


@pytest.mark.parametrize("scheduler", [Scheduler.SH, Scheduler.CH])
def test_hashes_look_at_no_zone(scheduler: Scheduler) -> None:
    keys = [b"%d" % number for number in range(40)]
    pools = [zoned(here, "a", "b", scheduler=scheduler) for here in "ab"]
    one, other = ([each.assign(key, 0, repeatable=True) for key in keys] for each in pools)
    assert one == other
    assert {A, B} == {each.server for each in one if isinstance(each, Open)}


@pytest.mark.parametrize("scheduler", [Scheduler.RR, Scheduler.WRR])
def test_a_slow_start_in_the_own_zone(scheduler: Scheduler) -> None:
    three = zoned("a", "a", "a", "b", scheduler=scheduler, slow_start_s=10)
    three.set_down({A}, 0)
    three.set_down(frozenset(), 1)
    assert Counter(next_servers(three, 1001, 1))[A] == pytest.approx(91, abs=2)
    three.tick(11)
    assert Counter(next_servers(three, 220, 11)) == {A: 110, B: 110}
