"""Who may begin a handshake, who gives way, and whose turn it is."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tls_admission import LOOKED_AT, Clients, InFlight, Terms, Turns, client_of

PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8:1::/48"))


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:0:0:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("10.1.2.3", ""),  # whom the listener trusts brings many clients
        ("2001:db8:1::1", ""),
        ("", ""),
    ],
)
def test_whose_limit_counts(address: str, client: str) -> None:
    assert client_of(address, Terms(exempt=PROXIES)) == client
    assert client_of(address, Terms(per_client=0, exempt=PROXIES)) == ""


def test_a_client_has_its_places_and_no_more() -> None:
    clients = Clients()
    assert [clients.take("a", 2, 0.0) for _ in range(3)] == [True, True, False]
    assert clients.take("b", 2, 0.0)
    clients.give_back("a")
    assert [clients.take("a", 2, 0.0) for _ in range(2)] == [True, False]


def test_a_place_is_kept_until_its_time() -> None:
    clients = Clients()
    assert clients.take("a", 1, 0.0)
    clients.keep("a", 10.0)
    assert not clients.take("a", 1, 9.9)
    assert clients.take("a", 1, 10.0)


def test_however_fast_it_drops_them_it_begins_no_more() -> None:
    """A thousand a second, each dropped at once: 5 in 10 s."""
    clients, begun = Clients(), 0
    for ms in range(20_000):
        if clients.take("a", 5, ms / 1000):
            begun += 1
            clients.keep("a", ms / 1000 + 10)
    assert begun == 10


def test_kept_places_are_bounded_and_forgotten() -> None:
    clients = Clients(most_kept=2)
    for name in ("a", "b", "c"):
        assert clients.take(name, 1, 0.0)
        clients.keep(name, 10.0)
    assert clients.take("a", 1, 1.0)  # the oldest gave way
    assert not clients.take("b", 1, 1.0)
    clients.give_back("a")
    assert clients.take("d", 1, 10.0)
    assert len(clients) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "give", "keep"]), st.integers(0, 5))))
def test_no_place_is_lost_or_made(events: list[tuple[str, str, int]]) -> None:
    clients, held, kept, now = Clients(), {"a": 0, "b": 0, "c": 0}, [], 0.0
    for client, what, later in events:
        now += later
        if what == "take":
            kept = [(until, whose) for until, whose in kept if until > now]
            places = held[client] + sum(whose == client for _, whose in kept)
            assert clients.take(client, 3, now) == (places < 3)
            held[client] += places < 3
        elif held[client]:
            held[client] -= 1
            if what == "keep":
                clients.keep(client, now + 7)
                kept.append((now + 7, client))
            else:
                clients.give_back(client)


def test_deadlines_of_different_timeouts() -> None:
    flight: InFlight[str] = InFlight()
    assert flight.next_due is None
    flight.add("slow", 60, 0)
    flight.add("one", 10, 1)
    flight.add("two", 10, 2)
    assert flight.next_due == 11
    assert flight.due(10.9) == []
    assert flight.due(11) == ["one"]
    assert flight.due(99) == ["slow", "one", "two"]
    assert flight.remove("one") == 11
    assert (flight.next_due, len(flight), flight.all()) == (12, 2, ["slow", "two"])
    flight.remove("two")
    assert flight.next_due == 60


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (lambda n: True, 0),
        (lambda n: n >= 5, 5),
        (lambda n: n >= LOOKED_AT - 1, LOOKED_AT - 1),
        (lambda n: n >= LOOKED_AT, None),
    ],
)
def test_the_oldest_that_may_give_way(wanted: Callable[[int], bool], found: int | None) -> None:
    flight: InFlight[int] = InFlight()
    for number in range(100):
        flight.add(number, 60 - number % 7, 0)  # the order is that of beginning, not of deadlines
    assert flight.oldest(wanted) == found


def test_a_few_in_each_turn_and_the_rest_in_line() -> None:
    turns: Turns[int] = Turns(2, 10)
    assert [turns.take(number) for number in range(5)] == [True, True, False, False, False]
    assert turns.next_turn() == [2, 3]
    assert not turns.take(5)  # behind those who wait
    assert turns.next_turn() == [4, 5]
    assert turns.next_turn() == []
    assert [turns.take(number) for number in range(3)] == [True, True, False]


def test_who_has_come_in_line_uses_up_the_turn() -> None:
    turns: Turns[int] = Turns(2, 10)
    assert [turns.take(number) for number in range(3)] == [True, True, False]
    assert turns.next_turn() == [2]
    assert [turns.take(number) for number in (3, 4)] == [True, False]


def test_a_line_is_short() -> None:
    turns: Turns[int] = Turns(1, 2)
    for number in range(3):
        turns.take(number)
        assert turns.leaver() is None
    assert not turns.take(3)
    assert turns.leaver() == 1
    assert turns.leaver() is None
    assert (len(turns), turns.next_turn(), turns.next_turn()) == (2, [2], [3])
