"""Ejection, as strings of what happens: "+" answered, "5" answered with 5xx, "-" failed, " " a second later.

Below each the state after it: "U" in, "d" out. Time passes only with a space.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ejection import NEVER, Ejector, Outcome
from core.model import Ejection

OUTCOMES = {"+": Outcome.ANSWERED, "5": Outcome.ERROR, "-": Outcome.FAILED}
CASES = [
    # rules, events and states
    ("connect", Ejection(failures=3, first_s=2), "--- - ", "UUdddU"),
    ("a success between", Ejection(failures=3, first_s=2), "--+--+-", "UUUUUUU"),
    ("a 5xx proves that connections work", Ejection(failures=3, first_s=2), "--5--", "UUUUU"),
    ("errors", Ejection(failures=0, errors=2, first_s=2), "5+555-", "UUUddd"),
    ("failures do not count", Ejection(failures=0, errors=2, first_s=2), "------", "UUUUUU"),
    ("errors do not count", Ejection(failures=2, first_s=2), "55555", "UUUUU"),
    ("failures between errors", Ejection(failures=9, errors=3, first_s=2), "5-55", "UUUd"),
    ("probation failed, twice as long", Ejection(failures=3, first_s=1), "--- -     ", "UUdUddUUUU"),
    ("probation passed, an ordinary streak", Ejection(failures=3, first_s=1), "--- +---", "UUdUUUUd"),
    ("probation of errors", Ejection(failures=0, errors=2, first_s=1), "55 5", "UdUd"),
    ("what was on its way", Ejection(failures=1, first_s=2), "-+- +", "ddddd"),
]


@pytest.mark.parametrize(("rules", "events", "states"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_states(rules: Ejection, events: str, states: str) -> None:
    ejector, now, seen = Ejector[str](), 0.0, ""
    ejector.update(rules, ["a"])
    for event in events:
        if event == " ":
            now += 1
            ejector.returning(now)
        else:
            ejector.observe("a", OUTCOMES[event], now, room=True)
        seen += "d" if "a" in ejector.ejected else "U"
    assert seen == states


def test_anothers_ejection_is_followed_once_and_doubles() -> None:
    ejector = Ejector[str]()
    assert not ejector.follow("a", 2, 0.0, room=True), "without rules none is ejected"
    ejector.update(Ejection(failures=3, first_s=2), ["a"])
    assert not ejector.follow("a", 2, 0.0, room=False)
    assert ejector.follow("a", 2, 0.0, room=True)
    assert not ejector.follow("a", 9, 1.0, room=True), "it is out already"
    assert ejector.ejected == {"a": 2.0}
    assert ejector.returning(2.0) == ["a"]
    assert ejector.observe("a", Outcome.FAILED, 2.5, room=True) == 4, "on probation, and for twice as long"
    ejector.returning(6.5)
    assert ejector.follow("a", 8, 6.6, room=True)
    ejector.returning(15)
    assert ejector.observe("a", Outcome.ANSWERED, 30.0, room=True) == 0
    assert not ejector.attentive


def durations(rules: Ejection, pauses: list[float]) -> list[float]:
    """How long a server is out each time, if it fails so many seconds after each return."""
    ejector, now, found = Ejector[str](), 100.0, []
    ejector.update(rules, ["a"])
    for pause in pauses:
        now += pause
        out_s = ejector.observe("a", Outcome.FAILED, now, room=True)
        found.append(out_s)
        now += out_s
        assert ejector.next_return() == now
        assert ejector.returning(now) == ["a"]
    assert ejector.next_return() == NEVER
    return found


def test_the_time_doubles_up_to_its_limit_and_begins_anew_after_a_good_while() -> None:
    rules = Ejection(failures=1, first_s=10, longest_s=60)
    assert durations(rules, [0, 1, 1, 1, 1]) == [10, 20, 40, 60, 60]
    assert durations(rules, [0, 9.9, 20, 9.9]) == [10, 20, 10, 20]


def test_without_room_it_stays_and_goes_when_there_is_some() -> None:
    ejector = Ejector[str]()
    ejector.update(Ejection(failures=2), ["a"])
    assert [ejector.observe("a", Outcome.FAILED, 0, room=False) for _ in range(4)] == [0, 0, 0, 0]
    assert ejector.observe("a", Outcome.FAILED, 0, room=True) == 10


def test_who_is_gone_is_forgotten() -> None:
    ejector, rules = Ejector[str](), Ejection(failures=1)
    ejector.update(rules, ["a", "b"])
    ejector.observe("a", Outcome.FAILED, 0, room=True)
    ejector.observe("b", Outcome.FAILED, 0, room=True)
    ejector.update(rules, ["b"])
    assert ejector.ejected.keys() == {"b"}
    ejector.update(None, ["b"])
    assert not ejector.ejected
    assert not ejector.attentive


def test_a_check_that_passes_ends_it() -> None:
    ejector = Ejector[str]()
    ejector.update(Ejection(failures=1), ["a"])
    assert not ejector.forgive("a")
    ejector.observe("a", Outcome.FAILED, 0, room=True)
    assert ejector.forgive("a")
    assert ejector.observe("a", Outcome.FAILED, 1, room=True) == 10  # not 20


@given(
    st.lists(st.tuples(st.sampled_from(list(Outcome)), st.floats(0, 100), st.booleans()), max_size=60),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_out_is_out_until_its_time_and_no_longer_than_the_limit(
    events: list[tuple[Outcome, float, bool]], failures: int, errors: int
) -> None:
    rules = Ejection(failures=failures, errors=errors, first_s=3, longest_s=50)
    ejector, now, until = Ejector[str](), 0.0, 0.0
    ejector.update(rules, ["a"])
    for outcome, pause, room in events:
        now += pause
        assert ejector.returning(now) == (["a"] if 0 < until <= now else [])
        until = until if until > now else 0.0
        out_s = ejector.observe("a", outcome, now, room=room)
        if out_s:
            assert room
            assert not until
            assert outcome is not Outcome.ANSWERED
            assert 3 <= out_s <= 50
            until = now + out_s
        assert ("a" in ejector.ejected) == (until > now)
