"""What was found good, for a while."""

from __future__ import annotations

from proxy.remembered import Remembered, digest


def test_it_is_known_until_its_time_is_over() -> None:
    found: Remembered[str] = Remembered()
    found.put(b"a", "x", 10.0)
    assert [found.get(b"a", now) for now in (0.0, 9.9, 10.0)] == ["x", "x", None]
    assert found.get(b"b", 0.0) is None
    found.clear()
    assert found.get(b"a", 0.0) is None


def test_the_oldest_goes_first() -> None:
    found: Remembered[int] = Remembered(2)
    for number, key in enumerate((b"a", b"b", b"a", b"c")):
        found.put(key, number, 1.0)
    assert [found.get(key, 0.0) for key in (b"a", b"b", b"c")] == [2, None, 3]
    assert len(found) == 2


def test_parts_do_not_run_into_each_other() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
    assert digest(b"a") == digest(b"a")
    assert b"secret" not in digest(b"secret")
