"""`paifang l4 ask` against an admin socket, and how its answers read."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control.node import admin
from l4fast import ask
from l4fast.__main__ import main
from l4fast.settings import Parser

SESSION: dict[str, Any] = {
    "client": "192.0.2.7:40000", "vip": "192.0.2.10:80", "real": "10.0.0.20:8080", "protocol": "tcp",
    "state": "established", "packets": 12, "bytes": 3456, "idle_s": 3, "synced": False,
}  # fmt: skip
STATUS: dict[str, Any] = {
    "name": "l4-1", "interfaces": ["eth0", "eth1"], "vips": ["192.0.2.10"], "ready": True, "sessions": 7,
    "problems": [],
    "vip": {"method": "static", "stage": "static", "waits_for": "", "addresses": [], "peers": []},
    "health": [
        {"server": "10.0.0.20:8080/tcp", "healthy": True, "why": "connected"},
        {"server": "10.0.0.21:8080/tcp", "healthy": False, "why": "Connection refused"},
    ],
    "sync": {
        "complete": True, "overflowed": False,
        "peers": [{"name": "l4-2", "state": "synced", "heard_s": 0.4, "sessions": 7, "delay_ms": 0.2}],
    },
}  # fmt: skip
COUNTERS: dict[str, Any] = {
    "packets": {"tx_session": 9, "drop_ttl": 0},
    "listeners": {
        "web": {
            "packets_in": 1, "bytes_in": 2, "packets_out": 3, "bytes_out": 4, "sessions_made": 5, "sessions": 6,
        }
    },
    "servers": {
        "web": {
            "10.0.1.1:80": {
                "packets_in": 1, "bytes_in": 2, "packets_out": 3, "bytes_out": 4, "sessions_made": 5, "connections": 7,
            },
            "10.0.1.2:80": {"packets_in": 9, "bytes_in": 8, "packets_out": 7, "bytes_out": 6, "sessions_made": 4},
        }
    },
    "sync": {"lost": 0},
}  # fmt: skip


def lines(what: str, document: object, limit: int = ask.LIMIT) -> list[list[str]]:
    return [line.split() for line in ask.render(what, document, limit).splitlines()]


def test_sessions() -> None:
    assert lines("sessions", [SESSION, SESSION | {"synced": True}])[1:] == [
        ["192.0.2.7:40000", "192.0.2.10:80", "10.0.0.20:8080", "tcp", "established", "12", "3456", "3", "s", *origin]
        for origin in (["here"], ["a", "peer"])
    ]
    assert ask.render("sessions", []) == "no sessions"
    assert ask.render("sessions", [SESSION], 1).endswith("\nthe first 1; --limit N shows more")


def test_status() -> None:
    shown = lines("status", STATUS)
    assert shown[0] == ["l4-1", "on", "eth0,", "eth1:", "ready"]
    assert ["l4-2", "synced", "0.4", "s", "ago", "7", "0.2", "ms"] in shown
    assert ["10.0.0.21:8080/tcp", "DOWN", "Connection", "refused"] in shown


def test_a_status_with_trouble() -> None:
    sync = {"complete": False, "overflowed": True, "peers": []}
    text = ask.render("status", STATUS | {"ready": False, "sync": sync, "problems": ["it hurts"], "health": []})
    for part in ("NOT READY", "not complete yet; records were dropped here", "problem   it hurts", "no peers heard"):
        assert part in text
    assert text.endswith("no servers")


def test_counters() -> None:
    assert lines("counters", COUNTERS)[1] == ["web", "1", "2", "3", "4", "5", "6"]
    text = ask.render("counters", COUNTERS)
    assert "tx_session  9" in text
    assert "drop_ttl" not in text
    assert ["web", "10.0.1.1:80", "1", "2", "3", "4", "5", "7"] in lines("counters", COUNTERS)
    assert ["web", "10.0.1.2:80", "9", "8", "7", "6", "4", "-"] in lines("counters", COUNTERS)
    assert "CONNECTIONS" not in ask.render("counters", COUNTERS | {"servers": {}})
    assert "NOT LET IN" not in text
    assert "AT MOST" not in text
    limited = {
        "denied": 0,
        "over_connections": 8,
        "connections": 3,
        "limit_connections": 5,
        "limit_bandwidth_in_mbit_s": 9,
    }
    shown = lines("counters", COUNTERS | {"listeners": {"web": COUNTERS["listeners"]["web"] | limited}})
    assert ["web", "over_connections", "8"] in shown
    assert ["web", "connections", "5", "3"] in shown
    assert ["web", "bandwidth_in_mbit_s", "9"] in shown
    assert text.endswith("sync: all counters are zero")
    assert ask.render("counters", COUNTERS | {"listeners": {}}).startswith("no listeners")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """The state directory of a node whose admin socket answers from a thread of its own."""
    asked: list[dict[str, object]] = []

    async def serve() -> None:
        handlers = {"status": lambda _: STATUS, "counters": lambda _: COUNTERS, "sessions": sessions, "kill": kill}
        async with await admin.serve(tmp_path / "admin.sock", handlers):
            started.set_result(asyncio.current_task())
            await asyncio.Event().wait()

    def kill(arguments: dict[str, object]) -> object:
        asked.append(arguments | {"limit": 0})
        return {"killed": 2 if arguments["state"] == "fin-wait" else 0}

    def sessions(arguments: dict[str, object]) -> object:
        asked.append(arguments)
        return [SESSION | {"client": f"{arguments['client']}:1"}]

    started: concurrent.futures.Future[Any] = concurrent.futures.Future()
    loop = asyncio.new_event_loop()

    def live() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=live)
    thread.start()
    task = started.result(10)
    yield tmp_path
    loop.call_soon_threadsafe(task.cancel)
    thread.join(10)
    assert all(set(each) == {"client", "vip", "real", "state", "limit"} for each in asked)


def test_a_node_is_asked(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "status", "--state", str(state)]) == 0
    assert "l4-1 on eth0, eth1: ready" in capsys.readouterr().out
    assert main(["ask", "sessions", "--state", str(state), "--client", "192.0.2.9"]) == 0
    assert "192.0.2.9:1" in capsys.readouterr().out
    assert main(["ask", "kill", "--state", str(state), "--real", "10.0.0.20:8080", "--in", "fin-wait"]) == 0
    assert capsys.readouterr().out == "2 sessions killed\n"
    assert main(["ask", "counters", "--state", str(state), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == COUNTERS


def test_output_that_nobody_reads(state: Path) -> None:
    command = f"{sys.executable} -m l4fast ask counters --state {state} --json | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr == ""


def test_output_that_does_not_fit(state: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "l4fast", "ask", "status", "--state", str(state)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (1, "paifang-l4: cannot write the answer: No space left on device\n")


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["status", "--state", "STATE"], 1, "admin.sock: No such file or directory; is the process running?"),
        (["status"], 2, "the following arguments are required: --state; --help shows the usage"),
        (["sesions", "--state", "STATE"], 2, "invalid choice: 'sesions'"),
        (
            ["sessions", "--state", "STATE", "--client", "ann"],
            2,
            "'ann': give an address or network, ADDRESS:PORT or [ADDRESS]:PORT",
        ),
        (["kill", "--state", "STATE", "--vip", "192.0.2.1:0"], 2, "give a port from 1 to 65535 after the colon"),
        (["kill", "--state", "STATE", "--in", "open"], 2, "invalid choice: 'open'"),
        (["sessions", "--state", "STATE", "--limit", "0"], 2, "'0': give 1 or more"),
    ],
)
def test_mistakes(words: list[str], code: int, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", *(str(tmp_path) if word == "STATE" else word for word in words)]) == code
    shown = capsys.readouterr().err
    assert shown.startswith("paifang-l4: ")
    assert why in shown
    assert shown.count("\n") == 1


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ask.parser(Parser).parse_args(["--help"])
    assert caught.value.code == 0
    assert "paifang l4 ask sessions --state /var/lib/paifang/l4 --client 192.0.2.7" in capsys.readouterr().out


def test_who_announces_the_vips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask.time, "time", lambda: 1100.0)
    vip = {
        "method": "bgp", "stage": "holding", "waits_for": "",
        "addresses": [{"address": "192.0.2.10", "state": "announced", "since": 1040.0, "transitions": 2}],
        "peers": [{"address": "10.0.0.1", "as": 65000, "state": "Established", "since": 1000.4, "bfd": "Up"},
                  {"address": "10.0.0.2", "as": 65000, "state": "Active", "since": 1200.0, "bfd": ""}],
    }  # fmt: skip
    shown = lines("status", STATUS | {"vip": vip})
    assert ["announced", "by", "bgp:", "holding"] in shown
    assert ["192.0.2.10", "announced", "60", "s", "2"] in shown
    assert ["10.0.0.1", "65000", "Established", "100", "s", "Up"] in shown
    assert ["10.0.0.2", "65000", "Active", "0", "s", "-"] in shown
    waiting = vip | {"method": "vrrp", "stage": "waiting", "waits_for": "the peers' sessions", "addresses": []}
    assert "announced by vrrp: waiting, waits for the peers' sessions" in ask.render(
        "status", STATUS | {"vip": waiting}
    )
    assert "announced" not in ask.render("status", STATUS)
