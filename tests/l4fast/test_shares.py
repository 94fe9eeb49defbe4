from __future__ import annotations

import random
from collections import Counter

import pytest

from l4fast.shares import Share, shares

NODES = ("l4-1", "l4-2", "l4-3")
VIPS = tuple(f"192.0.2.{last}" for last in range(1, 31))


def order_of(address: str, vips: tuple[str, ...], nodes: tuple[str, ...]) -> list[str]:
    ranks = {node: next(s.rank for s in shares(vips, {}, nodes, node) if s.address == address) for node in nodes}
    return sorted(nodes, key=lambda node: ranks[node])


def test_an_only_node_is_the_first_of_everything() -> None:
    assert shares(("192.0.2.1", "2001:db8::1"), {}, (), "l4-1") == (
        Share("192.0.2.1", 0, 1), Share("2001:db8::1", 0, 1)
    )  # fmt: skip
    assert shares((), {}, NODES, "l4-1") == ()


@pytest.mark.parametrize("vips", [VIPS[:count] for count in range(1, 31)])
def test_every_node_has_its_part_and_every_vip_one_first(vips: tuple[str, ...]) -> None:
    firsts = Counter(
        share.address for node in NODES for share in shares(vips, {}, NODES, node) if share.rank == 0
    )  # fmt: skip
    assert firsts == dict.fromkeys(vips, 1)
    most = -(-len(vips) // len(NODES))
    parts = [sum(share.rank == 0 for share in shares(vips, {}, NODES, node)) for node in NODES]
    assert max(parts) <= most


def test_the_ranks_of_an_address_are_an_order_of_the_nodes() -> None:
    for vip in VIPS:
        ranks = [share.rank for node in NODES for share in shares(VIPS, {}, NODES, node) if share.address == vip]
        assert sorted(ranks) == [0, 1, 2]


def test_every_node_works_out_the_same_from_any_order_of_the_configuration() -> None:
    shuffled = list(VIPS)
    random.Random(1).shuffle(shuffled)
    assert shares(shuffled, {}, reversed(NODES), "l4-2") == shares(VIPS, {}, NODES, "l4-2")
    assert [share.address for share in shares(shuffled, {}, NODES, "l4-2")] == list(VIPS)


def test_a_node_that_goes_leaves_the_others_where_they_were() -> None:
    """But for what it had itself, and what the part of the others, now larger, makes room for."""
    before = {vip: order_of(vip, VIPS, NODES) for vip in VIPS}
    after = {vip: order_of(vip, VIPS, NODES[:2]) for vip in VIPS}
    moved = [vip for vip in VIPS if before[vip][0] != "l4-3" and after[vip][0] != before[vip][0]]
    assert len(moved) <= 3


def test_the_first_of_a_pools_address_is_its_node() -> None:
    pools = {"l4-1": ("10.0.9.1", "2001:db8:9::1"), "l4-2": ("10.0.9.2",), "l4-3": ()}
    assert {s.address: s.rank for s in shares((), pools, (), "l4-2") if s.rank == 0} == {"10.0.9.2": 0}
    ranks = [share.rank for node in NODES for share in shares((), pools, (), node) if share.address == "10.0.9.1"]
    assert (ranks[0], sorted(ranks)) == (0, [0, 1, 2])


def test_a_node_that_the_configuration_does_not_list_counts_itself() -> None:
    assert {share.nodes for share in shares(VIPS, {}, NODES, "l4-9")} == {4}
