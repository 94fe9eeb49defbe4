"""Which faults a campaign has, in which order."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from bench.faults.kinds import KINDS, Act, chosen, faults

HOSTS = {"l4": ["l4-1", "l4-2"], "l7": ["l7-1", "l7-2"], "keyserver": ["key-1", "key-2"], "control": ["control"],
         "backend": ["be-1", "be-2", "be-3"]}  # fmt: skip


def test_the_same_seed_has_the_same_faults() -> None:
    first, again, other = (list(islice(faults(seed, KINDS, HOSTS), 100)) for seed in (7, 7, 8))
    assert first == again
    assert [fault.kind for fault in first] != [fault.kind for fault in other]


def test_every_kind_has_been_before_one_comes_again() -> None:
    seen = [fault.kind.name for fault in islice(faults(1, KINDS, HOSTS), 2 * len(KINDS))]
    assert sorted(seen[: len(KINDS)]) == sorted(seen[len(KINDS) :]) == sorted(kind.name for kind in KINDS)
    assert seen[: len(KINDS)] != seen[len(KINDS) :], "shuffled anew"


def test_hosts_are_of_the_roles_and_two_ends_are_two() -> None:
    struck: Counter[str] = Counter()
    for fault in islice(faults(3, KINDS, HOSTS), 20 * len(KINDS)):
        assert [next(role for role in HOSTS if host in HOSTS[role]) for host in fault.hosts] == list(fault.kind.roles)
        assert len(set(fault.hosts)) == len(fault.hosts)
        least, most = fault.kind.lasts_s
        assert least <= fault.lasts_s <= most
        struck.update(fault.hosts)
    assert set(struck) == {host for of in HOSTS.values() for host in of}


def test_every_process_of_the_cluster_is_killed_cut_off_frozen_and_filled() -> None:
    by_act: dict[Act, set[str]] = {act: set() for act in Act}
    for kind in KINDS:
        by_act[kind.act].update(kind.roles)
    ours = {"l4", "l7", "keyserver", "control"}
    assert by_act[Act.KILL] >= ours | {"backend"}
    assert by_act[Act.FREEZE] >= ours
    assert by_act[Act.CUT] >= ours
    assert by_act[Act.FILL] == {"control", "l4", "l7"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["control-killed"], {"control-killed"}),
        (["control"], {"control-killed", "control-frozen", "control-l7-cut-one-way", "control-disk-full"}),
        (["l4-l4-cut"], {"l4-l4-cut", "l4-l4-cut-one-way"}),
    ],
    ids=["one", "all of a tier", "one and what it begins"],
)
def test_only_these(words: list[str], found: set[str]) -> None:
    assert {kind.name for kind in chosen(words, announced=False)} == found


def test_what_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"no kind of fault begins with 'l5'.*l4-agent-killed"):
        chosen(["l4", "l5"], announced=False)
    with pytest.raises(ValueError, match="l4-announcer-killed"):
        chosen(["l4-announcer-killed"], announced=False)
    assert {kind.name for kind in chosen([], announced=True)} == {kind.name for kind in KINDS}
