"""`paifang top` against a node's admin socket and an API that are both made up, on pipes and on a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import http.server
import itertools
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from control import cli, top
from control.client import ApiError
from control.node import admin
from control.top_table import Sort, Style

COMMAND = [sys.executable, "-c", "import sys; from control.entry import main; sys.exit(main())", "top"]


class Clock:
    """A node's status: each look is a second and ten dropped packets later."""

    def __init__(self) -> None:
        self._seconds = itertools.count()

    def facts(self) -> dict[str, Any]:
        second = next(self._seconds)
        web = {"packets_in": 100 * second, "bytes_in": 5000 * second, "sessions": 3}
        return {
            "name": "l4-1", "configuration": 4, "refused": False, "ready": True, "started": 1.0, "at_s": float(second),
            "counters": {"tx_session": 100 * second, "drop_no_real": 10 * second}, "listeners": {"web": web},
            "servers": {}, "health": [], "tables": {"sessions": {"4": {"used": 1, "size": 2}}}, "problems": [],
        }  # fmt: skip


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """The state directory of a node that answers on its admin socket."""
    clock = Clock()
    with _served(tmp_path / "admin.sock", {"status": lambda _: clock.facts()}):
        yield tmp_path


@contextmanager
def _served(path: Path, handlers: dict[str, Callable[[dict[str, object]], object]]) -> Iterator[None]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    server = loop.run_until_complete(admin.serve(path, handlers))
    thread.start()
    yield
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.fixture
def api() -> Iterator[str]:
    """The URL of a control plane with that node."""
    clock = Clock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            facts = clock.facts()
            node = {"role": "l4", "name": "l4-1", "step": "in step", "why": "", "listed": True, "facts": facts}
            content = json.dumps({"version": 4, "nodes": [node]}).encode()
            self.send_response(200 if self.path == "/v1/status" else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize("source", ["node", "api"])
def test_once(source: str, node: Path, api: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--state", str(node)] if source == "node" else ["--api", api, "--token", "t"]
    assert cli.main(["top", "--once", *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "paifang top  1 L4 node  configuration 4  by packets"
    assert lines[3].split() == ["l4", "l4-1", "in", "step", "110", "40.0k", "-", "-", "3", "10", "50", "%", "-"]
    assert "drop_no_real          10           10" in lines


def test_once_as_json(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top", "--once", "--json", "--state", str(node)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["together"]["drops"] == 10
    assert document["together"]["listeners"]["web"]["bits_in"] == 40_000
    assert document["nodes"][0]["view"]["reasons"]["tx_session"] == {"total": 100, "per_s": 100}
    assert document["time"] > 1_600_000_000


def test_servers_as_json() -> None:
    facts = Clock().facts() | {"servers": {"web": {"10.0.1.1:80": {"connections": 4}}}}
    node = {"role": "l4", "name": "l4-1", "step": "in step", "why": "", "listed": True, "facts": facts}
    picture = top.first(lambda: {"version": 4, "nodes": [node]}, patience_s=0)
    document = json.loads(top.to_json(picture))
    for view in (document["together"], document["nodes"][0]["view"]):
        (server,) = view["servers"]
        assert (server["listener"], server["server"], server["connections"]) == ("web", "10.0.1.1:80", 4)


def test_the_first_rates_are_waited_for_but_not_for_ever() -> None:
    facts = Clock().facts()
    node = {"role": "l4", "name": "l4-1", "step": "in step", "why": "", "listed": True, "facts": facts}
    reads: list[float] = []

    def stuck() -> dict[str, Any]:
        reads.append(time.monotonic())
        return {"version": 4, "nodes": [node]}

    picture = top.first(stuck, patience_s=0.2, look_s=0.02)
    assert picture.nodes[0].view.packets is None
    assert len(reads) > 2


def test_a_node_that_is_not_ready_or_refuses(tmp_path: Path) -> None:
    facts = Clock().facts() | {"ready": False, "refused": True}
    with _served(tmp_path / "admin.sock", {"status": lambda _: facts}):
        options = cli.parser().parse_args(["top", "--state", str(tmp_path)])
        (found,) = top.first(top.source(options), patience_s=0).nodes
    assert (found.step, found.remarks) == ("not ready", ("a newer configuration is refused",))


def test_nobody_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["top", "--once", "--api", "http://127.0.0.1:9", "--token", "t"]) == 1
    assert "http://127.0.0.1:9: Connection refused; is the control plane running?" in capsys.readouterr().err
    (tmp_path / "admin.sock").touch()
    assert cli.main(["top", "--once", "--state", str(tmp_path)]) == 1
    assert "admin.sock: Connection refused; is the process running?" in capsys.readouterr().err


def test_a_word_that_is_no_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["top", "--sort", "packet"])
    assert caught.value.code == 2
    assert "'packet' is unknown; did you mean 'packets'?" in capsys.readouterr().err


def test_without_a_screen_it_goes_on_line_by_line(node: Path) -> None:
    with subprocess.Popen([*COMMAND, "--state", str(node), "--json"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
    assert process.returncode == -signal.SIGINT
    assert [each["together"]["drops"] for each in found] == [None, 10]


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, arguments: list[str], **environment: str) -> None:
        self.seen = ""
        self._master, slave = pty.openpty()
        self.resize(40, 120, slave)
        clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "LINES", "COLUMNS")}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**clean, "TERM": "xterm-256color"} | environment,
        )  # fmt: skip
        os.close(slave)

    def resize(self, height: int, width: int, fd: int | None = None) -> None:
        fcntl.ioctl(self._master if fd is None else fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def until(self, words: str) -> str:
        """What came up to and with these words."""
        deadline = time.monotonic() + 20
        while words not in self.seen:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {words!r} in {self.seen!r}"
            self.seen += os.read(self._master, 1 << 16).decode()
        before, _, self.seen = self.seen.partition(words)
        return before + words

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def hang_up(self) -> None:
        os.dup2(os.open(os.devnull, os.O_RDWR), self._master)

    def ended(self) -> int:
        return self.process.wait(10)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


RED = "\x1b[31m"
LEFT = "\x1b[?1049l"


def test_on_a_terminal(node: Path) -> None:
    with Terminal(["--state", str(node)]) as terminal:
        assert RED in terminal.until("drop_no_real")
        terminal.press("q")
        terminal.until(LEFT)
        assert terminal.ended() == 0


def test_no_colour(node: Path) -> None:
    with Terminal(["--state", str(node)], NO_COLOR="1") as terminal:
        assert RED not in terminal.until("drop_no_real")
        terminal.press("q")
        assert RED not in terminal.until(LEFT)
        assert terminal.ended() == 0


def test_a_source_that_fails_is_said_on_the_screen_and_q_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "admin.sock").touch()
    monkeypatch.chdir(tmp_path)  # a short path, so that the line has room for all
    with Terminal(["--state", "."]) as terminal:
        terminal.until("Connection refused; is the process running?")
        terminal.press("q")
        terminal.until(LEFT)
        assert terminal.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_terminal_in_order(node: Path, number: signal.Signals) -> None:
    with Terminal(["--state", str(node)]) as terminal:
        terminal.until("LISTENER")
        os.killpg(terminal.process.pid, number)
        terminal.until(LEFT)
        assert terminal.ended() == 128 + number


