"""The command line: usage errors are one line and exit code 2, ports in use 1; SIGTERM drains and exits 0."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.__main__ import endpoint, parser
from tests.proxy.support import free_port

CERTS = [sys.executable, "-m", "certs"]


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    subprocess.run([*CERTS, "init", str(tmp_path / "ca")], check=True, capture_output=True)
    out = tmp_path / "id"
    issue = [*CERTS, "issue", str(tmp_path / "ca"), "--role", "l7", "--name", "l7-1", "--out", str(out)]
    subprocess.run(issue, check=True, capture_output=True)
    return out


def command(identity: Path, *more: str, ready: str = "") -> list[str]:
    argv = [sys.executable, "-m", "proxy", "--name", "l7-1", "--control", "https://127.0.0.1:1", "--workers", "1"]
    argv += ["--identity", str(identity), "--state", str(identity.parent / "state")]
    return [*argv, "--ready", ready or f"127.0.0.1:{free_port()}", *more]


def test_endpoints() -> None:
    assert endpoint("10.0.0.1:80") == ("10.0.0.1", 80)
    assert endpoint(":80") == ("", 80)
    for bad in ("80", "a:b", "a:0", "a:65536", "a:"):
        with pytest.raises(ValueError, match="is not ADDR:PORT"):
            endpoint(bad)


def test_key_servers_may_be_given_together_or_apart() -> None:
    required = ["--name", "n", "--control", "u", "--identity", "i", "--state", "s"]
    options = parser().parse_args([*required, "--keyserver", "unix:/a", "h:1", "--keyserver", "h:2"])
    assert options.keyserver == [["unix:/a", "h:1"], ["h:2"]]


def test_help_has_examples() -> None:
    done = subprocess.run([sys.executable, "-m", "proxy", "--help"], capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--ready", "nonsense"), "'nonsense' is not ADDR:PORT"),
        (("--workers", "0"), "--workers: give at least 1"),
        (("--control", "http://127.0.0.1:8471"), "node API is reached by https"),
        (("--identity", "/nonexistent"), "certs issue"),
        (("--keyserver", "nowhere"), "nowhere"),
    ],
)
def test_usage_errors_are_one_line(identity: Path, more: tuple[str, ...], says: str) -> None:
    done = subprocess.run(command(identity, *more), capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("paifang-l7: ")]
    assert says in line


def test_a_ready_port_in_use_is_a_run_time_error(identity: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = subprocess.run(command(identity, ready=address), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert f"paifang-l7: cannot bind {address}: address already in use; " in done.stderr


def test_an_access_log_that_cannot_be_written_is_a_run_time_error(identity: Path) -> None:
    argv = command(identity, "--access-log", "/nonexistent/log")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "paifang-l7: /nonexistent/log: No such file or directory\n" in done.stderr


def test_sigterm_drains_and_exits_0(identity: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(command(identity, ready=address), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "no configuration from" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]
