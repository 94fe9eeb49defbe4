"""The census of tables, on plain lists and on real maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest

from core.model import Scheduler
from l4fast.fill import TABLES, Census, Fill, Maps, countable
from tests.packets import ACK, SYN, Harness, Packet, service

SIZE = 1 << 15  # half-open flows: no bucket is full by chance


class FakeMap:
    def __init__(self, blocks: list[int], max_entries: int = 100) -> None:
        self.blocks_, self.max_entries, self.read = blocks, max_entries, 0

    def blocks(self, batch: int) -> Iterator[tuple[bytes, bytes, int]]:
        for count in self.blocks_:
            self.read += 1
            yield b"", b"", count


def census(**maps: dict[int, FakeMap]) -> Census:
    return Census(cast(Maps, maps))


def test_a_round_within_the_budget() -> None:
    counted = census(a={4: FakeMap([10, 5])}, b={4: FakeMap([]), 6: FakeMap([3], 50)})
    assert counted.fill() == {"a": {4: Fill(0, 100)}, "b": {4: Fill(0, 100), 6: Fill(0, 50)}}
    counted.count(1000, 1)
    assert counted.fill() == {"a": {4: Fill(15, 100)}, "b": {4: Fill(0, 100), 6: Fill(3, 50)}}


def test_a_round_over_several_budgets_publishes_whole_walks() -> None:
    big = FakeMap([10, 10, 10])
    counted = census(a={4: big}, b={4: FakeMap([4])})

    def used(name: str) -> int:
        return counted.fill()[name][4].used

    counted.count(10, 1)
    assert (used("a"), big.read) == (0, 1)
    counted.count(15, 1)
    assert (used("a"), big.read) == (0, 3)
    counted.count(1, 1)
    assert (used("a"), used("b")) == (30, 0)
    counted.count(1, 1)
    assert used("b") == 4
    big.blocks_ = [1]
    counted.count(1000, 1)
    assert (used("a"), big.read) == (30, 3), "the next round begins in the next second"
    counted.count(1000, 2)
    assert used("a") == 1


def test_an_empty_round_ends() -> None:
    counted = census(a={4: FakeMap([])})
    counted.count(1000, 1)
    assert counted.fill() == {"a": {4: Fill(0, 100)}}


@pytest.mark.root
def test_real_maps() -> None:
    harness = Harness(sessions=64, half_open=SIZE)
    try:
        harness.reset((service(80, scheduler=Scheduler.WRR),))
        counted = Census({name: {4: countable(harness.plane, name, 4)} for name in TABLES})
        syns = [Packet(source_port=2000 + n, flags=SYN) for n in range(100)]
        for syn in syns:
            harness.run(syn.frame())
        counted.count(1 << 20, 1)
        assert counted.fill()["half_open"][4] == Fill(100, SIZE)
        assert {name: of[4].used for name, of in counted.fill().items() if of[4].used} == {"half_open": 100}
        for syn in syns[:30]:
            harness.run(replace(syn, flags=ACK, sequence=syn.sequence + 1).frame())
        counted.count(1 << 20, 2)
        assert counted.fill()["half_open"][4].used == 70
    finally:
        harness.close()
