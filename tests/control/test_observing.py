"""What the console is shown, with real processes and real traffic: `paifang up` before `python3 -m http.server`."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.ports import free_port
from tests.control.test_up import Running

pytestmark = pytest.mark.timeout(120)
EVERY_S = 0.04


def asker(running: Running) -> Callable[[str], Any]:
    """Asks the API of a running `paifang up`."""
    found = re.search(r"API (http://[^,]+),", running.text)
    assert found, running.text
    api, token = found[1], (running.state / "control" / "token").read_text().strip()

    def ask(path: str) -> Any:
        request = urllib.request.Request(api + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.loads(response.read())

    return ask


def test_what_is_shown_is_what_was_sent(tmp_path: Path, backend: int) -> None:
    port = free_port()
    (tmp_path / "site.toml").write_text(
        f'[[listeners]]\nname = "web"\nprotocol = "http"\nport = {port}\nservers = ["127.0.0.1:{backend}"]\n'
    )
    running = Running(tmp_path / "run", tmp_path / "site.toml")
    try:
        running.wait_for("Ctrl-C ends it")
        ask, times = asker(running), [time.monotonic()]
        while times[-1] < times[0] + 7:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as response:
                length = len(response.read())
            times.append(time.monotonic())
            time.sleep(max(0.0, times[0] + len(times) * EVERY_S - time.monotonic()))
        found, _ = ask("/v1/topology"), ask("/v1/talkers?tier=l7")
        sent_per_s = sum(each > times[-1] - 5 for each in times) / 5
        rates = found["listeners"][0]["rates"]
        assert sent_per_s / 2 < rates["requests_per_s"] < sent_per_s * 2
        assert rates["connections_per_s"] == pytest.approx(rates["requests_per_s"], rel=0.2), "one on each"
        assert length * rates["requests_per_s"] < rates["bytes_out_per_s"] < (length + 500) * rates["requests_per_s"]
        assert rates["errors_per_s"] == 0
        assert rates["packets_in_per_s"] is None
        assert found["clients"]["requests_per_s"] == rates["requests_per_s"]
        server = found["groups"][0]["servers"][0]
        assert (server["port"], server["state"]) == (backend, "up")
        assert server["rates"]["requests_per_s"] == pytest.approx(rates["requests_per_s"], rel=0.1)
        assert found["nodes"][0]["software"]
        clients = {"ready": False}
        while not clients["ready"] or not clients["talkers"]:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20).close()
            clients = ask("/v1/talkers?tier=l7")
        assert (clients["talkers"][0]["client"], clients["silent"]) == ("127.0.0.1", {})
        assert clients["talkers"][0]["requests_per_s"] > 0
        told = running.paifang("events", "--json", "--kind", "version", "--kind", "control")
        events = [json.loads(line) for line in told.stdout.splitlines()]
        assert [each["kind"] for each in events] == ["control", "version"]
        assert "version 1 by " in running.paifang("events", "--kind", "version").stdout
    finally:
        running.end()
