from __future__ import annotations

import logging
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from certs.authority import Authority
from l4fast.__main__ import main
from l4fast.settings import make_key

OPTIONS = ["--name", "l4-1", "--control", "https://127.0.0.1:9", "--interface", "lo", "--cluster-key", "none"]


@pytest.fixture(autouse=True)
def _keep_logging() -> Iterator[None]:
    """`main` sets logging up for the process; the next test has its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said, without the log, where asyncio's debug mode tells of every step that took long."""
    lines = capsys.readouterr().err.splitlines(keepends=True)
    return "".join(line for line in lines if not re.match(r"\S+ WARNING paifang-l4 asyncio: Executing ", line))


def test_make_cluster_key(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    command = [sys.executable, "-m", "l4fast", "--make-cluster-key", str(path)]
    assert subprocess.run(command, check=False).returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (
        2, f"paifang-l4: {path} exists; remove it first if its cluster shall lose its key\n",
    )  # fmt: skip


def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--name", "l4-1"]) == 2
    assert capsys.readouterr().err == (
        "paifang-l4: missing --control, --identity, --interface, --state, --cluster-key; --help shows the usage\n"
    )


def test_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main([*OPTIONS, "--identity", str(tmp_path), "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "paifang-l4: XDP needs root; run it with sudo or as a system service\n"
    assert list(tmp_path.iterdir()) == []


def test_decap_without_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["decap", "--interface", "lo", "--vip", "192.0.2.1"]) == 1
    assert capsys.readouterr().err == "paifang-l4: XDP needs root; run it with sudo or as a system service\n"


def test_decap_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decap", "--interface", "lo"]) == 2
    assert (
        capsys.readouterr().err == "paifang-l4: the following arguments are required: --vip; --help shows the usage\n"
    )


@pytest.mark.root
def test_a_state_directory_whose_socket_cannot_be_is_refused_before_anything_is_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Authority.init(tmp_path / "ca").issue_node("l4", "l4-1").write(tmp_path / "id")
    deep = tmp_path / ("x" * 100)
    assert main([*OPTIONS, "--identity", str(tmp_path / "id"), "--state", str(deep)]) == 1
    assert "longer than the 107 bytes of a unix socket's path; use a shorter one" in capsys.readouterr().err
    assert not deep.exists()


@pytest.mark.root
def test_metrics_that_cannot_be_served_end_it_before_anything_is_attached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Authority.init(tmp_path / "ca").issue_node("l4", "l4-1").write(tmp_path / "id")
    make_key(tmp_path / "key")
    options = [
        *OPTIONS[:-1],
        str(tmp_path / "key"),
        "--identity",
        str(tmp_path / "id"),
        "--state",
        str(tmp_path / "st"),
    ]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main([*options, "--metrics", address]) == 1
    assert said(capsys) == (
        f"paifang-l4: cannot serve metrics on {address}: Address already in use; "
        "another process listens there; `ss -ltnp` shows which\n"
    )


@pytest.mark.root
def test_without_an_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OPTIONS, "--identity", str(tmp_path), "--state", str(tmp_path)]) == 2
    assert f"paifang-l4: {tmp_path / 'cert.pem'}: No such file or directory; `paifang certs" in capsys.readouterr().err


@pytest.mark.root
def test_what_announces_the_vips_has_to_be_installed_before_anything_is_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Authority.init(tmp_path / "ca").issue_node("l4", "l4-1").write(tmp_path / "id")
    make_key(tmp_path / "key")
    monkeypatch.setattr("l4fast.vip_settings.shutil.which", lambda *_args, **_kwargs: None)
    options = [
        *OPTIONS[:-1],
        str(tmp_path / "key"),
        "--identity",
        str(tmp_path / "id"),
        "--state",
        str(tmp_path / "st"),
    ]
    assert main([*options, "--vip", "vrrp"]) == 1
    assert said(capsys) == (
        "paifang-l4: --vip vrrp needs keepalived, which is not installed: `apt-get install keepalived`\n"
    )
    assert main([*options, "--vip", "bgp"]) == 2
    assert "--vip bgp needs --bgp-as AS" in capsys.readouterr().err
