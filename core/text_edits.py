"""What has changed in a long text: edits by place, for texts of lines of which few change. Pure.

An edit is (AT, LESS, TEXT): LESS characters of the old text, from AT on, give way to TEXT. Edits are in the order of
their places and do not overlap. They are found in time linear in the texts' length: what both begin and end with is
left aside, and between that lines are followed that stand in both in the same order. So they need not be the fewest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Edit = tuple[int, int, str]
NEAR = 4096  # characters that are not worth a look at their lines


def edits(old: str, new: str) -> list[Edit]:
    """What makes `new` of `old`."""
    if old == new:
        return []
    begin = _common(old, new)
    end = _common_end(old, new, min(len(old), len(new)) - begin)
    before, after = old[begin : len(old) - end], new[begin : len(new) - end]
    if len(before) + len(after) <= NEAR:
        return [(begin, len(before), after)]
    # From whole lines to whole lines.
    begin = old.rfind("\n", 0, begin) + 1
    until = old.find("\n", len(old) - end)
    end = len(old) - until - 1 if until >= 0 else 0
    return _by_lines(old[begin : len(old) - end], new[begin : len(new) - end], begin)


def edited(old: str, changes: Iterable[Sequence[object]]) -> str:
    """The text after these edits. Raises ValueError where they are none of it."""
    parts, done = [], 0
    for change in changes:
        at, less, text = change
        if not isinstance(at, int) or not isinstance(less, int) or not isinstance(text, str):
            raise ValueError("an edit is a place, a length and a text")
        if not done <= at <= at + less <= len(old):
            raise ValueError("an edit of what is not there")
        parts += [old[done:at], text]
        done = at + less
    return "".join([*parts, old[done:]])


def _by_lines(old: str, new: str, begin: int) -> list[Edit]:
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    places = {line: number for number, line in enumerate(before)}
    found: list[Edit] = []
    at, one, other = begin, 0, 0
    while one < len(before) or other < len(after):
        if one < len(before) and other < len(after) and before[one] == after[other]:
            at += len(before[one])
            one, other = one + 1, other + 1
            continue
        start = other
        while other < len(after) and places.get(after[other], -1) < one:
            other += 1
        until = places[after[other]] if other < len(after) else len(before)
        less = sum(map(len, before[one:until]))
        found.append((at, less, "".join(after[start:other])))
        at, one = at + less, until
    return found


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _common_end(one: str, other: str, most: int) -> int:
    """How many characters both end with, at most `most`."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if one[len(one) - middle : len(one) - low] == other[len(other) - middle : len(other) - low]:
            low = middle
        else:
            high = middle - 1
    return low
