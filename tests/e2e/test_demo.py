"""`make demo` as a test: it runs to its end, says so, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from deploy.lab import namespaces, state

NAME = f"pftdemo{os.getpid()}"


@pytest.mark.root
def test_the_demonstration_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo", "--json", "--name", NAME], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert facts["ok"]
    assert facts["failures"] == []
    for name in ("tcp_nat", "tcp_dr", "udp_nat", "udp_dr", "http", "https"):
        assert facts[f"{name}_v6"]["server"] in ("be-1", "be-2", "be-3")
        assert facts[f"{name}_v6"]["client"].startswith("[fd81:0:0:1::2]:")
        assert facts[name]["l4"] in ("l4-1", "l4-2")
        assert facts[name]["server"] in ("be-1", "be-2", "be-3")
    killed = facts["l4_killed"]
    assert killed["correct"]
    assert 0 < killed["at_bytes"] < killed["size_bytes"]
    assert {killed["node"], killed["heir"]} == {"l4-1", "l4-2"}
    assert facts["server_killed"]["failed_after"] == 0
    assert facts["certificate"]["failed"] == 0
    assert facts["certificate"]["old"] != facts["certificate"]["new"]
    assert namespaces.existing(f"{NAME}-") == []
    assert not state.directory(NAME).exists()
