from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from l4fast.sync_window import GAP_MOST, RESEND_DELAY_S, RESEND_RETRY_S, RESEND_TRIES, WINDOW, History, Window


def asked(window: Window, now: float, most: int = 99) -> list[tuple[int, int]]:
    return window.ask(now, most)


def test_missing_ranges_and_what_fills_them() -> None:
    window = Window(10)
    assert [window.mark(n, 1.0) for n in (11, 14, 17)] == [0, 2, 2]
    assert asked(window, 1.0) == [], "it may only have been overtaken"
    assert window.next_ask() == 1.0 + RESEND_DELAY_S
    assert asked(window, 1.0 + RESEND_DELAY_S) == [(12, 13), (15, 16)]
    assert window.fresh(12)
    assert not any(map(window.fresh, (9, 10, 11, 14, 17)))
    assert window.mark(12, 2.0) == 0
    assert not window.fresh(12)
    assert asked(window, 1.0 + RESEND_DELAY_S) == [], "just asked for"
    assert asked(window, 2.0) == [(13, 13), (15, 16)]
    assert (window.lost, window.missing()) == (0, 3)
    window.give_up()
    assert (window.lost, window.missing(), window.fresh(13), window.next_ask()) == (3, 0, False, None)


def test_at_most_so_many_ranges_the_oldest_first() -> None:
    window = Window(1)
    for number in range(3, 40, 2):
        window.mark(number, 1.0)
    assert asked(window, 2.0, 3) == [(2, 2), (4, 4), (6, 6)]
    assert asked(window, 2.0, 3) == [(8, 8), (10, 10), (12, 12)]


def test_each_number_is_asked_for_so_often_and_then_lost() -> None:
    window = Window(1)
    window.mark(3, 0.0)
    now, turns = RESEND_DELAY_S, 0
    while window.fresh(2):
        turns += (2, 2) in asked(window, now)
        window.mark(window.highest + 2, now)  # there is always one that has only just been missed
        now += RESEND_RETRY_S
    assert turns == RESEND_TRIES
    assert window.lost == 1
    assert window.missing() == turns + 1


def test_edges_of_the_window() -> None:
    window = Window(1)
    assert window.mark(3, 0.0) == 1
    for number in range(4, WINDOW + 2):
        window.mark(number, 0.0)
    assert window.fresh(2)
    window.mark(WINDOW + 2, 0.0)
    assert not window.fresh(2)
    assert window.lost == 1


def test_a_wide_gap_is_lost_at_once() -> None:
    window = Window(1)
    assert window.mark(GAP_MOST + 2, 0.0) == GAP_MOST
    assert (window.missing(), window.lost) == (GAP_MOST, 0)
    assert window.mark(2 * GAP_MOST + 4, 0.0) == GAP_MOST + 1
    assert window.missing() <= GAP_MOST
    assert window.missing() + window.lost == 2 * GAP_MOST + 1
    assert window.mark(10**15, 0.0) == 10**15 - 2 * GAP_MOST - 5
    assert window.missing() == 0
    assert window.lost == 10**15 - 4  # but for 1, the three that came


@given(st.lists(st.integers(1, 3 * WINDOW), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_against_a_set(numbers: list[int]) -> None:
    """What is fresh is taken once; seen, missing and lost add up to all numbers."""
    window, seen = Window(numbers[0]), {numbers[0]}
    for number in numbers[1:]:
        if window.fresh(number):
            assert number not in seen
            assert number > max(max(seen) - WINDOW, numbers[0])
            window.mark(number, 0.0)
            seen.add(number)
    missing = [n for first, last in window.ask(1.0, 10**9) for n in range(first, last + 1)]
    assert not seen & set(missing)
    assert all(map(window.fresh, missing))
    assert len(seen) + len(missing) + window.lost == max(seen) - numbers[0] + 1


def test_history_is_bounded_and_repeats_at_most_every_so_often() -> None:
    history = History(3)
    for number in range(1, 6):
        history.add(number, b"%d" % number)
    assert [history.again(number, 1.0) for number in range(1, 7)] == [None, None, b"3", b"4", b"5", None]
    assert history.again(3, 1.0) is None
    assert history.again(3, 1.0 + RESEND_RETRY_S / 2) == b"3"
