"""`paifang reload`: what came of it is told, and replacing all processes loses no request."""

from __future__ import annotations

import argparse
import fcntl
import http.client
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from control import up_reload
from control.ports import free_port
from control.up_reload import Outcome
from control.up_state import owner
from tests.control.test_up import Running, site
from tests.waiting import eventually

pytestmark = pytest.mark.timeout(150)


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(0.02)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[int]:
    found = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found.server_address[1]
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def up(tmp_path: Path, server: int) -> Iterator[Running]:
    file = tmp_path / "site.toml"
    file.write_text(site(free_port(), server))
    running = Running(tmp_path, file)
    try:
        running.wait_for("Ctrl-C ends it")
        yield running
    finally:
        if running.process.poll() is None:
            running.end(signal.SIGTERM)


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def port_of(up: Running) -> int:
    return int(up.file.read_text().partition("port = ")[2].partition("\n")[0])


class Local(http.client.HTTPSConnection):
    """To this machine, whatever it takes `localhost` for: a certificate is for a name."""

    def connect(self) -> None:
        assert self.port is not None
        plain = socket.create_connection(("127.0.0.1", self.port), self.timeout)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)

    _context: ssl.SSLContext


class Clients:
    """Ask without a pause: some on a new connection each time, some on one as long as it is kept."""

    def __init__(self, up: Running, kept: int = 2, new: int = 2) -> None:
        self.done, self.lost = 0, []  # type: tuple[int, list[str]]
        self._context = ssl.create_default_context(cafile=str(up.state / "ca" / "ca.pem"))
        self._port, self._over = port_of(up), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(each < kept,)) for each in range(kept + new)]
        for thread in self._threads:
            thread.start()

    def _ask(self, keeps: bool) -> None:
        fields = {} if keeps else {"Connection": "close"}
        while not self._over.is_set():
            connection = Local("localhost", self._port, timeout=30, context=self._context)
            asked = 0
            try:
                while not self._over.is_set():
                    asked += 1
                    connection.request("GET", "/", headers=fields)
                    answer = connection.getresponse()
                    body = answer.read()
                    if (answer.status, body) != (200, b"ok"):
                        self.lost.append(f"{answer.status} {body!r}")
                    self.done += 1
                    if answer.will_close:
                        break
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{'kept' if keeps else 'new'}, request {asked}: {error!r}")
            finally:
                connection.close()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_all_processes_are_replaced_and_no_request_is_lost(up: Running) -> None:
    before, clients = up.children(), Clients(up)
    try:
        for _ in range(2):  # the second time, those that had taken over are replaced
            eventually(lambda asked=clients.done: clients.done > asked + 20, "nobody is served")
            done = up.paifang("reload", "--replace")
            assert (done.returncode, done.stdout) == (0, "paifang: all processes are replaced\n"), done.stderr + up.text
            old = [*before.values()]
            eventually(lambda old=old: not any(map(is_there, old)), "some stay")
            before = up.children()
            assert sorted(before) == ["control", "keyserver", "proxy"]
        eventually(lambda asked=clients.done: clients.done > asked + 20, "nobody is served any more")
    finally:
        clients.end()
    assert clients.lost == []
    assert "died" not in up.text
    assert up.end() == 0
    assert not any(map(is_there, before.values()))


def test_a_new_process_that_fails_changes_nothing(up: Running) -> None:
    """Here the key server: its socket's name is taken by what it may not replace."""
    before = up.children()
    (up.state / "keys.sock").unlink()
    (up.state / "keys.sock").mkdir()
    done = up.paifang("reload", "--replace")
    assert done.returncode == 1
    assert "keyserver2 ended with code" in done.stderr
    assert done.stderr.endswith("the processes that are not replaced go on\n")
    assert up.children() == before
    (up.state / "keys.sock").rmdir()
    assert up.curl(f"https://localhost:{port_of(up)}/") == "ok"
    assert up.paifang("reload", "--replace").returncode == 0, up.text


def test_the_file_is_read_again_and_what_came_of_it_is_told(up: Running, server: int) -> None:
    done = up.paifang("reload")
    assert (done.returncode, done.stdout) == (0, f"paifang: {up.file} asks for what is served already\n")
    more = free_port()
    up.file.write_text(site(port_of(up), server) + site(more, server))
    done = up.paifang("reload")
    assert (done.returncode, done.stdout) == (0, "paifang: configuration changed\n"), done.stderr
    assert up.curl(f"https://localhost:{more}/") == "ok"
    up.file.write_text("[[listeners]]\ncolour = 1\n")
    done = up.paifang("reload")
    assert (done.returncode, done.stdout) == (1, "")
    assert "colour: unknown key" in done.stderr
    assert "site.toml:2: " in done.stderr
    assert done.stderr.endswith("paifang: the configuration before stays\n")
    assert up.curl(f"https://localhost:{more}/") == "ok"


def test_nobody_is_asked_where_none_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(state=tmp_path, replace=False)
    assert up_reload.main(options) == 1
    assert f"no `paifang up` runs with {tmp_path}; --state DIR" in capsys.readouterr().err
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")  # of one that was killed; the number is another's by now
    assert up_reload.main(options) == 1
    with (tmp_path / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert owner(tmp_path) == os.getpid()
    assert owner(tmp_path) == 0


def test_outcomes_are_numbered(tmp_path: Path) -> None:
    assert Outcome.read(tmp_path).number == 0
    Outcome(3, done=True, text="so it is").write(tmp_path)
    assert Outcome.read(tmp_path) == Outcome(3, done=True, text="so it is")
    (tmp_path / "reload.json").write_text('{"number": 1}')
    assert Outcome.read(tmp_path).number == 0
