"""What a sweep keeps between its calls."""

from __future__ import annotations

from l4fast.sweep import KIND_NONE, NOBODY, PERIOD_MOST_S, Due, Kinds, Listener, Seen, Sweep

NOW_S = 1_700_000_000
WEB = ("web", "10.0.1.1:80")


def seen(number: int) -> Seen:
    return Seen(4, number.to_bytes(16), NOW_S, 0)


def test_kinds_are_told_by_their_mark_within_one_sort() -> None:
    kinds = Kinds()
    kinds.learn("a", (1, 2), WEB, 900)
    kinds.learn("a", (1, 3), WEB, 900)
    kinds.learn("a", (2, 2), WEB, 120)
    of = kinds.numbers("a")
    assert of[1, 2] == of[1, 3] != of[2, 2]
    assert [(kinds.owners[n], kinds.timeouts[n]) for n in (of[1, 2], of[2, 2])] == [(WEB, 900), (WEB, 120)]
    assert of[9, 9] == kinds.numbers("b")[1, 2] == KIND_NONE


def test_what_is_of_no_kind_is_looked_at_always() -> None:
    kinds = Kinds()
    kinds.learn("a", (1,), WEB, 900)
    none, web = kinds.limits(NOW_S)
    assert none > NOW_S + 10**6  # a clock that has stepped back is no excuse
    assert web == NOW_S - 900
    assert kinds.limits(NOW_S + 5)[1] == NOW_S - 895
    kinds.learn("a", (2,), WEB, 10)
    assert kinds.limits(NOW_S + 5)[1:] == [NOW_S - 895, NOW_S - 5]


def test_due_gives_what_its_second_has_come_for() -> None:
    due = Due()
    for second, number in ((5, 1), (3, 2), (5, 3), (9, 4)):
        due.put(NOW_S + second, seen(number))
    assert due.take(NOW_S + 2, 10) == []
    assert due.take(NOW_S + 5, 10) == [seen(2), seen(1), seen(3)]
    assert due.take(NOW_S + 5, 10) == []
    assert due.take(NOW_S + 100, 10) == [seen(4)]


def test_due_gives_no_more_than_asked_for_and_keeps_the_rest() -> None:
    due = Due()
    for number in range(10):
        due.put(NOW_S + number // 4, seen(number))
    taken = [due.take(NOW_S + 60, 3) for _ in range(5)]
    assert [len(some) for some in taken] == [3, 3, 3, 1, 0]
    assert [one for some in taken for one in some] == [seen(number) for number in range(10)]


def test_due_has_a_limit_which_is_given_back() -> None:
    due = Due(most=2)
    for number in range(3):
        due.put(NOW_S, seen(number))
    assert due.take(NOW_S, 10) == [seen(0), seen(1)]
    due.put(NOW_S, seen(3))
    assert due.take(NOW_S, 10) == [seen(3)]


def test_a_sweep_looks_ahead_as_far_as_the_one_before_took() -> None:
    sweep = Sweep()
    sweep.begin(iter(()), NOW_S)
    assert sweep.period_s == PERIOD_MOST_S  # nobody knows
    sweep.begin(iter(()), NOW_S + 7)
    assert sweep.period_s == 7
    sweep.begin(iter(()), NOW_S + 7)
    assert sweep.period_s == 1
    sweep.begin(iter(()), NOW_S + 5000)
    assert sweep.period_s == PERIOD_MOST_S


def test_the_end_of_a_sweep_publishes_its_counts() -> None:
    sweep = Sweep()
    sweep.begin(iter(()), NOW_S)
    sweep.counts.update({WEB: 3, ("web", "10.0.1.2:80"): 2, ("web", ""): 4, NOBODY: 8})
    sweep.entries.update({4: 17})
    assert (sweep.last_counts, sweep.last_servers, sweep.last_entries) == ({}, {}, {})
    sweep.end()
    assert (sweep.last_counts, sweep.blocks, sweep.counts) == ({"web": 9}, None, {})
    assert (sweep.last_servers, sweep.last_entries) == ({WEB: 3, ("web", "10.0.1.2:80"): 2}, {4: 17})


def test_another_configuration_forgets_the_kinds() -> None:
    sweep = Sweep()
    services: dict[str, int] = {}
    assert not sweep.is_of([services])
    sweep.follow([services], {b"key": Listener("web", False, False, (1,), frozenset())})
    sweep.kinds.learn("a", (1,), WEB, 900)
    assert sweep.is_of([services])
    assert not sweep.is_of([dict(services)])
    sweep.follow([{}], {})
    assert sweep.kinds.numbers("a")[1,] == KIND_NONE
