"""What the two ends of a numbered flow find: each kind of loss, and nothing where nothing is lost."""

from __future__ import annotations

import pytest

from bench.failover.numbered import (
    MESSAGE_BYTES,
    UNANSWERED_MOST,
    Connection,
    Datagrams,
    Served,
    Spread,
    Wheel,
    WrongError,
    answer,
    message,
    parse,
)

SERVER, OTHER = b"\x01", b"\x02"


def test_a_message_is_read_as_it_was_written() -> None:
    assert parse(message(7, 9)) == (7, 9)
    assert parse(answer(answer(message(7, 9)))) == (7, 9)
    assert len(message(0, 0)) == MESSAGE_BYTES


@pytest.mark.parametrize("at", range(MESSAGE_BYTES))
def test_each_wrong_byte_is_found(at: int) -> None:
    data = bytearray(message(7, 9))
    data[at] ^= 1
    with pytest.raises(WrongError):
        parse(bytes(data))
    connection = Connection(7)
    connection.send(0)
    wrong = bytearray(answer(message(7, 0)))
    wrong[at] ^= 1
    with pytest.raises(WrongError):
        connection.receive(bytes(wrong), 0)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000])
def test_pieces_of_any_size(size: int) -> None:
    connection, served = Connection(3), Served()
    sent = b"".join(connection.send(n) for n in range(20))
    answers = b"".join(served.receive(sent[at : at + size]) for at in range(0, len(sent), size))
    for at in range(0, len(answers), size):
        connection.receive(answers[at : at + size], 20)
    assert (served.expected, connection.answered(), connection.messages, connection.longest_s) == (20, 20, 20, 20)


@pytest.mark.parametrize("second", [message(1, 0), message(1, 2), message(2, 1)], ids=["again", "one missing", "other"])
def test_a_server_finds_what_is_not_next(second: bytes) -> None:
    served = Served()
    assert served.receive(message(1, 0)) == answer(message(1, 0))
    with pytest.raises(WrongError):
        served.receive(second)


def test_a_connection_that_begins_in_its_middle_is_wrong() -> None:
    with pytest.raises(WrongError):
        Served().receive(message(1, 5))


@pytest.mark.parametrize("which", [(1, 1), (2, 0)])
def test_a_client_finds_what_is_not_next(which: tuple[int, int]) -> None:
    connection = Connection(1)
    connection.send(0)
    connection.send(0)
    with pytest.raises(WrongError):
        connection.receive(answer(message(*which)), 1)
    with pytest.raises(WrongError):
        Connection(1).receive(answer(message(1, 0)), 1)


def test_what_is_not_answered_does_not_pile_up() -> None:
    connection = Connection(1)
    assert sum(bool(connection.send(0)) for _ in range(2 * UNANSWERED_MOST)) == UNANSWERED_MOST


def test_a_window_has_its_own_longest() -> None:
    connection = Connection(1)
    for now, later in ((0.0, 3.0), (10.0, 11.0)):
        connection.begin()
        connection.send(now)
        connection.receive(answer(message(1, connection.sent - 1)), later)
    assert (connection.longest_s, connection.messages) == (1.0, 1)


@pytest.mark.parametrize(
    ("answered", "lost", "gap"),
    [
        ("++++++++", 0, 0),
        ("++--++++", 2, 3),
        ("+-+--+-+", 4, 3),
        ("--++++++", 2, 0),  # nothing was answered before
        ("+++++---", 3, 4),
        ("--------", 8, 8),
    ],
)
def test_datagrams_that_do_not_come_back(answered: str, lost: int, gap: float) -> None:
    flow = Datagrams(4)
    sent = [flow.send(float(now)) for now in range(8)]
    for mark, data in zip(answered, sent, strict=True):
        if mark == "+":
            flow.receive(SERVER + answer(data))
    assert flow.count(8.0) == (8, lost, gap)
    assert flow.count(0.0)[0] == 0
    flow.begin()
    assert flow.count(9.0) == (0, 0, 0)
    flow.receive(SERVER + answer(sent[0]))  # late, of the window before
    assert not flow.moved
    flow.receive(OTHER + answer(flow.send(9.0)))
    assert flow.moved
    assert flow.count(10.0) == (1, 0, 0)


@pytest.mark.parametrize("data", [message(5, 0), message(4, 1)])
def test_a_datagram_of_others(data: bytes) -> None:
    flow = Datagrams(4)
    flow.send(0)
    with pytest.raises(WrongError):
        flow.receive(SERVER + answer(data))


def test_turns_are_evenly_spread_and_not_made_up_for() -> None:
    wheel = Wheel[str](period_s=1.0, burst=3)
    wheel.members = list("abcd")
    took = ["".join(wheel.turns(eighths / 8)) for eighths in range(17)]
    assert took == ["b", "", "c", "", "d", "", "a", ""] * 2 + ["b"]
    assert "".join(wheel.turns(100.0)) == "cda"
    assert "".join(wheel.turns(100.2)) == "b"
    assert "".join(wheel.turns(100.2)) == ""


def test_a_spread() -> None:
    assert Spread.of([]) == Spread(0, 0, 0, 0)
    assert Spread.of([n / 1000 for n in range(1000, 0, -1)]) == Spread(1, 501, 991, 1000)