def test_it_ends_with_its_terminal(node: Path) -> None:
    """It is not the terminal's session leader, so that no SIGHUP ends it: it has to see that nobody reads it."""
    with Terminal(["--state", str(node)]) as terminal:
        terminal.until("LISTENER")
        terminal.hang_up()
        terminal.ended()  # the code says that nothing could be written, or that it was noticed in time


def test_a_dumb_terminal_gets_text(node: Path) -> None:
    with Terminal(["--state", str(node)], TERM="dumb") as terminal:
        assert "\x1b" not in terminal.until("LISTENER") + terminal.until("LISTENER")
        os.killpg(terminal.process.pid, signal.SIGINT)
        assert terminal.ended() == -signal.SIGINT


class Paper:
    """In place of a curses window: keys in, characters out. It complains where curses would."""

    def __init__(self, keys: str, height: int = 30, width: int = 100) -> None:
        self.keys = list(keys)
        self.size = (height, width)
        self.cells: dict[tuple[int, int], str] = {}
        self.pages: list[list[str]] = []

    def timeout(self, delay_ms: int) -> None:
        assert delay_ms > 0

    def getch(self) -> int:
        time.sleep(0.01)
        if self.keys and self.keys[0] == "." and len(self.pages) > 1:  # a point waits for the first picture
            del self.keys[0]
        return ord(self.keys.pop(0)) if self.keys and self.keys[0] != "." else -1

    def getmaxyx(self) -> tuple[int, int]:
        return self.size

    def erase(self) -> None:
        self.cells.clear()

    def addnstr(self, row: int, column: int, text: str, room: int, _style: int) -> None:
        height, width = self.size
        for offset, character in enumerate(text[:room]):
            place = (row, column + offset)
            assert row < height, place
            assert column + offset < width, place
            assert place != (height - 1, width - 1), place
            self.cells[place] = character

    def refresh(self) -> None:
        height, width = self.size
        page = [
            "".join(self.cells.get((row, column), " ") for column in range(width)).rstrip() for row in range(height)
        ]
        self.pages.append(page)


