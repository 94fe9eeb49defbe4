"""The chain of the audit log: every way to change it afterwards is found."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.audit_chain import NO_HASH, ChainError, Head, Verifier, chained, encoded, entry_hash

Entries = list[dict[str, Any]]


def a_log(count: int) -> tuple[Entries, Head]:
    entries, head = [], Head()
    for number in range(count):
        entry, head = chained({"who": f"ann{number}", "status": 200}, head)
        entries.append(json.loads(encoded(entry)))
    return entries, head


def verify(entries: Entries, head: Head, expected: dict[int, str] | None = None) -> None:
    verifier = Verifier(head, expected or {})
    verifier.follow(entries[:2])
    verifier.follow(entries[2:])
    verifier.finish()


def test_a_log_is_as_it_was_written() -> None:
    entries, head = a_log(5)
    verify(entries, head, {3: entries[2]["hash"], 5: head.hash, 0: NO_HASH})
    verify([], Head())
    assert [entry["number"] for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[0]["previous"] == NO_HASH
    assert entries[4]["hash"] == head.hash


def test_the_hash_stays_the_same_in_later_releases() -> None:
    entry, _ = chained({"who": "ann", "status": 200}, Head())
    assert entry["hash"] == "5f45f6b633583c75d3054ea50092146a95e655fb821c9a0573db4ca73bcd97ab"
    assert entry_hash({"b": "ü", "a": 1}) == entry_hash({"a": 1, "b": "ü", "hash": "x"})


def test_the_oldest_may_be_forgotten() -> None:
    entries, head = a_log(5)
    verify(
        entries[2:], replace(head, first=3, before=entries[1]["hash"]), {2: entries[1]["hash"], 4: entries[3]["hash"]}
    )


def changed(entries: Entries, head: Head) -> Head:
    entries[1]["who"] = "eve"
    return head


def changed_with_its_hash(entries: Entries, head: Head) -> Head:
    entries[1]["who"] = "eve"
    entries[1]["hash"] = entry_hash(entries[1])
    return head


def without_one(entries: Entries, head: Head) -> Head:
    del entries[2]
    return head


def numbered_anew(entries: Entries, head: Head) -> Head:
    del entries[2]
    entries[2]["number"] = 3
    entries[3]["number"] = 4
    return replace(head, last=4)


def swapped(entries: Entries, head: Head) -> Head:
    entries[1], entries[2] = entries[2], entries[1]
    return head


def cut_off(entries: Entries, head: Head) -> Head:
    del entries[4]
    return head


def one_more(entries: Entries, head: Head) -> Head:
    entries.append(dict(chained({"who": "eve"}, head)[0]))
    return head


def without_the_first(entries: Entries, head: Head) -> Head:
    del entries[0]
    return replace(head, first=2)


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (changed, "entry 2 was changed: it does not have its hash"),
        (changed_with_its_hash, "entry 3 does not follow entry 2"),
        (without_one, "entry 3 is missing: 4 comes in its place"),
        (numbered_anew, "entry 3 does not follow entry 2"),
        (swapped, "entry 2 is missing: 3 comes in its place"),
        (cut_off, "the log ends with entry 4; it should end with 5"),
        (one_more, "the log ends with entry 6; it should end with 5"),
        (without_the_first, "entry 2 does not follow entry 1"),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_tampering_is_found(tamper: Callable[[Entries, Head], Head], told: str) -> None:
    entries, head = a_log(5)
    head = tamper(entries, head)
    with pytest.raises(ChainError, match=told):
        verify(entries, head)


def made_anew(entries: Entries) -> tuple[Entries, Head]:
    """All of it, by somebody who may write everything."""
    head, anew = Head(), []
    for entry in entries:
        told = {name: each for name, each in entry.items() if name not in ("hash", "previous", "number")}
        entry, head = chained(told, head)
        anew.append(dict(entry))
    return anew, head


def test_a_log_that_was_made_anew_is_told_by_what_was_noted() -> None:
    entries, head = a_log(5)
    noted = {4: entries[3]["hash"]}
    entries[1]["who"] = "eve"
    anew, new_head = made_anew(entries)
    verify(anew, new_head)
    with pytest.raises(ChainError, match="entry 4 is another than was noted"):
        verify(anew, new_head, noted)
    short, short_head = made_anew(entries[:2])
    with pytest.raises(ChainError, match="entry 4, which was noted, is not there: 1 to 2 are kept"):
        verify(short, short_head, noted)
    forgotten = replace(head, first=5, before="0" * 64)
    with pytest.raises(ChainError, match="entry 5 does not follow entry 4"):
        verify(a_log(5)[0][4:], forgotten)
    entry = dict(entries[4], previous="0" * 64)
    entry["hash"] = entry_hash(entry)
    with pytest.raises(ChainError, match="entry 4 is another than was noted"):
        verify([entry], replace(forgotten, hash=entry["hash"]), noted)


@given(st.integers(0, 4), st.sampled_from(["who", "status", "number", "previous", "hash"]), st.text(max_size=3))
def test_any_change_of_any_member_is_found(place: int, member: str, value: str) -> None:
    entries, head = a_log(5)
    entries[place][member] = value
    with pytest.raises(ChainError):
        verify(entries, head)
