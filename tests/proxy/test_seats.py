"""Who accepts from which listening socket, and how sockets travel."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator

import pytest

from proxy import passing
from proxy.errors import ApplyError
from proxy.listen import bind
from proxy.seats import Seats, rota
from tests.proxy.support import free_port


@pytest.mark.parametrize(
    ("seats", "workers", "alive", "expected"),
    [
        (3, 3, {0, 1, 2}, {0: 0, 1: 1, 2: 2}),
        (3, 3, {0, 2}, {0: 0, 1: 2, 2: 2}),  # the next one minds it
        (3, 3, {1}, {0: 1, 1: 1, 2: 1}),
        (3, 3, set(), {}),
        (4, 2, {0, 1}, {0: 0, 1: 1, 2: 0, 3: 1}),  # the node before had more workers
        (4, 2, {1}, {0: 1, 1: 1, 2: 1, 3: 1}),
        (1, 1, {0}, {0: 0}),
    ],
    ids=["all", "one-gone", "two-gone", "none", "more-seats", "more-seats-one-gone", "one"],
)
def test_rota(seats: int, workers: int, alive: set[int], expected: dict[int, int]) -> None:
    assert rota(range(seats), workers, alive) == expected


@pytest.fixture
def seats() -> Iterator[Seats]:
    made = Seats(2)
    yield made
    made.close()


def test_each_seat_has_a_socket_on_every_endpoint(seats: Seats) -> None:
    a, b = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    assert seats.reserve([a]) == {(*a, 0), (*a, 1)}
    assert seats.reserve([a, b]) == {(*b, 0), (*b, 1)}
    assert set(seats.of({1})) == {(*a, 1), (*b, 1)}
    assert set(seats.of({0, 1}, without={(*a, 0)})) == {(*a, 1), (*b, 0), (*b, 1)}
    seats.keep([b])
    assert set(seats.all) == {(*b, 0), (*b, 1)}
    with socket.socket() as other:
        other.bind(a)  # it is free again


def test_what_cannot_be_had_leaves_nothing_behind(seats: Seats) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ApplyError, match="address already in use"):
            seats.reserve([("127.0.0.1", 1 + other.getsockname()[1]), other.getsockname(), ("", free_port())])
    assert seats.all == {}


def test_a_node_that_had_more_workers_leaves_more_seats() -> None:
    at = ("127.0.0.1", free_port())
    seats = Seats(1, {(*at, number): bind(*at) for number in range(3)})
    assert list(seats.numbers) == [0, 1, 2]
    assert seats.reserve([at]) == set()
    seats.close()


async def test_sockets_arrive_as_themselves() -> None:
    """More than one packet and more than the way holds at once."""
    ours, theirs = passing.pair()
    at = ("127.0.0.1", free_port())
    with bind(*at) as sock:
        sock.listen()
        many = {(*at, number): sock for number in range(450)}
        sending = asyncio.create_task(passing.send(ours, many))
        received: dict[passing.Seat, socket.socket] = {}
        while len(received) < len(many):
            received |= passing.receive(theirs) or {}
            await asyncio.sleep(0)
        await sending
        assert received.keys() == many.keys()
        with socket.create_connection(at), received[*at, 449].accept()[0]:
            pass  # the same queue
        for each in received.values():
            assert not os.get_inheritable(each.fileno())
            each.close()
    ours.close()
    assert passing.receive(theirs) is None
    theirs.close()


async def test_sockets_that_do_not_fit_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = passing.pair()
    with bind("127.0.0.1", 0) as sock, ours, theirs:
        await passing.send(ours, {("", 0, number): sock for number in range(4)})
        monkeypatch.setattr(passing, "BATCH", 2)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="too many open files") as caught:
            passing.receive(theirs)
        assert caught.value.errno == errno.EMFILE
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_side_that_is_gone_is_an_error() -> None:
    ours, theirs = passing.pair()
    theirs.close()
    with bind("127.0.0.1", 0) as sock, ours, pytest.raises(OSError, match="Broken pipe"):
        await passing.send(ours, {("", 0, 0): sock})