def painted(keys: str, height: int = 30, width: int = 100) -> list[list[str]]:
    clock = Clock()

    def read() -> dict[str, Any]:
        node = {"role": "l4", "name": "l4-1", "step": "in step", "why": "", "listed": True, "facts": clock.facts()}
        return {"version": 4, "nodes": [node]}

    paper = Paper(keys, height, width)
    assert top.Screen(cast(Any, paper), read, Sort.PACKETS, dict.fromkeys(Style, 0), lambda: False).run() == 0
    return paper.pages


def test_it_waits_visibly() -> None:
    assert painted("q")[0][1] == "waiting for the first reports"


def test_tab_shows_each_section_and_then_all_again() -> None:
    pages = painted(".\t\t\tq")[2:]
    headers = [[line.split()[0] for line in page if line[:4] in ("NODE", "VERD", "LIST", "SERV")] for page in pages]
    assert headers == [["NODE"], ["LISTENER"], ["NODE", "LISTENER"]], "there is nothing else to show"


def test_keys_sort() -> None:
    titles = [page[0].split("  ")[3] for page in painted(".bnsdapq")[2:]]
    assert titles == ["by bits", "by new", "by sessions", "by drops", "by name", "by packets"]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 20), (12, 50), (30, 300)])
def test_it_stays_on_the_screen(height: int, width: int) -> None:
    assert len(painted(".\tq", height, width)) > 2


def test_an_error_is_said_and_the_picture_stays() -> None:
    status = [{"version": 4, "nodes": []}]

    def read() -> dict[str, Any]:
        if status:
            return status.pop()
        raise ApiError("no answer")

    paper = Paper("")
    screen = top.Screen(cast(Any, paper), read, Sort.PACKETS, dict.fromkeys(Style, 0), lambda: False)
    threading.Timer(1.5, paper.keys.append, "q").start()
    screen.run()
    assert "configuration 4" in paper.pages[-1][0]
    assert paper.pages[-1][1] == "no answer"


def test_a_node_that_ends_is_an_error_of_the_reading(tmp_path: Path) -> None:
    (tmp_path / "admin.sock").touch()
    options = cli.parser().parse_args(["top", "--state", str(tmp_path)])
    with pytest.raises(ApiError, match="is the process running"):
        top.source(options)()
