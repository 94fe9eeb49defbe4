import os
import shutil
from pathlib import Path

import pytest

from deploy.lab import __main__ as main
from deploy.lab import lab, state
from deploy.lab.lab import command_of
from deploy.lab.topology import MOST


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "STATE_DIR", tmp_path / "labs")


def test_defaults_are_the_cluster_of_the_demonstration() -> None:
    options = main.parser().parse_args(["up"])
    assert (options.l4, options.l7, options.keyservers, options.backends) == (2, 2, 1, 3)
    assert (options.mode, options.vip, options.xdp, options.json) == ("both", "static", "native", False)


@pytest.mark.parametrize(
    "words",
    [["up", "--l4", str(MOST["l4"] + 1)], ["up", "--l7", "0"], ["up", "--backends", "x"], ["up", "--mode", "bridge"],
     ["up", "--name", "A"], ["up", "--name", "a" * 17], ["frobnicate"], []],
)  # fmt: skip
def test_what_cannot_be_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main.main(words)
    assert refused.value.code == 2


@pytest.mark.parametrize("command", [["up"], ["down"], ["status"], ["exec", "client", "--", "true"], ["kill", "l4-1"]])
def test_root_is_needed(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main.main(command) == 2
    assert "run it as root" in capsys.readouterr().err


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "ethtool" else "/bin/" + program)
    assert main.main(["up"]) == 2
    assert "missing programs: ethtool; install them: apt-get install" in capsys.readouterr().err


def test_a_kernel_without_ipv6_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: "/bin/" + program)
    monkeypatch.setattr(lab, "IPV6", Path("/nonexistent"))
    assert main.main(["up"]) == 2
    assert "this kernel runs without IPv6" in capsys.readouterr().err


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine and user could carry a lab."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda program: "/bin/" + program)


@pytest.mark.usefixtures("able")
def test_commands_that_need_a_lab_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["status"]) == 1
    assert main.main(["down"]) == 0
    shown = capsys.readouterr()
    assert "`paifang lab up` makes one" in shown.err
    assert "nothing to do" in shown.out
    assert main.main(["kill", "--name", "mine", "l4-1"]) == 1
    assert "`paifang lab up --name mine` makes one" in capsys.readouterr().err


def test_the_command_for_a_lab() -> None:
    assert command_of("pf", "down") == "paifang lab down"
    assert command_of("mine", "exec") == "paifang lab exec --name mine"


@pytest.mark.usefixtures("able")
def test_an_option_behind_the_host_is_not_taken_for_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["exec", "client", "--name", "mine", "--", "true"]) == 2
    assert "--name stands before the host: paifang lab exec --name NAME HOST -- COMMAND" in capsys.readouterr().err


@pytest.mark.usefixtures("able")
def test_a_closed_pipe_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_options: object) -> int:
        raise BrokenPipeError

    replaced: list[int] = []
    monkeypatch.setattr(main, "status", closed)
    monkeypatch.setattr(os, "dup2", lambda source, target: replaced.append(target))
    with open(os.devnull, "w") as nobody:
        monkeypatch.setattr("sys.stdout", nobody)
        assert main.main(["status"]) == 1
        assert replaced == [nobody.fileno()]


@pytest.mark.parametrize("command", ["", "up", "exec"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert f"paifang lab {command}".strip() in capsys.readouterr().out


@pytest.mark.parametrize(("method", "package"), [("vrrp", "keepalived"), ("bgp", "bird2")])
def test_what_announces_the_vips_has_to_be_installed(
    method: str, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    missing = ("keepalived", "bird")
    monkeypatch.setattr(shutil, "which", lambda program, path=None: None if program in missing else "/bin/" + program)
    assert main.main(["up", "--vip", method]) == 2
    assert f"apt-get install {package}" in capsys.readouterr().err
