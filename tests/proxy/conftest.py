"""What tests of whole L7 nodes need on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CERTS = [sys.executable, "-m", "certs"]


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """The identity of the node l7-1."""
    subprocess.run([*CERTS, "init", str(tmp_path / "ca")], check=True, capture_output=True)
    out = tmp_path / "id"
    issue = [*CERTS, "issue", str(tmp_path / "ca"), "--role", "l7", "--name", "l7-1", "--out", str(out)]
    subprocess.run(issue, check=True, capture_output=True)
    return out
