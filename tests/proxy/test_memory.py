"""The memory of verdicts is bounded: in their number, their size, and what they hold together."""

from __future__ import annotations

from proxy.memory import FIELD_BYTES, MEMORY_BYTES, Memory


def test_it_begins_anew_when_it_has_as_many_as_it_may() -> None:
    memory = Memory[str](limit=2)
    for name in (b"a", b"b", b"c"):
        memory.put(name, "good")
    assert (memory.get(b"a"), memory.get(b"b"), memory.get(b"c")) == (None, None, "good")


def test_what_is_long_is_not_remembered() -> None:
    memory = Memory[str]()
    memory.put(b"x" * 2048, "good")
    memory.put(b"x" * 2049, "good")
    assert (memory.get(b"x" * 2048), memory.get(b"x" * 2049)) == ("good", None)


def test_it_begins_anew_when_verdicts_hold_too_many_fields() -> None:
    memory = Memory[str]()
    most = MEMORY_BYTES // (128 * FIELD_BYTES)
    for number in range(most + 1):
        memory.put(b"%d" % number, "good", 128)
    kept = sum(memory.get(b"%d" % number) is not None for number in range(most + 1))
    assert 0 < kept < most
