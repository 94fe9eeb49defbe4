"""The seed of the flows' hash: where flows go follows from it and from nothing else that differs between nodes."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.model import HASH_SCHEDULERS, Scheduler
from l4fast.node import Node
from l4fast.settings import make_key
from tests.packets import ACK, Harness, Packet, maglev_real, service

pytestmark = pytest.mark.root

DICE = random.Random(7)
FLOWS = [
    Packet(
        source=f"198.51.{DICE.randrange(256)}.{DICE.randrange(1, 255)}",
        source_port=DICE.randrange(1024, 65536),
        flags=ACK,
    )
    for _ in range(40)
]
SEEDS = (0, 1, 1 << 63, 0x0123456789ABCDEF)


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    harness = Harness(sessions=256, half_open=256)
    yield harness
    harness.close()


@pytest.fixture(autouse=True)
def unseeded(harness: Harness) -> Iterator[None]:
    harness.reset()
    yield
    harness.tables.set_seed(0)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("scheduler", sorted(HASH_SCHEDULERS))
def test_flows_go_where_the_seed_says(harness: Harness, scheduler: Scheduler, version: int) -> None:
    of = service(80, scheduler=scheduler, stateless=True, version=version)
    flows = [flow.as_version(version) for flow in FLOWS]
    ways = set()
    for seed in SEEDS:
        harness.tables.set_seed(seed)
        harness.tables.apply([of], set(), harness.macs)
        way = tuple(harness.real_of(flow) for flow in flows)
        assert way == tuple(maglev_real(flow, of, seed).address for flow in flows)
        ways.add(way)
    assert len(ways) == len(SEEDS)


def test_a_client_has_one_server_behind_several_listeners(harness: Harness) -> None:
    """sh: the seed is the cluster's and not a listener's."""
    harness.tables.set_seed(SEEDS[-1])
    listeners = [
        service(port, scheduler=Scheduler.SH, vip=vip) for port, vip in ((80, "10.0.0.100"), (81, "10.0.0.101"))
    ]
    harness.tables.apply(listeners, set(), harness.macs)
    for flow in FLOWS:
        reals = {harness.real_of(replace(flow, destination=of.vip, port=of.port)) for of in listeners}
        assert len(reals) == 1


def test_sessions_stay_where_they_are(harness: Harness) -> None:
    of = service(80)
    harness.tables.apply([of], set(), harness.macs)
    before = [harness.real_of(flow) for flow in FLOWS]
    harness.tables.set_seed(SEEDS[-1])
    harness.tables.apply([of], set(), harness.macs)
    assert [harness.run(flow)[0] for flow in FLOWS] == ["tx_session"] * len(FLOWS)
    assert [harness.real_of(flow) for flow in FLOWS] == before


def test_a_running_node_reads_the_seed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new key moves no flow; a file without a seed is told of; a file that is wrong changes nothing."""
    path = tmp_path / "key"
    make_key(path)
    seeds: list[int] = []
    keys: list[int] = []
    node = Node(cast(Any, SimpleNamespace(cluster_key=path)), cast(Any, None))
    sync = SimpleNamespace(rekey=lambda given, _digest: keys.append(len(given)))
    tables = SimpleNamespace(set_seed=seeds.append)
    changes: list[None] = []

    def hang_up() -> None:
        node._reload_keys(
            cast(Any, sync), cast(Any, tables), cast(Any, SimpleNamespace(changed=lambda: changes.append(None)))
        )

    hang_up()
    whole = path.read_text()
    path.write_text(f"{bytes(32).hex()}\n{whole}")
    hang_up()
    assert seeds[0] == seeds[1] != 0
    path.write_text(f"{bytes(32).hex()}\n")
    with caplog.at_level(logging.WARNING):
        hang_up()
    assert "no line of a seed" in caplog.text
    path.write_text("seed\n")
    hang_up()
    assert (seeds[2:], keys, len(changes)) == ([0], [1, 2, 1], 3)
