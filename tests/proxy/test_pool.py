"""Which server, and which connection."""

from __future__ import annotations

from core.model import Scheduler, Server
from proxy.pool import FRESH_S, IDLE_PER_SERVER, IDLE_S, Open, Pool, Reuse

A, B, C = ("10.0.0.1", 80), ("10.0.0.2", 80), ("10.0.0.3", 80)


def pool(*weights: int, scheduler: Scheduler = Scheduler.RR) -> Pool[str]:
    pool: Pool[str] = Pool()
    pool.update(servers(*weights), scheduler)
    return pool


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


def test_servers_take_turns_and_the_unhealthy_and_tried_none() -> None:
    three = pool(100, 100, 100)
    assert [three.assign(b"c", 0, repeatable=True) for _ in range(3)] == [Open(A), Open(B), Open(C)]
    assert three.assign(b"c", 0, repeatable=True, tried={A, B}) == Open(C)
    three.set_down({A, C})
    assert [three.assign(b"c", 0, repeatable=True) for _ in range(2)] == [Open(B), Open(B)]
    assert three.assign(b"c", 0, repeatable=True, tried={B}) is None
    three.set_down({A, B, C})
    assert three.assign(b"c", 0, repeatable=True) is None


def test_no_weight_no_request() -> None:
    assert pool(0, 0).assign(b"c", 0, repeatable=True) is None
    assert pool().assign(b"c", 0, repeatable=True) is None
    assert Pool[str]().assign(b"c", 0, repeatable=True) is None


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
    three.update(servers(100, 100, 100)[::-1], Scheduler.SH)
    after = [three.assign(b"%d" % i, 0, repeatable=True) for i in range(50)]
    assert before == after
    assert len(set(before)) == 3


def test_a_new_list_keeps_what_stays_and_gives_back_what_is_gone() -> None:
    two = pool(100, 100, scheduler=Scheduler.LC)
    for _ in range(4):
        two.assign(b"c", 0, repeatable=True)
    two.released(A, "a", 0)
    two.released(B, "b", 0)
    assert two.update(servers(100), Scheduler.LC) == ["b"]
    assert two.active == {A: 1, B: 1}
    assert not two.released(B, "late", 1)
    assert two.active == {A: 1}
    assert two.assign(b"c", 1, repeatable=True) == Reuse("a", A)


def test_unhealthy_servers_lose_their_idle_connections() -> None:
    two = pool(100, 100)
    two.assign(b"c", 0, repeatable=True)
    two.released(A, "a", 0)
    assert two.set_down({A}) == ["a"]
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
    first, second = Pool[str](0), Pool[str](1)
    for each in (first, second):
        each.update(servers(100, 100), Scheduler.WRR)
    assert first.assign(b"c", 0, repeatable=True) != second.assign(b"c", 0, repeatable=True)
