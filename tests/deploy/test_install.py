"""`paifang install`: what it writes, asks, refuses; and the units as systemd reads them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.install import plan
from deploy.install.__main__ import TEMPLATES, main
from deploy.install.plan import ROLES

L7 = ["l7", "--name", "l7-1", "--control", "https://10.0.0.5:8471", "--keyserver", "10.0.0.6:8473", "10.0.0.7:8473"]
# The most that systemd-analyze may find exposed, in tenths of its 0 to 10 (the units' figures and a little).
EXPOSED = {"control": 15, "keyserver": 15, "l7": 20, "l4": 45}


def written(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_is_written_for_another_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*L7, "--root", str(tmp_path), "--", "--workers", "4"]) == 0
    assert written(tmp_path) == {
        "etc/paifang/l7.conf",
        "etc/sysctl.d/60-paifang-l7.conf",
        "etc/systemd/system/paifang-l7.service",
        "etc/sysusers.d/paifang.conf",
    }
    unit = (tmp_path / "etc/systemd/system/paifang-l7.service").read_text()
    assert f"ExecStart={Path(sys.executable).parent}/paifang l7 " in unit
    assert "@BIN@" not in unit
    configuration = (tmp_path / "etc/paifang/l7.conf").read_text()
    words = "--name l7-1 --control https://10.0.0.5:8471 --keyserver 10.0.0.6:8473 10.0.0.7:8473 --workers 4"
    assert f'OPTIONS="{words}"\n' in configuration
    said = capsys.readouterr().out
    assert "would run systemctl enable --quiet paifang-l7.service" in said
    assert "paifang certs issue CADIR --role l7" in said, "it says what is still missing"


def test_the_options_of_before_are_kept_unless_others_are_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*L7, "--root", str(tmp_path)])
    file = tmp_path / "etc/paifang/l7.conf"
    file.write_text(file.read_text().replace("l7-1", "l7-9"))
    capsys.readouterr()
    assert main(["l7", "--root", str(tmp_path)]) == 0
    assert "l7-9" in file.read_text()
    assert "writes" not in capsys.readouterr().out
    assert main([*L7, "--root", str(tmp_path)]) == 0
    assert "l7-9" not in file.read_text()


def test_what_a_killed_process_leaves_alive() -> None:
    """L7 workers finish what is under way, keepalived and BIRD go on announcing: systemd leaves them alone."""
    for role, mode in {"l4": "process", "l7": "process", "keyserver": None, "control": None}.items():
        found = re.search(r"^KillMode=(.*)$", (TEMPLATES / f"paifang-{role}.service").read_text(), re.M)
        assert (found and found[1]) == mode


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*L7, "--root", str(tmp_path), "--dry-run"]) == 0
    assert written(tmp_path) == set()
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["l7", "--name", "l7-1"], "give --control https://10.0.0.5:8471"),
        (["l4"], "give --name l4-1  (this node's name in the configuration); --control"),
        (["keyserver"], "give --listen 10.0.0.6:8473"),
        (
            ["l7", "--name", "a b", "--control", "https://c:8471"],
            "'a b': a word of a unit's options may have no blanks",
        ),
    ],
)
def test_what_is_missing_or_wrong(
    tmp_path: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--root", str(tmp_path)]) == 1
    assert why in capsys.readouterr().err
    assert written(tmp_path) == set()


def test_an_identity_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*L7, "--root", str(tmp_path), "--identity", str(tmp_path / "none")]) == 1
    assert "none: is not there; `paifang certs issue CADIR --role l7" in capsys.readouterr().err


def test_removing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["l7", "--remove", "--root", str(tmp_path)]) == 1
    assert "nothing to remove" in capsys.readouterr().err
    main([*L7, "--root", str(tmp_path)])
    assert main(["l7", "--remove", "--root", str(tmp_path)]) == 0
    assert written(tmp_path) == {"etc/paifang/l7.conf", "etc/sysusers.d/paifang.conf"}


@pytest.mark.parametrize("directory", ["/root/paifang/.venv/bin", "/home/ann/venv/bin", "/run/user/1000/bin"])
def test_programs_that_services_do_not_see(directory: str) -> None:
    assert "pip install" in plan.out_of_sight(directory)


def test_programs_that_they_do_see() -> None:
    assert plan.out_of_sight("/opt/paifang/bin") == ""


@pytest.mark.parametrize("role", sorted(ROLES))
def test_systemd_understands_the_unit(tmp_path: Path, role: str) -> None:
    """Every directive is known to systemd, and the sandbox is as tight as it was."""
    unit = tmp_path / ROLES[role].unit
    (tmp_path / "paifang").write_text("#!/bin/sh\n")
    (tmp_path / "paifang").chmod(0o755)
    unit.write_text((TEMPLATES / unit.name).read_text().replace("@BIN@", str(tmp_path)))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    about_it = [line for line in verified.stderr.splitlines() if unit.name in line]
    assert (verified.returncode, about_it) == (0, [])
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSED[role]}", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout[-300:]


@pytest.mark.parametrize("role", sorted(ROLES))
def test_the_unit_leaves_open_what_the_installation_answers(role: str) -> None:
    """What a unit fixes is not asked for, and what is copied is where the unit looks for it."""
    text = (TEMPLATES / ROLES[role].unit).read_text()
    fixed = set(re.findall(r"--[a-z-]+", text.partition("ExecStart=")[2].partition("\n\n")[0]))
    assert not fixed & {question.option for question in ROLES[role].questions}
    for keep in ROLES[role].keeps:
        place = f"/{ROLES[role].state}/{keep.name}"
        answered = " ".join(plan.words_of(ROLES[role], {q.option: "x" for q in ROLES[role].questions}, []))
        assert f"{keep.option} {place}" in " ".join(text.split()) or f"{keep.option} {place}" in answered
