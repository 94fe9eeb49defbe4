"""Which server, and which connection."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from core.ejection import Outcome
from core.model import BackendProtocol, BackendService, Ejection, Scheduler, Server
from core.zones import Locality
from proxy.pool import FRESH_S, FULL, IDLE_PER_SERVER, IDLE_S, Address, Open, Pool, Reuse

A, B, C = ("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80)


def pool(*weights: int, scheduler: Scheduler = Scheduler.RR) -> Pool[str, str]:
    pool: Pool[str, str] = Pool()
    pool.update(servers(*weights), service(scheduler), 0)
    return pool


def service(
    scheduler: Scheduler = Scheduler.RR, ejection: Ejection | None = None, slow_start_s: int = 0
) -> BackendService:
    return BackendService(
        "app", BackendProtocol.HTTP, "app", scheduler=scheduler, ejection=ejection, slow_start_s=slow_start_s
    )


def servers(*weights: int) -> list[Server]:
    return [Server(address, port, weight) for (address, port), weight in zip((A, B, C), weights, strict=False)]


def test_connections_are_used_again_the_youngest_first() -> None:
    one = pool(100)
    assert one.assign(b"c", 0, repeatable=True) == Open(A)
    assert one.assign(b"c", 0, repeatable=True) == Open(A)
    assert one.active == {A: 2}
    assert one.released(A, "first", 1)
    assert one.released(A, "second", 2)
    assert one.active == {}
    assert one.assign(b"c", 3, repeatable=True) == Reuse("second", A)
    assert one.assign(b"c", 3, repeatable=True) == Reuse("first", A)
    assert one.assign(b"c", 3, repeatable=True) == Open(A)


def test_what_may_not_be_repeated_takes_no_stale_connection() -> None:
    one = pool(100)
    one.assign(b"c", 0, repeatable=True)
    one.released(A, "x", 0)
    assert one.assign(b"c", FRESH_S + 0.1, repeatable=False) == Open(A)
    assert one.assign(b"c", FRESH_S, repeatable=False) == Reuse("x", A)


def test_a_fresh_connection_can_be_asked_for() -> None:
    one = pool(100)
    one.assign(b"c", 0, repeatable=True)
    one.released(A, "x", 0)
    assert one.assign(b"c", 0, repeatable=True, fresh=True) == Open(A)


def test_who_stays_gets_his_server_whatever_its_weight_and_nobody_loses_a_turn() -> None:
    three = pool(100, 0, 100)
    assert [three.assign(b"c", 0, repeatable=True, prefer=B) for _ in range(2)] == [Open(B), Open(B)]
    assert three.active == {B: 2}
    assert [three.assign(b"c", 0, repeatable=True) for _ in range(2)] == [Open(A), Open(C)]
    three.released(B, "idle", 0)
    assert three.assign(b"c", 0, repeatable=True, prefer=B) == Reuse("idle", B)


def test_who_stays_goes_elsewhere_where_his_server_takes_nothing() -> None:
    two = pool(100, 100)
    assert two.assign(b"c", 0, repeatable=True, prefer=("10.0.0.9", 80)) == Open(A)
    assert two.assign(b"c", 0, repeatable=True, prefer=A, tried={A}) == Open(B)
    two.set_down({B}, 0)
    assert two.assign(b"c", 0, repeatable=True, prefer=B) == Open(A)
    full: Pool[str, str] = Pool()
    full.update(servers(100, 100), replace(service(), server_max_connections=1), 0)
    assert [full.assign(b"c", 0, repeatable=True, prefer=A) for _ in range(3)] == [Open(A), Open(B), FULL]


def test_servers_take_turns_and_the_unhealthy_and_tried_none() -> None:
    three = pool(100, 100, 100)
    assert [three.assign(b"c", 0, repeatable=True) for _ in range(3)] == [Open(A), Open(B), Open(C)]
    assert three.assign(b"c", 0, repeatable=True, tried={A, B}) == Open(C)
    three.set_down({A, C}, 0)
    assert [three.assign(b"c", 0, repeatable=True) for _ in range(2)] == [Open(B), Open(B)]
    assert three.assign(b"c", 0, repeatable=True, tried={B}) is None
    three.set_down({A, B, C}, 0)
    assert three.assign(b"c", 0, repeatable=True) is None


def test_no_weight_no_request() -> None:
    assert pool(0, 0).assign(b"c", 0, repeatable=True) is None
    assert pool().assign(b"c", 0, repeatable=True) is None
    assert Pool[str, str]().assign(b"c", 0, repeatable=True) is None


def test_least_connections_sees_what_is_active() -> None:
    two = pool(100, 100, scheduler=Scheduler.LC)
    first = two.assign(b"c", 0, repeatable=True)
    second = two.assign(b"c", 0, repeatable=True)
    assert {first, second} == {Open(A), Open(B)}
    two.failed(A)
    assert two.assign(b"c", 0, repeatable=True) == Open(A)


def test_a_source_keeps_its_server_whatever_the_order_of_the_list() -> None:
    three = pool(100, 100, 100, scheduler=Scheduler.SH)
    before = [three.assign(b"%d" % i, 0, repeatable=True) for i in range(50)]
    three.update(servers(100, 100, 100)[::-1], service(Scheduler.SH), 0)
    after = [three.assign(b"%d" % i, 0, repeatable=True) for i in range(50)]
    assert before == after
    assert len(set(before)) == 3


def test_a_new_list_keeps_what_stays_and_gives_back_what_is_gone() -> None:
    two = pool(100, 100, scheduler=Scheduler.LC)
    for _ in range(4):
        two.assign(b"c", 0, repeatable=True)
    two.released(A, "a", 0)
    two.released(B, "b", 0)
    assert two.update(servers(100), service(Scheduler.LC), 0) == ["b"]
    assert two.active == {A: 1, B: 1}
    assert not two.released(B, "late", 1)
    assert two.active == {A: 1}
    assert two.assign(b"c", 1, repeatable=True) == Reuse("a", A)


def test_unhealthy_servers_lose_their_idle_connections() -> None:
    two = pool(100, 100)
    two.assign(b"c", 0, repeatable=True)
    two.released(A, "a", 0)
    assert two.set_down({A}, 0) == ["a"]
    assert not two.released(A, "in flight", 1)


def test_idle_connections_expire_and_are_bounded() -> None:
    one = pool(100)
    for number in range(IDLE_PER_SERVER + 1):
        one.assign(b"c", 0, repeatable=True, fresh=True)
        assert one.released(A, str(number), number) == (number < IDLE_PER_SERVER)
    assert one.expire(IDLE_S + 1.5) == ["0", "1"]
    one.closed(A, "2")
    assert len(one.drop()) == IDLE_PER_SERVER - 3
    assert one.drop() == []


def test_as_many_connections_are_kept_as_are_in_use() -> None:
    """Thousands of clients at once need thousands of connections at once, again and again."""
    one, many = pool(100), 4 * IDLE_PER_SERVER
    for _ in range(many):
        one.assign(b"c", 0, repeatable=True)
    kept = [one.released(A, str(number), 0) for number in range(many)]
    assert kept.count(True) == many // 2
    assert kept.index(False) == many // 2


def test_a_service_that_is_gone_takes_nothing_back() -> None:
    """Nobody would look after what it kept: requests that were in flight end later than their service."""
    one = pool(100)
    one.assign(b"c", 0, repeatable=True)
    one.assign(b"c", 0, repeatable=True)
    assert one.released(A, "a", 0)
    assert one.drop() == ["a"]
    assert not one.released(A, "in flight", 1)
    assert one.active == {}
    assert one.drop() == []


def test_workers_begin_with_different_servers() -> None:
    first, second = Pool[str, str](0), Pool[str, str](1)
    for each in (first, second):
        each.update(servers(100, 100), service(Scheduler.WRR), 0)
    assert first.assign(b"c", 0, repeatable=True) != second.assign(b"c", 0, repeatable=True)


def test_who_comes_back_to_the_list_has_its_requests_in_flight() -> None:
    two = pool(100, 100, scheduler=Scheduler.LC)
    two.assign(b"c", 0, repeatable=True)
    two.assign(b"c", 0, repeatable=True)
    two.update(servers(100), service(Scheduler.LC), 0)
    assert two.active == {A: 1, B: 1}
    two.update(servers(100, 100), service(Scheduler.LC), 0)
    two.failed(A)
    assert two.active == {B: 1}
    assert two.assign(b"c", 0, repeatable=True) == Open(A)


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


# -- limits


def limited(connections: int, queue: int = 100) -> BackendService:
    return replace(service(), server_max_connections=connections, server_max_queue=queue)


def test_a_full_server_is_passed_over_and_all_full_is_said() -> None:
    two: Pool[str, str] = Pool()
    two.update(servers(100, 100), limited(2), 0)
    assert [two.assign(b"c", 0, repeatable=True) for _ in range(4)] == [Open(A), Open(B), Open(A), Open(B)]
    assert two.assign(b"c", 0, repeatable=True) is FULL
    assert two.assign(b"c", 0, repeatable=True, tried={A}) is None  # a second try waits for nobody
    two.failed(B)
    assert two.assign(b"c", 0, repeatable=True) == Open(B)
    two.set_down({A, B}, 0)
    assert two.assign(b"c", 0, repeatable=True) is None


def test_idle_connections_count_and_make_room() -> None:
    one: Pool[str, str] = Pool()
    one.update(servers(100), limited(2), 0)
    for name in ("old", "new"):
        one.assign(b"c", 0, repeatable=True)
        one.assign(b"c", 0, repeatable=True, fresh=True)
        one.released(A, name, 0)
        one.failed(A)
        if name == "old":
            assert one.assign(b"c", 9, repeatable=False) == Open(A)  # one in use and one idle are two
            one.failed(A)
    one.assign(b"c", 9, repeatable=False)
    assert one.assign(b"c", 9, repeatable=False) == Open(A, "new")


def test_who_waits_longest_is_next_and_who_comes_new_goes_behind() -> None:
    woken: list[int] = []
    one: Pool[str, str] = Pool()
    one.on_room = lambda: woken.append(one.waiting)
    one.update(servers(100), limited(1, queue=2), 0)
    one.assign(b"c", 0, repeatable=True)
    assert [one.wait("first"), one.wait("second"), one.wait("third")] == [True, True, False]
    assert one.next_in_turn() is None
    assert woken == []
    one.failed(A)
    assert woken == [2]
    assert one.assign(b"c", 0, repeatable=True) is FULL
    assert one.next_in_turn() == "first"
    assert one.assign(b"c", 0, repeatable=True, in_turn=True) == Open(A)
    assert one.next_in_turn() is None
    one.leave("second")
    one.leave("second")
    assert one.waiting == 0


def test_those_who_wait_for_servers_that_are_gone_hear_of_it() -> None:
    woken: list[int] = []
    one: Pool[str, str] = Pool()
    one.on_room = lambda: woken.append(one.waiting)
    one.update(servers(100), limited(1), 0)
    one.assign(b"c", 0, repeatable=True)
    one.wait("first")
    one.set_down({A}, 0)
    assert woken == [1]
    assert one.next_in_turn() == "first"
    assert one.assign(b"c", 0, repeatable=True, in_turn=True) is None


def test_workers_share_a_limit_and_have_one_at_least() -> None:
    def room(limit: int, turn: int, workers: int) -> int:
        pool: Pool[str, str] = Pool(turn, workers)
        pool.update(servers(100), limited(limit), 0)
        count = 0
        while pool.assign(b"c", 0, repeatable=True) is not FULL:
            count += 1
        return count

    assert [room(7, turn, 3) for turn in range(3)] == [3, 2, 2]
    assert [room(1, turn, 3) for turn in range(3)] == [1, 1, 1]


def test_the_queue_grows_with_the_servers_that_take_requests() -> None:
    three: Pool[str, str] = Pool()
    three.update(servers(100, 100, 0), limited(1, queue=2), 0)
    assert [three.wait(name) for name in "abcde"] == [True] * 4 + [False]
    three.set_down({A}, 0)
    assert not three.wait("f")


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


# -- numbers


def test_numbers_are_told_when_they_have_changed() -> None:
    two: Pool[str, str] = Pool()
    two.update(servers(100, 100), service(ejection=Ejection(failures=1)), 0)
    zero = dict.fromkeys(("requests", "failures", "errors", "ejections", "active", "idle", "ejected"), 0)
    assert dict(two.news()) == {A: zero, B: zero}
    assert dict(two.news()) == {}
    two.assign(b"c", 0, repeatable=True)
    two.note(B, Outcome.FAILED, 0)
    two.note(A, Outcome.ERROR, 0)
    assert dict(two.news()) == {
        A: zero | {"requests": 1, "active": 1, "errors": 1},
        B: zero | {"failures": 1, "ejections": 1, "ejected": 1},
    }
    two.released(A, "a", 0)
    two.tick(10)
    assert dict(two.news()) == {
        A: zero | {"requests": 1, "idle": 1, "errors": 1},
        B: zero | {"failures": 1, "ejections": 1},
    }


@pytest.mark.parametrize("workers", [1, 4])
def test_the_workers_of_a_node_share_its_retries(workers: int) -> None:
    """The few in any case are the node's: 8 a second, saved up for ten seconds."""
    granted = 0
    for turn in range(workers):
        part: Pool[str, str] = Pool(turn, workers)
        part.update(servers(1, 1), replace(service(), retry_percent=0, retry_min_per_s=8), 0.0)
        while part.may_retry(0.0):
            granted += 1
        part.update(servers(1, 1), replace(service(), retry_percent=0, retry_min_per_s=8), 1.0)
        while part.may_retry(1.0):
            granted += 1
    assert granted == 80 + 8
