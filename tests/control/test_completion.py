"""What the Tab key brings, as bash asks for it."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from control import cli


class Objects(BaseHTTPRequestHandler):
    """Answers every list of objects with two."""

    def do_GET(self) -> None:
        body = b'[{"name": "web"}, {"name": "shop"}]' if self.path == "/v1/rules" else b"[]"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Objects) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def completed(line: str, api: str, directory: Path) -> set[str]:
    """What is offered at the end of a line."""
    found = directory / "found"
    environment = {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_IFS": "\n", "COMP_TYPE": "9",
        "COMP_LINE": line, "COMP_POINT": str(len(line.encode())), "_ARGCOMPLETE_STDOUT_FILENAME": str(found),
        "PAIFANG_API": api, "PAIFANG_TOKEN": "t",
    }  # fmt: skip
    argv = [sys.executable, "-m", "control.cli"]
    done = subprocess.run(argv, env=os.environ | environment, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return {each.strip() for each in found.read_text().split("\n") if each}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("paifang roll", {"rollback"}),
        ("paifang get ru", {"rules"}),
        ("paifang get rules ", {"web", "shop"}),
        ("paifang delete rules s", {"shop"}),
        ("paifang get listeners x", set()),
        ("paifang watch --only s", {"server"}),
        ("paifang apply --dr", {"--dry-run"}),
        ("paifang l", {"l4", "l7", "lab"}),
    ],
    ids=range(8),
)
def test_what_is_offered(line: str, offered: set[str], api: str, tmp_path: Path) -> None:
    assert completed(line, api, tmp_path) == offered


def test_without_a_control_plane_there_are_no_names(tmp_path: Path) -> None:
    assert completed("paifang get rules w", "http://127.0.0.1:1", tmp_path) == set()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_is_for_the_shell(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "paifang" in text
    if shell == "bash":
        (tmp_path / "script").write_text(text)
        argv = ["bash", "-c", 'source "$0"; complete -p paifang', str(tmp_path / "script")]
        assert " -F " in subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
