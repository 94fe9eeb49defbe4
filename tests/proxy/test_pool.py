"""Which server, and which connection; limits and the queue."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.ejection import Outcome
from core.model import BackendService, Ejection, Scheduler
from proxy.pool import FRESH_S, FULL, IDLE_PER_SERVER, IDLE_S, LATELY_S, Open, Pool, Reuse
from tests.proxy.pools import A, B, C, pool, servers, service


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


def test_a_label_is_for_those_who_have_it() -> None:
    one = pool(100)
    for _ in range(4):
        one.assign(b"c", 0, repeatable=True)
    for handle, label in (("a1", b"a"), ("a2", b"a"), ("b1", b"b"), ("anybody's", b"")):
        assert one.released(A, handle, 0, label)
    assert one.assign(b"c", 0, repeatable=True, label=b"c") == Open(A)
    assert one.assign(b"c", 0, repeatable=True, label=b"a", fresh=True) == Open(A)
    assert one.assign(b"c", FRESH_S + 0.1, repeatable=False, label=b"a") == Open(A)
    assert one.assign(b"c", 0, repeatable=True, label=b"a") == Reuse("a1", A)
    assert one.assign(b"c", 0, repeatable=True, label=b"a") == Reuse("a2", A)
    assert one.assign(b"c", 0, repeatable=True, label=b"a") == Open(A)
    assert one.assign(b"c", 0, repeatable=True, label=b"b") == Reuse("b1", A)
    assert one.released(A, "a1", 0, b"a")
    one.closed(A, "a1")
    assert one.assign(b"c", 0, repeatable=True, label=b"a") == Open(A)


def test_labelled_connections_can_be_dismissed() -> None:
    one = pool(100)
    for _ in range(3):
        one.assign(b"c", 0, repeatable=True)
    one.released(A, "a", 0, b"a")
    one.released(A, "b", 0, b"b")
    one.released(A, "anybody's", 0)
    assert one.dismiss(lambda handle: handle != "b") == ["a"]
    assert one.assign(b"c", 0, repeatable=True, label=b"a") == Open(A)
    assert one.assign(b"c", 0, repeatable=True, label=b"b") == Reuse("b", A)
    assert one.assign(b"c", 0, repeatable=True) == Reuse("anybody's", A)
    one.released(A, "b", 0, b"b")
    assert one.expire(IDLE_S) == ["b"]
    assert one.dismiss(lambda _: True) == []
    assert not one._labelled, "nothing is kept of who is gone"


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


def test_as_many_connections_are_kept_as_were_in_use_lately() -> None:
    """Thousands of requests at once need thousands of connections at once, again and again; but not for ever."""
    one, many = pool(100), 4 * IDLE_PER_SERVER

    def burst(now: float) -> int:
        """How many of the connections of so many requests at once are kept."""
        for _ in range(many):
            one.assign(b"c", now, repeatable=True)
        return [one.released(A, f"{now} {number}", now) for number in range(many)].count(True)

    def alone(now: float) -> bool:
        one.assign(b"c", now, repeatable=True, fresh=True)
        return one.released(A, str(now), now)

    assert burst(0) == many
    assert burst(LATELY_S - 1) == many, "all were used again, and none was closed"
    assert not alone(LATELY_S), "one more than were ever in use"
    assert not alone(2 * LATELY_S - 1)
    assert len(one.expire(IDLE_S + LATELY_S)) == many
    kept = [alone(IDLE_S + LATELY_S + number) for number in range(IDLE_PER_SERVER + 1)]
    assert kept.index(False) == IDLE_PER_SERVER


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
    assert [one.wait("first", 0.0), one.wait("second", 0.0), one.wait("third", 0.0)] == [True, True, False]
    assert one.next_in_turn(0.0) is None
    assert woken == []
    one.failed(A)
    assert woken == [2]
    assert one.assign(b"c", 0, repeatable=True) is FULL
    assert one.next_in_turn(0.0) == "first"
    assert one.assign(b"c", 0, repeatable=True, in_turn=True) == Open(A)
    assert one.next_in_turn(0.0) is None
    one.leave("second")
    one.leave("second")
    assert one.waiting == 0


def test_those_who_wait_for_servers_that_are_gone_hear_of_it() -> None:
    woken: list[int] = []
    one: Pool[str, str] = Pool()
    one.on_room = lambda: woken.append(one.waiting)
    one.update(servers(100), limited(1), 0)
    one.assign(b"c", 0, repeatable=True)
    one.wait("first", 0.0)
    one.set_down({A}, 0)
    assert woken == [1]
    assert one.next_in_turn(0.0) == "first"
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
    assert [three.wait(name, 0.0) for name in "abcde"] == [True] * 4 + [False]
    three.set_down({A}, 0)
    assert not three.wait("f", 0.0)


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
