"""What the page on troubleshooting quotes is what the programs say."""

from __future__ import annotations

import re
import subprocess

import pytest

from l4fast.sources import reasons
from proxy.errors import Code
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
PACKAGES = ("certs", "control", "core", "keyserver", "l4fast", "proxy")
# Cells of tables in code: `a message`, `another with … in it`.
QUOTED = sorted({code for row in re.findall(r"^\| (`.*?) \|", PAGE, re.M) for code in re.findall(r"`([^`]+)`", row)})


def source() -> str:
    argv = ["git", "ls-files", "-z", *PACKAGES]
    names = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [ROOT / name for name in names if name.endswith((".py", ".h"))]
    return "".join(file.read_text() for file in files if file.exists())


SOURCE = source()


@pytest.mark.parametrize("text", [text for text in QUOTED if text not in reasons()])
def test_quoted_words_are_in_the_source(text: str) -> None:
    parts = [part.strip() for part in text.split("…")]
    assert [part for part in parts if part and part not in SOURCE] == []


def test_counters_and_codes_are_there() -> None:
    codes = set(re.findall(r"^\| (?:50\d|404|408) (.*?) \|", PAGE, re.M))
    named = {code for cell in codes for code in re.findall(r"`(\w+)`", cell)}
    assert len(named) > 12
    assert named <= {code.value[0] for code in Code}
    counted = set(re.findall(r"`((?:drop|tx|pass)_\w+)`", PAGE))
    assert len(counted) > 9
    assert counted <= set(reasons())


def test_each_code_of_5xx_that_servers_cause_has_its_line() -> None:
    for code in ("connect_failed", "connect_timeout", "no_healthy_server", "upstream_timeout", "upstream_closed"):
        assert f"`{code}`" in PAGE
