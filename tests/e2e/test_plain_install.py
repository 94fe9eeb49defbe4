"""`pip install .` in a virtual environment that knows nothing of this machine's packages: no BCC, no tests."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 60.0


def run(*argv: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(a) for a in argv], cwd=cwd, capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def bin_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment, installed from the files that git tracks."""
    source, venv = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("plain") / "venv"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    assert run("/usr/bin/python3", "-m", "venv", venv).returncode == 0
    installed = run(venv / "bin" / "pip", "install", "-q", "--disable-pip-version-check", source)
    assert installed.returncode == 0, installed.stderr
    return venv / "bin"


@pytest.fixture
def application(tmp_path: Path) -> Iterator[int]:
    """A real application behind the front end: `python3 -m http.server`; its port."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "hello.txt").write_text("behind the arch\n")
    port = free_port()
    argv = ["/usr/bin/python3", "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", tmp_path / "www"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield port
        process.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.timeout(300)
def test_the_front_end_of_the_readme_serves(bin_dir: Path, application: int, tmp_path: Path) -> None:
    port, state = free_port(), tmp_path / "state"
    file = tmp_path / "front.toml"
    file.write_text(
        f'[[listeners]]\nprotocol = "https"\nport = {port}\ndomains = ["localhost"]\n'
        f'servers = ["127.0.0.1:{application}"]\n'
    )
    assert run(bin_dir / "paifang", "check", file).returncode == 0
    argv = [bin_dir / "paifang", "up", file, "--state", state, "--api", "127.0.0.1:0", "--workers", "1"]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, cwd=tmp_path)
    try:
        answer = wait_for_answer(process, state / "ca" / "ca.pem", f"https://localhost:{port}/hello.txt", tmp_path)
        assert answer == "behind the arch\n"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, (tmp_path / "output").read_text()


def wait_for_answer(process: subprocess.Popen[bytes], ca: Path, url: str, directory: Path) -> str:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        done = run("curl", "-sS", "--fail", "--max-time", "5", "--cacert", ca, url)
        if done.returncode == 0:
            return done.stdout
        output = (directory / "output").read_text()
        assert process.poll() is None, output
        assert time.monotonic() < deadline, done.stderr + output
        time.sleep(0.2)


# Of the packages' files, those that are for a checkout alone: images are built there, and it is prepared by a script.
FOR_A_CHECKOUT = ("deploy/setup.sh", "deploy/compose/", "keyserver/protocol.md", "l4fast/sync.md")
TOPS = ("bench", "certs", "control", "core", "deploy", "keyserver", "l4fast", "proxy")


def test_all_packages_and_their_files_are_installed(bin_dir: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z", *TOPS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (site,) = (bin_dir.parent / "lib").glob("python3*/site-packages")
    wanted = [
        name
        for name in filter(None, tracked.split("\0"))
        if (name.endswith(".py") or not name.startswith(FOR_A_CHECKOUT)) and (ROOT / name).exists()
    ]
    assert [name for name in wanted if not (site / name).is_file()] == []
    assert len(wanted) > 300


def test_its_commands_work_outside_the_checkout(bin_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "front.toml").write_text(
        '[[listeners]]\nprotocol = "http"\nport = 8000\nservers = ["127.0.0.1:9000"]\n'
    )
    for words, said in ((("--help",), "positional arguments"), (("check", "front.toml"), "valid")):
        done = run(bin_dir / "paifang", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


@pytest.mark.parametrize("command", [("l4", "--name", "n"), ("lab", "up")])
def test_what_needs_bcc_says_what_to_install(bin_dir: Path, command: tuple[str, ...], tmp_path: Path) -> None:
    done = run(bin_dir / "paifang", *command, cwd=tmp_path)
    assert done.returncode == 1
    assert "python3-bpfcc" in done.stderr
    assert "Traceback" not in done.stderr
