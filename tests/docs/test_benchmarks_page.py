"""The commands of the page on benchmarks, with the one that takes a second in the place of those that take minutes."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import __main__ as bench
from tests.docs.blocks import ROOT
from tests.docs.pages import follow

SHORTEST = "scale"


@pytest.fixture(autouse=True)
def _keep_sigterm() -> Iterator[None]:
    """`main` handles it for its process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench, "RESULTS", tmp_path)
    with follow("benchmarks.md") as page:
        block = page.take("make bench")
        every, quick, rows = block.steps
        assert re.search(r"^bench:.*\n\t@?\$\(PY\) -m bench all", (ROOT / "Makefile").read_text(), re.M)
        assert shlex.split(every.command, comments=True) == ["make", "bench"]
        printed = []
        for step in (quick, rows):
            *python, name, option = shlex.split(step.command, comments=True)
            assert python == [".venv/bin/python", "-m", "bench"]
            assert name in bench.BENCHES
            monkeypatch.setattr("sys.argv", ["bench", SHORTEST, option])
            assert bench.main() == 0
            printed.append(capsys.readouterr().out)
        assert printed[0].startswith("name ")
        (names,) = re.findall(r"rows \{(.*)\}", block.text)
        found = json.loads(printed[1])
        assert {tuple(row) for row in found} == {tuple(names.split(", "))}
        assert json.loads((tmp_path / f"{SHORTEST}.json").read_text()) == found
