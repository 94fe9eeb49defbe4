"""Nonces: once in fifteen minutes before and after, bounded, and never forgotten too early."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.cloud import kept_nonces
from control.cloud.nonces import WINDOW_S, Nonces, Seen, within
from control.store import Store
from tests.control.memory_store import MemoryStore


@pytest.mark.parametrize(
    ("skew_s", "good"),
    [(0, True), (WINDOW_S, True), (-WINDOW_S, True), (WINDOW_S + 1, False), (-WINDOW_S - 1, False)],
    ids=["now", "old", "early", "too-old", "too-early"],
)
def test_the_window(skew_s: float, good: bool) -> None:
    assert within(1000 - skew_s, 1000) is good


def test_a_nonce_is_good_once_for_each_owner() -> None:
    nonces = Nonces()
    assert nonces.take("a", "n", 1000, 1000) is Seen.NEW
    assert nonces.take("a", "n", 1000, 1000 + WINDOW_S) is Seen.USED
    assert nonces.take("b", "n", 1000, 1000) is Seen.NEW
    assert nonces.take("an", "", 1000, 1000) is Seen.NEW  # the same letters, differently shared


def test_one_that_was_signed_early_is_remembered_for_longer() -> None:
    nonces = Nonces()
    nonces.take("a", "n", 1000 + WINDOW_S, 1000)
    assert nonces.take("a", "n", 1000 + WINDOW_S, 1000 + 2 * WINDOW_S) is Seen.USED
    nonces.take("a", "other", 5000, 5000)
    assert len(nonces) == 1


def test_without_room_nothing_is_forgotten() -> None:
    nonces = Nonces(most=3, most_each=2)
    assert [nonces.take("a", each, 0, 0) for each in "123"] == [Seen.NEW, Seen.NEW, Seen.NO_ROOM]
    assert [nonces.take("b", each, 0, 0) for each in "12"] == [Seen.NEW, Seen.NO_ROOM]
    assert nonces.take("a", "1", 0, 0) is Seen.USED
    assert nonces.take("a", "3", 2000, 2000) is Seen.NEW
    assert len(nonces) == 1


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return MemoryStore()


async def test_the_storage_knows_it_for_all_control_nodes(store: Store) -> None:
    assert await kept_nonces.keep(store, "a", "n", 1000, 1000)
    assert not await kept_nonces.keep(store, "a", "n", 1000, 1000)
    assert await kept_nonces.keep(store, "b", "n", 1000, 1000)
    assert len(await store.records(kept_nonces.SPACE)) == 2


async def test_the_storage_forgets_what_is_over(store: Store) -> None:
    for number in range(5):
        assert await kept_nonces.keep(store, "a", str(number), 1000, 1000)
    assert await kept_nonces.keep(store, "a", "later", 5000, 5000)
    assert len(await store.records(kept_nonces.SPACE)) == 1
