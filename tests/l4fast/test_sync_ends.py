from __future__ import annotations

from l4fast.sync_ends import AGAIN_S, AT_ONCE, KEEP_S, Ended, Ends


def ended(number: int, until_s: int = 1000, size: int = 4) -> Ended:
    return Ended(4, number.to_bytes(size, "big"), 1, until_s)


def test_carried_out_again_once_and_in_order() -> None:
    ends = Ends()
    assert ends.next_timer() is None
    ends.add(ended(1), 1.0, 1000)
    ends.add(ended(2), 1.5, 1000)
    assert ends.next_timer() == 1.0 + AGAIN_S
    assert ends.due(1.0 + AGAIN_S) == [ended(1)]
    assert ends.due(9.0) == [ended(2)]
    assert (ends.due(99.0), ends.next_timer()) == ([], None)


def test_many_are_carried_out_in_turns() -> None:
    ends = Ends()
    for number in range(AT_ONCE + 5):
        ends.add(ended(number), 1.0, 1000)
    assert len(ends.due(1.0 + AGAIN_S)) == AT_ONCE
    assert ends.next_timer() == 1.0 + AGAIN_S
    assert len(ends.due(1.0 + AGAIN_S)) == 5


def test_remembered_until_no_idle_session_can_be_left() -> None:
    ends = Ends()
    ends.add(ended(1, 1000), 1.0, 1000)
    ends.add(ended(2, 1500), 1.0, 1500)
    last = 1000 + int(KEEP_S)
    assert ends.kept(last) == [ended(1, 1000), ended(2, 1500)]
    assert ends.kept(last + 1) == [ended(2, 1500)]
    ends.add(ended(3, last + 1), 1.0, last + 1)  # which makes room
    assert ends._bytes == 8


def test_what_snapshots_tell_again_is_not_new() -> None:
    """Otherwise two nodes would keep an end alive between them for ever."""
    ends = Ends()
    for now in (1.0, 2.0, 3.0):
        ends.add(ended(1), now, 1000)
    assert ends.due(99.0) == [ended(1)]
    assert ends.kept(1000) == [ended(1)]
    ends.add(ended(1, 1001), 4.0, 1001)  # ended once more
    assert ends.kept(1001) == [ended(1), ended(1, 1001)]


def test_bounded_in_bytes() -> None:
    ends = Ends(most_bytes=10)
    for number in range(5):
        ends.add(ended(number), 1.0, 1000)
    assert ends.kept(1000) == [ended(3), ended(4)]
