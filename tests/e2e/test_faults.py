"""The fault campaign: a moment of it, and ten minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.faults import report
from bench.faults.campaign import SOON, Campaign, Pace, lab_of
from bench.faults.events import Traffic
from bench.faults.kinds import chosen
from bench.faults.promises import broken
from bench.faults.restart import to_stderr
from deploy.lab.lab import Lab
from deploy.lab.topology import Topology
from l4fast.pins import Pins

pytestmark = pytest.mark.root

SHORT = Pace(quiet_s=0.0, pause_s=0.0, steady_s=0.1, bill_s=0.0, left_s=0.0)


@contextmanager
def lab(topology: Topology) -> Iterator[Lab]:
    """One that leaves nothing in bpffs."""
    made = lab_of(topology, to_stderr)
    pins = [Pins(made.directory_of(host.name) / "state").directory for host in made.topology.of("l4")]
    try:
        assert all(path.exists() for path in pins), "or the last line finds nothing"
        yield made
    finally:
        made.down()
    assert not any(path.exists() for path in pins)


def test_a_moment_of_it(tmp_path: Path) -> None:
    """Traffic of every kind goes on while a worker of a key server is killed and replaced; all of it is told."""
    with lab(Topology(f"pftq{os.getpid()}", l4=1, l7=1, backends=1)) as made:
        killed = chosen(["keyserver-worker-killed"], announced=False)
        result = Campaign(made, tmp_path, to_stderr, seed=1, scale=0.5, pace=SHORT).run(killed, 60, 1)
    (struck,) = result.struck
    assert struck.kind == "keyserver-worker-killed"
    assert struck.healed is not None
    assert {traffic for traffic in Traffic if result.record.attempts(traffic)[0]} >= SOON | {Traffic.API}
    assert broken(result.record, result.struck) == []
    assert result.lost_changes == []
    assert {bill.listener for bill in result.bills} == {"http", "https", "tcp-nat", "tcp-dr"}
    workers = {each.pid for each in result.samples if each.process == f"{struck.text.split()[1]} worker"}
    assert workers, "it was looked at"
    text = report.readable(result)
    assert "keyserver-worker-killed" in text
    assert "l7-1 worker" in str(report.as_dict(result)["samples"])


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "words", ["", "--minutes 3 --only l7 keyserver-killed --seed 7"], ids=["ten minutes", "some kinds"]
)
def test_every_promise_is_kept(words: str, tmp_path: Path) -> None:
    """As docs/faults.md has it; what is seen otherwise is told whole, with the seed."""
    pinned = set(os.listdir("/sys/fs/bpf"))
    command = [sys.executable, "-m", "bench.faults", *words.split(), "--name", f"pftq{os.getpid()}"]
    done = subprocess.run([*command, "--out", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    told = json.loads((tmp_path / "faults.json").read_text())
    assert len(told["faults"]) > (6 if words else 20)
    assert told["wrong"] == []
    assert 10_000 < (tmp_path / "faults.png").stat().st_size < 150_000
    assert set(os.listdir("/sys/fs/bpf")) == pinned
