"""`paifang l7 ask`: how answers read, and a real node that is asked and drained."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy import ask
from tests.proxy.processes import asked, keep, running, state_of
from tests.proxy.support import WEBSOCKET, Backend, Request, free_port, model, open_websocket

STATUS: dict[str, Any] = {
    "name": "l7-1", "pid": 7, "ready": True, "draining": False, "configuration": 3, "drain": None, "before": None,
    "workers": [8, 9],
    "worker_restarts": 1, "problems": ["certificate c expires"], "counters": {"requests": 5},
    "listeners": [{"listener": "web", "connections": 3, "requests": 1, "tunnels": 1, "oldest_s": 61.5}],
    "health": [{"service": "app", "server": "10.0.0.1:80", "healthy": False, "why": "timed out"}],
}  # fmt: skip
CONNECTION: dict[str, Any] = {
    "listener": "web", "client": "192.0.2.7", "activity": "request", "age_s": 5.0, "tls": "TLSv1.3", "busy_s": 1.5,
    "method": "GET", "host": "a.test", "path": "/x", "request_id": "42", "server": "10.0.0.1:80",
}  # fmt: skip
IDLE = CONNECTION | {"activity": "idle", "tls": "", "busy_s": 0.0, "method": "", "host": "", "path": "", "server": ""}


def lines(what: str, document: object, limit: int = 1000) -> list[list[str]]:
    return [line.split() for line in ask.render(what, document, limit).splitlines()]


def test_status() -> None:
    shown = lines("status", STATUS)
    assert shown[0] == ["l7-1,", "process", "7:", "ready"]
    assert ["configuration", "3"] in shown
    assert ["workers", "8,", "9;", "restarted", "1", "times"] in shown
    assert ["problem", "certificate", "c", "expires"] in shown
    assert ["web", "3", "1", "1", "61.5", "s"] in shown
    assert ["app", "10.0.0.1:80", "DOWN", "timed", "out"] in shown


def test_status_of_a_node_that_has_nothing() -> None:
    bare = STATUS | {"ready": False, "configuration": 0, "workers": [], "listeners": [], "health": [], "problems": []}
    text = ask.render("status", bare)
    assert "NOT READY" in text
    assert "no listeners" in text
    assert "no servers with health checks" in text


def test_progress() -> None:
    draining = STATUS | {"drain": {"since_s": 4.2, "at_most_s": 25.8}}
    words = "3 connections with 1 requests and 1 WebSockets (the oldest for 62 s); web 3"
    assert ask.progress(draining) == f"draining for 4 s, 26 s left: {words}"
    assert f"drain          draining for 4 s, 26 s left: {words}" in ask.render("status", draining)
    assert "node before    draining for 4 s" in ask.render("status", STATUS | {"before": draining})
    assert ask.progress(draining | {"listeners": []}).endswith("26 s left: no connections")


def test_connections() -> None:
    header, first, second, more = lines("connections", [CONNECTION, IDLE], 2)
    assert header == ["LISTENER", "CLIENT", "IS", "AGE", "TLS", "BUSY", "SERVER", "REQUEST"]
    assert first == ["web", "192.0.2.7", "request", "5.0", "s", "TLSv1.3", "1.5", "s", "10.0.0.1:80", "GET", "a.test/x"]
    assert second == ["web", "192.0.2.7", "idle", "5.0", "s", "-", "-", "-", "-"]
    assert more == ["the", "oldest", "2;", "--limit", "N", "shows", "more"]
    assert lines("connections", []) == [["no", "connections"]]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["dance"], "invalid choice: 'dance'"),
        (["connections", "--client", "10.0.0.1/8"], "has host bits set"),
        (["connections", "--limit", "0"], "'0': give 1 to 10000"),
        (["connections", "--in", "bed"], "invalid choice: 'bed'"),
    ],
)
def test_usage_errors(words: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "ask", *words, "--state", "s"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert says in done.stderr


def test_a_node_that_does_not_run(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "proxy", "ask", "status", "--state", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"paifang-l7: {tmp_path}/admin.sock: ")
    assert "is the process running?" in done.stderr


async def answer(request: Request) -> None:
    request.writer.write(WEBSOCKET if request.path == "/chat" else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    if request.path == "/chat":
        await request.reader.read()


async def test_a_running_node_is_asked_and_drained(identity: Path) -> None:
    """The drain tells of the WebSocket that is left, and ends when that does, not at its deadline."""
    port = free_port()
    async with Backend(answer).running() as backend:
        keep(identity, model(port, [backend.port]), version=3)
        await _asked_and_drained(identity, port)


async def _asked_and_drained(identity: Path, port: int) -> None:
    async with running(identity, port, "--workers", "2", "--drain-time", "100") as node:
        tunnels = [await open_websocket(port, "/chat") for _ in range(4)]
        status = await asked(identity, "status")
        assert (status["name"], status["configuration"], status["drain"]) == ("l7-1", 3, None)
        assert (status["pid"], len(status["workers"])) == (node.pid, 2)
        found = await asked(identity, "connections", "--in", "tunnel")
        assert [view["path"] for view in found] == ["/chat"] * 4
        argv = [sys.executable, "-m", "proxy", "ask", "drain", "--state", str(state_of(identity)), "--json"]
        drain = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
        assert drain.stdout is not None
        first = json.loads(await drain.stdout.readline())
        assert first["drain"]["at_most_s"] > 90
        assert [(row["connections"], row["tunnels"]) for row in first["listeners"]] == [(4, 4)]
        assert not first["ready"]
        for tunnel in tunnels[1:]:
            await tunnel.close()
        while json.loads(await drain.stdout.readline())["listeners"][0]["tunnels"] > 1:
            pass
        await tunnels[0].close()
        await drain.stdout.read()
        assert await asyncio.wait_for(drain.wait(), 30) == 0
        assert await asyncio.wait_for(node.wait(), 30) == 0
