"""The command line of the CA."""

import sys
from pathlib import Path

import pytest

from certs.__main__ import main
from control.node.identity import Identity


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["certs", *map(str, arguments)])
    try:
        return main()
    except SystemExit as end:
        return int(end.code or 0)


def test_init_and_issue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ca, out = tmp_path / "ca", tmp_path / "l7-1"
    assert run(monkeypatch, "init", ca) == 0
    assert run(monkeypatch, "init", ca) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    issue = ("issue", ca, "--role", "l7", "--name", "l7-1", "--ip", "10.0.0.1", "--ip", "10.0.0.2", "--out", out)
    assert run(monkeypatch, *issue) == 0
    assert Identity.load(out).role == "l7"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["issue", "CA", "--role", "l7", "--name", "a", "--out", "OUT"], "paifang-certs: "),
        (["issue", "CA", "--role", "boss", "--name", "a", "--out", "OUT"], "invalid choice"),
        (["init", "/dev/null/ca"], "/dev/null/ca: cannot make a CA here: File exists; give a directory that is"),
        (["issue", "CA"], "required"),
        ([], "required"),
    ],
)
def test_mistakes_exit_with_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    why: str,
) -> None:
    assert run(monkeypatch, *(str(tmp_path / a) if a in ("CA", "OUT") else a for a in arguments)) == 2
    assert why in capsys.readouterr().err


def test_help_has_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("init",), ("issue",)):
        assert run(monkeypatch, *words, "--help") == 0
        assert f"  paifang certs {words[0] if words else 'init'} ./ca" in capsys.readouterr().out
